//! The states of the aggregates that an appender has in memory, kept coherent by folding every event of the log.

use std::collections::HashSet;
use std::sync::Arc;

use lru::LruCache;
use theazo_domain::id::UserId;
use theazo_domain::{AggregateState, Event, Subject};

use super::Recorded;
use super::append::{LoadedEvent, Snapshot};
use super::codec::{Codec, Unreadable};
use crate::config;

/// A state, and what has happened to it since it was last written down.
pub(super) struct Cached {
    pub(super) state: AggregateState,
    events_since: u32,
    bytes_since: usize,
    snapshot_bytes: usize,
}

/// States by the aggregate, and end users by the caller's own id.
pub(super) struct Cache {
    aggregates: LruCache<Subject, Cached>,
    people: LruCache<String, UserId>,
}

impl Cache {
    pub(super) fn new() -> Self {
        // Bounded by `trim` after each batch: nothing that a batch needs may fall out in the middle of it.
        Self { aggregates: LruCache::unbounded(), people: LruCache::unbounded() }
    }

    pub(super) fn clear(&mut self) {
        self.aggregates.clear();
        self.people.clear();
    }

    /// Forgets what was least recently used beyond the limit.
    pub(super) fn trim(&mut self) {
        while self.aggregates.len() > config::CACHED_AGGREGATES {
            self.aggregates.pop_lru();
        }
        while self.people.len() > config::CACHED_AGGREGATES {
            self.people.pop_lru();
        }
    }

    pub(super) fn forget(&mut self, subject: Subject) {
        self.aggregates.pop(&subject);
    }

    pub(super) fn forget_person(&mut self, external_id: &str) {
        self.people.pop(external_id);
    }

    pub(super) fn knows(&self, subject: Subject) -> bool {
        self.aggregates.contains(&subject)
    }

    pub(super) fn person(&mut self, external_id: &str) -> Option<UserId> {
        self.people.get(external_id).copied()
    }

    pub(super) fn meet(&mut self, external_id: String, user_id: UserId) {
        self.people.put(external_id, user_id);
    }

    /// The state of an aggregate, which is empty if nothing was loaded for it.
    pub(super) fn state(&mut self, subject: Subject) -> &AggregateState {
        let cached = self.aggregates.get_or_insert(subject, || Cached {
            state: AggregateState::empty(subject),
            events_since: 0,
            bytes_since: 0,
            snapshot_bytes: 0,
        });
        &cached.state
    }

    /// Takes in aggregates that were read from the database, as they are behind the events that were decided but are not
    /// written yet. What was in memory of one of them is replaced: the same events may not be folded into it twice.
    pub(super) fn load(
        &mut self,
        codec: Codec,
        (snapshots, events): (Vec<Snapshot>, &[LoadedEvent]),
        ahead: &[Arc<Recorded>],
    ) -> Result<(), Unreadable> {
        let mut loaded = HashSet::new();
        for snapshot in snapshots {
            // A state that cannot be read would mean that its format number was not raised; folding on from it
            // would be silently wrong, so that is told like a broken event.
            let broken = |source| Unreadable::Broken { kind: "snapshot".into(), version: 0, source };
            let state = serde_json::from_str(&snapshot.state).map_err(broken)?;
            let Ok(subject) = snapshot.subject.parse() else { continue };
            let snapshot_bytes = snapshot.state.len();
            self.aggregates.put(subject, Cached { state, events_since: 0, bytes_since: 0, snapshot_bytes });
            loaded.insert(subject);
        }
        for found in events {
            let event = codec.read(&found.kind, found.version, &found.data)?;
            let Ok(subject) = found.subject.parse() else { continue };
            if loaded.insert(subject) {
                self.forget(subject);
            }
            self.state(subject);
            self.evolve_one(subject, &event, found.data.len());
        }
        self.evolve_only(&loaded, ahead);
        Ok(())
    }

    /// Takes note that these were looked for: one of which nothing was found is as the events that were decided but are not
    /// written yet have made it.
    pub(super) fn know(&mut self, subjects: impl Iterator<Item = Subject>, ahead: &[Arc<Recorded>]) {
        let unknown: HashSet<Subject> = subjects.filter(|subject| !self.knows(*subject)).collect();
        for subject in &unknown {
            self.state(*subject);
        }
        self.evolve_only(&unknown, ahead);
    }

    fn evolve_only(&mut self, subjects: &HashSet<Subject>, events: &[Arc<Recorded>]) {
        for recorded in events {
            for subject in recorded.event.subjects().into_iter().filter(|subject| subjects.contains(subject))
            {
                self.evolve_one(subject, &recorded.event, recorded.stored.data.len());
            }
        }
    }

    /// Folds an event into the states of its subjects that are in memory.
    pub(super) fn evolve(&mut self, event: &Event, bytes: usize) {
        for subject in event.subjects() {
            self.evolve_one(subject, event, bytes);
        }
    }

