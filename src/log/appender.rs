//! The one appender that an active tenant has on this server: takes all that waits, and runs it as one transaction.

use std::sync::Arc;
use std::time::Duration;

use theazo_projections::{EPOCH, work};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::append::{self, Found, Head};
use super::cache::Cache;
use super::codec::Unreadable;
use super::decide::{self, Decider, Decision, Plan, SNAPSHOT_FORMAT};
use super::execute::Parts;
use super::project::{self, Build};
use super::sealed;
use super::{Answer, Answered, Answering, Failure, Once, Recorded, Submission, Tenant, Verdict, kept, open};
use crate::config;
use crate::database::{Client, Error, Pipeline, Scope};

/// A command that waits for its answer.
pub(super) struct Pending {
    pub(super) submission: Submission,
    pub(super) keyed: Option<(Once, Answering)>,
    pub(super) reply: oneshot::Sender<Result<Reply, Failure>>,
    /// After this the caller has been told that it was not carried out, so it must not be.
    pub(super) deadline: Instant,
}

impl Pending {
    pub(super) fn once(&self) -> Option<&Once> {
        self.keyed.as_ref().map(|(once, _)| once)
    }
}

/// What the caller of a command gets.
pub(super) enum Reply {
    /// Of a command without an idempotency key.
    Verdict(Verdict),
    /// Of one with.
    Answered(Answered),
}

type Replies = Vec<Result<Reply, Failure>>;

/// Why an attempt at a batch came to nothing.
enum Broken {
    /// Nothing was written.
    NotDone(Failure),
    /// The database refused something in it: nothing was written, and one command may be to blame.
    Refused(Error),
    /// The connection broke in the commit: it may have been written.
    Unknown(Box<Unknown>),
}

/// A batch of which it is not known whether it was committed, and what is to be told if it was.
struct Unknown {
    error: Error,
    committed: Committed,
    replies: Replies,
    events: Vec<Arc<Recorded>>,
}

impl From<Error> for Broken {
    fn from(error: Error) -> Self {
        if error.is_unavailable() || error.is_connection() {
            Self::NotDone(Failure::from(error))
        } else {
            Self::Refused(error)
        }
    }
}

/// What is in the database if, and only if, a batch was committed.
enum Committed {
    /// This event at this position.
    Event { position: i64, event_id: String },
    /// This answer for this idempotency key.
    Answer { key_digest: Vec<u8>, sealed: Vec<u8> },
    /// Nothing was written, so it does not matter.
    Nothing,
}

/// Appends for one tenant.
pub(super) struct Appender {
    parts: Arc<Parts>,
    tenant: Tenant,
    cache: Cache,
    /// Up to where the cache has folded the log; `None` when it is empty.
    position: Option<i64>,
    builds: Vec<Build>,
    builds_revision: Option<i64>,
    next_sweep: Instant,
}

impl Appender {
    pub(super) fn new(parts: Arc<Parts>, tenant: Tenant) -> Self {
        let next_sweep = Instant::now() + config::IDEMPOTENCY_SWEEP;
        let (cache, builds) = (Cache::new(), vec![]);
        Self { parts, tenant, cache, position: None, builds, builds_revision: None, next_sweep }
    }

    /// Works until nothing has waited for a while, or until the queue is closed and empty.
    pub(super) async fn run(mut self, mut queue: mpsc::Receiver<Pending>) {
        let mut batch = Vec::new();
        loop {
            let waited = tokio::time::timeout(
                config::APPENDER_IDLE,
                queue.recv_many(&mut batch, config::APPEND_BATCH),
            );
            match waited.await {
                Ok(0) => return,
                Ok(_) => {
                    self.carry_out(std::mem::take(&mut batch)).await;
                    // Those who were just answered may have their next command ready: it goes into the next batch
                    // with what waits already, and not into one of its own behind it.
                    tokio::task::yield_now().await;
                }
                // From here on senders find the queue closed and start another appender; what came in before
                // that is still taken.
                Err(_) => queue.close(),
            }
        }
    }

    async fn carry_out(&mut self, mut batch: Vec<Pending>) {
        let now = Instant::now();
        batch.retain(|pending| pending.deadline > now && !pending.reply.is_closed());
        if batch.is_empty() {
            return;
        }
        metrics::histogram!("theazo_append_batch_commands").record(count(batch.len()));
        let replies = match self.attempt_and_settle(&batch).await {
            Ok(replies) => replies,
            Err(Broken::Refused(error)) if batch.len() > 1 => {
                tracing::error!(%error, commands = batch.len(), "a batch was refused; its commands are tried one by one");
                for pending in batch {
                    let replies = self.attempt_and_settle(std::slice::from_ref(&pending)).await;
                    deliver(vec![pending], replies.unwrap_or_else(|broken| vec![Err(broken.into_failure())]));
                }
                return;
            }
            Err(broken) => {
                let failure = broken.into_failure();
                batch.iter().map(|_| Err(failure.clone())).collect()
            }
        };
        deliver(batch, replies);
        self.sweep().await;
    }

