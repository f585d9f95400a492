//! What may happen to an API key.

use super::{Created, Revoked, Role, State};
use crate::{Aggregate, Event, Facts, Refusal, Subject};

/// What a key can be asked to do.
#[derive(Debug, Clone)]
pub enum Command {
    /// Begin to open the API.
    Create {
        /// What it may do.
        role: Role,
        /// The keyed digest of its secret, in lower-case hex.
        digest: String,
        /// The secret's last four characters.
        last_four: String,
    },
    /// Stop opening the API, for good. Asking twice changes nothing.
    Revoke,
}

impl Aggregate for State {
    type Command = Command;

    fn decide(&self, command: &Command, facts: &Facts) -> Result<Vec<Event>, Refusal> {
        let Subject::Key(key_id) = facts.subject else {
            return Err(Refusal::NotFound(facts.subject));
        };
        match (self, command) {
            (Self::Absent, Command::Create { role, digest, last_four }) => {
                Ok(vec![Event::KeyCreated(Created {
                    key_id,
                    role: *role,
                    digest: digest.clone(),
                    last_four: last_four.clone(),
                })])
            }
            (_, Command::Create { .. }) => Err(Refusal::Existing(facts.subject)),
            (Self::Absent, Command::Revoke) => Err(Refusal::NotFound(facts.subject)),
            (Self::Active, Command::Revoke) => Ok(vec![Event::KeyRevoked(Revoked { key_id })]),
            (Self::Revoked, Command::Revoke) => Ok(vec![]),
        }
    }

    fn evolve(&mut self, event: &Event) {
        self.fold(event);
    }
}
