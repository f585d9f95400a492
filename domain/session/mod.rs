//! One user's isolated session: its status, its limits, and the agents that live in it.

mod agents;
mod decide;
mod limits;
mod standing;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use decide::{Command, Opening};
pub use limits::{CostLimit, CostPeriod, Limits, LimitsPatch};
pub use standing::{LimitOverrun, LimitRefused, Standing};

use crate::Event;
use crate::account::Account;
use crate::agent::Life;
use crate::content::ContentRef;
use crate::id::{AgentId, SessionId, UserId};
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
    #[serde(default, skip_serializing_if = "Shelf::is_empty")]
    secrets: Shelf,
    standing: Standing,
    /// Those that have neither been terminated nor failed.
    agents: BTreeMap<AgentId, Life>,
}

impl State {
    /// Where the session stands; `None` before it was created.
    #[must_use]
    pub fn standing(&self) -> Option<&Standing> {
        self.0.as_ref().map(|session| &session.standing)
    }

    /// An agent of it that has not ended.
    pub(crate) fn life(&self, agent: AgentId) -> Option<&Life> {
        self.0.as_ref()?.agents.get(&agent)
    }

    /// Whose money a command may move: nobody's where there is no session, or no agent that it concerns.
    pub(crate) fn payer(&self, command: &Command) -> Option<UserId> {
        let session = self.0.as_ref()?;
        let moves = match command {
            Command::AddAgent(_) => true,
            Command::Pause | Command::Resume(_) | Command::Terminate | Command::TickCompute(..) => {
                !session.agents.is_empty()
            }
            _ => false,
        };
        moves.then_some(session.user_id)
    }

    fn fold(&mut self, event: &Event) {
        if let Event::SessionCreated(created) = event {
            let limits = created.limits.clone();
            let account = Account::default();
            let standing =
                Standing { status: Status::Active, limits, account, compute_ms: 0, compute_held_ms: 0 };
            let (user_id, agents, secrets) = (created.user_id, BTreeMap::new(), Shelf::default());
            self.0 = Some(Existing { user_id, secrets, standing, agents });
            return;
        }
        let Some(session) = &mut self.0 else { return };
        match event {
            Event::SessionPaused(_) => session.standing.status = Status::Paused,
            Event::SessionResumed(_) => session.standing.status = Status::Active,
            Event::SessionTerminated(_) => session.standing.status = Status::Terminated,
            Event::SessionLimitsChanged(changed) => session.standing.limits = changed.limits.clone(),
            event => {
                session.secrets.evolve(event);
                session.fold_agents(event);
            }
        }
    }
}

impl Existing {
    fn fold_agents(&mut self, event: &Event) {
        if let Some(booked) = event.booked() {
            self.standing.account.book(booked.booking);
            self.standing.compute_ms += booked.booking.compute_ms();
        }
        let Some(place) = event.place() else { return };
        let before = self.agents.get(&place.agent_id).map_or(0, Life::held_ahead_ms);
        if let Event::AgentCreated(created) = event {
            self.agents.insert(place.agent_id, Life::begin(created));
        } else if let Some(life) = self.agents.get_mut(&place.agent_id) {
            life.fold(event);
            if life.ending.is_some() {
                self.agents.remove(&place.agent_id);
            }
        }
        let after = self.agents.get(&place.agent_id).map_or(0, Life::held_ahead_ms);
        self.standing.compute_held_ms += after - before;
    }
}
