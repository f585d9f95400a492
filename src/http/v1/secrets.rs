//! `/v1/secrets`: what is confided to an organization or to one session, never to be shown again.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use theazo_domain::id::ValueId;
use theazo_domain::secret::{self, Name, Scope as Confided};
use theazo_domain::time::Timestamp;
use theazo_domain::{Command, organization, session};
use utoipa::ToSchema;

use super::Done;
use super::sessions::missing;
use crate::http::Edge;
use crate::http::auth::{Caller, Reader, Writer};
use crate::http::body::{Input, Nothing, Optional, Submitted};
use crate::http::error::{Error, Field};
use crate::http::idempotency::{act, refused, success};
use crate::http::page::{Listing, Page};
use crate::http::query::{Id, Query};
use crate::log::{Accepted, Answering, SealedChange, Submission};
use crate::vault::{self, Address, Plaintext};
use crate::{config, read};

/// A secret, without its value.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Secret)]
pub(crate) struct SecretMetadata {
    #[schema(value_type = String, examples("OPENAI_API_KEY"))]
    name: Name,
    /// `org`, or the id of the session that it is for.
    #[schema(value_type = String, examples("org"))]
    scope: Confided,
    /// When it was set first. A new value leaves it as it is.
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
}

/// A secret to set.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct NewSecret {
    #[schema(value_type = String, pattern = "^[A-Za-z0-9_-]{1,128}$")]
    name: Name,
    /// 1 byte to 64 KiB of UTF-8, without U+0000; all of a scope together, with their names, up to 512 KiB. It is sealed and
    /// never shown again.
    #[schema(value_type = String, min_length = 1)]
    value: Plaintext,
    /// The session that it is for; left out: for all of the organization.
    session_id: Option<String>,
}

impl Input for NewSecret {
    fn check(value: &Value, fields: &mut Vec<Field>) {
        let size = value.get("value").and_then(Value::as_str).map_or(0, str::len);
        if size > config::SECRET_BYTES {
            let message = format!("must not be larger than {} bytes", config::SECRET_BYTES);
            fields.push(Field::new("value", "maxBytes", message));
        }
    }
}

/// Sets a secret, over what it was.
#[utoipa::path(post, operation_id = "setSecret", path = "/v1/secrets", tag = "secrets", request_body = NewSecret,
    responses((status = 201, body = SecretMetadata), (status = 404, body = Object)))]
pub(crate) async fn set(
    State(edge): State<Edge>,
    writer: Writer,
    Submitted { body, request }: Submitted<NewSecret>,
) -> Result<Response, Error> {
    let confided = confided(body.session_id.as_deref())?.unwrap_or(Confided::Organization);
    let version = ValueId::from_ulid(edge.new_ulid());
    let address = Address { tenant: writer.tenant.id, place: confided.place(&body.name), version };
    let master = edge.app.keys.masters.active();
    let sealed = vault::sealed::seal(&master, &address, body.value.as_bytes());
    let (name, master_key_id) = (body.name.clone(), master.id().to_owned());
    let others = read::secret::taken_by_others(edge.app.log.scope(writer.tenant.id), confided, &name).await?;
    let together = others + secret::taken(wide(name.as_str().len()), wide(body.value.len()));
    let command = secret::Command::Set { name: name.clone(), version, master_key_id, together };
    let sealed = vec![SealedChange::Put(address, sealed)];
    let submission = submission(&writer, confided, command, sealed);
    act(&edge, &writer, &request, submission, show(&writer, confided, name)).await
}

/// Lists secrets, newest first: of both scopes, or those of a session. Values are never shown.
#[utoipa::path(get, operation_id = "listSecrets", path = "/v1/secrets", tag = "secrets",
    params(
        ("sessionId" = Option<String>, Query, description = "Of this session only; left out: all of the organization"),
        ("limit" = Option<i64>, Query, description = "Default: 25", minimum = 1, maximum = 100),
        ("cursor" = Option<String>, Query, description = "`nextCursor` of the page before"),
    ),
    responses((status = 200, body = Page<SecretMetadata>), (status = 404, body = Object)))]
