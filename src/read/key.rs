//! API keys: whose they are, and what they may do.

use theazo_domain::id::KeyId;
use theazo_domain::key::Role;

use super::{typed, word};
use crate::database::{Database, Error, Scope};
use crate::log::{Tenant, TenantId};

/// What an API key that is not revoked opens.
#[derive(Debug, Clone, Copy)]
pub struct Opened {
    /// Its public name.
    pub id: KeyId,
    /// What it may do.
    pub role: Role,
    /// Requests a minute.
    pub rate_limit: i64,
}

/// The tenant and the id of the key with this digest, revoked or not. It looks over the walls between tenants, since
/// the tenant is what is asked for.
///
/// # Errors
/// [`Error`] when the database is away.
pub async fn find(database: &Database, digest: &str) -> Result<Option<(TenantId, String)>, Error> {
    let looking = database.read(async |client| {
        let statement = client.prepare_cached("select tenant_id, key_id from find_key($1)").await?;
        Ok(client.query_opt(&statement, &[&digest]).await?)
    });
    looking.await?.map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).transpose()
}

/// Whose log it is.
///
/// # Errors
/// [`Error`] when the database is away.
pub async fn tenant(scope: Scope<'_>) -> Result<Option<Tenant>, Error> {
    let sql = "select organization_id, mode from tenants where tenant_id = $1";
    let Some(row) = scope.query_optional(sql, &[]).await? else { return Ok(None) };
    let (organization_id, mode) = (typed(row.try_get(0)?)?, word(row.try_get(1)?)?);
    Ok(Some(Tenant { id: scope.tenant(), organization_id, mode }))
}

/// What a key opens; `None` where it is revoked.
///
/// # Errors
/// [`Error`] when the database is away.
pub async fn opened(scope: Scope<'_>, key_id: &str) -> Result<Option<Opened>, Error> {
    let sql = "select k.key_id, k.role, o.rate_limit from api_keys k
        join organization o on o.tenant_id = k.tenant_id and o.build = live_build($1, 'organization')
        where k.tenant_id = $1 and k.build = live_build($1, 'api_keys') and k.key_id = $2
          and k.revoked_at is null";
    let Some(row) = scope.query_optional(sql, &[&key_id]).await? else { return Ok(None) };
    let (id, role) = (typed(row.try_get(0)?)?, word(row.try_get(1)?)?);
    Ok(Some(Opened { id, role, rate_limit: row.try_get(2)? }))
}
