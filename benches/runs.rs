//! Runs of agents: the server in a process of its own, a model that answers at once in another, and this one as the
//! callers. `cargo bench --bench runs` (`-- --agents 64`, `--seconds 10` for each row, `--quick`).
//!
//! An agent is given its next task when the last has ended, as the stream of events tells. What the server adds to a
//! call of a model is what it measures itself (`/metrics`): from the decision to ask to the recorded answer, without the
//! time that the model took.

#![expect(clippy::print_stdout, reason = "a bench prints its figures")]
#![expect(clippy::float_arithmetic, clippy::cast_precision_loss, reason = "figures, not money")]

#[path = "world/figures.rs"]
mod figures;
#[expect(dead_code, reason = "the tests use all of it")]
#[path = "../tests/it/support/models/mod.rs"]
mod models;
#[expect(dead_code, reason = "not every bench uses all of it")]
#[path = "world/served.rs"]
mod served;
mod world;

use std::collections::HashMap;
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use figures::figure;
use models::{ModelServer, closed_loop};
use served::{Connection, Served};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;
use world::{World, argument, quick};

/// By this argument the bench is the model's server.
const MODEL: &str = "--model";

/// Says where it listens, and answers until it is killed.
async fn serve_model() -> anyhow::Result<()> {
    let server = ModelServer::new(closed_loop).await;
    println!("{}", server.anthropic_url());
    std::future::pending().await
}

/// A model's server in a process of its own, and its address.
async fn start_model() -> anyhow::Result<(Child, String)> {
    let mut command = Command::new(std::env::current_exe()?);
    let mut child = command.arg(MODEL).stdout(Stdio::piped()).kill_on_drop(true).spawn()?;
    let mut lines = BufReader::new(child.stdout.take().context("it is piped")?).lines();
    let url = lines.next_line().await?.context("the model says where it listens")?;
    Ok((child, url))
}

/// The callers of one row.
struct Callers {
    served: Arc<Served>,
    agents: Vec<String>,
}

/// Sends a request on a connection of its own and reads the JSON that is answered.
async fn call(
    served: &Served,
    request: (&str, &str, &str),
    status: &str,
) -> anyhow::Result<serde_json::Value> {
    let (method, path, body) = request;
    let mut connection = served.connect().await?;
    ask(&mut connection, &served.request(method, path, body), status).await
}

async fn ask(connection: &mut Connection, request: &str, status: &str) -> anyhow::Result<serde_json::Value> {
    Ok(serde_json::from_slice(&text(connection, request, status).await?).unwrap_or_default())
}

async fn text(connection: &mut Connection, request: &str, status: &str) -> anyhow::Result<Vec<u8>> {
    connection.send(request).await?;
    let head = connection.head(status).await?;
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    let length: usize = length.context("an answer says its length")?.trim().parse()?;
    while connection.received.len() < length {
        connection.receive().await?;
    }
    Ok(connection.received.drain(..length).collect())
}

/// Who waits for the end of an agent's task.
type Waiting = HashMap<String, mpsc::Sender<()>>;

/// Tells each agent's caller that its task has ended, from the stream of all events.
async fn follow(mut stream: Connection, waiting: Waiting) -> anyhow::Result<()> {
    loop {
        while let Some(end) = stream.received.windows(2).position(|window| window == b"\n\n") {
            let frame: Vec<u8> = stream.received.drain(..end + 2).collect();
            let frame = String::from_utf8_lossy(&frame).into_owned();
            if let Some(at) = frame.find("\"agentId\":\"") {
                let id = frame[at + 11..].split('"').next().unwrap_or_default();
                if let Some(caller) = waiting.get(id) {
                    caller.send(()).await?;
                }
            }
        }
        stream.receive().await?;
    }
}

