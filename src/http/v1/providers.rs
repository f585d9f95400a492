//! `/v1/providers`: where agents' code runs.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;
use theazo_domain::id::{RequestId, ValueId};
use theazo_domain::organization::Mode;
use theazo_domain::provider::{self, Configuration, Finding, ProviderName, Status};
use theazo_domain::time::Timestamp;
use theazo_domain::{Command, Event};
use tokio::time::Instant;
use utoipa::ToSchema;
use utoipa::openapi::schema::{Object, ObjectBuilder, Type};
use zeroize::Zeroizing;

use super::Done;
use crate::app::App;
use crate::http::Edge;
use crate::http::auth::{Administrator, Caller, Reader};
use crate::http::body::{Input, Nothing, Optional, Signed, Submitted};
use crate::http::error::{Error, Field};
use crate::http::idempotency::{act, failed, is_answered, refused, success};
use crate::http::page::{Listing, Page};
use crate::http::query::{Id, Query};
use crate::http::schema;
use crate::log::{Accepted, Answering, Recorded, SealedChange, Submission};
use crate::providers::credentials::{self, Credentials};
use crate::providers::verify::{Outside, Unusable, Wrong};
use crate::{config, read};

/// A compute provider. Its credentials are never shown.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Provider {
    #[schema(schema_with = names)]
    provider: ProviderName,
    /// Agents that name no provider run there. Exactly one provider is the default.
    is_default: bool,
    /// What it said when it was last asked: `active`, `error`, or `unverified` where it did not answer in time.
    #[schema(schema_with = statuses)]
    status: Status,
    /// Why it is not active.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String)]
    status_reason: Option<String>,
    /// When it was last asked; left out of `local`, which is not asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, format = DateTime, required = false)]
    verified_at: Option<Timestamp>,
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
}

/// A compute provider to configure.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct NewProvider {
    #[schema(schema_with = names)]
    provider: ProviderName,
    /// For `e2b` `{apiKey}`, for `fly` `{apiToken, appName}`, for `docker` `{host?}`, for `webhook` `{url, secret}`, for
    /// `local` `{}`. They are sealed and never shown again.
    #[schema(value_type = Object)]
    credentials: Box<RawValue>,
    /// Whether it is the default from now on. Left out, the default stays what it is; where the default is said not to be
    /// it any more, `local` is.
    is_default: Option<bool>,
}

impl Input for NewProvider {
    fn check(value: &Value, fields: &mut Vec<Field>) {
        let provider = value.get("provider").and_then(|name| name.as_str()?.parse().ok());
        let (Some(provider), Some(given @ Value::Object(_))) = (provider, value.get("credentials")) else {
            return;
        };
        let wrong = match provider {
            ProviderName::Local => vec![],
            ProviderName::E2b => schema::violations::<credentials::E2b>(given),
            ProviderName::Fly => schema::violations::<credentials::Fly>(given),
            ProviderName::Docker => schema::violations::<credentials::Docker>(given),
            ProviderName::Webhook => schema::violations::<credentials::Webhook>(given),
        };
        fields.extend(wrong.into_iter().map(|field| Field { path: below_credentials(&field.path), ..field }));
    }

    /// Whether the address that credentials name may be called, whatever else is wrong with them.
    fn check_here(app: &App, value: &Value, fields: &mut Vec<Field>) {
        let provider = value.get("provider").and_then(|name| name.as_str()?.parse().ok());
        let (Some(provider), Some(given)) = (provider, value.get("credentials")) else { return };
        let given = Zeroizing::new(given.to_string());
        let Ok(Some(given)) = Credentials::parse(provider, &given) else { return };
        if let Err(wrong) = (Outside { clients: &app.clients, vendors: &app.vendors }).check(&given) {
            fields.extend(wrong.into_iter().map(unusable_field));
        }
    }
}

/// Lists the providers that are configured, newest first, and `local`, which always is.
#[utoipa::path(get, operation_id = "listProviders", path = "/v1/providers", tag = "providers",
    params(
        ("limit" = Option<i64>, Query, description = "Default: 25", minimum = 1, maximum = 100),
        ("cursor" = Option<String>, Query, description = "`nextCursor` of the page before"),
    ),
    responses((status = 200, body = Page<Provider>)))]
pub(crate) async fn list(
    State(edge): State<Edge>,
    reader: Reader,
    mut query: Query,
) -> Result<Json<Page<Provider>>, Error> {
    let tenant = reader.tenant.id;
    let listing = Listing::read(&edge.app.keys.cursors, tenant, "/v1/providers", &mut query);
    query.finish()?;
    let rows = read::provider::list(edge.app.log.scope(tenant), listing.below, listing.rows()).await?;
    Ok(Json(listing.page(rows, |row| row.position, Provider::from)))
}

