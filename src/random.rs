//! Randomness and new ids, from the operating system's generator.

use theazo_domain::time::Timestamp;
use ulid::Ulid;

/// Bytes that nobody can foresee.
///
/// # Panics
/// When the operating system has no randomness to give, which leaves no safe way on.
#[must_use]
pub fn bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the operating system gives randomness");
    bytes
}

/// A ULID of this moment. Its random part is drawn anew each time, never counted up: ids can be access tokens.
#[must_use]
pub fn ulid(now: Timestamp) -> Ulid {
    let random = bytes::<16>();
    Ulid::from_parts(u64::try_from(now.millis()).unwrap_or_default(), u128::from_ne_bytes(random))
}
