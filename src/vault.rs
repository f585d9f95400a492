//! The server's own keys, random and wrapped by the master key.

use zeroize::Zeroizing;

/// 32 random bytes that are wiped from memory when they are dropped.
pub type Key = Zeroizing<[u8; 32]>;

/// The random keys that every server over one database shares (table `server_keys`), unwrapped.
pub struct ServerKeys {
    /// The pepper of API keys: their secrets are stored as HMAC-SHA-256 under it.
    pub pepper: Key,
    /// Encrypts the answers that are kept for idempotency keys, and digests those keys and their requests.
    pub answers: Key,
    /// Authenticates page cursors.
    pub cursors: Key,
}
