//! Compute of the customer's own, over a small protocol of ours: `docs/webhook-compute.md`.
//!
//! Each call is a POST of JSON, signed in the manner of Standard Webhooks (<https://www.standardwebhooks.com>). Its id
//! stays the same when the call is made again, so that the receiver can tell a repetition from a second wish. It was
//! tested against the receiver in `tests/it/support/vendors/webhook.rs`, which holds the document to the letter.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use hyper::body::Bytes;
use reqwest::Method;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use serde::de::{DeserializeOwned, IgnoredAny};
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use theazo_domain::id::AgentId;
use url::Url;
use zeroize::Zeroizing;

use super::api::{Answer, Api, Manner};
use super::{
    Compute, End, Error, FileContent, FileEntry, Finished, Handle, Language, New, Paused, Program, check_path,
};
use crate::clock::Clock;
use crate::providers::client::{Call, Client};
use crate::{config, random, vault};

/// Where a receiver's errors say why.
const REASON: &str = "/error/message";

/// Compute behind a webhook.
pub struct Webhook {
    api: Api,
    url: Url,
    key: SigningKey,
    clock: Arc<dyn Clock>,
}

/// The key that calls are signed with. It is wiped from memory when it is dropped, and not shown.
#[derive(Clone, PartialEq, Eq)]
pub struct SigningKey(Zeroizing<Vec<u8>>);

/// A secret that no key can be made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSecret {
    /// There is nothing in it.
    #[error("must not be empty")]
    Empty,
    /// It begins as a secret of Standard Webhooks and does not go on as one.
    #[error("must be base64 after whsec_")]
    Encoding,
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("SigningKey(…)")
    }
}

impl SigningKey {
    /// The key of a secret: what is base64 after `whsec_`, as Standard Webhooks has it, or else the secret's bytes.
    ///
    /// # Errors
    /// [`InvalidSecret`].
    pub fn of(secret: &str) -> Result<Self, InvalidSecret> {
        let key = match secret.strip_prefix("whsec_") {
            Some(encoded) => STANDARD.decode(encoded).map_err(|_| InvalidSecret::Encoding)?,
            None => secret.as_bytes().to_vec(),
        };
        if key.is_empty() { Err(InvalidSecret::Empty) } else { Ok(Self(Zeroizing::new(key))) }
    }

    /// The value of `webhook-signature` for a message.
    #[must_use]
    pub fn sign(&self, id: &str, timestamp_s: i64, body: &[u8]) -> String {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).expect("HMAC takes keys of every length");
        mac.update(format!("{id}.{timestamp_s}.").as_bytes());
        mac.update(body);
        format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
    }
}

impl Webhook {
    /// Compute at this address, reached through the client for addresses that customers name.
    ///
    /// # Errors
    /// [`InvalidSecret`].
    pub fn new(
        client: Client,
        url: Url,
        secret: Zeroizing<String>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, InvalidSecret> {
        let key = SigningKey::of(&secret)?;
        Ok(Self { api: Api::new(client, secret), url, key, clock })
    }

    /// Asks for something within the usual time.
    async fn ask<A: DeserializeOwned>(&self, kind: &str, data: impl Serialize + Sync) -> Result<A, Error> {
        self.ask_within(Manner::REPEATABLE, kind, data).await
    }

    async fn ask_within<A: DeserializeOwned>(
        &self,
        manner: Manner,
        kind: &str,
        data: impl Serialize + Sync,
    ) -> Result<A, Error> {
        let now = self.clock.now();
        let message = Message { kind, timestamp: now.to_string(), data };
        let body = Bytes::from_owner(vault::json(0, &message).expect("the message is JSON"));
        let id = format!("msg_{}", random::ulid(now));
        let answer = self.api.call(manner, || self.signed(&id, body.clone())).await?;
        if answer.status.is_success() { answer.json() } else { Err(self.refusal(&answer)) }
    }

    /// The call as it is at this moment: an attempt that is made later is signed anew.
    fn signed(&self, id: &str, body: Bytes) -> Call {
        let timestamp_s = self.clock.now().millis() / 1_000;
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        for (name, value) in [
            ("webhook-id", id.to_owned()),
            ("webhook-timestamp", timestamp_s.to_string()),
            ("webhook-signature", self.key.sign(id, timestamp_s, &body)),
        ] {
            let value = HeaderValue::from_str(&value).expect("ids, numbers and base64 fit in headers");
            headers.insert(HeaderName::from_static(name), value);
        }
        Call { method: Method::POST, url: self.url.clone(), headers, body }
    }

    fn refusal(&self, answer: &Answer) -> Error {
        #[derive(Deserialize)]
        struct Refusal {
            error: Code,
        }
        #[derive(Deserialize)]
        struct Code {
            code: String,
        }
        let reason = self.api.reason(answer, REASON);
        let told: Option<Refusal> = serde_json::from_slice(&answer.body).ok();
        match told.as_ref().map(|told| told.error.code.as_str()) {
            Some("gone") => Error::Gone,
            Some("path") => Error::Path(reason),
            Some("unsupported") => Error::Unsupported(reason),
            Some("unavailable" | "in_progress") => Error::Unavailable(reason),
            Some("refused") => Error::Refused(reason),
            _ => self.api.refusal(answer, REASON),
        }
    }
}

/// What is sent.
#[derive(Serialize)]
struct Message<'a, D> {
    #[serde(rename = "type")]
    kind: &'a str,
    timestamp: String,
    data: D,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Wanted<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    sandbox: Option<&'a str>,
    agent_id: String,
    session_id: String,
    browser: bool,
    lifetime_seconds: u64,
}

