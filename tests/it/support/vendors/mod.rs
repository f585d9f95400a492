//! Strict servers that stand in for compute vendors: they refuse what the vendor's published API does not have, and
//! break in the ways that networks and vendors do.

pub(crate) mod docker;
pub(crate) mod e2b;
pub(crate) mod fly;
pub(crate) mod inside;
pub(crate) mod verify;
pub(crate) mod webhook;

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use serde::de::DeserializeOwned;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Notify;

/// Both directions of a connection.
pub(crate) trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// A connection whose head has been read.
pub(crate) type Connection = BufReader<Box<dyn Duplex>>;

/// A request as it came.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) query: BTreeMap<String, String>,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: Vec<u8>,
}

impl Request {
    /// The path's parts.
    pub(crate) fn parts(&self) -> Vec<&str> {
        self.path.trim_start_matches('/').split('/').collect()
    }

    /// The body as JSON of exactly this shape.
    pub(crate) fn json<T: DeserializeOwned>(&self) -> Result<T, Answer> {
        serde_json::from_slice(&self.body).map_err(|error| Answer::violation(&format!("body: {error}")))
    }

    /// Refuses headers but those that every HTTP client sends, these, and nothing in them but these values.
    pub(crate) fn only_headers(&self, allowed: &[(&str, Option<&str>)]) -> Result<(), Answer> {
        const EVERYONE: [&str; 5] = ["host", "accept", "user-agent", "content-length", "connection"];
        for name in self.headers.keys() {
            let known = EVERYONE.contains(&name.as_str()) || allowed.iter().any(|(known, _)| known == name);
            if !known {
                return Err(Answer::violation(&format!("header {name}")));
            }
        }
        for (name, value) in allowed {
            let sent = self.headers.get(*name).map(String::as_str);
            if value.is_some() && sent != *value {
                return Err(Answer::violation(&format!("header {name} is {sent:?}")));
            }
        }
        Ok(())
    }

    /// Refuses parameters but these.
    pub(crate) fn only_query(&self, allowed: &[&str]) -> Result<(), Answer> {
        match self.query.keys().find(|name| !allowed.contains(&name.as_str())) {
            Some(name) => Err(Answer::violation(&format!("query {name}"))),
            None => Ok(()),
        }
    }
}

/// What a server does with a connection after its answer's head.
pub(crate) type Takeover = Box<dyn FnOnce(Connection) -> futures_util::future::BoxFuture<'static, ()> + Send>;

/// What is answered.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    /// Set when the client did what the vendor does not allow.
    pub(crate) violation: Option<String>,
    /// Takes the connection over.
    pub(crate) takeover: Option<Takeover>,
}

impl Answer {
    pub(crate) fn new(status: u16, kind: &str, body: impl Into<Vec<u8>>) -> Self {
        let headers = vec![("content-type".to_owned(), kind.to_owned())];
        Self { status, headers, body: body.into(), violation: None, takeover: None }
    }

    pub(crate) fn json(status: u16, body: &serde_json::Value) -> Self {
        Self::new(status, "application/json", body.to_string())
    }

    pub(crate) fn empty(status: u16) -> Self {
        Self { status, headers: vec![], body: vec![], violation: None, takeover: None }
    }

    /// A refusal that a right client never meets.
    pub(crate) fn violation(what: &str) -> Self {
        Self { violation: Some(what.to_owned()), ..Self::new(400, "text/plain", what) }
    }
}

/// How a call goes wrong.
#[derive(Debug, Clone)]
pub(crate) enum Fault {
    /// The vendor answers this without doing anything.
    Status(u16, Vec<(String, String)>, String),
    /// It does what was asked, and its answer never comes, though the connection stands.
    Silence,
    /// The connection is closed before anything is done.
    CutBefore,
    /// It does what was asked, and the connection is closed amid the answer.
    CutAfter,
    /// It does what was asked, and answers, when it is let.
    Held(Arc<Gate>),
}

