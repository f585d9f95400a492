//! `/v1/agent-definitions`: how agents are set up, described once, in versions.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;
use theazo_domain::agent_config::{AgentConfig, ConfigPatch};
use theazo_domain::content::ContentRef;
use theazo_domain::definition::{self, Details, DetailsPatch, Status};
use theazo_domain::id::DefinitionId;
use theazo_domain::time::Timestamp;
use theazo_domain::{Command, Event, Refusal, Subject};
use utoipa::ToSchema;
use utoipa::openapi::schema::{Object, ObjectBuilder, Type};

use super::Done;
use super::agent_config::{Compute, Model, Tools, check_instructions};
use crate::database::{self, Scope};
use crate::http::Edge;
use crate::http::auth::{Caller, Reader, Writer};
use crate::http::body::{Input, Nothing, Optional, Signed, Submitted, check_metadata, compact, given};
use crate::http::error::{Error, Field};
use crate::http::idempotency::{act, refused, success};
use crate::http::page::{Listing, Page};
use crate::http::query::{Id, Query};
use crate::log::{Accepted, Answer, Answering, Content, Recorded, Submission};
use crate::read;

/// How agents are set up, described once. Each change makes the next version; agents keep theirs.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct AgentDefinition {
    #[schema(value_type = String, examples("adef_01ARZ3NDEKTSV4RRFFQ69G50AV"))]
    id: DefinitionId,
    name: String,
    /// 1, 2, 3 …
    #[schema(minimum = 1)]
    version: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, required = false)]
    instructions: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Tools, required = false)]
    tools: Option<Tools>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Model, required = false)]
    model: Option<Model>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Compute, required = false)]
    compute: Option<Compute>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Object, required = false)]
    metadata: Option<Box<RawValue>>,
    /// Of the definition, in whichever version it is shown: no agents are made from an archived one.
    #[schema(schema_with = status)]
    status: Status,
    /// When the definition was created.
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
    /// When it last changed; of a version that was asked for, when that was made.
    #[schema(value_type = String, format = DateTime)]
    updated_at: Timestamp,
}

/// A definition to create.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct NewAgentDefinition {
    #[schema(min_length = 1, max_length = 256)]
    name: String,
    /// What its agents are told before every task, at most 256 KiB.
    instructions: Option<String>,
    tools: Option<Tools>,
    model: Option<Model>,
    compute: Option<Compute>,
    /// Your own key-value pairs, at most 16 KiB as JSON.
    #[schema(value_type = Option<Object>)]
    metadata: Option<Box<RawValue>>,
}

/// The next version of a definition: what is left out stays, null clears. A `model` or `compute` is replaced whole.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct NextAgentDefinition {
    #[schema(value_type = String, required = false, min_length = 1, max_length = 256)]
    name: Option<String>,
    /// What its agents are told before every task, at most 256 KiB.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<String>)]
    instructions: Option<Option<String>>,
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<Tools>)]
    tools: Option<Option<Tools>>,
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<Model>)]
    model: Option<Option<Model>>,
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<Compute>)]
    compute: Option<Option<Compute>>,
    /// Your own key-value pairs, at most 16 KiB as JSON.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<Object>)]
    metadata: Option<Option<Box<RawValue>>>,
}

impl Input for NewAgentDefinition {
    fn check(value: &Value, fields: &mut Vec<Field>) {
        check_instructions(value, fields);
        check_metadata(value, fields);
    }
}

impl Input for NextAgentDefinition {
    fn check(value: &Value, fields: &mut Vec<Field>) {
        check_instructions(value, fields);
        check_metadata(value, fields);
    }
}

/// Creates a definition, as version 1.
#[utoipa::path(post, operation_id = "createAgentDefinition", path = "/v1/agent-definitions",
    tag = "agent definitions", request_body = NewAgentDefinition,
    responses((status = 201, body = AgentDefinition)))]
pub(crate) async fn create(
    State(edge): State<Edge>,
    writer: Writer,
    Submitted { body, request }: Submitted<NewAgentDefinition>,
) -> Result<Response, Error> {
    let id = DefinitionId::from_ulid(edge.new_ulid());
    let mut contents = vec![];
    let config = AgentConfig {
        instructions: kept(&edge, body.instructions, &mut contents),
        tools: body.tools.map(|Tools(tools)| tools),
        model: body.model.map(Into::into),
        compute: body.compute.map(Into::into),
    };
    let metadata = kept(&edge, body.metadata.map(|metadata| compact(metadata.get())), &mut contents);
    let command = definition::Command::Create(Details { name: body.name, config, metadata });
    carry_out(&edge, &writer, &request, id, Change { command, contents, status: StatusCode::CREATED }).await
}

