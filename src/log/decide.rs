//! Deciding a batch: each command in order, on the state that the ones before it left.

use std::collections::HashMap;
use std::sync::Arc;

use serde::Serialize;
use theazo_domain::account::Account;
use theazo_domain::budget::Payers;
use theazo_domain::id::{EventId, RequestId, UserId};
use theazo_domain::session::{self, Standing};
use theazo_domain::time::Timestamp;
use theazo_domain::{AggregateState, Command, Event, Facts, Refusal, Subject};
use theazo_projections::{Changes, work};

use super::append::{Head, Kept, Wanted};
use super::appender::Pending;
use super::cache::Cache;
use super::kept::Found;
use super::project::Build;
use super::writes::Writes;
use super::{
    Accepted, Actor, Answer, Once, Recorded, Stored, Submission, Tenant, Verdict, codec, merkle, project,
};
use crate::vault::Key;
use crate::{planted, random};

/// What a command of a batch came to.
pub(super) enum Decision {
    /// It was decided.
    Verdict(Verdict),
    /// Its idempotency key has an answer.
    Replay(Answer),
    /// It has the same idempotency key as this earlier one of the batch, and is the same request.
    Twin(usize),
    /// Its idempotency key was used for another request.
    KeyReused,
    /// The work of the first request with its idempotency key is under way.
    KeyHeld,
    /// The kept answer of its idempotency key cannot be opened.
    Unreadable,
}

/// A batch that was decided: what each command came to, and what is to be written.
pub(super) struct Plan {
    pub(super) decisions: Vec<Decision>,
    pub(super) writes: Writes,
    /// Where the log ends once it is written.
    pub(super) head: Head,
    pub(super) now: Timestamp,
    /// Whether there is other work to do after it.
    pub(super) worked: bool,
}

/// What must be read before these commands can be decided.
pub(super) fn wanted(batch: &[Pending], cache: &mut Cache) -> Wanted {
    let mut wanted = Wanted::default();
    for pending in batch {
        let command = &pending.submission.command;
        if let Some(once) = pending.once() {
            wanted.keys.push(once.key_digest.to_vec());
        }
        let person = command.person();
        let known = person.and_then(|person| cache.person(&person.external_id));
        if let (Some(person), None) = (person, known) {
            wanted.people.push(person.external_id.clone());
        }
        match (command.target(), person, known) {
            (Some(subject), ..) if command.begins() || cache.knows(subject) => {}
            (Some(subject), ..) => wanted.subjects.push(subject.to_string()),
            (None, _, Some(user)) if cache.knows(Subject::User(user)) => {}
            (None, _, Some(user)) => wanted.subjects.push(user.to_string()),
            (None, Some(person), None) => wanted.people_as_subjects.push(person.external_id.clone()),
            (None, None, _) => {}
        }
    }
    for list in [&mut wanted.people, &mut wanted.people_as_subjects, &mut wanted.subjects] {
        list.sort_unstable();
        list.dedup();
    }
    wanted
}

/// What must be read besides, now that the targets are in memory: the states that their decisions stand on too.
pub(super) fn wanted_besides(tenant: &Tenant, batch: &[Pending], cache: &mut Cache) -> Vec<String> {
    let mut wanted = vec![];
    for pending in batch {
        let command = &pending.submission.command;
        let Some(target) = command.target() else { continue };
        let witnesses = command.witnesses(cache.state(target), tenant.organization_id);
        let unknown = witnesses.into_iter().filter(|witness| !cache.knows(*witness));
        wanted.extend(unknown.map(|witness| witness.to_string()));
    }
    wanted.sort_unstable();
    wanted.dedup();
    wanted
}

/// What a command needs of the database before it can be decided.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Needs {
    /// Nothing: it can be decided on what is in memory, before the transaction that writes it begins.
    Nothing,
    /// To know whether this end user, by the caller's own id, is new; if so, nothing else.
    Person(String),
    /// More than that, or its answer does: it waits for the lock of the head.
    Lock,
}

/// What a command needs of the database.
pub(super) fn needs(tenant: &Tenant, pending: &Pending, cache: &mut Cache) -> Needs {
    let one = std::slice::from_ref(pending);
    if pending.keyed.is_some() || !pending.submission.sealed.is_empty() {
        return Needs::Lock;
    }
    let Wanted { mut people, subjects, keys, .. } = wanted(one, cache);
    if !subjects.is_empty() || !keys.is_empty() || !wanted_besides(tenant, one, cache).is_empty() {
        return Needs::Lock;
    }
    people.pop().map_or(Needs::Nothing, Needs::Person)
}

