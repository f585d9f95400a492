//! Carrying out a request that changes something: once only where it carries an `Idempotency-Key`.

use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use hmac::{Hmac, KeyInit, Mac};
use serde::Serialize;
use sha2::Sha256;
use theazo_domain::id::RequestId;
use theazo_domain::{Event, Refusal};

use super::Edge;
use super::auth::Caller;
use super::body::Signed;
use super::error::{Complete, Error};
use crate::log::{self, Answer, Answered, Answering, Once, Submission, Verdict};
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
    let Some(once) = once(edge, caller, request) else {
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

/// Whether the request's `Idempotency-Key` has an answer already, so that whatever else its command would need (a call
/// to someone outside) is not needed.
///
/// # Errors
/// [`Error`] when the database is away.
pub(crate) async fn is_answered(edge: &Edge, caller: &Caller, request: &Signed) -> Result<bool, Error> {
    let Some(once) = once(edge, caller, request) else { return Ok(false) };
    Ok(log::read::is_kept(edge.app.log.scope(caller.tenant.id), &once.key_digest).await?)
}

fn once(edge: &Edge, caller: &Caller, request: &Signed) -> Option<Once> {
    let (key, secret) = (request.idempotency_key.as_ref()?, &edge.app.keys.answers);
    let key_digest = digest(secret, &[b"key", caller.tenant.id.0.to_string().as_bytes(), key.as_bytes()]);
    Some(Once { key: key.clone(), key_digest, fingerprint: fingerprint(secret, request) })
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
