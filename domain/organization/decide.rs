//! What may happen to an organization.

use super::{Created, Mode, Plan, State};
use crate::budget::Budget;
use crate::id::OrganizationId;
use crate::{Aggregate, Event, Facts, Refusal, Subject, secret};

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
    /// Do something to its secrets.
    Secret(secret::Command),
    /// Set the budget of all its work; none removes it.
    SetBudget(Option<Budget>),
}

impl Aggregate for State {
    type Command = Command;

    fn decide(&self, command: &Command, facts: &Facts) -> Result<Vec<Event>, Refusal> {
        let Subject::Organization(organization_id) = facts.subject else {
            return Err(Refusal::NotFound(facts.subject));
        };
        let Command::Create { name, mode, plan, rate_limit } = command else {
            return self.decide_existing(command, organization_id, facts);
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

impl State {
    fn decide_existing(
        &self,
        command: &Command,
        organization_id: OrganizationId,
        facts: &Facts,
    ) -> Result<Vec<Event>, Refusal> {
        let subject = Subject::Organization(organization_id);
        match command {
            _ if !self.exists => Err(Refusal::NotFound(subject)),
            Command::Create { .. } => Err(Refusal::Existing(subject)),
            Command::SetBudget(budget) => {
                Ok(self.purse.replace((organization_id, None), budget.as_ref(), facts.now))
            }
            Command::Secret(command) => {
                self.secrets.decide(command, secret::Holder::Organization { organization_id })
            }
        }
    }
}
