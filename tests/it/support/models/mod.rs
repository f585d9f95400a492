//! Servers of model vendors: they speak the vendors' protocols to the letter, refuse what the vendors refuse, answer
//! what they are told to, and remember what they were asked. One server speaks both protocols.
//!
//! Nothing here depends on the rest of the tests: benches and examples take this folder in as it is.

pub(crate) mod anthropic;
pub(crate) mod openai;
pub(crate) mod script;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use axum::response::Response;
use futures_util::StreamExt;
use futures_util::stream;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

pub(crate) use script::{Answer, Delivery, End, Turn, closed_loop};

/// A key that the servers know to be wrong; any other is right.
pub(crate) const WRONG_KEY: &str = "sk-wrong-key-0000";
/// Anthropic takes 32 MB; so does this.
const BODY_BYTES: usize = 32_000_000;

/// Which protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    Anthropic,
    OpenAi,
}

/// A request that the vendor would have taken.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) protocol: Protocol,
    /// Counted from 0.
    pub(crate) number: usize,
    pub(crate) model: String,
    pub(crate) conversation: Vec<Said>,
    pub(crate) tools: Vec<Offered>,
    /// As it was sent.
    pub(crate) body: Value,
}

/// A piece of a conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Said {
    System(String),
    User(String),
    Model { text: String, calls: Vec<Called> },
    Result { call_id: String, text: String },
}

/// A tool that may be called.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Offered {
    pub(crate) name: String,
    pub(crate) schema: Value,
}

/// A call of a tool; the input is JSON text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Called {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) input: String,
}

impl Asked {
    /// The user's last words, and what was said since.
    pub(crate) fn task(&self) -> (&str, &[Said]) {
        let at = self.conversation.iter().rposition(|said| matches!(said, Said::User(_)));
        match at.map(|at| (&self.conversation[at], at)) {
            Some((Said::User(text), at)) => (text, &self.conversation[at + 1..]),
            _ => ("", &self.conversation),
        }
    }

    /// What came of the tools since the user's last words.
    pub(crate) fn results(&self) -> Vec<&str> {
        let results = self.task().1.iter().filter_map(|said| match said {
            Said::Result { text, .. } => Some(text.as_str()),
            _ => None,
        });
        results.collect()
    }
}

/// A request that the vendor would refuse.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) status: u16,
    pub(crate) kind: &'static str,
    pub(crate) message: String,
}

/// A request is invalid.
pub(crate) fn invalid(message: impl Into<String>) -> Refusal {
    Refusal { status: 400, kind: "invalid_request_error", message: message.into() }
}

type Script = dyn Fn(&Asked) -> Answer + Send + Sync;

struct State {
    script: Box<Script>,
    asked: Mutex<Vec<Asked>>,
    refused: Mutex<Vec<String>>,
}

/// A running server.
pub(crate) struct ModelServer {
    pub(crate) address: SocketAddr,
    state: Arc<State>,
    serving: JoinHandle<()>,
}

impl Drop for ModelServer {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl ModelServer {
    /// A server that answers what `script` says.
    pub(crate) async fn new(script: impl Fn(&Asked) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        Self::on(listener, script)
    }

    /// The same on a socket that is open already.
    pub(crate) fn on(
        listener: TcpListener,
        script: impl Fn(&Asked) -> Answer + Send + Sync + 'static,
    ) -> Self {
        let address = listener.local_addr().expect("it is bound");
        let (asked, refused) = (Mutex::default(), Mutex::default());
        let state = Arc::new(State { script: Box::new(script), asked, refused });
        let router = Router::new().fallback({
            let state = Arc::clone(&state);
            move |method: Method, uri: Uri, headers: HeaderMap, body: Body| {
                let state = Arc::clone(&state);
                async move { answer(&state, &method, &uri, &headers, body).await }
            }
        });
        let serving = tokio::spawn(async move {
            axum::serve(listener, router).await.expect("it serves until it is dropped");
        });
        Self { address, state, serving }
    }

    /// A server that gives these answers, one after the other.
    pub(crate) async fn scripted(answers: impl IntoIterator<Item = Answer>) -> Self {
        let answers: Vec<_> = answers.into_iter().collect();
        Self::new(move |asked| answers.get(asked.number).expect("the script has an answer").clone()).await
    }

    /// The base URL as Anthropic's clients have it.
    pub(crate) fn anthropic_url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The base URL as OpenAI's clients have it.
    pub(crate) fn openai_url(&self) -> String {
        format!("http://{}/v1", self.address)
    }

    /// What it was asked, in order.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.state.asked.lock().expect("nobody panics with it").clone()
    }

    /// Why it refused requests, in order.
    pub(crate) fn refused(&self) -> Vec<String> {
        self.state.refused.lock().expect("nobody panics with it").clone()
    }
}