/// Configures a provider, over what it was, and asks it whether it takes the credentials.
#[utoipa::path(post, operation_id = "configureProvider", path = "/v1/providers", tag = "providers",
    request_body = NewProvider, responses((status = 201, body = Provider)))]
pub(crate) async fn configure(
    State(edge): State<Edge>,
    administrator: Administrator,
    Submitted { body, request }: Submitted<NewProvider>,
) -> Result<Response, Error> {
    let (provider, is_default) = (body.provider, body.is_default);
    let given = Credentials::parse(provider, body.credentials.get());
    let given = given.map_err(|_| Error::field("credentials", "type", "cannot be read"))?;
    let (command, sealed) = match given {
        None => (provider::Command::ConfigureLocal { is_default }, vec![]),
        Some(given) => {
            let finding = ask(&edge, &administrator, &request, &given).await?;
            let finding = finding.map_err(unusable)?;
            let version = ValueId::from_ulid(edge.new_ulid());
            let sealed = given.seal(&edge.app.keys.masters, administrator.tenant.id, version);
            let configuration = Configuration { provider, credentials: version, is_default, finding };
            (provider::Command::Configure(configuration), vec![sealed])
        }
    };
    let submission = submission(&administrator, command, sealed);
    let answering = show(StatusCode::CREATED, administrator.request_id, provider);
    act(&edge, &administrator, &request, submission, answering).await
}

/// Asks a provider again whether it takes its credentials.
#[utoipa::path(post, operation_id = "verifyProvider", path = "/v1/providers/{provider}/verify", tag = "providers",
    params(("provider" = String, Path, description = "The provider")),
    responses((status = 200, body = Provider)))]
pub(crate) async fn verify(
    State(edge): State<Edge>,
    administrator: Administrator,
    Id(provider): Id<ProviderName>,
    Optional { request, .. }: Optional<Nothing>,
) -> Result<Response, Error> {
    let tenant = administrator.tenant.id;
    let found = credentials::find(&edge.app, tenant, provider).await.map_err(unopened)?;
    let command = match found {
        // The rules say why there is nothing to ask, with a version that is nobody's.
        None => provider::Command::Verify {
            provider,
            credentials: ValueId::from_ulid(edge.new_ulid()),
            finding: unasked(),
        },
        Some((credentials, given)) => {
            let finding = ask(&edge, &administrator, &request, &given).await?.unwrap_or_else(unusable_now);
            provider::Command::Verify { provider, credentials, finding }
        }
    };
    let submission = submission(&administrator, command, vec![]);
    let answering = show(StatusCode::OK, administrator.request_id, provider);
    act(&edge, &administrator, &request, submission, answering).await
}

/// Removes a provider, and its credentials. It must not have active agents; where it was the default, `local` is. The
/// sandboxes of agents that have just ended are removed first, for which this waits some seconds at most.
#[utoipa::path(delete, operation_id = "removeProvider", path = "/v1/providers/{provider}", tag = "providers",
    params(("provider" = String, Path, description = "The provider")),
    responses((status = 200, body = Done)))]
pub(crate) async fn remove(
    State(edge): State<Edge>,
    administrator: Administrator,
    Id(provider): Id<ProviderName>,
    Optional { request, .. }: Optional<Nothing>,
) -> Result<Response, Error> {
    if !is_answered(&edge, &administrator, &request).await? {
        let_go(&edge, &administrator, provider).await?;
    }
    let sealed = vec![SealedChange::Delete(provider::place(provider))];
    let submission = submission(&administrator, provider::Command::Remove(provider), sealed);
    let request_id = administrator.request_id;
    let answering: Answering = Box::new(move |_, verdict| {
        let answer = match verdict {
            Ok(_) => success(StatusCode::OK, &Done::DONE),
            Err(refusal) => refused(refusal, request_id),
        };
        Box::pin(std::future::ready(Ok(answer)))
    });
    act(&edge, &administrator, &request, submission, answering).await
}