impl<'a> Wanted<'a> {
    fn of(handle: Option<&'a Handle>, sandbox: &New) -> Self {
        Self {
            sandbox: handle.map(|handle| handle.0.as_str()),
            agent_id: sandbox.agent_id.to_string(),
            session_id: sandbox.session_id.to_string(),
            browser: sandbox.browser,
            lifetime_seconds: sandbox.lifetime.as_secs(),
        }
    }
}

#[derive(Serialize)]
struct Which<'a> {
    sandbox: &'a str,
}

#[derive(Deserialize)]
struct Made {
    sandbox: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Run<'a> {
    sandbox: &'a str,
    language: &'static str,
    code: &'a str,
    environment: BTreeMap<&'a str, &'a str>,
    timeout_ms: u64,
    output_limit: usize,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Ran {
    stdout: String,
    stderr: String,
    exit_code: Option<i32>,
    signal: Option<i32>,
    #[serde(default)]
    timed_out: bool,
    #[serde(default)]
    truncated: bool,
    duration_ms: u64,
}

#[derive(Serialize)]
struct File<'a> {
    sandbox: &'a str,
    path: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    limit: Option<usize>,
}

#[derive(Deserialize)]
struct Read {
    content: String,
    #[serde(default)]
    truncated: bool,
}

#[derive(Deserialize)]
struct Listed {
    entries: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    name: String,
    #[serde(default)]
    folder: bool,
    #[serde(default)]
    size: u64,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Kept {
    sandbox: String,
    stored_bytes: u64,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Measured {
    stored_bytes: u64,
}

#[derive(Serialize)]
struct After<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    cursor: Option<&'a str>,
}

#[derive(Deserialize)]
struct Page {
    sandboxes: Vec<Held>,
    cursor: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Held {
    agent_id: String,
    sandbox: String,
}

#[async_trait]
impl Compute for Webhook {
    async fn create(&self, sandbox: &New) -> Result<Handle, Error> {
        let manner = Manner::REPEATABLE.within(config::COMPUTE_CREATE_DEADLINE);
        let made: Made = self.ask_within(manner, "sandbox.create", Wanted::of(None, sandbox)).await?;
        named(made.sandbox)
    }

    async fn run(&self, handle: &Handle, program: &Program) -> Result<Finished, Error> {
        let run = Run {
            sandbox: &handle.0,
            language: match program.language {
                Language::Python => "python",
                Language::TypeScript => "javascript",
                Language::Bash => "bash",
            },
            code: &program.code,
            environment: program
                .environment
                .iter()
                .map(|(name, value)| (name.as_str(), value.as_str()))
                .collect(),
            timeout_ms: u64::try_from(program.timeout.as_millis()).unwrap_or(u64::MAX),
            output_limit: program.output_limit,
        };
        // A byte of output may take six in JSON.
        let answer_bytes = program.output_limit * 12 + config::COMPUTE_ANSWER_BYTES;
        // Twice the time: what one attempt loses with its connection, the next one asks for again under its id.
        let deadline = (program.timeout + config::COMPUTE_RUN_GRACE) * 2;
        let manner = Manner { answer_bytes, deadline, repeatable: true };
        let ran: Ran = self.ask_within(manner, "sandbox.run", run).await?;
        finished(ran, program.output_limit)
    }

    async fn write_file(&self, handle: &Handle, path: &str, content: &[u8]) -> Result<(), Error> {
        check_path(path)?;
        let file = File { sandbox: &handle.0, path, content: Some(STANDARD.encode(content)), limit: None };
        self.ask("sandbox.write_file", file).await.map(|_: IgnoredAny| ())
    }

    async fn read_file(&self, handle: &Handle, path: &str, limit: usize) -> Result<FileContent, Error> {
        check_path(path)?;
        let file = File { sandbox: &handle.0, path, content: None, limit: Some(limit) };
        let manner = Manner { answer_bytes: limit * 2 + config::COMPUTE_ANSWER_BYTES, ..Manner::REPEATABLE };
        let read: Read = self.ask_within(manner, "sandbox.read_file", file).await?;
        let decoded = STANDARD.decode(&read.content);
        let mut bytes = decoded.map_err(|_| Error::Unavailable("its content is not base64".to_owned()))?;
        let truncated = read.truncated || bytes.len() > limit;
        bytes.truncate(limit);
        Ok(FileContent { bytes, truncated })
    }

