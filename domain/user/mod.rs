//! An end user of the organization: which sessions are open for them, and what their work may cost.

mod decide;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

pub use decide::Command;

use crate::Event;
use crate::budget::Purse;
use crate::id::SessionId;

/// What decisions about an end user stand on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// Sessions that have not been terminated, in the order of their creation.
    open: Vec<SessionId>,
    /// What all of their work has cost, and their budget.
    #[serde(default)]
    purse: Purse,
}

impl State {
    /// The newest session that has not been terminated.
    #[must_use]
    pub fn newest_open(&self) -> Option<SessionId> {
        self.open.last().copied()
    }

    /// What all of their work has cost, and their budget.
    #[must_use]
    pub const fn purse(&self) -> &Purse {
        &self.purse
    }

    fn fold(&mut self, event: &Event) {
        match event {
            Event::SessionCreated(created) => self.open.push(created.session_id),
            Event::SessionTerminated(ended) => {
                // Sessions end mostly young, so the search from the newest is short.
                if let Some(index) = self.open.iter().rposition(|open| *open == ended.session_id) {
                    self.open.remove(index);
                }
            }
            event => self.purse.fold(event),
        }
    }
}