    /// Attempts a batch; where the outcome is unknown, finds it out, and attempts it once more if it was not done.
    async fn attempt_and_settle(&mut self, batch: &[Pending]) -> Result<Replies, Broken> {
        for last in [false, true] {
            match self.attempt(batch).await {
                Ok(replies) => return Ok(replies),
                Err(broken) => {
                    // What the cache has folded may not have happened.
                    self.cache.clear();
                    self.position = None;
                    self.builds_revision = None;
                    let Broken::Unknown(unknown) = broken else { return Err(broken) };
                    let Unknown { error, committed, replies, events } = *unknown;
                    tracing::warn!(%error, "the connection broke in a commit; finding out how it ended");
                    metrics::counter!("theazo_append_unknown_commits_total").increment(1);
                    match self.was_committed(&committed).await {
                        Some(true) => {
                            self.parts.feeds.publish(self.tenant.id, &events);
                            return Ok(replies);
                        }
                        Some(false) if !last => {}
                        Some(false) => {
                            return Err(Broken::NotDone(Failure::Unavailable { outcome_unknown: false }));
                        }
                        None => return Err(Broken::NotDone(Failure::Unavailable { outcome_unknown: true })),
                    }
                }
            }
        }
        unreachable!("the second attempt returns")
    }

    async fn attempt(&mut self, batch: &[Pending]) -> Result<Replies, Broken> {
        let client = self.parts.database.appending().await?;
        let attempt = tokio::time::timeout(config::BATCH_DEADLINE, self.attempt_on(&client, batch));
        let outcome = attempt.await.unwrap_or_else(|_| {
            // The database says nothing, so what it has done is not known.
            Err(Broken::NotDone(Failure::Unavailable { outcome_unknown: true }))
        });
        if outcome.is_err() {
            // The transaction may be open still: the connection is closed, not given back.
            drop(deadpool_postgres::Object::take(client));
        }
        outcome
    }