/// Whether a command needs nothing of the database to be decided, nor for its answer.
pub(super) fn is_plain(tenant: &Tenant, pending: &Pending, cache: &mut Cache) -> bool {
    needs(tenant, pending, cache) == Needs::Nothing
}

/// A batch that is being decided, in one go or in several: what its commands came to so far, and what is to be written.
pub(super) struct Deciding {
    /// End users who are new in this batch, by the caller's own id.
    new_people: HashMap<String, UserId>,
    kept: HashMap<Vec<u8>, Kept>,
    /// The commands that carry an idempotency key: which of the batch, and the fingerprint of the request.
    keys: HashMap<[u8; 32], (usize, [u8; 32])>,
    head: Head,
    now: Timestamp,
    decisions: Vec<Decision>,
    writes: Writes,
    folded: Folded,
}

/// What events that have been decided, but not all of them yet, change in the read models.
#[derive(Default)]
struct Folded {
    changes: Changes,
    /// How many of the events it is of, from the first.
    events: usize,
    /// Which builds of the read models it is for, by the revision of their list.
    revision: Option<i64>,
}

impl Deciding {
    /// Begins a batch on the log as it ends at this head.
    pub(super) fn new(head: Head) -> Self {
        let now = head.last_at;
        let (new_people, kept, keys) = (HashMap::new(), HashMap::new(), HashMap::new());
        let (decisions, writes, folded) = (vec![], Writes::default(), Folded::default());
        Self { new_people, kept, keys, head, now, decisions, writes, folded }
    }

    /// Takes in the answers that are kept for idempotency keys of commands that are still to be decided.
    pub(super) fn know(&mut self, kept: HashMap<Vec<u8>, Kept>) {
        self.kept.extend(kept);
    }

    /// What has been decided to happen and is not written yet.
    pub(super) fn events(&self) -> &[Arc<Recorded>] {
        &self.writes.events
    }

    /// Folds what has been decided since it was last asked for; all of it, if that was for other builds.
    pub(super) fn fold(&mut self, builds: &[Build], revision: Option<i64>) {
        let Self { writes, folded, .. } = self;
        if folded.revision != revision {
            *folded = Folded { revision, ..Folded::default() };
        }
        let events = &writes.events[folded.events..];
        project::fold_into(&mut folded.changes, builds, events.iter().map(|event| &**event));
        folded.events = writes.events.len();
    }

    /// How many commands have been decided.
    pub(super) const fn decided(&self) -> usize {
        self.decisions.len()
    }

    /// The decided batch, all of which is folded.
    pub(super) fn finish(self, cache: &mut Cache, builds: &[Build]) -> Plan {
        let Self { mut head, now, decisions, mut writes, folded, .. } = self;
        if let Some(last) = writes.events.last() {
            head.position = last.stored.position;
            head.last_at = now;
            let mut subjects: Vec<Subject> =
                writes.events.iter().flat_map(|event| event.event.subjects()).collect();
            subjects.sort_unstable();
            subjects.dedup();
            let position = head.position;
            writes.snapshots =
                subjects.into_iter().filter_map(|subject| cache.due_snapshot(subject, position)).collect();
        }
        let worked = folded.changes.touch(work::NAME);
        writes.projections = project::writes(folded.changes, builds);
        if planted::strikes("unfolded-row", 50) {
            writes.projections.pop();
        }
        Plan { decisions, writes, head, now, worked }
    }

    /// What is in memory of it and nowhere else.
    pub(super) fn traces(&self) -> Traces {
        Traces::of(&self.writes)
    }
}

/// What a batch has left in memory, to be wiped out where it turns out that it cannot be written.
pub(super) struct Traces {
    pub(super) events: Vec<Arc<Recorded>>,
    people: Vec<String>,
}

impl Traces {
    pub(super) fn of(writes: &Writes) -> Self {
        let people = writes.people.iter().map(|(_, external_id)| external_id.clone()).collect();
        Self { events: writes.events.clone(), people }
    }

    /// Forgets the states that these events went into, and the end users that came with them.
    pub(super) fn wipe(&self, cache: &mut Cache) {
        for recorded in &self.events {
            for subject in recorded.event.subjects() {
                cache.forget(subject);
            }
        }
        for external_id in &self.people {
            cache.forget_person(external_id);
        }
    }
}

