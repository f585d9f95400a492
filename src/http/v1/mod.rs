//! The resources of the API, a file each.

pub(crate) mod adjustments;
pub(crate) mod agent_config;
pub(crate) mod agent_stream;
pub(crate) mod agents;
pub(crate) mod budgets;
pub(crate) mod definitions;
pub(crate) mod events;
pub(crate) mod exec;
pub(crate) mod limits;
pub(super) mod money;
pub(crate) mod providers;
pub(crate) mod secrets;
pub(crate) mod sessions;
pub(crate) mod tasks;
pub(crate) mod unconfirmed;
pub(crate) mod usage;

use serde::Serialize;
use theazo_domain::content::ContentRef;
use ulid::Ulid;
use utoipa::ToSchema;

use super::Edge;
use crate::log::Content;
use crate::random;

/// It was done, and there is nothing to show of it.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Done {
    /// Always true.
    ok: bool,
}

impl Done {
    /// The only value.
    pub(crate) const DONE: Self = Self { ok: true };
}

impl Edge {
    /// The random part of a new id.
    fn new_ulid(&self) -> Ulid {
        random::ulid(self.app.clock.now())
    }

    /// What is personal, for its row beside the log, and the reference to it that the event holds.
    fn content(&self, body: String) -> (Content, ContentRef) {
        Content::new(self.app.clock.now(), body)
    }
}