    async fn attempt_on(&mut self, client: &Client, batch: &[Pending]) -> Result<Replies, Broken> {
        let wanted = decide::wanted(batch, &mut self.cache);
        let found = append::begin(client, self.tenant.id, &wanted, SNAPSHOT_FORMAT).await?;
        self.check_epoch(&found.head)?;
        if self.catch_up(client, &found.head).await? == CatchUp::Forgot {
            // The cache was too far behind to be folded on. With nothing in it, everything is wanted anew.
            client.batch_execute("rollback").await.map_err(Error::from)?;
            return Box::pin(self.attempt_on(client, batch)).await;
        }
        if self.builds_revision != Some(found.head.builds_revision) {
            self.builds = open::kept_up_builds(client, self.tenant.id).await?;
            self.builds_revision = Some(found.head.builds_revision);
        }
        let Found { head, people, snapshots, events, kept } = found;
        self.position = Some(head.position);
        for (external_id, user_id) in people {
            self.cache.meet(external_id, user_id);
        }
        self.cache.load(self.parts.codec, snapshots, &events).map_err(|error| self.unreadable(&error))?;
        let besides = decide::wanted_besides(&self.tenant, batch, &mut self.cache);
        if !besides.is_empty() {
            let (snapshots, events) = append::load(client, self.tenant.id, &besides, SNAPSHOT_FORMAT).await?;
            self.cache.load(self.parts.codec, snapshots, &events).map_err(|error| self.unreadable(&error))?;
        }
        let now = self.parts.clock.now();
        let decider =
            Decider::new(&self.tenant, &self.parts.keys.answers, &mut self.cache, (head, kept), now);
        let mut plan = decider.decide(batch);
        let changes = project::fold(&self.builds, plan.writes.events.iter().map(|event| &**event));
        plan.worked = changes.touch(work::NAME);
        plan.writes.projections = project::writes(changes, &self.builds);
        let sealed = sealed::wrap_by_active(client, &self.parts.keys.masters, &mut plan.writes.sealed).await;
        sealed.map_err(Broken::NotDone)?;
        self.write(client, batch, plan).await
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
        let Some(position) = self.position.filter(|position| *position != head.position) else {
            return Ok(CatchUp::Done);
        };
        if head.position < position || head.position - position > config::CATCH_UP_EVENTS {
            self.cache.clear();
            self.position = None;
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
    async fn write(&mut self, client: &Client, batch: &[Pending], plan: Plan) -> Result<Replies, Broken> {
        let Plan { decisions, writes, now, worked } = plan;
        let events = writes.events.clone();
        let head = writes.head.as_ref().map(|head| head.position);
        let mut pipeline = Pipeline::default();
        append::send(&mut pipeline, client, self.tenant.id, writes, SNAPSHOT_FORMAT).await?;
        let (answers, kept) = if batch.iter().any(|pending| pending.keyed.is_some()) {
            // The answers are read from what was just written, so that must have worked.
            std::mem::take(&mut pipeline).finish().await?;
            self.answers(client, batch, &decisions).await?
        } else {
            (vec![], vec![])
        };
        let committed = match (events.last(), kept.first()) {
            (Some(event), _) => Committed::Event {
                position: event.stored.position,
                event_id: event.stored.event_id.to_string(),
            },
            (None, Some((key, _, sealed))) => {
                Committed::Answer { key_digest: key.clone(), sealed: sealed.clone() }
            }
            (None, None) => Committed::Nothing,
        };
        append::send_kept(&mut pipeline, client, self.tenant.id, kept, now).await?;
        pipeline.send(async { client.batch_execute("commit").await.map(|()| vec![]) }).await;
        let notice =
            format!("select pg_notify('theazo_log', '{}:{}')", self.tenant.id.0, head.unwrap_or_default());
        let mut notify = Pipeline::default();
        if head.is_some() {
            // Sent with the commit but outside of the transaction: a NOTIFY inside makes every commit of the
            // database wait for one lock while it is flushed. It only wakes; the log is the truth.
            notify.send(async { client.batch_execute(&notice).await.map(|()| vec![]) }).await;
        }
        let replies = replies(decisions, answers);
        match pipeline.finish().await {
            Ok(_) => {}
            Err(error) if error.is_connection() => {
                return Err(Broken::Unknown(Box::new(Unknown { error, committed, replies, events })));
            }
            Err(error) => return Err(error.into()),
        }
        self.position = head.or(self.position);
        self.cache.trim();
        self.parts.feeds.publish(self.tenant.id, &events);
        if worked {
            self.parts.worked.notify_one();
        }
        metrics::counter!("theazo_events_appended_total").increment(events.len() as u64);
        Ok(replies)
    }

    /// Makes the answers of the commands that carry an idempotency key, inside the transaction, and seals them.
    async fn answers(
        &self,
        client: &Client,
        batch: &[Pending],
        decisions: &[Decision],
    ) -> Result<(Vec<Option<Answer>>, Vec<append::Keeping>), Error> {
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
            {
                let sealed = kept::seal(&self.parts.keys.answers, self.tenant.id, &once.key_digest, answer);
                kept.push((once.key_digest.to_vec(), once.fingerprint.to_vec(), sealed));
            }
        }
        Ok((answers, kept))
    }

    /// Finds out whether a batch was committed, by taking the lock of the head, which the old backend holds until
    /// its transaction has ended, and then looking for what the batch would have written. `None` when the
    /// database stays away.
    async fn was_committed(&self, committed: &Committed) -> Option<bool> {
        let until = Instant::now() + config::SETTLE_DEADLINE;
        while Instant::now() < until {
            match self.look_for(committed).await {
                Ok(found) => return Some(found),
                Err(error) => tracing::warn!(%error, "the outcome of a commit is still unknown"),
            }
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
        None
    }

    async fn look_for(&self, committed: &Committed) -> Result<bool, Error> {
        let client = self.parts.database.appending().await?;
        let found = open::locked(&client, self.tenant.id, async |client| match committed {
            Committed::Nothing => Ok(false),
            Committed::Event { position, event_id } => {
                let sql = "select 1 from events where tenant_id = $1 and position = $2 and event_id = $3";
                Ok(!client.query(sql, &[&self.tenant.id, position, event_id]).await?.is_empty())
            }
            Committed::Answer { key_digest, sealed } => {
                let sql =
                    "select 1 from idempotency where tenant_id = $1 and key_digest = $2 and answer = $3";
                Ok(!client.query(sql, &[&self.tenant.id, key_digest, sealed]).await?.is_empty())
            }
        });
        match found.await {
            Ok(found) => Ok(found),
            Err(error) => {
                drop(deadpool_postgres::Object::take(client));
                Err(error)
            }
        }
    }

    /// Now and then deletes answers that have been kept long enough.
    async fn sweep(&mut self) {
        if Instant::now() < self.next_sweep {
            return;
        }
        self.next_sweep = Instant::now() + config::IDEMPOTENCY_SWEEP;
        let kept = i64::try_from(config::IDEMPOTENCY_KEPT.as_millis()).unwrap_or(i64::MAX);
        let before = self.parts.clock.now().millis() - kept;
        if let Err(error) = open::sweep_answers(&self.parts.database, self.tenant.id, before).await {
            tracing::warn!(%error, "old answers could not be deleted; it is tried again later");
        }
    }
}

#[derive(PartialEq, Eq)]
enum CatchUp {
    Done,
    Forgot,
}

impl Broken {
    fn into_failure(self) -> Failure {
        match self {
            Self::NotDone(failure) => failure,
            Self::Refused(error) => Failure::Internal(error.to_string()),
            Self::Unknown(_) => Failure::Unavailable { outcome_unknown: true },
        }
    }
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
        (Decision::Unreadable, _) => {
            Err(Failure::Internal("a kept answer cannot be opened with this server's key".to_owned()))
        }
    });
    replies.collect()
}

fn deliver(batch: Vec<Pending>, replies: Replies) {
    for (pending, reply) in batch.into_iter().zip(replies) {
        // A caller that no longer waits has nobody to be told.
        let _ = pending.reply.send(reply);
    }
}

#[expect(clippy::cast_precision_loss, reason = "a histogram of small counts")]
fn count(commands: usize) -> f64 {
    commands as f64
}
