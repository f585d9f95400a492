//! Sealing what a caller confides: a fresh random key for each version of each value, wrapped by a master key.
//!
//! A sealed value is bound to its address (the tenant, the place within it, the version), as is its data key, so a row
//! that was moved or swapped does not open. Changing the master key means wrapping the data keys anew, and leaves the
//! ciphertext as it is.

use std::fmt;

use theazo_domain::id::ValueId;
use zeroize::Zeroizing;

use super::cipher::{self, NONCE_BYTES};
use super::{Error, Key, Master, Masters};
use crate::log::TenantId;
use crate::random;

/// Whose value it is, where it lies and which version it is: what the value is bound to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// Whose it is: an organization in one mode.
    pub tenant: TenantId,
    /// Where it lies within the tenant, such as `secret/org/DB_PASSWORD`: one value lies there at a time.
    pub place: String,
    /// Which of the values that have lain there.
    pub version: ValueId,
}

/// A value as it lies in the database.
#[derive(Clone, PartialEq, Eq)]
pub struct Sealed {
    /// Which master key wraps the data key.
    pub master_key_id: String,
    /// The value's own key, wrapped.
    pub data_key: Vec<u8>,
    /// What the cipher was begun with.
    pub nonce: Vec<u8>,
    /// The value under its own key.
    pub ciphertext: Vec<u8>,
}

impl Address {
    /// The associated data. A place and a version hold no line break, so no two addresses read the same.
    fn bound_to(&self) -> String {
        format!("theazo sealed value\n{}\n{}\n{}", self.tenant.0, self.place, self.version)
    }

    fn damaged(&self, master_key_id: &str) -> Error {
        let name = format!("{} of tenant {}", self.place, self.tenant.0);
        Error::Damaged { name, master_key_id: master_key_id.to_owned() }
    }
}

/// Seals a value for its address, under a fresh random key that the master key wraps.
#[must_use]
pub fn seal(master: &Master, address: &Address, plaintext: &[u8]) -> Sealed {
    let key = Key::new(random::bytes());
    let (nonce, bound_to) = (random::bytes::<NONCE_BYTES>(), address.bound_to());
    Sealed {
        master_key_id: master.id().to_owned(),
        data_key: master.wrap(&bound_to, &*key),
        nonce: nonce.to_vec(),
        ciphertext: cipher::encrypt(&key, nonce, bound_to.as_bytes(), plaintext),
    }
}

/// Opens what [`seal`] made for this address. The value is wiped from memory when it is dropped.
///
/// # Errors
/// [`Error::WrongMaster`] when none of the master keys wraps it, [`Error::Damaged`] when it was changed or belongs to
/// another address.
pub fn open(masters: &Masters, address: &Address, sealed: &Sealed) -> Result<Zeroizing<Vec<u8>>, Error> {
    let bound_to = address.bound_to();
    let damaged = || address.damaged(&sealed.master_key_id);
    let key = data_key(masters, address, sealed)?;
    let nonce = sealed.nonce[..].try_into().map_err(|_| damaged())?;
    cipher::decrypt(&key, nonce, bound_to.as_bytes(), &sealed.ciphertext).ok_or_else(damaged)
}

/// Wraps a value's key by another master key; the ciphertext stays.
///
/// # Errors
/// As [`open`].
pub fn rewrap(masters: &Masters, to: &Master, address: &Address, sealed: &mut Sealed) -> Result<(), Error> {
    let key = data_key(masters, address, sealed)?;
    sealed.data_key = to.wrap(&address.bound_to(), &*key);
    to.id().clone_into(&mut sealed.master_key_id);
    Ok(())
}

