//! The vault: the master key, and what is wrapped by it.

mod cipher;
mod master;
mod masters;
mod plaintext;
/// Masking secrets in texts.
pub mod redact;
mod rotate;
/// Sealing what a caller confides, under a key of its own.
pub mod sealed;
mod server_keys;

use std::path::PathBuf;

use zeroize::Zeroizing;

pub(crate) use cipher::{NONCE_BYTES, TAG_BYTES, decrypt, encrypt};
pub use master::{FILE_NAME, Master, Source};
pub use masters::Masters;
pub use plaintext::{Plaintext, json};
pub use rotate::{Rotated, rotate};
pub use sealed::{Address, Sealed};
pub use server_keys::{ServerKeys, master_key_id};

/// 32 random bytes that are wiped from memory when they are dropped.
pub type Key = Zeroizing<[u8; 32]>;

/// Why the vault does not open.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Both ways of naming a master key were used.
    #[error("THEAZO_MASTER_KEY and THEAZO_MASTER_KEY_FILE are both set: keep one of them")]
    Ambiguous,
    /// Both ways of naming a previous master key were used.
    #[error("THEAZO_MASTER_KEY_PREVIOUS and THEAZO_MASTER_KEY_PREVIOUS_FILE are both set: keep one of them")]
    AmbiguousPrevious,
    /// No master key was named, and the database is not the server's own.
    #[error(
        "a master key is needed: set THEAZO_MASTER_KEY (32 bytes in hex, as `openssl rand -hex 32` prints them) or \
         THEAZO_MASTER_KEY_FILE. Keep it: what it wraps cannot be read without it"
    )]
    Missing,
    /// The master key of the server's own database is gone.
    #[error(
        "{} is missing, and the keys in the database are wrapped by the master key {wrapped_by}: restore that file, or \
         name the key by THEAZO_MASTER_KEY or THEAZO_MASTER_KEY_FILE", path.display()
    )]
    Lost {
        /// Where the master key was.
        path: PathBuf,
        /// The fingerprint of the master key that is needed.
        wrapped_by: String,
    },
    /// The text is not 32 bytes in hex.
    #[error("the master key in {origin} must be 64 hexadecimal digits (32 bytes), and is not")]
    Malformed {
        /// Where the text was found.
        origin: String,
    },
    /// Anybody could guess it.
    #[error("the master key in {origin} is one byte repeated: make a random one with `openssl rand -hex 32`")]
    Weak {
        /// Where the text was found.
        origin: String,
    },
    /// The master key's file could not be read or written.
    #[error("the master key's file {}: {source}", path.display())]
    File {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The keys of this database are wrapped by another master key.
    #[error(
        "what is in the database is wrapped by the master key {wrapped_by}, and the one given is {given}: name the \
         one that is needed by THEAZO_MASTER_KEY_PREVIOUS (or _FILE) too"
    )]
    WrongMaster {
        /// The fingerprint of the master key that is needed.
        wrapped_by: String,
        /// The fingerprint of the one that was given.
        given: String,
    },
    /// What is wrapped was changed, or cut, or stands under another name.
    #[error("the wrapped key `{name}` is damaged: it does not open under the master key {master_key_id}")]
    Damaged {
        /// The wrapped key's name.
        name: String,
        /// The fingerprint of the master key.
        master_key_id: String,
    },
    /// Somebody else is changing the master key.
    #[error(
        "another `theazo secret rotate-master` is changing the master key at this moment: nothing was done; wait for \
         its end, or end it, and run this again"
    )]
    Rotating,
    /// Somebody else has changed the master key since this change of it began.
    #[error(
        "the master key {active} has become the active one meanwhile, so wrapping by {to} was given up: nothing is \
         lost; keep every master key until a `theazo secret rotate-master` has come to its end"
    )]
    Superseded {
        /// The fingerprint of the master key that everything was to be wrapped by.
        to: String,
        /// The fingerprint of the active one.
        active: String,
    },
    /// Something was left, and no master key was taken away.
    #[error("{left} values are still wrapped by another master key: run this again")]
    Unfinished {
        /// How many values.
        left: i64,
    },
    /// The database failed.
    #[error(transparent)]
    Database(#[from] crate::database::Error),
}

impl From<tokio_postgres::Error> for Error {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Database(error.into())
    }
}
