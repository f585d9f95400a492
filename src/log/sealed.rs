//! Sealed values beside the log: written and deleted in the transaction of the events that say so.

use std::collections::BTreeMap;

use super::{Failure, SealedChange, TenantId};
use crate::database::{Client, Error, Pipeline};
use crate::vault::{self, Masters};

/// Whoever makes another master key the active one holds this advisory lock alone; whoever writes what is sealed shares
/// it. So once another one is active, nothing that the old one wraps is written any more.
pub(crate) const ACTIVE_MASTER_LOCK: i64 = 7_432_816_003;

const FIND_ACTIVE: &str = "select master_key_id from server_keys order by name limit 1";
const PUT: &str = "
    insert into sealed_values (tenant_id, place, version, master_key_id, data_key, nonce, ciphertext)
    select $1, place, version, master_key_id, data_key, nonce, ciphertext
    from unnest($2::text[], $3::text[], $4::text[], $5::bytea[], $6::bytea[], $7::bytea[])
      as u(place, version, master_key_id, data_key, nonce, ciphertext)
    on conflict (tenant_id, place) do update
      set version = excluded.version, master_key_id = excluded.master_key_id, data_key = excluded.data_key,
          nonce = excluded.nonce, ciphertext = excluded.ciphertext";
const DELETE: &str = "delete from sealed_values where tenant_id = $1 and place = any($2)";

/// Sees to it that what is about to be written is wrapped by the active master key, inside the transaction.
///
/// # Errors
/// [`Failure`] when the database fails, or the active master key is not one that this server has.
pub(super) async fn wrap_by_active(
    client: &Client,
    masters: &Masters,
    changes: &mut [SealedChange],
) -> Result<(), Failure> {
    if !changes.iter().any(|change| matches!(change, SealedChange::Put(..))) {
        return Ok(());
    }
    let lock = client.prepare_cached("select pg_advisory_xact_lock_shared($1)").await.map_err(Error::from)?;
    let find = client.prepare_cached(FIND_ACTIVE).await.map_err(Error::from)?;
    let mut pipeline = Pipeline::default();
    pipeline.send(async { client.query(&lock, &[&ACTIVE_MASTER_LOCK]).await }).await;
    pipeline.send(async { client.query(&find, &[]).await }).await;
    let found = pipeline.finish().await?.pop().unwrap_or_default();
    let Some(active) = found.first().map(|row| row.get::<_, &str>(0)) else { return Ok(()) };
    let internal = |error: vault::Error| Failure::Internal(error.to_string());
    let active = masters.activate(active).map_err(internal)?;
    for change in changes {
        if let SealedChange::Put(address, sealed) = change
            && sealed.master_key_id != active.id()
        {
            vault::sealed::rewrap(masters, &active, address, sealed).map_err(internal)?;
        }
    }
    Ok(())
}

/// Sends the changes of a batch: of several to one place, the last.
pub(super) async fn send<'a>(
    pipeline: &mut Pipeline<'a>,
    client: &'a Client,
    tenant: TenantId,
    changes: Vec<SealedChange>,
) -> Result<(), Error> {
    let mut last = BTreeMap::new();
    for change in changes {
        match change {
            SealedChange::Put(address, sealed) => {
                last.insert(address.place.clone(), Some((address.version.to_string(), sealed)))
            }
            SealedChange::Delete(place) => last.insert(place, None),
        };
    }
    let (mut gone, mut places, mut versions, mut masters) = (vec![], vec![], vec![], vec![]);
    let (mut data_keys, mut nonces, mut ciphertexts) = (vec![], vec![], vec![]);
    for (place, put) in last {
        let Some((version, sealed)) = put else {
            gone.push(place);
            continue;
        };
        places.push(place);
        versions.push(version);
        masters.push(sealed.master_key_id);
        data_keys.push(sealed.data_key);
        nonces.push(sealed.nonce);
        ciphertexts.push(sealed.ciphertext);
    }
    if !gone.is_empty() {
        let statement = client.prepare_cached(DELETE).await?;
        pipeline.send(async move { client.query(&statement, &[&tenant, &gone]).await }).await;
    }
    if !places.is_empty() {
        let statement = client.prepare_cached(PUT).await?;
        pipeline
            .send(async move {
                let parameters: [&(dyn tokio_postgres::types::ToSql + Sync); 7] =
                    [&tenant, &places, &versions, &masters, &data_keys, &nonces, &ciphertexts];
                client.query(&statement, &parameters).await
            })
            .await;
    }
    Ok(())
}
