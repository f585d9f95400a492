//! What may happen to an end user.

use super::State;
use crate::budget::Budget;
use crate::command::Person;
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
    /// Set the budget of all their work, or remove it.
    SetBudget {
        /// Who they are.
        person: Person,
        /// The budget; none removes it.
        budget: Option<Budget>,
    },
}

impl Aggregate for State {
    type Command = Command;

    fn decide(&self, command: &Command, facts: &Facts) -> Result<Vec<Event>, Refusal> {
        let Subject::User(user_id) = facts.subject else {
            return Err(Refusal::NotFound(facts.subject));
        };
        let (session_id, opening) = match command {
            Command::OpenSession { session_id, opening } => (session_id, opening),
            Command::SetBudget { budget, .. } => {
                let owner = (facts.organization_id, Some(user_id));
                return Ok(self.purse.replace(owner, budget.as_ref(), facts.now));
            }
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
