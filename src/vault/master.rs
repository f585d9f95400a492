//! The master key: it wraps other keys and never leaves the process.

use std::fmt;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use hkdf::Hkdf;
use sha2::Sha256;
use zeroize::Zeroizing;

use super::cipher::{self, NONCE_BYTES};
use super::{Error, Key};
use crate::private_file::{self, DirLock};
use crate::random;

/// The name, in the data directory, of the master key that a server with its own database makes for itself.
pub const FILE_NAME: &str = "master.key";

/// The name of the one that takes its place, while everything is being wrapped anew.
pub(super) const NEXT_FILE_NAME: &str = "master.key.next";

/// The first byte of what is wrapped: the form of the rest.
const FORM: u8 = 1;

/// Where the operator says the master key is.
#[derive(Clone, Default)]
pub struct Source {
    /// The key itself: 32 bytes in hex.
    pub hex: Option<Zeroizing<String>>,
    /// A file that holds it.
    pub file: Option<PathBuf>,
    /// The data directory of a server with its own database: a key is looked for there, and made there if need be.
    pub own_dir: Option<PathBuf>,
    /// Another key that may still wrap something: 32 bytes in hex.
    pub previous_hex: Option<Zeroizing<String>>,
    /// A file that holds such a one.
    pub previous_file: Option<PathBuf>,
}

/// The master key. Two keys follow from it, one to wrap with and one for the fingerprint, so that the fingerprint
/// tells nothing about the other.
pub struct Master {
    wrapping: Key,
    id: String,
}

impl Source {
    /// Finds the master key; makes it where the database is the server's own and nothing is wrapped yet.
    ///
    /// `wrapped_by` is the fingerprint of the master key that wraps the keys in the database, if it holds any: a key
    /// that is needed and gone is never replaced by a new one.
    ///
    /// # Errors
    /// [`Error`] when none or two are named, or the one named is unreadable, malformed or weak.
    pub fn find(&self, wrapped_by: Option<&str>) -> Result<Master, Error> {
        match (&self.hex, &self.file, &self.own_dir) {
            (Some(_), Some(_), _) => Err(Error::Ambiguous),
            (Some(hex), None, _) => Master::from_hex(hex, "THEAZO_MASTER_KEY"),
            (None, Some(file), _) => Master::from_file(file),
            (None, None, Some(dir)) => Master::from_own_dir(dir, wrapped_by),
            (None, None, None) => Err(Error::Missing),
        }
    }

    /// Finds every master key that may wrap something, the one to wrap by first.
    ///
    /// # Errors
    /// As [`Self::find`].
    pub fn find_all(&self, wrapped_by: Option<&str>) -> Result<Vec<Master>, Error> {
        // The next one is read first: when it takes the place of the other meanwhile, it is found there.
        let next = self.next_path().map_or(Ok(None), |path| Master::from_file_if_there(&path))?;
        let previous = match (&self.previous_hex, &self.previous_file) {
            (Some(_), Some(_)) => return Err(Error::AmbiguousPrevious),
            (Some(hex), None) => Some(Master::from_hex(hex, "THEAZO_MASTER_KEY_PREVIOUS")?),
            (None, Some(file)) => Some(Master::from_file(file)?),
            (None, None) => None,
        };
        let mut all = vec![self.find(wrapped_by)?];
        all.extend(next.into_iter().chain(previous));
        Ok(all)
    }

    /// The master key that everything is to be wrapped by from now on: the one that is named; for a server with its own
    /// database a new one beside the old, made once.
    ///
    /// # Errors
    /// As [`Self::find`].
    pub fn next(&self, wrapped_by: &str) -> Result<Master, Error> {
        let Some(path) = self.next_path() else { return self.find(Some(wrapped_by)) };
        match Master::from_file_if_there(&path)? {
            Some(found) => Ok(found),
            None => Master::make(path),
        }
    }

    /// Keeps every other change of the master key away from the data directory of a server with its own database, until
    /// what this gives is dropped.
    ///
    /// # Errors
    /// [`Error::Rotating`] when one is under way, and [`Error::File`].
    pub fn lock(&self) -> Result<Option<DirLock>, Error> {
        let Some(dir) = &self.own_dir else { return Ok(None) };
        match private_file::lock_dir(dir) {
            Ok(Some(lock)) => Ok(Some(lock)),
            Ok(None) => Err(Error::Rotating),
            Err(source) => Err(Error::File { path: dir.clone(), source }),
        }
    }

