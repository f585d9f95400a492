//! What may happen to an end user.

use super::State;
use crate::id::SessionId;
use crate::session::{Created, Opening};
use crate::{Aggregate, Event, Facts, Refusal, Subject};

/// What can be asked for an end user.
#[derive(Debug, Clone)]
pub enum Command {
    /// Their open session: refused with [`Refusal::Existing`], naming the newest, where there is one; else a new one.
    OpenSession {
        /// The id for a new one.
        session_id: SessionId,
        /// What a new one begins with.
        opening: Opening,
    },
}

impl Aggregate for State {
    type Command = Command;

    fn decide(&self, command: &Command, facts: &Facts) -> Result<Vec<Event>, Refusal> {
        let Command::OpenSession { session_id, opening } = command;
        let Subject::User(user_id) = facts.subject else {
            return Err(Refusal::NotFound(facts.subject));
        };
        if let Some(open) = self.newest_open() {
            return Err(Refusal::Existing(Subject::Session(open)));
        }
        Ok(vec![Event::SessionCreated(Created {
            session_id: *session_id,
            user_id,
            limits: opening.limits.clone(),
            metadata: opening.metadata.clone(),
        })])
    }

    fn evolve(&mut self, event: &Event) {
        self.fold(event);
    }
}