/// Where a request waits until it is let.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    /// Somebody stands before it.
    pub(crate) reached: Notify,
    /// Whoever stands before it goes on.
    pub(crate) opened: Notify,
}

/// A vendor.
#[async_trait::async_trait]
pub(crate) trait Vendor: Send + Sync + 'static {
    async fn answer(&self, request: Request) -> Answer;
}

struct State {
    vendor: Box<dyn Vendor>,
    faults: Mutex<VecDeque<(String, Fault)>>,
    violations: Mutex<Vec<String>>,
    seen: Mutex<Vec<String>>,
    byte_by_byte: AtomicBool,
}

impl State {
    fn of(vendor: impl Vendor) -> Arc<Self> {
        Arc::new(Self {
            vendor: Box::new(vendor),
            faults: Mutex::default(),
            violations: Mutex::default(),
            seen: Mutex::default(),
            byte_by_byte: AtomicBool::new(false),
        })
    }
}

/// A server over HTTP/1.1 for one vendor; one request a connection.
pub(crate) struct Wire {
    pub(crate) address: SocketAddr,
    state: Arc<State>,
    task: tokio::task::JoinHandle<()>,
}

impl Wire {
    /// A server on a port of this machine.
    pub(crate) async fn serve(vendor: impl Vendor) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = State::of(vendor);
        let shared = Arc::clone(&state);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                stream.set_nodelay(true).unwrap();
                tokio::spawn(converse(Box::new(stream), Arc::clone(&shared)));
            }
        });
        Self { address, state, task }
    }

    /// A server on a Unix socket; it has no address.
    pub(crate) fn serve_unix(vendor: impl Vendor, path: &Path) -> Self {
        let listener = UnixListener::bind(path).unwrap();
        let address = SocketAddr::from(([0, 0, 0, 0], 0));
        let state = State::of(vendor);
        let shared = Arc::clone(&state);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(converse(Box::new(stream), Arc::clone(&shared)));
            }
        });
        Self { address, state, task }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Sends every further answer byte by byte.
    pub(crate) fn split(&self) {
        self.state.byte_by_byte.store(true, Ordering::SeqCst);
    }

    /// The next request whose `METHOD /path` holds this goes wrong so.
    pub(crate) fn fault(&self, at: &str, fault: Fault) {
        self.state.faults.lock().unwrap().push_back((at.to_owned(), fault));
    }

    /// Nothing goes wrong any more.
    pub(crate) fn relent(&self) {
        self.state.faults.lock().unwrap().clear();
    }

    /// The next request whose `METHOD /path` holds this waits at the gate.
    pub(crate) fn hold(&self, at: &str) -> Arc<Gate> {
        let gate = Arc::new(Gate::default());
        self.fault(at, Fault::Held(Arc::clone(&gate)));
        gate
    }

    /// The requests that came, as `METHOD /path`, since the last time this was asked.
    pub(crate) fn seen(&self) -> Vec<String> {
        std::mem::take(&mut *self.state.seen.lock().unwrap())
    }

    /// Fails if the client did what the vendor does not allow, or if a fault was never met.
    pub(crate) fn satisfied(&self) {
        assert_eq!(*self.state.violations.lock().unwrap(), Vec::<String>::new());
        assert!(self.state.faults.lock().unwrap().is_empty(), "a fault was never met");
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn converse(stream: Box<dyn Duplex>, state: Arc<State>) {
    let mut connection = BufReader::new(stream);
    let Some(request) = read(&mut connection).await else { return };
    let line = format!("{} {}", request.method, request.path);
    state.seen.lock().unwrap().push(line.clone());
    let fault = {
        let mut faults = state.faults.lock().unwrap();
        // With its method it is one request exactly: another below the same path must not take its fault away.
        let meant = |at: &str| match at.contains(" /") {
            true => line == at || line.starts_with(&format!("{at}?")),
            false => line.contains(at),
        };
        let at = faults.iter().position(|(at, _)| meant(at));
        at.and_then(|at| faults.remove(at)).map(|(_, fault)| fault)
    };
    let mut answer = match &fault {
        Some(Fault::CutBefore) => return,
        Some(Fault::Held(gate)) => {
            gate.reached.notify_one();
            gate.opened.notified().await;
            state.vendor.answer(request).await
        }
        Some(Fault::Status(status, headers, body)) => {
            Answer { headers: headers.clone(), ..Answer::new(*status, "application/json", body.as_bytes()) }
        }
        _ => state.vendor.answer(request).await,
    };
    if let Some(violation) = answer.violation.take() {
        state.violations.lock().unwrap().push(format!("{line}: {violation}"));
    }
    if matches!(fault, Some(Fault::Silence)) {
        // Until the client goes away.
        let _ = connection.read(&mut [0; 1]).await;
        return;
    }
    let takeover = answer.takeover.take();
    let bytes = written(&answer, takeover.is_some());
    let cut = if matches!(fault, Some(Fault::CutAfter)) { bytes.len() / 2 } else { bytes.len() };
    let step = if state.byte_by_byte.load(Ordering::SeqCst) { 1 } else { bytes.len().max(1) };
    for piece in bytes[..cut].chunks(step) {
        if connection.get_mut().write_all(piece).await.is_err() || connection.get_mut().flush().await.is_err()
        {
            return;
        }
    }
    match takeover {
        Some(takeover) => takeover(connection).await,
        None => drop(connection.get_mut().shutdown().await),
    }
}

/// The answer's bytes. Each byte of a body is a chunk of its own, so that no reader can count on more.
fn written(answer: &Answer, takeover: bool) -> Vec<u8> {
    let mut bytes = format!("HTTP/1.1 {} X\r\n", answer.status).into_bytes();
    for (name, value) in &answer.headers {
        bytes.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
    }
    if takeover {
        bytes.extend_from_slice(b"\r\n");
        return bytes;
    }
    bytes.extend_from_slice(b"connection: close\r\n");
    if answer.status == 204 || answer.status == 304 {
        bytes.extend_from_slice(b"\r\n");
        return bytes;
    }
    bytes.extend_from_slice(b"transfer-encoding: chunked\r\n\r\n");
    let size = if answer.body.len() > 64 * 1024 { 4_096 } else { 1 };
    for chunk in answer.body.chunks(size) {
        bytes.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
        bytes.extend_from_slice(chunk);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes.extend_from_slice(b"0\r\n\r\n");
    bytes
}

async fn read(connection: &mut Connection) -> Option<Request> {
    let mut line = String::new();
    connection.read_line(&mut line).await.ok()?;
    let mut words = line.split_whitespace();
    let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        connection.read_line(&mut line).await.ok()?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        let twice = headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
        assert!(twice.is_none(), "a header came twice: {name}");
    }
    let mut body = vec![];
    if let Some(length) = headers.get("content-length") {
        body = vec![0; length.parse().ok()?];
        connection.read_exact(&mut body).await.ok()?;
    } else if headers.get("transfer-encoding").is_some_and(|coding| coding == "chunked") {
        headers.remove("transfer-encoding");
        loop {
            let mut size = String::new();
            connection.read_line(&mut size).await.ok()?;
            let size = usize::from_str_radix(size.trim(), 16).ok()?;
            let mut chunk = vec![0; size + 2];
            connection.read_exact(&mut chunk).await.ok()?;
            if size == 0 {
                break;
            }
            body.extend_from_slice(&chunk[..size]);
        }
    }
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    let decode = |text: &str| {
        percent_encoding::percent_decode_str(&text.replace('+', " ")).decode_utf8().unwrap().into_owned()
    };
    let pair = |pair: &str| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (decode(name), decode(value))
    };
    let query = query.split('&').filter(|pair| !pair.is_empty()).map(pair).collect();
    Some(Request { method, path: path.to_owned(), query, headers, body })
}
