//! `/v1/agents/:id/stream`: what an agent does, as it does it.

use std::collections::HashMap;
use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::Value;
use theazo_domain::Event;
use theazo_domain::agent::Status;
use theazo_domain::content::ContentRef;
use theazo_domain::id::AgentId;
use tokio::sync::OnceCell;

use super::agents::missing;
use super::events::opened;
use super::money::{Amount, usd};
use crate::database;
use crate::http::Edge;
use crate::http::auth::Reader;
use crate::http::error::Error;
use crate::http::query::{Id, Query};
use crate::http::sse::{self, Frame, LastSeen, Made, Show};
use crate::log::{Stored, Tenant, read as log_read};
use crate::{config, read};

/// Streams what an agent does (Server-Sent Events): `thinking`, `tool_call`, `tool_result`, `output` and `error`.
/// `Last-Event-ID`, or else `after`, replays from there first. It ends when the agent has ended.
#[utoipa::path(get, operation_id = "streamAgent", path = "/v1/agents/{id}/stream", tag = "agents",
    params(
        ("id" = String, Path, description = "The agent"),
        ("after" = Option<i64>, Query, description = "After this position; 0 for all. Default: from now on",
            minimum = 0),
        ("Last-Event-ID" = Option<i64>, Header, description = "The same, and goes before it", minimum = 0),
    ),
    responses((status = 200, content_type = "text/event-stream", body = Frame), (status = 204)))]
pub(crate) async fn stream(
    State(edge): State<Edge>,
    reader: Reader,
    Id(id): Id<AgentId>,
    LastSeen(last): LastSeen,
    query: Query,
) -> Result<Response, Error> {
    query.finish()?;
    let scope = edge.app.log.scope(reader.tenant.id);
    let agent = read::agent::get(scope, id).await?.ok_or_else(|| missing(id))?;
    if matches!(agent.status, Status::Terminated | Status::Failed) {
        let end = log_read::ending_of_agent(scope, &id.to_string()).await?;
        let shows_more = match last {
            Some(last) => frames_follow(&edge, reader.tenant, id, (last, end)).await?,
            None => false,
        };
        if !shows_more {
            return Ok(StatusCode::NO_CONTENT.into_response());
        }
    }
    let show = Show::Agent(id.to_string());
    sse::follow(edge, reader.into_caller(), last, show).await
}

/// Whether an agent's stream has a frame between two positions. The end of an agent has none itself: whoever asks again
/// names the last frame that there was.
async fn frames_follow(
    edge: &Edge,
    tenant: Tenant,
    id: AgentId,
    (after, mut below): (i64, i64),
) -> Result<bool, Error> {
    let subject = id.to_string();
    loop {
        let scope = edge.app.log.scope(tenant.id);
        let between = (after, below);
        let page = log_read::newest_of(scope, (&subject, &KINDS), between, config::HISTORY_PAGE).await?;
        for stored in &page {
            if edge.frames.of(edge, tenant, stored).await?.is_some() {
                return Ok(true);
            }
        }
        match page.last() {
            Some(oldest) => below = oldest.position,
            None => return Ok(false),
        }
    }
}

/// A frame that is being made, or was.
type Making = Arc<OnceCell<Option<Bytes>>>;

/// Frames of agents' streams, made once for all that follow an agent.
#[derive(Default)]
pub(crate) struct Frames(Made<Making>);

impl Frames {
    /// The frame of an event; none where it is no part of an agent's stream.
    pub(crate) async fn of(
        &self,
        edge: &Edge,
        tenant: Tenant,
        stored: &Stored,
    ) -> Result<Option<Bytes>, database::Error> {
        if !KINDS.contains(&stored.kind.as_str()) {
            return Ok(None);
        }
        let cell = self.0.of(tenant.id, stored, Arc::default);
        cell.get_or_try_init(|| make(edge, tenant, stored)).await.cloned()
    }
}