/// Lists definitions, newest first.
#[utoipa::path(get, operation_id = "listAgentDefinitions", path = "/v1/agent-definitions",
    tag = "agent definitions",
    params(
        ("includeArchived" = Option<bool>, Query, description = "Archived ones too. Default: false"),
        ("limit" = Option<i64>, Query, description = "Default: 25", minimum = 1, maximum = 100),
        ("cursor" = Option<String>, Query, description = "`nextCursor` of the page before"),
    ),
    responses((status = 200, body = Page<AgentDefinition>)))]
pub(crate) async fn list(
    State(edge): State<Edge>,
    reader: Reader,
    mut query: Query,
) -> Result<Json<Page<AgentDefinition>>, Error> {
    let archived_too = query.parsed("includeArchived", "true or false").unwrap_or(false);
    let tenant = reader.tenant.id;
    let listing = Listing::read(&edge.app.keys.cursors, tenant, "/v1/agent-definitions", &mut query);
    query.finish()?;
    let scope = edge.app.log.scope(tenant);
    let rows = read::definition::list(scope, archived_too, listing.below, listing.rows()).await?;
    Ok(Json(listing.page(rows, |row| row.position, latest)))
}

/// A definition, in its latest version or another.
#[utoipa::path(get, operation_id = "getAgentDefinition", path = "/v1/agent-definitions/{id}",
    tag = "agent definitions",
    params(
        ("id" = String, Path, description = "The definition"),
        ("version" = Option<i64>, Query, description = "Default: the latest", minimum = 1),
    ),
    responses((status = 200, body = AgentDefinition)))]
pub(crate) async fn get(
    State(edge): State<Edge>,
    reader: Reader,
    Id(id): Id<DefinitionId>,
    mut query: Query,
) -> Result<Json<AgentDefinition>, Error> {
    let version = query.whole("version", 1..=i64::MAX);
    query.finish()?;
    let scope = edge.app.log.scope(reader.tenant.id);
    let Some(version) = version else {
        let found = read::definition::get(scope, id).await?;
        return found.map(|row| Json(latest(row))).ok_or_else(|| missing(id));
    };
    let found = read::definition::version(scope, id, version).await?;
    found.map(|row| Json(of_version(row))).ok_or_else(|| missing(id))
}

/// Changes a definition by making its next version. Its agents are not affected.
#[utoipa::path(put, operation_id = "updateAgentDefinition", path = "/v1/agent-definitions/{id}",
    tag = "agent definitions", request_body = NextAgentDefinition,
    params(("id" = String, Path, description = "The definition")),
    responses((status = 200, body = AgentDefinition)))]
pub(crate) async fn update(
    State(edge): State<Edge>,
    writer: Writer,
    Id(id): Id<DefinitionId>,
    Submitted { body, request }: Submitted<NextAgentDefinition>,
) -> Result<Response, Error> {
    let mut contents = vec![];
    let config = ConfigPatch {
        instructions: body.instructions.map(|text| kept(&edge, text, &mut contents)),
        tools: body.tools.map(|tools| tools.map(|Tools(tools)| tools)),
        model: body.model.map(|model| model.map(Into::into)),
        compute: body.compute.map(|compute| compute.map(Into::into)),
    };
    let metadata = body.metadata.map(|metadata| metadata.map(|metadata| compact(metadata.get())));
    let metadata = metadata.map(|metadata| kept(&edge, metadata, &mut contents));
    let command = definition::Command::Update(DetailsPatch { name: body.name, config, metadata });
    carry_out(&edge, &writer, &request, id, Change { command, contents, status: StatusCode::OK }).await
}

/// Lists the versions of a definition, newest first.
#[utoipa::path(get, operation_id = "listAgentDefinitionVersions", path = "/v1/agent-definitions/{id}/versions",
    tag = "agent definitions",
    params(
        ("id" = String, Path, description = "The definition"),
        ("limit" = Option<i64>, Query, description = "Default: 25", minimum = 1, maximum = 100),
        ("cursor" = Option<String>, Query, description = "`nextCursor` of the page before"),
    ),
    responses((status = 200, body = Page<AgentDefinition>)))]
