//! Thousands of open event streams: the server in a process of its own, and their readers in another.
//! `cargo bench --bench sse` (`-- --streams 10000`, `--events 200`, `--quick`).
//!
//! An event is a session that is created. Its time is counted from before the request that creates it is sent, so the
//! commit is in it, to when the last of all streams has its bytes. Memory is what the system counts as resident for
//! the server's process. Before the streams are opened a reader asks for a log of some megabytes and takes nothing of it.

#![expect(clippy::print_stdout, reason = "a bench prints its figures")]
#![expect(clippy::float_arithmetic, clippy::cast_precision_loss, reason = "figures, not money")]

#[path = "world/figures.rs"]
mod figures;
#[path = "world/resident.rs"]
mod resident;
#[path = "world/served.rs"]
mod served;
mod world;

use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context;
use figures::figure;
use resident::resident;
use served::{Connection, Served};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::{TcpSocket, TcpStream};
use tokio::process::{Child, ChildStdout, Command};
use tokio::task::JoinSet;
use tokio::time::timeout;
use world::{World, argument, quick};

/// By this argument the bench is the readers.
const READERS: &str = "--readers";
/// Streams that are being opened at the same time.
const AT_ONCE: usize = 100;
/// Far longer than anything here takes.
const DEADLINE: Duration = Duration::from_secs(60);
/// Sessions whose events the stalled reader does not take.
const MISSED: usize = 12_000;

fn now_ns() -> u128 {
    SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default().as_nanos()
}

/// What the readers of a process share.
struct Readers {
    number: usize,
    /// How many streams have each event.
    counts: Vec<AtomicUsize>,
}

impl Readers {
    /// Reads a stream to its end. Only frames of events name their type.
    async fn read(self: Arc<Self>, mut stream: TcpStream) -> anyhow::Result<()> {
        const WORD: &[u8] = b"\nevent: ";
        let (mut bytes, mut kept, mut seen) = ([0; 4_096], 0, 0);
        loop {
            let more = stream.read(&mut bytes[kept..]).await?;
            if more == 0 {
                return Ok(());
            }
            let end = kept + more;
            for _ in bytes[..end].windows(WORD.len()).filter(|window| *window == WORD) {
                if let Some(count) = self.counts.get(seen)
                    && count.fetch_add(1, Ordering::Relaxed) + 1 == self.number
                {
                    println!("{}", now_ns());
                }
                seen += 1;
            }
            kept = end.min(WORD.len() - 1);
            bytes.copy_within(end - kept..end, 0);
        }
    }
}

/// Opens so many streams, says so, and then says when the last of them has each event.
async fn serve_readers(address: String, request: String, number: usize, events: usize) -> anyhow::Result<()> {
    let readers = Arc::new(Readers { number, counts: (0..events).map(|_| AtomicUsize::new(0)).collect() });
    let mut reading = JoinSet::new();
    for first in (0..number).step_by(AT_ONCE) {
        let opening = (first..number.min(first + AT_ONCE)).map(async |_| {
            let mut stream = TcpStream::connect(&address).await?;
            stream.write_all(request.as_bytes()).await?;
            let (mut head, mut byte) = (vec![], [0]);
            while !head.ends_with(b"\r\n\r\n") {
                stream.read_exact(&mut byte).await?;
                head.push(byte[0]);
            }
            anyhow::ensure!(head.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&head));
            Ok(stream)
        });
        for stream in futures_util::future::try_join_all(opening).await? {
            reading.spawn(Arc::clone(&readers).read(stream));
        }
    }
    println!("open");
    while let Some(read) = reading.join_next().await {
        read??;
    }
    Ok(())
}

/// The readers in a process of their own.
struct Elsewhere {
    _child: Child,
    said: Lines<BufReader<ChildStdout>>,
}

impl Elsewhere {
    async fn start(served: &Served, number: usize, events: usize) -> anyhow::Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        let request = served.request("GET", "/v1/events/stream?type=session.created", "");
        command
            .arg(READERS)
            .arg(served.address())
            .arg(request)
            .arg(number.to_string())
            .arg(events.to_string());
        let mut child = command.stdout(Stdio::piped()).kill_on_drop(true).spawn()?;
        let said = BufReader::new(child.stdout.take().context("it is piped")?).lines();
        let mut elsewhere = Self { _child: child, said };
        anyhow::ensure!(elsewhere.hear().await? == "open", "the streams are not open");
        Ok(elsewhere)
    }

    async fn hear(&mut self) -> anyhow::Result<String> {
        let line = timeout(DEADLINE, self.said.next_line()).await.context("the readers say nothing")??;
        line.context("the readers have ended")
    }
}

