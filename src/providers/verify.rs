//! Whether a provider takes its credentials: one cheap call that changes nothing.
//!
//! The calls are written against what the vendors publish (E2B's `GET /v2/sandboxes`, Fly's `GET /v1/apps/{app}`, the
//! Docker Engine's `GET /_ping`) and tested against strict local servers; a webhook is sent a `ping` in the manner of
//! `docs/webhook-compute.md`.

use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Method, StatusCode};
use theazo_domain::provider::{Finding, Status};
use theazo_domain::time::Timestamp;
use url::Url;
use zeroize::Zeroizing;

use super::Vendors;
use super::client::{Call, Client, Clients, Error, Limits};
use super::compute::webhook::{InvalidSecret, SigningKey};
use super::credentials::{Credentials, DockerHost, E2b, Fly, Webhook};
use super::guard::Refused;
use crate::{config, random};

const LIMITS: Limits = Limits {
    header: config::VERIFY_DEADLINE,
    between: config::VERIFY_DEADLINE,
    total: config::VERIFY_DEADLINE,
    response_bytes: config::VERIFY_BYTES,
    redirects: 0,
};

/// Why credentials cannot be used, whatever the provider would say: the address that they name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    /// It is none.
    #[error("must be an http or https URL")]
    Malformed,
    /// It may not be called.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// It is no engine's.
    #[error(transparent)]
    DockerHost(#[from] super::credentials::MalformedHost),
    /// It is a socket of the server's machine.
    #[error("must not be a socket of the server but the one that its operator has named")]
    Socket,
    /// No key can be made of it.
    #[error(transparent)]
    Secret(#[from] InvalidSecret),
}

/// The fields of credentials that are wrong, and how.
pub type Wrong = Vec<(&'static str, Unusable)>;

/// The ways to the providers.
#[derive(Debug, Clone)]
pub struct Outside<'a> {
    /// The clients.
    pub clients: &'a Clients,
    /// Where the vendors are.
    pub vendors: &'a Vendors,
}

impl Outside<'_> {
    /// Checks what credentials say of themselves, without calling anyone.
    ///
    /// # Errors
    /// [`Wrong`], every field at once.
    pub fn check(&self, credentials: &Credentials) -> Result<(), Wrong> {
        let (url, secret) = match credentials {
            Credentials::E2b(_) | Credentials::Fly(_) => (Ok(()), Ok(())),
            Credentials::Docker(docker) => {
                let engine = self.docker(docker.host.as_deref());
                let checked = engine.and_then(|(client, url)| Ok(client.check_literal(&url)?));
                (checked.map_err(|error| ("host", error)), Ok(()))
            }
            Credentials::Webhook(webhook) => {
                let url = Url::parse(&webhook.url).map_err(|_| Unusable::Malformed);
                let checked = url.and_then(|url| Ok(self.clients.guarded.check_literal(&url)?));
                let key = SigningKey::of(&webhook.secret).map(drop);
                (checked.map_err(|error| ("url", error)), key.map_err(|error| ("secret", error.into())))
            }
        };
        let wrong: Wrong = [url.err(), secret.err()].into_iter().flatten().collect();
        if wrong.is_empty() { Ok(()) } else { Err(wrong) }
    }

    /// The client for a Docker engine, and its address. An engine that the operator has named is reached as it is;
    /// another one is a customer's, and reached like everything that a customer names.
    ///
    /// # Errors
    /// [`Unusable::DockerHost`], [`Unusable::Socket`].
    ///
    /// # Panics
    /// Never: the host of a socket's URL is a constant.
    pub fn docker(&self, host: Option<&str>) -> Result<(Client, Url), Unusable> {
        let host = host.map_or_else(|| Ok(self.vendors.docker.clone()), str::parse)?;
        let operators = host == self.vendors.docker;
        match host {
            DockerHost::Socket(path) if operators => {
                let url = Url::parse("http://docker/").expect("it is a URL");
                Ok((self.clients.over_socket(&path), url))
            }
            DockerHost::Socket(_) => Err(Unusable::Socket),
            DockerHost::Http(url) if operators => Ok((self.clients.operator.clone(), url)),
            DockerHost::Http(url) => Ok((self.clients.guarded.clone(), url)),
        }
    }

    /// Asks a provider whether it takes the credentials.
    ///
    /// # Errors
    /// [`Wrong`] when the credentials name an address that may not be called, also by way of a name.
    pub async fn verify(&self, credentials: &Credentials, now: Timestamp) -> Result<Finding, Wrong> {
        self.check(credentials)?;
        let (field, (client, call)) = match credentials {
            Credentials::E2b(credentials) => ("apiKey", self.ask_e2b(credentials)),
            Credentials::Fly(credentials) => ("apiToken", self.ask_fly(credentials)),
            Credentials::Docker(docker) => {
                let (client, url) =
                    self.docker(docker.host.as_deref()).map_err(|error| vec![("host", error)])?;
                ("host", (client, Call::get(below(&url, "_ping"))))
            }
            Credentials::Webhook(webhook) => {
                let call = ping(webhook, now).ok_or_else(|| vec![("url", Unusable::Malformed)])?;
                ("url", (self.clients.guarded.clone(), call))
            }
        };
        let answer = match client.send(call, &LIMITS).await {
            Ok(reply) => {
                let status = reply.status();
                reply.excerpt().await.map(|_| status)
            }
            Err(error) => Err(error),
        };
        match answer {
            Err(Error::Refused(refused)) => Err(vec![(field, refused.into())]),
            Err(error) => Ok(unanswered(&error)),
            Ok(status) => Ok(answered(credentials, status)),
        }
    }

    fn ask_e2b(&self, credentials: &E2b) -> (Client, Call) {
        let mut url = below(&self.vendors.e2b, "v2/sandboxes");
        url.set_query(Some("limit=1"));
        let mut call = Call::get(url);
        call.headers.insert(HeaderName::from_static("x-api-key"), secret(&credentials.api_key));
        (self.clients.operator.clone(), call)
    }

    fn ask_fly(&self, credentials: &Fly) -> (Client, Call) {
        let mut call = Call::get(below(&self.vendors.fly, &format!("v1/apps/{}", credentials.app_name)));
        let bearer = Zeroizing::new(format!("Bearer {}", *credentials.api_token));
        call.headers.insert(AUTHORIZATION, secret(&bearer));
        (self.clients.operator.clone(), call)
    }
}