    /// Lets the new master key of a server with its own database take the place of the old, which nothing needs any
    /// more. `wrapped_by` is the fingerprint of the one that wraps everything: no other one takes that place.
    ///
    /// # Errors
    /// [`Error::File`], and [`Error::WrongMaster`] when the key that lies there is another one.
    pub fn settle(&self, wrapped_by: &str) -> Result<(), Error> {
        let (Some(next), Some(dir)) = (self.next_path(), &self.own_dir) else { return Ok(()) };
        let own = dir.join(FILE_NAME);
        let (found, is_next) = match Master::from_file_if_there(&next)? {
            Some(found) => (found, true),
            None => (Master::from_file(&own)?, false),
        };
        if found.id() != wrapped_by {
            return Err(Error::WrongMaster { wrapped_by: wrapped_by.to_owned(), given: found.id });
        }
        let renamed = if is_next { private_file::rename(&next, &own) } else { Ok(()) };
        renamed.map_err(|source| Error::File { path: next, source })
    }

    /// Where the next master key lies, if this server makes its own.
    fn next_path(&self) -> Option<PathBuf> {
        let own = self.hex.is_none() && self.file.is_none();
        self.own_dir.as_ref().filter(|_| own).map(|dir| dir.join(NEXT_FILE_NAME))
    }
}

impl Master {
    /// Reads 32 bytes in hex; `origin` is what errors call the place of the text.
    ///
    /// # Errors
    /// [`Error::Malformed`] and [`Error::Weak`].
    pub fn from_hex(text: &str, origin: &str) -> Result<Self, Error> {
        let mut key = Key::default();
        hex::decode_to_slice(text.trim(), &mut *key)
            .map_err(|_| Error::Malformed { origin: origin.to_owned() })?;
        if key.iter().all(|byte| *byte == key[0]) {
            return Err(Error::Weak { origin: origin.to_owned() });
        }
        Ok(Self::new(&key))
    }

    fn new(key: &Key) -> Self {
        let (mut wrapping, mut id) = (Key::default(), [0; 8]);
        let derived = Hkdf::<Sha256>::new(None, &**key);
        derived.expand(b"theazo master key: wrap", &mut *wrapping).expect("32 bytes are short enough");
        derived.expand(b"theazo master key: public id", &mut id).expect("8 bytes are short enough");
        Self { wrapping, id: format!("mk_{}", hex::encode(id)) }
    }

    fn from_file(path: &Path) -> Result<Self, Error> {
        let text = std::fs::read_to_string(path)
            .map(Zeroizing::new)
            .map_err(|source| Error::File { path: path.to_owned(), source })?;
        Self::from_hex(&text, &path.display().to_string())
    }

    fn from_file_if_there(path: &Path) -> Result<Option<Self>, Error> {
        match Self::from_file(path) {
            Err(Error::File { source, .. }) if source.kind() == ErrorKind::NotFound => Ok(None),
            found => found.map(Some),
        }
    }

    /// A new random one, written to a file; where somebody has been faster, theirs.
    fn make(path: PathBuf) -> Result<Self, Error> {
        let key = Zeroizing::new(random::bytes::<32>());
        let text = Zeroizing::new(hex::encode(*key));
        match private_file::create(&path, text.as_bytes()) {
            Ok(true) => Ok(Self::new(&key)),
            Ok(false) => Self::from_file(&path),
            Err(source) => Err(Error::File { path, source }),
        }
    }

    fn from_own_dir(dir: &Path, wrapped_by: Option<&str>) -> Result<Self, Error> {
        let path = dir.join(FILE_NAME);
        match (Self::from_file(&path), wrapped_by) {
            (Err(Error::File { source, .. }), None) if source.kind() == ErrorKind::NotFound => {
                Self::make(path)
            }
            (Err(Error::File { source, .. }), Some(wrapped_by)) if source.kind() == ErrorKind::NotFound => {
                Err(Error::Lost { path, wrapped_by: wrapped_by.to_owned() })
            }
            (found, _) => found,
        }
    }

