//! The compute providers of an organization: which are configured, which one is the default, and who uses them.
//!
//! They are decided on together, so that there is exactly one default at any time. Their credentials lie sealed beside
//! the log; an event names the version that it set, never the credentials.

mod decide;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

pub use decide::{Command, Configuration};

pub use crate::agent_config::ProviderName;
use crate::id::{AgentId, ValueId};
use crate::{Event, agent};

/// A text that names no provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected the name of a provider")]
pub struct Unknown;

impl FromStr for ProviderName {
    type Err = Unknown;

    fn from_str(text: &str) -> Result<Self, Unknown> {
        Self::ALL.into_iter().find(|name| name.as_str() == text).ok_or(Unknown)
    }
}

/// Where in its tenant the credentials of a provider lie, sealed.
#[must_use]
pub fn place(provider: ProviderName) -> String {
    format!("provider/{}", provider.as_str())
}

/// What a provider is known to be good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// It took the credentials when it was last asked.
    Active,
    /// It refused them, or cannot be reached.
    Error,
    /// It has not said anything yet.
    Unverified,
}

impl Status {
    /// The status as it is written on the wire and in the database.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Error => "error",
            Self::Unverified => "unverified",
        }
    }
}

/// What asking a provider came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Finding {
    /// The status that follows.
    pub status: Status,
    /// Why it is not active, in the server's own words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl Finding {
    /// The provider took the credentials.
    #[must_use]
    pub const fn active() -> Self {
        Self { status: Status::Active, reason: None }
    }
}

/// Credentials of a provider were set, over what they were.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Configured {
    /// Which provider.
    pub provider: ProviderName,
    /// The version under which the credentials are sealed.
    pub credentials: ValueId,
    /// The version that they take the place of; none where the provider was not configured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaces: Option<ValueId>,
}

/// A provider was asked whether it takes the credentials.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Verified {
    /// Which provider.
    pub provider: ProviderName,
    /// The version of the credentials.
    pub credentials: ValueId,
    /// What it came to.
    #[serde(flatten)]
    pub finding: Finding,
}

/// Another provider is the default for new agents.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DefaultChanged {
    /// Which was.
    pub from: ProviderName,
    /// Which is.
    pub to: ProviderName,
}

/// A provider is not configured any more; its credentials were deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Removed {
    /// Which provider.
    pub provider: ProviderName,
    /// The version of the credentials.
    pub credentials: ValueId,
}

/// Who can run the sandboxes of new agents: `local`, and what is configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    /// Who does where nobody is named.
    pub default: ProviderName,
    configured: BTreeSet<ProviderName>,
}

impl Default for Offer {
    fn default() -> Self {
        Self { default: ProviderName::Local, configured: BTreeSet::new() }
    }
}

impl Offer {
    /// Whether it is among them.
    #[must_use]
    pub fn has(&self, provider: ProviderName) -> bool {
        provider == ProviderName::Local || self.configured.contains(&provider)
    }
}

/// What decisions about providers stand on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// The versions of the credentials of each that is configured; `local` needs none.
    configured: BTreeMap<ProviderName, ValueId>,
    /// The default, where it is not `local`.
    default: Option<ProviderName>,
    /// The agents that are neither terminated nor failed, and where their sandboxes are.
    agents: BTreeMap<AgentId, ProviderName>,
}

impl State {
    /// The provider of new agents that name none.
    #[must_use]
    pub fn default_provider(&self) -> ProviderName {
        self.default.unwrap_or(ProviderName::Local)
    }

    /// Who can run the sandboxes of new agents.
    #[must_use]
    pub fn offer(&self) -> Offer {
        Offer { default: self.default_provider(), configured: self.configured.keys().copied().collect() }
    }

    /// The active agents of a provider.
    fn agents_of(&self, provider: ProviderName) -> Vec<AgentId> {
        let theirs = self.agents.iter().filter(|(_, where_it_is)| **where_it_is == provider);
        theirs.map(|(agent_id, _)| *agent_id).collect()
    }

    fn fold(&mut self, event: &Event) {
        match event {
            Event::ProviderConfigured(configured) => {
                self.configured.insert(configured.provider, configured.credentials);
            }
            Event::ProviderRemoved(removed) => {
                self.configured.remove(&removed.provider);
            }
            Event::ProviderDefaultChanged(changed) => self.default = Some(changed.to),
            Event::AgentCreated(created) => {
                self.agents.insert(created.place.agent_id, created.provider);
            }
            Event::AgentFailed(agent::Failed { place, .. })
            | Event::AgentTerminated(agent::Terminated { place, .. }) => {
                self.agents.remove(&place.agent_id);
            }
            _ => {}
        }
    }
}
