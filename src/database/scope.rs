//! A transaction that is walled to one tenant: the only way to read.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use theazo_domain::time::Timestamp;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use super::{Client, Database, Error, Pipeline};
use crate::log::TenantId;
use crate::planted;

/// Where to read, and whose rows. There is no query without a tenant.
#[derive(Clone, Copy)]
pub struct Scope<'a> {
    tenant: TenantId,
    via: Via<'a>,
}

#[derive(Clone, Copy)]
enum Via<'a> {
    /// A transaction of its own for each query.
    Pool(&'a Database),
    /// The transaction that is open on this connection, for this tenant already.
    Transaction(&'a Client),
}

impl<'a> Scope<'a> {
    /// Reads what is committed.
    #[must_use]
    pub const fn new(database: &'a Database, tenant: TenantId) -> Self {
        Self { tenant, via: Via::Pool(database) }
    }

    /// Reads inside the open transaction of this connection, which has named this tenant.
    pub(crate) const fn within(transaction: &'a Client, tenant: TenantId) -> Self {
        Self { tenant, via: Via::Transaction(transaction) }
    }

    /// Whose rows are read.
    #[must_use]
    pub const fn tenant(self) -> TenantId {
        self.tenant
    }

    /// The rows of a statement that only reads, whose `$1` is the tenant.
    ///
    /// # Errors
    /// [`Error`] when the database is away or refuses.
    pub async fn query(self, sql: &str, parameters: &[&(dyn ToSql + Sync)]) -> Result<Vec<Row>, Error> {
        self.run(sql, parameters, "begin read only").await
    }

    /// The same for a long statement that finds all its rows by indexes: one plan is made for it on each connection
    /// and kept, since to plan it takes as long as to carry it out.
    ///
    /// # Errors
    /// [`Error`] when the database is away or refuses.
    pub async fn query_by_index(
        self,
        sql: &str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, Error> {
        self.run(sql, parameters, BEGIN_BY_INDEX).await
    }

    /// The one row of a statement that only reads, whose `$1` is the tenant.
    ///
    /// # Errors
    /// [`Error`] when the database is away or refuses.
    pub async fn query_optional(
        self,
        sql: &str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Option<Row>, Error> {
        Ok(self.query(sql, parameters).await?.into_iter().next())
    }

    /// Runs a statement that writes what is no part of the log and need not survive a crash: counts of requests.
    pub(crate) async fn tally(
        self,
        sql: &str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, Error> {
        self.run(sql, parameters, "begin; set local synchronous_commit = off").await
    }

    async fn run(
        self,
        sql: &str,
        parameters: &[&(dyn ToSql + Sync)],
        begin: &str,
    ) -> Result<Vec<Row>, Error> {
        let unwalled = planted::is("no-predicate").then(|| planted::without_tenant(sql));
        let sql = unwalled.as_deref().unwrap_or(sql);
        let mut all: Vec<&(dyn ToSql + Sync)> = Vec::with_capacity(parameters.len() + 1);
        all.push(&self.tenant);
        all.extend_from_slice(parameters);
        match self.via {
            Via::Transaction(client) => {
                let statement = client.prepare_cached(sql).await?;
                Ok(client.query(&statement, &all).await?)
            }
            Via::Pool(database) => {
                let begin = format!("{begin}; {}", name_tenant(self.tenant));
                database.read(async |client| query_in_transaction(client, &begin, sql, &all).await).await
            }
        }
    }
}

/// Begins a transaction that only reads, by plans that do not depend on what is asked for, nor on statistics that may be
/// older than the rows.
const BEGIN_BY_INDEX: &str =
    "begin read only; set local plan_cache_mode = force_generic_plan; set local enable_seqscan = off";

async fn query_in_transaction(
    client: &Client,
    begin: &str,
    sql: &str,
    parameters: &[&(dyn ToSql + Sync)],
) -> Result<Vec<Row>, Error> {
    let statement = client.prepare_cached(sql).await?;
    // All go out at once. A caller that is dropped while it waits leaves the connection with its transaction ended,
    // since the end is on the wire already.
    let mut pipeline = Pipeline::default();
    pipeline.send(async { client.batch_execute(begin).await.map(|()| vec![]) }).await;
    pipeline.send(async { client.query(&statement, parameters).await }).await;
    pipeline.send(async { client.batch_execute("commit").await.map(|()| vec![]) }).await;
    Ok(pipeline.finish().await?.swap_remove(1))
}

/// The statement that names the tenant of a transaction.
pub(crate) fn name_tenant(tenant: TenantId) -> String {
    format!("select set_config('theazo.tenant', '{}', true)", tenant.0)
}

/// A moment as the database's driver takes it.
#[must_use]
pub fn system_time(at: Timestamp) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(u64::try_from(at.millis()).unwrap_or_default())
}

/// A moment as the database's driver gives it.
#[must_use]
pub fn millis(at: SystemTime) -> Timestamp {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_millis(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}
