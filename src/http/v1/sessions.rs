//! `/v1/sessions`: one user's isolated session.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;
use theazo_domain::command::Person;
use theazo_domain::id::{RequestId, SessionId, UserId};
use theazo_domain::session::{self, Opening, Status};
use theazo_domain::time::Timestamp;
use theazo_domain::{Command, Event, Refusal, Subject, user};
use utoipa::ToSchema;
use utoipa::openapi::schema::{Object, ObjectBuilder, Type};

use super::limits::Limits;
use crate::database::{self, Scope};
use crate::http::Edge;
use crate::http::auth::{Caller, Reader, Writer};
use crate::http::body::{Input, Nothing, Optional, Signed, Submitted, check_metadata, compact};
use crate::http::error::{Error, Field};
use crate::http::idempotency::{act, judged, refused, success};
use crate::http::page::{Listing, Page};
use crate::http::query::{ExternalId, Id, Query};
use crate::log::{Accepted, Answer, Answering, Content, Submission};
use crate::read;

/// One user's isolated session.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Session {
    #[schema(value_type = String, examples("ses_01ARZ3NDEKTSV4RRFFQ69G50AV"))]
    id: SessionId,
    /// Your own identifier of the user; left out once the person was erased.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String)]
    user_id: Option<String>,
    #[schema(schema_with = status)]
    status: Status,
    #[serde(skip_serializing_if = "Limits::is_empty")]
    #[schema(required = false)]
    limits: Limits,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Object, required = false)]
    metadata: Option<Box<RawValue>>,
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
    #[schema(value_type = String, format = DateTime)]
    updated_at: Timestamp,
}

/// A session to create.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct NewSession {
    /// Your application's user identifier, opaque to the server.
    #[schema(min_length = 1, max_length = 256)]
    user_id: String,
    limits: Option<Limits>,
    /// Your own key-value pairs, at most 16 KiB as JSON.
    #[schema(value_type = Option<Object>)]
    metadata: Option<Box<RawValue>>,
}

/// What a session begins with if there is none for the user.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct NewSessionOfUser {
    limits: Option<Limits>,
    /// Your own key-value pairs, at most 16 KiB as JSON.
    #[schema(value_type = Option<Object>)]
    metadata: Option<Box<RawValue>>,
}

impl Input for NewSession {
    fn check(value: &Value, fields: &mut Vec<Field>) {
        check_metadata(value, fields);
    }
}

impl Input for NewSessionOfUser {
    fn check(value: &Value, fields: &mut Vec<Field>) {
        check_metadata(value, fields);
    }
}

/// Creates a session. Agents can be added to it right away.
#[utoipa::path(post, operation_id = "createSession", path = "/v1/sessions", tag = "sessions", request_body = NewSession,
    responses((status = 201, body = Session)))]
pub(crate) async fn create(
    State(edge): State<Edge>,
    writer: Writer,
    Submitted { body, request }: Submitted<NewSession>,
) -> Result<Response, Error> {
    let id = SessionId::from_ulid(edge.new_ulid());
    let beginning = Beginning::new(&edge, body.user_id, body.limits, body.metadata);
    let command = Command::Session(id, session::Command::Create(beginning.opening.clone()));
    begin(&edge, &writer, &request, command, beginning).await
}

/// The newest session of the user that is not terminated, unchanged (200); else a new one (201).
#[utoipa::path(post, operation_id = "openSessionOfUser", path = "/v1/sessions/by-user/{userId}", tag = "sessions",
    params(("userId" = String, Path, description = "Your application's user identifier", max_length = 256)),
    request_body = Option<NewSessionOfUser>,
    responses((status = 200, body = Session), (status = 201, body = Session)))]
pub(crate) async fn by_user(
    State(edge): State<Edge>,
    writer: Writer,
    ExternalId(user_id): ExternalId,
    Optional { body, request }: Optional<NewSessionOfUser>,
) -> Result<Response, Error> {
    let session_id = SessionId::from_ulid(edge.new_ulid());
    let beginning = Beginning::new(&edge, user_id, body.limits, body.metadata);
    let opening = beginning.opening.clone();
    let command = Command::User(user::Command::OpenSession { session_id, opening });
    begin(&edge, &writer, &request, command, beginning).await
}