/// The types of the events that frames are made of.
const KINDS: [&str; 6] = [
    "model.call_settled",
    "tool.started",
    "tool.finished",
    "task.completed",
    "task.failed",
    "agent.limit_reached",
];

/// Whether an event is the end of an agent's stream.
pub(crate) fn ends(stored: &Stored) -> bool {
    matches!(stored.kind.as_str(), "agent.terminated" | "agent.failed")
}

async fn make(edge: &Edge, tenant: Tenant, stored: &Stored) -> Result<Option<Bytes>, database::Error> {
    let event = edge.app.log.decode(stored).map_err(|error| database::Error::Row(error.to_string()))?;
    let reference = match &event {
        Event::CallSettled(settled) if settled.tool_calls > 0 => Some(&settled.reply),
        Event::ToolStarted(started) => Some(&started.input),
        Event::ToolFinished(finished) => finished.result.as_ref(),
        Event::TaskCompleted(ended) => ended.output.as_ref(),
        _ => None,
    };
    let ids: Vec<String> = reference.iter().map(|reference| reference.content_id.to_string()).collect();
    let bodies = if ids.is_empty() {
        HashMap::new()
    } else {
        read::agent::bodies(edge.app.log.scope(tenant.id), &ids).await?
    };
    Ok(frame(&event, reference, &bodies).map(|frame| frame.bytes(stored.position)))
}

/// What a frame tells, its members in the order in which the reference shows them.
#[derive(Serialize)]
#[serde(untagged, rename_all_fields = "camelCase")]
enum Told<'a> {
    Thinking {
        text: String,
    },
    ToolCall {
        tool: &'a str,
        /// Not as the model has written it, which may be several lines.
        input: Option<Value>,
    },
    ToolResult {
        tool: &'a str,
        result: &'a str,
        is_error: bool,
        duration_ms: u64,
    },
    Output {
        text: String,
        cost: Amount,
    },
    Error {
        code: &'a str,
        message: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        cost: Option<Amount>,
    },
}

fn frame(event: &Event, reference: Option<&ContentRef>, bodies: &HashMap<String, String>) -> Option<Frame> {
    let body = reference.and_then(|reference| bodies.get(&reference.content_id.to_string()));
    let text = || {
        let reply: Option<Value> = body.and_then(|body| serde_json::from_str(body).ok());
        reply.and_then(|reply| reply["text"].as_str().map(str::to_owned)).unwrap_or_default()
    };
    let (name, data) = match event {
        Event::CallSettled(settled) if settled.tool_calls > 0 => {
            let text = text();
            if text.is_empty() {
                return None;
            }
            ("thinking", Told::Thinking { text })
        }
        Event::ToolStarted(started) => {
            let input = body.and_then(|body| serde_json::to_value(opened(body)).ok());
            ("tool_call", Told::ToolCall { tool: &started.tool, input })
        }
        Event::ToolFinished(finished) => {
            let result = body.map_or("[interrupted]", String::as_str);
            let (tool, is_error, duration_ms) = (&finished.tool, finished.is_error, finished.duration_ms);
            ("tool_result", Told::ToolResult { tool, result, is_error, duration_ms })
        }
        Event::TaskCompleted(ended) => ("output", Told::Output { text: text(), cost: usd(ended.cost) }),
        Event::TaskFailed(ended) => {
            let failure = ended.failure.as_ref()?;
            let (code, message, cost) = (&failure.code, failure.message.clone(), Some(usd(ended.cost)));
            ("error", Told::Error { code, message, cost })
        }
        Event::AgentLimitReached(reached) => {
            let limit = reached.excess.limit.as_str();
            let message = format!("The next piece of work does not fit {limit}.");
            ("error", Told::Error { code: "session_limit_exceeded", message, cost: None })
        }
        _ => return None,
    };
    let data = serde_json::to_string(&data).expect("a frame is plain data");
    Some(Frame { event: name.to_owned(), data })
}