    async fn list_files(&self, handle: &Handle, path: &str, limit: usize) -> Result<Vec<FileEntry>, Error> {
        check_path(path)?;
        let file = File { sandbox: &handle.0, path, content: None, limit: Some(limit) };
        let listed: Listed = self.ask("sandbox.list_files", file).await?;
        let entry = |entry: Entry| {
            let name = entry.name.trim_end_matches('/');
            if entry.folder {
                FileEntry { name: format!("{name}/"), size: 0 }
            } else {
                FileEntry { name: name.to_owned(), size: entry.size }
            }
        };
        let mut entries: Vec<FileEntry> = listed.entries.into_iter().map(entry).collect();
        entries.sort_by(|left, right| left.name.cmp(&right.name));
        entries.truncate(limit);
        Ok(entries)
    }

    async fn pause(&self, handle: &Handle) -> Result<Paused, Error> {
        let kept: Kept = self.ask("sandbox.pause", Which { sandbox: &handle.0 }).await?;
        Ok(Paused { handle: named(kept.sandbox)?, stored_bytes: kept.stored_bytes })
    }

    async fn resume(&self, handle: &Handle, sandbox: &New) -> Result<Handle, Error> {
        let manner = Manner::REPEATABLE.within(config::COMPUTE_CREATE_DEADLINE);
        let made: Made = self.ask_within(manner, "sandbox.resume", Wanted::of(Some(handle), sandbox)).await?;
        named(made.sandbox)
    }

    async fn terminate(&self, handle: &Handle) -> Result<(), Error> {
        match self.ask("sandbox.terminate", Which { sandbox: &handle.0 }).await {
            Ok(IgnoredAny) | Err(Error::Gone) => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn list(&self) -> Result<Vec<(AgentId, Handle)>, Error> {
        let (mut found, mut cursor) = (vec![], None::<String>);
        for _ in 0..config::COMPUTE_LIST_PAGES {
            let page: Page = self.ask("sandbox.list", After { cursor: cursor.as_deref() }).await?;
            for held in page.sandboxes {
                // A receiver may hold sandboxes of others; what is not named by an id of ours is none of ours.
                if let Ok(agent) = held.agent_id.parse() {
                    found.push((agent, Handle(held.sandbox)));
                }
            }
            cursor = page.cursor;
            if cursor.is_none() {
                return Ok(found);
            }
        }
        Err(Error::Unavailable("it lists more than can be taken in".to_owned()))
    }

    async fn stored_bytes(&self, handle: &Handle) -> Result<u64, Error> {
        let measured: Measured = self.ask("sandbox.measure", Which { sandbox: &handle.0 }).await?;
        Ok(measured.stored_bytes)
    }
}

/// The receiver's name of a sandbox, which the log has to hold to the letter.
fn named(sandbox: String) -> Result<Handle, Error> {
    if sandbox.contains('\0') {
        return Err(Error::Unavailable("its name of a sandbox holds a zero byte".to_owned()));
    }
    Ok(Handle(sandbox))
}

/// The end of a program, of which the receiver names exactly one.
fn finished(ran: Ran, limit: usize) -> Result<Finished, Error> {
    let end = match (ran.exit_code, ran.signal, ran.timed_out) {
        (Some(code), None, false) => End::Code(code),
        (None, Some(signal), false) => End::Signal(signal),
        (None, None, true) => End::TimedOut,
        _ => {
            let rule = "its answer must name one of exitCode, signal and timedOut";
            return Err(Error::Unavailable(rule.to_owned()));
        }
    };
    let cut = |mut text: String| {
        let end = text.floor_char_boundary(limit);
        let cut = end < text.len();
        text.truncate(end);
        (text, cut)
    };
    let ((stdout, out), (stderr, err)) = (cut(ran.stdout), cut(ran.stderr));
    let duration = Duration::from_millis(ran.duration_ms);
    Ok(Finished { stdout, stderr, end, truncated: ran.truncated || out || err, duration })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of the Standard Webhooks specification's own libraries.
    #[test]
    fn a_message_is_signed_as_standard_webhooks_says() {
        let key = SigningKey::of("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let signature = key.sign("msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, br#"{"test": 2432232314}"#);
        assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn the_key_is_not_shown() {
        let key = SigningKey::of("secret").unwrap();
        assert_eq!(format!("{key:?} {:#?}", Some(&key)), "SigningKey(…) Some(\n    SigningKey(…),\n)");
    }

    #[test]
    fn a_secret_is_base64_after_its_prefix_or_bytes() {
        assert_eq!(SigningKey::of("whsec_YWI="), SigningKey::of("ab"));
        assert_eq!(SigningKey::of("whsec_%"), Err(InvalidSecret::Encoding));
        assert_eq!(SigningKey::of("whsec_"), Err(InvalidSecret::Empty));
        assert_eq!(SigningKey::of(""), Err(InvalidSecret::Empty));
    }
}
