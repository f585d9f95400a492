//! The API over real connections: a server in a process of its own, over a PostgreSQL with its default durability.
//!
//! `cargo bench --bench http` (`-- --seconds 5` for each row, `--rounds 2`, `--connections 64`, `--quick`). Every
//! connection stays open and sends one request after the other, each waiting for its answer. `GET /healthz` asks
//! neither for a key nor the database: it is what HTTP, the client and this machine allow at most.

#![expect(clippy::print_stdout, reason = "a bench prints its figures")]
#![expect(clippy::float_arithmetic, clippy::cast_precision_loss, reason = "figures, not money")]

#[path = "world/figures.rs"]
mod figures;
#[expect(dead_code, reason = "not every bench uses all of it")]
#[path = "world/served.rs"]
mod served;
mod world;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use figures::{Figure, figure};
use served::{Connection, Served};
use tokio::task::JoinSet;
use world::{World, argument, quick};

const WAYS: [&str; 3] = ["POST /v1/sessions", "GET /v1/sessions/:id", "GET /healthz"];

/// What the callers share.
struct Callers {
    served: Served,
    /// Sessions that were created, to be read.
    sessions: std::sync::Mutex<Vec<String>>,
    number: AtomicUsize,
}

impl Callers {
    /// The next request of a way, and the status of its answer.
    fn request(&self, way: usize) -> (String, &'static str) {
        let number = self.number.fetch_add(1, Ordering::Relaxed);
        match way {
            0 => {
                let body = format!(
                    "{{\"userId\":\"user_{number}\",\"limits\":{{\"maxCost\":{{\"amount\":500,\"currency\":\"usd\",\
                     \"period\":\"day\"}},\"maxAgents\":3}}}}"
                );
                (self.served.request("POST", "/v1/sessions", &body), "201")
            }
            1 => {
                let sessions = self.sessions.lock().expect("nobody panics with it");
                let session = &sessions[number % sessions.len()];
                (self.served.request("GET", &format!("/v1/sessions/{session}"), ""), "200")
            }
            _ => (self.served.request("GET", "/healthz", ""), "200"),
        }
    }
}

async fn call(callers: Arc<Callers>, way: usize, until: Instant) -> anyhow::Result<Vec<Duration>> {
    let mut connection = callers.served.connect().await?;
    let (mut times, mut created) = (vec![], vec![]);
    while Instant::now() < until {
        let (request, status) = callers.request(way);
        let began = Instant::now();
        connection.send(&request).await?;
        let body = answer(&mut connection, status).await?;
        times.push(began.elapsed());
        if way == 0 && created.len() < 100 {
            let body: serde_json::Value = serde_json::from_slice(&body)?;
            created.push(body["id"].as_str().context("a session has an id")?.to_owned());
        }
    }
    callers.sessions.lock().expect("nobody panics with it").extend(created);
    Ok(times)
}

/// The body of the next answer.
async fn answer(connection: &mut Connection, status: &str) -> anyhow::Result<Vec<u8>> {
    let head = connection.head(status).await?;
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    let length: usize = length.context("an answer says its length")?.trim().parse()?;
    while connection.received.len() < length {
        connection.receive().await?;
    }
    let rest = connection.received.split_off(length);
    Ok(std::mem::replace(&mut connection.received, rest))
}

async fn run(callers: &Arc<Callers>, way: usize, connections: usize, seconds: f64) -> anyhow::Result<Figure> {
    let began = Instant::now();
    let until = began + Duration::from_secs_f64(seconds);
    let mut tasks = JoinSet::new();
    for _ in 0..connections {
        tasks.spawn(call(Arc::clone(callers), way, until));
    }
    let mut times = vec![];
    while let Some(done) = tasks.join_next().await {
        times.extend(done??);
    }
    let number = times.len();
    Ok(figure(times, number, began.elapsed()))
}

async fn bench() -> anyhow::Result<()> {
    let (seconds, rounds) = if quick() { (1.0, 1.0) } else { (5.0, 2.0) };
    let (seconds, rounds) = (argument("--seconds", seconds), argument("--rounds", rounds) as usize);
    let connections = argument("--connections", 64.0) as usize;
    let world = World::new().await?;
    let served = Served::start(&world).await?;
    println!("the server is process {}", served.process_id()?);
    let callers = Arc::new(Callers { served, sessions: Default::default(), number: AtomicUsize::new(0) });
    let mut figures = [const { vec![] }; WAYS.len()];
    for round in 0..=rounds {
        for (way, figures) in figures.iter_mut().enumerate() {
            // The first round warms up, and is not counted.
            let seconds = if round == 0 { seconds.min(1.0) } else { seconds };
            let figure = run(&callers, way, connections, seconds).await?;
            if round > 0 {
                figures.push(figure);
            }
        }
    }
    println!("| at {connections} connections | requests a second | median ms | p99 ms |");
    println!("|---|---|---|---|");
    for (name, figures) in WAYS.iter().zip(&figures) {
        let mean = |of: &dyn Fn(&Figure) -> f64| figures.iter().map(of).sum::<f64>() / figures.len() as f64;
        println!(
            "| {name} | {:.0} | {:.2} | {:.2} |",
            mean(&|figure| figure.per_second),
            mean(&|figure| figure.median_ms),
            mean(&|figure| figure.p99_ms)
        );
    }
    drop(callers);
    world.end().await;
    Ok(())
}

fn main() -> anyhow::Result<()> {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?.block_on(bench())
}
