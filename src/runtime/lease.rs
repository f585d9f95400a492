//! Leases: which server does which piece of work. They stand in a table of their own, across all tenants.

use theazo_domain::organization::Mode;
use theazo_domain::time::Timestamp;

use crate::config;
use crate::database::{Database, Error, system_time};
use crate::log::{Tenant, TenantId};

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
#[derive(Debug, Clone)]
pub(crate) struct Leases {
    database: Database,
    /// The server's name: no other process ever has it.
    worker: String,
}

impl Leases {
    pub(crate) fn new(database: Database, worker: String) -> Self {
        Self { database, worker }
    }

    /// Takes up to so many pieces of work that are due and that nobody has.
    pub(crate) async fn claim(&self, most: usize, dictated: Option<Timestamp>) -> Result<Vec<Piece>, Error> {
        let client = self.database.reading().await?;
        let sql = "select c.tenant_id, c.kind, c.subject, t.organization_id, t.mode
            from claim_work($1, $2, $3, $4) c join lateral (
              select organization_id, mode from find_tenants(null) f where f.tenant_id = c.tenant_id) t on true";
        let statement = client.prepare_cached(sql).await?;
        let most = i32::try_from(most).unwrap_or(i32::MAX);
        let rows =
            client.query(&statement, &[&self.worker, &most, &lease_ms(), &dictated.map(system_time)]).await?;
        rows.iter()
            .map(|row| {
                let organization_id = row.get::<_, &str>(3).parse();
                let organization_id =
                    organization_id.map_err(|_| Error::Row("tenants.organization_id".to_owned()))?;
                let mode = if row.get::<_, &str>(4) == Mode::Live.as_str() { Mode::Live } else { Mode::Test };
                let tenant = Tenant { id: TenantId(row.get(0)), organization_id, mode };
                Ok(Piece { tenant, kind: row.get(1), subject: row.get(2) })
            })
            .collect()
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

    /// Lets go of all of it.
    pub(crate) async fn release_all(&self) -> Result<(), Error> {
        let client = self.database.reading().await?;
        client.query("select release_leases($1)", &[&self.worker]).await?;
        Ok(())
    }
}

fn lease_ms() -> i32 {
    i32::try_from(config::LEASE.as_millis()).unwrap_or(i32::MAX)
}
