//! Secrets: named values that are confided to an organization or to one session.
//!
//! The values themselves lie sealed beside the log. Here are their names, and which version of each is the present one.
//! Whoever a scope belongs to decides about its secrets: the organization, or the session, which may have ended.

mod decide;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

pub use decide::{Command, MOST_BYTES_IN_SCOPE, MOST_IN_SCOPE, taken};

use crate::id::{OrganizationId, SessionId, UserId, ValueId};
use crate::{Event, Subject};

/// The name of a secret: 1 to 128 letters, digits, underscores and hyphens of ASCII.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct Name(String);

/// A text that cannot name a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected 1 to 128 letters, digits, underscores or hyphens")]
pub struct MalformedName;

impl Name {
    /// What a name looks like, as a regular expression.
    pub const PATTERN: &'static str = "^[A-Za-z0-9_-]{1,128}$";

    /// The name as it was given.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Name {
    type Err = MalformedName;

    fn from_str(text: &str) -> Result<Self, MalformedName> {
        let spelled = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'));
        ((1..=128).contains(&text.len()) && spelled).then(|| Self(text.to_owned())).ok_or(MalformedName)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        std::borrow::Cow::<'de, str>::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Who can use a secret: everything of the organization, or one session. Written `org` or as the session's id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scope {
    /// Everything of the organization.
    Organization,
    /// One session, where it hides a secret of the organization of the same name.
    Session(SessionId),
}

impl Scope {
    /// Where in its tenant the value of a secret lies, sealed.
    #[must_use]
    pub fn place(self, name: &Name) -> String {
        format!("secret/{self}/{name}")
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Organization => formatter.write_str("org"),
            Self::Session(session_id) => session_id.fmt(formatter),
        }
    }
}

impl FromStr for Scope {
    type Err = crate::id::Malformed;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "org" { Ok(Self::Organization) } else { text.parse().map(Self::Session) }
    }
}

impl Serialize for Scope {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// To whom a secret is confided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, rename_all_fields = "camelCase")]
pub enum Holder {
    /// To one session.
    Session {
        /// The session.
        session_id: SessionId,
        /// Whose session it is.
        user_id: UserId,
    },
    /// To the organization.
    Organization {
        /// The organization.
        organization_id: OrganizationId,
    },
}

impl Holder {
    /// The scope of what is confided to it.
    #[must_use]
    pub const fn scope(self) -> Scope {
        match self {
            Self::Session { session_id, .. } => Scope::Session(session_id),
            Self::Organization { .. } => Scope::Organization,
        }
    }

    /// What an event about one of its secrets is about.
    #[must_use]
    pub fn subjects(self) -> Vec<Subject> {
        match self {
            Self::Session { session_id, user_id } => {
                vec![Subject::Session(session_id), Subject::User(user_id)]
            }
            Self::Organization { organization_id } => vec![Subject::Organization(organization_id)],
        }
    }
}

/// A secret was set. The value lies sealed beside the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Set {
    /// To whom it is confided.
    #[serde(flatten)]
    pub holder: Holder,
    /// Its name.
    pub name: Name,
    /// Which version it is from now on.
    pub version: ValueId,
    /// Which version it was until now, where it was set already.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaces: Option<ValueId>,
    /// The public fingerprint of the master key under which the value was sealed.
    pub master_key_id: String,
}

/// A secret was deleted, with its value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Deleted {
    /// To whom it was confided.
    #[serde(flatten)]
    pub holder: Holder,
    /// Its name.
    pub name: Name,
    /// Which version it was.
    pub version: ValueId,
}

/// The secrets of one scope by name, and the present version of each.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shelf(BTreeMap<Name, ValueId>);

impl Shelf {
    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The present version of a secret.
    #[must_use]
    pub fn version(&self, name: &Name) -> Option<ValueId> {
        self.0.get(name).copied()
    }

    /// Folds what has happened to a secret of this scope.
    pub fn evolve(&mut self, event: &Event) {
        match event {
            Event::SecretSet(set) => {
                self.0.insert(set.name.clone(), set.version);
            }
            Event::SecretDeleted(deleted) => {
                self.0.remove(&deleted.name);
            }
            _ => {}
        }
    }
}
