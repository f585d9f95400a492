//! `/v1/agents/:id/exec`: a caller's program, run in the agent's sandbox while the caller waits.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use theazo_domain::agent::{self, ExecOutcome, Status};
use theazo_domain::id::{AgentId, ExecId};
use theazo_domain::{Command, Refusal};
use tokio::time::Instant;
use tracing::Instrument;
use utoipa::ToSchema;
use utoipa::openapi::schema::{Object, ObjectBuilder, Type};

use super::agents::missing;
use crate::http::Edge;
use crate::http::auth::{Caller, Writer};
use crate::http::body::{Input, Signed, Submitted};
use crate::http::error::{Error, Field};
use crate::http::idempotency::{decide, failed, judged, respond, success};
use crate::http::query::Id;
use crate::log::{Answer, Answered, Answering, Content, Submission};
use crate::providers::compute::{self, End, Finished, Language};
use crate::read::agent::Agent;
use crate::runtime::{Asked, Desk, Held, Secrets, after_stop, run_program};
use crate::{config, read};

/// A program to run.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct NewExec {
    /// What the code is written in.
    #[schema(schema_with = languages)]
    lang: Option<String>,
    /// Another name of `lang`.
    #[schema(schema_with = languages)]
    language: Option<String>,
    /// The program.
    code: String,
}

impl Input for NewExec {
    fn check(value: &Value, fields: &mut Vec<Field>) {
        if value.is_object() && value.get("lang").is_none() && value.get("language").is_none() {
            fields.push(Field::new("lang", "required", "is required"));
        }
    }
}

/// How a program ended.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ExecResult {
    stdout: String,
    stderr: String,
    /// Of a program that was ended by a signal: 128 and the signal's number.
    exit_code: i32,
    duration_ms: u64,
    /// The signal that ended it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = i32, required = false)]
    signal: Option<i32>,
    /// That an output was longer than 1 MiB and is cut.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    #[schema(required = false)]
    truncated: bool,
}

/// What is kept for an idempotency key while the program runs: which run it is.
#[derive(Serialize, Deserialize)]
struct Marker {
    exec: String,
}

/// Runs a program in the agent's sandbox and answers when it has ended, within 120 seconds.
#[utoipa::path(post, operation_id = "exec", path = "/v1/agents/{id}/exec", tag = "agents",
    params(("id" = String, Path, description = "The agent")), request_body = NewExec,
    responses((status = 200, body = ExecResult), (status = 402, body = Object), (status = 502, body = Object),
        (status = 504, body = Object)))]
pub(crate) async fn exec(
    State(edge): State<Edge>,
    writer: Writer,
    Id(agent_id): Id<AgentId>,
    Submitted { body, request }: Submitted<NewExec>,
) -> Result<Response, Error> {
    let named = body.lang.or(body.language).and_then(|name| Language::named(&name));
    let language = named.ok_or_else(|| Error::field("lang", "required", "is required"))?;
    let until = Instant::now() + config::EXEC_LIMIT;
    let request = Arc::new(request);
    loop {
        let agent = ready(&edge, &writer, agent_id, until).await?;
        let run = Run {
            edge: edge.clone(),
            caller: Caller::clone(&writer),
            agent_id,
            exec_id: ExecId::from_ulid(edge.new_ulid()),
            language,
            code: body.code.clone(),
        };
        // From before its start is in the log it goes on to its end also when the caller goes away: else a program could be
        // recorded that is never run.
        let ended = tokio::spawn(run.begin(agent, Arc::clone(&request)).in_current_span()).await;
        let ended = ended.map_err(|_| Error::internal("a program's run ended without an answer"))?;
        if let Some(response) = ended? {
            return Ok(response);
        }
    }
}

/// What is kept of the start of a run.
fn started(caller: &Caller, exec_id: ExecId) -> Answering {
    let request_id = caller.request_id;
    Box::new(move |_, verdict| {
        let marker = Marker { exec: exec_id.to_string() };
        Box::pin(async move {
            Ok(judged(verdict, request_id).unwrap_or_else(|| success(StatusCode::OK, &marker)))
        })
    })
}