/// Decides commands in order.
pub(super) struct Decider<'a> {
    pub(super) tenant: &'a Tenant,
    pub(super) answers_key: &'a Key,
    pub(super) cache: &'a mut Cache,
    pub(super) deciding: &'a mut Deciding,
}

impl Decider<'_> {
    /// Decides commands at a moment, behind those that were decided before.
    pub(super) fn decide(&mut self, commands: &[Pending], clock: Timestamp) {
        // A clock that stepped back must not turn the times of the log around.
        self.deciding.now = clock.max(self.deciding.now);
        for pending in commands {
            let decision = self.decide_pending(pending);
            self.deciding.decisions.push(decision);
        }
    }

    fn decide_pending(&mut self, pending: &Pending) -> Decision {
        let Some(once) = pending.once() else {
            return Decision::Verdict(self.decide_one(&pending.submission, None));
        };
        let index = self.deciding.decisions.len();
        match (self.earlier(once), self.deciding.keys.get(&once.key_digest)) {
            (Some(earlier), _) => earlier,
            (None, Some((first, fingerprint))) if *fingerprint == once.fingerprint => Decision::Twin(*first),
            (None, Some(_)) => Decision::KeyReused,
            (None, None) => {
                self.deciding.keys.insert(once.key_digest, (index, once.fingerprint));
                Decision::Verdict(self.decide_one(&pending.submission, Some(once)))
            }
        }
    }

    /// What an earlier request with this idempotency key came to.
    fn earlier(&mut self, once: &Once) -> Option<Decision> {
        let kept = self.deciding.kept.get(&once.key_digest[..])?;
        match Found::of(self.answers_key, self.tenant.id, once, kept, self.deciding.now) {
            Found::Lapsed => {
                self.deciding.writes.lapsed.push(once.key_digest.to_vec());
                None
            }
            Found::Answer(answer) => Some(Decision::Replay(answer)),
            Found::UnderWay => Some(Decision::KeyHeld),
            Found::Foreign => Some(Decision::KeyReused),
            Found::Unreadable => Some(Decision::Unreadable),
        }
    }

    fn decide_one(&mut self, submission: &Submission, once: Option<&Once>) -> Verdict {
        let command = &submission.command;
        let user = command.person().map(|person| match self.cache.person(&person.external_id) {
            Some(known) => known,
            None => *self.deciding.new_people.entry(person.external_id.clone()).or_insert(person.new_id),
        });
        let subject =
            command.target().or(user.map(Subject::User)).expect("a command has a target or a person");
        let organization_id = self.tenant.organization_id;
        let mut facts = Facts { user, ..Facts::new(self.deciding.now, subject, organization_id) };
        for witness in command.witnesses(self.cache.state(subject), organization_id) {
            self.hear(witness, &mut facts)?;
        }
        let decided = match without_limits(self.cache.state(subject), command) {
            Some(unlimited) => unlimited.decide(command, &Facts { payers: Payers::default(), ..facts })?,
            None => self.cache.state(subject).decide(command, &facts)?,
        };
        let metadata = metadata(submission, once);
        let events: Vec<_> = decided.into_iter().map(|event| self.record(event, &metadata)).collect();
        if let Some(first) = events.first() {
            self.write_beside(submission, first);
        }
        Ok(Accepted { events, subject, user })
    }

    /// Takes a witness's state into the facts.
    fn hear(&mut self, witness: Subject, facts: &mut Facts) -> Result<(), Refusal> {
        // Nobody can know of what the same batch has just begun; a state that was not loaded must not pass for empty.
        if !self.cache.knows(witness) {
            return Err(Refusal::Conflict(format!("{} is being created", facts.subject)));
        }
        match self.cache.state(witness) {
            AggregateState::Session(session) => facts.session = session.standing().cloned().map(misjudged),
            AggregateState::User(user) => facts.payers.user = user.purse().clone(),
            AggregateState::Organization(organization) => {
                facts.payers.organization = organization.purse().clone();
            }
            AggregateState::Providers(providers) => facts.stock.providers = providers.offer(),
            AggregateState::Definition(definition) => facts.stock.definition = definition.status(),
            _ => {}
        }
        Ok(())
    }

    /// Gives an event its place in the log and folds it into the states in memory.
    fn record(&mut self, event: Event, metadata: &str) -> Arc<Recorded> {
        let (event, written) = codec::storable(misbooked(event));
        let mut stored = Stored {
            position: self.deciding.head.position + 1,
            event_id: EventId::from_ulid(random::ulid(self.deciding.now)),
            version: Event::newest_version(&written.kind).unwrap_or(Event::FIRST_VERSION),
            kind: written.kind,
            subjects: event.subjects().iter().map(ToString::to_string).collect(),
            data: written.data,
            metadata: metadata.to_owned(),
            at: self.deciding.now,
            leaf_hash: [0; 32],
        };
        stored.leaf_hash = merkle::leaf_hash(self.tenant, &stored);
        self.deciding.head.position = stored.position;
        self.deciding.head.frontier.push(stored.leaf_hash);
        self.cache.evolve(&event, stored.data.len());
        let recorded = Arc::new(Recorded { stored: Arc::new(stored), event });
        self.deciding.writes.events.push(Arc::clone(&recorded));
        recorded
    }

    /// Notes what lies beside the log for a command that made something happen.
    fn write_beside(&mut self, submission: &Submission, first: &Recorded) {
        let of_work = first.event.place().map(|place| place.user_id);
        let about = of_work.or_else(|| {
            first.event.subjects().into_iter().find_map(|subject| match subject {
                Subject::User(user) => Some(user),
                _ => None,
            })
        });
        let position = first.stored.position;
        self.deciding
            .writes
            .contents
            .extend(submission.contents.iter().map(|content| (content.clone(), position, about)));
        self.deciding.writes.sealed.extend(submission.sealed.iter().cloned());
        if let Some(person) = submission.command.person()
            && let Some((external_id, user_id)) = self.deciding.new_people.remove_entry(&person.external_id)
        {
            self.cache.meet(external_id.clone(), user_id);
            self.deciding.writes.people.push((user_id, external_id));
        }
    }
}

