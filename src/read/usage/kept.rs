//! Sums of periods that have ended, which a server keeps in memory, so that the lists by user, session and agent read
//! each day, hour and minute once. What such a period comes to can change by late lines alone, and those are read each
//! time.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use foldhash::fast::RandomState;
use lru::LruCache;
use rust_decimal::Decimal;
use theazo_domain::time::Timestamp;
use theazo_projections::grain::Grain;
use tokio::sync::Notify;
use ulid::Ulid;

use super::packed::Id;
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
pub struct KeptSums {
    books: Mutex<LruCache<(TenantId, Whose), Arc<Book>>>,
    /// Tenants whose lists have read row by row what could be packed.
    unpacked: Mutex<BTreeSet<TenantId>>,
    /// Wakes whoever packs.
    packing: Notify,
}

/// What is kept of a tenant.
pub(super) struct Book {
    /// The builds of the read models that it was read from.
    builds: String,
    pages: Mutex<Pages>,
    bytes: AtomicUsize,
    /// Whether names take so much of it that little else has room.
    is_of_names: AtomicBool,
}

/// What stands in a book.
pub(super) struct Pages {
    names: Names,
    /// Those that were asked for last stay longest.
    units: LruCache<Unit, Sums>,
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
    /// Of users and sessions.
    wholes: HashMap<Ulid, u32, RandomState>,
    agents: HashMap<Ulid, u32, RandomState>,
    all: Vec<Name>,
}

/// Somebody who has used something.
#[derive(Debug, Clone, Copy)]
pub(super) struct Name {
    /// Who.
    pub(super) id: Id,
    /// The session itself among the names; the user's own place.
    pub(super) whole: u32,
}

impl Default for KeptSums {
    fn default() -> Self {
        let (unpacked, packing) = (Mutex::default(), Notify::new());
        Self { books: Mutex::new(LruCache::unbounded()), unpacked, packing }
    }
}

impl KeptSums {
    /// What is kept of a tenant.
    pub(super) fn book(&self, tenant: TenantId, whose: Whose) -> Option<Arc<Book>> {
        self.books().get(&(tenant, whose)).cloned()
    }

    /// What is kept of a tenant of these builds of its read models: nothing yet, where what is kept is of others. Its places
    /// of names are its own: what another book has found says nothing in this one.
    pub(super) fn book_of(&self, tenant: TenantId, whose: Whose, builds: &str) -> Arc<Book> {
        let mut books = self.books();
        let kept = books.get(&(tenant, whose)).filter(|book| book.builds == builds).cloned();
        kept.unwrap_or_else(|| {
            let (pages, bytes) = (Mutex::default(), AtomicUsize::new(config::KEPT_BOOK_BYTES));
            let is_of_names = AtomicBool::new(false);
            let book = Arc::new(Book { builds: builds.to_owned(), pages, bytes, is_of_names });
            books.put((tenant, whose), Arc::clone(&book));
            book
        })
    }

    /// Forgets books of names alone, and beyond the limit those that were asked for longest ago. Whoever is at such a book
    /// goes on with it.
    pub(super) fn trim(&self) {
        let mut books = self.books();
        let bytes = |book: &Arc<Book>| book.bytes.load(Ordering::Relaxed);
        let of_names = books.iter().filter(|(_, book)| book.is_of_names.load(Ordering::Relaxed));
        for place in of_names.map(|(place, _)| *place).collect::<Vec<_>>() {
            books.pop(&place);
        }
        let mut all: usize = books.iter().map(|(_, book)| bytes(book)).sum();
        while all > config::KEPT_SUMS_BYTES
            && let Some((_, oldest)) = books.pop_lru()
        {
            all = all.saturating_sub(bytes(&oldest));
        }
    }

    /// Notes that a list has read row by row what could be packed. Where too many wait for that already, the next list
    /// says so again.
    pub(super) fn is_unpacked(&self, tenant: TenantId) {
        let mut unpacked = self.unpacked.lock().unwrap_or_else(PoisonError::into_inner);
        if unpacked.len() < config::TENANTS_TO_PACK {
            unpacked.insert(tenant);
        }
        self.packing.notify_one();
    }

    /// Waits until a list has read what could be packed.
    pub async fn wait_for_unpacked(&self) {
        self.packing.notified().await;
    }

