//! What is kept for idempotency keys: answers, encrypted, since some show a secret once, and that a key is held.

use theazo_domain::time::Timestamp;

use super::append::Kept;
use super::{Answer, Hold, Once, TenantId};
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

/// The status of what is kept in an answer's place while the work of the first request goes on.
const PROCESSING: u16 = 102;

/// What is kept in an answer's place: whose the key is, and until when at the longest.
pub(super) fn mark(hold: Hold, until: Timestamp) -> Answer {
    let Hold(whose) = hold;
    Answer { status: PROCESSING, body: [&whose[..], &until.millis().to_be_bytes()].concat() }
}

fn read_mark(answer: &Answer) -> Option<(Hold, Timestamp)> {
    let (whose, until_ms) = answer.body.split_first_chunk::<16>()?;
    let until_ms = i64::from_be_bytes(until_ms.try_into().ok()?);
    (answer.status == PROCESSING).then(|| (Hold(*whose), Timestamp::from_millis(until_ms)))
}

/// What is kept under an idempotency key, for a request that came with it.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// That it is held, by this very request or by one that was given up: as good as nothing.
    Lapsed,
    /// The answer to the first request.
    Answer(Answer),
    /// That the first request is under way.
    UnderWay,
    /// What belongs to another request.
    Foreign,
    /// What this server's key does not open.
    Unreadable,
}

impl Found {
    /// Reads what is kept.
    pub(super) fn of(key: &Key, tenant: TenantId, once: &Once, kept: &Kept, now: Timestamp) -> Self {
        let Some(answer) = open(key, tenant, &once.key_digest, &kept.answer) else { return Self::Unreadable };
        let mark = read_mark(&answer);
        match mark {
            Some((hold, until)) if once.hold == Some(hold) || until <= now => Self::Lapsed,
            _ if kept.fingerprint != once.fingerprint => Self::Foreign,
            Some(_) => Self::UnderWay,
            None => Self::Answer(answer),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_its_holders_until_it_lapses_and_then_anybodys() {
        let (key, tenant) = (Key::new([7; 32]), TenantId(1));
        let once = |fingerprint, hold: Option<u8>| Once {
            key: "k".to_owned(),
            key_digest: [1; 32],
            fingerprint: [fingerprint; 32],
            hold: hold.map(|whose| Hold([whose; 16])),
        };
        let at = Timestamp::from_millis;
        let kept =
            |answer: &Answer| Kept { fingerprint: vec![1; 32], answer: seal(&key, tenant, &[1; 32], answer) };
        let held = kept(&mark(Hold([1; 16]), at(10)));
        let found = |once: &Once, now| Found::of(&key, tenant, once, &held, at(now));
        assert_eq!(found(&once(1, Some(1)), 9), Found::Lapsed);
        assert_eq!(found(&once(1, Some(2)), 9), Found::UnderWay);
        assert_eq!(found(&once(1, None), 9), Found::UnderWay);
        assert_eq!(found(&once(2, None), 9), Found::Foreign);
        assert_eq!((found(&once(1, None), 10), found(&once(2, None), 10)), (Found::Lapsed, Found::Lapsed));
        let answer = Answer { status: 201, body: vec![0; 24] };
        let found = |once: &Once| Found::of(&key, tenant, once, &kept(&answer), at(9));
        assert_eq!(found(&once(1, Some(1))), Found::Answer(answer.clone()));
        assert_eq!(found(&once(2, None)), Found::Foreign);
    }

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
