//! The one appender that an active tenant has on this server: takes all that waits, and runs it as one transaction.

use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::append::{Head, Seen};
use super::cache::Cache;
use super::decide::{Deciding, Traces};
use super::execute::Parts;
use super::project::Build;
use super::writes;
use super::{Answered, Answering, Failure, Once, Recorded, Submission, Tenant, Verdict, open};
use crate::config;
use crate::database::Error;

/// A command that waits for its answer.
pub(super) struct Pending {
    pub(super) submission: Submission,
    pub(super) keyed: Option<(Once, Answering)>,
    pub(super) reply: oneshot::Sender<Result<Reply, Failure>>,
    /// After this the caller has been told that it was not carried out, so it must not be.
    pub(super) deadline: Instant,
}

impl Pending {
    /// Whether somebody still waits for it, so that it may be carried out.
    pub(super) fn is_awaited(&self) -> bool {
        self.deadline > Instant::now() && !self.reply.is_closed()
    }

    /// The end user that the command comes from, by the caller's own id.
    pub(super) fn external_id(&self) -> Option<String> {
        self.submission.command.person().map(|person| person.external_id.clone())
    }

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

pub(super) type Replies = Vec<Result<Reply, Failure>>;

/// Why an attempt at a batch came to nothing.
pub(super) enum Broken {
    /// Nothing was written.
    NotDone(Failure),
    /// The database refused something in it: nothing was written, and one command may be to blame.
    Refused(Error),
    /// The log does not end where it was thought to, since another server has appended: nothing was written, and what
    /// was decided has been wiped out.
    Moved,
    /// The connection broke in the commit: it may have been written.
    Unknown(Box<Unknown>),
}

/// A batch of which it is not known whether it was committed, and what is to be told if it was.
pub(super) struct Unknown {
    pub(super) error: Error,
    pub(super) committed: Committed,
    pub(super) replies: Replies,
    pub(super) events: Vec<Arc<Recorded>>,
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
pub(super) enum Committed {
    /// This event at this position.
    Event { position: i64, event_id: String },
    /// This answer for this idempotency key.
    Answer { key_digest: Vec<u8>, sealed: Vec<u8> },
    /// Nothing was written, so it does not matter.
    Nothing,
}

impl Committed {
    pub(super) fn by(traces: &Traces, kept: Option<&writes::Keeping>) -> Self {
        match (traces.events.last(), kept) {
            (Some(event), _) => {
                Self::Event { position: event.stored.position, event_id: event.stored.event_id.to_string() }
            }
            (None, Some((key, _, sealed))) => {
                Self::Answer { key_digest: key.clone(), sealed: sealed.clone() }
            }
            (None, None) => Self::Nothing,
        }
    }
}

/// Appends for one tenant.
///
/// While the database writes one batch, the commands of the next are decided already, on the state that the batch under
/// way leaves: only what the database has to be asked for waits. Should the log turn out to end elsewhere, because
/// another server has appended, all that was decided too early is wiped out and decided again.
pub(super) struct Appender {
    pub(super) parts: Arc<Parts>,
    pub(super) tenant: Tenant,
    pub(super) queue: mpsc::Receiver<Pending>,
    pub(super) cache: Cache,
    /// Where the log ends as far as this server has seen: up to there the cache has folded it. `None` when it is empty.
    pub(super) head: Option<Head>,
    pub(super) builds: Vec<Build>,
    pub(super) builds_revision: Option<i64>,
    /// Commands of the next batch that have been decided.
    pub(super) ahead: Vec<Pending>,
    /// What they came to, on the state that the batch under way leaves.
    pub(super) deciding: Option<Deciding>,
    /// Commands of the next batch that have to wait for it to begin.
    pub(super) behind: Vec<Pending>,
    /// Commands of the next batch that are decided once it is known whether their end users are new.
    pub(super) asking: Vec<Pending>,
    /// Looks for the end users of commands, while a batch is being written.
    pub(super) looking: Option<Looking>,
    /// Until then nothing is decided before the lock of the head is had: another server appends too.
    pub(super) wary_until: Instant,
    pub(super) next_sweep: Instant,
    /// Answers of the batch that was committed last, which go out behind the next batch.
    pub(super) told: Told,
}

/// Commands whose batch was committed, or came to nothing, with their answers. They are answered at the latest when this
/// goes: an appender that breaks takes no answer with it.
#[derive(Default)]
pub(super) struct Told {
    batch: Vec<Pending>,
    replies: Replies,
}

impl Told {
    /// Answers them.
    pub(super) fn tell(&mut self) {
        for (pending, reply) in self.batch.drain(..).zip(self.replies.drain(..)) {
            // A caller that no longer waits has nobody to be told.
            let _ = pending.reply.send(reply);
        }
    }

