//! Anthropic's Messages API, version 2023-06-01, streamed.
//! Source: the types of Anthropic's own Python client 2.13.0 (generated from its OpenAPI document, November 2026) and
//! <https://platform.claude.com/docs/en/build-with-claude/streaming>.
//!
//! The prompt is cached at the vendor where more calls with the same beginning are to come: a mark behind the
//! instructions, which all agents of a definition share, and one behind the last turn. Neither needs a beta header.
//! Thinking is left at each model's default; what a model thought goes back to it word for word.

mod answer;
mod question;

use async_trait::async_trait;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use url::Url;
use zeroize::Zeroizing;

use super::exchange::{Request, Wire};
use super::{Call, CallError, Model, Prepared, Reply, Until};

/// The version of the protocol that is spoken here.
const VERSION: &str = "2023-06-01";

/// Anthropic, or a server that speaks its protocol.
#[derive(Debug, Clone)]
pub struct Anthropic {
    wire: Wire,
    url: Url,
}

impl Anthropic {
    /// At `base_url`, which is without the `/v1`.
    #[must_use]
    pub fn new(wire: Wire, base_url: &Url) -> Self {
        Self { wire, url: super::models::below(base_url, &["v1", "messages"]) }
    }
}

#[async_trait]
impl Model for Anthropic {
    fn prepare(&self, call: &Call) -> Prepared {
        Prepared::of(call, question::body(call))
    }

    async fn send(
        &self,
        prepared: &Prepared,
        key: &Zeroizing<String>,
        until: Until<'_>,
        deltas: &mut (dyn for<'a> FnMut(&'a str) + Send),
    ) -> Result<Reply, CallError> {
        let mut headers = HeaderMap::new();
        headers.insert("anthropic-version", HeaderValue::from_static(VERSION));
        let request = Request {
            url: self.url.clone(),
            key_header: (HeaderName::from_static("x-api-key"), ""),
            key,
            headers,
            body: prepared.body.clone(),
        };
        self.wire.exchange(request, until, answer::Decoder::new(&prepared.model), deltas).await
    }
}

/// What understands a stream of this vendor's.
#[cfg(any(test, feature = "fuzzing"))]
pub(super) fn decoder() -> impl super::exchange::Decoder {
    answer::Decoder::new("claude")
}
