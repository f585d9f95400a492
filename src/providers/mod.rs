//! What lies outside: where agents' code runs, and the models that they ask.

/// The one HTTP client.
pub mod client;
/// Compute: sandboxes, here and at vendors.
pub mod compute;
/// The credentials of compute providers.
pub mod credentials;
/// Which addresses a customer may have called.
pub mod guard;
/// Language models.
pub mod model;
mod resolver;
/// The built-in tools.
pub mod tools;
/// Whether a provider takes its credentials.
pub mod verify;

use credentials::DockerHost;
use guard::Network;
use url::Url;

/// What the operator says of what lies outside.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// Ranges that customers may name though they are not public.
    pub allowed_networks: Vec<Network>,
    /// Where the search engine is that agents may ask, with SearXNG's JSON interface.
    pub search_engine: Option<Url>,
    /// How sandboxes on this machine are made, for whoever runs programs in them.
    pub sandboxes: Option<compute::local::Options>,
    /// Where the vendors are.
    pub vendors: Vendors,
}

/// Where the vendors of compute are.
#[derive(Debug, Clone)]
pub struct Vendors {
    /// E2B's API.
    pub e2b: Url,
    /// The API of Fly's machines.
    pub fly: Url,
    /// The Docker engine of providers that name none.
    pub docker: DockerHost,
    /// How sandboxes are made at E2B; whose they are and where the API is stands elsewhere. So with the others.
    pub e2b_sandboxes: compute::e2b::Settings,
    /// How machines are made at Fly.io.
    pub fly_sandboxes: compute::fly::Settings,
    /// How containers are made.
    pub docker_sandboxes: compute::docker::Settings,
}

impl Default for Vendors {
    fn default() -> Self {
        let url = |text: &str| Url::parse(text).expect("it is a URL");
        Self {
            e2b: url("https://api.e2b.app"),
            fly: url("https://api.machines.dev"),
            docker: DockerHost::Socket("/var/run/docker.sock".into()),
            e2b_sandboxes: compute::e2b::Settings::of(String::new()),
            fly_sandboxes: compute::fly::Settings::of(String::new(), String::new()),
            docker_sandboxes: compute::docker::Settings::of(String::new()),
        }
    }
}
