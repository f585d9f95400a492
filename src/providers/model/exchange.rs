//! One exchange with a vendor: a request goes out, a stream of events comes back. What every vendor has in common:
//! deadlines, limits, refusals, and whether a call that failed may have cost.

use std::time::Duration;

use hyper::body::Bytes;
use reqwest::header::{self, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Method, StatusCode};
use serde_json::Value;
use url::Url;
use zeroize::Zeroizing;

use super::sse::{Event, Parser};
use super::{CallError, Reply, STOPPED, Until, Usage};
use crate::config;
use crate::providers::client::{self, Client, Limits};

/// Is given each piece of an answer's text.
pub(super) type Deltas<'a> = dyn for<'b> FnMut(&'b str) + Send + 'a;

/// Understands the events of a vendor.
pub(super) trait Decoder: Send {
    /// Takes the next event; an error says why there can be no more.
    fn take(&mut self, event: &Event, deltas: &mut Deltas<'_>) -> Result<(), String>;

    /// Whether nothing more is to come.
    fn has_ended(&self) -> bool;

    /// The answer, where everything of it has arrived that matters; else what of it there is.
    fn finish(self) -> Result<Reply, Partial>;
}

/// What has arrived of an answer that is not complete.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Partial {
    pub(super) text: String,
    pub(super) usage: Option<Usage>,
    pub(super) vendor_id: Option<String>,
}

/// A request to a vendor.
pub(super) struct Request<'a> {
    pub(super) url: Url,
    /// The header that carries the key, and what stands before the key in it.
    pub(super) key_header: (HeaderName, &'static str),
    pub(super) key: &'a Zeroizing<String>,
    pub(super) headers: HeaderMap,
    pub(super) body: Vec<u8>,
}

/// The way to vendors.
#[derive(Debug, Clone)]
pub struct Wire {
    client: Client,
    idle: Duration,
}

impl Wire {
    /// A way on which a vendor may say nothing for `idle`.
    #[must_use]
    pub const fn new(client: Client, idle: Duration) -> Self {
        Self { client, idle }
    }

    /// Makes a call, once.
    pub(super) async fn exchange(
        &self,
        request: Request<'_>,
        Until { deadline, mut stop }: Until<'_>,
        mut decoder: impl Decoder,
        deltas: &mut Deltas<'_>,
    ) -> Result<Reply, CallError> {
        let key = Zeroizing::clone(request.key);
        // What has come counts, also where the stop comes in the same moment.
        let mut answer = tokio::select! {
            biased;
            answer = self.post(request, deadline) => answer?,
            () = &mut stop => return Err(CallError::untold(STOPPED.to_owned())),
        };
        let request_id = request_id(answer.headers());
        if !answer.status().is_success() {
            return Err(refusal(answer, &key, stop).await);
        }
        let broken = if is_event_stream(answer.headers()) {
            tokio::select! {
                biased;
                read = read(&mut answer, &mut decoder, deltas) => read.err(),
                () = stop => Some(STOPPED.to_owned()),
            }
        } else {
            Some("the answer is no event stream".to_owned())
        };
        match decoder.finish() {
            Ok(reply) => {
                let usage = reply.usage.filter(is_possible);
                Ok(Reply { usage, vendor_id: request_id.or(reply.vendor_id), ..reply })
            }
            Err(partial) => {
                let message = broken.unwrap_or_else(|| "the stream ended before the answer did".to_owned());
                Err(CallError::BrokeOff {
                    message: presentable(&message, &key),
                    text: partial.text,
                    usage: partial.usage.filter(is_possible),
                    vendor_id: request_id.or(partial.vendor_id),
                })
            }
        }
    }

    /// A redirect is not followed: it is an answer like any other, and no model's.
    async fn post(&self, request: Request<'_>, deadline: Duration) -> Result<client::Reply, CallError> {
        let mut headers = request.headers;
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(header::ACCEPT, HeaderValue::from_static("text/event-stream"));
        if !request.key.is_empty() {
            let (name, before) = request.key_header;
            let value = Zeroizing::new(format!("{before}{}", **request.key));
            let unusable = |_| CallError::NotSent("the key holds what no header can carry".to_owned());
            let mut value = HeaderValue::from_str(&value).map_err(unusable)?;
            value.set_sensitive(true);
            headers.insert(name, value);
        }
        let body = Bytes::from(request.body);
        let call = client::Call { method: Method::POST, url: request.url, headers, body };
        let limits = Limits {
            header: self.idle,
            between: self.idle,
            total: deadline,
            response_bytes: config::MODEL_ANSWER_BYTES,
            redirects: 0,
        };
        self.client.send(call, &limits).await.map_err(|error| {
            let message = presentable(&error.to_string(), request.key);
            if error.never_sent() {
                return CallError::NotSent(message);
            }
            CallError::untold(message)
        })
    }
}

/// Whether a call can have used so much, and not nothing: there is always a prompt. What cannot be is as good as not told:
/// the worst case may have been used.
fn is_possible(usage: &Usage) -> bool {
    let Usage { input, output, cache_read, cache_write } = *usage;
    let counts = [input, output, cache_read, cache_write];
    usage.prompt() > 0 && counts.into_iter().all(|count| count <= config::MOST_TOKENS)
}

/// Reads the stream until the answer has ended.
async fn read(
    answer: &mut client::Reply,
    decoder: &mut impl Decoder,
    deltas: &mut Deltas<'_>,
) -> Result<(), String> {
    let mut parser = Parser::default();
    while let Some(piece) = answer.piece().await.map_err(|error| error.to_string())? {
        if take(&mut parser, decoder, &piece, deltas)? {
            return Ok(());
        }
    }
    Ok(())
}

/// Takes the next piece of a stream: whether the answer has ended with it.
fn take(
    parser: &mut Parser,
    decoder: &mut impl Decoder,
    piece: &[u8],
    deltas: &mut Deltas<'_>,
) -> Result<bool, String> {
    for event in parser.push(piece).map_err(|_| "an event is too large".to_owned())? {
        decoder.take(&event, deltas)?;
        if decoder.has_ended() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// What a stream in these pieces comes to: the text given as it came, and how it ended.
#[cfg(any(test, feature = "fuzzing"))]
pub(super) fn read_pieces(mut decoder: impl Decoder, pieces: &[&[u8]]) -> (String, String) {
    let (mut parser, mut text) = (Parser::default(), String::new());
    let mut deltas = |delta: &str| text.push_str(delta);
    let taken = pieces.iter().map(|piece| take(&mut parser, &mut decoder, piece, &mut deltas));
    let broken = taken.take_while(|taken| *taken != Ok(true)).find_map(Result::err);
    let ended = match decoder.finish() {
        // A call that its vendor gave no id has one at random.
        Ok(reply) => format!("{} {:?} {:?} {}", reply.text, reply.stop, reply.usage, reply.tool_calls.len()),
        Err(partial) => format!("{partial:?} {broken:?}"),
    };
    (text, ended)
}

/// Whether an error status says that something on the way gave up waiting, or lost the answer: what stands behind it may
/// have worked, and bill it.
fn may_have_cost(status: StatusCode) -> bool {
    matches!(status.as_u16(), 408 | 502 | 504 | 520..=527)
}

/// The vendor's refusal, in its own words as far as they can be had.
async fn refusal(mut answer: client::Reply, key: &str, stop: impl Future<Output = ()>) -> CallError {
    let mut body = vec![];
    let reading = async {
        while let Ok(Some(piece)) = answer.piece().await {
            body.extend_from_slice(&piece);
            if body.len() > config::MODEL_ERROR_BYTES {
                break;
            }
        }
    };
    // Its status says enough where nobody waits for the words.
    tokio::select! {
        () = reading => {}
        () = stop => {}
    }
    let status = answer.status();
    let mut message = presentable(&words(&body), key);
    if message.is_empty() {
        status.canonical_reason().unwrap_or("no reason given").clone_into(&mut message);
    }
    let vendor_id = request_id(answer.headers());
    if may_have_cost(status) {
        let message = format!("status {}: {message}", status.as_u16());
        return CallError::BrokeOff { message, text: String::new(), usage: None, vendor_id };
    }
    if let Some(id) = vendor_id {
        message = format!("{message} (request {id})");
    }
    CallError::Refused { status: status.as_u16(), message, retry_after: retry_after(answer.headers()) }
}

/// Words of a vendor that may be kept: short, and without the key, which some servers repeat.
fn presentable(words: &str, key: &str) -> String {
    let words = if key.is_empty() { words.to_owned() } else { words.replace(key, "[key]") };
    words.chars().take(config::MODEL_ERROR_CHARACTERS).collect()
}

/// What an error's body says. Vendors agree on `error.message` with `error.type`; servers that speak their protocols
/// have other forms as well.
pub(super) fn words(body: &[u8]) -> String {
    let Ok(body) = serde_json::from_slice::<Value>(body) else {
        return String::from_utf8_lossy(body).trim().to_owned();
    };
    let error = body.get("error").unwrap_or(&body);
    let message = ["message", "detail"].iter().find_map(|name| error.get(name)?.as_str());
    let message = message.or(error.as_str());
    match (error.get("type").and_then(Value::as_str), message) {
        (Some(kind), Some(message)) => format!("{kind}: {message}"),
        (None, Some(message)) => message.to_owned(),
        (_, None) => error.to_string(),
    }
}

/// Both vendors name the request in a header: `request-id` (Anthropic), `x-request-id` (OpenAI).
fn request_id(headers: &HeaderMap) -> Option<String> {
    let id = ["request-id", "x-request-id"].iter().find_map(|name| headers.get(*name))?;
    id.to_str().ok().map(|id| id.chars().take(config::NAME_CHARACTERS).collect())
}

/// `retry-after` in seconds, or the more precise `retry-after-ms`; a date is not used by these vendors.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let number = |name| headers.get(name)?.to_str().ok()?.trim().parse::<f64>().ok();
    let precise = number("retry-after-ms").and_then(|ms| Duration::try_from_secs_f64(ms).ok());
    let precise = precise.map(|seconds| seconds / 1_000);
    precise.or_else(|| Duration::try_from_secs_f64(number("retry-after")?).ok())
}

fn is_event_stream(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    kind.is_some_and(|kind| kind.trim_start().to_ascii_lowercase().starts_with("text/event-stream"))
}
