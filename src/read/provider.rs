//! Compute providers.

use theazo_domain::id::ValueId;
use theazo_domain::provider::{ProviderName, Status};
use theazo_domain::time::Timestamp;
use tokio_postgres::Row;

use super::{typed, word};
use crate::database::{Error, Scope, millis};

/// A compute provider that is configured, or `local`.
#[derive(Debug)]
pub struct Provider {
    /// Which one.
    pub provider: ProviderName,
    /// The version of its credentials; `None` for `local`.
    pub credentials: Option<ValueId>,
    /// New agents that name no provider run there.
    pub is_default: bool,
    /// What it said when it was last asked.
    pub status: Status,
    /// Why it is not active.
    pub status_reason: Option<String>,
    /// When it was last asked.
    pub verified_at: Option<Timestamp>,
    /// Of the event that first configured it.
    pub position: i64,
    /// When it was first configured.
    pub created_at: Timestamp,
}

const SELECT: &str =
    "select provider, credentials, is_default, status, status_reason, verified_at, position, created_at
    from providers where tenant_id = $1 and build = live_build($1, 'providers')";

/// A provider; `None` where it is not configured.
///
/// # Errors
/// [`Error`] when the database is away.
pub async fn get(scope: Scope<'_>, provider: ProviderName) -> Result<Option<Provider>, Error> {
    let sql = format!("{SELECT} and provider = $2");
    scope.query_optional(&sql, &[&provider.as_str()]).await?.as_ref().map(read).transpose()
}

/// Providers, newest first, from below a position on. There are five at most.
///
/// # Errors
/// [`Error`] when the database is away.
pub async fn list(scope: Scope<'_>, below: Option<i64>, limit: i64) -> Result<Vec<Provider>, Error> {
    let sql = format!("{SELECT} and ($2::bigint is null or position < $2) order by position desc limit $3");
    scope.query(&sql, &[&below, &limit]).await?.iter().map(read).collect()
}

fn read(row: &Row) -> Result<Provider, Error> {
    let credentials: Option<&str> = row.try_get(1)?;
    let verified_at: Option<std::time::SystemTime> = row.try_get(5)?;
    Ok(Provider {
        provider: typed(row.try_get(0)?)?,
        credentials: credentials.map(typed).transpose()?,
        is_default: row.try_get::<_, i64>(2)? == 1,
        status: word(row.try_get(3)?)?,
        status_reason: row.try_get(4)?,
        verified_at: verified_at.map(millis),
        position: row.try_get(6)?,
        created_at: millis(row.try_get(7)?),
    })
}
