//! What stands in the headers of a request to a webhook trigger.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use theazo_domain::time::Timestamp;

use crate::config;
use crate::http::signature::{Accepts, Headers, Proved, Secret};

/// The secret of an example of Standard Webhooks, which requests of the corpus are signed with, and the time of it.
const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const NOW_S: i64 = 1_614_265_330;

/// The values of the four headers, a line each, where an empty one is a header that is not there, and a body. What
/// proves something does so by the words of the contract; what is signed here verifies, and with any of it changed
/// does not.
pub fn signature(bytes: &[u8]) {
    let secret = Secret::new(SECRET.to_owned().into()).expect("it is a secret");
    let now = Timestamp::from_millis(NOW_S * 1_000);
    let mut rest = bytes;
    let [plain, id, timestamp, signature] = [(); 4].map(|()| {
        let line = rest.split(|byte| *byte == b'\n').next().unwrap_or_default();
        rest = rest.get(line.len() + 1..).unwrap_or_default();
        Some(line).filter(|line| !line.is_empty())
    });
    let (headers, body) = (Headers { plain, id, timestamp, signature }, rest);
    let either = secret.verify(&headers, body, Accepts::Either, now);
    let standard = secret.verify(&headers, body, Accepts::StandardWebhooks, now);
    match &either {
        Ok(Proved::Body) => {
            assert!(standard.is_err() && id.or(timestamp).or(signature).is_none());
            let digits = plain.and_then(|plain| plain.strip_prefix(b"sha256=")).expect("it has its mark");
            assert_eq!(hex::decode(digits).expect("it is hex"), hmac(SECRET.as_bytes(), &[body]));
        }
        Ok(Proved::Sent { id: told, at }) => {
            let [id, timestamp, signature] =
                [id, timestamp, signature].map(|part| part.expect("it is there"));
            assert_eq!(told.as_bytes(), id);
            assert!((1..=config::WEBHOOK_ID_BYTES).contains(&id.len()) && !id.contains(&b'.'));
            assert_eq!((at.millis() / 1_000).to_string().as_bytes(), timestamp);
            assert!((at.millis() - now.millis()).abs() <= 300_000);
            let key = STANDARD.decode(&SECRET[6..]).expect("it is base64");
            let right = format!("v1,{}", STANDARD.encode(hmac(&key, &[id, b".", timestamp, b".", body])));
            assert!(signature.split(|byte| *byte == b' ').any(|signature| signature == right.as_bytes()));
            assert_eq!(standard, either);
        }
        Err(refusal) => assert!(standard.is_err(), "{refusal}"),
    }
    check_signed(&secret, bytes, now);
}

fn hmac(key: &[u8], parts: &[&[u8]]) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    parts.iter().for_each(|part| mac.update(part));
    mac.finalize().into_bytes().to_vec()
}

/// Signs a body in both ways and verifies it, as it is and with bytes of each part changed.
fn check_signed(secret: &Secret, body: &[u8], now: Timestamp) {
    let verify = |headers: Headers<'_>, body: &[u8]| secret.verify(&headers, body, Accepts::Either, now);
    let id = hex::encode(&body[..body.len().min(20)]) + "a";
    let (plain, sent) = (secret.sign_body(body), secret.sign_sent(&id, now, body));
    let timestamp = NOW_S.to_string();
    let parts = [plain.as_bytes(), id.as_bytes(), timestamp.as_bytes(), sent.as_bytes(), body];
    let by_body =
        |[plain, .., body]: [&[u8]; 5]| verify(Headers { plain: Some(plain), ..Headers::default() }, body);
    let by_sent = |[plain, id, timestamp, signature, body]: [&[u8]; 5]| {
        let [plain, id, timestamp, signature] = [plain, id, timestamp, signature].map(Some);
        verify(Headers { plain, id, timestamp, signature }, body)
    };
    assert_eq!(by_body(parts), Ok(Proved::Body));
    assert_eq!(by_sent(parts), Ok(Proved::Sent { id: id.clone(), at: now }));
    for (part, bytes) in parts.into_iter().enumerate() {
        // Not the bit that tells upper case from lower: hex may have either.
        for (place, mask) in [(0, 1), (bytes.len() / 2, 2), (bytes.len().saturating_sub(1), 8)] {
            let mut changed = bytes.to_vec();
            let Some(byte) = changed.get_mut(place) else { continue };
            *byte ^= mask;
            let mut parts = parts;
            parts[part] = &changed;
            assert!(!matches!(part, 0 | 4) || by_body(parts).is_err());
            assert!(part == 0 || by_sent(parts).is_err());
        }
    }
}
