//! Leases: which server does which piece of work. They stand in a table of their own, across all tenants.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use theazo_domain::time::Timestamp;
use tokio_postgres::types::ToSql;

use crate::config;
use crate::database::{Database, Error, system_time};
use crate::log::{Tenant, TenantId, WORK_CHANNEL, find_tenants};

/// A piece of work that this server has taken.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Piece {
    /// Whose it is.
    pub(crate) tenant: Tenant,
    /// Of which kind: see [`theazo_projections::work::kind`].
    pub(crate) kind: String,
    /// What it is about.
    pub(crate) subject: String,
}

/// How often each piece of work is being done here: twice where a lease has run out meanwhile and was taken anew.
type Doing = Arc<Mutex<HashMap<Piece, usize>>>;

/// A piece of work while this server is at it. Its lease is renewed for as long as this lives, and no longer: what the
/// database gave away and nobody learned of, or could not take back, runs out.
#[derive(Debug)]
pub(crate) struct Taken {
    piece: Piece,
    doing: Doing,
}

impl Taken {
    fn begin(piece: Piece, doing: &Doing) -> Self {
        *lock(doing).entry(piece.clone()).or_default() += 1;
        Self { piece, doing: Arc::clone(doing) }
    }

    pub(crate) const fn piece(&self) -> &Piece {
        &self.piece
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        let mut doing = lock(&self.doing);
        if let Some(times) = doing.get_mut(&self.piece) {
            *times -= 1;
            if *times == 0 {
                doing.remove(&self.piece);
            }
        }
    }
}

fn lock(doing: &Doing) -> MutexGuard<'_, HashMap<Piece, usize>> {
    doing.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The leases of one server.
#[derive(Debug)]
pub(crate) struct Leases {
    database: Database,
    tenants: Mutex<HashMap<TenantId, Tenant>>,
    /// The server's name: no other process ever has it.
    worker: String,
    doing: Doing,
}

impl Leases {
    pub(crate) fn new(database: Database, worker: String) -> Self {
        Self { database, tenants: Mutex::default(), worker, doing: Doing::default() }
    }

    /// Takes up to so many pieces of work that are due and that nobody has; and besides up to so many of those that keep
    /// count of money, which are of these kinds.
    pub(crate) async fn claim(
        &self,
        most: usize,
        (counting, most_counting): (&[&str], usize),
        dictated: Option<Timestamp>,
    ) -> Result<Vec<Taken>, Error> {
        let rows = {
            let client = self.database.reading().await?;
            let sql = "select tenant_id, kind, subject from claim_due_work($1, $2, $3, $4, $5, $6)";
            let statement = client.prepare_cached(sql).await?;
            let [most, most_counting] =
                [most, most_counting].map(|most| i32::try_from(most).unwrap_or(i32::MAX));
            let at = dictated.map(system_time);
            let parameters: [&(dyn ToSql + Sync); 6] =
                [&self.worker, &most, &counting, &most_counting, &lease_ms(), &at];
            client.query(&statement, &parameters).await?
        };
        let mut pieces = Vec::with_capacity(rows.len());
        for row in rows {
            let tenant = self.tenant(row.get(0)).await?;
            let piece = Piece { tenant, kind: row.get(1), subject: row.get(2) };
            pieces.push(Taken::begin(piece, &self.doing));
        }
        Ok(pieces)
    }

    /// The tenant of this number. Tenants never change, so each is looked up once.
    async fn tenant(&self, id: TenantId) -> Result<Tenant, Error> {
        let known = |tenants: &HashMap<TenantId, Tenant>| tenants.get(&id).copied();
        if let Some(tenant) = known(&self.tenants.lock().unwrap_or_else(PoisonError::into_inner)) {
            return Ok(tenant);
        }
        let all = find_tenants(&self.database, None).await?;
        let mut tenants = self.tenants.lock().unwrap_or_else(PoisonError::into_inner);
        tenants.extend(all.into_iter().map(|tenant| (tenant.id, tenant)));
        known(&tenants).ok_or_else(|| Error::Row(format!("work of tenant {}, which does not exist", id.0)))
    }

    /// Says that this server is at a piece of work. `None` where another has taken it.
    pub(crate) async fn hold(
        &self,
        piece: Piece,
        dictated: Option<Timestamp>,
    ) -> Result<Option<Taken>, Error> {
        let client = self.database.reading().await?;
        let statement = client.prepare_cached("select hold_work($1, $2, $3, $4, $5, $6)").await?;
        let (tenant, at) = (piece.tenant.id, dictated.map(system_time));
        let parameters: [&(dyn ToSql + Sync); 6] =
            [&self.worker, &tenant, &piece.kind, &piece.subject, &lease_ms(), &at];
        let held: bool = client.query_one(&statement, &parameters).await?.get(0);
        Ok(held.then(|| Taken::begin(piece, &self.doing)))
    }

    /// Says that this server is still at all that it is doing.
    pub(crate) async fn renew(&self, dictated: Option<Timestamp>) -> Result<(), Error> {
        let (mut tenants, mut kinds, mut subjects) = (vec![], vec![], vec![]);
        for piece in lock(&self.doing).keys() {
            tenants.push(piece.tenant.id);
            kinds.push(piece.kind.clone());
            subjects.push(piece.subject.clone());
        }
        if tenants.is_empty() {
            return Ok(());
        }
        let client = self.database.reading().await?;
        let statement = client.prepare_cached("select renew_held_leases($1, $2, $3, $4, $5, $6)").await?;
        let at = dictated.map(system_time);
        let parameters: [&(dyn ToSql + Sync); 6] =
            [&self.worker, &tenants, &kinds, &subjects, &lease_ms(), &at];
        client.query(&statement, &parameters).await?;
        Ok(())
    }

    /// Lets go of a piece of work, done or not. Where that cannot be told to the database, its lease runs out.
    pub(crate) async fn release(&self, taken: Taken) -> Result<(), Error> {
        let piece = taken.piece.clone();
        drop(taken);
        if lock(&self.doing).contains_key(&piece) {
            return Ok(());
        }
        let client = self.database.reading().await?;
        let statement = client.prepare_cached("select release_lease($1, $2, $3, $4)").await?;
        client.query(&statement, &[&self.worker, &piece.tenant.id, &piece.kind, &piece.subject]).await?;
        Ok(())
    }

    /// Lets go of all of it, and tells the other servers that there is work.
    pub(crate) async fn release_all(&self) -> Result<(), Error> {
        let client = self.database.reading().await?;
        client.query("select release_leases($1)", &[&self.worker]).await?;
        client.query("select pg_notify($1, '')", &[&WORK_CHANNEL]).await?;
        Ok(())
    }

    /// The server's name.
    pub(crate) fn worker(&self) -> &str {
        &self.worker
    }
}

fn lease_ms() -> i32 {
    i32::try_from(config::LEASE.as_millis()).unwrap_or(i32::MAX)
}
