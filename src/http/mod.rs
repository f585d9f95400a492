//! The API over HTTP. [`router`] shows all of it on one page; the other files are its manners, once for every route.

mod access;
mod auth;
mod body;
mod credentials;
mod error;
pub(crate) mod health;
mod idempotency;
mod json;
mod page;
mod query;
mod rate;
mod router;
mod schema;
/// What the sender of a webhook trigger signs.
pub mod signature;
mod sse;
mod v1;

use std::sync::Arc;

use crate::app::App;

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use page::Listing;
pub use router::{document, router};
pub(crate) use v1::usage::{export, period};

/// What every handler may use: the server's parts, and what this server keeps in memory for its edge.
#[derive(Clone)]
pub(crate) struct Edge {
    /// The server's parts.
    pub(crate) app: Arc<App>,
    /// The API keys that this server has seen of late.
    credentials: Arc<credentials::Credentials>,
    /// The requests that wait to be counted.
    rates: Arc<rate::Rates>,
    /// Frames of agents' streams, made once for all that follow an agent.
    frames: Arc<v1::agent_stream::Frames>,
    /// Frames of streams of events, for all that follow a log.
    events: Arc<sse::Frames>,
}

impl Edge {
    fn new(app: Arc<App>) -> Self {
        Self {
            app,
            credentials: Arc::default(),
            rates: Arc::default(),
            frames: Arc::default(),
            events: Arc::default(),
        }
    }
}

/// The parameters of a query, as a request's are read.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn query(text: &str) -> query::Query {
    query::Query::parse(text)
}