/// Gives an agent one task after the other, and tells how long each took.
async fn drive(
    served: Arc<Served>,
    agent: String,
    mut ended: mpsc::Receiver<()>,
    until: Instant,
) -> anyhow::Result<Vec<Duration>> {
    let mut connection = served.connect().await?;
    let request = served.request("POST", &format!("/v1/agents/{agent}/run"), r#"{"task":"Go."}"#);
    let mut times = vec![];
    while Instant::now() < until {
        let began = Instant::now();
        ask(&mut connection, &request, "202").await?;
        let end = timeout(Duration::from_secs(30), ended.recv()).await;
        end.context("no task ends")?.context("the stream of events ended")?;
        times.push(began.elapsed());
    }
    Ok(times)
}

impl Callers {
    async fn new(served: &Arc<Served>, number: usize, tools: &str) -> anyhow::Result<Self> {
        let session = call(served, ("POST", "/v1/sessions", r#"{"userId":"bench"}"#), "201").await?;
        let session = session["id"].as_str().context("an id")?.to_owned();
        let path = format!("/v1/sessions/{session}/agents");
        let mut agents = vec![];
        for _ in 0..number {
            let body = format!("{{\"tools\":[{tools}]}}");
            let agent = call(served, ("POST", &path, &body), "201").await?;
            agents.push(agent["id"].as_str().context("an id")?.to_owned());
        }
        // A program waits for its sandbox: when it has run, the agent is ready.
        for agent in &agents {
            let body = r#"{"lang":"bash","code":"true"}"#;
            call(served, ("POST", &format!("/v1/agents/{agent}/exec"), body), "200").await?;
        }
        Ok(Self { served: Arc::clone(served), agents })
    }

    /// Runs tasks on all agents for a while, and gives how long each took.
    async fn run(&self, time: Duration) -> anyhow::Result<(Vec<Duration>, Duration)> {
        let mut stream = self.served.connect().await?;
        stream.send(&self.served.request("GET", "/v1/events/stream?type=task.completed", "")).await?;
        stream.head("200").await?;
        let (started, mut waiting, mut driving) = (Instant::now(), Waiting::new(), JoinSet::new());
        for agent in &self.agents {
            let (sender, ended) = mpsc::channel(1);
            waiting.insert(agent.clone(), sender);
            driving.spawn(drive(Arc::clone(&self.served), agent.clone(), ended, started + time));
        }
        let following = tokio::spawn(follow(stream, waiting));
        let mut times = vec![];
        while let Some(driven) = driving.join_next().await {
            times.extend(driven??);
        }
        following.abort();
        Ok((times, started.elapsed()))
    }
}

/// What the server says of itself: the sums of time spent by part, and the buckets of what it adds to a call.
#[derive(Default, Clone)]
struct Told {
    parts: HashMap<String, f64>,
    buckets: Vec<(f64, f64)>,
}

async fn told(served: &Served) -> anyhow::Result<Told> {
    let mut connection = served.connect().await?;
    let text = text(&mut connection, &served.request("GET", "/metrics", ""), "200").await?;
    let mut told = Told::default();
    for line in String::from_utf8_lossy(&text).lines() {
        let Some((name, value)) = line.rsplit_once(' ') else { continue };
        let Ok(value) = value.parse::<f64>() else { continue };
        let label = |name: &str| name.split('"').nth(1).unwrap_or_default().to_owned();
        if name.starts_with("theazo_run_seconds_sum") {
            told.parts.insert(label(name), value);
        } else if name.starts_with("theazo_model_call_overhead_seconds_bucket") {
            told.buckets.push((label(name).parse().unwrap_or(f64::INFINITY), value));
        }
    }
    Ok(told)
}

impl Told {
    /// What was told since.
    fn since(&self, before: &Self) -> Self {
        let parts = self
            .parts
            .iter()
            .map(|(part, sum)| (part.clone(), sum - before.parts.get(part).copied().unwrap_or_default()));
        let earlier = |bound: f64| {
            before.buckets.iter().find(|(known, _)| *known == bound).map_or(0.0, |found| found.1)
        };
        let buckets = self.buckets.iter().map(|(bound, count)| (*bound, count - earlier(*bound)));
        Self { parts: parts.collect(), buckets: buckets.collect() }
    }

    fn part(&self, name: &str) -> f64 {
        self.parts.get(name).copied().unwrap_or_default()
    }

    /// The share of calls to which at most so much was added: between two bounds, as if they lay evenly there.
    fn added_ms(&self, share: f64) -> f64 {
        let all = self.buckets.last().map_or(0.0, |last| last.1);
        let (mut low, mut below) = (0.0, 0.0);
        for (bound, count) in &self.buckets {
            if *count >= all * share {
                let part = if count > &below { (all * share - below) / (count - below) } else { 1.0 };
                return if bound.is_finite() { (low + (bound - low) * part) * 1e3 } else { f64::INFINITY };
            }
            (low, below) = (*bound, *count);
        }
        0.0
    }
}

async fn bench() -> anyhow::Result<()> {
    let time = Duration::from_secs_f64(argument("--seconds", if quick() { 1.0 } else { 10.0 }));
    let agents = argument("--agents", if quick() { 8.0 } else { 64.0 }) as usize;
    let world = World::new().await?;
    let (model, url) = start_model().await?;
    let environment = [("ANTHROPIC_BASE_URL", url), ("ANTHROPIC_API_KEY", "sk-ant-bench-0000".to_owned())];
    let served = Arc::new(Served::start_with(&world, &environment).await?);
    println!(
        "| | runs a second | a run, p50 ms | p99 ms | added to a model call, p50 ms | p99 ms | the log's share | the model's | tools' |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    for (tools, what) in [("", "no tool"), (r#""write_file""#, "a tool call")] {
        for number in [1, agents] {
            let callers = Callers::new(&served, number, tools).await?;
            callers.run(time / 4).await?;
            let before = told(&served).await?;
            let (times, elapsed) = callers.run(time).await?;
            let told = told(&served).await?.since(&before);
            let runs = times.len();
            let figure = figure(times, runs, elapsed);
            let share = |part: &str| 100.0 * told.part(part) / told.part("step");
            println!(
                "| {what}, {number} agents | {:.0} | {:.1} | {:.1} | {:.1} | {:.1} | {:.0} % | {:.0} % | {:.0} % |",
                figure.per_second,
                figure.median_ms,
                figure.p99_ms,
                told.added_ms(0.5),
                told.added_ms(0.99),
                share("log"),
                share("model"),
                share("tool"),
            );
        }
    }
    drop(served);
    drop(model);
    world.end().await;
    Ok(())
}

fn main() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    if std::env::args().any(|argument| argument == MODEL) {
        return runtime.block_on(serve_model());
    }
    runtime.block_on(bench())
}
