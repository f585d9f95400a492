//! What surrounds every request: its id, its span and line in the log, its metrics, and the net under panics.

use std::panic::AssertUnwindSafe;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderName, HeaderValue, Method};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt;
use theazo_domain::id::{KeyId, RequestId};
use tracing::Instrument;

use super::error::{self, Error};
use super::rate::Admission;
use super::{Edge, idempotency};
use crate::log::{Once, TenantId};
use crate::random;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// What is learned about a request on its way in, for the answer and the log on its way out.
#[derive(Debug)]
pub(crate) struct Notes {
    /// The id of the request.
    pub(crate) request_id: RequestId,
    /// Whose key it came with, once that is known.
    pub(crate) caller: OnceLock<(TenantId, KeyId)>,
    /// What makes it repeatable, once that was read, where it came with an `Idempotency-Key`.
    pub(crate) once: OnceLock<Once>,
    /// How it was counted, once it was.
    pub(crate) admission: OnceLock<Admission>,
}

/// Runs a request and sees to it that the answer has an id, its headers and, if it is an error, the envelope.
pub(crate) async fn surround(State(edge): State<Edge>, mut request: Request, next: Next) -> Response {
    let began = Instant::now();
    let request_id = RequestId::from_ulid(random::ulid(edge.app.clock.now()));
    let (caller, once, admission) = (OnceLock::new(), OnceLock::new(), OnceLock::new());
    let notes = Arc::new(Notes { request_id, caller, once, admission });
    request.extensions_mut().insert(Arc::clone(&notes));
    let method = request.method().clone();
    let route = request
        .extensions()
        .get::<MatchedPath>()
        .map_or_else(|| "unmatched".to_owned(), |path| path.as_str().to_owned());
    let span = tracing::info_span!("request", %request_id);
    let answering = async { idempotency::settled(&edge, &notes, next.run(request).await).await };
    let answered = AssertUnwindSafe(answering).catch_unwind().instrument(span.clone()).await;
    let _entered = span.enter();
    let answered = answered.unwrap_or_else(|panic| {
        let what = panic.downcast_ref::<&str>().map(ToString::to_string);
        let what = what.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
        Error::internal(format!("panic: {what}")).into_response()
    });
    let mut response = error::finish(answered, request_id);
    let id = HeaderValue::from_str(&request_id.to_string()).expect("an id is letters and digits");
    response.headers_mut().insert(REQUEST_ID, id);
    if let Some(admission) = notes.admission.get() {
        admission.write(response.headers_mut());
    }
    record(&method, &route, &response, &notes, began);
    response
}

/// One line in the log and one count: nothing in them comes from the path, the query, the headers or the body.
fn record(method: &Method, route: &str, response: &Response, notes: &Notes, began: Instant) {
    let took = began.elapsed();
    let status = response.status().as_u16();
    let caller = notes.caller.get();
    tracing::info!(
        target: "access",
        method = known(method),
        route,
        status,
        ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
        request_id = %notes.request_id,
        tenant = caller.map(|(tenant, _)| tenant.0),
        key_id = caller.map(|(_, key)| tracing::field::display(key)),
    );
    let labels =
        [("route", route.to_owned()), ("method", known(method).to_owned()), ("status", status.to_string())];
    metrics::counter!("theazo_http_requests_total", &labels).increment(1);
    metrics::histogram!("theazo_http_request_duration_seconds", "route" => route.to_owned())
        .record(took.as_secs_f64());
}

/// The method, if it is one of those that exist: a caller must not be able to make up new metrics.
fn known(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        _ => "other",
    }
}
