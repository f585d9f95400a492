//! Streams of events over HTTP (Server-Sent Events): what was missed, then what happens, without a gap or a repeat.

use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::FromRequestParts;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::request::Parts;
use axum::http::{HeaderName, HeaderValue};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::error::Error;
use super::query::Query;
use crate::config;
use crate::log::{FeedReader, Stored};

/// The last position that the caller has: in the header that browsers send when they come back, else `?after=`.
/// `None`: from now on.
pub(crate) struct LastSeen(pub(crate) Option<i64>);

impl<S: Send + Sync> FromRequestParts<S> for LastSeen {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Error> {
        let (name, text) = match parts.headers.get("last-event-id") {
            Some(value) => ("Last-Event-ID", value.to_str().unwrap_or("?").to_owned()),
            None => match Query::from_request_parts(parts, state).await?.plain("after") {
                Some(after) => ("after", after),
                None => return Ok(Self(None)),
            },
        };
        position(&text).map(|position| Self(Some(position))).ok_or_else(|| {
            Error::field(name, "position", "must be a position of the log: a whole number from 0 on")
        })
    }
}

/// A position as callers write it: digits, nothing else.
pub(crate) fn position(text: &str) -> Option<i64> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) { text.parse().ok() } else { None }
}

/// What an event is in this stream: `None` where it is no part of it.
type Show = Box<dyn Fn(&Stored) -> Option<Frame> + Send>;

/// One frame of a stream.
pub(crate) struct Frame {
    /// The event's type, a word.
    pub(crate) event: String,
    /// One line of JSON.
    pub(crate) data: String,
}

struct Streaming {
    reader: FeedReader,
    show: Show,
    stopping: watch::Receiver<bool>,
    quiet_until: Instant,
}

/// Answers with the events of a feed that are part of the stream, until the caller goes or the server stops.
pub(crate) fn answer(reader: FeedReader, stopping: watch::Receiver<bool>, show: Show) -> Response {
    let quiet_until = Instant::now() + config::STREAM_KEEP_ALIVE;
    let streaming = Streaming { reader, show, stopping, quiet_until };
    let body = Body::from_stream(stream::unfold(streaming, next));
    let headers = [
        (CONTENT_TYPE, HeaderValue::from_static("text/event-stream")),
        (CACHE_CONTROL, HeaderValue::from_static("no-cache")),
        // Tells nginx not to hold frames back.
        (HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no")),
    ];
    (headers, body).into_response()
}

/// The next bytes of a stream: frames, or a comment when it was quiet for long.
async fn next(mut streaming: Streaming) -> Option<(Result<Bytes, std::convert::Infallible>, Streaming)> {
    loop {
        if *streaming.stopping.borrow() {
            return None;
        }
        let bytes = tokio::select! {
            _ = streaming.stopping.changed() => return None,
            events = streaming.reader.next() => match events {
                Ok(events) => frames(&events, &streaming.show),
                Err(error) => {
                    // The caller comes back with the last position that it has, and nothing is lost.
                    tracing::warn!(%error, "a stream ends early");
                    return None;
                }
            },
            () = sleep_until(streaming.quiet_until) => ":\n\n".to_owned(),
        };
        if !bytes.is_empty() {
            streaming.quiet_until = Instant::now() + config::STREAM_KEEP_ALIVE;
            return Some((Ok(Bytes::from(bytes)), streaming));
        }
    }
}

fn frames(events: &[Arc<Stored>], show: &Show) -> String {
    let mut frames = String::new();
    for stored in events {
        if let Some(frame) = show(stored) {
            let Frame { event, data } = frame;
            frames.push_str(&format!("id: {}\nevent: {event}\ndata: {data}\n\n", stored.position));
        }
    }
    frames
}