async fn create(connection: &mut Connection, served: &Served) -> anyhow::Result<()> {
    let body = r#"{"userId":"bench"}"#;
    connection.send(&served.request("POST", "/v1/sessions", body)).await?;
    let head = connection.head("201").await?;
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    let length: usize = length.context("an answer says its length")?.trim().parse()?;
    while connection.received.len() < length {
        connection.receive().await?;
    }
    connection.received.clear();
    Ok(())
}

/// Fills the log, and opens a stream over all of it of which nothing is read.
async fn stall(served: &Arc<Served>, sessions: usize) -> anyhow::Result<TcpStream> {
    let mut filling = JoinSet::new();
    for _ in 0..32 {
        let (served, share) = (Arc::clone(served), sessions / 32);
        filling.spawn(async move {
            let mut connection = served.connect().await?;
            for _ in 0..share {
                create(&mut connection, &served).await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(filled) = filling.join_next().await {
        filled??;
    }
    let socket = TcpSocket::new_v4()?;
    socket.set_recv_buffer_size(4_096)?;
    let mut stream = socket.connect(served.address().parse()?).await?;
    stream.write_all(served.request("GET", "/v1/events/stream?after=0", "").as_bytes()).await?;
    Ok(stream)
}

/// What a stalled reader finds when it reads at last: how many bytes, and whether its connection was cut.
async fn drain(mut stream: TcpStream) -> (usize, bool) {
    let (mut bytes, mut all) = (vec![0; 65_536], 0);
    loop {
        match timeout(Duration::from_secs(2), stream.read(&mut bytes)).await {
            Ok(Ok(0) | Err(_)) => return (all, true),
            Ok(Ok(more)) => all += more,
            Err(_) => return (all, false),
        }
    }
}

async fn bench() -> anyhow::Result<()> {
    theazo::serve::raise_open_files();
    let number = argument("--streams", if quick() { 500.0 } else { 10_000.0 }) as usize;
    let events = argument("--events", if quick() { 20.0 } else { 200.0 }) as usize;
    let world = World::new().await?;
    let served = Arc::new(Served::start(&world).await?);
    let stalled = stall(&served, if quick() { 64 } else { MISSED }).await?;
    let stalled_at = Instant::now();
    let process_id = served.process_id()?;
    let first = Elsewhere::start(&served, 50, events).await?;
    let before = resident(process_id)?;
    let mut readers = Elsewhere::start(&served, number, events).await?;
    let each = resident(process_id)?.saturating_sub(before) as f64 / number as f64;
    drop(first);
    let mut connection = served.connect().await?;
    let (mut times, began) = (vec![], Instant::now());
    for _ in 0..events {
        let sent = now_ns();
        create(&mut connection, &served).await?;
        let last: u128 = readers.hear().await?.parse()?;
        times.push(Duration::from_nanos(u64::try_from(last.saturating_sub(sent))?));
    }
    let figure = figure(times, events, began.elapsed());
    let loaded = resident(process_id)?.saturating_sub(before) as f64 / number as f64;
    println!("| {number} streams | |");
    println!("|---|---|");
    println!("| from before the request to the last stream's bytes, p50 | {:.1} ms |", figure.median_ms);
    println!("| p99 | {:.1} ms |", figure.p99_ms);
    println!("| frames a second | {:.0} |", figure.per_second * number as f64);
    println!("| memory of the server for each stream, quiet | {:.1} kB |", each / 1e3);
    println!("| after {events} events | {:.1} kB |", loaded / 1e3);
    if !quick() {
        let rest = (theazo::config::STALLED_READER * 2).saturating_sub(stalled_at.elapsed());
        tokio::time::sleep(rest).await;
        let (bytes, cut) = drain(stalled).await;
        println!(
            "| a reader that stalls after {:.1} MB | {} |",
            bytes as f64 / 1e6,
            if cut { "was cut" } else { "was not cut" }
        );
    }
    drop(readers);
    drop(served);
    world.end().await;
    Ok(())
}

fn main() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let arguments: Vec<String> = std::env::args().collect();
    match arguments.iter().position(|argument| argument == READERS) {
        Some(at) => {
            theazo::serve::raise_open_files();
            let [address, request, number, events] = &arguments[at + 1..] else {
                anyhow::bail!("four arguments")
            };
            runtime.block_on(serve_readers(
                address.clone(),
                request.clone(),
                number.parse()?,
                events.parse()?,
            ))
        }
        None => runtime.block_on(bench()),
    }
}
