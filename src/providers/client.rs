//! The one way out: every HTTP call that this program makes goes through a [`Client`].
//!
//! Where a customer has named the address it is [`Clients::guarded`], which opens no socket but to a public address or
//! to one that the operator allows. The check stands where the address of the socket is known: an address in the URL is
//! checked before each hop, a name's addresses are what the resolver lets through, and there is nothing in between that
//! could ask again. Where the operator, or this program, names the address it is [`Clients::operator`].

use std::path::Path;
use std::time::Duration;

use hyper::body::Bytes;
use reqwest::header::{self, HeaderMap, HeaderName};
use reqwest::{Method, StatusCode, redirect};
use rustls::{ClientConfig, RootCertStore};
use tokio::time::{Instant, timeout_at};
use url::Url;

use super::guard::{Guard, Refused, check_form};
use super::resolver::{Resolver, Unresolved};
use crate::config;

/// Why a call was not answered, or not wholly.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The address may not be called. Nothing was sent there.
    #[error("the URL {0}")]
    Refused(#[from] Refused),
    /// There is no connection to it: the name does not resolve, it is refused, the certificate is wrong.
    #[error("it cannot be connected to: {0}")]
    Unconnected(String),
    /// There was no connection in time: the name was not resolved, nobody said anything, or TLS was not agreed on.
    #[error("it cannot be connected to: it took too long")]
    Unreached,
    /// The headers did not come in time.
    #[error("it did not answer in time")]
    Silent,
    /// The body did not come in time.
    #[error("its answer did not come in time")]
    Slow,
    /// The body is larger than the call allows.
    #[error("its answer is larger than {0} bytes")]
    TooLarge(usize),
    /// It redirects too often.
    #[error("it redirects more than {0} times")]
    Redirects(usize),
    /// It redirects from `https` to `http`.
    #[error("it redirects from https to http")]
    Downgrade,
    /// The connection broke, or what came over it is not HTTP.
    #[error("the connection broke: {0}")]
    Broken(String),
}

impl Error {
    /// Whether the request certainly never reached anyone, so that making it again cannot repeat an effect. Of a call
    /// that was redirected only the last hop is meant.
    #[must_use]
    pub const fn never_sent(&self) -> bool {
        matches!(self, Self::Refused(_) | Self::Unconnected(_) | Self::Unreached)
    }
}

/// A request to make.
#[derive(Debug, Clone)]
pub struct Call {
    /// How.
    pub method: Method,
    /// Where to.
    pub url: Url,
    /// With these headers; those that are the connection's own business are left out.
    pub headers: HeaderMap,
    /// With this body.
    pub body: Bytes,
}

impl Call {
    /// A GET.
    #[must_use]
    pub fn get(url: Url) -> Self {
        Self { method: Method::GET, url, headers: HeaderMap::new(), body: Bytes::new() }
    }
}

/// How long a call may take and how much it may bring.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// How long the headers of each answer may take, connecting included.
    pub header: Duration,
    /// How long nothing may come of the body.
    pub between: Duration,
    /// How long all of it may take.
    pub total: Duration,
    /// Bytes of the body.
    pub response_bytes: usize,
    /// Redirects to follow; with 0 a redirect is the answer.
    pub redirects: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            header: config::OUTGOING_HEADER_DEADLINE,
            between: config::OUTGOING_BODY_DEADLINE,
            total: config::OUTGOING_DEADLINE,
            response_bytes: config::OUTGOING_RESPONSE_BYTES,
            redirects: config::OUTGOING_REDIRECTS,
        }
    }
}

/// The clients of a server.
#[derive(Debug, Clone)]
pub struct Clients {
    /// For addresses that a customer names.
    pub guarded: Client,
    /// For addresses that the operator names, or this program.
    pub operator: Client,
    tls: ClientConfig,
}

impl Clients {
    /// Clients that trust the certificate authorities of this machine.
    ///
    /// # Panics
    /// Never: the settings are constants that fit each other.
    #[must_use]
    pub fn new(guard: Guard) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
        let mut tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("ring has what the versions need")
            .with_root_certificates(roots)
            .with_no_client_auth();
        tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let guarded = Client::build(&tls, Some(guard), None);
        let operator = Client::build(&tls, None, None);
        Self { guarded, operator, tls }
    }

    /// A client that speaks over a Unix socket, whatever host its URLs name.
    #[must_use]
    pub fn over_socket(&self, path: &Path) -> Client {
        Client::build(&self.tls, None, Some(path))
    }
}

/// Makes calls.
#[derive(Debug, Clone)]
pub struct Client {
    inner: reqwest::Client,
    resolver: Resolver,
    guard: Option<Guard>,
}

