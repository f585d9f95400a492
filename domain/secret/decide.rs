//! What may happen to the secrets of a scope.

use super::{Deleted, Holder, Name, Set, Shelf};
use crate::id::ValueId;
use crate::{Event, Refusal};

/// How many secrets one scope holds at most, so that all of them fit into the memory of whoever uses them.
pub const MOST_IN_SCOPE: usize = 1_000;

/// What the secrets of one scope take together at most, as [`taken`] counts. Both scopes that an agent sees go into the
/// environment of each of its programs, and Linux gives no program more than 2 MiB (execve(2)).
pub const MOST_BYTES_IN_SCOPE: u64 = 512 << 10;

/// What a secret takes in the environment of a program: name and value, the sign between them and the end.
#[must_use]
pub const fn taken(name_bytes: u64, value_bytes: u64) -> u64 {
    name_bytes.saturating_add(value_bytes).saturating_add(2)
}

/// What can be asked of the secrets of a scope.
#[derive(Debug, Clone)]
pub enum Command {
    /// Set one, over what it was.
    Set {
        /// Its name.
        name: Name,
        /// The version under which the value is sealed: new, drawn for this command.
        version: ValueId,
        /// The public fingerprint of the master key under which it is sealed.
        master_key_id: String,
        /// What the secrets of the scope take with it, in bytes, as [`taken`] counts: the values are not known here.
        together: u64,
    },
    /// Delete one, with its value.
    Delete {
        /// Its name.
        name: Name,
    },
}

impl Shelf {
    /// Says what a command makes happen to the secrets of this holder.
    ///
    /// # Errors
    /// A [`Refusal`] when the rules say no.
    pub fn decide(&self, command: &Command, holder: Holder) -> Result<Vec<Event>, Refusal> {
        match command {
            Command::Set { name, version, master_key_id, together } => {
                if *together > MOST_BYTES_IN_SCOPE {
                    return Err(Refusal::TooMuch(format!(
                        "the secrets of the scope {} would take {together} bytes together, names included, and may take \
                         {MOST_BYTES_IN_SCOPE}",
                        holder.scope()
                    )));
                }
                let replaces = self.version(name);
                if replaces.is_none() && self.0.len() >= MOST_IN_SCOPE {
                    let scope = holder.scope();
                    return Err(Refusal::Conflict(format!(
                        "the scope {scope} holds {MOST_IN_SCOPE} secrets, the most that it can"
                    )));
                }
                let (name, version, master_key_id) = (name.clone(), *version, master_key_id.clone());
                Ok(vec![Event::SecretSet(Set { holder, name, version, replaces, master_key_id })])
            }
            Command::Delete { name } => {
                let version = self.version(name);
                let version =
                    version.ok_or_else(|| Refusal::Absent(format!("the secret {name} does not exist")))?;
                Ok(vec![Event::SecretDeleted(Deleted { holder, name: name.clone(), version })])
            }
        }
    }
}
