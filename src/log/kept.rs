//! The answers that are kept for idempotency keys: encrypted, since some show a secret once.

use super::{Answer, TenantId};
use crate::random;
use crate::vault::{self, Key, NONCE_BYTES};

/// What binds a kept answer to its row, so that rows cannot be swapped.
fn bound_to(tenant: TenantId, key_digest: &[u8]) -> Vec<u8> {
    [&tenant.0.to_be_bytes(), key_digest].concat()
}

/// Encrypts an answer with AES-256-GCM: a random nonce, then status and body under it.
pub(super) fn seal(key: &Key, tenant: TenantId, key_digest: &[u8], answer: &Answer) -> Vec<u8> {
    let nonce = random::bytes::<NONCE_BYTES>();
    let plain = [&answer.status.to_be_bytes()[..], &answer.body].concat();
    let sealed = vault::encrypt(key, nonce, &bound_to(tenant, key_digest), &plain);
    [&nonce[..], &sealed].concat()
}

/// Decrypts an answer; `None` when it was not sealed by this key for this row.
pub(super) fn open(key: &Key, tenant: TenantId, key_digest: &[u8], sealed: &[u8]) -> Option<Answer> {
    let (nonce, sealed) = sealed.split_first_chunk::<NONCE_BYTES>()?;
    let plain = vault::decrypt(key, *nonce, &bound_to(tenant, key_digest), sealed)?;
    let (status, body) = plain.split_first_chunk::<2>()?;
    Some(Answer { status: u16::from_be_bytes(*status), body: body.to_vec() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_opens_in_its_own_row_only() {
        let key = Key::new([7; 32]);
        let answer = Answer { status: 201, body: b"{}".to_vec() };
        let sealed = seal(&key, TenantId(1), &[1; 32], &answer);
        assert_eq!(open(&key, TenantId(1), &[1; 32], &sealed), Some(answer));
        assert_eq!(open(&key, TenantId(2), &[1; 32], &sealed), None);
        assert_eq!(open(&key, TenantId(1), &[2; 32], &sealed), None);
        assert_eq!(open(&Key::new([8; 32]), TenantId(1), &[1; 32], &sealed), None);
        for index in 0..sealed.len() {
            let mut flipped = sealed.clone();
            flipped[index] ^= 1;
            assert_eq!(open(&key, TenantId(1), &[1; 32], &flipped), None);
        }
    }
}