/// Waits until the sandboxes of agents that have ended are gone, which takes the credentials that are about to be
/// deleted. What the vendor does not remove in time must not keep the credentials here.
async fn let_go(edge: &Edge, caller: &Caller, provider: ProviderName) -> Result<(), Error> {
    // In test mode all sandboxes are mocks.
    if caller.tenant.mode == Mode::Test {
        return Ok(());
    }
    let until = Instant::now() + config::RELEASE_DEADLINE;
    while read::agent::is_to_release(edge.app.log.scope(caller.tenant.id), provider).await? {
        if Instant::now() >= until {
            tracing::warn!(provider = provider.as_str(), "credentials are deleted that sandboxes still need");
            break;
        }
        tokio::time::sleep(config::RELEASE_POLL).await;
    }
    Ok(())
}

/// Asks a provider whether it takes these credentials; in test mode nobody is asked. Where the request is a repetition
/// its answer is there already, and nobody is asked either.
async fn ask(
    edge: &Edge,
    caller: &Caller,
    request: &Signed,
    given: &Credentials,
) -> Result<Result<Finding, Wrong>, Error> {
    let app = &edge.app;
    if is_answered(edge, caller, request).await? {
        return Ok(Ok(unasked()));
    }
    let outside = Outside { clients: &app.clients, vendors: &app.vendors };
    Ok(match caller.tenant.mode {
        Mode::Test => outside.check(given).map(|()| Finding::active()),
        Mode::Live => outside.verify(given, app.clock.now()).await,
    })
}

const fn unasked() -> Finding {
    Finding { status: Status::Unverified, reason: None }
}

fn unusable(wrong: Wrong) -> Error {
    let mut fields: Vec<Field> = wrong.into_iter().map(unusable_field).collect();
    fields.sort();
    Error::Unprocessable(fields)
}

fn unusable_field((field, why): (&str, Unusable)) -> Field {
    Field::new(below_credentials(field), "address", why.to_string())
}

/// The address may have been public when it was configured; it is not now.
fn unusable_now(wrong: Wrong) -> Finding {
    let reason = wrong.first().map(|(_, unusable)| format!("its address {unusable}"));
    Finding { status: Status::Error, reason }
}

fn unopened(error: credentials::Error) -> Error {
    match error {
        credentials::Error::Database(error) => error.into(),
        credentials::Error::Sealed(..) => Error::internal(error),
    }
}

fn submission(caller: &Caller, command: provider::Command, sealed: Vec<SealedChange>) -> Submission {
    let command = Command::Providers(command);
    Submission { command, provenance: caller.provenance(), contents: vec![], sealed }
}

/// The provider that was decided on, as it stands; where it was removed by the time that it is read, as it was.
fn show(status: StatusCode, request_id: RequestId, provider: ProviderName) -> Answering {
    Box::new(move |scope, verdict| {
        Box::pin(async move {
            let accepted = match verdict {
                Ok(accepted) => accepted,
                Err(refusal) => return Ok(refused(refusal, request_id)),
            };
            let found = read::provider::get(scope, provider).await?.map(Provider::from);
            Ok(match found.or_else(|| Provider::as_it_was(accepted)) {
                Some(shown) => success(status, &shown),
                None => failed(&Error::nothing_here(), request_id),
            })
        })
    })
}

impl Provider {
    /// What these events say of a provider; `None` where they say nothing.
    fn as_it_was(accepted: &Accepted) -> Option<Self> {
        let find = |recorded: &std::sync::Arc<Recorded>| match &recorded.event {
            Event::ProviderVerified(verified) => Some((verified.clone(), recorded.stored.at)),
            _ => None,
        };
        let (verified, at) = accepted.events.iter().find_map(find)?;
        let provider = verified.provider;
        let became_default =
            |event: &Event| matches!(event, Event::ProviderDefaultChanged(changed) if changed.to == provider);
        Some(Self {
            provider,
            is_default: accepted.events.iter().any(|recorded| became_default(&recorded.event)),
            status: verified.finding.status,
            status_reason: verified.finding.reason,
            verified_at: Some(at),
            created_at: at,
        })
    }
}

impl From<read::provider::Provider> for Provider {
    fn from(row: read::provider::Provider) -> Self {
        Self {
            provider: row.provider,
            is_default: row.is_default,
            status: row.status,
            status_reason: row.status_reason,
            verified_at: row.verified_at,
            created_at: row.created_at,
        }
    }
}

fn below_credentials(path: &str) -> String {
    if path.is_empty() { "credentials".to_owned() } else { format!("credentials.{path}") }
}

fn names() -> Object {
    words(&ProviderName::ALL.map(ProviderName::as_str))
}

fn statuses() -> Object {
    words(&[Status::Active, Status::Error, Status::Unverified].map(Status::as_str))
}

fn words(words: &[&'static str]) -> Object {
    ObjectBuilder::new().schema_type(Type::String).enum_values(Some(words.to_vec())).build()
}
