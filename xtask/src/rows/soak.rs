//! Servers carry half of the load that they can, for an hour: memory, files and connections stay what they are.

#![expect(
    clippy::float_arithmetic,
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "figures, not money"
)]

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context;
use futures_util::FutureExt;
use futures_util::future::join_all;
use http_body_util::BodyExt;
use tokio::time::{Instant, sleep, timeout};

use crate::client::{Ask, Caller};
use crate::ledger::Ledger;
use crate::load::Load;
use crate::place::{Place, Tenant};
use crate::prove::{Findings, Row, Run};

pub(crate) const ROW: Row = Row {
    name: "soak",
    claim: "under half of the load that it can carry, what a server takes of memory, files and connections stays flat",
    floor: (60, 3_600),
    bugs: &["leaked-memory", "leaked-file"],
    run: |run| prove(run).boxed(),
};

const SERVERS: usize = 2;
const CALLERS: usize = 16;
/// Streams that are followed all the while, and come back now and then.
const FOLLOWERS: usize = 32;
/// How long a follower stays before it comes back.
const FOLLOWED: Duration = Duration::from_secs(20);
/// How long it is measured how much they can carry.
const MEASURED: Duration = Duration::from_secs(5);
const BETWEEN_SAMPLES: Duration = Duration::from_secs(1);
/// What memory may grow by, in bytes, for what a server keeps on purpose up to a limit (states, answers, frames) and for
/// what an allocator does not give back: so much of what it was, and so much besides.
const GROWTH: (f64, f64) = (0.10, 12e6);
/// What files and connections may differ by.
const SPARE: f64 = 8.0;

/// What a server takes at a moment.
#[derive(Debug, Clone, Copy, Default)]
struct Taken {
    memory: f64,
    files: f64,
}

async fn prove(run: Run) -> anyhow::Result<Findings> {
    let mut findings = Findings::default();
    let place = Place::new(&run, SERVERS, &[]).await?;
    let tenant = place.organization("live").await?;
    let ledger = Ledger::new(&place.directory().join("ledger.jsonl"))?;
    // Without a pause first: what they can carry.
    let whole = Load::new(&place, &ledger, &tenant.key, "whole");
    drive(&run, &whole, MEASURED, 0).await?;
    let can = whole.acknowledged.load(Ordering::Relaxed) as f64 / MEASURED.as_secs_f64();
    // Resting as long as an answer takes makes half of it.
    let rest = Duration::from_secs_f64(CALLERS as f64 / can.max(1.0));
    let half = Load { rest, ..Load::new(&place, &ledger, &tenant.key, "half") };
    let lasts = Duration::from_secs(run.amount(60, 3_600));
    let over = AtomicBool::new(false);
    let comings = AtomicU64::new(0);
    let following = join_all((0..FOLLOWERS).map(|number| follow(&place, &tenant, number, &over, &comings)));
    let sampling = sample(&place, &ledger, lasts);
    let driving = async {
        let driven = drive(&run, &half, lasts, 1).await;
        over.store(true, Ordering::Relaxed);
        driven
    };
    let (driven, samples, followed) = tokio::join!(driving, sampling, following);
    driven?;
    followed.into_iter().collect::<anyhow::Result<Vec<()>>>()?;
    let samples = samples?;
    for (server, taken) in samples.servers.iter().enumerate() {
        let [before, after] = thirds(taken, |taken| taken.memory);
        findings.claim(after <= before.mul_add(1.0 + GROWTH.0, GROWTH.1), || {
            format!("server {server} had {:.1} MB, and in the end {:.1} MB", before / 1e6, after / 1e6)
        });
        findings.did("memory of a server in the end, in kB", (after / 1e3) as u64 / SERVERS as u64);
        let [before, after] = thirds(taken, |taken| taken.files);
        findings.claim(after <= before + SPARE, || {
            format!("server {server} had {before:.0} files open, and in the end {after:.0}")
        });
    }
    let [before, after] = thirds(&samples.connections, |connections| *connections);
    findings.claim(after <= before + SPARE, || {
        format!("the database had {before:.0} connections, and in the end {after:.0}")
    });
    findings.done = lasts.as_secs();
    findings.did("seconds", lasts.as_secs());
    findings.did("requests a second that they can carry", can as u64);
    findings.did("requests acknowledged", half.acknowledged.load(Ordering::Relaxed));
    findings.did("streams opened", comings.into_inner());
    place.stop().await?;
    Ok(findings)
}

