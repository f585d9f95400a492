//! `/v1/providers`: where agents' code runs.

use std::borrow::Cow;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;
use theazo_domain::id::{RequestId, ValueId};
use theazo_domain::organization::Mode;
use theazo_domain::provider::{self, Configuration, Finding, ProviderName, Status};
use theazo_domain::time::Timestamp;
use theazo_domain::{Command, Event};
use tokio::time::Instant;
use utoipa::openapi::schema::{Discriminator, Object, ObjectBuilder, OneOfBuilder, Schema, Type};
use utoipa::openapi::{Ref, RefOr};
use utoipa::{PartialSchema, ToSchema};
use zeroize::Zeroizing;

use super::Done;
use crate::http::Edge;
use crate::http::auth::{Administrator, Caller, Reader};
use crate::http::body::{Input, Nothing, Optional, Signed, Submitted};
use crate::http::error::{Error, Field};
use crate::http::idempotency::{act, failed, hold, refused, success};
use crate::http::page::{Listing, Page};
use crate::http::query::{Id, Query};
use crate::http::schema;
use crate::log::{Accepted, Answering, Recorded, SealedChange, Submission};
use crate::providers::credentials::{self, Credentials};
use crate::providers::verify::{Outside, Unusable, Wrong};
use crate::vault::Plaintext;
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
    /// `local` `{}`, and nothing else: what is not known here is refused. They are sealed and never shown again.
    #[schema(value_type = Object)]
    #[serde(deserialize_with = "as_written")]
    credentials: Plaintext,
    /// Whether it is the default from now on. Left out, the default stays what it is; where the default is said not to be
    /// it any more, `local` is.
    is_default: Option<bool>,
}

impl Input for NewProvider {
    fn check(value: &Value, fields: &mut Vec<Field>) {
        let provider = value.get("provider").and_then(|name| name.as_str()?.parse().ok());
        let (Some(provider), Some(credentials)) = (provider, value.get("credentials")) else { return };
        let Some(given) = credentials.as_object() else { return };
        let unknown = |name: &String| Field::new(name, "additionalProperties", "is not known here");
        let wrong = match provider {
            // Where nothing is known at all, the schema does not say which.
            ProviderName::Local => given.keys().map(unknown).collect(),
            ProviderName::E2b => schema::violations::<credentials::E2b>(credentials),
            ProviderName::Fly => schema::violations::<credentials::Fly>(credentials),
            ProviderName::Docker => schema::violations::<credentials::Docker>(credentials),
            ProviderName::Webhook => schema::violations::<credentials::Webhook>(credentials),
        };
        fields.extend(wrong.into_iter().map(|field| Field { path: below_credentials(&field.path), ..field }));
    }

    fn check_here(edge: &Edge, value: &Value, fields: &mut Vec<Field>) {
        let provider = value.get("provider").and_then(|name| name.as_str()?.parse().ok());
        let given = value.get("credentials").map(|given| Zeroizing::new(given.to_string()));
        let (Some(provider), Some(given)) = (provider, given) else { return };
        if let Ok(Some(given)) = Credentials::parse(provider, &given)
            && let Err(wrong) = outside(edge).check(&given)
        {
            let mut unusable = unusable(wrong);
            unusable.retain(|wrong| !fields.iter().any(|field| field.path == wrong.path));
            fields.extend(unusable);
        }
    }
}

/// How the API document shows [`NewProvider`]: an alternative for each provider, with the schema that its credentials are
/// held against.
pub(crate) struct NewProviders;

impl NewProviders {
    /// The name of a provider, of its alternative, and of the schema of its credentials.
    const ALL: [(&str, &str, &str); 5] = [
        ("local", "NewLocalProvider", "LocalCredentials"),
        ("e2b", "NewE2bProvider", "E2bCredentials"),
        ("fly", "NewFlyProvider", "FlyCredentials"),
        ("docker", "NewDockerProvider", "DockerCredentials"),
        ("webhook", "NewWebhookProvider", "WebhookCredentials"),
    ];