impl Client {
    /// No proxy of the environment, no cookies, no referer, no redirect and no retry but our own.
    fn build(tls: &ClientConfig, guard: Option<Guard>, socket: Option<&Path>) -> Self {
        let resolver = Resolver::new(guard.clone());
        #[expect(clippy::disallowed_methods, reason = "this is the one client")]
        let mut builder = reqwest::Client::builder()
            .tls_backend_preconfigured(tls.clone())
            .no_proxy()
            .redirect(redirect::Policy::none())
            .retry(reqwest::retry::never())
            .referer(false)
            .no_gzip()
            .no_brotli()
            .no_deflate()
            .no_zstd()
            .user_agent(concat!("theazo/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(config::OUTGOING_CONNECT_DEADLINE)
            .pool_idle_timeout(config::OUTGOING_IDLE)
            .pool_max_idle_per_host(config::OUTGOING_IDLE_CONNECTIONS)
            .dns_resolver(resolver.clone());
        if let Some(path) = socket {
            builder = builder.unix_socket(path);
        }
        let inner = builder.build().expect("the settings fit each other");
        Self { inner, resolver, guard }
    }

    /// Checks an address without calling it: what it says, and what its name resolves to. A name that does not resolve
    /// now is no offence: it may later, and is checked again then.
    ///
    /// # Errors
    /// [`Refused`].
    pub async fn check(&self, url: &Url) -> Result<(), Refused> {
        self.check_literal(url)?;
        let Some(url::Host::Domain(name)) = url.host() else { return Ok(()) };
        let until = Instant::now() + config::OUTGOING_CONNECT_DEADLINE;
        match timeout_at(until, self.resolver.clone().addresses(name.to_owned())).await {
            Ok(Err(Unresolved::Refused(refused))) => Err(refused),
            Ok(Ok(_) | Err(Unresolved::Unknown(_))) | Err(_) => Ok(()),
        }
    }

    /// Checks what an address says by itself; nobody is asked.
    ///
    /// # Errors
    /// [`Refused`].
    pub fn check_literal(&self, url: &Url) -> Result<(), Refused> {
        self.guard.as_ref().map_or_else(|| check_form(url), |guard| guard.check(url))
    }

    /// Makes a call and follows its redirects, each of which is checked like the first address.
    ///
    /// # Errors
    /// [`Error`]. An answer of whatever status is none.
    pub async fn send(&self, mut call: Call, limits: &Limits) -> Result<Reply, Error> {
        let until = Instant::now() + limits.total;
        for name in CONNECTION_HEADERS {
            call.headers.remove(name);
        }
        for _ in 0..=limits.redirects {
            let response = self.hop(&call, limits, until).await?;
            let next = if limits.redirects > 0 { redirected(&call, &response)? } else { None };
            let Some(next) = next else {
                let (url, limits) = (call.url, *limits);
                return Ok(Reply { url, response, limits, until, received: 0 });
            };
            call = next;
        }
        Err(Error::Redirects(limits.redirects))
    }

    async fn hop(&self, call: &Call, limits: &Limits, until: Instant) -> Result<reqwest::Response, Error> {
        self.check_literal(&call.url)?;
        let mut request = reqwest::Request::new(call.method.clone(), call.url.clone());
        request.headers_mut().clone_from(&call.headers);
        if !call.body.is_empty() {
            *request.body_mut() = Some(call.body.clone().into());
        }
        let until = until.min(Instant::now() + limits.header);
        let answer = timeout_at(until, self.inner.execute(request)).await.map_err(|_| Error::Silent)?;
        let response = answer.map_err(|error| explain(&error))?;
        // The resolver let nothing else through; this would tell if that were ever not so.
        let permitted = |address: std::net::SocketAddr| {
            self.guard.as_ref().is_none_or(|guard| guard.permits(address.ip()))
        };
        if response.remote_addr().is_some_and(|address| !permitted(address)) {
            return Err(Refused::Special.into());
        }
        Ok(response)
    }
}

/// Headers that say how the connection is used, or whose it is. The client writes them itself.
const CONNECTION_HEADERS: [HeaderName; 11] = [
    header::HOST,
    header::CONNECTION,
    header::CONTENT_LENGTH,
    header::TRANSFER_ENCODING,
    header::TE,
    header::TRAILER,
    header::UPGRADE,
    header::EXPECT,
    header::PROXY_AUTHORIZATION,
    HeaderName::from_static("proxy-connection"),
    HeaderName::from_static("keep-alive"),
];

/// Headers that may go to another host than the one they were written for. Anything else may be a credential.
const HARMLESS_HEADERS: [HeaderName; 4] =
    [header::ACCEPT, header::ACCEPT_LANGUAGE, header::CONTENT_TYPE, header::USER_AGENT];

/// The call that an answer leads on to (RFC 9110, 15.4); `None` where it is the answer.
fn redirected(call: &Call, response: &reqwest::Response) -> Result<Option<Call>, Error> {
    let status = response.status();
    let redirects = matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308);
    let location = response.headers().get(header::LOCATION).filter(|_| redirects);
    let Some(url) = location.and_then(|location| call.url.join(location.to_str().ok()?).ok()) else {
        return Ok(None);
    };
    if call.url.scheme() == "https" && url.scheme() == "http" {
        return Err(Error::Downgrade);
    }
    let mut next = Call { url, ..call.clone() };
    let becomes_get = match status {
        StatusCode::MOVED_PERMANENTLY | StatusCode::FOUND => call.method == Method::POST,
        StatusCode::SEE_OTHER => call.method != Method::HEAD,
        _ => false,
    };
    if becomes_get {
        next.method = Method::GET;
        next.body = Bytes::new();
        next.headers.remove(header::CONTENT_TYPE);
    }
    if next.url.origin() != call.url.origin() {
        next.headers.clear();
        for name in HARMLESS_HEADERS {
            if let Some(value) =
                call.headers.get(&name).filter(|_| name != header::CONTENT_TYPE || !becomes_get)
            {
                next.headers.insert(name, value.clone());
            }
        }
    }
    Ok(Some(next))
}

/// What went wrong, without the URL, which may hold what nobody else is to see.
fn explain(error: &reqwest::Error) -> Error {
    let mut cause: &(dyn std::error::Error + 'static) = error;
    loop {
        if let Some(unresolved) = cause.downcast_ref::<Unresolved>() {
            return unresolved.clone().into();
        }
        let Some(source) = cause.source() else { break };
        cause = source;
    }
    match (error.is_connect(), error.is_timeout()) {
        (true, true) => Error::Unreached,
        (true, false) => Error::Unconnected(cause.to_string()),
        (false, true) => Error::Broken("it took too long".to_owned()),
        (false, false) => Error::Broken(cause.to_string()),
    }
}

impl From<Unresolved> for Error {
    fn from(unresolved: Unresolved) -> Self {
        match unresolved {
            Unresolved::Refused(refused) => Self::Refused(refused),
            Unresolved::Unknown(_) => Self::Unconnected(unresolved.to_string()),
        }
    }
}

/// An answer whose body is still coming.
#[derive(Debug)]
pub struct Reply {
    /// Where it came from, after redirects.
    pub url: Url,
    response: reqwest::Response,
    limits: Limits,
    until: Instant,
    received: usize,
}

/// As much of a body as the call allows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Excerpt {
    /// Its beginning, or all of it.
    pub bytes: Vec<u8>,
    /// There was more.
    pub truncated: bool,
}

impl Reply {
    /// Its status.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.response.status()
    }