/// Lets all callers ask for so long.
async fn drive(run: &Run, load: &Load<'_>, lasts: Duration, purpose: u64) -> anyhow::Result<()> {
    let callers = (0..CALLERS).map(|caller| load.caller(caller, run.random(purpose * 1_000 + caller as u64)));
    let end = async {
        sleep(lasts).await;
        load.over.store(true, Ordering::Relaxed);
    };
    let (called, ()) = tokio::join!(join_all(callers), end);
    called.into_iter().collect()
}

/// Follows the log, and comes back now and then.
async fn follow(
    place: &Place,
    tenant: &Tenant,
    number: usize,
    over: &AtomicBool,
    comings: &AtomicU64,
) -> anyhow::Result<()> {
    let mut caller = Caller::new(&tenant.key);
    for turn in 0.. {
        if over.load(Ordering::Relaxed) {
            break;
        }
        let address = place.address(number + turn).context("a server runs")?;
        let response = caller.open(&address, &Ask::get("/v1/events/stream")).await?;
        anyhow::ensure!(response.status() == 200, "a stream is answered with {}", response.status());
        comings.fetch_add(1, Ordering::Relaxed);
        let mut body = response.into_body();
        let reading = async {
            while !over.load(Ordering::Relaxed)
                && let Some(Ok(_)) = body.frame().await
            {}
        };
        let _ = timeout(FOLLOWED, reading).await;
        caller.hang_up();
    }
    Ok(())
}

/// What was taken, moment by moment.
#[derive(Debug, Default)]
struct Samples {
    servers: Vec<Vec<Taken>>,
    connections: Vec<f64>,
}

async fn sample(place: &Place, ledger: &Ledger, lasts: Duration) -> anyhow::Result<Samples> {
    let client = place.superuser().await?;
    let mut samples = Samples { servers: vec![vec![]; SERVERS], ..Samples::default() };
    let until = Instant::now() + lasts;
    while Instant::now() + BETWEEN_SAMPLES < until {
        sleep(BETWEEN_SAMPLES).await;
        // Nothing is lost in this row, so the account need not be kept.
        drop(ledger.take());
        for (server, taken) in samples.servers.iter_mut().enumerate() {
            taken.push(of_process(place.process(server).context("a server runs")?)?);
        }
        let sql = "select count(*) from pg_stat_activity where datname = current_database()";
        let connections: i64 = client.query_one(sql, &[]).await?.get(0);
        samples.connections.push(connections as f64);
    }
    Ok(samples)
}

fn of_process(process: u32) -> anyhow::Result<Taken> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status"))?;
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("it has memory")?;
    let kilobytes: f64 = resident.trim().trim_end_matches(" kB").parse()?;
    let files = std::fs::read_dir(format!("/proc/{process}/fd"))?.count();
    Ok(Taken { memory: kilobytes * 1_024.0, files: files as f64 })
}

/// The means of the middle third and of the last: the first is left out, in which what is kept on purpose fills.
fn thirds<T>(samples: &[T], value: impl Fn(&T) -> f64) -> [f64; 2] {
    let third = samples.len() / 3;
    let mean = |part: &[T]| part.iter().map(&value).sum::<f64>() / part.len().max(1) as f64;
    [mean(&samples[third..2 * third]), mean(&samples[2 * third..])]
}
