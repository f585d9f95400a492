//! The API keys that this server has seen of late, each for at most a second: a revocation is seen that soon.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};

use lru::LruCache;
use tokio::time::Instant;

use super::error::Error;
use crate::app::App;
use crate::log::Tenant;
use crate::read::key::{self, Opened};
use crate::{config, planted};

/// An API key that opens the API.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Credential {
    /// What it opens.
    pub(crate) tenant: Tenant,
    /// What is known of the key itself.
    pub(crate) key: Opened,
}

/// What was found for a digest, and when. `None` within: nothing that opens the API.
type Found = Option<(Instant, Option<Credential>)>;

/// A bounded memory of keys. Requests with one key that arrive together ask the database once.
pub(crate) struct Credentials {
    known: Mutex<LruCache<String, Arc<tokio::sync::Mutex<Found>>>>,
    /// Digests that open nothing, apart from the others, so that guessing cannot push those out.
    unknown: Mutex<LruCache<String, Instant>>,
}

impl Default for Credentials {
    fn default() -> Self {
        let size = NonZeroUsize::new(config::CACHED_KEYS).expect("a cache holds something");
        Self { known: Mutex::new(LruCache::new(size)), unknown: Mutex::new(LruCache::new(size)) }
    }
}

impl Credentials {
    /// The key of this digest; `None` where it opens nothing.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when the database is away.
    pub(crate) async fn find(&self, app: &App, digest: &str) -> Result<Option<Credential>, Error> {
        planted::leak();
        self.find_since(app, digest, None).await
    }

    /// The same, and nothing that was found before `since` is trusted.
    ///
    /// # Errors
    /// As [`Self::find`].
    pub(crate) async fn find_since(
        &self,
        app: &App,
        digest: &str,
        since: Option<Instant>,
    ) -> Result<Option<Credential>, Error> {
        if self.is_unknown(digest) {
            return Ok(None);
        }
        let entry = {
            let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(known.get_or_insert(digest.to_owned(), Arc::default))
        };
        let mut found = entry.lock().await;
        match *found {
            Some((asked, credential))
                if asked.elapsed() < config::KEY_REMEMBERED && since.is_none_or(|since| asked >= since) =>
            {
                return Ok(credential);
            }
            _ => {}
        }
        // The age counts from before the question, so that an answer is never trusted for longer.
        let asked = Instant::now();
        let credential = look_up(app, digest).await?;
        *found = Some((asked, credential));
        if credential.is_none() {
            self.known.lock().unwrap_or_else(PoisonError::into_inner).pop(digest);
            let mut unknown = self.unknown.lock().unwrap_or_else(PoisonError::into_inner);
            unknown.put(digest.to_owned(), asked);
        }
        Ok(credential)
    }

    fn is_unknown(&self, digest: &str) -> bool {
        let mut unknown = self.unknown.lock().unwrap_or_else(PoisonError::into_inner);
        match unknown.get(digest) {
            Some(since) if since.elapsed() < config::KEY_REMEMBERED => true,
            Some(_) => {
                unknown.pop(digest);
                false
            }
            None => false,
        }
    }
}

/// Asks the database: first whose key it is, then, inside that tenant's walls, what it may do.
async fn look_up(app: &App, digest: &str) -> Result<Option<Credential>, Error> {
    let Some((tenant, key_id)) = key::find(&app.database, digest).await? else { return Ok(None) };
    let Some(tenant) = key::tenant(app.log.scope(tenant)).await? else { return Ok(None) };
    app.log.open(tenant).await?;
    let opened = key::opened(app.log.scope(tenant.id), &key_id).await?;
    Ok(opened.map(|key| Credential { tenant, key }))
}