    /// Its public fingerprint, which is stored beside what it wraps.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Encrypts a key under this one, bound to its name: it opens under no other name and no other master key.
    ///
    /// The nonce is random, so one master key wraps up to 2^32 keys (NIST SP 800-38D, 8.3).
    ///
    /// # Panics
    /// Never: AES-GCM encrypts up to 64 GiB.
    #[must_use]
    pub fn wrap(&self, name: &str, key: &[u8]) -> Vec<u8> {
        let nonce = random::bytes::<NONCE_BYTES>();
        let sealed = cipher::encrypt(&self.wrapping, nonce, &self.bound_to(name), key);
        [&[FORM], &nonce[..], &sealed].concat()
    }

    /// Decrypts what [`Self::wrap`] made under this name.
    ///
    /// # Errors
    /// [`Error::Damaged`] when it is anything else.
    pub fn unwrap(&self, name: &str, wrapped: &[u8]) -> Result<Zeroizing<Vec<u8>>, Error> {
        let open = || {
            let (nonce, sealed) = wrapped.strip_prefix(&[FORM])?.split_first_chunk::<NONCE_BYTES>()?;
            cipher::decrypt(&self.wrapping, *nonce, &self.bound_to(name), sealed)
        };
        open().ok_or_else(|| Error::Damaged { name: name.to_owned(), master_key_id: self.id.clone() })
    }

    /// The associated data: whose key it is and what for. The id has a fixed length, so no two pairs read the same.
    fn bound_to(&self, name: &str) -> Vec<u8> {
        format!("theazo wrapped key\n{}\n{name}", self.id).into_bytes()
    }
}

impl fmt::Debug for Master {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without the key.
        formatter.debug_struct("Master").field("id", &self.id).finish_non_exhaustive()
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hex = self.hex.as_ref().map(|_| "…");
        formatter
            .debug_struct("Source")
            .field("hex", &hex)
            .field("file", &self.file)
            .field("own_dir", &self.own_dir)
            .field("previous_hex", &self.previous_hex.as_ref().map(|_| "…"))
            .field("previous_file", &self.previous_file)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use proptest::prelude::*;

    use super::*;

    const HEX: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";

    fn master(hex: &str) -> Result<Master, Error> {
        Master::from_hex(hex, "a test")
    }

