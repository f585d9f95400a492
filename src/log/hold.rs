//! Idempotency keys outside of the batches: answers that were found without a command, and keys that are held while
//! something outside is asked, before there is a command.

use std::sync::Arc;

use theazo_domain::time::Timestamp;

use super::append::Kept;
use super::kept::{self, Found};
use super::{Answer, Answered, Failure, Hold, Log, Once, TenantId, open};
use crate::database::{Client, Error, Pipeline, system_time};
use crate::{config, random};

/// What holding a key came to.
#[derive(Debug)]
pub enum Holding {
    /// It is held: the work may go on, under a request that holds it by this.
    Held(Hold),
    /// There is an answer already.
    Answered(Answered),
}

impl Log {
    /// Keeps an answer that no command was needed for. Where one is kept already, it is given instead.
    ///
    /// # Errors
    /// [`Failure`]; [`Failure::KeyHeld`] and [`Failure::KeyReused`] when the key is another request's.
    pub async fn keep(
        self: &Arc<Self>,
        tenant: TenantId,
        once: &Once,
        answer: Answer,
    ) -> Result<Answered, Failure> {
        let before = self.put(tenant, once, Some(answer.clone())).await?;
        let replayed = before.is_some();
        Ok(Answered { answer: before.unwrap_or(answer), replayed })
    }

    /// Holds a key while its request asks somebody outside: repetitions are told to wait, on every server. It lapses
    /// when the answer is kept, is let go of, or [`config::IDEMPOTENCY_HELD`] have passed, whatever became of the server.
    ///
    /// # Errors
    /// As [`Self::keep`].
    pub async fn hold(self: &Arc<Self>, tenant: TenantId, once: &Once) -> Result<Holding, Failure> {
        let hold = Hold(random::bytes());
        let held_ms = i64::try_from(config::IDEMPOTENCY_HELD.as_millis()).unwrap_or(i64::MAX);
        let until = Timestamp::from_millis(self.parts.clock.now().millis() + held_ms);
        Ok(match self.put(tenant, once, Some(kept::mark(hold, until))).await? {
            None => Holding::Held(hold),
            Some(answer) => Holding::Answered(Answered { answer, replayed: true }),
        })
    }

    /// Lets go of a key that this request holds, where nothing was decided: the next request has it.
    ///
    /// # Errors
    /// As [`Self::keep`].
    pub async fn let_go(self: &Arc<Self>, tenant: TenantId, once: &Once) -> Result<(), Failure> {
        self.put(tenant, once, None).await.map(drop)
    }

    /// Puts something under a key, unless an answer is there, which is given.
    async fn put(
        self: &Arc<Self>,
        tenant: TenantId,
        once: &Once,
        what: Option<Answer>,
    ) -> Result<Option<Answer>, Failure> {
        if let Some(reason) = self.newer() {
            return Err(Failure::Newer(reason));
        }
        let (log, once) = (Arc::clone(self), once.clone());
        // A caller who goes away must not leave a transaction open.
        let put = tokio::spawn(async move { log.put_on_a_connection(tenant, &once, what).await });
        put.await.map_err(|_| Failure::Internal("an answer was not kept".to_owned()))?
    }

    async fn put_on_a_connection(
        &self,
        tenant: TenantId,
        once: &Once,
        what: Option<Answer>,
    ) -> Result<Option<Answer>, Failure> {
        let client = self.parts.database.appending().await?;
        let work =
            open::locked(&client, tenant, async |client| self.put_locked(client, tenant, once, what).await);
        let outcome = tokio::time::timeout(config::BATCH_DEADLINE, work).await;
        if !matches!(outcome, Ok(Ok(_))) {
            // The transaction may be open still: the connection is closed, not given back.
            drop(deadpool_postgres::Object::take(client));
        }
        outcome.map_err(|_| Failure::Unavailable { outcome_unknown: true })??
    }

    async fn put_locked(
        &self,
        client: &Client,
        tenant: TenantId,
        once: &Once,
        what: Option<Answer>,
    ) -> Result<Result<Option<Answer>, Failure>, Error> {
        let (key, now) = (&self.parts.keys.answers, self.parts.clock.now());
        let sql = "select fingerprint, answer from idempotency where tenant_id = $1 and key_digest = $2";
        let digest = &once.key_digest[..];
        let row = client.query_opt(sql, &[&tenant, &digest]).await?;
        if let Some(row) = row {
            let kept = Kept { fingerprint: row.get(0), answer: row.get(1) };
            match Found::of(key, tenant, once, &kept, now) {
                Found::Lapsed => {}
                Found::Answer(answer) => return Ok(Ok(Some(answer))),
                Found::UnderWay => return Ok(Err(Failure::KeyHeld)),
                Found::Foreign => return Ok(Err(Failure::KeyReused)),
                Found::Unreadable => return Ok(Err(Failure::unreadable())),
            }
            let sql = "delete from idempotency where tenant_id = $1 and key_digest = $2";
            client.execute(sql, &[&tenant, &digest]).await?;
        }
        if let Some(what) = what {
            let sealed = kept::seal(key, tenant, digest, &what);
            let sql = "insert into idempotency (tenant_id, key_digest, fingerprint, answer, created_at)
                       values ($1, $2, $3, $4, $5)";
            let fingerprint = &once.fingerprint[..];
            client.execute(sql, &[&tenant, &digest, &fingerprint, &sealed, &system_time(now)]).await?;
        }
        Ok(Ok(None))
    }
}

/// Sends the deletion of holds that a batch ends.
pub(super) async fn send_lapsed<'a>(
    pipeline: &mut Pipeline<'a>,
    client: &'a Client,
    tenant: TenantId,
    digests: Vec<Vec<u8>>,
) -> Result<(), Error> {
    if digests.is_empty() {
        return Ok(());
    }
    let sql = "delete from idempotency where tenant_id = $1 and key_digest = any($2)";
    let statement = client.prepare_cached(sql).await?;
    pipeline.send(async move { client.query(&statement, &[&tenant, &digests]).await }).await;
    Ok(())
}

impl Failure {
    pub(super) fn unreadable() -> Self {
        Self::Internal("a kept answer cannot be opened with this server's key".to_owned())
    }
}
