//! `/v1/agents` and `/v1/sessions/:id/agents`: isolated environments that run tasks.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use theazo_domain::agent::{self, DefinitionVersion, NewAgent, Status};
use theazo_domain::agent_config::{AgentConfig, ComputeConfig, ProviderName};
use theazo_domain::id::{AgentId, DefinitionId, SessionId, TaskId};
use theazo_domain::organization::Mode;
use theazo_domain::time::Timestamp;
use theazo_domain::{Command, Refusal, Subject, session};
use utoipa::ToSchema;
use utoipa::openapi::schema::{Object, ObjectBuilder, Type};

use super::Done;
use super::agent_config::{Compute, Model, Tools, check_instructions};
use super::tasks::Task;
use crate::database::{self, Scope};
use crate::http::Edge;
use crate::http::auth::{Caller, Reader, Writer};
use crate::http::body::{Input, Nothing, Optional, Signed, optional_whole};
use crate::http::error::{Error, Field};
use crate::http::idempotency::{act, judged, success};
use crate::http::page::{Listing, Page};
use crate::http::query::{Id, Query};
use crate::log::{Answer, Answering, Content, Submission};
use crate::{config, read};

/// An isolated environment in a session that runs tasks.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Agent {
    #[schema(value_type = String, examples("agt_01ARZ3NDEKTSV4RRFFQ69G50AV"))]
    id: AgentId,
    #[schema(value_type = String)]
    session_id: SessionId,
    #[schema(schema_with = status)]
    status: Status,
    /// The definition that it was made from.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, required = false)]
    definition_id: Option<DefinitionId>,
    /// Which version of it: it stays so.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = i64, required = false)]
    definition_version: Option<i64>,
    compute: Compute,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Model, required = false)]
    model: Option<Model>,
    browser: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, required = false)]
    instructions: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Tools, required = false)]
    tools: Option<Tools>,
    /// Seconds of running time after which a run fails.
    timeout: i64,
    /// The newest of its tasks.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Task, required = false)]
    task: Option<Task>,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Failure, required = false)]
    error: Option<Failure>,
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
    #[schema(value_type = String, format = DateTime)]
    updated_at: Timestamp,
}

/// Why something failed.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Failure {
    /// For programs.
    pub(crate) code: String,
    /// For people.
    pub(crate) message: String,
}

/// An agent to create. Its own fields override those of the definition.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct NewAgentBody {
    /// The definition that it is made from.
    definition_id: Option<String>,
    /// Which version of it; the latest where none is named.
    #[serde(default, deserialize_with = "optional_whole")]
    #[schema(minimum = 1, maximum = 1_000_000_000)]
    definition_version: Option<i64>,
    compute: Option<Compute>,
    model: Option<Model>,
    /// Attach a headless browser, where the provider has one.
    browser: Option<bool>,
    /// What it is told before every task, at most 256 KiB.
    instructions: Option<String>,
    tools: Option<Tools>,
    /// Seconds of running time after which a run fails. Default: 300.
    #[serde(default, deserialize_with = "optional_whole")]
    #[schema(minimum = 1, maximum = 86_400)]
    timeout: Option<i64>,
}

impl Input for NewAgentBody {
    fn check(value: &Value, fields: &mut Vec<Field>) {
        check_instructions(value, fields);
        let says = |name: &str| value.get(name).is_some_and(|given| !given.is_null());
        if says("definitionVersion") && !says("definitionId") {
            let message = "needs definitionId, whose version it is";
            fields.push(Field::new("definitionVersion", "dependentRequired", message));
        }
    }
}

/// Creates an agent in a session and provisions its sandbox. It takes tasks at once, and starts them when it is ready.
#[utoipa::path(post, operation_id = "createAgent", path = "/v1/sessions/{id}/agents", tag = "agents",
    params(("id" = String, Path, description = "The session")), request_body = Option<NewAgentBody>,
    responses((status = 201, body = Agent), (status = 402, body = Object)))]
pub(crate) async fn create(
    State(edge): State<Edge>,
    writer: Writer,
    Id(session_id): Id<SessionId>,
    Optional { body, request }: Optional<NewAgentBody>,
) -> Result<Response, Error> {
    let agent_id = AgentId::from_ulid(edge.new_ulid());
    let (agent, contents) = set_up(&edge, &writer, agent_id, body).await?;
    let command = Command::Session(session_id, session::Command::AddAgent(Box::new(agent)));
    let submission = Submission { command, provenance: writer.provenance(), contents, sealed: vec![] };
    act(&edge, &writer, &request, submission, showing(&writer, agent_id, StatusCode::CREATED)).await
}

