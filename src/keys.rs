//! The secrets of API keys: how they are made, told from garbage, and known again without being stored.
//!
//! A key is `th_live_` or `th_test_`, 32 base-62 characters of the system's randomness (190 bits), and 6 base-62
//! characters of the CRC-32 of all that precedes. The checksum keeps typing errors and other vendors' tokens from
//! the database, and lets scanners of leaked secrets be sure; it protects nothing.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use theazo_domain::organization::Mode;
use zeroize::Zeroizing;

use crate::random;
use crate::vault::Key;

/// The secret of an API key: shown once, wiped from memory when it is dropped.
pub type Secret = Zeroizing<String>;

const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
const RANDOM_CHARACTERS: usize = 32;
const CHECKSUM_CHARACTERS: usize = 6;
/// How long every key is, in bytes.
pub const LENGTH: usize = "th_live_".len() + RANDOM_CHARACTERS + CHECKSUM_CHARACTERS;

/// A new secret for a key of this mode.
#[must_use]
pub fn generate(mode: Mode) -> Secret {
    // Written into its full capacity, so that no shorter copy of it is left behind in memory.
    let mut secret = Zeroizing::new(String::with_capacity(LENGTH));
    secret.push_str(prefix(mode));
    while secret.len() < LENGTH - CHECKSUM_CHARACTERS {
        let drawn = Zeroizing::new(random::bytes::<64>());
        // Bytes from 248 on are drawn again: 62 does not divide 256, and every character shall be as likely.
        let even = drawn.iter().filter(|byte| **byte < 248).map(|byte| ALPHABET[usize::from(byte % 62)]);
        let missing = LENGTH - CHECKSUM_CHARACTERS - secret.len();
        secret.extend(even.take(missing).map(char::from));
    }
    let checksum = checksum(secret.as_bytes());
    secret.extend(checksum.map(char::from));
    secret
}

/// The mode of a key that is spelled as keys are, its checksum included; `None` for anything else.
#[must_use]
pub fn is_well_formed(secret: &str) -> Option<Mode> {
    let mode = [Mode::Live, Mode::Test].into_iter().find(|mode| secret.starts_with(prefix(*mode)))?;
    let alphanumeric = secret[prefix(mode).len()..].bytes().all(|byte| byte.is_ascii_alphanumeric());
    if secret.len() != LENGTH || !alphanumeric {
        return None;
    }
    let (body, sum) = secret.as_bytes().split_at(LENGTH - CHECKSUM_CHARACTERS);
    (checksum(body) == sum).then_some(mode)
}

/// What is stored of a key, and what it is found by: HMAC-SHA-256 under the server's pepper, in lower-case hex.
#[must_use]
pub fn digest(pepper: &Key, secret: &str) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(&pepper[..]).expect("HMAC takes keys of any length");
    mac.update(secret.as_bytes());
    hex::encode(mac.finalize().into_bytes())
}

/// The last four characters, by which people know a key again.
#[must_use]
pub fn last_four(secret: &str) -> &str {
    secret.get(secret.len().saturating_sub(4)..).unwrap_or_default()
}

const fn prefix(mode: Mode) -> &'static str {
    match mode {
        Mode::Live => "th_live_",
        Mode::Test => "th_test_",
    }
}

/// The CRC-32 (IEEE) in base 62, most significant digit first; 62⁶ is more than 2³².
fn checksum(body: &[u8]) -> [u8; CHECKSUM_CHARACTERS] {
    let mut rest = u64::from(crc32fast::hash(body));
    let mut digits = [b'0'; CHECKSUM_CHARACTERS];
    for digit in digits.iter_mut().rev() {
        *digit = ALPHABET[usize::try_from(rest % 62).expect("less than 62")];
        rest /= 62;
    }
    digits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_key_is_well_formed_in_its_own_mode() {
        for mode in [Mode::Live, Mode::Test] {
            let secret = generate(mode);
            assert_eq!(is_well_formed(&secret), Some(mode));
            assert_eq!(secret.len(), LENGTH);
        }
    }

    #[test]
    fn a_key_with_any_character_changed_is_not_well_formed() {
        let secret = generate(Mode::Live);
        for index in 0..secret.len() {
            let mut bytes = secret.as_bytes().to_vec();
            bytes[index] = if bytes[index] == b'a' { b'b' } else { b'a' };
            assert_eq!(is_well_formed(std::str::from_utf8(&bytes).unwrap()), None);
        }
        for other in ["", "th_live_", "th_live_é", &secret[1..], &secret[..LENGTH - 1]] {
            assert_eq!(is_well_formed(other), None);
        }
    }

    #[test]
    fn the_digest_depends_on_the_pepper_and_on_every_character() {
        let (one, other) = (Key::new([1; 32]), Key::new([2; 32]));
        assert_ne!(digest(&one, "th_live_a"), digest(&other, "th_live_a"));
        assert_ne!(digest(&one, "th_live_a"), digest(&one, "th_live_b"));
        assert_eq!(last_four("th_live_abcd"), "abcd");
    }
}
