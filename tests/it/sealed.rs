//! Sealed values beside the log: written with their events, and bound to where they lie.

use theazo::log::{SealedChange, Submission, TenantId};
use theazo::random;
use theazo::read::sealed;
use theazo::vault::{self, Address, Master, Masters};
use theazo_domain::id::ValueId;

use crate::support::logs::{MASTER_KEY, World, create, new_session_id, now};

fn masters() -> Masters {
    Masters::of(Master::from_hex(MASTER_KEY, "a test").unwrap())
}

fn address(tenant: TenantId, place: &str) -> Address {
    Address { tenant, place: place.to_owned(), version: ValueId::from_ulid(random::ulid(now())) }
}

/// A command that happens to be accepted, with what it seals.
fn with(sealed: Vec<SealedChange>) -> Submission {
    Submission { sealed, ..create(new_session_id(), "user") }
}

#[tokio::test]
async fn a_value_lies_at_its_place_until_another_takes_it_or_it_is_deleted() {
    let world = World::new().await;
    let (log, tenant) = (world.server(), world.tenant);
    let masters = masters();
    let put = |place: &str, value: &[u8]| {
        let address = address(tenant.id, place);
        let sealed = vault::sealed::seal(&masters.active(), &address, value);
        SealedChange::Put(address, sealed)
    };
    let at = async |place: &str| {
        let (version, sealed) = sealed::at(log.scope(tenant.id), place).await.unwrap()?;
        let address = Address { tenant: tenant.id, place: place.to_owned(), version };
        Some(vault::sealed::open(&masters, &address, &sealed).unwrap().to_vec())
    };
    let execute = async |submission| log.execute(tenant, submission).await.unwrap();
    execute(with(vec![put("a", b"one"), put("b", b"two"), put("a", b"three")])).await.unwrap();
    assert_eq!(at("a").await.as_deref(), Some(&b"three"[..]));
    assert_eq!(at("b").await.as_deref(), Some(&b"two"[..]));
    execute(with(vec![put("a", &[7; 65_536]), SealedChange::Delete("b".to_owned())])).await.unwrap();
    assert_eq!(at("a").await.as_deref(), Some(&[7; 65_536][..]));
    assert_eq!(at("b").await, None);
    let session_id = new_session_id();
    execute(create(session_id, "user")).await.unwrap();
    let refused = Submission { sealed: vec![put("a", b"refused")], ..create(session_id, "user") };
    assert!(execute(refused).await.is_err());
    assert_eq!(at("a").await.map(|value| value.len()), Some(65_536), "what is refused seals nothing");
}

#[tokio::test]
async fn a_value_that_another_master_key_wraps_is_wrapped_anew_before_it_is_written() {
    let world = World::new().await;
    let (log, tenant) = (world.server(), world.tenant);
    let superuser = world.superuser().await;
    let key = "insert into server_keys values ('pepper', $1, '')";
    let stale = Master::from_hex(&MASTER_KEY.replace("00", "ff"), "a test").unwrap();
    superuser.execute(key, &[&masters().active().id()]).await.unwrap();
    // A server that is behind: it seals by a key that is not, or no longer, the active one.
    let address = address(tenant.id, "a");
    let sealed = vault::sealed::seal(&stale, &address, b"value");
    let failed = log.execute(tenant, with(vec![SealedChange::Put(address.clone(), sealed)])).await;
    assert!(failed.is_err(), "this server does not have that key");
    assert_eq!(sealed::at(log.scope(tenant.id), "a").await.unwrap(), None);
    let sealed = vault::sealed::seal(&masters().active(), &address, b"value");
    superuser.execute("update server_keys set master_key_id = $1", &[&stale.id()]).await.unwrap();
    let failed = log.execute(tenant, with(vec![SealedChange::Put(address, sealed)])).await;
    assert!(failed.is_err(), "nothing is written by a key that is not the active one");
    assert_eq!(sealed::at(log.scope(tenant.id), "a").await.unwrap(), None);
}
