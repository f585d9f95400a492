//! Carrying out a request that changes something: once only where it carries an `Idempotency-Key`.

use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use hmac::{Hmac, KeyInit, Mac};
use serde::Serialize;
use sha2::Sha256;
use theazo_domain::id::RequestId;
use theazo_domain::{Event, Refusal};
use tracing::Instrument;

use super::Edge;
use super::access::Notes;
use super::auth::Caller;
use super::body::Signed;
use super::error::{Complete, Error};
use crate::log::{Answer, Answered, Answering, Holding, Once, Submission, TenantId, Verdict};
use crate::planted;
use crate::vault::Key;

const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");

/// Carries out a command for a caller and answers it. With an `Idempotency-Key` the answer is kept in the transaction
/// of the work, and a repeat gets it again, byte for byte.
///
/// # Errors
/// [`Error`] when it was not decided; nothing is kept then.
pub(crate) async fn act(
    edge: &Edge,
    caller: &Caller,
    request: &Signed,
    submission: Submission,
    answering: Answering,
) -> Result<Response, Error> {
    decide(edge, caller, request, submission, answering).await.map(respond)
}

/// As [`act`], for what goes on after it was decided: the answer is given instead of being sent.
///
/// # Errors
/// As [`act`].
pub(crate) async fn decide(
    edge: &Edge,
    caller: &Caller,
    request: &Signed,
    submission: Submission,
    answering: Answering,
) -> Result<Answered, Error> {
    let log = &edge.app.log;
    let Some(once) = request.once.clone() else {
        let verdict = log.execute(caller.tenant, submission).await?;
        let answer = answering(log.scope(caller.tenant.id), &verdict).await?;
        return Ok(Answered { answer, replayed: false });
    };
    Ok(log.execute_once(caller.tenant, submission, once, answering).await?)
}

/// What the rules said no to: a refusal, or work that does not fit a limit, which is an event.
pub(crate) fn judged(verdict: &Verdict, request_id: RequestId) -> Option<Answer> {
    match verdict {
        Err(refusal) => Some(refused(refusal, request_id)),
        Ok(accepted) => accepted.events.iter().find_map(|recorded| match &recorded.event {
            Event::LimitRefused(refused) => Some(failed(&Error::from(refused), request_id)),
            _ => None,
        }),
    }
}

/// Does what somebody outside has to be asked for before it can be decided. Where the request came with an
/// `Idempotency-Key` nobody is asked for a repetition: while it goes on, one is told so, on every server. It goes on to
/// its end also when the caller goes away, from the moment at which the key may be held.
///
/// # Errors
/// [`Error`] when it was not decided; the key is free then.
pub(crate) async fn hold<F>(
    edge: &Edge,
    caller: Caller,
    request: Signed,
    work: impl FnOnce(Edge, Caller, Signed) -> F + Send + 'static,
) -> Result<Response, Error>
where
    F: Future<Output = Result<Response, Error>> + Send + 'static,
{
    let Some(mut once) = request.once.clone() else { return work(edge.clone(), caller, request).await };
    let (edge, tenant, request_id) = (edge.clone(), caller.tenant.id, caller.request_id);
    let held = async move {
        match edge.app.log.hold(tenant, &once).await? {
            Holding::Answered(answered) => return Ok(respond(answered)),
            Holding::Held(hold) => once.hold = Some(hold),
        }
        let request = Signed { once: Some(once.clone()), ..request };
        match work(edge.clone(), caller, request).await {
            Err(error) if error.is_decided() => keep(&edge, tenant, &once, failed(&error, request_id)).await,
            Err(error) => {
                if let Err(failure) = edge.app.log.let_go(tenant, &once).await {
                    tracing::warn!(%failure, "an idempotency key is held until it lapses");
                }
                Err(error)
            }
            answered => answered,
        }
    };
    let ended = tokio::spawn(held.in_current_span()).await;
    ended.map_err(|_| Error::internal("a request under a key ended without an answer"))?
}

/// Keeps the answer of a request with an `Idempotency-Key` that is one of those that are kept and was found before
/// anything was decided: what it named is not there. Where another answer is kept already, it is given.
pub(crate) async fn settled(edge: &Edge, notes: &Notes, response: Response) -> Response {
    let error = response.extensions().get::<Error>().filter(|error| error.is_decided());
    let (Some(error), Some(once), Some((tenant, _))) = (error, notes.once.get(), notes.caller.get()) else {
        return response;
    };
    let kept = keep(edge, *tenant, once, failed(error, notes.request_id)).await;
    kept.unwrap_or_else(IntoResponse::into_response)
}

async fn keep(edge: &Edge, tenant: TenantId, once: &Once, answer: Answer) -> Result<Response, Error> {
    Ok(respond(edge.app.log.keep(tenant, once, answer).await?))
}

/// What makes a request repeatable under this key.
pub(crate) fn once(edge: &Edge, tenant: TenantId, request: &Signed, key: String) -> Once {
    let secret = &edge.app.keys.answers;
    let key_digest = digest(secret, &[b"key", tenant.0.to_string().as_bytes(), key.as_bytes()]);
    Once { key, key_digest, fingerprint: fingerprint(secret, request), hold: None }
}

/// A success, as it is sent and kept.
pub(crate) fn success(status: StatusCode, body: &impl Serialize) -> Answer {
    let mut body = serde_json::to_vec(body).expect("an answer is plain data");
    if planted::is("other-type") {
        let text = String::from_utf8_lossy(&body).replace(r#""status":"active""#, r#""status":1"#);
        body = text.into_bytes();
    }
    Answer { status: status.as_u16(), body }
}

/// A refusal by the rules, as it is sent and kept.
pub(crate) fn refused(refusal: &Refusal, request_id: RequestId) -> Answer {
    failed(&Error::from(refusal), request_id)
}

/// An error, as it is sent and kept.
pub(crate) fn failed(error: &Error, request_id: RequestId) -> Answer {
    success(error.status(), &error.envelope(request_id))
}

/// An answer as it is sent.
pub(crate) fn respond(answered: Answered) -> Response {
    let Answered { answer, replayed } = answered;
    let Ok(status) = StatusCode::from_u16(answer.status) else {
        return Error::internal(format!("a kept answer has the status {}", answer.status)).into_response();
    };
    let json = [(CONTENT_TYPE, HeaderValue::from_static("application/json"))];
    let mut response = (status, json, answer.body).into_response();
    if replayed {
        response.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
    }
    response.extensions_mut().insert(Complete);
    response
}

/// What makes a request the same as another: method, path, query and the bytes of the body.
fn fingerprint(secret: &Key, request: &Signed) -> [u8; 32] {
    let query = request.uri.query().unwrap_or_default();
    let (method, path) = (request.method.as_str(), request.uri.path());
    if planted::is("any-target") {
        return digest(secret, &[b"request", &request.raw]);
    }
    let raw = if planted::is("any-body") { &[] } else { &request.raw[..] };
    digest(secret, &[b"request", method.as_bytes(), path.as_bytes(), query.as_bytes(), raw])
}

/// HMAC-SHA-256 over parts, each preceded by its length.
fn digest(secret: &Key, parts: &[&[u8]]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(&secret[..]).expect("HMAC takes keys of any length");
    for part in parts {
        mac.update(&(part.len() as u64).to_be_bytes());
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}
