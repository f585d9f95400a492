//! Live feeds: what is appended, given to every stream of this server without a query for each.
//!
//! A feed exists while somebody follows its tenant. What this server appends is put into it after the commit; what
//! others append is read once, when a notification wakes the feed. Readers that are further behind than the feed
//! reaches read pages of the log themselves.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use futures_util::StreamExt;
use tokio::sync::watch;
use tokio_postgres::AsyncMessage;

use super::execute::Parts;
use super::read::{self, Filter};
use super::{Failure, Recorded, Stored, TenantId};
use crate::database::{Database, Error, Scope};
use crate::{config, planted};

/// Where servers are told that another has handed work back.
pub(crate) const WORK_CHANNEL: &str = "theazo_work";

/// The feeds of one server.
pub(super) struct Feeds {
    database: Database,
    feeds: Mutex<HashMap<TenantId, Weak<Feed>>>,
}

/// The newest events of one tenant.
pub(super) struct Feed {
    tenant: TenantId,
    recent: Mutex<Recent>,
    /// The position of the last event that is known to be committed.
    end: watch::Sender<i64>,
    /// Held by the one reader that reads for all what another server has appended.
    filling: tokio::sync::Mutex<()>,
}

/// Events without a gap, the last of them at `last`.
#[derive(Default)]
struct Recent {
    events: VecDeque<Arc<Stored>>,
    last: i64,
}

impl Recent {
    fn first(&self) -> i64 {
        self.events.front().map_or(self.last + 1, |event| event.position)
    }

    fn push(&mut self, event: Arc<Stored>) {
        if event.position != self.last + 1 {
            // A gap: what is here is no longer the newest without one.
            self.events.clear();
        }
        self.last = event.position;
        self.events.push_back(event);
        if self.events.len() > config::FEED_EVENTS {
            self.events.pop_front();
        }
    }
}

impl Feeds {
    pub(super) fn new(database: Database) -> Self {
        Self { database, feeds: Mutex::default() }
    }

    /// The feed of a tenant, which begins if nobody follows that tenant yet.
    pub(super) fn join(&self, tenant: TenantId) -> Arc<Feed> {
        let mut feeds = self.feeds.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(feed) = feeds.get(&tenant).and_then(Weak::upgrade) {
            return feed;
        }
        let feed = Arc::new(Feed {
            tenant,
            recent: Mutex::default(),
            end: watch::Sender::new(0),
            filling: tokio::sync::Mutex::default(),
        });
        feeds.retain(|_, feed| feed.strong_count() > 0);
        feeds.insert(tenant, Arc::downgrade(&feed));
        feed
    }

    fn get(&self, tenant: TenantId) -> Option<Arc<Feed>> {
        self.feeds.lock().unwrap_or_else(PoisonError::into_inner).get(&tenant)?.upgrade()
    }

    /// Gives what this server has committed to those who follow.
    pub(super) fn publish(&self, tenant: TenantId, events: &[Arc<Recorded>]) {
        let (Some(last), Some(feed)) = (events.last(), self.get(tenant)) else { return };
        {
            let mut recent = feed.recent.lock().unwrap_or_else(PoisonError::into_inner);
            for event in events {
                // What another server has appended before is not here yet. It is read when it is asked for, with
                // these behind it; so nothing with a gap is put in.
                if event.stored.position == recent.last + 1 {
                    recent.push(Arc::clone(&event.stored));
                }
            }
        }
        feed.reaches(last.stored.position);
    }

    /// After the notifications may have been missed: looks where every followed log ends.
    async fn look(&self) -> Result<(), Error> {
        let feeds: Vec<Arc<Feed>> = {
            let feeds = self.feeds.lock().unwrap_or_else(PoisonError::into_inner);
            feeds.values().filter_map(Weak::upgrade).collect()
        };
        for feed in feeds {
            feed.reaches(read::head(Scope::new(&self.database, feed.tenant)).await?);
        }
        Ok(())
    }
}

impl Feed {
    /// The log is known to reach to this position.
    pub(super) fn reaches(&self, position: i64) {
        self.end.send_if_modified(|end| {
            if *end == 0 && position > 0 {
                // The feed begins here: nothing before it is in memory.
                let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
                if recent.last == 0 {
                    recent.last = position;
                }
            }
            let further = position > *end;
            *end = position.max(*end);
            further
        });
    }

    /// What is in memory after a position, and whether it is the tail that is missing there.
    fn after(&self, position: i64) -> Result<Vec<Arc<Stored>>, Missing> {
        let recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        if position >= recent.last {
            return Err(Missing::Tail);
        }
        let mut skip = usize::try_from(position + 1 - recent.first());
        if planted::is("lost-behind") && recent.events.len() >= config::FEED_EVENTS {
            skip = skip.or(Ok(0));
        }
        let Ok(skip) = skip else { return Err(Missing::Past) };
        let page = usize::try_from(config::STREAM_PAGE).unwrap_or(usize::MAX);
        Ok(recent.events.iter().skip(skip).take(page).cloned().collect())
    }

