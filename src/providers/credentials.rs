//! The credentials of compute providers: their shapes, and how they lie sealed.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use theazo_domain::id::ValueId;
use theazo_domain::provider::{ProviderName, place};
use url::Url;
use utoipa::ToSchema;
use zeroize::Zeroizing;

use crate::app::App;
use crate::log::{SealedChange, TenantId};
use crate::vault::{self, Address};
use crate::{config, database, read};

/// Credentials of a provider. Their texts are wiped from memory when they are dropped, and never shown.
#[derive(Clone, PartialEq, Eq)]
pub enum Credentials {
    /// For E2B.
    E2b(E2b),
    /// For Fly.
    Fly(Fly),
    /// For a Docker engine.
    Docker(Docker),
    /// For a service that speaks the webhook protocol.
    Webhook(Webhook),
}

/// Credentials of `local`: it needs none.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = LocalCredentials)]
pub struct Local {}

/// Credentials of `e2b`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(as = E2bCredentials)]
pub struct E2b {
    /// An API key of an E2B team.
    #[schema(value_type = String, max_length = 4096, pattern = "^[!-~]+$", examples("e2b_..."))]
    pub api_key: Zeroizing<String>,
}

/// Credentials of `fly`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(as = FlyCredentials)]
pub struct Fly {
    /// A token that may manage the app.
    #[schema(value_type = String, max_length = 4096, pattern = "^[!-~]+( [!-~]+)*$", examples("FlyV1 fm2_..."))]
    pub api_token: Zeroizing<String>,
    /// The app in which machines are made.
    #[schema(pattern = "^[a-z0-9][a-z0-9-]{0,62}$")]
    pub app_name: String,
}

/// Credentials of `docker`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(as = DockerCredentials)]
pub struct Docker {
    /// The engine: `tcp://…`, `http://…` or `https://…` at a public address, or what the server's operator has named.
    /// Left out, it is the operator's.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 2048, examples("tcp://docker.example.com:2375"))]
    pub host: Option<String>,
}

/// Credentials of `webhook`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(as = WebhookCredentials)]
pub struct Webhook {
    /// Where calls are sent: `http` or `https`, at a public address.
    #[schema(max_length = 2048, examples("https://compute.example.com/theazo"))]
    pub url: String,
    /// What calls are signed with, as in Standard Webhooks: base64 after `whsec_`, or else any text.
    #[schema(value_type = String, min_length = 16, max_length = 4096, pattern = "^[!-~]+$")]
    pub secret: Zeroizing<String>,
}

/// Never their texts.
impl fmt::Debug for Credentials {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Credentials({})", self.provider().as_str())
    }
}

impl Credentials {
    /// Reads the credentials of a provider from JSON. `local` has none.
    ///
    /// # Errors
    /// When they are not of the provider's shape.
    pub fn parse(provider: ProviderName, json: &str) -> Result<Option<Self>, serde_json::Error> {
        Ok(Some(match provider {
            ProviderName::Local => return Ok(None),
            ProviderName::E2b => Self::E2b(serde_json::from_str(json)?),
            ProviderName::Fly => Self::Fly(serde_json::from_str(json)?),
            ProviderName::Docker => Self::Docker(serde_json::from_str(json)?),
            ProviderName::Webhook => Self::Webhook(serde_json::from_str(json)?),
        }))
    }

    /// Whose they are.
    #[must_use]
    pub const fn provider(&self) -> ProviderName {
        match self {
            Self::E2b(_) => ProviderName::E2b,
            Self::Fly(_) => ProviderName::Fly,
            Self::Docker(_) => ProviderName::Docker,
            Self::Webhook(_) => ProviderName::Webhook,
        }
    }

    /// Seals them as a new version, to be written with the event that names it.
    ///
    /// # Panics
    /// Never: they are texts, which serialization cannot refuse.
    #[must_use]
    pub fn seal(&self, masters: &vault::Masters, tenant: TenantId, version: ValueId) -> SealedChange {
        let json = match self {
            Self::E2b(credentials) => vault::json(0, credentials),
            Self::Fly(credentials) => vault::json(0, credentials),
            Self::Docker(credentials) => vault::json(0, credentials),
            Self::Webhook(credentials) => vault::json(0, credentials),
        };
        let json = json.expect("texts can be written as JSON");
        let address = Address { tenant, place: place(self.provider()), version };
        let sealed = vault::sealed::seal(&masters.active(), &address, &json);
        SealedChange::Put(address, sealed)
    }
}

