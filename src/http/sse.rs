//! Streams of events over HTTP (Server-Sent Events): what was missed, then what happens, without a gap or a repeat.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};

use axum::body::{Body, Bytes};
use axum::extract::FromRequestParts;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::request::Parts;
use axum::http::{HeaderName, HeaderValue};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use lru::LruCache;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use utoipa::ToSchema;

use super::Edge;
use super::auth::Caller;
use super::error::{Error, Field};
use super::query::Query;
use super::v1::{agent_stream, events};
use crate::log::{FeedReader, Stored, TenantId};
use crate::{config, planted};

/// The last position that the caller has: in the header that browsers send when they come back, else `?after=`.
/// `None`: from now on.
pub(crate) struct LastSeen(pub(crate) Option<i64>);

impl<S: Send + Sync> FromRequestParts<S> for LastSeen {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Error> {
        let header = parts.headers.get("last-event-id");
        let header = header.map(|value| value.to_str().unwrap_or("?").to_owned());
        let after = Query::from_request_parts(parts, state).await?.plain("after");
        let mut fields = vec![];
        let mut read = |name: &str, text: Option<String>| {
            let text = text?;
            let position = position(&text);
            if position.is_none() {
                let rule = "must be a position of the log: a whole number from 0 on";
                fields.push(Field::new(name, "position", rule));
            }
            position
        };
        let (header, after) = (read("Last-Event-ID", header), read("after", after));
        if fields.is_empty() { Ok(Self(header.or(after))) } else { Err(Error::Unprocessable(fields)) }
    }
}

/// A position as callers write it: digits, nothing else.
pub(crate) fn position(text: &str) -> Option<i64> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) { text.parse().ok() } else { None }
}

/// Whether an event is part of a stream.
pub(crate) type Part = Box<dyn Fn(&Stored) -> bool + Send + Sync>;

/// What is shown of a log.
pub(crate) enum Show {
    /// The events that this lets through.
    Events(Part),
    /// What this agent does, until it has ended.
    Agent(String),
}

/// The type of the event that ends a key.
const KEY_REVOKED: &str = "key.revoked";

/// One frame of a stream. Its id is the event's position.
#[derive(ToSchema)]
pub(crate) struct Frame {
    /// The event's type, a word.
    pub(crate) event: String,
    /// One line of JSON.
    pub(crate) data: String,
}

impl Frame {
    /// The bytes that are sent.
    pub(crate) fn bytes(&self, position: i64) -> Bytes {
        let Self { event, data } = self;
        format!("id: {position}\nevent: {event}\ndata: {data}\n\n").into()
    }
}

/// What was made of events of late, once for all who need it: thousands of streams share the bytes of one frame.
pub(crate) struct Made<T>(Mutex<LruCache<(TenantId, i64), T>>);

impl<T> Default for Made<T> {
    fn default() -> Self {
        let most = NonZeroUsize::new(config::SHARED_FRAMES).unwrap_or(NonZeroUsize::MIN);
        Self(Mutex::new(LruCache::new(most)))
    }
}

impl<T: Clone> Made<T> {
    /// What was made of an event, or is made of it now.
    pub(crate) fn of(&self, tenant: TenantId, stored: &Stored, make: impl FnOnce() -> T) -> T {
        let mut made = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let tenant = if planted::is("shared-frames") { TenantId(0) } else { tenant };
        made.get_or_insert((tenant, stored.position), make).clone()
    }
}

/// Frames of events, as they are sent; none of an event that cannot be shown.
pub(crate) type Frames = Made<Option<Bytes>>;

/// A stream that is being answered.
struct Streaming {
    edge: Edge,
    caller: Caller,
    reader: FeedReader,
    show: Show,
    stopping: watch::Receiver<bool>,
    quiet_until: Instant,
    /// Its subject has ended, and all was sent.
    over: bool,
}

