//! The serving loop, from the first connection to the last.
//!
//! Each connection is a task. What a caller may hold up is bounded: connections by number, headers by time, size and
//! number, HTTP/2 by streams. Told to stop, the loop closes its socket, lets the requests in flight finish and returns.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::ConnectInfo;
use axum::response::Response;
use hyper::Request;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use rustix::net::sockopt::set_tcp_user_timeout;
use tokio::net::{TcpListener, TcpSocket, TcpStream, lookup_host};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tower::ServiceExt;

use crate::config;
use crate::http::health;

/// Listens on an address and port; a name is looked up, and its first address that can be listened on is taken.
///
/// # Errors
/// When there is none.
pub async fn listen(address: &str) -> io::Result<TcpListener> {
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for address in lookup_host(address).await? {
        match listen_on(address) {
            Ok(listener) => return Ok(listener),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn listen_on(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // So that a server can be started again at once, while connections of the one before are being forgotten.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(config::LISTEN_QUEUE)
}

/// Serves until `stopping` holds true, so many connections at the same time; then lets the requests in flight finish,
/// for as long as [`config::DRAIN_DEADLINE`]. Event streams are to end by themselves when `stopping` holds true.
pub async fn run(listener: TcpListener, router: Router, places: usize, mut stopping: watch::Receiver<bool>) {
    let builder = Arc::new(connections());
    let places = Arc::new(Semaphore::new(places));
    let graceful = GracefulShutdown::new();
    let adding_up = tokio::spawn(health::add_up());
    loop {
        let next = async {
            let place = Arc::clone(&places).acquire_owned().await.expect("the semaphore is never closed");
            (place, listener.accept().await)
        };
        let (place, accepted) = tokio::select! {
            biased;
            _ = stopping.wait_for(|stopping| *stopping) => break,
            next = next => next,
        };
        match accepted {
            Ok((stream, peer)) => {
                let caller = Caller { stream, peer, watcher: graceful.watcher(), place };
                tokio::spawn(caller.serve(Arc::clone(&builder), router.clone()));
            }
            Err(error) => rest_after(&error).await,
        }
    }
    drop(listener);
    tracing::info!(connections = graceful.count(), "no more connections are accepted");
    if tokio::time::timeout(config::DRAIN_DEADLINE, graceful.shutdown()).await.is_err() {
        tracing::warn!("requests were still running at the deadline and are cut");
    }
    adding_up.abort();
}

/// Makes SIGTERM and SIGINT stop the server, and a second one end the process at once.
///
/// # Errors
/// When the system does not let signals be handled.
pub fn stop_on_signals(stopping: watch::Sender<bool>) -> io::Result<()> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::spawn(async move {
        loop {
            let name = tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
            };
            if stopping.send_replace(true) {
                tracing::warn!(signal = name, "told to stop again: ending at once");
                std::process::exit(1);
            }
            tracing::info!(signal = name, "told to stop");
        }
    });
    Ok(())
}

/// Lets the process have as many files open as its connections need, where the system allows it.
pub fn raise_open_files() {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return };
    let wanted = config::OPEN_FILES.min(hard);
    if soft < wanted
        && let Err(error) = setrlimit(Resource::RLIMIT_NOFILE, wanted, hard)
    {
        tracing::debug!(%error, soft, wanted, "the limit of open files stays as it is");
    }
}

/// How every connection is served.
fn connections() -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(config::HEADER_DEADLINE)
        .max_headers(config::HEADERS)
        .max_buf_size(config::HEADER_BYTES);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(config::HTTP2_STREAMS)
        .max_header_list_size(u32::try_from(config::HEADER_BYTES).expect("some thousands"))
        .keep_alive_interval(config::HTTP2_PING)
        .keep_alive_timeout(config::HTTP2_PING);
    builder
}

fn whole_ms(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}

/// Waits a little where accepting would fail again at once: the process or the machine has no file to spare.
async fn rest_after(error: &io::Error) {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
    if matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted) {
        return; // that one caller went away
    }
    tracing::warn!(%error, "a connection could not be accepted");
    tokio::time::sleep(config::ACCEPT_REST).await;
}

/// A connection that was accepted, and its place among those that may be open.
struct Caller {
    stream: TcpStream,
    peer: SocketAddr,
    watcher: Watcher,
    place: OwnedSemaphorePermit,
}

/// A connection that is being served.
type Served = Pin<Box<dyn Future<Output = Result<(), Box<dyn std::error::Error + Send + Sync>>> + Send>>;

impl Caller {
    async fn serve(self, builder: Arc<Builder<TokioExecutor>>, router: Router) {
        let peer = self.peer;
        if let Err(error) = self.stream.set_nodelay(true) {
            tracing::debug!(%error, %peer, "small answers may be slow");
        }
        if let Err(error) = set_tcp_user_timeout(&self.stream, whole_ms(config::STALLED_READER)) {
            tracing::debug!(%error, %peer, "a caller that stalls is kept");
        }
        let asked = Arc::new(AtomicBool::new(false));
        let mut connection = self.connection(&builder, router, Arc::clone(&asked));
        // The deadline of the headers begins after the protocol is known; a caller that says nothing never gets there.
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = tokio::time::sleep(config::HEADER_DEADLINE) => {
                if !asked.load(Ordering::Relaxed) {
                    return;
                }
                connection.await
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%error, %peer, "a connection ended early");
        }
    }

    /// The connection, as it is served. It lies by itself: kept in the task that drives it, it would take its place there
    /// several times over.
    fn connection(self, builder: &Builder<TokioExecutor>, router: Router, asked: Arc<AtomicBool>) -> Served {
        let (peer, place) = (self.peer, self.place);
        let service = hyper::service::service_fn(move |mut request: Request<Incoming>| {
            // As long as the connection is there.
            let _place = &place;
            asked.store(true, Ordering::Relaxed);
            request.extensions_mut().insert(ConnectInfo(peer));
            let answering = router.clone().oneshot(request);
            async move { answering.await.map(|response: Response| response) }
        });
        let connection = builder.serve_connection(TokioIo::new(self.stream), service).into_owned();
        Box::pin(self.watcher.watch(connection))
    }
}
