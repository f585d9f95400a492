//! A caller's program says that it is being run, so that its record is closed soon after its server is gone, and not before.

use std::sync::Arc;

use tokio::task::JoinHandle;

use theazo_domain::id::ExecId;
use theazo_projections::work::kind;

use super::Desk;
use super::lease::{Leases, Piece, Taken};
use crate::config;
use crate::database::Error;

/// A caller's program under way. While this lives, and the server with it, nobody closes its record.
pub(crate) struct Held {
    leases: Arc<Leases>,
    taken: Option<Taken>,
    renewing: JoinHandle<()>,
}

impl Held {
    /// Takes it, now that its start is in the log. `None` where its record was taken to be closed.
    ///
    /// # Errors
    /// [`Error`] when the database is away.
    pub(crate) async fn take(desk: Desk<'_>, exec_id: ExecId) -> Result<Option<Self>, Error> {
        let worker = exec_id.to_string();
        let piece = Piece { tenant: desk.tenant, kind: kind::CLOSE_EXEC.to_owned(), subject: worker.clone() };
        let leases = Arc::new(Leases::new(desk.app.database.clone(), worker));
        let Some(taken) = leases.hold(piece, desk.app.clock.dictated()).await? else { return Ok(None) };
        let renewed = Arc::clone(&leases);
        let clock = desk.app.clock.clone();
        let renewing = tokio::spawn(async move {
            let mut ticks = tokio::time::interval(config::LEASE_RENEWAL);
            loop {
                ticks.tick().await;
                if let Err(error) = renewed.renew(clock.dictated()).await {
                    tracing::warn!(%error, "the lease of a caller's program could not be renewed");
                }
            }
        });
        Ok(Some(Self { leases, taken: Some(taken), renewing }))
    }

    /// Lets go of it: it has ended, or whoever finds its record may close it.
    pub(crate) async fn let_go(mut self) {
        let Some(taken) = self.taken.take() else { return };
        if let Err(error) = self.leases.release(taken).await {
            tracing::debug!(%error, "a lease runs out by itself");
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.renewing.abort();
    }
}
