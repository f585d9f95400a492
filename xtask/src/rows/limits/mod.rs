//! Many agents spend against small limits of all kinds on two servers that are killed, over edges of days and months. The
//! log is then checked at every position by sums of the proof's own, and so is what the client was answered.

use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::Context;
use futures_util::FutureExt;
use rust_decimal::Decimal;
use serde_json::json;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep};

use crate::load::{Account, Load};
use crate::place::Place;
use crate::prove::{Findings, Row, Run};

mod agents;
mod answers;
mod asks;
mod clock;
mod harm;
mod log;
mod prices;
mod refusals;
mod spenders;
mod sums;
mod vendor;
mod walk;

use agents::RELEASED_MS;
use clock::{Clock, Edge};
use harm::{BEFORE_AN_EDGE, Kill};
use prices::{Prices, decimal};
use spenders::{AGAIN, AGENTS, Scene};
use vendor::Vendor;
use walk::{Known, Walk};

pub(crate) const ROW: Row = Row {
    name: "limits",
    claim: "no work starts that does not fit, none is refused that fits, and no reservation outlives its work by a minute",
    floor: (300, 20_000),
    bugs: &["stale-standing", "smaller-limit", "fewer-minutes", "unlimited-minutes"],
    run: |run| prove(run).boxed(),
};

/// What has to have been met besides, below which a run has shown nothing: quick and full.
const MET: [(&str, u64, u64); 12] = [
    ("next minutes of compute started", 3, 1_000),
    ("next minutes of compute refused", 5, 100),
    ("calls that a kill met", 10, 200),
    ("edges of days", 1, 12),
    ("edges of months", 1, 5),
    ("starts that fit only since a period began", 10, 500),
    ("refusals", 20, 5_000),
    ("refusals by maxCost", 10, 1_000),
    ("refusals by maxAgents", 5, 500),
    ("refusals by maxComputeMinutes", 5, 500),
    ("refusals by userBudget", 5, 500),
    ("refusals by organizationBudget", 5, 500),
];

async fn prove(run: Run) -> anyhow::Result<Findings> {
    let folder = std::env::temp_dir().join(format!("theazo-proof-limits-{:x}", fastrand::u64(..)));
    std::fs::create_dir_all(&folder)?;
    let account = Account::new(&run, "limits")?;
    let outcome = life(&run, &folder, &account).await;
    let _ = std::fs::remove_dir_all(&folder);
    if let Ok(findings) = &outcome {
        account.close(findings);
    }
    outcome
}

async fn life(run: &Run, folder: &Path, account: &Account) -> anyhow::Result<Findings> {
    let (vendor, clock) = (Vendor::new().await, Clock::new(folder).await?);
    let (url, sandboxes, moved) =
        (vendor.server.anthropic_url(), folder.join("sandboxes").display().to_string(), clock.environment());
    let mut environment = vec![
        ("ANTHROPIC_BASE_URL", &*url),
        ("ANTHROPIC_API_KEY", "sk-ant-proof-0000"),
        ("THEAZO_SANDBOX_DIR", &*sandboxes),
    ];
    environment.extend(moved.iter().map(|(name, value)| (*name, &**value)));
    let place = Place::new(run, 2, &environment).await?;
    clock.lead_database(&place).await?;
    let tenant = place.organization("live").await?;
    let prices = Prices::of(&place.command(&["rates", "show"]).await?)?;
    clock.lead_up_to(&place, Edge::Month, BEFORE_AN_EDGE).await?;
    let load = Load::new(run, &place, account, AGAIN);
    let scene = Scene {
        load: &load,
        tenant: &tenant,
        clock: &clock,
        sessions: usize::try_from(run.amount(6, 50))?,
        until: Instant::now() + spending(run),
    };
    let mut findings = run.findings();
    run.doing.now("spends");
    let (sessions, kills) = spend(run, &scene).await?;
    run.doing.now("waits until nothing is held");
    settle(&scene, &sessions, &mut findings).await?;
    run.doing.now("checks the log");
    let (lengths, asked) = (vendor.lengths(), account.operations()?);
    let longest = lengths.values().flatten().copied().max().unwrap_or_default();
    let known =
        Known { asks: &asked, prices: &prices, lengths: &lengths, longest, clock: &clock, kills: &kills };
    let mut walk = Walk::new(known, &mut findings);
    let database = place.superuser().await?;
    let mut position = 0;
    loop {
        let page = log::page(&database, &tenant, position).await?;
        let Some(last) = page.last() else { break };
        position = last.position;
        page.into_iter().try_for_each(|entry| walk.step(entry))?;
    }
    walk.end();
    let happened = std::mem::take(&mut walk.happened);
    answers::hold(&asked, &happened, |asked| asked.is_forgotten(&clock), &mut findings);
    for refused in vendor.server.refused() {
        findings.violation(format!("the model's vendor refused a request: {refused}"));
    }
    findings.did("kills", kills.len() as u64);
    findings.did("spenders", (sessions.len() * AGENTS) as u64);
    findings.did("seconds until the slowest answer", load.slowest_s.load(Ordering::Relaxed));
    if run.planted.is_none() {
        enough(run, &mut findings);
    }
    place.stop().await?;
    Ok(findings)
}

