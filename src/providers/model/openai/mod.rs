//! OpenAI's Chat Completions, streamed, and whatever else speaks that protocol.
//! Source: the types of OpenAI's own Python client 3.57.0 (generated from its OpenAPI document, November 2026).

mod answer;
mod question;

use async_trait::async_trait;
use reqwest::header::{self, HeaderMap};
use url::Url;
use zeroize::Zeroizing;

use super::exchange::{Request, Wire};
use super::{Call, CallError, Model, Prepared, Reply, Until};

/// OpenAI, or a server that speaks its protocol.
#[derive(Debug, Clone)]
pub struct OpenAi {
    wire: Wire,
    url: Url,
}

impl OpenAi {
    /// At `base_url`, which ends in the `/v1` where the server has one.
    #[must_use]
    pub fn new(wire: Wire, base_url: &Url) -> Self {
        Self { wire, url: super::models::below(base_url, &["chat", "completions"]) }
    }
}

#[async_trait]
impl Model for OpenAi {
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
        let request = Request {
            url: self.url.clone(),
            key_header: (header::AUTHORIZATION, "Bearer "),
            key,
            headers: HeaderMap::new(),
            body: prepared.body.clone(),
        };
        self.wire.exchange(request, until, answer::Decoder::default(), deltas).await
    }
}

/// What understands a stream of this vendor's.
#[cfg(any(test, feature = "fuzzing"))]
pub(super) fn decoder() -> impl super::exchange::Decoder {
    answer::Decoder::default()
}
