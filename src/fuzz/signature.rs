//! What stands in the headers of a request to a webhook trigger.

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use theazo_domain::time::Timestamp;

use crate::config;
use crate::http::signature::{Accepts, Headers, ID, PLAIN, Proved, Refusal, SIGNATURE, Secret, TIMESTAMP};

/// The secret of an example of Standard Webhooks, which requests of the corpus are signed with, and the time of it.
const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const NOW_S: i64 = 1_614_265_330;
/// The headers that matter, in the order in which they are looked for.
const NAMES: [&str; 4] = [PLAIN, ID, TIMESTAMP, SIGNATURE];
/// A line of a header: its name, as it stands there, and its value.
type Line<'a> = (&'a [u8], HeaderValue);

/// A request as HTTP has it: lines of headers, an empty line, and the body. A header that matters is found if it is there
/// once, and the request proves what the words of the contract say, and no more. What is signed here verifies, and with
/// any of it changed does not.
pub fn signature(bytes: &[u8]) {
    let secret = Secret::new(SECRET.to_owned().into()).expect("it is a secret");
    let now = Timestamp::from_millis(NOW_S * 1_000);
    let (lines, body) = request(bytes);
    let values = NAMES.map(|name| {
        let of_name = lines.iter().filter(|(other, _)| other.eq_ignore_ascii_case(name.as_bytes()));
        of_name.map(|(_, value)| value.as_bytes()).collect::<Vec<_>>()
    });
    let repeated = NAMES.into_iter().zip(&values).find(|(_, values)| values.len() > 1);
    match Headers::of(&map(&lines)) {
        Err(refusal) => assert_eq!(Some(refusal), repeated.map(|(name, _)| Refusal::Repeated(name))),
        Ok(headers) => {
            assert!(repeated.is_none(), "{lines:?}");
            let expected = proved(values.map(|values| values.first().copied()), body);
            let either = secret.verify(&headers, body, Accepts::Either, now);
            assert_eq!(either.ok(), expected, "{lines:?}");
            let standard = secret.verify(&headers, body, Accepts::StandardWebhooks, now);
            assert_eq!(standard.ok(), expected.filter(|proved| *proved != Proved::Body), "{lines:?}");
        }
    }
    check_signed(&secret, bytes, now);
}

/// The lines of headers that HTTP allows, as many as the server reads, before the first empty line; and what follows it.
fn request(bytes: &[u8]) -> (Vec<Line<'_>>, &[u8]) {
    let (mut lines, mut rest) = (vec![], bytes);
    while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
        let line = rest[..end].trim_ascii_end();
        rest = &rest[end + 1..];
        if line.is_empty() {
            return (lines, rest);
        }
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { continue };
        let (name, value) = (&line[..colon], HeaderValue::from_bytes(line[colon + 1..].trim_ascii()));
        if let (Ok(_), Ok(value)) = (HeaderName::from_bytes(name), value)
            && lines.len() < config::HEADERS
        {
            lines.push((name, value));
        }
    }
    (lines, &[])
}

fn map(lines: &[Line<'_>]) -> HeaderMap {
    let name = |name| HeaderName::from_bytes(name).expect("it is a name");
    let mut map = HeaderMap::new();
    for (of, value) in lines {
        map.append(name(of), value.clone());
    }
    map
}

/// What the values of the four headers prove of a body.
fn proved([plain, id, timestamp, signature]: [Option<&[u8]>; 4], body: &[u8]) -> Option<Proved> {
    if id.or(timestamp).or(signature).is_none() {
        let digits = plain?.strip_prefix(b"sha256=")?.to_ascii_lowercase();
        let right = hex::encode(hmac(SECRET.as_bytes(), &[body]));
        return (digits == right.as_bytes()).then_some(Proved::Body);
    }
    let (id, timestamp, signature) = (id?, timestamp?, signature?);
    let is_id = (1..=config::WEBHOOK_ID_BYTES).contains(&id.len())
        && id.iter().all(|byte| (b'!'..=b'~').contains(byte) && *byte != b'.');
    let sent_s = (NOW_S - 300..=NOW_S + 300).find(|second| second.to_string().as_bytes() == timestamp)?;
    let key = STANDARD.decode(&SECRET[6..]).expect("it is base64");
    let right = format!("v1,{}", STANDARD.encode(hmac(&key, &[id, b".", timestamp, b".", body])));
    let listed: Vec<&[u8]> = signature.split(|byte| *byte == b' ').filter(|one| !one.is_empty()).collect();
    let is_signed = listed.len() <= config::WEBHOOK_SIGNATURES && listed.contains(&right.as_bytes());
    let id = String::from_utf8(id.to_vec()).ok()?;
    (is_id && is_signed).then_some(Proved::Sent { id, at: Timestamp::from_millis(sent_s * 1_000) })
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

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn the_corpus_has_a_request_for_all_that_can_come_of_headers() {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/signature");
        let secret = Secret::new(SECRET.to_owned().into()).unwrap();
        let now = Timestamp::from_millis(NOW_S * 1_000);
        let of_file = |file: std::io::Result<std::fs::DirEntry>| {
            let bytes = std::fs::read(file.unwrap().path()).unwrap();
            let (lines, body) = request(&bytes);
            secret.verify(&Headers::of(&map(&lines))?, body, Accepts::Either, now)
        };
        let came: Vec<_> = std::fs::read_dir(corpus).unwrap().map(of_file).collect();
        for name in NAMES {
            assert!(came.contains(&Err(Refusal::Repeated(name))), "{name}");
            assert!(came.contains(&Err(Refusal::Malformed(name))), "{name}");
        }
        for refusal in [Refusal::Unsigned, Refusal::Stale, Refusal::Wrong] {
            assert!(came.contains(&Err(refusal)), "{refusal}");
        }
        assert!(came.contains(&Ok(Proved::Body)));
        assert!(came.iter().any(|came| matches!(came, Ok(Proved::Sent { .. }))));
    }
}