/// Lists sessions, newest first.
#[utoipa::path(get, operation_id = "listSessions", path = "/v1/sessions", tag = "sessions",
    params(
        ("userId" = Option<String>, Query, description = "Of this user", min_length = 1, max_length = 256),
        ("status" = Option<String>, Query, description = "`active`, `paused` or `terminated`"),
        ("createdAfter" = Option<String>, Query, description = "Created after this time", format = DateTime),
        ("limit" = Option<i64>, Query, description = "Default: 25", minimum = 1, maximum = 100),
        ("cursor" = Option<String>, Query, description = "`nextCursor` of the page before"),
    ),
    responses((status = 200, body = Page<Session>)))]
pub(crate) async fn list(
    State(edge): State<Edge>,
    reader: Reader,
    mut query: Query,
) -> Result<Json<Page<Session>>, Error> {
    let filter = read::session::Filter {
        user_id: query.text("userId"),
        status: query.word("status", "active, paused or terminated"),
        created_after: query.time("createdAfter"),
    };
    let tenant = reader.tenant.id;
    let listing = Listing::read(&edge.app.keys.cursors, tenant, "/v1/sessions", &mut query);
    query.finish()?;
    let scope = edge.app.log.scope(tenant);
    let rows = read::session::list(scope, &filter, listing.below, listing.rows()).await?;
    Ok(Json(listing.page(rows, |row| row.position, Session::from)))
}

/// A session.
#[utoipa::path(get, operation_id = "getSession", path = "/v1/sessions/{id}", tag = "sessions",
    params(("id" = String, Path, description = "The session")),
    responses((status = 200, body = Session)))]
pub(crate) async fn get(
    State(edge): State<Edge>,
    reader: Reader,
    Id(id): Id<SessionId>,
) -> Result<Json<Session>, Error> {
    let found = read::session::get(edge.app.log.scope(reader.tenant.id), id).await?;
    found.map(|row| Json(row.into())).ok_or_else(|| missing(id))
}

/// Pauses a session: no work starts in it. Pausing a paused one changes nothing.
#[utoipa::path(post, operation_id = "pauseSession", path = "/v1/sessions/{id}/pause", tag = "sessions",
    params(("id" = String, Path, description = "The session")),
    responses((status = 200, body = Session)))]
pub(crate) async fn pause(
    State(edge): State<Edge>,
    writer: Writer,
    Id(id): Id<SessionId>,
    Optional { request, .. }: Optional<Nothing>,
) -> Result<Response, Error> {
    change(&edge, &writer, &request, id, session::Command::Pause).await
}

/// Lets a paused session go on. One whose minutes of compute are used up needs a higher limit first.
#[utoipa::path(post, operation_id = "resumeSession", path = "/v1/sessions/{id}/resume", tag = "sessions",
    params(("id" = String, Path, description = "The session")),
    responses((status = 200, body = Session), (status = 402, body = Object)))]
pub(crate) async fn resume(
    State(edge): State<Edge>,
    writer: Writer,
    Id(id): Id<SessionId>,
    Optional { request, .. }: Optional<Nothing>,
) -> Result<Response, Error> {
    let rates = edge.app.rates(writer.tenant.id).await?.compute_rates();
    change(&edge, &writer, &request, id, session::Command::Resume(rates)).await
}

/// Ends a session, for good. Terminating a terminated one changes nothing.
#[utoipa::path(post, operation_id = "terminateSession", path = "/v1/sessions/{id}/terminate", tag = "sessions",
    params(("id" = String, Path, description = "The session")),
    responses((status = 200, body = Session)))]
pub(crate) async fn terminate(
    State(edge): State<Edge>,
    writer: Writer,
    Id(id): Id<SessionId>,
    Optional { request, .. }: Optional<Nothing>,
) -> Result<Response, Error> {
    change(&edge, &writer, &request, id, session::Command::Terminate).await
}

/// What a caller is told of a session that this tenant does not have.
pub(crate) fn missing(id: SessionId) -> Error {
    Error::from(&Refusal::NotFound(Subject::Session(id)))
}