    /// Its headers.
    #[must_use]
    pub fn headers(&self) -> &HeaderMap {
        self.response.headers()
    }

    /// The next piece of the body; `None` at its end.
    ///
    /// # Errors
    /// [`Error::TooLarge`] as soon as there is more than the call allows, [`Error::Slow`], [`Error::Broken`].
    pub async fn piece(&mut self) -> Result<Option<Bytes>, Error> {
        let piece = self.next().await?;
        if self.received > self.limits.response_bytes {
            return Err(Error::TooLarge(self.limits.response_bytes));
        }
        Ok(piece)
    }

    /// All of the body.
    ///
    /// # Errors
    /// As [`Self::piece`].
    pub async fn whole(mut self) -> Result<Vec<u8>, Error> {
        let mut bytes = vec![];
        while let Some(piece) = self.piece().await? {
            bytes.extend_from_slice(&piece);
        }
        Ok(bytes)
    }

    /// As much of the body as the call allows; no more is read.
    ///
    /// # Errors
    /// [`Error::Slow`], [`Error::Broken`].
    pub async fn excerpt(mut self) -> Result<Excerpt, Error> {
        let mut bytes = vec![];
        while let Some(piece) = self.next().await? {
            bytes.extend_from_slice(&piece);
            if self.received > self.limits.response_bytes {
                bytes.truncate(self.limits.response_bytes);
                return Ok(Excerpt { bytes, truncated: true });
            }
        }
        Ok(Excerpt { bytes, truncated: false })
    }

    async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        let until = self.until.min(Instant::now() + self.limits.between);
        let piece = timeout_at(until, self.response.chunk()).await.map_err(|_| Error::Slow)?;
        let piece = piece.map_err(|error| explain(&error))?;
        self.received += piece.as_ref().map_or(0, Bytes::len);
        Ok(piece)
    }
}
