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
use crate::load::{Account, Load};
use crate::place::{Place, Tenant};
use crate::prove::{Findings, Row, Run};
use crate::rows::kills::AGAIN;
use crate::rows::kills::life::Life;

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
const BETWEEN_SAMPLES: Duration = Duration::from_secs(1);
/// The share of what they can carry that must have been acknowledged for the time to count, in percent: somewhat less
/// than the half that is asked for.
const CARRIED: u64 = 45;
/// What memory may grow by with each request, in bytes, once what a server keeps on purpose up to a limit (states,
/// answers, frames) has come to that.
const GROWTH: f64 = 8.0;
/// The same of a quick run, which ends long before a server has as many states as it keeps.
const GROWTH_WHILE_FILLING: f64 = 2_048.0;
/// What memory may grow by besides, for what an allocator takes in large pieces.
const PIECES: f64 = 4e6;
/// What files and connections may differ by from the start to the end, by their trend.
const SPARE: f64 = 4.0;

/// What a server takes at a moment.
#[derive(Debug, Clone, Copy, Default)]
struct Taken {
    memory: f64,
    files: f64,
}

async fn prove(run: Run) -> anyhow::Result<Findings> {
    let mut findings = run.findings();
    let place = Place::new(&run, SERVERS, &[]).await?;
    let tenant = place.organization("test").await?;
    // Without a pause first: what they can carry, and what they keep on purpose fills.
    let account = Account::new(&run, "soak")?;
    let whole = Load::new(&run, &place, &account, AGAIN);
    let measured = Duration::from_secs(run.amount(20, 120));
    drive((&whole, &tenant), measured, ("whole", 0)).await?;
    let acknowledged = |load: &Load<'_>| load.acknowledged.load(Ordering::Relaxed);
    let others = whole.refused.load(Ordering::Relaxed) + whole.looks.load(Ordering::Relaxed);
    let asked = acknowledged(&whole) + others;
    let each = measured / u32::try_from(asked.max(1))?;
    let half = Load::new(&run, &place, &account, AGAIN).paced(each * 2);
    // What leaks with a bug planted shows in less.
    let quick = if run.planted.is_some() { 30 } else { 60 };
    let lasts = Duration::from_secs(run.amount(quick, 3_600));
    let over = AtomicBool::new(false);
    let comings = AtomicU64::new(0);
    let following = join_all((0..FOLLOWERS).map(|number| follow(&place, &tenant, number, &over, &comings)));
    let sampling = sample(&place, &half, lasts);
    let driving = async {
        let driven = drive((&half, &tenant), lasts, ("half", 1_000)).await;
        over.store(true, Ordering::Relaxed);
        driven
    };
    let (driven, samples, followed) = tokio::join!(driving, sampling, following);
    driven?;
    followed.into_iter().collect::<anyhow::Result<Vec<()>>>()?;
    let growth = if lasts.as_secs() < 3_600 { GROWTH_WHILE_FILLING } else { GROWTH };
    judge(&samples?, growth, &mut findings);
    // A second counts where its share of the load was carried.
    let share = acknowledged(&whole) * lasts.as_secs() * CARRIED / 100 / measured.as_secs();
    findings.done = lasts.as_secs().min(lasts.as_secs() * acknowledged(&half) / share.max(1));
    findings.did("seconds", lasts.as_secs());
    findings.did("requests a second that they can carry", acknowledged(&whole) / measured.as_secs());
    findings.did("requests acknowledged a second", acknowledged(&half) / lasts.as_secs());
    findings.did("requests acknowledged", acknowledged(&half));
    findings.did("requests that looked", half.looks.load(Ordering::Relaxed));
    findings.did("streams opened", comings.into_inner());
    account.close(&findings);
    place.stop().await?;
    Ok(findings)
}

