//! What the sender of a webhook trigger signs, and whether a request is by someone who knows the trigger's secret.
//!
//! There are two ways to sign. Either `X-Theazo-Signature` is `sha256=` and the HMAC-SHA-256 of the body in hex, under
//! the bytes of the whole secret, its `whsec_` included. Or the request is signed as
//! [Standard Webhooks](https://www.standardwebhooks.com) has it, under the bytes that are base64 after `whsec_`: then
//! the signature holds for an id and a time as well, so that a request that is sent again can be told. Where a request
//! has a header of Standard Webhooks, these alone decide.

use axum::http::HeaderMap;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use subtle::{Choice, ConstantTimeEq};
use theazo_domain::time::Timestamp;
use zeroize::Zeroizing;

use crate::providers::compute::webhook::{InvalidSecret, SigningKey};
use crate::vault::Plaintext;
use crate::{config, random};

/// The header of a signature of the body alone.
pub const PLAIN: &str = "x-theazo-signature";
/// The header of the id of what is sent, in Standard Webhooks.
pub const ID: &str = "webhook-id";
/// The header of when it was sent, in seconds since 1970, in Standard Webhooks.
pub const TIMESTAMP: &str = "webhook-timestamp";
/// The header of the signatures, with a space between them, in Standard Webhooks.
pub const SIGNATURE: &str = "webhook-signature";

/// What a secret of a trigger begins with.
const PREFIX: &str = "whsec_";
/// What the value of a signature of the body alone begins with.
const PLAIN_MARK: &str = "sha256=";
/// Bytes of a new secret: Standard Webhooks wants 24 to 64.
const RANDOM_BYTES: usize = 32;

/// The secret of a trigger, shared with whoever sends to it. It is wiped from memory when it is dropped, and not shown.
pub struct Secret {
    text: Plaintext,
    key: SigningKey,
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Secret(…)")
    }
}

/// The headers of a request that say who has signed it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Headers<'a> {
    /// The value of [`PLAIN`].
    pub plain: Option<&'a [u8]>,
    /// The value of [`ID`].
    pub id: Option<&'a [u8]>,
    /// The value of [`TIMESTAMP`].
    pub timestamp: Option<&'a [u8]>,
    /// The value of [`SIGNATURE`].
    pub signature: Option<&'a [u8]>,
}

/// Which signatures a trigger takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accepts {
    /// Both kinds.
    Either,
    /// Those of Standard Webhooks only.
    StandardWebhooks,
}

/// What a signature has proved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Proved {
    /// That the body was made by someone who knows the secret, at any time.
    Body,
    /// That it was also sent under this id at this time, which lies within the tolerance.
    Sent {
        /// The same each time the sender sends it: what a replay is found by.
        id: String,
        /// When, to the second.
        at: Timestamp,
    },
}