    fn scratch(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("theazo-master-{name}-{}", std::process::id()));
        private_file::make_dir(&dir).unwrap();
        dir
    }

    #[test]
    fn a_master_key_has_a_fingerprint_that_never_changes() {
        assert_eq!(master(HEX).unwrap().id(), master(&HEX.to_uppercase()).unwrap().id());
        assert_eq!(master(&format!("{HEX}\n")).unwrap().id(), "mk_c48d2f6193b4a85b");
    }

    #[test]
    fn a_malformed_or_weak_master_key_is_refused() {
        for text in ["", "00", &HEX[1..], &format!("{HEX}00"), &HEX.replace('0', "x"), &format!("0x{HEX}")] {
            assert!(matches!(master(text), Err(Error::Malformed { .. })), "{text}");
        }
        for text in ["00".repeat(32), "ff".repeat(32), "Aa".repeat(32)] {
            assert!(matches!(master(&text), Err(Error::Weak { .. })), "{text}");
        }
    }

    #[test]
    fn two_master_keys_or_none_are_refused() {
        let both =
            Source { hex: Some(HEX.to_owned().into()), file: Some("/nowhere".into()), ..Source::default() };
        assert!(matches!(both.find(None), Err(Error::Ambiguous)));
        assert!(matches!(Source::default().find(None), Err(Error::Missing)));
        let file = Source { file: Some("/nowhere".into()), ..Source::default() };
        assert!(matches!(file.find(None), Err(Error::File { .. })));
        assert!(!format!("{both:?}").contains(HEX), "a source never shows its key");
    }

    #[test]
    fn a_server_with_its_own_database_makes_its_master_key_once() {
        let dir = scratch("made");
        let source = Source { own_dir: Some(dir.clone()), ..Source::default() };
        let made = source.find(None).unwrap();
        assert_eq!(source.find(None).unwrap().id(), made.id());
        assert_eq!(source.find(Some(made.id())).unwrap().id(), made.id());
        let mode = dir.join(FILE_NAME).metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn a_new_master_key_lies_beside_the_old_until_it_takes_its_place() {
        let dir = scratch("next");
        let source = Source { own_dir: Some(dir.clone()), ..Source::default() };
        let old = source.find(None).unwrap();
        let new = source.next(old.id()).unwrap();
        assert_eq!(source.next(old.id()).unwrap().id(), new.id(), "it is made once");
        let ids = |source: &Source| -> Vec<String> {
            source.find_all(Some(old.id())).unwrap().iter().map(|master| master.id().to_owned()).collect()
        };
        assert_eq!(ids(&source), [old.id(), new.id()]);
        let other = source.settle(old.id());
        assert!(
            matches!(other, Err(Error::WrongMaster { .. })),
            "only what wraps everything takes that place"
        );
        assert_eq!(ids(&source), [old.id(), new.id()]);
        source.settle(new.id()).unwrap();
        assert_eq!(ids(&source), [new.id()]);
        source.settle(new.id()).unwrap();
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn a_data_directory_is_locked_for_one_change_at_a_time() {
        let dir = scratch("locked");
        let source = Source { own_dir: Some(dir.clone()), ..Source::default() };
        let lock = source.lock().unwrap();
        assert!(lock.is_some() && matches!(source.lock(), Err(Error::Rotating)));
        drop(lock);
        source.lock().unwrap();
        assert!(Source::default().lock().unwrap().is_none(), "keys that are named are nobody's to write");
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn a_previous_master_key_must_be_a_good_one_too() {
        let previous = |hex: &str| Source {
            hex: Some(HEX.to_owned().into()),
            previous_hex: Some(hex.to_owned().into()),
            ..Source::default()
        };
        assert_eq!(previous(&HEX.replace("00", "ff")).find_all(None).unwrap().len(), 2);
        assert!(matches!(previous(&"00".repeat(32)).find_all(None), Err(Error::Weak { .. })));
        let both = Source { previous_file: Some("/nowhere".into()), ..previous(HEX) };
        assert!(matches!(both.find_all(None), Err(Error::AmbiguousPrevious)));
        assert!(!format!("{both:?}").contains(HEX), "a source never shows its keys");
    }

    #[test]
    fn a_lost_master_key_is_never_replaced_by_a_new_one() {
        let dir = scratch("lost");
        let source = Source { own_dir: Some(dir.clone()), ..Source::default() };
        let error = source.find(Some("mk_old")).unwrap_err();
        assert!(matches!(&error, Error::Lost { wrapped_by, .. } if wrapped_by == "mk_old"), "{error}");
        assert!(!dir.join(FILE_NAME).exists());
        std::fs::remove_dir_all(&dir).unwrap();
    }

    proptest! {
        #[test]
        fn what_is_wrapped_opens_under_its_name_and_key_only(
            key in proptest::array::uniform32(any::<u8>()),
            other in proptest::array::uniform32(any::<u8>()),
            name in "[a-z]{1,12}",
            secret in proptest::collection::vec(any::<u8>(), 0..80),
        ) {
            let (first, second) = (Master::new(&key.into()), Master::new(&other.into()));
            let wrapped = first.wrap(&name, &secret);
            prop_assert_eq!(&*first.unwrap(&name, &wrapped).unwrap(), &secret);
            let elsewhere = first.unwrap(&format!("{name}x"), &wrapped);
            prop_assert!(elsewhere.is_err());
            prop_assert_eq!(second.unwrap(&name, &wrapped).is_err(), key != other);
        }

        #[test]
        fn what_is_wrapped_and_then_changed_or_cut_does_not_open(
            secret in proptest::collection::vec(any::<u8>(), 0..80),
            place in any::<proptest::sample::Index>(),
            flip in 1..=255_u8,
        ) {
            let master = master(HEX).unwrap();
            let wrapped = master.wrap("pepper", &secret);
            let place = place.index(wrapped.len());
            let mut changed = wrapped.clone();
            changed[place] ^= flip;
            prop_assert!(master.unwrap("pepper", &changed).is_err());
            prop_assert!(master.unwrap("pepper", &wrapped[..place]).is_err());
        }
    }
}
