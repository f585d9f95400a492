//! The serving loop: what a caller may hold up, and how it ends.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::routing::get;
use nix::sys::signal::Signal;
use theazo::{config, serve};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{Notify, oneshot, watch};
use tokio::task::JoinHandle;

use crate::support::cluster::{Scratch, database, url_of};
use crate::support::server::{MASTER_KEY, Server, exchange, theazo_with_files};
use crate::support::wait::until_async;

/// A serving loop of a test.
struct Serving {
    address: SocketAddr,
    stopping: watch::Sender<bool>,
    task: JoinHandle<()>,
}

async fn start(router: Router) -> Serving {
    start_with(router, config::CONNECTIONS).await
}

async fn start_with(router: Router, places: usize) -> Serving {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("there is a free port");
    let address = listener.local_addr().expect("it has one");
    let (stopping, stopped) = watch::channel(false);
    let task = tokio::spawn(serve::run(listener, router, places, stopped));
    Serving { address, stopping, task }
}

fn hello() -> Router {
    Router::new().route("/", get(async || "hello"))
}

const REQUEST: &str = "GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";

/// Where nobody asks for the metrics, what was measured would pile up, request by request.
#[tokio::test]
async fn what_is_measured_is_added_up_though_nobody_asks_for_it() {
    let scratch = Scratch::new();
    let server = Server::start(&scratch.path.join("data")).await;
    until_async("what was measured to be added up twice", async || {
        let answer =
            exchange(&server.address, "GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
                .await
                .unwrap();
        let line = answer.lines().find_map(|line| line.strip_prefix("theazo_metrics_added_up_total "))?;
        (line.trim().parse::<u64>().unwrap() >= 2).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_request_in_flight_is_answered_while_the_server_stops_and_no_other_is_taken() {
    let (entered, release) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (told, held) = (Arc::clone(&entered), Arc::clone(&release));
    let slow = get(async move || {
        told.notify_one();
        held.notified().await;
        "done"
    });
    let serving = start(Router::new().route("/", slow)).await;
    let address = serving.address.to_string();
    let asking = tokio::spawn(async move { exchange(&address, REQUEST).await });
    entered.notified().await;
    // A connection without a request does not keep the server.
    let mut idle = TcpStream::connect(serving.address).await.expect("it listens");
    serving.stopping.send_replace(true);
    let mut rest = Vec::new();
    let _reset = idle.read_to_end(&mut rest).await;
    assert!(TcpStream::connect(serving.address).await.is_err(), "the socket is closed");
    assert!(!serving.task.is_finished());
    release.notify_one();
    let answer = asking.await.expect("it ran").expect("it was answered");
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("done"), "{answer}");
    serving.task.await.expect("the loop ends when the last request has");
}

#[tokio::test]
async fn headers_beyond_their_limits_are_refused() {
    let serving = start(hello()).await;
    let address = serving.address.to_string();
    let long = format!("GET / HTTP/1.1\r\nhost: x\r\nx-long: {}\r\n\r\n", "a".repeat(40_000));
    let answer = exchange(&address, &long).await.unwrap_or_default();
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431"), "{answer}");
    let many = format!("GET / HTTP/1.1\r\nhost: x\r\n{}\r\n", "x-many: 1\r\n".repeat(101));
    let answer = exchange(&address, &many).await.expect("it is answered");
    assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
    let answer = exchange(&address, REQUEST).await.expect("the next caller is served");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_says_nothing_or_half_a_request_is_cut() {
    let serving = start(hello()).await;
    for said in ["", "GET / HT", "GET / HTTP/1.1\r\nhost: x\r\n", "PRI * HTT"] {
        let mut stream = TcpStream::connect(serving.address).await.expect("it listens");
        stream.write_all(said.as_bytes()).await.expect("it is taken");
        let mut answer = Vec::new();
        let _reset = stream.read_to_end(&mut answer).await;
        let answer = String::from_utf8_lossy(&answer).into_owned();
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 408"), "{said:?}: {answer}");
    }
}

#[tokio::test]
async fn http_2_is_spoken_to_those_who_begin_with_it() {
    let serving = start(hello()).await;
    let mut stream = TcpStream::connect(serving.address).await.expect("it listens");
    // The preface and an empty SETTINGS frame; the server answers with a SETTINGS frame of its own (type 4).
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.expect("it is taken");
    let mut frame = [0; 9];
    stream.read_exact(&mut frame).await.expect("it answers");
    assert_eq!(frame[3], 4);
}

/// Tells when it is dropped.
struct Gone(Option<tokio::sync::oneshot::Sender<()>>);

impl Drop for Gone {
    fn drop(&mut self) {
        if let Some(told) = self.0.take() {
            let _ = told.send(());
        }
    }
}

#[tokio::test]
async fn a_reader_that_stalls_holds_up_nobody_takes_no_memory_and_is_cut() {
    const PIECE: Bytes = Bytes::from_static(&[b'.'; 16 * 1_024]);
    let (gone, told) = oneshot::channel();
    let (made, gone) = (Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::new(Some(gone))));
    let counted = Arc::clone(&made);
    let endless = get(async move || {
        let gone = Gone(gone.lock().unwrap().take());
        let pieces = futures_util::stream::repeat_with(move || {
            let _alive = &gone;
            counted.fetch_add(1, Ordering::Relaxed);
            Ok::<_, std::convert::Infallible>(PIECE)
        });
        Body::from_stream(pieces)
    });
    let serving = start(hello().route("/endless", endless)).await;
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4_096).unwrap();
    let mut stalled = socket.connect(serving.address).await.unwrap();
    stalled.write_all(b"GET /endless HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut told = std::pin::pin!(told);
    let deadline = tokio::time::Instant::now() + config::STALLED_READER * 3;
    loop {
        // Others are answered all the while.
        let answer = exchange(&serving.address.to_string(), REQUEST).await.unwrap();
        assert!(answer.ends_with("hello"), "{answer}");
        match tokio::time::timeout(Duration::from_millis(250), &mut told).await {
            Ok(_) => break,
            Err(_) => assert!(tokio::time::Instant::now() < deadline, "the reader was not cut"),
        }
    }
    // What the system's buffers of a connection hold at most, and what the server holds before them.
    let bytes = made.load(Ordering::Relaxed) * PIECE.len();
    assert!(bytes < 8 * 1_024 * 1_024, "{bytes} bytes were made for one who takes nothing");
}

#[tokio::test]
async fn a_caller_beyond_the_limit_of_connections_waits_for_a_place() {
    let serving = start_with(hello(), 2).await;
    let mut held = vec![];
    for _ in 0..2 {
        let mut stream = TcpStream::connect(serving.address).await.expect("it listens");
        stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.expect("it is taken");
        let mut status = [0; 12];
        stream.read_exact(&mut status).await.expect("it is answered");
        assert_eq!(&status, b"HTTP/1.1 200");
        held.push(stream);
    }
    let address = serving.address.to_string();
    let waiting = tokio::spawn(async move { exchange(&address, REQUEST).await });
    // It is connected, by the system, and has nobody to talk to.
    let mut late = TcpStream::connect(serving.address).await.expect("the system's queue takes it");
    late.write_all(REQUEST.as_bytes()).await.expect("the system's queue takes it");
    assert!(!waiting.is_finished());
    drop(held);
    let answer = waiting.await.expect("it ran").expect("it is answered");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let mut answer = String::new();
    late.read_to_string(&mut answer).await.expect("it is answered");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

fn first_key(server: &Server) -> String {
    let (_, key) = server.said.split_once("  test  ").expect("it is a first start");
    key.lines().next().expect("a line").to_owned()
}

#[tokio::test]
async fn a_server_without_a_file_to_spare_goes_on_when_callers_have_gone() {
    let (scratch, database) = (Scratch::new(), database().await);
    let url = url_of(&database.endpoint, &database.name);
    let arguments = ["serve", "--listen", "127.0.0.1:0", "--database-url", &url];
    let mut command = theazo_with_files(80, &scratch.path, &arguments);
    command.env("THEAZO_MASTER_KEY", MASTER_KEY);
    let server = Server::start_with(command).await;
    let key = first_key(&server);
    server.create_session(&key, "before").await;
    let mut callers = vec![];
    for _ in 0..200 {
        callers.push(TcpStream::connect(&server.address).await.expect("the system's queue takes it"));
    }
    // Those who have a place are served; the others wait in the system's queue.
    callers[0].write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").await.expect("it is taken");
    let mut status = [0; 12];
    callers[0].read_exact(&mut status).await.expect("it is answered");
    assert_eq!(&status, b"HTTP/1.1 200");
    drop(callers);
    until_async("the server to serve again", async || {
        server.status("/v1/sessions", &key).await.filter(|status| *status == 200)
    })
    .await;
    server.create_session(&key, "after").await;
    assert!(server.stop().await.success());
}

#[tokio::test]
async fn a_second_signal_ends_a_server_at_once() {
    let scratch = Scratch::new();
    let server = Server::start(&scratch.path.join("data")).await;
    let mut slow = TcpStream::connect(&server.address).await.expect("it listens");
    let head = format!(
        "POST /v1/sessions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\ncontent-type: application/json\r\n\
         content-length: 10\r\nexpect: 100-continue\r\n\r\n",
        first_key(&server)
    );
    slow.write_all(head.as_bytes()).await.expect("it is taken");
    let mut going_on = [0; 12];
    slow.read_exact(&mut going_on).await.expect("it is asked to go on");
    assert_eq!(&going_on, b"HTTP/1.1 100");
    server.signal(Signal::SIGTERM);
    until_async("the server to take no more", async || TcpStream::connect(&server.address).await.err()).await;
    server.signal(Signal::SIGTERM);
    // A stop that waits for the request ends with the status 0.
    assert_eq!(server.ended().await.code(), Some(1));
}