/// Why a request is not taken for the sender's. To the caller all are the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// There is no signature, or none of the kind that the trigger takes, or a part of it is missing.
    #[error("the request is not signed as its trigger demands")]
    Unsigned,
    /// A header is there twice, so that nobody can say which was meant.
    #[error("the header {0} is there more than once")]
    Repeated(&'static str),
    /// A header is not written as it has to be.
    #[error("the header {0} is not written as it has to be")]
    Malformed(&'static str),
    /// It was sent too long ago, or is said to be sent in the future.
    #[error("the request was not sent within {} s of now", config::WEBHOOK_TOLERANCE.as_secs())]
    Stale,
    /// Whoever signed it does not know the secret, or it was changed on its way.
    #[error("the signature is wrong")]
    Wrong,
}

impl<'a> Headers<'a> {
    /// Finds them among the headers of a request.
    ///
    /// # Errors
    /// [`Refusal::Repeated`].
    pub fn of(headers: &'a HeaderMap) -> Result<Self, Refusal> {
        let one = |name| {
            let mut values = headers.get_all(name).iter().map(|value| value.as_bytes());
            let value = values.next();
            if values.next().is_none() { Ok(value) } else { Err(Refusal::Repeated(name)) }
        };
        Ok(Self { plain: one(PLAIN)?, id: one(ID)?, timestamp: one(TIMESTAMP)?, signature: one(SIGNATURE)? })
    }
}

impl Secret {
    /// A new secret, which nobody can foresee.
    #[must_use]
    pub fn generate() -> Self {
        let drawn = Zeroizing::new(random::bytes::<RANDOM_BYTES>());
        // Written into its full capacity, so that no shorter copy of it is left behind in memory.
        let mut text = String::with_capacity(PREFIX.len() + RANDOM_BYTES.div_ceil(3) * 4);
        text.push_str(PREFIX);
        STANDARD.encode_string(&drawn[..], &mut text);
        Self::new(text.into()).expect("it is base64 after its prefix")
    }

    /// A secret that is known already.
    ///
    /// # Errors
    /// [`InvalidSecret`] when it is not base64 after `whsec_`.
    pub fn new(text: Plaintext) -> Result<Self, InvalidSecret> {
        if !text.starts_with(PREFIX) {
            return Err(InvalidSecret::Encoding);
        }
        Ok(Self { key: SigningKey::of(&text)?, text })
    }

    /// The secret as its sender has to be told it.
    #[must_use]
    pub fn text(&self) -> &Plaintext {
        &self.text
    }

    /// The value of [`PLAIN`] for a body.
    #[must_use]
    pub fn sign_body(&self, body: &[u8]) -> String {
        format!("{PLAIN_MARK}{}", hex::encode(self.digest(body)))
    }

    /// The value of [`SIGNATURE`] for a body that is sent under an id at a time.
    #[must_use]
    pub fn sign_sent(&self, id: &str, at: Timestamp, body: &[u8]) -> String {
        self.key.sign(id, at.millis() / 1_000, body)
    }

    /// Finds out what the headers of a request prove of its body, the very bytes that came.
    ///
    /// # Errors
    /// [`Refusal`] when that is nothing, or not what the trigger demands.
    pub fn verify(
        &self,
        headers: &Headers<'_>,
        body: &[u8],
        accepts: Accepts,
        now: Timestamp,
    ) -> Result<Proved, Refusal> {
        match *headers {
            Headers { plain: Some(plain), id: None, timestamp: None, signature: None }
                if accepts == Accepts::Either =>
            {
                self.verify_body(plain, body)
            }
            Headers { id: Some(id), timestamp: Some(timestamp), signature: Some(signature), .. } => {
                let (id, sent_s) = (read_id(id)?, read_timestamp(timestamp, now)?);
                self.verify_sent(id, sent_s, signature, body)
            }
            _ => Err(Refusal::Unsigned),
        }
    }

    fn verify_body(&self, plain: &[u8], body: &[u8]) -> Result<Proved, Refusal> {
        let mut claimed = [0; 32];
        let digits = plain.strip_prefix(PLAIN_MARK.as_bytes()).ok_or(Refusal::Malformed(PLAIN))?;
        hex::decode_to_slice(digits, &mut claimed).map_err(|_| Refusal::Malformed(PLAIN))?;
        if self.digest(body).ct_eq(&claimed).into() { Ok(Proved::Body) } else { Err(Refusal::Wrong) }
    }

    fn verify_sent(&self, id: &str, sent_s: i64, list: &[u8], body: &[u8]) -> Result<Proved, Refusal> {
        let signatures = list.split(|byte| *byte == b' ').filter(|signature| !signature.is_empty());
        if signatures.clone().nth(config::WEBHOOK_SIGNATURES).is_some() {
            return Err(Refusal::Malformed(SIGNATURE));
        }
        // One of another version is written otherwise, and equals it as little as a wrong one.
        let right = self.key.sign(id, sent_s, body);
        let is_right = |signature: &[u8]| right.as_bytes().ct_eq(signature);
        let found = signatures.fold(Choice::from(0), |found, signature| found | is_right(signature));
        let at = Timestamp::from_millis(sent_s * 1_000);
        if found.into() { Ok(Proved::Sent { id: id.to_owned(), at }) } else { Err(Refusal::Wrong) }
    }

    /// The HMAC-SHA-256 of a body under the bytes of the whole secret.
    fn digest(&self, body: &[u8]) -> [u8; 32] {
        let mut mac =
            Hmac::<Sha256>::new_from_slice(self.text.as_bytes()).expect("HMAC takes keys of any length");
        mac.update(body);
        mac.finalize().into_bytes().into()
    }
}

/// The id of what was sent. A full stop in it would be where the signed text goes on with the time, so that of one
/// signature others could be made: for a shorter id, and a body that begins with what is left.
fn read_id(id: &[u8]) -> Result<&str, Refusal> {
    let is_one = (1..=config::WEBHOOK_ID_BYTES).contains(&id.len())
        && id.iter().all(|byte| byte.is_ascii_graphic() && *byte != b'.');
    let id = std::str::from_utf8(id).ok().filter(|_| is_one);
    id.ok_or(Refusal::Malformed(ID))
}

/// When it was sent, in seconds since 1970: in decimal, and not far from now. The fractions of a second of now do not
/// count, for the time that was signed has none.
fn read_timestamp(timestamp: &[u8], now: Timestamp) -> Result<i64, Refusal> {
    let text = std::str::from_utf8(timestamp).map_err(|_| Refusal::Malformed(TIMESTAMP))?;
    let sent_s: i64 = text.parse().map_err(|_| Refusal::Malformed(TIMESTAMP))?;
    if sent_s < 0 || sent_s.to_string() != text {
        return Err(Refusal::Malformed(TIMESTAMP));
    }
    let distance_s = sent_s.abs_diff(now.millis() / 1_000);
    if distance_s <= config::WEBHOOK_TOLERANCE.as_secs() { Ok(sent_s) } else { Err(Refusal::Stale) }
}

#[cfg(test)]
mod tests;