/// What a new agent is made of: its own fields over those of its definition.
async fn set_up(
    edge: &Edge,
    caller: &Caller,
    agent_id: AgentId,
    body: NewAgentBody,
) -> Result<(NewAgent, Vec<Content>), Error> {
    let (definition, base) = definition(edge, caller, &body).await?;
    let (content, instructions) = body.instructions.map(|text| edge.content(text)).unzip();
    let own = AgentConfig {
        instructions,
        tools: body.tools.map(|Tools(tools)| tools),
        model: body.model.map(Into::into),
        compute: body.compute.map(Into::into),
    };
    let config = base.overridden_by(&own);
    let ComputeConfig { provider, timeout } = config.compute.clone().unwrap_or_default();
    let browser = body.browser.unwrap_or(false);
    if browser {
        let whose = provider.map_or("the default provider", ProviderName::as_str);
        return Err(Error::field("browser", "provider", format!("{whose} has no browser")));
    }
    let timeout_s = body.timeout.or(timeout).unwrap_or(config::RUN_DEFAULT_SECONDS);
    let card = edge.app.rates(caller.tenant.id).await?;
    let (compute, storage) = (card.compute_rates(), card.storage_rates());
    let mocked = caller.tenant.mode == Mode::Test;
    let agent =
        NewAgent { agent_id, definition, config, provider, mocked, browser, timeout_s, compute, storage };
    Ok((agent, content.into_iter().collect()))
}

async fn definition(
    edge: &Edge,
    caller: &Caller,
    body: &NewAgentBody,
) -> Result<(Option<DefinitionVersion>, AgentConfig), Error> {
    let Some(id) = &body.definition_id else { return Ok((None, AgentConfig::default())) };
    let unknown = || Error::NotFound(format!("{id} does not exist."));
    let id: DefinitionId = id.parse().map_err(|_| unknown())?;
    let scope = edge.app.log.scope(caller.tenant.id);
    let found = match body.definition_version {
        Some(version) => read::definition::version(scope, id, version).await?,
        None => read::definition::get(scope, id).await?,
    };
    // Whether it is archived is decided on with the rest.
    let found = found.ok_or_else(unknown)?;
    let version = DefinitionVersion { definition_id: id, version: found.version };
    Ok((Some(version), found.config))
}

/// An agent, with the newest of its tasks.
#[utoipa::path(get, operation_id = "getAgent", path = "/v1/agents/{id}", tag = "agents",
    params(("id" = String, Path, description = "The agent")),
    responses((status = 200, body = Agent)))]
pub(crate) async fn get(
    State(edge): State<Edge>,
    reader: Reader,
    Id(id): Id<AgentId>,
) -> Result<Json<Agent>, Error> {
    let found = find(edge.app.log.scope(reader.tenant.id), id).await?;
    found.map(Json).ok_or_else(|| missing(id))
}

/// Lists agents, newest first.
#[utoipa::path(get, operation_id = "listAgents", path = "/v1/agents", tag = "agents",
    params(
        ("sessionId" = Option<String>, Query, description = "Of this session"),
        ("status" = Option<String>, Query, description = "Where they stand"),
        ("limit" = Option<i64>, Query, description = "Default: 25", minimum = 1, maximum = 100),
        ("cursor" = Option<String>, Query, description = "`nextCursor` of the page before"),
    ),
    responses((status = 200, body = Page<Agent>)))]
pub(crate) async fn list(
    State(edge): State<Edge>,
    reader: Reader,
    mut query: Query,
) -> Result<Json<Page<Agent>>, Error> {
    let session_id = query.parsed("sessionId", "an id such as ses_01ARZ3NDEKTSV4RRFFQ69G50AV");
    listed(&edge, &reader, "/v1/agents", session_id, query).await
}

/// Lists the agents of a session, newest first.
#[utoipa::path(get, operation_id = "listAgentsOfSession", path = "/v1/sessions/{id}/agents", tag = "agents",
    params(
        ("id" = String, Path, description = "The session"),
        ("status" = Option<String>, Query, description = "Where they stand"),
        ("limit" = Option<i64>, Query, description = "Default: 25", minimum = 1, maximum = 100),
        ("cursor" = Option<String>, Query, description = "`nextCursor` of the page before"),
    ),
    responses((status = 200, body = Page<Agent>)))]
pub(crate) async fn of_session(
    State(edge): State<Edge>,
    reader: Reader,
    Id(session_id): Id<SessionId>,
    query: Query,
) -> Result<Json<Page<Agent>>, Error> {
    let scope = edge.app.log.scope(reader.tenant.id);
    read::session::get(scope, session_id).await?.ok_or_else(|| super::sessions::missing(session_id))?;
    listed(&edge, &reader, &format!("/v1/sessions/{session_id}/agents"), Some(session_id), query).await
}

async fn listed(
    edge: &Edge,
    reader: &Reader,
    route: &str,
    session_id: Option<SessionId>,
    mut query: Query,
) -> Result<Json<Page<Agent>>, Error> {
    let words = Status::ALL.map(Status::as_str).join(", ");
    let filter = read::agent::Filter { session_id, status: query.word("status", &format!("one of {words}")) };
    let tenant = reader.tenant.id;
    let listing = Listing::read(&edge.app.keys.cursors, tenant, route, &mut query);
    query.finish()?;
    let rows = read::agent::list(edge.app.log.scope(tenant), &filter, listing.below, listing.rows()).await?;
    Ok(Json(listing.page(rows, |row| row.position, |row| Agent::new(row, None))))
}