/// Answers with the events of the caller's log that are part of the stream, from after a position on, until the
/// caller goes, the key is revoked or the server stops.
///
/// # Errors
/// [`Error::Unauthorized`] where the key was revoked while it was still remembered here; [`Error::Unavailable`] when
/// the database is away.
pub(crate) async fn follow(
    edge: Edge,
    caller: Caller,
    last: Option<i64>,
    show: Show,
) -> Result<Response, Error> {
    let last = last.map(|last| if planted::strikes("repeated-frame", 20) { (last - 1).max(0) } else { last });
    let reader = edge.app.log.follow(caller.tenant, last).await?;
    // A revocation from here on is an event ahead of the reader; one before it is found by looking anew.
    let found = edge.credentials.find_since(&edge.app, &caller.digest, Some(Instant::now())).await?;
    found.ok_or(Error::Unauthorized)?;
    let stopping = edge.app.stopping.subscribe();
    let quiet_until = Instant::now() + config::STREAM_KEEP_ALIVE;
    let streaming = Streaming { edge, caller, reader, show, stopping, quiet_until, over: false };
    let body = Body::from_stream(stream::unfold(streaming, next));
    let headers = [
        (CONTENT_TYPE, HeaderValue::from_static("text/event-stream")),
        (CACHE_CONTROL, HeaderValue::from_static("no-cache")),
        // Tells nginx not to hold frames back.
        (HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no")),
    ];
    Ok((headers, body).into_response())
}

/// The next bytes of a stream: frames, or a comment when it was quiet for long.
async fn next(mut streaming: Streaming) -> Option<(Result<Bytes, std::convert::Infallible>, Streaming)> {
    loop {
        if streaming.over || *streaming.stopping.borrow() {
            return None;
        }
        let bytes = tokio::select! {
            _ = streaming.stopping.changed() => return None,
            events = streaming.reader.next() => match events {
                // By itself, so that a quiet stream has no room for it.
                Ok(events) => Box::pin(streaming.frames(&events)).await?,
                Err(error) => {
                    // The caller comes back with the last position that it has, and nothing is lost.
                    tracing::warn!(%error, "a stream ends early");
                    return None;
                }
            },
            () = sleep_until(streaming.quiet_until) => Bytes::from_static(b":\n\n"),
        };
        if !bytes.is_empty() {
            streaming.quiet_until = Instant::now() + config::STREAM_KEEP_ALIVE;
            return Some((Ok(bytes), streaming));
        }
    }
}

impl Streaming {
    /// What is sent of these events; `None` when the stream is over, because its key is revoked.
    async fn frames(&mut self, events: &[Arc<Stored>]) -> Option<Bytes> {
        if events.iter().any(|stored| self.revokes(stored)) {
            return None;
        }
        let frames = self.shown(events).await?;
        if frames.is_empty() {
            return Some(frames);
        }
        // A reader that is far behind meets the revocation late, so before anything is sent the key is looked up as
        // for a request: at most once a second for all that come with it.
        match self.edge.credentials.find(&self.edge.app, &self.caller.digest).await {
            Ok(found) => found.map(|_| frames),
            Err(error) => {
                tracing::warn!(%error, "a stream ends early: its key cannot be looked up");
                None
            }
        }
    }

    /// The frames of these events; `None` when the database is away: the caller comes back with the last position.
    async fn shown(&mut self, events: &[Arc<Stored>]) -> Option<Bytes> {
        let mut frames = vec![];
        match &self.show {
            Show::Events(part) => {
                let shown = events.iter().filter(|stored| part(stored));
                frames.extend(shown.filter_map(|stored| {
                    let make = || events::frame(stored).map(|frame| frame.bytes(stored.position));
                    self.edge.events.of(self.caller.tenant.id, stored, make)
                }));
            }
            Show::Agent(agent) => {
                for stored in events.iter().filter(|stored| stored.subjects.contains(agent)) {
                    let made = self.edge.frames.of(&self.edge, self.caller.tenant, stored).await;
                    match made {
                        Ok(frame) => frames.extend(frame),
                        Err(error) => {
                            tracing::warn!(%error, "a stream ends early");
                            return None;
                        }
                    }
                    if agent_stream::ends(stored) {
                        self.over = true;
                        break;
                    }
                }
            }
        }
        frames.retain(|_| !planted::strikes("skipped-event", 500));
        Some(match &mut frames[..] {
            [only] => std::mem::take(only),
            _ => frames.concat().into(),
        })
    }

    /// Whether an event is the end of the key that this stream was opened with.
    fn revokes(&self, stored: &Stored) -> bool {
        stored.kind == KEY_REVOKED && stored.subjects.contains(&self.caller.key_id.to_string())
    }
}
