//! What a session may spend and hold at once.

use serde::{Deserialize, Serialize};

use crate::money::Currency;

/// Over which period a cost limit counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CostPeriod {
    /// The session's whole life.
    Session,
    /// Each calendar day in UTC.
    Day,
    /// Each calendar month in UTC.
    Month,
}

impl CostPeriod {
    /// The period as it is written on the wire and in the database.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Session => "session",
            Self::Day => "day",
            Self::Month => "month",
        }
    }
}

/// The most that a session may cost in a period.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CostLimit {
    /// In cents.
    pub amount: i64,
    /// Of this currency.
    pub currency: Currency,
    /// In each of these periods.
    pub period: CostPeriod,
}

/// The limits of a session; what is left out is not limited.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Limits {
    /// The most it may cost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_cost: Option<CostLimit>,
    /// The most agents at a time that are neither terminated nor failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_agents: Option<i64>,
    /// Minutes of compute before it is paused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_compute_minutes: Option<i64>,
}

/// A change of limits: for each, `None` leaves it, `Some(None)` lifts it, `Some(Some(_))` sets it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LimitsPatch {
    /// The most it may cost.
    pub max_cost: Option<Option<CostLimit>>,
    /// The most agents at a time.
    pub max_agents: Option<Option<i64>>,
    /// Minutes of compute before it is paused.
    pub max_compute_minutes: Option<Option<i64>>,
}

impl Limits {
    /// Whether nothing is limited.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// These limits with a change made.
    #[must_use]
    pub fn patched(&self, patch: &LimitsPatch) -> Self {
        Self {
            max_cost: patch.max_cost.unwrap_or(self.max_cost),
            max_agents: patch.max_agents.unwrap_or(self.max_agents),
            max_compute_minutes: patch.max_compute_minutes.unwrap_or(self.max_compute_minutes),
        }
    }
}
