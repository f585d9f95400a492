//! Changing the master key while servers serve.
//!
//! The server's own keys go first, in one transaction: from then on the new master key is the active one, and whatever
//! is written is wrapped by it. Then the data keys of what was sealed before are wrapped anew, some at a time. It can
//! end at any moment, since every key says what wraps it; run again it does what is left.
//!
//! There is one change at a time: a lock on the connection that does the work, and one on the data directory where keys
//! are made, which the kernel keeps for as long as the process lives, also while it is suspended. Should the first ever
//! be lost, nothing else is: each transaction looks whether its own master key is the active one, and holds that still
//! until it ends; and no key's file is replaced before nothing is wrapped by that key.

use std::sync::Arc;

use serde::Serialize;
use tokio_postgres::{Client, IsolationLevel, Transaction};

use super::{Address, Error, Master, Masters, Sealed, master_key_id, sealed};
use crate::config;
use crate::database::{Database, Scope, name_tenant};
use crate::log::{Tenant, find_tenants, sealed::ACTIVE_MASTER_LOCK};
use crate::read::sealed::wrapped_otherwise;

/// Whoever changes the master key holds this advisory lock for as long as its connection lives.
const ROTATION_LOCK: i64 = 7_432_816_004;

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
/// `owner` is a connection as the login that owns the schema. It holds the lock of the change until it is closed.
///
/// # Errors
/// [`Error::Rotating`] when another change is under way, [`Error::Superseded`] when one has taken over from this one,
/// [`Error`] when a master key is missing or the database is away. What was done stays done.
pub async fn rotate(owner: &mut Client, database: &Database, masters: &Masters) -> Result<Rotated, Error> {
    let _no_other_touches_the_files = masters.lock()?;
    let locked = owner.query_one("select pg_try_advisory_lock($1)", &[&ROTATION_LOCK]).await?;
    if !locked.get::<_, bool>(0) {
        return Err(Error::Rotating);
    }
    // Another change may have come to its end since this process read its keys.
    let from = match master_key_id(owner).await? {
        Some(active) => masters.activate(&active)?,
        None => masters.active(),
    };
    let next = masters.next()?;
    let server_keys = activate(owner, masters, &from, &next).await?;
    let (mut values, mut damaged) = (0, vec![]);
    let tenants = find_tenants(database, None).await?;
    for tenant in &tenants {
        let mut after = String::new();
        loop {
            let scope = Scope::new(database, tenant.id);
            let some = wrapped_otherwise(scope, next.id(), &after, config::REWRAPPED_ROWS).await?;
            let Some((last, _)) = some.last() else { break };
            after.clone_from(&last.place);
            values += rewrap(owner, masters, &next, some, &mut damaged).await?;
        }
    }
    match left(owner, &next, &tenants).await? {
        0 => masters.settle(&next)?,
        left if damaged.is_empty() => return Err(Error::Unfinished { left }),
        _ => {}
    }
    Ok(Rotated { from: from.id().to_owned(), to: next.id().to_owned(), server_keys, values, damaged })
}

/// Wraps the server's own keys anew, which makes this master key the active one. Gives how many there were to wrap.
async fn activate(
    owner: &mut Client,
    masters: &Masters,
    from: &Master,
    next: &Arc<Master>,
) -> Result<usize, Error> {
    let transaction = owner.transaction().await?;
    // Whoever is writing something sealed has ended after this, and whoever begins sees the new master key.
    transaction.execute("select pg_advisory_xact_lock($1)", &[&ACTIVE_MASTER_LOCK]).await?;
    let sql = "select name, master_key_id, wrapped from server_keys where master_key_id <> $1 for update";
    let rows = transaction.query(sql, &[&next.id()]).await?;
    for row in &rows {
        let (name, wrapped_by): (&str, &str) = (row.get(0), row.get(1));
        if wrapped_by != from.id() {
            return Err(superseded(next, wrapped_by));
        }
        let key = from.unwrap(name, row.get(2))?;
        let sql = "update server_keys set master_key_id = $2, wrapped = $3 where name = $1";
        transaction.execute(sql, &[&name, &next.id(), &next.wrap(name, &key)]).await?;
    }
    transaction.commit().await?;
    masters.activate(next.id())?;
    Ok(rows.len())
}

/// Sees to it that this master key is the active one until the transaction ends, of which it has to be the beginning:
/// a snapshot of the transaction is no older, then.
async fn hold_active(transaction: &Transaction<'_>, next: &Master) -> Result<(), Error> {
    // Who makes another one the active one writes to this table.
    transaction.batch_execute("lock table server_keys in share mode").await?;
    let sql = "select master_key_id from server_keys where master_key_id <> $1 limit 1";
    match transaction.query_opt(sql, &[&next.id()]).await? {
        Some(row) => Err(superseded(next, row.get(0))),
        None => Ok(()),
    }
}

fn superseded(next: &Master, active: &str) -> Error {
    Error::Superseded { to: next.id().to_owned(), active: active.to_owned() }
}

/// How many values another master key still wraps, in one snapshot. The tenants are those that there were when this
/// master key was the active one already: those that came later have nothing from before.
async fn left(owner: &mut Client, next: &Master, tenants: &[Tenant]) -> Result<i64, Error> {
    let snapshot = owner.build_transaction().isolation_level(IsolationLevel::RepeatableRead);
    let transaction = snapshot.start().await?;
    hold_active(&transaction, next).await?;
    let mut left = 0;
    for tenant in tenants {
        transaction.batch_execute(&name_tenant(tenant.id)).await?;
        let sql = "select count(*) from sealed_values where tenant_id = $1 and master_key_id <> $2";
        left += transaction.query_one(sql, &[&tenant.id, &next.id()]).await?.get::<_, i64>(0);
    }
    transaction.commit().await?;
    Ok(left)
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
    hold_active(&transaction, next).await?;
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