/// How long they spend. A bug has to be found over the first edge.
fn spending(run: &Run) -> Duration {
    Duration::from_secs(if run.planted.is_some() { 30 } else { run.amount(80, 900) })
}

/// Lets all spend while servers are killed and edges crossed: the sessions, and the kills.
async fn spend(run: &Run, scene: &Scene<'_>) -> anyhow::Result<(Vec<String>, Vec<Kill>)> {
    let calm = Mutex::new(());
    // With a bug planted, nothing else may be to blame.
    let kills = run.planted.is_none();
    let spending = async {
        let keys = std::iter::repeat_n(&*scene.tenant.key, scene.sessions);
        let customers = scene.load.customers(keys, "session", 1_000);
        let spent = scene.load.live(customers, |customer| scene.sessions(customer)).await;
        scene.load.end();
        spent
    };
    let harm = async {
        tokio::join!(
            harm::kill(scene, &calm, (run.random(77), kills)),
            harm::cross(scene, &calm),
            scene.budgets(scene.load.customer(&scene.tenant.key, "budget", 78))
        )
    };
    let (spent, (killed, crossed, budgets)) = tokio::join!(spending, harm);
    let spent = spent.into_iter().collect::<anyhow::Result<Vec<_>>>()?;
    crossed?;
    budgets?;
    Ok((spent.into_iter().flatten().collect(), killed?))
}

/// Waits until the calls are closed that the last kills met, while their sessions live: an agent's end closes its calls
/// in another way, and so does a clock that is moved. What takes too long is found in the log.
async fn calls_end(scene: &Scene<'_>) -> anyhow::Result<()> {
    let database = scene.load.place.superuser().await?;
    let sql = "select count(*) filter (where e.type = 'model.call_opened') * 2 - count(*)
               from events e join tenants t using (tenant_id)
               where t.organization_id = $1 and t.mode = 'live' and e.type in
                 ('model.call_opened', 'model.call_settled', 'model.call_released', 'model.call_lost')";
    let until = Instant::now() + Duration::from_millis(RELEASED_MS.unsigned_abs());
    loop {
        let open: i64 = database.query_one(sql, &[&scene.tenant.organization]).await?.get(0);
        if open == 0 || Instant::now() > until {
            return Ok(());
        }
        sleep(Duration::from_millis(500)).await;
    }
}

/// Ends every session, and waits until nothing is held for its work any more.
async fn settle(scene: &Scene<'_>, sessions: &[String], findings: &mut Findings) -> anyhow::Result<()> {
    calls_end(scene).await?;
    let mut customer = scene.load.customer(&scene.tenant.key, "settle", 79);
    for id in sessions {
        scene.end_session(&mut customer, id).await?;
    }
    let until = Instant::now() + Duration::from_millis(RELEASED_MS.unsigned_abs());
    for id in sessions {
        loop {
            let usage = customer.look(format!("/v1/sessions/{id}/usage")).await?;
            let held: Decimal = decimal(&usage["reserved"]["exact"]).context("an amount")?;
            if held.is_zero() {
                break;
            }
            if Instant::now() > until {
                findings.violation(format!("{id}: {held} are held a minute after its end"));
                break;
            }
            sleep(Duration::from_millis(100)).await;
        }
    }
    Ok(())
}

/// What was met is enough to have shown something.
fn enough(run: &Run, findings: &mut Findings) {
    for (what, quick, full) in MET {
        let (met, floor) = (findings.work.get(what).copied().unwrap_or(0), run.amount(quick, full));
        findings.claim(met >= floor, || json!({ "met": met, "floor": floor, "of": what }).to_string());
    }
}