fn data_key(masters: &Masters, address: &Address, sealed: &Sealed) -> Result<Key, Error> {
    let damaged = |_| address.damaged(&sealed.master_key_id);
    let master = masters.named(&sealed.master_key_id)?;
    let opened = master.unwrap(&address.bound_to(), &sealed.data_key).map_err(damaged)?;
    let mut key = Key::default();
    if opened.len() != key.len() {
        return Err(address.damaged(&sealed.master_key_id));
    }
    key.copy_from_slice(&opened);
    Ok(key)
}

impl fmt::Debug for Sealed {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Sealed").field("master_key_id", &self.master_key_id).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use ulid::Ulid;

    use super::*;

    const HEX: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";

    fn masters(hex: &str) -> Masters {
        Masters::of(Master::from_hex(hex, "a test").unwrap())
    }

    fn address() -> Address {
        let version = ValueId::from_ulid(Ulid::from_parts(1, 2));
        Address { tenant: TenantId(1), place: "secret/org/A".to_owned(), version }
    }

    fn is_damaged(opened: &Result<Zeroizing<Vec<u8>>, Error>) -> bool {
        matches!(opened, Err(Error::Damaged { .. }))
    }

    #[test]
    fn a_value_opens_at_its_own_address_only() {
        let masters = masters(HEX);
        let sealed = seal(&masters.active(), &address(), b"value");
        assert_eq!(&**open(&masters, &address(), &sealed).unwrap(), b"value");
        for elsewhere in [
            Address { tenant: TenantId(2), ..address() },
            Address { place: "secret/org/B".to_owned(), ..address() },
            Address { version: ValueId::from_ulid(Ulid::from_parts(1, 3)), ..address() },
        ] {
            assert!(is_damaged(&open(&masters, &elsewhere, &sealed)));
        }
    }

    #[test]
    fn no_part_of_one_value_goes_with_another() {
        let masters = masters(HEX);
        let [first, second] = [b"first", b"other"].map(|value| seal(&masters.active(), &address(), value));
        assert_ne!(first.ciphertext, second.ciphertext);
        for mixed in [
            Sealed { data_key: second.data_key.clone(), ..first.clone() },
            Sealed { nonce: second.nonce.clone(), ..first.clone() },
            Sealed { ciphertext: second.ciphertext.clone(), ..first.clone() },
            Sealed { nonce: vec![], ..first.clone() },
        ] {
            assert!(is_damaged(&open(&masters, &address(), &mixed)));
        }
        let other = Sealed { master_key_id: "mk_0000000000000000".to_owned(), ..first };
        assert!(matches!(open(&masters, &address(), &other), Err(Error::WrongMaster { .. })));
    }

    #[test]
    fn wrapping_anew_changes_the_master_key_and_nothing_else() {
        let (old, new) = (masters(HEX), masters(&HEX.replace("00", "ff")));
        let mut sealed = seal(&old.active(), &address(), b"value");
        let before = sealed.clone();
        rewrap(&old, &new.active(), &address(), &mut sealed).unwrap();
        assert_eq!(&**open(&new, &address(), &sealed).unwrap(), b"value");
        assert!(open(&old, &address(), &sealed).is_err());
        assert_eq!((sealed.nonce, sealed.ciphertext), (before.nonce, before.ciphertext));
    }

    proptest! {
        #[test]
        fn a_value_comes_back_whole_or_not_at_all(
            value in proptest::collection::vec(any::<u8>(), 0..200),
            place in any::<proptest::sample::Index>(),
            flip in 1..=255_u8,
        ) {
            let masters = masters(HEX);
            let sealed = seal(&masters.active(), &address(), &value);
            prop_assert_eq!(&*open(&masters, &address(), &sealed).unwrap(), &value);
            for part in 0..3 {
                let mut changed = sealed.clone();
                let bytes =
                    [&mut changed.data_key, &mut changed.nonce, &mut changed.ciphertext].into_iter().nth(part).unwrap();
                let place = place.index(bytes.len());
                bytes[place] ^= flip;
                prop_assert!(is_damaged(&open(&masters, &address(), &changed)));
            }
        }
    }
}
