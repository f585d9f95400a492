//! Servers and the whole PostgreSQL are killed under load; the client's ledger says what must be there.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::join_all;
use nix::sys::signal::Signal;

use crate::ledger::{Entry, Ledger, Outcome};
use crate::load::Load;
use crate::place::{Place, Tenant};
use crate::prove::{Findings, Row, Run};

pub(crate) const ROW: Row = Row {
    name: "kills",
    claim: "nothing acknowledged is lost or doubled; every read model equals a refold of the log, after every restart",
    floor: (2_000, 1_000_000),
    bugs: &["lost-batch", "unfolded-row", "forgotten-key"],
    run: |run| prove(run).boxed(),
};

const CALLERS: usize = 32;
/// Kills upon one organization's log; then another takes its place, so that folding it again stays quick.
const KILLS_A_LOG: u64 = 20;

async fn prove(run: Run) -> anyhow::Result<Findings> {
    let place = Place::new(&run, 2, &[]).await?;
    let ledger = Ledger::new(&place.directory().join("ledger.jsonl"))?;
    let mut findings = Findings::default();
    let mut random = run.random(1);
    let (kills, acknowledged) = (run.amount(12, 1_000), run.amount(3_000, 1_000_000));
    // So that the load has been carried when the last kill has come.
    let between = 2 * acknowledged / kills;
    let mut killed = 0;
    for number in 0_u64.. {
        if killed >= kills && findings.done >= acknowledged || findings.is_red() {
            break;
        }
        let tenant = place.organization("live").await?;
        let load = Load::new(&place, &ledger, &tenant.key, &format!("log-{number}"));
        let callers =
            (0..CALLERS).map(|caller| load.caller(caller, run.random(number * 1_000 + caller as u64 + 7)));
        let calling = join_all(callers);
        let killing = async {
            let outcome =
                kill_around(&place, &load, &run, &mut random, (KILLS_A_LOG.min(kills), between)).await;
            load.over.store(true, Ordering::Relaxed);
            run.doing.now("the callers end");
            outcome
        };
        let (called, kills_here) = tokio::join!(calling, killing);
        run.doing.now(format!("log {number} is checked"));
        killed += kills_here?;
        for outcome in called {
            if let Err(error) = outcome {
                findings.violation(format!("a request that must succeed did not: {error:#}"));
            }
        }
        findings.done += load.acknowledged.load(Ordering::Relaxed);
        findings.did("unknown, settled by a retry", load.unknown.load(Ordering::Relaxed));
        check(&place, &tenant, &ledger.take(), &mut findings).await?;
    }
    findings.did("kills", killed);
    findings.did("acknowledged", findings.done);
    place.stop().await?;
    Ok(findings)
}

/// Kills servers and the database at random moments, and starts again what does not come back by itself.
async fn kill_around(
    place: &Place,
    load: &Load<'_>,
    run: &Run,
    random: &mut fastrand::Rng,
    (kills, between): (u64, u64),
) -> anyhow::Result<u64> {
    let mut killed = 0;
    while killed < kills {
        // The load goes on for a while between kills, however long the servers take to come back.
        let aim = load.acknowledged.load(Ordering::Relaxed) + random.u64(20..between.max(21));
        let until = tokio::time::Instant::now() + Duration::from_secs(30);
        run.doing.now(format!("the load goes on after {killed} kills"));
        while load.acknowledged.load(Ordering::Relaxed) < aim && tokio::time::Instant::now() < until {
            tokio::time::sleep(Duration::from_millis(random.u64(1..10))).await;
        }
        let victim = random.usize(..2);
        run.doing.now(format!("kill {killed}"));
        match random.u8(..4) {
            0 => place.kill_database().await?,
            1 => {
                place.kill_database().await?;
                place.end_server(victim, Signal::SIGKILL).await?;
                place.start(victim).await?;
                killed += 1;
            }
            _ => {
                place.end_server(victim, Signal::SIGKILL).await?;
                place.start(victim).await?;
            }
        }
        killed += 1;
    }
    Ok(killed)
}

/// Holds the log against the ledger, and the read models against the log.
async fn check(
    place: &Place,
    tenant: &Tenant,
    entries: &BTreeMap<String, Entry>,
    findings: &mut Findings,
) -> anyhow::Result<()> {
    let sql = "select e.metadata->>'idempotencyKey', e.type from events e join tenants t using (tenant_id)
               where t.organization_id = $1 and e.metadata->>'idempotencyKey' is not null";
    let mut happened: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for row in place.superuser().await?.query(sql, &[&tenant.organization]).await? {
        happened.entry(row.get(0)).or_default().push(row.get(1));
    }
    for (key, entry) in entries {
        let events = happened.remove(key).unwrap_or_default();
        let right = match entry.outcome {
            Outcome::Ok => events == [entry.event.clone()],
            Outcome::Refused => events.is_empty(),
            // The load was ended before it was settled: at most once, then.
            Outcome::Unknown => events.is_empty() || events == [entry.event.clone()],
        };
        findings.claim(right, || format!("{entry:?} made these events happen: {events:?}"));
    }
    findings.claim(happened.is_empty(), || format!("nobody asked for {happened:?}"));
    for sound in [&["log", "verify"][..], &["projection", "compare"]] {
        let checked = place.command(&[sound, &["--org", &tenant.organization]].concat()).await;
        if let Err(error) = checked {
            findings.violation(format!("{error:#}"));
        }
    }
    findings.did("logs folded again", 1);
    Ok(())
}
