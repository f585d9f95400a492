//! The organization whose log it is: its name, plan and rate limit, and what all of its work may cost.

mod decide;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

pub use decide::Command;

use crate::Event;
use crate::budget::Purse;
use crate::id::OrganizationId;
use crate::secret::Shelf;

/// Which of an organization's two logs it is: they share nothing but the organization's id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Real work that costs money.
    Live,
    /// Mocked work that touches nothing outside the process.
    Test,
}

impl Mode {
    /// `live` or `test`, as in keys and on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Test => "test",
        }
    }
}

/// A plan, which says how many requests a minute each key may make.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Plan {
    /// Development and testing only.
    Free,
    /// Production workloads.
    Cloud,
    /// High-throughput applications.
    Team,
    /// A limit negotiated for this organization.
    Enterprise,
}

impl Plan {
    /// Requests a minute for each key, where the organization has no limit of its own.
    ///
    /// Source: the API reference, *Rate limits*. Enterprise is negotiated; without a number it is Team's.
    #[must_use]
    pub const fn requests_per_minute(self) -> u32 {
        match self {
            Self::Free => 60,
            Self::Cloud => 300,
            Self::Team | Self::Enterprise => 1_000,
        }
    }
}

/// An organization began, in one of its modes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Created {
    /// Its id, the same in both modes.
    pub organization_id: OrganizationId,
    /// The name an operator gave it.
    pub name: String,
    /// Which of its two logs this is.
    pub mode: Mode,
    /// Its plan.
    pub plan: Plan,
    /// Requests a minute for each key, where it differs from the plan's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_limit: Option<u32>,
}

/// What decisions about an organization stand on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    exists: bool,
    #[serde(default, skip_serializing_if = "Shelf::is_empty")]
    secrets: Shelf,
    /// What all of its work has cost, and its budget.
    #[serde(default)]
    purse: Purse,
}

impl State {
    /// What all of its work has cost, and its budget.
    #[must_use]
    pub const fn purse(&self) -> &Purse {
        &self.purse
    }

    fn fold(&mut self, event: &Event) {
        if let Event::OrganizationCreated(_) = event {
            self.exists = true;
        }
        self.secrets.evolve(event);
        self.purse.fold(event);
    }
}