    /// Comes to something, and answers them first where that has to be waited for: nobody waits for it who could be
    /// answered.
    pub(super) async fn tell_before<T>(&mut self, coming: impl Future<Output = T>) -> T {
        let mut coming = std::pin::pin!(coming);
        match futures_util::poll!(&mut coming) {
            Poll::Ready(come) => come,
            Poll::Pending => {
                self.tell();
                coming.await
            }
        }
    }
}

impl Drop for Told {
    fn drop(&mut self) {
        self.tell();
    }
}

/// End users that are being looked for, without the lock of the head.
pub(super) struct Looking {
    /// The commands that come from them.
    pub(super) asked: Vec<Pending>,
    /// Where the log ended, as far as this server had seen, when it began.
    pub(super) since: i64,
    pub(super) seen: JoinHandle<Result<Seen, Error>>,
}

impl Appender {
    pub(super) fn new(parts: Arc<Parts>, tenant: Tenant, queue: mpsc::Receiver<Pending>) -> Self {
        let next_sweep = Instant::now() + config::IDEMPOTENCY_SWEEP;
        Self {
            parts,
            tenant,
            queue,
            cache: Cache::new(),
            head: None,
            builds: vec![],
            builds_revision: None,
            ahead: vec![],
            deciding: None,
            behind: vec![],
            asking: vec![],
            looking: None,
            wary_until: Instant::now(),
            next_sweep,
            told: Told::default(),
        }
    }

    /// Works until nothing has waited for a while, or until the queue is closed and empty.
    pub(super) async fn run(mut self) {
        loop {
            if self.ahead.is_empty() || !self.behind.is_empty() {
                // Those who are answered may have their next command ready: it goes into the next batch with what waits
                // already, and not into one of its own behind it.
                self.told.tell();
                tokio::task::yield_now().await;
            }
            self.gather().await;
            let mut batch = std::mem::take(&mut self.ahead);
            batch.append(&mut self.behind);
            if batch.is_empty() {
                let waited = self.queue.recv_many(&mut batch, config::APPEND_BATCH);
                match tokio::time::timeout(config::APPENDER_IDLE, waited).await {
                    Ok(0) => return,
                    Ok(_) => {}
                    // From here on senders find the queue closed and start another appender; what came in before
                    // that is still taken.
                    Err(_) => self.queue.close(),
                }
            }
            self.carry_out(batch).await;
        }
    }

    async fn carry_out(&mut self, mut batch: Vec<Pending>) {
        let decided = self.deciding.as_ref().map_or(0, Deciding::decided);
        let behind = batch.split_off(decided);
        batch.extend(behind.into_iter().filter(Pending::is_awaited));
        if batch.is_empty() {
            return;
        }
        metrics::histogram!("theazo_append_batch_commands").record(count(batch.len()));
        let replies = match self.attempt_and_settle(&batch).await {
            Ok(replies) => replies,
            Err(Broken::Refused(error)) if batch.len() > 1 => {
                tracing::error!(%error, commands = batch.len(), "a batch was refused; its commands are tried one by one");
                for pending in batch {
                    // Nothing of the next batch is to be decided between them.
                    self.be_wary();
                    let replies = self.attempt_and_settle(std::slice::from_ref(&pending)).await;
                    let replies = replies.unwrap_or_else(|broken| vec![Err(broken.into_failure())]);
                    self.told = Told { batch: vec![pending], replies };
                    self.told.tell();
                }
                return;
            }
            Err(broken) => {
                let failure = broken.into_failure();
                batch.iter().map(|_| Err(failure.clone())).collect()
            }
        };
        // Those of the batch before are answered, if they were not.
        self.told = Told { batch, replies };
        self.sweep().await;
    }

