//! Agent definitions: how agents are set up, described once, in versions that never change.

mod decide;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

pub use decide::{Command, Details, DetailsPatch};

use crate::Event;
use crate::agent_config::AgentConfig;
use crate::content::ContentRef;
use crate::id::DefinitionId;

/// Where a definition stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Agents can be made from it.
    Active,
    /// No new agents are made from it; it can still be read.
    Archived,
}

impl Status {
    /// The status as it is written on the wire and in the database.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Archived => "archived",
        }
    }
}

/// A version of a definition was made: the first by creating it, each next one by updating it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Versioned {
    /// The definition.
    pub definition_id: DefinitionId,
    /// Which version this is: 1, 2, 3 …
    pub version: i64,
    /// What people call it.
    pub name: String,
    /// How agents of this version are set up: all of it, not only what is new.
    #[serde(flatten)]
    pub config: AgentConfig,
    /// The caller's own key-value pairs, beside the log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<ContentRef>,
}

/// A definition was archived, for good.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Archived {
    /// The definition.
    pub definition_id: DefinitionId,
}

/// What decisions about a definition stand on: nothing before it was created.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State(Option<Existing>);

/// What decisions about a definition that exists stand on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Existing {
    status: Status,
    latest: Versioned,
}

impl State {
    /// Where the definition stands; `None` before it was created.
    #[must_use]
    pub fn status(&self) -> Option<Status> {
        self.0.as_ref().map(|definition| definition.status)
    }

    /// The latest version; `None` before there was one.
    #[must_use]
    pub fn latest(&self) -> Option<&Versioned> {
        self.0.as_ref().map(|definition| &definition.latest)
    }

    fn fold(&mut self, event: &Event) {
        match (event, &mut self.0) {
            (Event::DefinitionCreated(made), state) => {
                *state = Some(Existing { status: Status::Active, latest: made.clone() });
            }
            (Event::DefinitionUpdated(made), Some(definition)) => definition.latest = made.clone(),
            (Event::DefinitionArchived(_), Some(definition)) => definition.status = Status::Archived,
            _ => {}
        }
    }
}
