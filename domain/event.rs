//! The closed list of what can happen, and how each event is named and written.

use serde::{Deserialize, Serialize};

use crate::{Subject, definition, key, organization, secret, session};

/// Something that has happened. The name of a variant on disk never changes; what it carries changes only with
/// a new format version and an upcaster from the old one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    /// An organization began, in one of its modes: the first event of its log.
    #[serde(rename = "organization.created")]
    OrganizationCreated(organization::Created),
    /// An API key was made.
    #[serde(rename = "key.created")]
    KeyCreated(key::Created),
    /// An API key was revoked, for good.
    #[serde(rename = "key.revoked")]
    KeyRevoked(key::Revoked),
    /// A session was created for an end user.
    #[serde(rename = "session.created")]
    SessionCreated(session::Created),
    /// A session was paused: no work starts in it.
    #[serde(rename = "session.paused")]
    SessionPaused(session::Changed),
    /// A paused session goes on.
    #[serde(rename = "session.resumed")]
    SessionResumed(session::Changed),
    /// A session ended, for good.
    #[serde(rename = "session.terminated")]
    SessionTerminated(session::Changed),
    /// The limits of a session were replaced.
    #[serde(rename = "session.limits_changed")]
    SessionLimitsChanged(session::LimitsChanged),
    /// An agent definition began, as version 1.
    #[serde(rename = "definition.created")]
    DefinitionCreated(definition::Versioned),
    /// The next version of an agent definition was made.
    #[serde(rename = "definition.updated")]
    DefinitionUpdated(definition::Versioned),
    /// An agent definition was archived: no new agents are made from it.
    #[serde(rename = "definition.archived")]
    DefinitionArchived(definition::Archived),
    /// A secret was set: never its value.
    #[serde(rename = "secret.set")]
    SecretSet(secret::Set),
    /// A secret was deleted, with its value.
    #[serde(rename = "secret.deleted")]
    SecretDeleted(secret::Deleted),
}

/// An event as it is written: its type, and its data as the JSON text that is hashed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// The event's type, such as `session.created`.
    pub kind: String,
    /// One line of JSON.
    pub data: String,
}

impl Event {
    /// The format version that this program writes for every type that has not been given a newer one.
    pub const FIRST_VERSION: i16 = 1;

    /// The type names of every event, in the order of the list.
    pub const KINDS: [&'static str; 13] = [
        "organization.created",
        "key.created",
        "key.revoked",
        "session.created",
        "session.paused",
        "session.resumed",
        "session.terminated",
        "session.limits_changed",
        "definition.created",
        "definition.updated",
        "definition.archived",
        "secret.set",
        "secret.deleted",
    ];

    /// The newest format version of a type, which is what this program writes; `None` for a type it does not know.
    #[must_use]
    pub fn newest_version(kind: &str) -> Option<i16> {
        Self::KINDS.contains(&kind).then_some(Self::FIRST_VERSION)
    }

    /// Everything that this event is about, each once.
    #[must_use]
    pub fn subjects(&self) -> Vec<Subject> {
        match self {
            Self::OrganizationCreated(event) => vec![Subject::Organization(event.organization_id)],
            Self::KeyCreated(event) => vec![Subject::Key(event.key_id)],
            Self::KeyRevoked(event) => vec![Subject::Key(event.key_id)],
            Self::SessionCreated(event) => {
                vec![Subject::Session(event.session_id), Subject::User(event.user_id)]
            }
            Self::SessionPaused(event) | Self::SessionResumed(event) | Self::SessionTerminated(event) => {
                vec![Subject::Session(event.session_id), Subject::User(event.user_id)]
            }
            Self::SessionLimitsChanged(event) => {
                vec![Subject::Session(event.session_id), Subject::User(event.user_id)]
            }
            Self::DefinitionCreated(event) | Self::DefinitionUpdated(event) => {
                vec![Subject::Definition(event.definition_id)]
            }
            Self::DefinitionArchived(event) => vec![Subject::Definition(event.definition_id)],
            Self::SecretSet(event) => event.holder.subjects(),
            Self::SecretDeleted(event) => event.holder.subjects(),
        }
    }

    /// Writes the event as its type and one line of JSON.
    ///
    /// # Panics
    /// Never: every event is a struct of texts, numbers and lists, which serialization cannot refuse.
    #[must_use]
    pub fn write(&self) -> Written {
        // Serde writes a newtype variant as {"name":data}; the two parts are cut out of that text.
        let tagged = serde_json::to_string(self).expect("an event is plain data");
        let (name, rest) =
            tagged[2..].split_once("\":").expect("a newtype variant is an object of one member");
        Written { kind: name.to_owned(), data: rest[..rest.len() - 1].to_owned() }
    }

    /// Reads an event of this program's own format version.
    ///
    /// # Errors
    /// When the type is unknown or the data is not of its form.
    pub fn read(kind: &str, data: &str) -> Result<Self, serde_json::Error> {
        let mut tagged = String::with_capacity(kind.len() + data.len() + 5);
        tagged.push_str("{\"");
        tagged.push_str(kind);
        tagged.push_str("\":");
        tagged.push_str(data);
        tagged.push('}');
        serde_json::from_str(&tagged)
    }
}
