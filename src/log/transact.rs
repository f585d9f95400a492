//! How an appender carries out a batch: decided on what is in memory and written in one round trip, or under the lock of
//! the head where something has to be read first. While the database writes, the next batch is decided already.

use std::sync::Arc;

use theazo_domain::time::Timestamp;
use theazo_projections::EPOCH;
use tokio::time::Instant;

use super::append::{self, Found, Head, Seen};
use super::appender::{Appender, Broken, Committed, Looking, Pending, Replies, Reply, Unknown};
use super::codec::Unreadable;
use super::decide::{self, Decider, Deciding, Decision, Needs, Plan, SNAPSHOT_FORMAT, Traces};
use super::writes::{self, Start};
use super::{Answer, Answered, Failure, kept, open, sealed};
use crate::database::{Client, Error, Pipeline, Scope};
use crate::{config, planted};

/// Wakes the feeds of other servers. What only wakes need not be flushed to the disk, so it waits for no flush.
const WAKE: &str = "select set_config('synchronous_commit', 'off', true), pg_notify('theazo_log', $1)";

impl Appender {
    /// Attempts a batch in one round trip where all of it can be decided on what is in memory.
    pub(super) async fn attempt_on(&mut self, client: &Client, batch: &[Pending]) -> Result<Replies, Broken> {
        let decided = self.deciding.as_ref().map_or(0, Deciding::decided);
        let foreseen = self.head.is_some()
            && Instant::now() >= self.wary_until
            && batch[decided..]
                .iter()
                .all(|pending| decide::is_plain(&self.tenant, pending, &mut self.cache));
        let (true, Some(head)) = (foreseen, self.head.clone()) else {
            return self.attempt_locked(client, batch).await;
        };
        let deciding = self.deciding.take().unwrap_or_else(|| Deciding::new(head.clone()));
        let plan = self.decide(deciding, &batch[decided..]);
        self.write(client, batch, (Start::From(head), plan)).await
    }

    /// Attempts a batch under the lock of the head: first all that it needs is read, then it is decided and written.
    pub(super) async fn attempt_locked(
        &mut self,
        client: &Client,
        batch: &[Pending],
    ) -> Result<Replies, Broken> {
        self.told.tell();
        let decided = self.deciding.as_ref().map_or(0, Deciding::decided);
        let wanted = decide::wanted(&batch[decided..], &mut self.cache);
        let found = append::begin(client, self.tenant.id, &wanted, SNAPSHOT_FORMAT).await?;
        self.check_epoch(&found.head)?;
        let known = self.head.as_ref().map(|head| head.position);
        let moved = known.is_some_and(|known| known != found.head.position) && self.deciding.is_some();
        if moved {
            self.wipe(None);
        }
        if moved || self.catch_up(client, &found.head).await? == CatchUp::Forgot {
            // The cache was too far behind to be folded on, or what was decided is not: everything is wanted anew.
            client.batch_execute("rollback").await.map_err(Error::from)?;
            return Box::pin(self.attempt_locked(client, batch)).await;
        }
        if self.builds_revision != Some(found.head.builds_revision) {
            self.builds = open::kept_up_builds(client, self.tenant.id).await?;
            self.builds_revision = Some(found.head.builds_revision);
        }
        let Found { head, people, snapshots, events, kept } = found;
        let kept_up = (head.projection_epoch, head.builds_revision);
        self.head = Some(head.clone());
        for (external_id, user_id) in people {
            self.cache.meet(external_id, user_id);
        }
        let mut deciding = self.deciding.take().unwrap_or_else(|| Deciding::new(head));
        let loaded = self.cache.load(self.parts.codec, (snapshots, &events), deciding.events());
        loaded.map_err(|error| self.unreadable(&error))?;
        self.cache.know(wanted.subjects.iter().filter_map(|subject| subject.parse().ok()), deciding.events());
        let undecided = &batch[deciding.decided()..];
        let besides = decide::wanted_besides(&self.tenant, undecided, &mut self.cache);
        if !besides.is_empty() {
            let (snapshots, events) = append::load(client, self.tenant.id, &besides, SNAPSHOT_FORMAT).await?;
            let loaded = self.cache.load(self.parts.codec, (snapshots, &events), deciding.events());
            loaded.map_err(|error| self.unreadable(&error))?;
            self.cache.know(besides.iter().filter_map(|subject| subject.parse().ok()), deciding.events());
        }
        deciding.know(kept);
        let mut plan = self.decide(deciding, undecided);
        (plan.head.projection_epoch, plan.head.builds_revision) = kept_up;
        let sealed = sealed::wrap_by_active(client, &self.parts.keys.masters, &mut plan.writes.sealed).await;
        sealed.map_err(Broken::NotDone)?;
        self.write(client, batch, (Start::Locked, plan)).await
    }