/// The agent; where its sandbox is being made, or woken after a pause, once that is done.
async fn ready(edge: &Edge, caller: &Caller, id: AgentId, until: Instant) -> Result<Agent, Error> {
    let mut reader = edge.app.log.follow(caller.tenant, None).await?;
    let waiting = async {
        loop {
            let scope = edge.app.log.scope(caller.tenant.id);
            let agent = read::agent::get(scope, id).await?.ok_or_else(|| missing(id))?;
            let waits = match agent.status {
                Status::Provisioning => true,
                Status::Idle | Status::Running => read::agent::is_waking(scope, id).await?,
                _ => false,
            };
            if !waits {
                return Ok(agent);
            }
            reader.next().await?;
        }
    };
    match tokio::time::timeout_at(until, waiting).await {
        Ok(ready) => ready,
        Err(_) => Err(Error::Timeout("The agent was not ready in time.".to_owned())),
    }
}

/// The answer to a program that was run under the same idempotency key before.
async fn recorded(edge: &Edge, caller: &Caller, kept: &Answer) -> Result<Response, Error> {
    let marker: Marker = serde_json::from_slice(&kept.body).map_err(Error::internal)?;
    let id: ExecId = marker.exec.parse().map_err(|_| Error::internal("a kept run has another id"))?;
    let exec = read::agent::exec(edge.app.log.scope(caller.tenant.id), id).await?;
    let exec = exec.ok_or_else(|| Error::internal("a kept run is not listed"))?;
    match (exec.status.as_str(), exec.result) {
        ("finished", Some(result)) => {
            let answer = Answer { status: 200, body: result.into_bytes() };
            Ok(respond(Answered { answer, replayed: true }))
        }
        ("running", _) => {
            Err(Error::Busy("The program of this Idempotency-Key is still running.".to_owned()))
        }
        ("timed_out", _) => Err(too_long()),
        (status, _) => {
            let told = format!("The program of this Idempotency-Key ended as {status}.");
            let answer = failed(&Error::Conflict(told), caller.request_id);
            Ok(respond(Answered { answer, replayed: true }))
        }
    }
}

/// A program under way.
struct Run {
    edge: Edge,
    caller: Caller,
    agent_id: AgentId,
    exec_id: ExecId,
    language: Language,
    code: String,
}

impl Run {
    /// Runs it, or gives what became of it before. Nothing where somebody has had the agent suspended since it was looked
    /// at.
    async fn begin(self, agent: Agent, request: Arc<Signed>) -> Result<Option<Response>, Error> {
        let (edge, caller) = (&self.edge, &self.caller);
        let secrets = Secrets::of(Desk { app: &edge.app, tenant: caller.tenant }, &agent).await;
        let secrets = secrets.map_err(failure)?;
        let (content, code) = edge.content(secrets.mask(&self.code));
        let language = self.language.as_str().to_owned();
        let command = agent::Command::StartExec { exec_id: self.exec_id, language, code };
        let submission = Submission {
            command: Command::Agent(self.agent_id, command),
            provenance: caller.provenance(),
            contents: vec![content],
            sealed: vec![],
        };
        let answering = started(caller, self.exec_id);
        let answered = decide(edge, caller, &request, submission, answering).await?;
        match (answered.answer.status, answered.replayed) {
            (503, _) => Ok(None),
            (200, true) => recorded(edge, caller, &answered.answer).await.map(Some),
            (200, false) => self.finish(secrets).await.map(Some),
            _ => Ok(Some(respond(answered))),
        }
    }

    async fn finish(self, secrets: Secrets) -> Result<Response, Error> {
        let desk = Desk { app: &self.edge.app, tenant: self.caller.tenant };
        // Where it cannot be held it is not run, and its record is closed soon.
        let Some(held) = Held::take(desk, self.exec_id).await? else { return Ok(self.closed()) };
        let answer = self.run(desk, secrets).await;
        held.let_go().await;
        answer
    }

