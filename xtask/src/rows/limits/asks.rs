//! What the client asked for and was answered, kept in an account of its own and by idempotency key.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use serde::Serialize;
use serde_json::Value;

use crate::ledger::Account;

/// What can be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
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
#[derive(Debug, Clone, Serialize)]
pub(super) struct Asked {
    pub(super) key: String,
    pub(super) work: Work,
    /// The session, the agent or the end user that it was about.
    pub(super) about: String,
    pub(super) wish: Value,
    /// Of the answer; 0 while nobody has said.
    pub(super) status: u16,
    pub(super) answer: Value,
    /// Which answer of all it was.
    pub(super) order: usize,
    /// Whether so much time passed, by the moved clock, between two times that it was sent, that its key was forgotten.
    pub(super) forgotten: bool,
}

/// All of them.
pub(super) struct Asks<'a> {
    account: &'a Account,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    by_key: BTreeMap<String, Asked>,
    answers: usize,
}

impl<'a> Asks<'a> {
    pub(super) fn new(account: &'a Account) -> Self {
        Self { account, known: Mutex::default() }
    }

    /// Writes down what is known of a request now.
    pub(super) fn write(&self, mut asked: Asked) -> anyhow::Result<()> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if asked.status != 0 {
            known.answers += 1;
            asked.order = known.answers;
        }
        self.account.write(&asked)?;
        known.by_key.insert(asked.key.clone(), asked);
        Ok(())
    }

    /// All of them. None are left.
    pub(super) fn take(&self) -> BTreeMap<String, Asked> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut known.by_key)
    }
}