    /// Decides what is left of a batch, and folds all of it into the read models.
    fn decide(&mut self, mut deciding: Deciding, undecided: &[Pending]) -> Plan {
        self.decider(&mut deciding, |decider, now| decider.decide(undecided, now));
        deciding.fold(&self.builds, self.builds_revision);
        deciding.finish(&mut self.cache, &self.builds)
    }

    fn decider(&mut self, deciding: &mut Deciding, work: impl FnOnce(&mut Decider<'_>, Timestamp)) {
        let (tenant, answers_key, cache) = (&self.tenant, &self.parts.keys.answers, &mut self.cache);
        work(&mut Decider { tenant, answers_key, cache, deciding }, self.parts.clock.now());
    }

    /// Decides the commands that came in while a batch is being written, on the state that it leaves, as far as they
    /// need nothing of the database.
    fn decide_ahead(&mut self, came: Vec<Pending>, head: &Head) {
        for pending in came.into_iter().filter(Pending::is_awaited) {
            match decide::needs(&self.tenant, &pending, &mut self.cache) {
                Needs::Nothing => self.decide_early(pending, head),
                Needs::Person(_) => self.asking.push(pending),
                Needs::Lock => self.behind.push(pending),
            }
        }
        self.fold_ahead();
        self.look_for_people();
    }

    /// Folds what was decided ahead.
    fn fold_ahead(&mut self) {
        if let Some(deciding) = &mut self.deciding {
            deciding.fold(&self.builds, self.builds_revision);
        }
    }

    fn decide_early(&mut self, pending: Pending, head: &Head) {
        let mut deciding = self.deciding.take().unwrap_or_else(|| Deciding::new(head.clone()));
        self.decider(&mut deciding, |decider, now| decider.decide(std::slice::from_ref(&pending), now));
        self.deciding = Some(deciding);
        self.ahead.push(pending);
    }

    /// Looks for the end users that commands ask for, all that wait at once.
    fn look_for_people(&mut self) {
        let (None, false, Some(known)) = (&self.looking, self.asking.is_empty(), &self.head) else { return };
        let asked = std::mem::take(&mut self.asking);
        let people: Vec<String> = asked.iter().filter_map(Pending::external_id).collect();
        let (database, tenant, since) = (self.parts.database.clone(), self.tenant.id, known.position);
        let seen = tokio::spawn(async move { append::look_for_people(&database, tenant, &people).await });
        self.looking = Some(Looking { asked, since, seen });
    }

    /// Decides the commands whose end users were looked for, on the state that this head leaves.
    ///
    /// What was seen is right for it as long as nobody else has appended since: what this server has appended itself is
    /// in memory. If somebody has, the log does not end where the batch that is made of this expects it, so that nothing
    /// of it is written.
    fn decide_seen(&mut self, seen: Option<Seen>, head: &Head) {
        let Some(Looking { asked, since, .. }) = self.looking.take() else { return };
        let seen = seen.filter(|seen| (since..=head.position).contains(&seen.position));
        let Some(Seen { people, .. }) = seen else {
            self.behind.extend(asked);
            return;
        };
        for pending in asked.into_iter().filter(Pending::is_awaited) {
            // One of them may have brought the end user of the next.
            let needs = match decide::needs(&self.tenant, &pending, &mut self.cache) {
                Needs::Person(external_id) => match people.get(&external_id) {
                    Some(user_id) => {
                        self.cache.meet(external_id, *user_id);
                        decide::needs(&self.tenant, &pending, &mut self.cache)
                    }
                    None => Needs::Nothing,
                },
                needs => needs,
            };
            match needs {
                Needs::Nothing => self.decide_early(pending, head),
                Needs::Person(_) | Needs::Lock => self.behind.push(pending),
            }
        }
        self.fold_ahead();
        self.look_for_people();
    }

    /// Gathers what the next batch is made of, when there is something of it already: what waits in the queue, and where
    /// that is nothing that could go on, those whose end users are being looked for.
    pub(super) async fn gather(&mut self) {
        let begun = self.waiting() > 0;
        if begun && let Some(head) = self.foreseen() {
            let mut came = vec![];
            while self.waiting() + came.len() < config::APPEND_BATCH
                && let Ok(pending) = self.queue.try_recv()
            {
                came.push(pending);
            }
            self.decide_ahead(came, &head);
        }
        let mut open = true;
        while self.ahead.is_empty() && self.behind.is_empty() {
            let (Some(_), Some(head)) = (&self.looking, self.head.clone()) else { return };
            let room = config::APPEND_BATCH.saturating_sub(self.waiting());
            let mut came = vec![];
            // Others do not wait for what is being looked for.
            tokio::select! {
                seen = seen(&mut self.looking) => self.decide_seen(seen, &head),
                received = self.queue.recv_many(&mut came, room), if room > 0 && open => {
                    open = received > 0;
                    self.decide_ahead(came, &head);
                }
            }
        }
        while begun
            && self.foreseen().is_none()
            && self.waiting() < config::APPEND_BATCH
            && let Ok(pending) = self.queue.try_recv()
        {
            self.behind.push(pending);
        }
    }

    /// How many commands have been taken out of the queue and wait for a batch.
    fn waiting(&self) -> usize {
        let asked = self.looking.as_ref().map_or(0, |looking| looking.asked.len());
        self.ahead.len() + self.behind.len() + self.asking.len() + asked
    }

    /// Where the log ends, if commands may be decided before the lock of that is had.
    fn foreseen(&self) -> Option<Head> {
        self.head.clone().filter(|_| Instant::now() >= self.wary_until)
    }

    /// A server whose projections are older than those kept up with the log must not leave them behind; one whose
    /// are newer rebuilds them before it appends.
    fn check_epoch(&self, head: &Head) -> Result<(), Broken> {
        if head.projection_epoch > EPOCH {
            let reason = format!("its read models are of epoch {}", head.projection_epoch);
            return Err(Broken::NotDone(self.parts.meet_newer(reason)));
        }
        if head.projection_epoch < EPOCH {
            return Err(Broken::NotDone(Failure::Rebuilding));
        }
        Ok(())
    }

    fn unreadable(&self, error: &Unreadable) -> Broken {
        match error {
            Unreadable::Newer(newer) => Broken::NotDone(self.parts.meet_newer(newer.to_string())),
            Unreadable::Broken { .. } => Broken::NotDone(Failure::Internal(error.to_string())),
        }
    }

    /// Folds what other servers have appended since the last batch into the cache.
    async fn catch_up(&mut self, client: &Client, head: &Head) -> Result<CatchUp, Broken> {
        let known = self.head.as_ref().map(|known| known.position);
        let Some(position) = known.filter(|position| *position != head.position) else {
            return Ok(CatchUp::Done);
        };
        // What was seen of end users may be older than what others have appended.
        self.look_later();
        if head.position < position || head.position - position > config::CATCH_UP_EVENTS {
            self.cache.clear();
            self.head = None;
            return Ok(CatchUp::Forgot);
        }
        for stored in append::events_between(client, self.tenant.id, position, head.position).await? {
            let event = self.parts.codec.read(&stored.kind, stored.version, &stored.data);
            let event = event.map_err(|error| self.unreadable(&error))?;
            self.cache.evolve(&event, stored.data.len());
        }
        Ok(CatchUp::Done)
    }

    /// Writes the batch and commits it, and makes the answers that are kept.
    async fn write(
        &mut self,
        client: &Client,
        batch: &[Pending],
        (start, plan): (Start, Plan),
    ) -> Result<Replies, Broken> {
        let Plan { decisions, writes, head, now, worked } = plan;
        let traces = Traces::of(&writes);
        let mut pipeline = Pipeline::default();
        let tenant = self.tenant.id;
        let commit = if planted::strikes("lost-batch", 50) { "rollback" } else { "commit" };
        let start = match start {
            Start::From(_) if commit == "rollback" => {
                pipeline.send(async { client.batch_execute("begin").await.map(|()| vec![]) }).await;
                Start::Locked
            }
            start => start,
        };
        let parts = Arc::clone(&self.parts);
        let sending = async {
            let wake = client.prepare_cached(WAKE).await?;
            let writes = (writes, SNAPSHOT_FORMAT);
            let ways = &parts.combinations;
            let open = writes::send(&mut pipeline, client, tenant, (start, &head), writes, ways).await?;
            Ok::<_, Error>((wake, open))
        };
        let (wake, open) = self.told.tell_before(sending).await?;
        let (answers, kept) = if batch.iter().any(|pending| pending.keyed.is_some()) {
            // The answers are read from what was just written, so that must have worked.
            std::mem::take(&mut pipeline).finish().await?;
            self.answers(client, batch, &decisions).await?
        } else {
            (vec![], vec![])
        };
        let committed = Committed::by(&traces, kept.first());
        writes::send_kept(&mut pipeline, client, self.tenant.id, kept, now).await?;
        if open {
            pipeline.send(async { client.batch_execute(commit).await.map(|()| vec![]) }).await;
        }
        let notice = format!("{}:{}", self.tenant.id.0, head.position);
        let mut notify = Pipeline::default();
        if !traces.events.is_empty() {
            // Sent with the commit but outside of the transaction: a NOTIFY inside makes every commit of the
            // database wait for one lock while it is flushed. It only wakes, even where the commit fails.
            notify.send(async { client.query(&wake, &[&notice]).await }).await;
        }
        let replies = replies(decisions, answers);
        // While the database is at this batch, the callers of the one before it make the next.
        self.told.tell();
        // What the next batch needs is in memory from here on until it is written.
        self.cache.trim();
        if planted::is("published-early") {
            self.parts.feeds.publish(self.tenant.id, &traces.events);
        }
        match self.meanwhile(pipeline.finish(), &head).await {
            Ok(_) => {}
            Err(error) if writes::has_moved(&error) => {
                self.wipe(Some(&traces));
                return Err(Broken::Moved);
            }
            Err(error) if error.is_connection() => {
                let events = traces.events;
                return Err(Broken::Unknown(Box::new(Unknown { error, committed, replies, events })));
            }
            Err(error) => return Err(error.into()),
        }
        self.head = Some(head);
        self.parts.feeds.publish(self.tenant.id, &traces.events);
        if worked {
            self.parts.worked.notify_one();
        }
        metrics::counter!("theazo_events_appended_total").increment(traces.events.len() as u64);
        Ok(replies)
    }

    /// Waits for the database, and meanwhile decides what comes in.
    async fn meanwhile<T>(&mut self, writing: impl Future<Output = T>, head: &Head) -> T {
        let mut writing = std::pin::pin!(writing);
        if Instant::now() < self.wary_until {
            return writing.await;
        }
        let mut open = true;
        loop {
            let room = config::APPEND_BATCH.saturating_sub(self.waiting());
            let mut came = vec![];
            tokio::select! {
                biased;
                outcome = &mut writing => return outcome,
                seen = seen(&mut self.looking) => self.decide_seen(seen, head),
                received = self.queue.recv_many(&mut came, room), if room > 0 && open => {
                    open = received > 0;
                    self.decide_ahead(came, head);
                }
            }
        }
    }

    /// Makes the answers of the commands that carry an idempotency key, inside the transaction, and seals them.
    async fn answers(
        &self,
        client: &Client,
        batch: &[Pending],
        decisions: &[Decision],
    ) -> Result<(Vec<Option<Answer>>, Vec<writes::Keeping>), Error> {
        let scope = Scope::within(client, self.tenant.id);
        let made =
            batch.iter().zip(decisions).map(async |(pending, decision)| match (&pending.keyed, decision) {
                (Some((_, answering)), Decision::Verdict(verdict)) => {
                    answering(scope, verdict).await.map(Some)
                }
                _ => Ok(None),
            });
        let answers = futures_util::future::try_join_all(made).await?;
        let mut kept = vec![];
        for (pending, answer) in batch.iter().zip(&answers) {
            if let (Some(once), Some(answer)) = (pending.once(), answer)
                && is_decided(answer.status)
                && !planted::is("forgotten-key")
            {
                let sealed = kept::seal(&self.parts.keys.answers, self.tenant.id, &once.key_digest, answer);
                kept.push((once.key_digest.to_vec(), once.fingerprint.to_vec(), sealed));
            }
        }
        Ok((answers, kept))
    }
}

/// What was seen of the end users that are being looked for; `None` where they could not be looked for.
async fn seen(looking: &mut Option<Looking>) -> Option<Seen> {
    match looking {
        Some(looking) => (&mut looking.seen).await.ok()?.ok(),
        None => std::future::pending().await,
    }
}

#[derive(PartialEq, Eq)]
enum CatchUp {
    Done,
    Forgot,
}

/// Answers that are kept: what was decided. Mistakes of the request, limits of rate and failures can be tried again.
fn is_decided(status: u16) -> bool {
    (200..300).contains(&status) || matches!(status, 402 | 404 | 409)
}

fn replies(decisions: Vec<Decision>, answers: Vec<Option<Answer>>) -> Replies {
    let first_answers = answers.clone();
    let answers = answers.into_iter().chain(std::iter::repeat(None));
    let replies = decisions.into_iter().zip(answers).map(|(decision, answer)| match (decision, answer) {
        (Decision::Verdict(_), Some(answer)) => Ok(Reply::Answered(Answered { answer, replayed: false })),
        (Decision::Verdict(verdict), None) => Ok(Reply::Verdict(verdict)),
        (Decision::Replay(answer), _) => Ok(Reply::Answered(Answered { answer, replayed: true })),
        (Decision::Twin(first), _) => match first_answers.get(first).cloned().flatten() {
            Some(answer) => Ok(Reply::Answered(Answered { answer, replayed: true })),
            None => Err(Failure::Internal("the first of two equal requests has no answer".to_owned())),
        },
        (Decision::KeyReused, _) => Err(Failure::KeyReused),
        (Decision::KeyHeld, _) => Err(Failure::KeyHeld),
        (Decision::Unreadable, _) => Err(Failure::unreadable()),
    });
    replies.collect()
}
