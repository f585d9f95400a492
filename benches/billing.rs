//! The views of usage and billing over logs of different lengths, and how fast charges are made.
//!
//! `cargo bench --bench billing` (`-- --charges 5000000` for one size only, `--requests 300` for each view, `--quick`
//! for 10,000 and 100,000). The program serves in a process of its own; one caller asks one view after the other over a
//! connection that stays open. Events, ledger and sums of a log are written in bulk by SQL, as the folds would write them:
//! charges over 90 days, by 1,000 users with a session a month and two agents in each, and 20 models. Before anything is
//! measured, the views have to agree with that ledger and with each other.
//! Then 64 callers make calls through the log itself: each is opened, holding its worst case, and settled.

#![expect(clippy::print_stdout, reason = "a bench prints its figures")]
#![expect(clippy::float_arithmetic, clippy::cast_precision_loss, reason = "figures, not money")]

#[path = "billing/agree.rs"]
mod agree;
#[path = "billing/calls.rs"]
mod calls;
#[path = "world/figures.rs"]
mod figures;
#[path = "world/own_log.rs"]
mod own_log;
#[expect(dead_code, reason = "not every bench uses all of it")]
#[path = "world/served.rs"]
mod served;
mod world;

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use figures::figure;
use served::{Connection, Served};
use theazo::clock::{Clock, SystemClock};
use theazo_domain::time::{DAY_MS, Timestamp};
use world::{World, argument, quick};

const CALLERS: usize = 64;