pub(crate) async fn versions(
    State(edge): State<Edge>,
    reader: Reader,
    Id(id): Id<DefinitionId>,
    mut query: Query,
) -> Result<Json<Page<AgentDefinition>>, Error> {
    let tenant = reader.tenant.id;
    let route = format!("/v1/agent-definitions/{id}/versions");
    let listing = Listing::read(&edge.app.keys.cursors, tenant, &route, &mut query);
    query.finish()?;
    let scope = edge.app.log.scope(tenant);
    let rows = read::definition::versions(scope, id, listing.below, listing.rows()).await?;
    // There is a first version of whatever exists, and no cursor leads below it.
    if rows.is_empty() {
        return Err(missing(id));
    }
    Ok(Json(listing.page(rows, |row| row.version, of_version)))
}

/// Archives a definition: no new agents are made from it. Archiving an archived one changes nothing.
#[utoipa::path(delete, operation_id = "archiveAgentDefinition", path = "/v1/agent-definitions/{id}",
    tag = "agent definitions",
    params(("id" = String, Path, description = "The definition")),
    responses((status = 200, body = Done)))]
pub(crate) async fn archive(
    State(edge): State<Edge>,
    writer: Writer,
    Id(id): Id<DefinitionId>,
    Optional { request, .. }: Optional<Nothing>,
) -> Result<Response, Error> {
    let command = Command::Definition(id, definition::Command::Archive);
    let submission =
        Submission { command, provenance: writer.provenance(), contents: vec![], sealed: vec![] };
    let request_id = writer.request_id;
    let answering: Answering = Box::new(move |_, verdict| {
        Box::pin(async move {
            match verdict {
                Ok(_) => Ok(success(StatusCode::OK, &Done::DONE)),
                Err(refusal) => Ok(refused(refusal, request_id)),
            }
        })
    });
    act(&edge, &writer, &request, submission, answering).await
}

/// What a caller is told of a definition, or of a version of it, that this tenant does not have.
fn missing(id: DefinitionId) -> Error {
    Error::from(&Refusal::NotFound(Subject::Definition(id)))
}

/// A command that makes a version, and what belongs to it.
struct Change {
    command: definition::Command,
    contents: Vec<Content>,
    status: StatusCode,
}

async fn carry_out(
    edge: &Edge,
    caller: &Caller,
    request: &Signed,
    id: DefinitionId,
    Change { command, contents, status }: Change,
) -> Result<Response, Error> {
    let command = Command::Definition(id, command);
    let submission = Submission { command, provenance: caller.provenance(), contents, sealed: vec![] };
    let request_id = caller.request_id;
    let answering: Answering = Box::new(move |scope, verdict| {
        Box::pin(async move {
            match verdict {
                Ok(accepted) => show(scope, id, made(accepted), status).await,
                Err(refusal) => Ok(refused(refusal, request_id)),
            }
        })
    });
    act(edge, caller, request, submission, answering).await
}

/// The version that a command has made: not always the latest, since others make theirs at the same time.
fn made(accepted: &Accepted) -> i64 {
    let version = |recorded: &std::sync::Arc<Recorded>| match &recorded.event {
        Event::DefinitionCreated(made) | Event::DefinitionUpdated(made) => Some(made.version),
        _ => None,
    };
    accepted.events.iter().find_map(version).unwrap_or_default()
}

/// A definition that was decided on, as its command has made it: whatever became of it since.
async fn show(
    scope: Scope<'_>,
    id: DefinitionId,
    version: i64,
    status: StatusCode,
) -> Result<Answer, database::Error> {
    let found = read::definition::version(scope, id, version).await?;
    let row = found.ok_or_else(|| database::Error::Row(format!("{id} was decided on and is not listed")))?;
    Ok(success(status, &AgentDefinition { status: Status::Active, ..of_version(row) }))
}

/// Puts a text beside the log, if there is one, and gives the reference to it.
fn kept(edge: &Edge, text: Option<String>, contents: &mut Vec<Content>) -> Option<ContentRef> {
    let (content, reference) = edge.content(text?);
    contents.push(content);
    Some(reference)
}

/// A definition as its latest version says.
fn latest(row: read::definition::Definition) -> AgentDefinition {
    AgentDefinition { updated_at: row.updated_at, ..of_version(row) }
}

/// A definition as one of its versions says.
fn of_version(row: read::definition::Definition) -> AgentDefinition {
    AgentDefinition {
        id: row.id,
        name: row.name,
        version: row.version,
        instructions: row.instructions,
        tools: row.config.tools.map(Tools),
        model: row.config.model.map(Into::into),
        compute: row.config.compute.map(Into::into),
        metadata: row.metadata,
        status: row.status,
        created_at: row.created_at,
        updated_at: row.versioned_at,
    }
}

fn status() -> Object {
    let words = [Status::Active, Status::Archived].map(Status::as_str);
    ObjectBuilder::new().schema_type(Type::String).enum_values(Some(words)).build()
}