    fn evolve_one(&mut self, subject: Subject, event: &Event, bytes: usize) {
        if let Some(cached) = self.aggregates.get_mut(&subject) {
            cached.state.evolve(event);
            cached.events_since += 1;
            cached.bytes_since += bytes;
        }
    }

    /// The state to be written down, when enough has happened since the last time: so many events, and as many
    /// bytes of them as the state has, so that snapshots never cost more than the events themselves.
    pub(super) fn due_snapshot(&mut self, subject: Subject, position: i64) -> Option<Snapshot> {
        let cached = self.aggregates.get_mut(&subject)?;
        if cached.events_since < config::SNAPSHOT_EVENTS || cached.bytes_since < cached.snapshot_bytes {
            return None;
        }
        let state = serde_json::to_string(&cached.state).expect("a state is plain data");
        (cached.events_since, cached.bytes_since, cached.snapshot_bytes) = (0, 0, state.len());
        Some(Snapshot { subject: subject.to_string(), position, state })
    }
}

#[cfg(test)]
mod tests {
    use rust_decimal::Decimal;
    use theazo_domain::agent::ComputeStopped;
    use theazo_domain::charge::{Booking, Place};
    use theazo_domain::id::{EventId, SessionId};
    use theazo_domain::session::{Changed, Created, Limits};
    use theazo_domain::time::Timestamp;

    use super::super::Stored;
    use super::*;

    const ID: &str = "01ARZ3NDEKTSV4RRFFQ69G5FAV";

    fn session() -> SessionId {
        format!("ses_{ID}").parse().unwrap()
    }

    fn user() -> UserId {
        format!("usr_{ID}").parse().unwrap()
    }

    fn created() -> Event {
        let (session_id, user_id) = (session(), user());
        Event::SessionCreated(Created { session_id, user_id, limits: Limits::default(), metadata: None })
    }

    fn paused() -> Event {
        Event::SessionPaused(Changed { session_id: session(), user_id: user() })
    }

    /// Releases a cent of what is held, however often it is folded.
    fn released() -> Event {
        let place = Place {
            agent_id: format!("agt_{ID}").parse().unwrap(),
            session_id: session(),
            user_id: user(),
            organization_id: format!("org_{ID}").parse().unwrap(),
        };
        let (at, booking) = (Timestamp::from_millis(1), Booking::releasing(Decimal::new(1, 2)));
        Event::ComputeStopped(ComputeStopped { place, from: at, to: at, unwatched_ms: 0, booking })
    }

    fn loaded(event: Event) -> LoadedEvent {
        let written = event.write();
        let version = Event::newest_version(&written.kind).unwrap();
        LoadedEvent { subject: session().to_string(), kind: written.kind, version, data: written.data }
    }

    fn decided(event: Event) -> Arc<Recorded> {
        let written = event.clone().write();
        let stored = Stored {
            position: 9,
            event_id: format!("evt_{ID}").parse::<EventId>().unwrap(),
            kind: written.kind,
            version: 1,
            subjects: vec![],
            data: written.data,
            metadata: String::new(),
            at: Timestamp::from_millis(1),
            leaf_hash: [0; 32],
        };
        Arc::new(Recorded { stored: Arc::new(stored), event })
    }

    fn after(events: &[Event]) -> String {
        let mut state = AggregateState::empty(Subject::Session(session()));
        events.iter().for_each(|event| state.evolve(event));
        serde_json::to_string(&state).unwrap()
    }

    fn in_memory(cache: &mut Cache) -> String {
        serde_json::to_string(cache.state(Subject::Session(session()))).unwrap()
    }

    #[test]
    fn what_is_read_while_events_about_it_wait_to_be_written_has_them_too() {
        let mut cache = Cache::new();
        let ahead = [decided(paused()), decided(released())];
        cache.load(Codec::default(), (vec![], &[loaded(created())]), &ahead).unwrap();
        assert_eq!(in_memory(&mut cache), after(&[created(), paused(), released()]));
    }

    #[test]
    fn what_is_read_although_it_is_in_memory_has_nothing_twice() {
        let mut cache = Cache::new();
        let events = [loaded(created()), loaded(released())];
        cache.load(Codec::default(), (vec![], &events), &[]).unwrap();
        let ahead = [decided(paused())];
        cache.evolve(&ahead[0].event, 1);
        cache.load(Codec::default(), (vec![], &events), &ahead).unwrap();
        assert_eq!(in_memory(&mut cache), after(&[created(), released(), paused()]));
    }

    #[test]
    fn what_is_not_in_the_database_yet_is_what_has_been_decided_of_it() {
        let mut cache = Cache::new();
        cache.know([Subject::Session(session())].into_iter(), &[decided(created())]);
        assert_eq!(in_memory(&mut cache), after(&[created()]));
    }
}