/// A session's standing as it is, unless a bug is planted in it.
fn misjudged(mut standing: Standing) -> Standing {
    if planted::strikes("stale-standing", 3) {
        standing.account = Account::default();
    }
    if let Some(limit) = &mut standing.limits.max_cost
        && planted::strikes("smaller-limit", 3)
    {
        limit.amount /= 2;
    }
    if let Some(minutes) = &mut standing.limits.max_compute_minutes
        && planted::strikes("fewer-minutes", 3)
    {
        *minutes /= 2;
    }
    standing
}

/// An event with what it books, unless a bug is planted in it.
fn misbooked(mut event: Event) -> Event {
    match &mut event {
        Event::ComputeStopped(stopped)
            if !stopped.booking.charges.is_empty() && planted::strikes("unbilled-compute", 5) =>
        {
            stopped.booking.charges.clear();
        }
        Event::StorageMetered(metered)
            if !metered.booking.charges.is_empty() && planted::strikes("unbilled-storage", 3) =>
        {
            metered.booking.charges.clear();
        }
        Event::CallSettled(settled) if planted::strikes("doubled-charge", 5) => {
            settled.booking.charges.extend(settled.booking.charges.first().cloned());
        }
        _ => {}
    }
    event
}

/// The state of a session that lets its agents have every further minute of compute, where such a bug is planted.
fn without_limits(state: &AggregateState, command: &Command) -> Option<AggregateState> {
    let Command::Session(session_id, session::Command::TickCompute(..)) = command else { return None };
    if !planted::is("unlimited-minutes") {
        return None;
    }
    let (session_id, limits) = (*session_id, session::Limits::default());
    let user_id = UserId::from_ulid(random::ulid(Timestamp::default()));
    let mut unlimited = state.clone();
    unlimited.evolve(&Event::SessionLimitsChanged(session::LimitsChanged { session_id, user_id, limits }));
    Some(unlimited)
}

/// The format of the states in snapshots.
pub(super) const SNAPSHOT_FORMAT: i32 = AggregateState::FORMAT;

/// An event's metadata as it is written.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Metadata<'a> {
    actor: String,
    request_id: RequestId,
    #[serde(skip_serializing_if = "Option::is_none")]
    idempotency_key: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cause: Option<i64>,
}

fn metadata(submission: &Submission, once: Option<&Once>) -> String {
    let provenance = &submission.provenance;
    let metadata = Metadata {
        actor: match provenance.actor {
            Actor::Key(key) => key.to_string(),
            Actor::Operator => "operator".to_owned(),
            Actor::System => "system".to_owned(),
        },
        request_id: provenance.request_id,
        idempotency_key: once.filter(|_| !planted::strikes("lost-key", 50)).map(|once| once.key.as_str()),
        cause: provenance.cause,
    };
    serde_json::to_string(&metadata).expect("metadata is plain data")
}
