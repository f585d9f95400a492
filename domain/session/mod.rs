//! One user's isolated session: its status and its limits.

mod decide;
mod limits;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

pub use decide::{Command, Opening};
pub use limits::{CostLimit, CostPeriod, Limits, LimitsPatch};

use crate::Event;
use crate::content::ContentRef;
use crate::id::{SessionId, UserId};
use crate::secret::Shelf;

/// Where a session stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Work may start in it.
    Active,
    /// No work starts until it is resumed.
    Paused,
    /// It has ended, for good.
    Terminated,
}

impl Status {
    /// The status as it is written on the wire and in the database.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Paused => "paused",
            Self::Terminated => "terminated",
        }
    }
}

/// A session was created for an end user.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Created {
    /// The session.
    pub session_id: SessionId,
    /// Whose it is.
    pub user_id: UserId,
    /// Its limits.
    #[serde(default, skip_serializing_if = "Limits::is_empty")]
    pub limits: Limits,
    /// The caller's own key-value pairs, beside the log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<ContentRef>,
}

/// A session was paused, resumed or terminated.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Changed {
    /// The session.
    pub session_id: SessionId,
    /// Whose it is.
    pub user_id: UserId,
}

/// The limits of a session were replaced.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LimitsChanged {
    /// The session.
    pub session_id: SessionId,
    /// Whose it is.
    pub user_id: UserId,
    /// All of its limits from now on.
    pub limits: Limits,
}

/// What decisions about a session stand on: nothing before it was created.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State(Option<Existing>);

/// What decisions about a session that exists stand on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Existing {
    user_id: UserId,
    status: Status,
    limits: Limits,
    #[serde(default, skip_serializing_if = "Shelf::is_empty")]
    secrets: Shelf,
}

impl State {
    /// Where the session stands; `None` before it was created.
    #[must_use]
    pub fn status(&self) -> Option<Status> {
        self.0.as_ref().map(|session| session.status)
    }

    fn fold(&mut self, event: &Event) {
        if let Event::SessionCreated(created) = event {
            self.0 = Some(Existing {
                user_id: created.user_id,
                status: Status::Active,
                limits: created.limits.clone(),
                secrets: Shelf::default(),
            });
            return;
        }
        let Some(session) = &mut self.0 else { return };
        match event {
            Event::SessionPaused(_) => session.status = Status::Paused,
            Event::SessionResumed(_) => session.status = Status::Active,
            Event::SessionTerminated(_) => session.status = Status::Terminated,
            Event::SessionLimitsChanged(changed) => session.limits = changed.limits.clone(),
            event => session.secrets.evolve(event),
        }
    }
}
