//! API keys: made with a role, revoked once.

mod decide;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

pub use decide::Command;

use crate::Event;
use crate::id::KeyId;

/// What a key may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Everything.
    Admin,
    /// Everything but keys, providers and rate cards.
    Developer,
    /// Reads usage, billing, audit and events.
    Finance,
    /// Reads everything, changes nothing.
    ReadOnly,
}

impl Role {
    /// The role as it is written in events, commands and the database.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::Developer => "developer",
            Self::Finance => "finance",
            Self::ReadOnly => "read_only",
        }
    }
}

/// An API key was made. The secret is shown once and never stored; the digest knows it again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Created {
    /// Its public name.
    pub key_id: KeyId,
    /// What it may do.
    pub role: Role,
    /// HMAC-SHA-256 of the secret under the server's pepper, in lower-case hex.
    pub digest: String,
    /// The secret's last four characters, to know it again by eye.
    pub last_four: String,
}

/// An API key was revoked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Revoked {
    /// Which key.
    pub key_id: KeyId,
}

/// What decisions about a key stand on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// There is no such key.
    #[default]
    Absent,
    /// It opens the API.
    Active,
    /// It opens nothing, for good.
    Revoked,
}

impl State {
    fn fold(&mut self, event: &Event) {
        match event {
            Event::KeyCreated(_) => *self = Self::Active,
            Event::KeyRevoked(_) => *self = Self::Revoked,
            _ => {}
        }
    }
}
