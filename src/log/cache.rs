//! The states of the aggregates that an appender has in memory, kept coherent by folding every event of the log.

use lru::LruCache;
use theazo_domain::id::UserId;
use theazo_domain::{AggregateState, Event, Subject};

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

    /// Takes in aggregates that were read from the database.
    pub(super) fn load(
        &mut self,
        codec: Codec,
        snapshots: Vec<Snapshot>,
        events: &[LoadedEvent],
    ) -> Result<(), Unreadable> {
        for snapshot in snapshots {
            // A state that cannot be read would mean that its format number was not raised; folding on from it
            // would be silently wrong, so that is told like a broken event.
            let broken = |source| Unreadable::Broken { kind: "snapshot".into(), version: 0, source };
            let state = serde_json::from_str(&snapshot.state).map_err(broken)?;
            let Ok(subject) = snapshot.subject.parse() else { continue };
            let snapshot_bytes = snapshot.state.len();
            self.aggregates.put(subject, Cached { state, events_since: 0, bytes_since: 0, snapshot_bytes });
        }
        for loaded in events {
            let event = codec.read(&loaded.kind, loaded.version, &loaded.data)?;
            let Ok(subject) = loaded.subject.parse() else { continue };
            self.state(subject);
            self.evolve_one(subject, &event, loaded.data.len());
        }
        Ok(())
    }

    /// Takes note that these were looked for: one of which nothing was found is empty.
    pub(super) fn know(&mut self, subjects: impl Iterator<Item = Subject>) {
        for subject in subjects {
            self.state(subject);
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
