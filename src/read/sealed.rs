//! What is sealed, as it lies beside the log. Opening it is the vault's.

use theazo_domain::id::ValueId;
use tokio_postgres::Row;

use super::typed;
use crate::database::{Error, Scope};
use crate::vault::{Address, Sealed};

/// What lies at a place, and as which version; `None` where nothing does.
///
/// Whoever opens it does so for the version that the read model names, so that no other one can be put in its place.
///
/// # Errors
/// [`Error`] when the database is away.
pub async fn at(scope: Scope<'_>, place: &str) -> Result<Option<(ValueId, Sealed)>, Error> {
    let sql = "select version, master_key_id, data_key, nonce, ciphertext from sealed_values
        where tenant_id = $1 and place = $2";
    let row = scope.query_optional(sql, &[&place]).await?;
    row.map(|row| Ok((typed(row.try_get(0)?)?, sealed(&row, 1)?))).transpose()
}

/// Some of what another master key than this one wraps, in the order of the places, from past one on.
///
/// # Errors
/// [`Error`] when the database is away.
pub async fn wrapped_otherwise(
    scope: Scope<'_>,
    master_key_id: &str,
    after: &str,
    limit: i64,
) -> Result<Vec<(Address, Sealed)>, Error> {
    let sql = "select place, version, master_key_id, data_key, nonce, ciphertext from sealed_values
        where tenant_id = $1 and master_key_id <> $2 and place > $3 order by place limit $4";
    let rows = scope.query(sql, &[&master_key_id, &after, &limit]).await?;
    rows.iter().map(|row| addressed(scope, row)).collect()
}

/// Some of what is sealed, in the order of the places, from past one on.
///
/// # Errors
/// [`Error`] when the database is away.
pub async fn some(scope: Scope<'_>, after: &str, limit: i64) -> Result<Vec<(Address, Sealed)>, Error> {
    let sql = "select place, version, master_key_id, data_key, nonce, ciphertext from sealed_values
        where tenant_id = $1 and place > $2 order by place limit $3";
    let rows = scope.query(sql, &[&after, &limit]).await?;
    rows.iter().map(|row| addressed(scope, row)).collect()
}

/// The places at which something else lies than what the read models name, or nothing.
///
/// # Errors
/// [`Error`] when the database is away.
pub async fn misplaced(scope: Scope<'_>) -> Result<Vec<String>, Error> {
    let sql = "select named.place from (
          select 'secret/' || s.scope || '/' || s.name as place, s.version from secrets s
            where s.tenant_id = $1 and s.build = live_build($1, 'secrets')
          union all
          select 'provider/' || p.provider, p.credentials from providers p
            where p.tenant_id = $1 and p.build = live_build($1, 'providers') and p.credentials is not null
        ) named
        left join sealed_values v
          on v.tenant_id = $1 and v.place = named.place and v.version = named.version
        where v.place is null";
    scope.query(sql, &[]).await?.iter().map(|row| Ok(row.try_get(0)?)).collect()
}

fn addressed(scope: Scope<'_>, row: &Row) -> Result<(Address, Sealed), Error> {
    let address =
        Address { tenant: scope.tenant(), place: row.try_get(0)?, version: typed(row.try_get(1)?)? };
    Ok((address, sealed(row, 2)?))
}

/// Reads the columns of a sealed value, the first of which has this number.
pub(super) fn sealed(row: &Row, first: usize) -> Result<Sealed, Error> {
    Ok(Sealed {
        master_key_id: row.try_get(first)?,
        data_key: row.try_get(first + 1)?,
        nonce: row.try_get(first + 2)?,
        ciphertext: row.try_get(first + 3)?,
    })
}