/// Pauses an agent: the tool call in flight ends first. Pausing one that pauses changes nothing.
#[utoipa::path(post, operation_id = "pauseAgent", path = "/v1/agents/{id}/pause", tag = "agents",
    params(("id" = String, Path, description = "The agent")),
    responses((status = 200, body = Agent)))]
pub(crate) async fn pause(
    State(edge): State<Edge>,
    writer: Writer,
    Id(id): Id<AgentId>,
    Optional { request, .. }: Optional<Nothing>,
) -> Result<Response, Error> {
    ask(&edge, &writer, &request, (id, agent::Command::Pause)).await
}

/// Lets a paused agent go on where it left off.
#[utoipa::path(post, operation_id = "resumeAgent", path = "/v1/agents/{id}/resume", tag = "agents",
    params(("id" = String, Path, description = "The agent")),
    responses((status = 200, body = Agent), (status = 402, body = Object)))]
pub(crate) async fn resume(
    State(edge): State<Edge>,
    writer: Writer,
    Id(id): Id<AgentId>,
    Optional { request, .. }: Optional<Nothing>,
) -> Result<Response, Error> {
    let rates = edge.app.rates(writer.tenant.id).await?.compute_rates();
    ask(&edge, &writer, &request, (id, agent::Command::Resume(rates))).await
}

/// Ends an agent, for good: its sandbox and snapshots are deleted. Terminating a terminated one changes nothing.
#[utoipa::path(post, operation_id = "terminateAgent", path = "/v1/agents/{id}/terminate", tag = "agents",
    params(("id" = String, Path, description = "The agent")),
    responses((status = 200, body = Done)))]
pub(crate) async fn terminate(
    State(edge): State<Edge>,
    writer: Writer,
    Id(id): Id<AgentId>,
    Optional { request, .. }: Optional<Nothing>,
) -> Result<Response, Error> {
    let request_id = writer.request_id;
    let command = Command::Agent(id, agent::Command::Terminate);
    let submission =
        Submission { command, provenance: writer.provenance(), contents: vec![], sealed: vec![] };
    let answering: Answering = Box::new(move |_, verdict| {
        Box::pin(async move {
            Ok(judged(verdict, request_id).unwrap_or_else(|| success(StatusCode::OK, &Done::DONE)))
        })
    });
    act(&edge, &writer, &request, submission, answering).await
}

async fn ask(
    edge: &Edge,
    caller: &Caller,
    request: &Signed,
    (id, command): (AgentId, agent::Command),
) -> Result<Response, Error> {
    let command = Command::Agent(id, command);
    let submission =
        Submission { command, provenance: caller.provenance(), contents: vec![], sealed: vec![] };
    act(edge, caller, request, submission, showing(caller, id, StatusCode::OK)).await
}

/// Answers with the agent as it stands.
fn showing(caller: &Caller, id: AgentId, status: StatusCode) -> Answering {
    let request_id = caller.request_id;
    Box::new(move |scope, verdict| {
        Box::pin(async move {
            match judged(verdict, request_id) {
                Some(no) => Ok(no),
                None => show(scope, id, status).await,
            }
        })
    })
}

async fn show(scope: Scope<'_>, id: AgentId, status: StatusCode) -> Result<Answer, database::Error> {
    let found = find(scope, id).await?;
    let agent =
        found.ok_or_else(|| database::Error::Row(format!("{id} was decided on and is not listed")))?;
    Ok(success(status, &agent))
}

async fn find(scope: Scope<'_>, id: AgentId) -> Result<Option<Agent>, database::Error> {
    let Some(row) = read::agent::get(scope, id).await? else { return Ok(None) };
    let task: Option<TaskId> = row.newest_task;
    let task = match task {
        Some(task) => read::agent::task(scope, task).await?.map(Task::from),
        None => None,
    };
    Ok(Some(Agent::new(row, task)))
}

/// What a caller is told of an agent that this tenant does not have.
pub(crate) fn missing(id: AgentId) -> Error {
    Error::from(&Refusal::NotFound(Subject::Agent(id)))
}

impl Agent {
    fn new(row: read::agent::Agent, task: Option<Task>) -> Self {
        let config = row.config;
        let compute = ComputeConfig { provider: Some(row.provider), timeout: None };
        Self {
            id: row.id,
            session_id: row.session_id,
            status: row.status,
            definition_id: row.definition.map(|definition| definition.definition_id),
            definition_version: row.definition.map(|definition| definition.version),
            compute: compute.into(),
            model: config.model.map(Into::into),
            browser: row.browser,
            instructions: row.instructions,
            tools: config.tools.map(Tools),
            timeout: row.timeout_s,
            task,
            error: row.error.map(|(code, message)| Failure { code, message }),
            created_at: row.created_at,
            updated_at: row.updated_at,
        }
    }
}

fn status() -> Object {
    let words = Status::ALL.map(Status::as_str);
    ObjectBuilder::new().schema_type(Type::String).enum_values(Some(words)).build()
}