/// Holds what was taken against what it may be, by its trend over the whole run but its beginning.
fn judge(samples: &Samples, growth: f64, findings: &mut Findings) {
    let settled = samples.requests.len() / 4;
    let requests = &samples.requests[settled..];
    let made = requests.last().zip(requests.first()).map_or(1.0, |(last, first)| (last - first).max(1.0));
    for (server, taken) in samples.servers.iter().enumerate() {
        let memory: Vec<f64> = taken[settled..].iter().map(|taken| taken.memory).collect();
        let grew = slope(requests, &memory);
        let may = growth + PIECES / made;
        findings.claim(grew <= may, || {
            format!("server {server} takes {grew:.0} bytes of memory a request more, and may {may:.0}")
        });
        let work = &mut findings.work;
        let most = work.entry("bytes that memory grew by a request, at most").or_default();
        *most = (*most).max(grew.max(0.0) as u64);
        findings.did(
            "memory of a server in the end, in kB",
            memory.last().map_or(0, |last| (last / 1e3) as u64) / SERVERS as u64,
        );
        let files: Vec<f64> = taken[settled..].iter().map(|taken| taken.files).collect();
        let more = slope(requests, &files) * made;
        findings.claim(more <= SPARE, || format!("server {server} has {more:.0} files open more in the end"));
    }
    let more = slope(requests, &samples.connections[settled..]) * made;
    findings.claim(more <= SPARE, || format!("the database has {more:.0} connections more in the end"));
}

/// The slope of the line that lies nearest to these points: the least sum of squares.
fn slope(x: &[f64], y: &[f64]) -> f64 {
    let mean = |of: &[f64]| of.iter().sum::<f64>() / of.len().max(1) as f64;
    let (mean_x, mean_y) = (mean(x), mean(y));
    let both: f64 = x.iter().zip(y).map(|(x, y)| (x - mean_x) * (y - mean_y)).sum();
    let square: f64 = x.iter().map(|x| (x - mean_x) * (x - mean_x)).sum();
    if square > 0.0 { both / square } else { 0.0 }
}

/// Lets all callers ask for so long.
async fn drive(
    (load, tenant): (&Load<'_>, &Tenant),
    lasts: Duration,
    (name, purpose): (&str, u64),
) -> anyhow::Result<()> {
    let callers = load.customers([&*tenant.key; CALLERS], name, purpose);
    let living = load.live(callers, |caller| Life::new(caller, &tenant.organization).live());
    let end = async {
        sleep(lasts).await;
        load.end();
    };
    let (lived, ()) = tokio::join!(living, end);
    lived.into_iter().collect()
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
    /// Requests that were acknowledged until then.
    requests: Vec<f64>,
    servers: Vec<Vec<Taken>>,
    connections: Vec<f64>,
}

async fn sample(place: &Place, load: &Load<'_>, lasts: Duration) -> anyhow::Result<Samples> {
    let client = place.superuser().await?;
    let mut samples = Samples { servers: vec![vec![]; SERVERS], ..Samples::default() };
    let until = Instant::now() + lasts;
    while Instant::now() + BETWEEN_SAMPLES < until {
        sleep(BETWEEN_SAMPLES).await;
        samples.requests.push(load.acknowledged.load(Ordering::Relaxed) as f64);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_that_grows_with_every_request_is_found_and_memory_that_wavers_is_not() {
        let seconds = 0..600_u32;
        let requests: Vec<f64> = seconds.clone().map(|second| f64::from(second) * 200.0).collect();
        let judged = |memory: &dyn Fn(u32) -> f64| {
            let taken = seconds.clone().map(|second| Taken { memory: memory(second), files: 50.0 }).collect();
            let connections = vec![20.0; requests.len()];
            let samples = Samples { requests: requests.clone(), servers: vec![taken], connections };
            let mut findings = Findings::default();
            judge(&samples, GROWTH, &mut findings);
            findings.is_red()
        };
        assert!(judged(&|second| 5e7 + f64::from(second) * 200.0 * 64.0));
        assert!(!judged(&|second| 5e7 + f64::from(second % 60) * 2e5));
    }
}
