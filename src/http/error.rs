//! What an answer that is no success says: one error type at the edge, and the envelope that it is sent in.

use axum::Json;
use axum::http::header::{ALLOW, RETRY_AFTER};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use rust_decimal::Decimal;
use serde::Serialize;
use serde_json::{Value, json};
use theazo_domain::Refusal;
use theazo_domain::id::{AgentId, RequestId};
use theazo_domain::money::{Currency, Money};
use theazo_domain::session::LimitRefused;
use utoipa::ToSchema;

use super::v1::money::{exact, number};
use crate::log::Failure;
use crate::{config, database, planted};

/// Why a request is not answered with what it asked for.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum Error {
    /// No API key, or one that opens nothing.
    #[error("Missing or invalid API key.")]
    Unauthorized,
    /// The key's role does not allow it.
    #[error("This API key lacks permission for this action.")]
    Forbidden,
    /// It does not exist, or it is another tenant's, which looks the same.
    #[error("{0}")]
    NotFound(String),
    /// It does not fit the present state.
    #[error("{0}")]
    Conflict(String),
    /// It does not fit the present state, since these agents are active.
    #[error("{message}")]
    InUse {
        /// What it is about.
        message: String,
        /// The agents, some of them where there are many.
        agents: Vec<AgentId>,
    },
    /// A limit has no room for it.
    #[error("{message}")]
    LimitExceeded {
        /// In words.
        message: String,
        /// Which limit, and by how much.
        details: Value,
    },
    /// It is being done for another request with this idempotency key.
    #[error("{0}")]
    Busy(String),
    /// The idempotency key is another request's.
    #[error("This Idempotency-Key was used for another request.")]
    KeyReused,
    /// A provider outside refused or failed.
    #[error("{0}")]
    Upstream(String),
    /// It took longer than it may.
    #[error("{0}")]
    Timeout(String),
    /// The request is not of the form that it must have: every field that is wrong, at once.
    #[error("The request is not valid. See details.fields.")]
    Unprocessable(Vec<Field>),
    /// The key has made as many requests as it may for now.
    #[error("Too many requests. Retry after {retry_after_s} seconds.")]
    RateLimited {
        /// Whole seconds, at least one.
        retry_after_s: i64,
    },
    /// The path exists, the method does not.
    #[error("This path does not have this method.")]
    MethodNotAllowed,
    /// The body is larger than any request's may be.
    #[error("The request body is larger than {} bytes.", config::BODY_BYTES)]
    PayloadTooLarge,
    /// The body is not said to be JSON.
    #[error("The request body must be application/json.")]
    UnsupportedMediaType,
    /// It cannot be done right now, and it is no fault of the request.
    #[error("{0}")]
    Unavailable(String),
    /// Something that should not happen did; what, is in the log only.
    #[error("An unexpected error occurred.")]
    Internal,
}

/// A field of the request that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, ToSchema)]
pub(crate) struct Field {
    /// Where it is, in dotted form: `limits.maxCost.amount`. Empty for the whole body.
    pub(crate) path: String,
    /// The rule that it breaks.
    pub(crate) rule: String,
    /// The rule in words, without the value.
    pub(crate) message: String,
}

impl Field {
    /// A field that breaks a rule.
    pub(crate) fn new(path: impl Into<String>, rule: impl Into<String>, message: impl Into<String>) -> Self {
        Self { path: path.into(), rule: rule.into(), message: message.into() }
    }
}

/// How every error is answered.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[schema(as = Error)]
pub(crate) struct Envelope {
    /// What went wrong.
    pub(crate) error: Problem,
}

/// What went wrong.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Problem {
    /// For programs: one word that never changes.
    #[schema(value_type = String, examples("not_found"))]
    pub(crate) code: &'static str,
    /// For people.
    pub(crate) message: String,
    /// What a program may want to know besides.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub(crate) details: Option<Value>,
    /// Names this request to whoever runs the server.
    #[schema(value_type = String, examples("req_01ARZ3NDEKTSV4RRFFQ69G50AV"))]
    pub(crate) request_id: RequestId,
}

impl Error {
    /// Something that should not happen did: logged here, once, and never shown.
    pub(crate) fn internal(what: impl std::fmt::Display) -> Self {
        tracing::error!(error = %what, "internal error");
        Self::Internal
    }

