//! What may happen to an organization.

use super::{Created, Mode, Plan, State};
use crate::{Aggregate, Event, Facts, Refusal, Subject};

/// What an organization can be asked to do.
#[derive(Debug, Clone)]
pub enum Command {
    /// Begin, in one mode.
    Create {
        /// The name an operator gives it.
        name: String,
        /// Which of its two logs.
        mode: Mode,
        /// Its plan.
        plan: Plan,
        /// Requests a minute for each key, where it differs from the plan's.
        rate_limit: Option<u32>,
    },
}

impl Aggregate for State {
    type Command = Command;

    fn decide(&self, command: &Command, facts: &Facts) -> Result<Vec<Event>, Refusal> {
        let Command::Create { name, mode, plan, rate_limit } = command;
        let Subject::Organization(organization_id) = facts.subject else {
            return Err(Refusal::NotFound(facts.subject));
        };
        if self.exists {
            return Err(Refusal::Existing(facts.subject));
        }
        Ok(vec![Event::OrganizationCreated(Created {
            organization_id,
            name: name.clone(),
            mode: *mode,
            plan: *plan,
            rate_limit: *rate_limit,
        })])
    }

    fn evolve(&mut self, event: &Event) {
        self.fold(event);
    }
}
