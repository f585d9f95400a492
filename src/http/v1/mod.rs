//! The resources of the API, a file each.

pub(crate) mod agent_config;
pub(crate) mod definitions;
pub(crate) mod events;
pub(crate) mod limits;
mod money;
pub(crate) mod providers;
pub(crate) mod secrets;
pub(crate) mod sessions;

use serde::Serialize;
use sha2::{Digest, Sha256};
use theazo_domain::content::ContentRef;
use theazo_domain::id::ContentId;
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
        let content_id = ContentId::from_ulid(self.new_ulid());
        let salt = random::bytes();
        let digest = Sha256::new().chain_update(salt).chain_update(&body).finalize();
        let reference = ContentRef { content_id, sha256: hex::encode(digest) };
        (Content { content_id, salt, body }, reference)
    }
}
