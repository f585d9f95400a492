//! The rate limit: an exact sliding window for each API key, counted in the database, so that all servers share it.
//!
//! One call counts many requests: while a call is under way for a key, its other requests gather, and the next call
//! counts all of them at once. Each is told its own place.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use lru::LruCache;
use theazo_domain::id::KeyId;
use tokio::sync::oneshot;

use super::credentials::Credential;
use super::error::Error;
use crate::app::App;
use crate::{config, database};

/// How a request was counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Admission {
    /// It may go on; else it was not counted.
    pub(crate) admitted: bool,
    /// Requests a minute.
    limit: i64,
    /// Requests that are left in this window.
    remaining: i64,
    /// Until the oldest request that is counted leaves the window, in whole seconds.
    pub(crate) reset_s: i64,
}

impl Admission {
    /// Says it in the headers of the answer.
    pub(crate) fn write(self, headers: &mut HeaderMap) {
        let numbers = [
            ("x-ratelimit-limit", self.limit),
            ("x-ratelimit-remaining", self.remaining),
            ("x-ratelimit-reset", self.reset_s),
        ];
        for (name, number) in numbers {
            headers.insert(HeaderName::from_static(name), HeaderValue::from(number));
        }
    }
}

type Answer = Result<Admission, Error>;

/// The requests of a key that wait for the next call.
#[derive(Default)]
struct Gate {
    waiting: Vec<oneshot::Sender<Answer>>,
    /// A task is calling the database for this key, and will call again for those that wait.
    busy: bool,
}

/// The keys whose requests are being counted. What is forgotten here is still in the database.
pub(crate) struct Rates(Mutex<LruCache<KeyId, Arc<Mutex<Gate>>>>);

impl Default for Rates {
    fn default() -> Self {
        let size = NonZeroUsize::new(config::COUNTED_KEYS).expect("a cache holds something");
        Self(Mutex::new(LruCache::new(size)))
    }
}

impl Rates {
    /// Counts a request of this key, if its window has room.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when it cannot be counted.
    pub(crate) async fn admit(&self, app: &Arc<App>, credential: Credential) -> Answer {
        let gate = {
            let mut gates = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(gates.get_or_insert(credential.key.id, Arc::default))
        };
        let (sender, answer) = oneshot::channel();
        {
            let mut open = gate.lock().unwrap_or_else(PoisonError::into_inner);
            if open.waiting.len() >= config::COUNTING_QUEUE {
                return Err(Error::Unavailable("Too many requests wait for this API key.".to_owned()));
            }
            open.waiting.push(sender);
            if !std::mem::replace(&mut open.busy, true) {
                // A task of its own, so that a caller who hangs up does not leave the others waiting.
                tokio::spawn(count(Arc::clone(app), Arc::clone(&gate), credential));
            }
        }
        answer.await.unwrap_or_else(|_| Err(Error::internal("the counter of requests is gone")))
    }
}

/// Counts those that wait until none does.
async fn count(app: Arc<App>, gate: Arc<Mutex<Gate>>, credential: Credential) {
    loop {
        let waiting = {
            let mut open = gate.lock().unwrap_or_else(PoisonError::into_inner);
            let waiting = std::mem::take(&mut open.waiting);
            if waiting.is_empty() {
                open.busy = false;
                return;
            }
            waiting
        };
        match call(&app, credential, waiting.len()).await {
            Ok(admissions) => {
                for (sender, admission) in waiting.into_iter().zip(admissions) {
                    let _ = sender.send(Ok(admission));
                }
            }
            Err(error) => {
                let error = Error::from(error);
                for sender in waiting {
                    let _ = sender.send(Err(error.clone()));
                }
            }
        }
    }
}

/// One call of the database for this many requests: what each of them came to, in their order.
async fn call(app: &App, credential: Credential, count: usize) -> Result<Vec<Admission>, database::Error> {
    let limit = credential.key.rate_limit;
    let wanted = i32::try_from(count).unwrap_or(i32::MAX);
    let allowed = i32::try_from(limit).unwrap_or(i32::MAX);
    let clock_ms = app.clock.dictated().map(theazo_domain::time::Timestamp::millis);
    let sql = "select admitted, used_before, oldest_ms, now_ms
        from rate_admit($2, $3, $4, $5) where current_tenant() = $1";
    let scope = app.log.scope(credential.tenant.id);
    let key = credential.key.id.to_string();
    let rows = scope.tally(sql, &[&key, &wanted, &allowed, &clock_ms]).await?;
    let row = rows.first().ok_or_else(|| database::Error::Row("rate_admit gave no row".to_owned()))?;
    let (admitted, used_before): (i32, i32) = (row.try_get(0)?, row.try_get(1)?);
    let (oldest_ms, now_ms): (Option<i64>, i64) = (row.try_get(2)?, row.try_get(3)?);
    let window_ms = i64::try_from(config::RATE_WINDOW.as_millis()).expect("a minute");
    let reset_ms = oldest_ms.unwrap_or(now_ms) + window_ms - now_ms;
    let reset_s = ((reset_ms + 999) / 1_000).max(1);
    let admission = |place: i32| Admission {
        admitted: place < admitted,
        limit,
        remaining: (i64::from(allowed) - i64::from(used_before) - i64::from(place) - 1).max(0),
        reset_s,
    };
    Ok((0..wanted).map(admission).collect())
}
