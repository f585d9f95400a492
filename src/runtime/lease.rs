//! Leases: which server does which piece of work. They stand in a table of their own, across all tenants.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use theazo_domain::time::Timestamp;
use tokio_postgres::types::ToSql;

use crate::config;
use crate::database::{Database, Error, system_time};
use crate::log::{Tenant, TenantId, WORK_CHANNEL, find_tenants};

/// A piece of work that this server has taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Piece {
    /// Whose it is.
    pub(crate) tenant: Tenant,
    /// Of which kind: see [`theazo_projections::work::kind`].
    pub(crate) kind: String,
    /// What it is about.
    pub(crate) subject: String,
}

/// The leases of one server.
#[derive(Debug)]
pub(crate) struct Leases {
    database: Database,
    tenants: Mutex<HashMap<TenantId, Tenant>>,
    /// The server's name: no other process ever has it.
    worker: String,
}

impl Leases {
    pub(crate) fn new(database: Database, worker: String) -> Self {
        Self { database, tenants: Mutex::default(), worker }
    }

    /// Takes up to so many pieces of work that are due and that nobody has; and besides up to so many of those that keep
    /// count of money, which are of these kinds.
    pub(crate) async fn claim(
        &self,
        most: usize,
        (counting, most_counting): (&[&str], usize),
        dictated: Option<Timestamp>,
    ) -> Result<Vec<Piece>, Error> {
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
            pieces.push(Piece { tenant, kind: row.get(1), subject: row.get(2) });
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

    /// Says that this server is at a piece of work. False where another has taken it.
    pub(crate) async fn hold(&self, piece: &Piece, dictated: Option<Timestamp>) -> Result<bool, Error> {
        let client = self.database.reading().await?;
        let statement = client.prepare_cached("select hold_work($1, $2, $3, $4, $5, $6)").await?;
        let (tenant, at) = (piece.tenant.id, dictated.map(system_time));
        let parameters: [&(dyn ToSql + Sync); 6] =
            [&self.worker, &tenant, &piece.kind, &piece.subject, &lease_ms(), &at];
        Ok(client.query_one(&statement, &parameters).await?.get(0))
    }

    /// Says that this server is still at all that it has taken.
    pub(crate) async fn renew(&self, dictated: Option<Timestamp>) -> Result<(), Error> {
        let client = self.database.reading().await?;
        let statement = client.prepare_cached("select renew_leases($1, $2, $3)").await?;
        client.query(&statement, &[&self.worker, &lease_ms(), &dictated.map(system_time)]).await?;
        Ok(())
    }

    /// Lets go of a piece of work, done or not.
    pub(crate) async fn release(&self, piece: &Piece) -> Result<(), Error> {
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