    fn alternative(provider: &'static str, credentials: &str) -> RefOr<Schema> {
        let mut schema = NewProvider::schema();
        if let RefOr::T(Schema::Object(object)) = &mut schema {
            object.properties.insert("provider".to_owned(), Schema::Object(words(&[provider])).into());
            object.properties.insert("credentials".to_owned(), Ref::from_schema_name(credentials).into());
        }
        schema
    }
}

impl PartialSchema for NewProviders {
    fn schema() -> RefOr<Schema> {
        let mapping =
            Self::ALL.map(|(provider, name, _)| (provider, Ref::from_schema_name(name).ref_location));
        let begun = OneOfBuilder::new().discriminator(Some(Discriminator::with_mapping("provider", mapping)));
        let any =
            Self::ALL.into_iter().fold(begun, |any, (_, name, _)| any.item(Ref::from_schema_name(name)));
        any.description(Some("A compute provider to configure.")).into()
    }
}

impl ToSchema for NewProviders {
    fn name() -> Cow<'static, str> {
        "NewProvider".into()
    }

    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        schemas.extend(Self::ALL.map(|(provider, name, credentials)| {
            (name.to_owned(), Self::alternative(provider, credentials))
        }));
        schemas.extend([
            (credentials::Local::name().into(), credentials::Local::schema()),
            (credentials::E2b::name().into(), credentials::E2b::schema()),
            (credentials::Fly::name().into(), credentials::Fly::schema()),
            (credentials::Docker::name().into(), credentials::Docker::schema()),
            (credentials::Webhook::name().into(), credentials::Webhook::schema()),
        ]);
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
    request_body = NewProviders, responses((status = 201, body = Provider)))]
pub(crate) async fn configure(
    State(edge): State<Edge>,
    administrator: Administrator,
    Submitted { body, request }: Submitted<NewProvider>,
) -> Result<Response, Error> {
    let work = |edge, caller, request| set(edge, caller, request, body);
    hold(&edge, administrator.into_caller(), request, work).await
}

async fn set(edge: Edge, caller: Caller, request: Signed, body: NewProvider) -> Result<Response, Error> {
    let (provider, is_default) = (body.provider, body.is_default);
    let given = Credentials::parse(provider, &body.credentials);
    let given = given.map_err(|_| Error::field("credentials", "type", "cannot be read"))?;
    let (command, sealed) = match given {
        None => (provider::Command::ConfigureLocal { is_default }, vec![]),
        Some(given) => {
            let finding = ask(&edge, &caller, &given).await;
            let finding = finding.map_err(|wrong| Error::Unprocessable(unusable(wrong)))?;
            let version = ValueId::from_ulid(edge.new_ulid());
            let sealed = given.seal(&edge.app.keys.masters, caller.tenant.id, version);
            let configuration = Configuration { provider, credentials: version, is_default, finding };
            (provider::Command::Configure(configuration), vec![sealed])
        }
    };
    let submission = submission(&caller, command, sealed);
    let answering = show(StatusCode::CREATED, caller.request_id, provider);
    act(&edge, &caller, &request, submission, answering).await
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
    let work = move |edge, caller, request| check(edge, caller, request, provider);
    hold(&edge, administrator.into_caller(), request, work).await
}

async fn check(
    edge: Edge,
    caller: Caller,
    request: Signed,
    provider: ProviderName,
) -> Result<Response, Error> {
    let found = credentials::find(&edge.app, caller.tenant.id, provider).await.map_err(unopened)?;
    let command = match found {
        // The rules say why there is nothing to ask, with a version that is nobody's.
        None => provider::Command::Verify {
            provider,
            credentials: ValueId::from_ulid(edge.new_ulid()),
            finding: Finding { status: Status::Unverified, reason: None },
        },
        Some((credentials, given)) => {
            let finding = ask(&edge, &caller, &given).await.unwrap_or_else(unusable_now);
            provider::Command::Verify { provider, credentials, finding }
        }
    };
    let submission = submission(&caller, command, vec![]);
    let answering = show(StatusCode::OK, caller.request_id, provider);
    act(&edge, &caller, &request, submission, answering).await
}