    /// Attempts a batch; where the outcome is unknown, finds it out, and attempts it once more if it was not done.
    async fn attempt_and_settle(&mut self, batch: &[Pending]) -> Result<Replies, Broken> {
        for last in [false, true] {
            match self.attempt(batch).await {
                Ok(replies) => return Ok(replies),
                Err(broken) => {
                    // What the cache has folded may not have happened.
                    self.forget();
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

    fn forget(&mut self) {
        self.cache.clear();
        self.head = None;
        self.builds_revision = None;
        self.deciding = None;
        self.decide_later();
    }

    /// Commands that were decided for the next batch are decided with it, as if they had not been.
    fn decide_later(&mut self) {
        let later = std::mem::take(&mut self.ahead);
        self.behind.splice(0..0, later);
        self.look_later();
    }

    /// Whose end users are looked for is decided behind the others, and looked at under the lock.
    pub(super) fn look_later(&mut self) {
        self.behind.extend(self.looking.take().into_iter().flat_map(|looking| looking.asked));
        self.behind.append(&mut self.asking);
    }

    /// From now on nothing is decided before the lock is had, for a while.
    fn be_wary(&mut self) {
        self.wary_until = Instant::now() + config::APPENDER_WARY;
    }

    /// Wipes out what was decided on a log that does not end where it was thought to.
    pub(super) fn wipe(&mut self, written: Option<&Traces>) {
        let ahead = self.deciding.take().map(|deciding| deciding.traces());
        for traces in written.into_iter().chain(&ahead) {
            traces.wipe(&mut self.cache);
        }
        self.decide_later();
        self.be_wary();
        metrics::counter!("theazo_append_decided_in_vain_total").increment(1);
    }

    async fn attempt(&mut self, batch: &[Pending]) -> Result<Replies, Broken> {
        let parts = Arc::clone(&self.parts);
        // Others may have all connections.
        let client = self.told.tell_before(parts.database.appending()).await?;
        let attempt = tokio::time::timeout(config::BATCH_DEADLINE, async {
            match self.attempt_on(&client, batch).await {
                Err(Broken::Moved) => self.attempt_locked(&client, batch).await,
                outcome => outcome,
            }
        });
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
        self.told.tell();
        self.next_sweep = Instant::now() + config::IDEMPOTENCY_SWEEP;
        let kept = i64::try_from(config::IDEMPOTENCY_KEPT.as_millis()).unwrap_or(i64::MAX);
        let before = self.parts.clock.now().millis() - kept;
        if let Err(error) = open::sweep_answers(&self.parts.database, self.tenant.id, before).await {
            tracing::warn!(%error, "old answers could not be deleted; it is tried again later");
        }
    }
}

impl Broken {
    fn into_failure(self) -> Failure {
        match self {
            Self::NotDone(failure) => failure,
            // It is attempted again under the lock, so it ends otherwise.
            Self::Moved => Failure::Unavailable { outcome_unknown: false },
            Self::Refused(error) if error.is_lasting() => Failure::Refused(error.to_string()),
            Self::Refused(error) => Failure::Internal(error.to_string()),
            Self::Unknown(_) => Failure::Unavailable { outcome_unknown: true },
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "a histogram of small counts")]
fn count(commands: usize) -> f64 {
    commands as f64
}