/// A month that is over; this month so far; and thirty days that begin and end within an hour, or rather a minute.
fn periods() -> [(&'static str, String); 3] {
    let now = SystemClock.now();
    let last_month = Timestamp::from_millis(now.day().month_start().start().millis() - DAY_MS).day();
    let whole = format!("from={}&until={last_month}", last_month.month_start());
    let end = now.millis() - 20 * DAY_MS - 4_567_000;
    let [from, until] = [end - 30 * DAY_MS + 1_234_000, end].map(Timestamp::from_millis);
    [
        ("a month", whole),
        ("this month", String::new()),
        ("30 days, odd edges", format!("from={from}&until={until}")),
    ]
}

/// Thirty days that begin and end within a minute, others for each request: what a server has kept of the ones before is
/// of days and hours that seldom lie at the edges of the next.
fn other_edges(number: usize) -> String {
    let earlier_ms = i64::try_from(number).unwrap_or_default() * 7_919_000 % (25 * DAY_MS);
    let until = SystemClock.now().millis() - 20 * DAY_MS - earlier_ms;
    let [from, until] = [until - 30 * DAY_MS + 1_234_000, until].map(Timestamp::from_millis);
    format!("from={from}&until={until}")
}

/// Stands in a path for [`other_edges`].
const OTHER_EDGES: &str = "{other edges}";

/// The views, and which of them are asked for every period.
fn views(session: &str, agent: &str) -> Vec<(String, String)> {
    let mut views = vec![];
    for (period, query) in periods() {
        for view in [
            "usage/summary",
            "billing/usage",
            "billing/usage/daily",
            "billing/usage/models",
            "billing/usage/users",
            "billing/usage/sessions",
            "billing/usage/agents",
            "billing/entries",
        ] {
            views.push((format!("/{view}, {period}"), format!("/v1/{view}?{query}")));
        }
    }
    for list in ["users", "sessions", "agents"] {
        let name = format!("/billing/usage/{list}, 30 days, other edges each time");
        views.push((name, format!("/v1/billing/usage/{list}?{OTHER_EDGES}")));
    }
    let (_, month) = &periods()[0];
    for (name, filter) in [
        ("a user", "userId=user-7".to_owned()),
        ("a session", format!("sessionId={session}")),
        ("an agent", format!("agentId={agent}")),
        ("a model", "model=model-7".to_owned()),
        ("a category", "category=model".to_owned()),
    ] {
        views.push((
            format!("/billing/entries of {name}, a month"),
            format!("/v1/billing/entries?{month}&{filter}"),
        ));
    }
    views
}

/// The body of the next answer.
async fn answer(connection: &mut Connection) -> anyhow::Result<serde_json::Value> {
    let head = connection.head("200").await?;
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    let length: usize = length.context("an answer says its length")?.trim().parse()?;
    while connection.received.len() < length {
        connection.receive().await?;
    }
    let rest = connection.received.split_off(length);
    let body = std::mem::replace(&mut connection.received, rest);
    Ok(serde_json::from_slice(&body)?)
}

/// Waits until the server has packed what has ended: the lists by which the views were checked have asked for it.
async fn packed(client: &tokio_postgres::Client) -> anyhow::Result<()> {
    let sql = "select p.last is not distinct from t.last
        from heads h
          cross join lateral (select date_trunc('hour', max(start)) as last from usage_by_agent t where t.tenant_id = h.tenant_id
            and t.build = live_build(h.tenant_id, 'usage_by_agent') and t.grain = 'minute'
            and t.start < date_trunc('hour', h.last_at - interval '1 hour')) t
          cross join lateral (select max(start) as last from packed_sums p where p.tenant_id = h.tenant_id
            and p.build = live_build(h.tenant_id, 'usage_by_agent') and p.projection = 'usage_by_agent'
            and p.grain = 'minute') p
        where h.tenant_id = (select max(tenant_id) from tenants where mode = 'live')";
    let deadline = Instant::now() + Duration::from_secs(600);
    while !client.query_one(sql, &[]).await?.get::<_, bool>(0) {
        ensure!(Instant::now() < deadline, "what has ended was not packed");
        // The server tells nobody that it has packed.
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}

/// A log of some length, and the server that serves it.
struct Loaded {
    world: World,
    served: Served,
    connection: Connection,
    views: Vec<(String, String)>,
}

/// Loads a log of so many charges, and has it packed.
async fn load(charges: i64) -> anyhow::Result<Loaded> {
    let world = World::new().await?;
    let served = Served::start(&world).await?;
    let client = world.connect("theazo").await?;
    let began = Instant::now();
    let load = include_str!("billing/load.sql").replace("{charges}", &charges.to_string());
    client.batch_execute(&load).await?;
    client.batch_execute("vacuum analyze").await?;
    client.batch_execute("checkpoint").await?;
    println!("{charges} charges were loaded in {:.0} s", began.elapsed().as_secs_f64());
    let row = client
        .query_one("select session_id, agent_id from ledger order by position desc limit 1", &[])
        .await?;
    let mut connection = served.connect().await?;
    agree::check(&served, &mut connection, &client, &periods()).await?;
    packed(&client).await?;
    Ok(Loaded { world, served, connection, views: views(row.get(0), row.get(1)) })
}

impl Loaded {
    /// How long the answer to a view takes.
    async fn ask(&mut self, view: usize, number: usize) -> anyhow::Result<Duration> {
        let path = self.views[view].1.replace(OTHER_EDGES, &other_edges(number));
        let request = self.served.request("GET", &path, "");
        let began = Instant::now();
        self.connection.send(&request).await?;
        let body = answer(&mut self.connection).await?;
        let took = began.elapsed();
        ensure!(body.is_object(), "an answer is an object");
        Ok(took)
    }
}

/// The p50 and p99 of every view over each log. The logs take turns, request by request, so that noise hits them alike.
async fn measure(logs: &mut [Loaded], requests: usize) -> anyhow::Result<Vec<(String, Vec<(f64, f64)>)>> {
    for log in &mut *logs {
        // The one before was idle while others were loaded.
        log.connection = log.served.connect().await?;
    }
    let mut figures = vec![];
    for view in 0..logs[0].views.len() {
        let mut times: Vec<Vec<Duration>> = vec![vec![]; logs.len()];
        for number in 0..requests + 20 {
            for (log, times) in logs.iter_mut().zip(&mut times) {
                let took = log.ask(view, number).await?;
                // The first ones warm up.
                if number >= 20 {
                    times.push(took);
                }
            }
        }
        let of_log = |times| {
            let figure = figure(times, requests, Duration::from_secs(1));
            (figure.median_ms, figure.p99_ms)
        };
        figures.push((logs[0].views[view].0.clone(), times.into_iter().map(of_log).collect()));
    }
    Ok(figures)
}

async fn bench() -> anyhow::Result<()> {
    let requests = argument("--requests", if quick() { 30.0 } else { 300.0 }) as usize;
    let given = argument("--charges", 0.0) as i64;
    let sizes: Vec<i64> = match (given, quick()) {
        (0, true) => vec![10_000, 100_000],
        (0, false) => vec![10_000, 1_000_000, 5_000_000],
        (given, _) => vec![given],
    };
    let mut logs = vec![];
    for charges in &sizes {
        logs.push(load(*charges).await?);
    }
    let figures = measure(&mut logs, requests).await?;
    for Loaded { world, served, .. } in logs {
        drop(served);
        world.end().await;
    }
    let head: Vec<String> =
        sizes.iter().map(|charges| format!("{charges} charges: p50 · p99 ms |")).collect();
    println!("| view | {} last to first, p50 · p99 |", head.join(" "));
    println!("|---|{}---|", "---|".repeat(sizes.len()));
    for (name, of_logs) in figures {
        let cells = of_logs.iter().map(|(median, p99)| format!("{median:.2} · {p99:.2} |"));
        let (first, last) = (of_logs[0], of_logs[of_logs.len() - 1]);
        let ratios = format!("{:.1} · {:.1}", last.0 / first.0, last.1 / first.1);
        println!("| {name} | {} {ratios} |", cells.collect::<Vec<_>>().join(" "));
    }
    let seconds = argument("--seconds", if quick() { 1.0 } else { 10.0 });
    let made = calls::make(CALLERS, seconds).await?;
    println!(
        "{CALLERS} callers: {:.0} calls a second, {:.0} charges a second, median {:.2} ms, p99 {:.2} ms a command",
        made.per_second / 2.0,
        made.per_second,
        made.median_ms,
        made.p99_ms
    );
    Ok(())
}

fn main() -> anyhow::Result<()> {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?.block_on(bench())
}