    /// The request is wrong in this one field.
    pub(crate) fn field(path: &str, rule: &str, message: impl Into<String>) -> Self {
        Self::Unprocessable(vec![Field::new(path, rule, message)])
    }

    /// What is answered where nothing is.
    pub(crate) fn nothing_here() -> Self {
        Self::NotFound("The requested resource does not exist.".to_owned())
    }

    /// The status of the answer.
    pub(crate) const fn status(&self) -> StatusCode {
        self.described().0
    }

    /// The status, and the code of the reference.
    const fn described(&self) -> (StatusCode, &'static str) {
        match self {
            Self::Unauthorized => (StatusCode::UNAUTHORIZED, "unauthorized"),
            Self::Forbidden => (StatusCode::FORBIDDEN, "forbidden"),
            Self::NotFound(_) => (StatusCode::NOT_FOUND, "not_found"),
            Self::LimitExceeded { .. } => (StatusCode::PAYMENT_REQUIRED, "session_limit_exceeded"),
            Self::Upstream(_) => (StatusCode::BAD_GATEWAY, "provider_error"),
            Self::Timeout(_) => (StatusCode::GATEWAY_TIMEOUT, "timeout"),
            Self::Conflict(_) | Self::Busy(_) | Self::InUse { .. } | Self::KeyReused => {
                (StatusCode::CONFLICT, "conflict")
            }
            Self::Unprocessable(_) => (StatusCode::UNPROCESSABLE_ENTITY, "unprocessable_entity"),
            Self::RateLimited { .. } => (StatusCode::TOO_MANY_REQUESTS, "rate_limited"),
            Self::MethodNotAllowed => (StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed"),
            Self::PayloadTooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "payload_too_large"),
            Self::UnsupportedMediaType => (StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type"),
            Self::Unavailable(_) => (StatusCode::SERVICE_UNAVAILABLE, "unavailable"),
            Self::Internal => (StatusCode::INTERNAL_SERVER_ERROR, "internal_error"),
        }
    }

    /// Whether it is kept for an idempotency key: it was decided, or found out, and does not pass by itself.
    pub(crate) const fn is_decided(&self) -> bool {
        matches!(
            self,
            Self::NotFound(_) | Self::Conflict(_) | Self::InUse { .. } | Self::LimitExceeded { .. }
        )
    }

    fn details(&self) -> Option<Value> {
        match self {
            Self::Unprocessable(fields) => Some(json!({ "fields": fields })),
            Self::InUse { agents, .. } => Some(json!({ "agents": agents })),
            Self::LimitExceeded { details, .. } => Some(details.clone()),
            Self::RateLimited { retry_after_s } => Some(json!({ "retryAfter": retry_after_s })),
            _ => None,
        }
    }

    /// What is sent.
    pub(crate) fn envelope(&self, request_id: RequestId) -> Envelope {
        let code = self.described().1;
        Envelope { error: Problem { code, message: self.to_string(), details: self.details(), request_id } }
    }

    fn retry_after_s(&self) -> Option<i64> {
        match self {
            Self::RateLimited { retry_after_s } => Some(*retry_after_s),
            Self::Unavailable(_) | Self::Busy(_) => Some(config::RETRY_AFTER_S),
            _ => None,
        }
    }
}

impl IntoResponse for Error {
    /// The status alone: the envelope is written by [`finish`], where the id of the request is known.
    fn into_response(self) -> Response {
        let mut response = self.status().into_response();
        if let Some(seconds) = self.retry_after_s() {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        response.extensions_mut().insert(self);
        response
    }
}

/// Marks an error's answer whose body is complete already.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Complete;

/// Writes the envelope of whatever is no success and has none yet, whoever made it.
pub(crate) fn finish(mut response: Response, request_id: RequestId) -> Response {
    let status = response.status();
    let complete = response.extensions().get::<Complete>().is_some();
    if complete || !(status.is_client_error() || status.is_server_error()) {
        return response;
    }
    let mut error = response.extensions_mut().remove::<Error>().unwrap_or_else(|| foreign(status));
    if planted::is("server-error")
        && matches!(&error, Error::Unprocessable(fields) if fields.iter().any(|field| field.path == "limit"))
    {
        error = Error::Internal;
    }
    let mut finished = (error.status(), Json(error.envelope(request_id))).into_response();
    for name in [RETRY_AFTER, ALLOW] {
        if let Some(value) = response.headers().get(&name) {
            finished.headers_mut().insert(name, value.clone());
        }
    }
    finished
}

/// What an error status means that no handler of ours has given.
fn foreign(status: StatusCode) -> Error {
    match status {
        StatusCode::NOT_FOUND => Error::nothing_here(),
        StatusCode::METHOD_NOT_ALLOWED => Error::MethodNotAllowed,
        StatusCode::PAYLOAD_TOO_LARGE => Error::PayloadTooLarge,
        StatusCode::UNSUPPORTED_MEDIA_TYPE => Error::UnsupportedMediaType,
        _ if status.is_client_error() => Error::field("", "request", "the request cannot be read"),
        _ => Error::internal(format!("a status without an error: {status}")),
    }
}

impl From<&Refusal> for Error {
    fn from(refusal: &Refusal) -> Self {
        match refusal {
            Refusal::NotFound(_) | Refusal::Absent(_) => Self::NotFound(format!("{refusal}.")),
            Refusal::Conflict(_) | Refusal::Existing(_) => Self::Conflict(format!("{refusal}.")),
            Refusal::Unready(_) => Self::Unavailable(format!("{refusal}.")),
            Refusal::Unconfigured(_) => Self::field("compute.provider", "configured", refusal.to_string()),
            Refusal::TooMuch(_) => Self::field("value", "maxTotalBytes", refusal.to_string()),
            Refusal::InUse { agents, .. } => Self::InUse {
                message: format!("{refusal}."),
                agents: agents.iter().take(config::NAMED_AGENTS).copied().collect(),
            },
        }
    }
}

impl From<&LimitRefused> for Error {
    fn from(refused: &LimitRefused) -> Self {
        let excess = &refused.excess;
        // Amounts of money in cents, as everywhere on the wire; counts as they are.
        let shown = |amount: Decimal| match excess.period {
            Some(_) => json!(Money { exact: amount, currency: Currency::Usd }.cents()),
            None => json!(number(amount)),
        };
        let mut details = json!({
            "limit": excess.limit.as_str(),
            "allowed": shown(excess.allowed),
            "spent": shown(excess.spent),
            "reserved": shown(excess.reserved),
            "requested": shown(excess.requested),
        });
        if let Some(period) = excess.period {
            details["period"] = json!(period);
            // What does not fit is often less than a cent.
            details["exact"] = json!({
                "allowed": exact(excess.allowed),
                "spent": exact(excess.spent),
                "reserved": exact(excess.reserved),
                "requested": exact(excess.requested),
            });
        }
        if let Some(resets_at) = excess.resets_at {
            details["resetsAt"] = json!(resets_at);
        }
        let message = format!("The limit {} has no room for it.", excess.limit.as_str());
        Self::LimitExceeded { message, details }
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::QueueFull | Failure::Rebuilding => {
                Self::Unavailable(format!("Please retry: {failure}."))
            }
            Failure::Unavailable { outcome_unknown } => {
                let hint = if outcome_unknown {
                    "The request may have been carried out; repeat it with the same Idempotency-Key."
                } else {
                    "The database is not available. The request was not carried out."
                };
                Self::Unavailable(hint.to_owned())
            }
            Failure::Newer(what) => {
                tracing::error!(what, "the log was written by a newer server");
                Self::Unavailable("This server is being replaced by a newer one.".to_owned())
            }
            Failure::KeyReused => Self::KeyReused,
            Failure::KeyHeld => {
                Self::Busy("The first request with this Idempotency-Key is still running.".to_owned())
            }
            Failure::Refused(what) | Failure::Internal(what) => Self::internal(what),
        }
    }
}

impl From<database::Error> for Error {
    fn from(error: database::Error) -> Self {
        if error.is_unavailable() {
            tracing::warn!(%error, "the database is not available");
            Self::Unavailable("The database is not available.".to_owned())
        } else {
            Self::internal(error)
        }
    }
}
