//! The handle of the log: queues a command for its tenant's appender and waits for the answer.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::appender::{Appender, Pending, Reply};
use super::codec::Unreadable;
use super::feed::Feeds;
use super::open::Opened;
use super::writes::Combinations;
use super::{
    Answered, Answering, Codec, Failure, FeedReader, Once, Stored, Submission, Tenant, TenantId, Verdict,
    read,
};
use crate::clock::Clock;
use crate::config;
use crate::database::{Database, Scope};
use crate::vault::ServerKeys;
use theazo_domain::Event;

/// What the appenders of one server share.
pub(super) struct Parts {
    pub(super) database: Database,
    pub(super) keys: Arc<ServerKeys>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) codec: Codec,
    pub(super) feeds: Feeds,
    pub(super) combinations: Combinations,
    /// Wakes the workers of this server: what there is to do has changed.
    pub(super) worked: Notify,
    /// Why this server must not append: a newer one has written to the log.
    newer: Mutex<Option<String>>,
}

impl Parts {
    /// Notes that a newer server has been here. From now on this one appends nothing and is not ready.
    pub(super) fn meet_newer(&self, reason: String) -> Failure {
        let mut newer = self.newer.lock().unwrap_or_else(PoisonError::into_inner);
        if newer.is_none() {
            tracing::error!(reason, "a newer server has written to the log; this one stops appending");
        }
        newer.get_or_insert_with(|| reason.clone());
        Failure::Newer(reason)
    }
}

/// The logs of every tenant, on this server.
pub struct Log {
    pub(super) parts: Arc<Parts>,
    appenders: Mutex<Appenders>,
    pub(super) opened: Opened,
}

#[derive(Default)]
struct Appenders {
    queues: HashMap<TenantId, (mpsc::Sender<Pending>, JoinHandle<()>)>,
    closed: bool,
}

impl Log {
    /// The logs of this database.
    #[must_use]
    pub fn new(database: Database, keys: Arc<ServerKeys>, clock: Arc<dyn Clock>) -> Arc<Self> {
        let (codec, feeds, newer) = (Codec::default(), Feeds::new(database.clone()), Mutex::new(None));
        let (worked, combinations) = (Notify::new(), Combinations::default());
        let parts = Arc::new(Parts { database, keys, clock, codec, feeds, combinations, worked, newer });
        Arc::new(Self { parts, appenders: Mutex::default(), opened: Opened::default() })
    }

    /// Decides a command, appends what it makes happen, and tells after the commit.
    ///
    /// # Errors
    /// [`Failure`] when it could not be carried out. A refusal by the rules is a [`Verdict`], not a failure.
    pub async fn execute(
        self: &Arc<Self>,
        tenant: Tenant,
        submission: Submission,
    ) -> Result<Verdict, Failure> {
        match self.submit(tenant, submission, None).await? {
            Reply::Verdict(verdict) => Ok(verdict),
            Reply::Answered(_) => Err(Failure::Internal("an answer for a command without a key".to_owned())),
        }
    }

    /// The same with an idempotency key: the answer is made inside the transaction and kept with it, and a repeat
    /// of the request is given it again.
    ///
    /// # Errors
    /// As [`Self::execute`]; [`Failure::KeyReused`] when the key was used for another request.
    pub async fn execute_once(
        self: &Arc<Self>,
        tenant: Tenant,
        submission: Submission,
        once: Once,
        answering: Answering,
    ) -> Result<Answered, Failure> {
        match self.submit(tenant, submission, Some((once, answering))).await? {
            Reply::Answered(answered) => Ok(answered),
            Reply::Verdict(_) => Err(Failure::Internal("no answer for a command with a key".to_owned())),
        }
    }

    async fn submit(
        self: &Arc<Self>,
        tenant: Tenant,
        submission: Submission,
        keyed: Option<(Once, Answering)>,
    ) -> Result<Reply, Failure> {
        if let Some(reason) = self.newer() {
            return Err(Failure::Newer(reason));
        }
        self.open(tenant).await?;
        let (reply, answer) = oneshot::channel();
        let deadline = Instant::now() + config::APPEND_DEADLINE;
        self.enqueue(tenant, Pending { submission, keyed, reply, deadline })?;
        match tokio::time::timeout_at(deadline, answer).await {
            Ok(Ok(reply)) => reply,
            Ok(Err(_)) => Err(Failure::Internal("the appender ended without an answer".to_owned())),
            // It may be in a transaction at this moment.
            Err(_) => Err(Failure::Unavailable { outcome_unknown: true }),
        }
    }