    /// The tenants of such lists, each of them once.
    #[must_use]
    pub fn take_unpacked(&self) -> BTreeSet<TenantId> {
        std::mem::take(&mut *self.unpacked.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn books(&self) -> MutexGuard<'_, LruCache<(TenantId, Whose), Arc<Book>>> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Book {
    pub(super) fn is_of(&self, builds: &str) -> bool {
        self.builds == builds
    }

    /// What it has of a period, as it stood at this position, or before: late lines after [`Sums::last`] are not in it. Where
    /// that is so long ago that late lines may be many, it has nothing.
    pub(super) fn find(&self, unit: Unit, position: i64) -> Option<Sums> {
        let is_of_use = |sums: &&Sums| {
            sums.first <= position && position.saturating_sub(sums.last) <= config::KEPT_PERIOD_POSITIONS
        };
        self.pages().units.get(&unit).filter(is_of_use).cloned()
    }

    /// To read what it has, and to write into it.
    pub(super) fn pages(&self) -> MutexGuard<'_, Pages> {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says how much is kept, after something was; beyond the limit of a book, periods that were asked for longest ago are
    /// forgotten. Names are not, since sums that somebody holds tell whose they are by them.
    pub(super) fn weigh(&self, pages: &mut Pages) {
        let of_sums = |sums: &Sums| config::KEPT_PERIOD_BYTES + size_of_val(sums.parts());
        let names = config::KEPT_BOOK_BYTES + pages.names.all.len() * config::KEPT_NAME_BYTES;
        let mut bytes = names + pages.units.iter().map(|(_, sums)| of_sums(sums)).sum::<usize>();
        while bytes > config::KEPT_BOOK_LARGEST_BYTES
            && let Some((_, sums)) = pages.units.pop_lru()
        {
            bytes -= of_sums(&sums);
        }
        self.bytes.store(bytes, Ordering::Relaxed);
        self.is_of_names.store(names > config::KEPT_BOOK_LARGEST_BYTES / 2, Ordering::Relaxed);
    }
}

impl Default for Pages {
    fn default() -> Self {
        Self { names: Names::default(), units: LruCache::unbounded() }
    }
}

impl Pages {
    /// The place of a user, or of a session and of an agent in it.
    pub(super) fn place(&mut self, id: Id) -> u32 {
        let Names { wholes, agents, all } = &mut self.names;
        // Their number is bounded by the memory that they may take.
        let next = |all: &Vec<Name>| u32::try_from(all.len()).unwrap_or(u32::MAX);
        if let Some(place) = id.agent.and_then(|agent| agents.get(&agent)) {
            return *place;
        }
        let whole = *wholes.entry(id.id).or_insert_with(|| {
            let whole = next(all);
            all.push(Name { id: Id { agent: None, ..id }, whole });
            whole
        });
        let Some(agent) = id.agent else { return whole };
        let place = next(all);
        all.push(Name { id, whole });
        agents.insert(agent, place);
        place
    }

    /// Who has this place.
    pub(super) fn name(&self, place: u32) -> Name {
        self.names.all[place as usize]
    }

    /// Keeps what a period came to at this position.
    pub(super) fn keep(&mut self, unit: Unit, position: i64, parts: Vec<Part>) {
        // One that takes most of the book would make it forget all others.
        if size_of_val(&*parts) > config::KEPT_BOOK_LARGEST_BYTES / 2 {
            return;
        }
        if self.units.get(&unit).is_none_or(|sums| sums.last < position) {
            self.units.put(unit, Sums { first: position, last: position, parts: parts.into() });
        }
    }

    /// Notes that no late line has changed a period behind the last position of these sums and until this one. Other sums
    /// of it, which have come since, may be of before.
    pub(super) fn confirm(&mut self, unit: Unit, seen: &Sums, position: i64) {
        if let Some(sums) = self.units.get_mut(&unit).filter(|sums| sums.last >= seen.last) {
            sums.last = sums.last.max(position);
        }
    }

    /// Forgets a period that a late line has changed.
    pub(super) fn forget(&mut self, unit: Unit) {
        self.units.pop(&unit);
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

#[cfg(test)]
mod tests {
    use super::*;

    fn unit(start: i64) -> Unit {
        (Grain::Hour, Timestamp::from_millis(start))
    }

    fn parts(number: usize) -> Vec<Part> {
        vec![Part { name: 0, used: Used::default() }; number]
    }

    #[test]
    fn what_is_kept_of_a_position_serves_it_and_later_ones() {
        let kept = KeptSums::default();
        let book = kept.book_of(TenantId(1), Whose::Users, "1 1 1 1");
        book.pages().keep(unit(0), 10, parts(3));
        assert!(book.find(unit(0), 9).is_none());
        assert_eq!(book.find(unit(0), 10).map(|sums| (sums.last(), sums.parts().len())), Some((10, 3)));
        // What was read of an older position takes no newer one's place.
        book.pages().keep(unit(0), 9, parts(2));
        assert_eq!(book.find(unit(0), 12).map(|sums| sums.parts().len()), Some(3));
        book.pages().forget(unit(0));
        assert!(book.find(unit(0), 12).is_none());
    }

    #[test]
    fn what_was_looked_at_long_ago_is_read_anew() {
        let kept = KeptSums::default();
        let book = kept.book_of(TenantId(1), Whose::Users, "1 1 1 1");
        book.pages().keep(unit(0), 10, parts(3));
        let last = 10 + config::KEPT_PERIOD_POSITIONS;
        assert!(book.find(unit(0), last).is_some() && book.find(unit(0), last + 1).is_none());
    }

    #[test]
    fn nobody_confirms_sums_of_before_what_they_have_seen() {
        let kept = KeptSums::default();
        let book = kept.book_of(TenantId(1), Whose::Users, "1 1 1 1");
        book.pages().keep(unit(0), 30, parts(3));
        let seen = book.find(unit(0), 40).unwrap();
        // Meanwhile a late line made another forget it, and a page of long ago kept it as it was then.
        book.pages().forget(unit(0));
        book.pages().keep(unit(0), 15, parts(1));
        book.pages().confirm(unit(0), &seen, 40);
        assert_eq!(book.find(unit(0), 40).map(|sums| sums.last()), Some(15));
        let seen = book.find(unit(0), 40).unwrap();
        book.pages().confirm(unit(0), &seen, 40);
        assert_eq!(book.find(unit(0), 40).map(|sums| sums.last()), Some(40));
    }

    fn fill(kept: &KeptSums, tenant: i64, unit: Unit, bytes: usize) {
        let book = kept.book_of(TenantId(tenant), Whose::Agents, "1 1 1 1");
        let mut pages = book.pages();
        pages.keep(unit, 10, parts(bytes / size_of::<Part>()));
        book.weigh(&mut pages);
        kept.trim();
    }

    #[test]
    fn books_of_other_builds_and_those_beyond_the_limit_begin_anew() {
        let kept = KeptSums::default();
        let place = (TenantId(1), Whose::Agents);
        // A third of what all may take, in two periods.
        let fill = |tenant: i64| {
            for start in 0..2 {
                fill(&kept, tenant, unit(start), config::KEPT_SUMS_BYTES / 6);
            }
        };
        fill(1);
        let book = kept.book(place.0, place.1).unwrap();
        assert!(
            book.is_of("1 1 1 1") && kept.book_of(place.0, place.1, "1 1 1 1").find(unit(0), 10).is_some()
        );
        assert!(kept.book_of(place.0, place.1, "1 2 1 1").find(unit(0), 10).is_none());
        // Whoever has the book that was there keeps it.
        assert!(book.find(unit(0), 10).is_some());
        for tenant in 1..=3 {
            fill(tenant);
        }
        // With what stands around them they are more than fit.
        let left = (1..=4).filter(|tenant| kept.book(TenantId(*tenant), Whose::Agents).is_some());
        assert_eq!(left.collect::<Vec<_>>(), [2, 3]);
    }

    #[test]
    fn a_book_forgets_the_periods_that_were_asked_for_longest_ago() {
        let kept = KeptSums::default();
        let third = config::KEPT_BOOK_LARGEST_BYTES / 3;
        let is_kept =
            |start: i64| kept.book(TenantId(1), Whose::Agents).unwrap().find(unit(start), 10).is_some();
        fill(&kept, 1, unit(0), third);
        fill(&kept, 1, unit(1), third);
        assert!(is_kept(1) && is_kept(0));
        fill(&kept, 1, unit(2), third);
        assert_eq!([0, 1, 2].map(is_kept), [true, false, true]);
        // One that would take most of the book is not kept.
        fill(&kept, 1, unit(3), 2 * third);
        assert_eq!([0, 1, 2, 3].map(is_kept), [true, false, true, false]);
    }

    #[test]
    fn a_book_that_is_mostly_names_begins_anew() {
        let kept = KeptSums::default();
        let book = kept.book_of(TenantId(1), Whose::Users, "1 1 1 1");
        let most = config::KEPT_BOOK_LARGEST_BYTES / 2 / config::KEPT_NAME_BYTES;
        let add = |names: std::ops::Range<usize>| {
            let mut pages = book.pages();
            for name in names {
                pages.place(Id { id: Ulid(name as u128), agent: None });
            }
            pages.keep(unit(0), 10, parts(1));
            book.weigh(&mut pages);
            drop(pages);
            kept.trim();
            kept.book(TenantId(1), Whose::Users).is_some()
        };
        assert!(add(0..most - 3));
        assert!(!add(0..most + 1));
        // Whoever has it goes on with it.
        assert!(book.find(unit(0), 10).is_some());
    }
}