async fn change(
    edge: &Edge,
    caller: &Caller,
    request: &Signed,
    id: SessionId,
    command: session::Command,
) -> Result<Response, Error> {
    let command = Command::Session(id, command);
    let submission =
        Submission { command, provenance: caller.provenance(), contents: vec![], sealed: vec![] };
    let request_id = caller.request_id;
    let answering: Answering = Box::new(move |scope, verdict| {
        Box::pin(async move {
            match judged(verdict, request_id) {
                Some(answer) => Ok(answer),
                None => show(scope, id).await,
            }
        })
    });
    act(edge, caller, request, submission, answering).await
}

/// What a new session begins with, in the forms in which the command, the log and the answer need it.
struct Beginning {
    opening: Opening,
    content: Option<Content>,
    user_id: String,
    metadata: Option<String>,
}

impl Beginning {
    fn new(edge: &Edge, user_id: String, limits: Option<Limits>, metadata: Option<Box<RawValue>>) -> Self {
        let metadata = metadata.map(|metadata| compact(metadata.get()));
        let (content, reference) = metadata.clone().map(|body| edge.content(body)).unzip();
        let new_id = UserId::from_ulid(edge.new_ulid());
        let person = Person { external_id: user_id.clone(), new_id };
        let limits = limits.unwrap_or_default().into();
        Self { opening: Opening { person, limits, metadata: reference }, content, user_id, metadata }
    }

    /// The session that these events began, without reading it.
    fn shown(&self, accepted: &Accepted) -> Result<Session, database::Error> {
        let wrong = |what: &str| database::Error::Row(format!("a new session {what}"));
        let recorded = accepted.events.first().ok_or_else(|| wrong("without an event"))?;
        let Event::SessionCreated(created) = &recorded.event else { return Err(wrong("of another event")) };
        let metadata = self.metadata.clone().map(RawValue::from_string).transpose();
        Ok(Session {
            id: created.session_id,
            user_id: Some(self.user_id.clone()),
            status: Status::Active,
            limits: created.limits.clone().into(),
            metadata: metadata.map_err(|error| wrong(&error.to_string()))?,
            created_at: recorded.stored.at,
            updated_at: recorded.stored.at,
        })
    }
}

async fn begin(
    edge: &Edge,
    caller: &Caller,
    request: &Signed,
    command: Command,
    mut beginning: Beginning,
) -> Result<Response, Error> {
    let contents = beginning.content.take().into_iter().collect();
    let submission = Submission { command, provenance: caller.provenance(), contents, sealed: vec![] };
    let (beginning, request_id) = (std::sync::Arc::new(beginning), caller.request_id);
    let answering: Answering = Box::new(move |scope, verdict| {
        let beginning = std::sync::Arc::clone(&beginning);
        Box::pin(async move {
            match verdict {
                Ok(accepted) => Ok(success(StatusCode::CREATED, &beginning.shown(accepted)?)),
                Err(refusal) => existing(scope, refusal, request_id).await,
            }
        })
    });
    act(edge, caller, request, submission, answering).await
}

/// The session that there was already is the answer, where one was asked for.
async fn existing(
    scope: Scope<'_>,
    refusal: &Refusal,
    request_id: RequestId,
) -> Result<Answer, database::Error> {
    match refusal {
        Refusal::Existing(Subject::Session(id)) => show(scope, *id).await,
        _ => Ok(refused(refusal, request_id)),
    }
}

/// A session that was decided on, as it stands.
async fn show(scope: Scope<'_>, id: SessionId) -> Result<Answer, database::Error> {
    let found = read::session::get(scope, id).await?;
    let row = found.ok_or_else(|| database::Error::Row(format!("{id} was decided on and is not listed")))?;
    Ok(success(StatusCode::OK, &Session::from(row)))
}

impl From<read::session::Session> for Session {
    fn from(row: read::session::Session) -> Self {
        Self {
            id: row.id,
            user_id: row.user_id,
            status: row.status,
            limits: row.limits.into(),
            metadata: row.metadata,
            created_at: row.created_at,
            updated_at: row.updated_at,
        }
    }
}

fn status() -> Object {
    let words = [Status::Active, Status::Paused, Status::Terminated].map(Status::as_str);
    ObjectBuilder::new().schema_type(Type::String).enum_values(Some(words)).build()
}
