//! Calls of vendors' HTTP APIs: a deadline on each, and only such calls again as may be made again without harm.

use std::time::Duration;

use reqwest::StatusCode;
use reqwest::header::{HeaderMap, RETRY_AFTER};
use serde::de::DeserializeOwned;
use tokio::time::{Instant, sleep};
use zeroize::Zeroizing;

use super::Error;
use crate::config;
use crate::providers::client::{self, Call, Client, Limits, Reply};

/// A vendor's API, with the credential that must not come back in what it says.
pub(super) struct Api {
    client: Client,
    credential: Zeroizing<String>,
}

/// How a call may be made.
#[derive(Clone, Copy)]
pub(super) struct Manner {
    /// How long it may take, all attempts together.
    pub(super) deadline: Duration,
    /// Bytes of the answer.
    pub(super) answer_bytes: usize,
    /// Whether it may be made again when nobody knows whether it arrived, or when the vendor failed at it.
    pub(super) repeatable: bool,
}

impl Manner {
    /// A call that changes nothing, or that changes nothing a second time.
    pub(super) const REPEATABLE: Self = Self {
        deadline: config::COMPUTE_DEADLINE,
        answer_bytes: config::COMPUTE_ANSWER_BYTES,
        repeatable: true,
    };
    /// A call whose effect a second one would have again.
    pub(super) const ONCE: Self = Self { repeatable: false, ..Self::REPEATABLE };

    /// The same with another deadline.
    pub(super) const fn within(self, deadline: Duration) -> Self {
        Self { deadline, ..self }
    }
}

/// What a vendor answered.
pub(super) struct Answer {
    /// Its status.
    pub(super) status: StatusCode,
    /// Its headers.
    pub(super) headers: HeaderMap,
    /// Its body.
    pub(super) body: Vec<u8>,
}

impl Answer {
    /// The body as JSON.
    pub(super) fn json<T: DeserializeOwned>(&self) -> Result<T, Error> {
        serde_json::from_slice(&self.body)
            .map_err(|error| Error::Unavailable(format!("its answer is not what its API says: {error}")))
    }
}

impl Api {
    pub(super) const fn new(client: Client, credential: Zeroizing<String>) -> Self {
        Self { client, credential }
    }

    pub(super) fn credential(&self) -> &str {
        &self.credential
    }

    /// Makes a call, which `make` builds anew for each attempt. A refusal for too many calls (429) came before anything
    /// was done, so the call is made again after the time that the vendor names, if the deadline allows.
    pub(super) async fn call(&self, manner: Manner, make: impl Fn() -> Call) -> Result<Answer, Error> {
        let until = Instant::now() + manner.deadline;
        let mut failures = 0;
        loop {
            let outcome = self.attempt(manner, until, make()).await;
            let asked = match &outcome {
                Ok(answer) => rest_asked_for(answer, manner),
                Err(client::Error::Refused(_)) => None,
                Err(error) => (error.never_sent() || manner.repeatable).then_some(Rest::AfterFailure),
            };
            let rest = match asked {
                Some(Rest::Told(rest)) => rest.max(config::COMPUTE_REST),
                Some(Rest::AfterFailure) if failures < config::COMPUTE_REPEATS => {
                    failures += 1;
                    config::COMPUTE_REST * failures
                }
                _ => Duration::MAX,
            };
            if Instant::now().checked_add(rest).is_none_or(|then| then >= until) {
                return outcome.map_err(|error| failure(&error));
            }
            sleep(rest).await;
        }
    }

    async fn attempt(&self, manner: Manner, until: Instant, call: Call) -> Result<Answer, client::Error> {
        let left = until.saturating_duration_since(Instant::now());
        // A connection that is half open costs one attempt, not all of them.
        let each = if manner.repeatable { left / 2 } else { left };
        let reply = self.client.send(call, &limits(each, manner.answer_bytes)).await?;
        let (status, headers) = (reply.status(), reply.headers().clone());
        Ok(Answer { status, headers, body: reply.whole().await? })
    }

    /// Opens a call whose answer is read as it comes. It is made once.
    pub(super) async fn open(&self, manner: Manner, call: Call) -> Result<Reply, Error> {
        let limits = limits(manner.deadline, manner.answer_bytes);
        self.client.send(call, &limits).await.map_err(|error| failure(&error))
    }

    /// The vendor's reason, from the field of its errors' JSON or else as it stands, without our credential in it.
    pub(super) fn reason(&self, answer: &Answer, field: &str) -> String {
        let json: Option<serde_json::Value> = serde_json::from_slice(&answer.body).ok();
        let told = json.as_ref().and_then(|json| json.pointer(field)).and_then(|told| told.as_str());
        let text = told.map_or_else(|| String::from_utf8_lossy(&answer.body), std::borrow::Cow::Borrowed);
        let text = text.trim();
        let text = if self.credential.is_empty() {
            text.to_owned()
        } else {
            text.replace(self.credential.as_str(), "***")
        };
        let text: String = text.chars().take(config::COMPUTE_REASON_CHARACTERS).collect();
        if text.is_empty() { format!("status {}", answer.status.as_u16()) } else { text }
    }

    /// What an answer that is no success means, but for what is special at a vendor.
    pub(super) fn refusal(&self, answer: &Answer, field: &str) -> Error {
        let reason = self.reason(answer, field);
        match answer.status.as_u16() {
            408 | 425 | 429 | 500.. => Error::Unavailable(reason),
            _ => Error::Refused(reason),
        }
    }
}

/// Does something again, a few times, while its provider is not available. Only what does no harm a second time may be
/// done so.
pub(super) async fn repeatedly<T, F>(what: impl Fn() -> F) -> Result<T, Error>
where
    F: Future<Output = Result<T, Error>>,
{
    let mut failures = 0;
    loop {
        match what().await {
            Err(Error::Unavailable(_)) if failures < config::COMPUTE_REPEATS => {
                failures += 1;
                sleep(config::COMPUTE_REST * failures).await;
            }
            outcome => return outcome,
        }
    }
}

/// Why and how long to rest before a call is made again.
enum Rest {
    /// The vendor says that it is to be made again, and mostly when.
    Told(Duration),
    /// Something broke.
    AfterFailure,
}

/// `None` where the answer is the answer.
fn rest_asked_for(answer: &Answer, manner: Manner) -> Option<Rest> {
    let named = answer.headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.trim().parse().ok());
    let named = named.map(Duration::from_secs);
    match (answer.status.as_u16(), named) {
        (429, _) => Some(Rest::Told(named.unwrap_or(config::COMPUTE_THROTTLED_REST))),
        (409 | 503, Some(named)) if manner.repeatable => Some(Rest::Told(named)),
        (500..=599, _) if manner.repeatable => Some(Rest::AfterFailure),
        _ => None,
    }
}

const fn limits(total: Duration, response_bytes: usize) -> Limits {
    Limits { header: total, between: total, total, response_bytes, redirects: 0 }
}

/// A call that was not answered.
pub(super) fn failure(error: &client::Error) -> Error {
    match error {
        client::Error::Refused(_) => Error::Refused(error.to_string()),
        _ => Error::Unavailable(error.to_string()),
    }
}
