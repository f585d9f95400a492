//! Changing the master key while servers serve.
//!
//! The server's own keys go first, in one transaction: from then on the new master key is the active one, and whatever
//! is written is wrapped by it. Then the data keys of what was sealed before are wrapped anew, some at a time. It can
//! end at any moment, since every key says what wraps it; run again it does what is left.

use std::sync::Arc;

use serde::Serialize;
use tokio_postgres::Client;

use super::{Address, Error, Master, Masters, Sealed, sealed};
use crate::config;
use crate::database::{Database, Scope, name_tenant};
use crate::log::{find_tenants, sealed::ACTIVE_MASTER_LOCK};
use crate::read::sealed::wrapped_otherwise;

/// What a change of the master key came to.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Rotated {
    /// The public fingerprint of the master key that was active when it began.
    pub from: String,
    /// The fingerprint of the one that wraps everything now.
    pub to: String,
    /// How many of the server's own keys were wrapped anew.
    pub server_keys: usize,
    /// How many values' keys were.
    pub values: usize,
    /// Where values lie that do not open, so that their keys could not be wrapped anew.
    pub damaged: Vec<String>,
}

/// Wraps everything by the next master key, and lets that one take the place of the old when nothing is left.
///
/// `owner` is a connection as the login that owns the schema.
///
/// # Errors
/// [`Error`] when a master key is missing or the database is away. What was done stays done.
pub async fn rotate(owner: &mut Client, database: &Database, masters: &Masters) -> Result<Rotated, Error> {
    let from = masters.active().id().to_owned();
    let next = masters.next()?;
    let server_keys = activate(owner, masters, &next).await?;
    let (mut values, mut damaged) = (0, vec![]);
    for tenant in find_tenants(database, None).await? {
        let mut after = String::new();
        loop {
            let scope = Scope::new(database, tenant.id);
            let some = wrapped_otherwise(scope, next.id(), &after, config::REWRAPPED_ROWS).await?;
            let Some((last, _)) = some.last() else { break };
            after.clone_from(&last.place);
            values += rewrap(owner, masters, &next, some, &mut damaged).await?;
        }
    }
    if damaged.is_empty() {
        masters.settle()?;
    }
    Ok(Rotated { from, to: next.id().to_owned(), server_keys, values, damaged })
}

/// Wraps the server's own keys anew, which makes this master key the active one. Gives how many there were to wrap.
async fn activate(owner: &mut Client, masters: &Masters, next: &Arc<Master>) -> Result<usize, Error> {
    let transaction = owner.transaction().await?;
    // Whoever is writing something sealed has ended after this, and whoever begins sees the new master key.
    transaction.execute("select pg_advisory_xact_lock($1)", &[&ACTIVE_MASTER_LOCK]).await?;
    let sql = "select name, master_key_id, wrapped from server_keys where master_key_id <> $1 for update";
    let rows = transaction.query(sql, &[&next.id()]).await?;
    for row in &rows {
        let name: &str = row.get(0);
        let key = masters.named(row.get(1))?.unwrap(name, row.get(2))?;
        let sql = "update server_keys set master_key_id = $2, wrapped = $3 where name = $1";
        transaction.execute(sql, &[&name, &next.id(), &next.wrap(name, &key)]).await?;
    }
    transaction.commit().await?;
    masters.activate(next.id())?;
    Ok(rows.len())
}

/// Wraps the keys of some values of one tenant anew. One that was overwritten or deleted meanwhile is left alone.
async fn rewrap(
    owner: &mut Client,
    masters: &Masters,
    next: &Master,
    some: Vec<(Address, Sealed)>,
    damaged: &mut Vec<String>,
) -> Result<usize, Error> {
    let transaction = owner.transaction().await?;
    let mut count = 0;
    for (address, mut value) in some {
        let was = value.master_key_id.clone();
        match sealed::rewrap(masters, next, &address, &mut value) {
            Ok(()) => {}
            Err(Error::Damaged { name, .. }) => {
                damaged.push(name);
                continue;
            }
            Err(error) => return Err(error),
        }
        transaction.batch_execute(&name_tenant(address.tenant)).await?;
        let sql = "update sealed_values set master_key_id = $5, data_key = $6
                   where tenant_id = $1 and place = $2 and version = $3 and master_key_id = $4";
        let version = address.version.to_string();
        let updated = transaction
            .execute(sql, &[&address.tenant, &address.place, &version, &was, &next.id(), &value.data_key])
            .await?;
        count += usize::try_from(updated).unwrap_or_default();
    }
    transaction.commit().await?;
    Ok(count)
}
