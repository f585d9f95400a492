//! Tenants: making them, finding them, and seeing to it that their read models are of this program's version.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use theazo_domain::id::OrganizationId;
use theazo_domain::organization::Mode;
use theazo_domain::time::Timestamp;
use theazo_projections::{ALL, EPOCH};

use super::project::Build;
use super::{Failure, Log, Tenant, TenantId, rebuild};
use crate::config;
use crate::database::{Client, Database, Error, name_tenant, system_time};

/// The tenants that this server has looked at.
#[derive(Default)]
pub(super) struct Opened(Mutex<States>);

#[derive(Default)]
struct States {
    ready: HashSet<TenantId>,
    rebuilding: HashMap<TenantId, tokio::task::JoinHandle<()>>,
}

impl Log {
    /// Sees to it that a tenant's read models are of this server's version: to be called before they are read.
    /// After the first time it costs nothing.
    ///
    /// # Errors
    /// [`Failure::Rebuilding`] while they are made, [`Failure::Newer`] when they are a newer server's.
    pub async fn open(self: &Arc<Self>, tenant: Tenant) -> Result<(), Failure> {
        {
            let mut states = self.opened.0.lock().unwrap_or_else(PoisonError::into_inner);
            if states.ready.contains(&tenant.id) {
                return Ok(());
            }
            states.rebuilding.retain(|_, task| !task.is_finished());
            if states.rebuilding.contains_key(&tenant.id) {
                return Err(Failure::Rebuilding);
            }
        }
        let sql = "select projection_epoch from heads where tenant_id = $1";
        let row = self.scope(tenant.id).query_optional(sql, &[]).await?;
        let epoch: i32 = row.ok_or_else(|| Failure::Internal("the tenant does not exist".to_owned()))?.get(0);
        if epoch > EPOCH {
            return Err(self.parts.meet_newer(format!("its read models are of epoch {epoch}")));
        }
        let mut states = self.opened.0.lock().unwrap_or_else(PoisonError::into_inner);
        if epoch == EPOCH {
            states.ready.insert(tenant.id);
            return Ok(());
        }
        let log = Arc::clone(self);
        states.rebuilding.entry(tenant.id).or_insert_with(|| {
            tokio::spawn(async move {
                if let Err(error) = rebuild::upgrade(&log, tenant).await {
                    tracing::error!(%error, tenant = tenant.id.0, "read models could not be brought to this version");
                }
            })
        });
        Err(Failure::Rebuilding)
    }
}

/// Makes an organization's tenant of one mode, with an empty log and empty read models. Making it again gives the
/// one there is.
///
/// # Errors
/// [`Error`] when the login is not the owner of the schema, or the database is away.
pub async fn create_tenant(
    owner: &mut tokio_postgres::Client,
    organization_id: OrganizationId,
    mode: Mode,
) -> Result<Tenant, Error> {
    let organization = organization_id.to_string();
    let transaction = owner.transaction().await?;
    // Two that make the same tenant go one after the other.
    transaction.execute("select pg_advisory_xact_lock(hashtextextended($1, 7432))", &[&organization]).await?;
    let found = transaction
        .query_opt("select tenant_id from find_tenants($1) where mode = $2", &[&organization, &mode.as_str()])
        .await?;
    if let Some(row) = found {
        return Ok(Tenant { id: row.get(0), organization_id, mode });
    }
    let sql = "select nextval(pg_get_serial_sequence('tenants', 'tenant_id'))";
    let id: TenantId = transaction.query_one(sql, &[]).await?.get(0);
    transaction.batch_execute(&name_tenant(id)).await?;
    let sql =
        "insert into tenants (tenant_id, organization_id, mode) overriding system value values ($1, $2, $3)";
    transaction.execute(sql, &[&id, &organization, &mode.as_str()]).await?;
    let sql = "insert into heads (tenant_id, projection_epoch) values ($1, $2)";
    transaction.execute(sql, &[&id, &EPOCH]).await?;
    let (names, versions): (Vec<&str>, Vec<i32>) =
        ALL.iter().map(|projection| (projection.table().name, projection.version())).unzip();
    let sql = "insert into projection_builds (tenant_id, projection, build, version, state)
               select $1, projection, 1, version, 'live' from unnest($2::text[], $3::int[]) as u(projection, version)";
    transaction.execute(sql, &[&id, &names, &versions]).await?;
    transaction.commit().await?;
    Ok(Tenant { id, organization_id, mode })
}

/// The tenants of an organization, or all there are.
///
/// # Errors
/// [`Error`] when the database is away.
pub async fn find_tenants(
    database: &Database,
    organization: Option<OrganizationId>,
) -> Result<Vec<Tenant>, Error> {
    let client = database.reading().await?;
    let organization = organization.map(|id| id.to_string());
    let sql = "select tenant_id, organization_id, mode from find_tenants($1)";
    let rows = client.query(sql, &[&organization]).await?;
    rows.iter()
        .map(|row| {
            let organization_id = row.get::<_, &str>(1).parse();
            let mode = if row.get::<_, &str>(2) == Mode::Live.as_str() { Mode::Live } else { Mode::Test };
            let organization_id =
                organization_id.map_err(|_| Error::Row("tenants.organization_id".to_owned()))?;
            Ok(Tenant { id: row.get(0), organization_id, mode })
        })
        .collect()
}

/// The builds that are kept up inside the append, of the projections as this program has them.
pub(super) async fn kept_up_builds(client: &Client, tenant: TenantId) -> Result<Vec<Build>, Error> {
    let sql = "select projection, build, version from projection_builds
               where tenant_id = $1 and state in ('live', 'beside')";
    let statement = client.prepare_cached(sql).await?;
    let rows = client.query(&statement, &[&tenant]).await?;
    let builds = rows.iter().filter_map(|row| {
        let projection = theazo_projections::named(row.get(0))?;
        (projection.version() == row.get::<_, i32>(2)).then(|| Build { projection, number: row.get(1) })
    });
    Ok(builds.collect())
}

/// Runs something under the lock of a tenant's head, while nobody appends: a transaction of its own.
pub(super) async fn locked<T>(
    client: &Client,
    tenant: TenantId,
    work: impl AsyncFnOnce(&Client) -> Result<T, Error>,
) -> Result<T, Error> {
    client.batch_execute(&format!("begin; {}", name_tenant(tenant))).await?;
    client.query("select 1 from heads where tenant_id = $1 for update", &[&tenant]).await?;
    let outcome = work(client).await;
    client.batch_execute(if outcome.is_ok() { "commit" } else { "rollback" }).await?;
    outcome
}

/// Deletes answers that were kept since before a moment, some at a time.
pub(super) async fn sweep_answers(
    database: &Database,
    tenant: TenantId,
    before_ms: i64,
) -> Result<(), Error> {
    let client = database.appending().await?;
    let before = system_time(Timestamp::from_millis(before_ms));
    client.batch_execute(&format!("begin; {}", name_tenant(tenant))).await?;
    let sql = "delete from idempotency where tenant_id = $1 and key_digest in (
                 select key_digest from idempotency where tenant_id = $1 and created_at > 'epoch' and created_at < $2 limit $3)";
    let outcome = client.execute(sql, &[&tenant, &before, &config::IDEMPOTENCY_SWEEP_ROWS]).await;
    client.batch_execute("commit").await?;
    outcome?;
    Ok(())
}