    fn enqueue(&self, tenant: Tenant, pending: Pending) -> Result<(), Failure> {
        let mut appenders = self.appenders.lock().unwrap_or_else(PoisonError::into_inner);
        if appenders.closed {
            return Err(Failure::Unavailable { outcome_unknown: false });
        }
        let pending = match appenders.queues.entry(tenant.id) {
            Entry::Vacant(_) => pending,
            Entry::Occupied(queue) => match queue.get().0.try_send(pending) {
                Ok(()) => return Ok(()),
                Err(mpsc::error::TrySendError::Full(_)) => {
                    metrics::counter!("theazo_append_queue_full_total").increment(1);
                    return Err(Failure::QueueFull);
                }
                // That appender has ended for want of work.
                Err(mpsc::error::TrySendError::Closed(pending)) => pending,
            },
        };
        let (sender, queue) = mpsc::channel(config::APPEND_QUEUE);
        // The queue is new and empty, so this cannot fail.
        let _ = sender.try_send(pending);
        let task = tokio::spawn(Appender::new(Arc::clone(&self.parts), tenant, queue).run());
        appenders.queues.retain(|_, (queue, _)| !queue.is_closed());
        appenders.queues.insert(tenant.id, (sender, task));
        Ok(())
    }

    /// A way to read a tenant's rows.
    #[must_use]
    pub fn scope(&self, tenant: TenantId) -> Scope<'_> {
        Scope::new(&self.parts.database, tenant)
    }

    /// The database of these logs.
    #[must_use]
    pub fn database(&self) -> &Database {
        &self.parts.database
    }

    /// The log from after a position on (`None`: from now on), and then live. Thousands may be open; quiet ones cost
    /// no query.
    ///
    /// # Errors
    /// [`Failure`] when the database is away.
    pub async fn follow(self: &Arc<Self>, tenant: Tenant, after: Option<i64>) -> Result<FeedReader, Failure> {
        // Joined before the end of the log is read, so that nothing falls between the two.
        let feed = self.parts.feeds.join(tenant.id);
        let end = read::head(self.scope(tenant.id)).await?;
        feed.reaches(end);
        Ok(FeedReader::new(feed, self.parts.database.clone(), after.unwrap_or(end)))
    }

    /// The tenants that this server appends for at the moment.
    #[must_use]
    pub fn active(&self) -> Vec<TenantId> {
        let appenders = self.appenders.lock().unwrap_or_else(PoisonError::into_inner);
        let open = appenders.queues.iter().filter(|(_, (queue, _))| !queue.is_closed());
        open.map(|(tenant, _)| *tenant).collect()
    }

    /// Wakes the workers of this server when an append has changed what there is to do. A wake-up may be missing (a
    /// commit that was found out, another server's append): whoever waits looks by itself as well.
    #[must_use]
    pub fn worked(&self) -> &Notify {
        &self.parts.worked
    }

    /// Reads what an event says.
    ///
    /// # Errors
    /// [`Failure::Newer`] when only a newer server understands it.
    pub fn decode(&self, stored: &Stored) -> Result<Event, Failure> {
        self.parts.codec.read(&stored.kind, stored.version, &stored.data).map_err(|error| match error {
            Unreadable::Newer(newer) => self.parts.meet_newer(newer.to_string()),
            Unreadable::Broken { .. } => Failure::Internal(error.to_string()),
        })
    }

    /// Why this server must not append, if a newer one has written to a log.
    #[must_use]
    pub fn newer(&self) -> Option<String> {
        self.parts.newer.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Starts to listen for what other servers append; it goes on until it is aborted.
    pub fn listen(self: &Arc<Self>) -> JoinHandle<()> {
        tokio::spawn(super::feed::listen(Arc::clone(&self.parts)))
    }

    /// Takes no more commands, and waits until those that were taken have their answers.
    pub async fn close(&self) {
        let queues = {
            let mut appenders = self.appenders.lock().unwrap_or_else(PoisonError::into_inner);
            appenders.closed = true;
            std::mem::take(&mut appenders.queues)
        };
        let tasks: Vec<JoinHandle<()>> = queues.into_values().map(|(_, task)| task).collect();
        for task in tasks {
            // One that panicked has dropped its commands, whose callers were told.
            let _ = task.await;
        }
    }
}
