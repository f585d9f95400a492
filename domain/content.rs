//! References from an event to the personal content that lies beside the log.
//!
//! What a person wrote, and what was answered, is a row of its own that can be erased. The event holds the row's
//! id and a salted digest, so it proves what the content was while it exists, and verifies for ever after.

use serde::{Deserialize, Serialize};

use crate::id::ContentId;

/// Where a piece of personal content lies, and the digest that binds it to the event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ContentRef {
    /// The row of content.
    pub content_id: ContentId,
    /// SHA-256 of the row's salt followed by its body, in lower-case hex.
    pub sha256: String,
}
