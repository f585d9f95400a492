//! What the client asks for and is answered, as it stands in its account.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::clock::{Clock, machine_ms};
use crate::client::{Answer, Ask};
use crate::load::{Entry, Operation, Outcome};

/// After so long, by the moved clock, a server may have forgotten an idempotency key.
const KEY_KEPT_MS: i64 = 24 * 3_600 * 1_000;

/// All that was asked for, by idempotency key.
pub(super) type Asks = BTreeMap<String, Entry<Asked>>;

/// What can be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Work {
    Session,
    Limits,
    Budget,
    Agent,
    Run,
    Resume,
    End,
    ResumeSession,
    EndSession,
}

impl Work {
    /// The status of an answer that does it, and the events of which one happens then.
    pub(super) const fn done(self) -> (u16, &'static [&'static str]) {
        match self {
            Self::Session => (201, &["session.created"]),
            Self::Limits => (200, &["session.limits_changed"]),
            Self::Budget => (200, &["budget.set", "budget.removed"]),
            Self::Agent => (201, &["agent.created"]),
            Self::Run => (202, &["task.created"]),
            Self::Resume => (200, &["agent.resumed"]),
            Self::End => (200, &["agent.terminated"]),
            Self::ResumeSession => (200, &["session.resumed"]),
            Self::EndSession => (200, &["session.terminated"]),
        }
    }

    /// Whether it may be done already, so that nothing happens.
    pub(super) const fn may_be_done(self) -> bool {
        matches!(self, Self::Limits | Self::Budget | Self::End | Self::EndSession)
    }

    /// What a refusal by a limit calls it.
    pub(super) const fn refused_as(self) -> Option<&'static str> {
        match self {
            Self::Agent => Some("agent"),
            Self::Run => Some("run"),
            Self::Resume | Self::ResumeSession => Some("resume"),
            _ => None,
        }
    }
}

/// A request, and what came of it.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Asked {
    pub(super) work: Work,
    /// The session, the agent or the end user that it was about.
    pub(super) about: String,
    pub(super) wish: Value,
    /// Of the answer; 0 while nobody has said.
    pub(super) status: u16,
    pub(super) answer: Value,
    /// When it was sent for the first time, by the moved clock.
    sent: i64,
    /// When it was answered, by the machine's.
    answered: i64,
}

impl Asked {
    pub(super) fn new((work, about): (Work, &str), ask: &Ask, clock: &Clock) -> Self {
        Self {
            work,
            about: about.to_owned(),
            wish: ask.body.clone().unwrap_or_default(),
            status: 0,
            answer: Value::Null,
            sent: clock.shown_at(machine_ms()),
            answered: 0,
        }
    }

    /// Whether so much time may have passed, by the moved clock, between two times that it was sent, that its key was
    /// forgotten.
    pub(super) fn is_forgotten(&self, clock: &Clock) -> bool {
        clock.shown_at(self.answered) - self.sent > KEY_KEPT_MS
    }
}

impl Operation for Asked {
    fn decided(&mut self, answer: &Answer) -> Option<Outcome> {
        (self.status, self.answer, self.answered) = (answer.status, answer.json(), machine_ms());
        let outcome = if answer.is_success() { Outcome::Ok } else { Outcome::Refused };
        (answer.status < 500).then_some(outcome)
    }
}