/// Removes a provider, and its credentials. It must not have active agents; where it was the default, `local` is. The
/// sandboxes of agents that have just ended are removed first, for which this waits some seconds: a provider whose vendor
/// has not let go of them by then stays, since that takes the credentials.
#[utoipa::path(delete, operation_id = "removeProvider", path = "/v1/providers/{provider}", tag = "providers",
    params(("provider" = String, Path, description = "The provider")),
    responses((status = 200, body = Done)))]
pub(crate) async fn remove(
    State(edge): State<Edge>,
    administrator: Administrator,
    Id(provider): Id<ProviderName>,
    Optional { request, .. }: Optional<Nothing>,
) -> Result<Response, Error> {
    let work = move |edge, caller, request| take_away(edge, caller, request, provider);
    hold(&edge, administrator.into_caller(), request, work).await
}

async fn take_away(
    edge: Edge,
    caller: Caller,
    request: Signed,
    provider: ProviderName,
) -> Result<Response, Error> {
    // In test mode all sandboxes are mocks.
    if caller.tenant.mode == Mode::Live {
        let_go(&edge, &caller, provider).await?;
    }
    let sealed = vec![SealedChange::Delete(provider::place(provider))];
    let submission = submission(&caller, provider::Command::Remove(provider), sealed);
    let request_id = caller.request_id;
    let answering: Answering = Box::new(move |_, verdict| {
        let answer = match verdict {
            Ok(_) => success(StatusCode::OK, &Done::DONE),
            Err(refusal) => refused(refusal, request_id),
        };
        Box::pin(std::future::ready(Ok(answer)))
    });
    act(&edge, &caller, &request, submission, answering).await
}

/// Waits until the vendor has let go of the sandboxes of agents that have ended, which takes the credentials that are
/// about to be deleted.
async fn let_go(edge: &Edge, caller: &Caller, provider: ProviderName) -> Result<(), Error> {
    // Where the rules refuse it anyway, nothing comes of waiting.
    let asked = submission(caller, provider::Command::AskRemoval(provider), vec![]);
    let verdict = edge.app.log.execute(caller.tenant, asked).await?;
    verdict.map_err(|refusal| Error::from(&refusal))?;
    let scope = edge.app.log.scope(caller.tenant.id);
    let until = Instant::now() + config::RELEASE_DEADLINE;
    while read::agent::is_to_release(scope, provider).await? {
        if Instant::now() >= until {
            let mut agents = read::agent::to_release(scope, provider).await?;
            let (name, number) = (provider.as_str(), agents.len());
            let message =
                format!("The sandboxes of agents of the provider {name} were not released yet: {number}.");
            agents.truncate(config::NAMED_AGENTS);
            return Err(Error::InUse { message, agents });
        }
        tokio::time::sleep(config::RELEASE_POLL).await;
    }
    Ok(())
}

/// Asks a provider whether it takes these credentials; in test mode nobody is asked.
async fn ask(edge: &Edge, caller: &Caller, given: &Credentials) -> Result<Finding, Wrong> {
    match caller.tenant.mode {
        Mode::Test => outside(edge).check(given).map(|()| Finding::active()),
        Mode::Live => outside(edge).verify(given, edge.app.clock.now()).await,
    }
}

fn outside(edge: &Edge) -> Outside<'_> {
    Outside { clients: &edge.app.clients, vendors: &edge.app.vendors }
}

fn unusable(wrong: Wrong) -> Vec<Field> {
    let field = |(field, why): (&str, Unusable)| {
        let rule = if field == "secret" { "format" } else { "address" };
        Field::new(below_credentials(field), rule, why.to_string())
    };
    let mut fields: Vec<Field> = wrong.into_iter().map(field).collect();
    fields.sort();
    fields
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

/// The JSON of something confided, which is wiped.
fn as_written<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Plaintext, D::Error> {
    let written = Box::<RawValue>::deserialize(deserializer)?;
    Ok(Plaintext::from(String::from(Box::<str>::from(written))))
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
