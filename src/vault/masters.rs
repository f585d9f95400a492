//! The master keys that may wrap something: one, or two while everything is being wrapped anew.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use super::{Error, Master, Source};
use crate::private_file::DirLock;

/// The master keys of a server.
///
/// Which of them is active, so that whatever is new is wrapped by it, is what the server's own keys in the database are
/// wrapped by: it is the same for every server, whatever each of them was started with.
pub struct Masters {
    source: Source,
    known: RwLock<Known>,
}

struct Known {
    active: Arc<Master>,
    all: Vec<Arc<Master>>,
}

impl Masters {
    /// Finds the master keys; makes one where the database is the server's own and nothing is wrapped yet.
    ///
    /// `wrapped_by` is the fingerprint of the master key that wraps the keys in the database, if it holds any.
    ///
    /// # Errors
    /// [`Error`] when none is named, one is unreadable, malformed or weak, or the one that is needed is not among them.
    pub fn open(source: Source, wrapped_by: Option<&str>) -> Result<Self, Error> {
        let all: Vec<Arc<Master>> = source.find_all(wrapped_by)?.into_iter().map(Arc::new).collect();
        let wanted = wrapped_by.unwrap_or_else(|| all[0].id());
        let active = all.iter().find(|master| master.id() == wanted).map(Arc::clone);
        let active = active.ok_or_else(|| wrong(wanted, &all))?;
        Ok(Self { source, known: RwLock::new(Known { active, all }) })
    }

    /// This one master key, wherever it comes from.
    #[must_use]
    pub fn of(master: Master) -> Self {
        let active = Arc::new(master);
        let all = vec![Arc::clone(&active)];
        Self { source: Source::default(), known: RwLock::new(Known { active, all }) }
    }

    /// What is new is wrapped by this one, as far as this server knows; the log puts it right where it is behind.
    #[must_use]
    pub fn active(&self) -> Arc<Master> {
        Arc::clone(&self.known.read().unwrap_or_else(PoisonError::into_inner).active)
    }

    /// The master key that everything is to be wrapped by from now on.
    ///
    /// # Errors
    /// As [`Source::next`].
    pub fn next(&self) -> Result<Arc<Master>, Error> {
        let next = self.source.next(self.active().id())?;
        self.named(next.id())
    }

    /// Keeps every other change of the master key from the files, until what this gives is dropped.
    ///
    /// # Errors
    /// As [`Source::lock`].
    pub fn lock(&self) -> Result<Option<DirLock>, Error> {
        self.source.lock()
    }

    /// Everything is wrapped by this master key: it takes the place of the old one.
    ///
    /// # Errors
    /// As [`Source::settle`].
    pub fn settle(&self, next: &Master) -> Result<(), Error> {
        self.source.settle(next.id())
    }

    /// The master key of this fingerprint. One that is not known is looked for where the operator said they are: it
    /// may have come since the server was started.
    ///
    /// # Errors
    /// [`Error::WrongMaster`] when it is not there either.
    pub fn named(&self, id: &str) -> Result<Arc<Master>, Error> {
        if let Some(known) = self.find(id) {
            return Ok(known);
        }
        // Nothing is made here: a key is needed, so it cannot be a new one.
        let found = self.source.find_all(Some(id)).unwrap_or_default();
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        for master in found {
            if !known.all.iter().any(|have| have.id() == master.id()) {
                known.all.push(Arc::new(master));
            }
        }
        let named = known.all.iter().find(|master| master.id() == id).map(Arc::clone);
        named.ok_or_else(|| wrong(id, &known.all))
    }

    /// Takes note of which one is active.
    ///
    /// # Errors
    /// As [`Self::named`].
    pub fn activate(&self, id: &str) -> Result<Arc<Master>, Error> {
        let active = self.named(id)?;
        self.known.write().unwrap_or_else(PoisonError::into_inner).active = Arc::clone(&active);
        Ok(active)
    }

    fn find(&self, id: &str) -> Option<Arc<Master>> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.all.iter().find(|master| master.id() == id).map(Arc::clone)
    }
}

fn wrong(wrapped_by: &str, all: &[Arc<Master>]) -> Error {
    let given: Vec<&str> = all.iter().map(|master| master.id()).collect();
    Error::WrongMaster { wrapped_by: wrapped_by.to_owned(), given: given.join(" and ") }
}

impl fmt::Debug for Masters {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Masters").field("active", &self.active().id()).finish_non_exhaustive()
    }
}