/// Why the credentials of a provider cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The database failed.
    #[error(transparent)]
    Database(#[from] database::Error),
    /// They do not open, or are not what was sealed.
    #[error("the credentials of {0} do not open: {1}")]
    Sealed(&'static str, String),
}

/// The present credentials of a provider and their version; `None` where it has none: it is not configured, or `local`.
///
/// # Errors
/// [`Error`].
pub async fn find(
    app: &App,
    tenant: TenantId,
    provider: ProviderName,
) -> Result<Option<(ValueId, Credentials)>, Error> {
    let scope = app.log.scope(tenant);
    let damaged = |reason: String| Error::Sealed(provider.as_str(), reason);
    let place = place(provider);
    // Both are read again where others took their place between the two reads.
    for _ in 0..config::SEALED_READS {
        let row = read::provider::get(scope, provider).await?;
        let Some(version) = row.and_then(|row| row.credentials) else { return Ok(None) };
        let Some((lies, sealed)) = read::sealed::at(scope, &place).await? else { continue };
        if lies != version {
            continue;
        }
        let address = Address { tenant, place, version };
        let opened = vault::sealed::open(&app.keys.masters, &address, &sealed);
        let opened = opened.map_err(|error| damaged(error.to_string()))?;
        let json = std::str::from_utf8(&opened).map_err(|_| damaged("they are no text".to_owned()))?;
        let read = Credentials::parse(provider, json);
        let read = read.map_err(|_| damaged("they are of another shape".to_owned()))?;
        return Ok(read.map(|credentials| (version, credentials)));
    }
    Err(damaged("what lies there is not the version that the log names".to_owned()))
}

/// Where a Docker engine is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DockerHost {
    /// Behind a socket of this machine.
    Socket(PathBuf),
    /// At an address, over HTTP.
    Http(Url),
}

/// A text that is no address of a Docker engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be unix:///PATH, tcp://HOST:PORT or an http or https URL")]
pub struct MalformedHost;

impl FromStr for DockerHost {
    type Err = MalformedHost;

    /// Reads it as Docker's own tools do; what TLS they would use over `tcp` is asked for with `https`.
    fn from_str(text: &str) -> Result<Self, MalformedHost> {
        if let Some(path) = text.strip_prefix("unix://") {
            return if path.starts_with('/') { Ok(Self::Socket(path.into())) } else { Err(MalformedHost) };
        }
        let http = match text.strip_prefix("tcp://") {
            Some(rest) => format!("http://{rest}"),
            None => text.to_owned(),
        };
        let url = Url::parse(&http).map_err(|_| MalformedHost)?;
        super::guard::check_form(&url).map_err(|_| MalformedHost)?;
        let alone = url.query().is_none() && url.fragment().is_none();
        if alone && (text.starts_with("http") || url.port().is_some()) {
            Ok(Self::Http(url))
        } else {
            Err(MalformedHost)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_never_shown() {
        let json = r#"{"url":"https://a.example/","secret":"hunter2-hunter2-hunter2"}"#;
        let credentials = Credentials::parse(ProviderName::Webhook, json).unwrap().unwrap();
        assert_eq!(format!("{credentials:?}"), "Credentials(webhook)");
        assert_eq!(Credentials::parse(ProviderName::Local, "{}").unwrap(), None);
    }

    #[test]
    fn a_docker_host_is_read_as_docker_does() {
        let http = |url: &str| Ok(DockerHost::Http(Url::parse(url).unwrap()));
        assert_eq!(
            "unix:///var/run/docker.sock".parse(),
            Ok(DockerHost::Socket("/var/run/docker.sock".into()))
        );
        assert_eq!("tcp://10.0.0.1:2375".parse(), http("http://10.0.0.1:2375/"));
        assert_eq!("https://docker.example.com".parse(), http("https://docker.example.com/"));
        for text in [
            "unix://docker.sock",
            "tcp://10.0.0.1",
            "ssh://a",
            "docker.sock",
            "",
            "http://a@b:1",
            "tcp://a:1?b",
        ] {
            assert_eq!(text.parse::<DockerHost>(), Err(MalformedHost), "{text}");
        }
    }
}
