//! Which client runs the sandboxes of a provider, with the credentials that the organization has confided.

use std::sync::Arc;

use theazo_domain::agent_config::ProviderName;
use theazo_domain::organization::Mode;
use url::Url;

use crate::app::App;
use crate::log::Tenant;
use crate::providers::compute::docker::{self, Docker, NamedBy};
use crate::providers::compute::e2b::{self, E2b};
use crate::providers::compute::fly::{self, Fly};
use crate::providers::compute::webhook::Webhook;
use crate::providers::compute::{Compute, Error, mock};
use crate::providers::credentials::{self, Credentials, DockerHost};

/// Who runs the sandboxes of a provider, for a tenant. In test mode nobody does.
///
/// # Errors
/// [`Error`] when the provider is not configured, or its credentials cannot be had.
pub async fn compute(app: &App, tenant: Tenant, provider: ProviderName) -> Result<Arc<dyn Compute>, Error> {
    if tenant.mode == Mode::Test {
        return Ok(Arc::new(mock::Mock));
    }
    if provider == ProviderName::Local {
        return Ok(Arc::clone(&app.local));
    }
    let found = credentials::find(app, tenant.id, provider).await;
    let found = found.map_err(|error| match error {
        credentials::Error::Database(error) => error.into(),
        sealed @ credentials::Error::Sealed(..) => Error::internal(sealed),
    })?;
    let missing = || Error::Refused(format!("the provider {} is not configured", provider.as_str()));
    let (_, credentials) = found.ok_or_else(missing)?;
    client(app, tenant, credentials)
}

fn client(app: &App, tenant: Tenant, credentials: Credentials) -> Result<Arc<dyn Compute>, Error> {
    let owner = format!("{}-{}", tenant.organization_id, tenant.mode.as_str());
    let (clients, vendors) = (&app.clients, &app.vendors);
    Ok(match credentials {
        Credentials::E2b(confided) => {
            let api_url = vendors.e2b.clone();
            // E2B's API is `api.` at the domain of its sandboxes.
            let domain = api_url.host_str().and_then(|host| host.strip_prefix("api.")).map(str::to_owned);
            let made = vendors.e2b_sandboxes.clone();
            let domain = domain.unwrap_or_else(|| made.domain.clone());
            let settings = e2b::Settings { owner, api_url, domain, ..made };
            Arc::new(E2b::new(clients.operator.clone(), confided.api_key, settings))
        }
        Credentials::Fly(confided) => {
            let (app, api_url) = (confided.app_name, vendors.fly.clone());
            let settings = fly::Settings { owner, app, api_url, ..vendors.fly_sandboxes.clone() };
            Arc::new(Fly::new(clients.operator.clone(), confided.api_token, settings))
        }
        Credentials::Docker(confided) => {
            let (host, named_by) = match confided.host {
                Some(host) if !is_operators(&host, &vendors.docker) => {
                    (host, NamedBy::Customer(clients.guarded.clone()))
                }
                _ => (operators(&vendors.docker), NamedBy::Operator),
            };
            let settings = docker::Settings { owner, ..vendors.docker_sandboxes.clone() };
            Arc::new(Docker::new(&host, named_by, settings)?)
        }
        Credentials::Webhook(confided) => {
            let url = Url::parse(&confided.url).map_err(|error| Error::Refused(error.to_string()))?;
            let clock = Arc::clone(&app.clock);
            let webhook = Webhook::new(clients.guarded.clone(), url, confided.secret, clock);
            Arc::new(webhook.map_err(|error| Error::Refused(error.to_string()))?)
        }
    })
}

/// Whether a host that a customer has named is the operator's own.
fn is_operators(host: &str, docker: &DockerHost) -> bool {
    host.parse::<DockerHost>().is_ok_and(|host| host == *docker)
}

/// The operator's host as the client takes it.
fn operators(docker: &DockerHost) -> String {
    match docker {
        DockerHost::Socket(path) => format!("unix://{}", path.display()),
        DockerHost::Http(url) => {
            let host = url.host_str().unwrap_or_default();
            format!("tcp://{host}:{}", url.port_or_known_default().unwrap_or(2_375))
        }
    }
}