pub(crate) async fn list(
    State(edge): State<Edge>,
    reader: Reader,
    mut query: Query,
) -> Result<Json<Page<SecretMetadata>>, Error> {
    let session_id = query.text("sessionId");
    let tenant = reader.tenant.id;
    let listing = Listing::read(&edge.app.keys.cursors, tenant, "/v1/secrets", &mut query);
    query.finish()?;
    let scope = edge.app.log.scope(tenant);
    let confided = confided(session_id.as_deref())?;
    if let Some(Confided::Session(id)) = confided {
        read::session::get(scope, id).await?.ok_or_else(|| missing(id))?;
    }
    let rows = read::secret::list(scope, confided, listing.below, listing.rows()).await?;
    Ok(Json(listing.page(rows, |row| row.position, SecretMetadata::from)))
}

/// Deletes a secret, and its value.
#[utoipa::path(delete, operation_id = "deleteSecret", path = "/v1/secrets/{name}", tag = "secrets",
    params(
        ("name" = String, Path, description = "The secret"),
        ("sessionId" = Option<String>, Query, description = "The session that it is for, if it is for one"),
    ),
    responses((status = 200, body = Done)))]
pub(crate) async fn delete(
    State(edge): State<Edge>,
    writer: Writer,
    Id(name): Id<Name>,
    mut query: Query,
    Optional { request, .. }: Optional<Nothing>,
) -> Result<Response, Error> {
    let session_id = query.text("sessionId");
    query.finish()?;
    let confided = confided(session_id.as_deref())?.unwrap_or(Confided::Organization);
    let sealed = vec![SealedChange::Delete(confided.place(&name))];
    let submission = submission(&writer, confided, secret::Command::Delete { name }, sealed);
    let request_id = writer.request_id;
    let answering: Answering = Box::new(move |_, verdict| {
        let answer = match verdict {
            Ok(_) => success(StatusCode::OK, &Done::DONE),
            Err(refusal) => refused(refusal, request_id),
        };
        Box::pin(async { Ok(answer) })
    });
    act(&edge, &writer, &request, submission, answering).await
}

fn wide(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

/// The scope of a session that was named. What is not spelled like one names nothing.
fn confided(session_id: Option<&str>) -> Result<Option<Confided>, Error> {
    let session = |text: &str| text.parse().map(Confided::Session).map_err(|_| Error::nothing_here());
    session_id.map(session).transpose()
}

/// The command to whoever decides about the secrets of a scope.
fn submission(
    caller: &Caller,
    confided: Confided,
    command: secret::Command,
    sealed: Vec<SealedChange>,
) -> Submission {
    let command = match confided {
        Confided::Session(id) => Command::Session(id, session::Command::Secret(command)),
        Confided::Organization => {
            let id = caller.tenant.organization_id;
            Command::Organization(id, organization::Command::Secret(command))
        }
    };
    Submission { command, provenance: caller.provenance(), contents: vec![], sealed }
}

/// Shows a secret that was set.
fn show(caller: &Caller, scope: Confided, name: Name) -> Answering {
    let request_id = caller.request_id;
    Box::new(move |rows, verdict| {
        let name = name.clone();
        Box::pin(async move {
            let accepted = match verdict {
                Ok(accepted) => accepted,
                Err(refusal) => return Ok(refused(refusal, request_id)),
            };
            let row = read::secret::get(rows, scope, &name).await?;
            // Another caller may have deleted it since.
            let created_at = row.map_or_else(|| set_at(accepted), |row| row.created_at);
            Ok(success(StatusCode::CREATED, &SecretMetadata { name, scope, created_at }))
        })
    })
}

fn set_at(accepted: &Accepted) -> Timestamp {
    accepted.events.first().map_or(Timestamp::from_millis(0), |recorded| recorded.stored.at)
}

impl From<read::secret::Secret> for SecretMetadata {
    fn from(row: read::secret::Secret) -> Self {
        Self { name: row.name, scope: row.scope, created_at: row.created_at }
    }
}
