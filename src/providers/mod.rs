//! What lies outside: where agents' code runs, and the models that they ask.

/// The one HTTP client.
pub mod client;
/// Compute: sandboxes, here and at vendors.
pub mod compute;
/// Which addresses a customer may have called.
pub mod guard;
/// Language models.
pub mod model;
mod resolver;
/// The built-in tools.
pub mod tools;

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
}
