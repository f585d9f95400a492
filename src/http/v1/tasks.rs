//! `/v1/agents/:id/run` and `/v1/tasks`: what agents are asked to do.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use theazo_domain::agent::ModelCost;
use theazo_domain::id::{AgentId, SessionId, TaskId};
use theazo_domain::organization::Mode;
use theazo_domain::time::Timestamp;
use theazo_domain::{Command, Refusal, Subject, agent};
use utoipa::ToSchema;
use utoipa::openapi::schema::{Object, ObjectBuilder, Type};

use super::agents::{Failure, missing};
use super::money::{Amount, usd};
use crate::http::Edge;
use crate::http::auth::{Reader, Writer};
use crate::http::body::{Input, Submitted};
use crate::http::error::{Error, Field};
use crate::http::idempotency::{act, judged, success};
use crate::http::page::{Listing, Page};
use crate::http::query::{Id, Query};
use crate::log::{Answering, Submission};
use crate::providers::model::Vendor;
use crate::{config, read};

/// What an agent was asked to do.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Task {
    #[schema(value_type = String, examples("task_01ARZ3NDEKTSV4RRFFQ69G50AV"))]
    id: TaskId,
    #[schema(value_type = String)]
    agent_id: AgentId,
    #[schema(value_type = String)]
    session_id: SessionId,
    #[schema(schema_with = status)]
    status: String,
    /// The prompt; left out once it was erased.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, required = false)]
    task: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, required = false)]
    output: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Failure, required = false)]
    error: Option<Failure>,
    /// So far.
    cost: Amount,
    tool_calls: i64,
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, format = DateTime, required = false)]
    started_at: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, format = DateTime, required = false)]
    completed_at: Option<Timestamp>,
}

/// A task to run.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct NewTask {
    /// The prompt, at most 512 KiB.
    #[schema(min_length = 1)]
    task: String,
}

impl Input for NewTask {
    fn check(value: &Value, fields: &mut Vec<Field>) {
        let size = value.get("task").and_then(Value::as_str).map_or(0, str::len);
        if size > config::TASK_BYTES {
            let message = format!("must not be larger than {} bytes", config::TASK_BYTES);
            fields.push(Field::new("task", "maxBytes", message));
        }
    }
}

/// A task that was taken.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Started {
    #[schema(value_type = String)]
    task_id: TaskId,
    #[schema(value_type = String)]
    agent_id: AgentId,
}

/// Runs a task, in the background: poll the agent or the task, or follow the agent's stream.
#[utoipa::path(post, operation_id = "runTask", path = "/v1/agents/{id}/run", tag = "agents",
    params(("id" = String, Path, description = "The agent")), request_body = NewTask,
    responses((status = 202, body = Started), (status = 402, body = Object)))]
pub(crate) async fn run(
    State(edge): State<Edge>,
    writer: Writer,
    Id(agent_id): Id<AgentId>,
    Submitted { body, request }: Submitted<NewTask>,
) -> Result<Response, Error> {
    let task_id = TaskId::from_ulid(edge.new_ulid());
    let (content, task) = edge.content(body.task);
    let model = model_cost(&edge, &writer, agent_id).await?;
    let command = Command::Agent(agent_id, agent::Command::Run { task_id, task, model });
    let (provenance, contents) = (writer.provenance(), vec![content]);
    let submission = Submission { command, provenance, contents, sealed: vec![] };
    let request_id = writer.request_id;
    let answering: Answering = Box::new(move |_, verdict| {
        Box::pin(async move {
            let started = || success(StatusCode::ACCEPTED, &Started { task_id, agent_id });
            Ok(judged(verdict, request_id).unwrap_or_else(started))
        })
    });
    act(&edge, &writer, &request, submission, answering).await
}

/// What calls to the agent's model cost: nothing with a key of the organization's own. An agent that does not exist is
/// for the log to refuse.
async fn model_cost(edge: &Edge, writer: &Writer, agent_id: AgentId) -> Result<ModelCost, Error> {
    let scope = edge.app.log.scope(writer.tenant.id);
    let Some(agent) = read::agent::get(scope, agent_id).await? else { return Ok(ModelCost::Priced) };
    let named = agent.config.model.as_ref().map(|model| model.id.as_str());
    let model = named.unwrap_or_else(|| edge.app.models.default_model());
    let key = Vendor::of(model).key_name();
    let is_own =
        writer.tenant.mode == Mode::Live && read::secret::is_visible(scope, agent.session_id, key).await?;
    let card = edge.app.rates(writer.tenant.id).await?;
    Ok(if is_own { card.free() } else { card.model(model) }.cost())
}

/// Lists the tasks of an agent, newest first.
#[utoipa::path(get, operation_id = "listTasks", path = "/v1/agents/{id}/tasks", tag = "agents",
    params(
        ("id" = String, Path, description = "The agent"),
        ("limit" = Option<i64>, Query, description = "Default: 25", minimum = 1, maximum = 100),
        ("cursor" = Option<String>, Query, description = "`nextCursor` of the page before"),
    ),
    responses((status = 200, body = Page<Task>)))]
pub(crate) async fn list(
    State(edge): State<Edge>,
    reader: Reader,
    Id(agent_id): Id<AgentId>,
    mut query: Query,
) -> Result<Json<Page<Task>>, Error> {
    let tenant = reader.tenant.id;
    let route = format!("/v1/agents/{agent_id}/tasks");
    let listing = Listing::read(&edge.app.keys.cursors, tenant, &route, &mut query);
    query.finish()?;
    let scope = edge.app.log.scope(tenant);
    read::agent::get(scope, agent_id).await?.ok_or_else(|| missing(agent_id))?;
    let rows = read::agent::tasks(scope, agent_id, listing.below, listing.rows()).await?;
    Ok(Json(listing.page(rows, |row| row.position, Task::from)))
}

/// A task.
#[utoipa::path(get, operation_id = "getTask", path = "/v1/tasks/{id}", tag = "agents",
    params(("id" = String, Path, description = "The task")),
    responses((status = 200, body = Task)))]
pub(crate) async fn get(
    State(edge): State<Edge>,
    reader: Reader,
    Id(id): Id<TaskId>,
) -> Result<Json<Task>, Error> {
    let found = read::agent::task(edge.app.log.scope(reader.tenant.id), id).await?;
    found.map(|row| Json(row.into())).ok_or_else(|| Error::from(&Refusal::NotFound(Subject::Task(id))))
}

impl From<read::agent::Task> for Task {
    fn from(row: read::agent::Task) -> Self {
        Self {
            id: row.id,
            agent_id: row.agent_id,
            session_id: row.session_id,
            status: row.status,
            task: row.task,
            output: row.output,
            error: row.error.map(|(code, message)| Failure { code, message }),
            cost: usd(row.cost),
            tool_calls: row.tool_calls,
            created_at: row.created_at,
            started_at: row.started_at,
            completed_at: row.completed_at,
        }
    }
}

fn status() -> Object {
    let words = ["queued", "running", "completed", "failed", "cancelled"];
    ObjectBuilder::new().schema_type(Type::String).enum_values(Some(words)).build()
}
