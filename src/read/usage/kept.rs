//! Sums of periods that have ended, which a server keeps in memory, so that the lists by user, session and agent read
//! each day, hour and minute once. What such a period comes to can change by late lines alone, and those are read each
//! time.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lru::LruCache;
use rust_decimal::Decimal;
use theazo_domain::time::Timestamp;
use theazo_projections::grain::Grain;

use crate::config;
use crate::log::TenantId;

/// Whose sums a book has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Whose {
    /// End users'.
    Users,
    /// Sessions' and agents'.
    Agents,
}

/// A period of one grain, by when it begins.
pub(super) type Unit = (Grain, Timestamp);

/// The books of the tenants that were asked for last.
pub struct KeptSums(Mutex<LruCache<(TenantId, Whose), Arc<Book>>>);

/// What is kept of a tenant.
pub(super) struct Book {
    /// The builds of the read models that it was read from.
    builds: String,
    pages: Mutex<Pages>,
    bytes: AtomicUsize,
}

/// What stands in a book.
#[derive(Default)]
pub(super) struct Pages {
    names: Names,
    units: HashMap<Unit, Sums>,
}

/// What a period came to.
#[derive(Debug, Clone)]
pub(super) struct Sums {
    /// It came to the same at this position, …
    first: i64,
    /// … at this one, and at all between them.
    last: i64,
    parts: Arc<[Part]>,
}

/// What one user or agent used.
#[derive(Debug, Clone, Copy)]
pub(super) struct Part {
    /// Whose it is, as [`Names`] counts them.
    pub(super) name: u32,
    /// How much.
    pub(super) used: Used,
}

/// How much somebody used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Used {
    /// In units of the currency.
    pub(super) cost: Decimal,
    /// Sessions that were created.
    pub(super) sessions: i64,
    /// Agents that were created.
    pub(super) agents: i64,
    /// Entries, sessions and agents: where there are none, nothing was used.
    pub(super) counted: i64,
}

/// Those who have used something.
#[derive(Debug, Default)]
pub(super) struct Names {
    places: HashMap<Arc<str>, u32>,
    all: Vec<Name>,
}

/// Somebody who has used something.
#[derive(Debug, Clone)]
pub(super) struct Name {
    /// The user or the session.
    pub(super) id: Arc<str>,
    /// The agent, where it is one's.
    pub(super) agent: Option<Arc<str>>,
    /// The session itself among the names; the user's own place.
    pub(super) whole: u32,
}

impl Default for KeptSums {
    fn default() -> Self {
        Self(Mutex::new(LruCache::unbounded()))
    }
}

impl KeptSums {
    /// What is kept of a tenant.
    pub(super) fn book(&self, tenant: TenantId, whose: Whose) -> Option<Arc<Book>> {
        self.books().get(&(tenant, whose)).cloned()
    }

    /// What is kept of a tenant of these builds of its read models: nothing yet, where those that were kept are of others.
    pub(super) fn book_of(&self, tenant: TenantId, whose: Whose, builds: &str) -> Arc<Book> {
        let mut books = self.books();
        let kept = books.get(&(tenant, whose)).filter(|book| book.builds == builds).cloned();
        kept.unwrap_or_else(|| {
            let (pages, bytes) = (Mutex::default(), AtomicUsize::default());
            let book = Arc::new(Book { builds: builds.to_owned(), pages, bytes });
            books.put((tenant, whose), Arc::clone(&book));
            book
        })
    }

    /// Forgets the books that were asked for longest ago, beyond the limit. One that is larger by itself begins anew.
    pub(super) fn trim(&self) {
        let mut books = self.books();
        let bytes = |book: &Arc<Book>| book.bytes.load(Ordering::Relaxed);
        let mut all: usize = books.iter().map(|(_, book)| bytes(book)).sum();
        while all > config::KEPT_SUMS_BYTES
            && let Some((_, oldest)) = books.pop_lru()
        {
            all = all.saturating_sub(bytes(&oldest));
        }
    }

    fn books(&self) -> MutexGuard<'_, LruCache<(TenantId, Whose), Arc<Book>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Book {
    pub(super) fn is_of(&self, builds: &str) -> bool {
        self.builds == builds
    }

    /// What it has of a period, as it stood at this position, or before: late lines after [`Sums::last`] are not in it.
    pub(super) fn find(&self, unit: Unit, position: i64) -> Option<Sums> {
        self.pages().units.get(&unit).filter(|sums| sums.first <= position).cloned()
    }

    /// To read what it has, and to write into it.
    pub(super) fn pages(&self) -> MutexGuard<'_, Pages> {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says how much is kept, after something was.
    pub(super) fn weigh(&self, pages: &Pages) {
        let parts: usize = pages.units.values().map(|sums| sums.parts.len()).sum();
        let bytes = parts * size_of::<Part>()
            + pages.units.len() * size_of::<(Unit, Sums)>()
            + pages.names.all.len() * config::KEPT_NAME_BYTES;
        self.bytes.store(bytes, Ordering::Relaxed);
    }
}

impl Pages {
    /// The place of a user, or of a session and of an agent in it.
    pub(super) fn place(&mut self, id: &str, agent: Option<&str>) -> u32 {
        let whole = self.names.place(id, |place| Name { id: id.into(), agent: None, whole: place });
        let Some(agent) = agent else { return whole };
        let session = Arc::clone(&self.name(whole).id);
        self.names.place(agent, |_| Name { id: session, agent: Some(agent.into()), whole })
    }

    /// Who has this place.
    pub(super) fn name(&self, place: u32) -> &Name {
        &self.names.all[place as usize]
    }

    /// Keeps what a period came to at this position.
    pub(super) fn keep(&mut self, unit: Unit, position: i64, parts: Vec<Part>) {
        if self.units.get(&unit).is_none_or(|sums| sums.last < position) {
            self.units.insert(unit, Sums { first: position, last: position, parts: parts.into() });
        }
    }

    /// Notes that no late line has changed a period until this position.
    pub(super) fn confirm(&mut self, unit: Unit, position: i64) {
        if let Some(sums) = self.units.get_mut(&unit) {
            sums.last = sums.last.max(position);
        }
    }

    /// Forgets a period that a late line has changed.
    pub(super) fn forget(&mut self, unit: Unit) {
        self.units.remove(&unit);
    }
}

impl Sums {
    /// The last position at which it was looked at: later late lines are not in it.
    pub(super) const fn last(&self) -> i64 {
        self.last
    }

    pub(super) fn parts(&self) -> &[Part] {
        &self.parts
    }
}

impl Used {
    /// Adds what another is, times a sign.
    pub(super) fn add(&mut self, other: &Self, sign: i64) {
        let Self { cost, sessions, agents, counted } = other.times(sign);
        self.cost += cost;
        self.sessions += sessions;
        self.agents += agents;
        self.counted += counted;
    }

    /// It with a sign.
    pub(super) fn times(&self, sign: i64) -> Self {
        let cost = if sign < 0 { -self.cost } else { self.cost };
        let times = |count: i64| sign * count;
        let (sessions, agents, counted) = (times(self.sessions), times(self.agents), times(self.counted));
        Self { cost, sessions, agents, counted }
    }
}

impl Names {
    fn place(&mut self, id: &str, name: impl FnOnce(u32) -> Name) -> u32 {
        if let Some(place) = self.places.get(id) {
            return *place;
        }
        // Their number is bounded by the memory that they may take.
        let place = u32::try_from(self.all.len()).unwrap_or(u32::MAX);
        self.all.push(name(place));
        self.places.insert(id.into(), place);
        place
    }
}