/// A path below a base URL, which may have a path of its own.
fn below(base: &Url, path: &str) -> Url {
    let mut url = base.clone();
    url.set_path(&format!("{}/{path}", base.path().trim_end_matches('/')));
    url
}

/// A header that is not shown where headers are.
fn secret(text: &str) -> HeaderValue {
    let mut value = HeaderValue::from_str(text).expect("credentials are checked to be visible ASCII");
    value.set_sensitive(true);
    value
}

/// A signed message that asks for nothing but a 2xx (<https://www.standardwebhooks.com>).
fn ping(webhook: &Webhook, now: Timestamp) -> Option<Call> {
    let body = format!(r#"{{"type":"ping","timestamp":"{now}","data":{{}}}}"#);
    let (id, timestamp_s) = (format!("msg_{}", random::ulid(now)), now.millis() / 1_000);
    let signature = SigningKey::of(&webhook.secret).ok()?.sign(&id, timestamp_s, body.as_bytes());
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    for (name, value) in
        [("webhook-id", id), ("webhook-timestamp", timestamp_s.to_string()), ("webhook-signature", signature)]
    {
        let value = HeaderValue::from_str(&value).expect("ids, numbers and base64 fit in headers");
        headers.insert(HeaderName::from_static(name), value);
    }
    Some(Call { method: Method::POST, url: Url::parse(&webhook.url).ok()?, headers, body: body.into() })
}

/// What follows from there being no answer. That none came in time says nothing.
fn unanswered(error: &Error) -> Finding {
    let status = match error {
        Error::Unreached | Error::Silent | Error::Slow => Status::Unverified,
        _ => Status::Error,
    };
    Finding { status, reason: Some(error.to_string()) }
}

/// What follows from an answer. Its words are left out, since they may repeat what they were asked with.
fn answered(credentials: &Credentials, status: StatusCode) -> Finding {
    let said = match (credentials, status) {
        (Credentials::Webhook(_), status) if status.is_success() => return Finding::active(),
        (_, StatusCode::OK) => return Finding::active(),
        (_, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => "it refused the credentials",
        (Credentials::Fly(_), StatusCode::NOT_FOUND) => "it has no app of this name",
        _ => "it answered otherwise than expected",
    };
    Finding { status: Status::Error, reason: Some(format!("{said} (status {})", status.as_u16())) }
}
