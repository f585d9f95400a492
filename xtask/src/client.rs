//! An HTTP client: connections that stay open, every wait with a deadline, and an outcome that says what is known.

use std::time::Duration;

use anyhow::Context;
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

/// Longer than any answer takes that the server still gives.
pub(crate) const DEADLINE: Duration = Duration::from_secs(150);

/// After so long without a piece a stream is taken to have given what there is.
const QUIET: Duration = Duration::from_secs(1);

/// A connection that was idle for longer is made anew: a server may close one that brings it no request for ten seconds,
/// at the very moment at which one is sent.
const IDLE: Duration = Duration::from_secs(5);

/// A request.
#[derive(Debug, Clone)]
pub(crate) struct Ask {
    pub(crate) method: &'static str,
    pub(crate) path: String,
    pub(crate) idempotency_key: Option<String>,
    pub(crate) body: Option<Value>,
}

impl Ask {
    pub(crate) fn new(method: &'static str, path: impl Into<String>, body: Option<Value>) -> Self {
        Self { method, path: path.into(), idempotency_key: None, body }
    }

    pub(crate) fn get(path: impl Into<String>) -> Self {
        Self::new("GET", path, None)
    }

    pub(crate) fn post(path: impl Into<String>, body: Option<Value>) -> Self {
        Self::new("POST", path, body)
    }

    /// The same under an idempotency key.
    pub(crate) fn once(self, key: impl Into<String>) -> Self {
        Self { idempotency_key: Some(key.into()), ..self }
    }
}

/// An answer.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// Whether it is an earlier one given again.
    pub(crate) replayed: bool,
    pub(crate) text: String,
}

impl Answer {
    /// Whether it was done.
    pub(crate) fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or(Value::Null)
    }
}

/// What a stream gives until it ends, or until nothing comes for a while: it may have no end.
async fn until_quiet(mut body: Incoming) -> anyhow::Result<Vec<u8>> {
    let mut given = vec![];
    while let Ok(Some(frame)) = timeout(QUIET, body.frame()).await {
        given.extend(frame?.into_data().unwrap_or_default());
    }
    Ok(given)
}

/// A caller: one connection at a time, made anew when it breaks.
pub(crate) struct Caller {
    key: String,
    connection: Option<Connection>,
}

struct Connection {
    to: String,
    sender: SendRequest<Full<Bytes>>,
    used: Instant,
}

impl Caller {
    pub(crate) fn new(key: impl Into<String>) -> Self {
        Self { key: key.into(), connection: None }
    }

    /// Sends a request to this address. An error means that nobody knows whether it was carried out.
    pub(crate) async fn ask(&mut self, address: &str, ask: &Ask) -> anyhow::Result<Answer> {
        let asked = timeout(DEADLINE, self.exchange(address, ask)).await;
        let asked = asked.context("no answer in time").and_then(|answer| answer);
        if asked.is_err() {
            self.connection = None;
        }
        asked
    }

    /// Closes the connection, whatever is on its way.
    pub(crate) fn hang_up(&mut self) {
        self.connection = None;
    }

    async fn exchange(&mut self, address: &str, ask: &Ask) -> anyhow::Result<Answer> {
        let response = self.open(address, ask).await?;
        let status = response.status().as_u16();
        let replayed = response.headers().contains_key("idempotency-replayed");
        let kind = response.headers().get("content-type").and_then(|kind| kind.to_str().ok());
        let body = if kind.is_some_and(|kind| kind.starts_with("text/event-stream")) {
            let body = until_quiet(response.into_body()).await?;
            self.hang_up();
            body
        } else {
            response.into_body().collect().await?.to_bytes().to_vec()
        };
        Ok(Answer { status, replayed, text: String::from_utf8_lossy(&body).into_owned() })
    }

    /// Sends a request and gives the answer as it begins, for a body that is read as it comes.
    pub(crate) async fn open(
        &mut self,
        address: &str,
        ask: &Ask,
    ) -> anyhow::Result<hyper::Response<Incoming>> {
        let mut request = hyper::Request::builder()
            .method(ask.method)
            .uri(&ask.path)
            .header("host", address)
            .header("authorization", format!("Bearer {}", self.key));
        if let Some(key) = &ask.idempotency_key {
            request = request.header("idempotency-key", key);
        }
        if ask.body.is_some() {
            request = request.header("content-type", "application/json");
        }
        let body = ask.body.as_ref().map(Value::to_string).unwrap_or_default();
        let request = request.body(Full::new(Bytes::from(body)))?;
        let sender = self.connected(address).await?;
        Ok(sender.send_request(request).await?)
    }

    async fn connected(&mut self, address: &str) -> anyhow::Result<&mut SendRequest<Full<Bytes>>> {
        let usable = |connection: &Connection| {
            connection.to == address && !connection.sender.is_closed() && connection.used.elapsed() < IDLE
        };
        if !self.connection.as_ref().is_some_and(usable) {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            let (sender, connection) = handshake(TokioIo::new(stream)).await?;
            tokio::spawn(connection);
            self.connection = Some(Connection { to: address.to_owned(), sender, used: Instant::now() });
        }
        let connection = self.connection.as_mut().context("it was just made")?;
        connection.used = Instant::now();
        connection.sender.ready().await?;
        Ok(&mut connection.sender)
    }
}