    /// Reads the missing tail into memory, once for all readers.
    async fn fill(&self, database: &Database) -> Result<(), Error> {
        let _filling = self.filling.lock().await;
        let end = *self.end.borrow();
        let last = self.recent.lock().unwrap_or_else(PoisonError::into_inner).last;
        let reach = i64::try_from(config::FEED_EVENTS).unwrap_or(i64::MAX);
        let after = last.max(end - reach);
        if after >= end {
            return Ok(());
        }
        let filter = Filter { after, until: end, ..Filter::default() };
        let events = read::oldest(Scope::new(database, self.tenant), &filter, reach).await?;
        if events.last().is_none_or(|last| last.position < end) {
            // It was told of what was not committed after all.
            let head = read::head(Scope::new(database, self.tenant)).await?;
            self.end.send_if_modified(|told| {
                if *told == end {
                    *told = head;
                }
                // Whoever waits has seen nothing yet of what is taken back.
                false
            });
            return Ok(());
        }
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        for event in events {
            // While it was read, this server may have put some of it in itself.
            if event.position > recent.last {
                recent.push(Arc::new(event));
            }
        }
        Ok(())
    }
}

/// Why events after a position are not in memory.
enum Missing {
    /// They are newer than what is there.
    Tail,
    /// They are older.
    Past,
}

/// Follows one log.
pub struct FeedReader {
    feed: Arc<Feed>,
    end: watch::Receiver<i64>,
    database: Database,
    position: i64,
}

impl FeedReader {
    pub(super) fn new(feed: Arc<Feed>, database: Database, position: i64) -> Self {
        let end = feed.end.subscribe();
        Self { feed, end, database, position }
    }

    /// The position of the last event that was given, or of where it began.
    #[must_use]
    pub const fn position(&self) -> i64 {
        self.position
    }

    /// At least one event after the last one given, in order, waiting for it as long as it takes. Nothing is lost
    /// when the future is dropped.
    ///
    /// # Errors
    /// [`Failure`] when the database is away. The next call goes on where this one stood.
    pub async fn next(&mut self) -> Result<Vec<Arc<Stored>>, Failure> {
        loop {
            let end = *self.end.borrow_and_update();
            if self.position >= end {
                if self.end.changed().await.is_err() {
                    return Err(Failure::Internal("the feed ended".to_owned()));
                }
                continue;
            }
            let events = match self.feed.after(self.position) {
                Ok(events) => events,
                // What reads is kept by itself: thousands of readers wait without.
                Err(Missing::Tail) => {
                    Box::pin(self.feed.fill(&self.database)).await?;
                    continue;
                }
                Err(Missing::Past) => {
                    let filter = Filter { after: self.position, until: end, ..Filter::default() };
                    let scope = Scope::new(&self.database, self.feed.tenant);
                    let events = Box::pin(read::oldest(scope, &filter, config::STREAM_PAGE)).await?;
                    events.into_iter().map(Arc::new).collect()
                }
            };
            let Some(last) = events.last() else {
                return Err(Failure::Internal(format!("no event after {} of {end}", self.position)));
            };
            self.position = last.position;
            return Ok(events);
        }
    }
}

/// Listens for what other servers append and wakes the feeds. It connects again for ever.
pub(super) async fn listen(parts: Arc<Parts>) {
    loop {
        if let Err(error) = listen_once(&parts).await {
            tracing::warn!(%error, "the listening connection broke; connecting again");
        }
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
}

async fn listen_once(parts: &Parts) -> Result<(), Error> {
    let (client, mut connection) = parts.database.dedicated().await?;
    let mut messages = futures_util::stream::poll_fn(move |context| connection.poll_message(context));
    let listening = async {
        client.batch_execute(&format!("listen theazo_log; listen {WORK_CHANNEL}")).await?;
        // What was sent before is not heard.
        parts.feeds.look().await
    };
    let mut listening = std::pin::pin!(listening);
    let mut begun = false;
    loop {
        tokio::select! {
            outcome = &mut listening, if !begun => {
                outcome?;
                begun = true;
            }
            message = messages.next() => match message {
                Some(Ok(AsyncMessage::Notification(notice))) if notice.channel() == WORK_CHANNEL => {
                    parts.worked.notify_one();
                }
                Some(Ok(AsyncMessage::Notification(notice))) => wake(&parts.feeds, notice.payload()),
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(error.into()),
                None => return Ok(()),
            },
        }
    }
}

/// Reads `tenant:position`.
fn wake(feeds: &Feeds, payload: &str) {
    let Some((tenant, position)) = payload.split_once(':') else { return };
    if let (Ok(tenant), Ok(position)) = (tenant.parse(), position.parse())
        && let Some(feed) = feeds.get(TenantId(tenant))
    {
        feed.reaches(position);
    }
}