    async fn run(&self, desk: Desk<'_>, mut secrets: Secrets) -> Result<Response, Error> {
        let (language, code) = (self.language, self.code.clone());
        let asked = Asked { language, code, timeout: config::EXEC_LIMIT };
        let running = async {
            // Read now that the start is in the log: from there on its sandbox stays where it is.
            let agent = read::agent::get(desk.scope(), self.agent_id).await?.ok_or(compute::Error::Gone)?;
            secrets.renew(desk).await?;
            run_program(desk, &agent, &mut secrets, asked).await
        };
        let limit = config::EXEC_LIMIT + config::COMPUTE_RUN_GRACE;
        let ended = tokio::select! {
            ended = tokio::time::timeout(limit, running) => Some(ended),
            () = after_stop(desk.app, config::EXEC_AFTER_STOP) => None,
        };
        let ended = ended.map(|ended| {
            ended.unwrap_or_else(|_| Err(compute::Error::Unavailable("it did not answer".to_owned())))
        });
        let Some(ended) = ended else {
            self.tell(desk, ExecOutcome::Interrupted, None).await?;
            let message = "The server was stopped while the program ran; it is not known what came of it.";
            return Err(Error::Unavailable(message.to_owned()));
        };
        let (outcome, answer) = match ended {
            Ok(finished) if finished.end == End::TimedOut => (ExecOutcome::TimedOut, Err(too_long())),
            Ok(finished) => (ExecOutcome::Finished, Ok(shown(finished))),
            Err(error) if error.is_ours() => (ExecOutcome::Interrupted, Err(failure(error))),
            Err(error) => (ExecOutcome::ProviderError, Err(failure(error))),
        };
        let recorded = self.tell(desk, outcome, answer.as_ref().ok()).await?;
        let result = answer?;
        if !recorded {
            return Ok(self.closed());
        }
        let answer = success(StatusCode::OK, &result);
        Ok(respond(Answered { answer, replayed: false }))
    }

    /// The record of the program was closed before it had ended. For an idempotency key it is the record that is kept.
    fn closed(&self) -> Response {
        let why = "its agent has ended, or this server was silent for too long";
        let error = Error::Conflict(format!("The program was given up while it ran: {why}."));
        respond(Answered { answer: failed(&error, self.caller.request_id), replayed: false })
    }

    /// Records how it ended. False where its record is closed already.
    async fn tell(
        &self,
        desk: Desk<'_>,
        outcome: ExecOutcome,
        result: Option<&ExecResult>,
    ) -> Result<bool, Error> {
        let now = self.edge.app.clock.now();
        let duration_ms = result.map_or(0, |result| result.duration_ms);
        let body = result.map(|result| serde_json::to_string(result).expect("a result is plain data"));
        let (content, result) = body.map(|body| Content::new(now, body)).unzip();
        let command = agent::Command::FinishExec { exec_id: self.exec_id, outcome, result, duration_ms };
        match desk.tell(self.agent_id, command, content.into_iter().collect()).await? {
            Ok(_) => Ok(true),
            Err(Refusal::Conflict(_)) => Ok(false),
            Err(refusal) => Err(Error::internal(refusal)),
        }
    }
}

fn failure(error: compute::Error) -> Error {
    match error {
        compute::Error::Internal => Error::Internal,
        compute::Error::Database => Error::Unavailable("The database is not available.".to_owned()),
        error => Error::Upstream(format!("{error}.")),
    }
}

fn too_long() -> Error {
    let seconds = config::EXEC_LIMIT.as_secs();
    Error::Timeout(format!("The program ran for longer than {seconds} seconds and was ended."))
}

fn shown(finished: Finished) -> ExecResult {
    let (exit_code, signal) = match finished.end {
        End::Code(code) => (code, None),
        End::Signal(signal) => (128 + signal, Some(signal)),
        End::TimedOut => (-1, None),
    };
    ExecResult {
        stdout: finished.stdout,
        stderr: finished.stderr,
        exit_code,
        duration_ms: whole_ms(finished.duration),
        signal,
        truncated: finished.truncated,
    }
}

fn whole_ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn languages() -> Object {
    let words = Language::ALL.map(Language::as_str);
    ObjectBuilder::new().schema_type(Type::String).enum_values(Some(words)).build()
}
