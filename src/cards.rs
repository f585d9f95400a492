//! The rate card in force: asked of the read model each time, so that every server sees an import at once; a card's
//! prices never change, so they are kept.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};

use lru::LruCache;
use sha2::{Digest, Sha256};
use theazo_domain::rates::Card;
use theazo_domain::time::Timestamp;

use crate::database::Error;
use crate::log::{Log, TenantId};
use crate::read::rates::Imported;
use crate::{config, read};

/// The SHA-256 of a card in hex, whatever white space and order of members its file had.
#[must_use]
pub fn digest(card: &Card) -> String {
    hex::encode(Sha256::digest(serde_json::to_string(card).expect("a card is plain data")))
}

/// The cards that this server has read, by the position of their import.
pub struct Cards(Mutex<LruCache<(TenantId, i64), Arc<Card>>>);

impl Default for Cards {
    fn default() -> Self {
        let size = NonZeroUsize::new(config::KEPT_RATE_CARDS).expect("it is not zero");
        Self(Mutex::new(LruCache::new(size)))
    }
}

impl Cards {
    /// The card in force at a moment in the log of a tenant.
    ///
    /// # Errors
    /// [`Error`] when the database is away.
    pub async fn in_force(&self, log: &Log, tenant: TenantId, at: Timestamp) -> Result<Arc<Card>, Error> {
        let imported = read::rates::in_force(log.scope(tenant), at).await?;
        self.of(log, tenant, imported.as_ref()).await
    }

    /// The card of this import in the log of a tenant; where there is none, the one that the program comes with.
    ///
    /// # Errors
    /// [`Error`] when the database is away.
    pub async fn of(
        &self,
        log: &Log,
        tenant: TenantId,
        imported: Option<&Imported>,
    ) -> Result<Arc<Card>, Error> {
        let Some(imported) = imported else { return Ok(Arc::clone(Card::built_in())) };
        let place = (tenant, imported.position);
        let kept = |cards: &Self| {
            let mut cards = cards.0.lock().unwrap_or_else(PoisonError::into_inner);
            cards.get(&place).cloned()
        };
        if let Some(card) = kept(self) {
            return Ok(card);
        }
        let card = read::rates::card(log.scope(tenant), &imported.version).await?;
        let card = Arc::new(card.ok_or_else(|| Error::Row(format!("no rate card {}", imported.version)))?);
        self.0.lock().unwrap_or_else(PoisonError::into_inner).put(place, Arc::clone(&card));
        Ok(card)
    }
}