async fn answer(state: &State, method: &Method, uri: &Uri, headers: &HeaderMap, body: Body) -> Response {
    let protocol = match uri.path() {
        "/v1/chat/completions" => Protocol::OpenAi,
        path if path.starts_with("/v1/chat") => return refuse(Protocol::OpenAi, &not_found(path)),
        "/v1/messages" => Protocol::Anthropic,
        path => return refuse(Protocol::Anthropic, &not_found(path)),
    };
    let checked = check(protocol, method, uri, headers, body).await;
    let asked = match checked {
        Ok(asked) => {
            let mut all = state.asked.lock().expect("nobody panics with it");
            let asked = Asked { number: all.len(), ..asked };
            all.push(asked.clone());
            asked
        }
        Err(refusal) => {
            state.refused.lock().expect("nobody panics with it").push(refusal.message.clone());
            return refuse(protocol, &refusal);
        }
    };
    match (state.script)(&asked) {
        Answer::Turn(turn) => {
            let body = match protocol {
                Protocol::Anthropic => anthropic::frames(&turn, &asked),
                Protocol::OpenAi => openai::frames(&turn, &asked),
            };
            deliver(protocol, "text/event-stream; charset=utf-8", body, turn.delivery)
        }
        Answer::Stream { content_type, body, delivery } => deliver(protocol, content_type, body, delivery),
        Answer::Error { status, retry_after, body } => error(protocol, status, retry_after, body),
        Answer::Silence => std::future::pending().await,
    }
}

fn not_found(path: &str) -> Refusal {
    Refusal { status: 404, kind: "not_found_error", message: format!("there is no {path}") }
}

async fn check(
    protocol: Protocol,
    method: &Method,
    uri: &Uri,
    headers: &HeaderMap,
    body: Body,
) -> Result<Asked, Refusal> {
    if method != Method::POST || uri.query().is_some() {
        return Err(invalid(format!("{method} {uri} is none of this API's")));
    }
    if headers.get(header::CONTENT_TYPE).is_none_or(|kind| kind != "application/json") {
        return Err(invalid("the content type has to be application/json"));
    }
    let too_large = |_| Refusal { status: 413, kind: "request_too_large", message: "too large".to_owned() };
    let body = axum::body::to_bytes(body, BODY_BYTES).await.map_err(too_large)?;
    match protocol {
        Protocol::Anthropic => anthropic::check(headers, &body),
        Protocol::OpenAi => openai::check(headers, &body),
    }
}

fn refuse(protocol: Protocol, refusal: &Refusal) -> Response {
    let body = match protocol {
        Protocol::Anthropic => anthropic::error_body(refusal.kind, &refusal.message),
        Protocol::OpenAi => openai::error_body(refusal.kind, &refusal.message),
    };
    error(protocol, refusal.status, None, body)
}

fn error(protocol: Protocol, status: u16, retry_after: Option<&str>, body: String) -> Response {
    let mut response = respond(protocol, status, "application/json", Body::from(body));
    if let Some(seconds) = retry_after {
        response.headers_mut().insert(header::RETRY_AFTER, seconds.parse().expect("it is a number"));
    }
    response
}

fn respond(protocol: Protocol, status: u16, content_type: &str, body: Body) -> Response {
    let request_id = match protocol {
        Protocol::Anthropic => ("request-id", "req_011CSHoEeqs5C35K2UUqR7Fy"),
        Protocol::OpenAi => ("x-request-id", "req_5f3b8a0c1d2e4f60"),
    };
    let status = StatusCode::from_u16(status).expect("it is a status");
    let response = Response::builder().status(status).header(request_id.0, request_id.1);
    response.header(header::CONTENT_TYPE, content_type).body(body).expect("the headers are plain")
}

/// Streams a body in the pieces, with the pauses and to the end that were asked for.
fn deliver(protocol: Protocol, content_type: &str, body: String, delivery: Delivery) -> Response {
    let (pieces, end) = delivery.pieces(body.into_bytes());
    let pieces = stream::iter(pieces).then(move |piece| async move {
        if !delivery.pause.is_zero() {
            tokio::time::sleep(delivery.pause).await;
        }
        Ok::<_, std::io::Error>(Bytes::from(piece))
    });
    let end = stream::once(async move {
        match end {
            End::Whole => Ok(Bytes::new()),
            End::BreakAt(_) => {
                // What was sent is on its way before the connection breaks.
                tokio::task::yield_now().await;
                Err(std::io::ErrorKind::ConnectionReset.into())
            }
            End::SilentAt(_) => std::future::pending().await,
        }
    });
    respond(protocol, 200, content_type, Body::from_stream(pieces.chain(end)))
}
