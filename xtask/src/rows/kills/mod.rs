//! Servers and the whole PostgreSQL are killed under load. After every restart the client's account says what must be in
//! the log, and the log what must be in the read models.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use nix::sys::signal::Signal;
use tokio::time::{Instant, sleep};

use crate::client::DEADLINE;
use crate::load::{Account, Again, Effect, Load, Outcome};
use crate::place::{Place, Tenant};
use crate::prove::{Findings, Row, Run};

mod check;
pub(super) mod life;

use life::{EVENTS, Life};

pub(crate) const ROW: Row = Row {
    name: "kills",
    claim: "nothing acknowledged is lost or doubled; every read model equals a refold of the log, after every restart",
    floor: (2_000, 1_000_000),
    bugs: &["lost-batch", "unfolded-row", "forgotten-key"],
    run: |run| prove(run).boxed(),
};

/// What is counted by this name: each that was up and was killed.
const KILLS: &str = "kills";
const SERVERS: usize = 2;
const CALLERS: usize = 32;
/// How a request is repeated: until long after servers and database have come back. Sent again at once it meets what the first
/// one has left half done; sent later, what came of it.
pub(super) const AGAIN: Again =
    Again { each: DEADLINE, all: Duration::from_secs(90), rest_ms: 0..=39, hurries: true, ..Again::KILLED };
/// Kills upon one organization's log; then another takes its place, since all of it is folded again after each of them.
const KILLS_A_LOG: u64 = 5;
/// How many logs more are lived, if something that the load can ask for has not happened by then: what is rare has a chance in
/// each.
const LOGS_FOR_WHAT_IS_RARE: u64 = 3;
/// How long the load may take until it is harmed next.
const UNTIL_HARMED: Duration = Duration::from_secs(30);

async fn prove(run: Run) -> anyhow::Result<Findings> {
    let place = Place::new(&run, SERVERS, &[]).await?;
    let mut findings = run.findings();
    let mut random = run.random(1);
    let (kills, acknowledged) = (run.amount(12, 1_000), run.amount(3_000, 1_000_000));
    // So that the load has been carried when the last kill has come.
    let between = 2 * acknowledged / kills;
    let mut happened = BTreeSet::new();
    let mut more = LOGS_FOR_WHAT_IS_RARE;
    for number in 0_u64.. {
        let killed = findings.work.get(KILLS).copied().unwrap_or_default();
        let is_done = killed >= kills && findings.done >= acknowledged;
        if findings.is_red() || is_done && (more == 0 || happened.len() == EVENTS.len()) {
            break;
        }
        more -= u64::from(is_done);
        let tenant = place.organization("test").await?;
        let account = Account::new(&run, &format!("kills-{number}"))?;
        let load = Load::new(&run, &place, &account, AGAIN);
        let round = Round { tenant: &tenant, load: &load, run: &run, findings };
        findings = round.live((number, between), &mut random, &mut happened).await?;
        account.close(&findings);
    }
    let missing: Vec<_> = EVENTS.iter().filter(|event| !happened.contains(**event)).collect();
    findings.claim(missing.is_empty() || findings.is_red(), || format!("nobody asked for {missing:?}"));
    findings.did("acknowledged", findings.done);
    place.stop().await?;
    Ok(findings)
}

/// One organization's log.
struct Round<'a> {
    tenant: &'a Tenant,
    load: &'a Load<'a>,
    run: &'a Run,
    findings: Findings,
}

impl Round<'_> {
    /// Lets the callers ask and be disturbed, and tells what was found by then, and what has happened.
    async fn live(
        mut self,
        (number, between): (u64, u64),
        random: &mut fastrand::Rng,
        happened: &mut BTreeSet<String>,
    ) -> anyhow::Result<Findings> {
        let (load, run, tenant) = (self.load, self.run, self.tenant);
        let callers = load.customers([&*tenant.key; CALLERS], &format!("log-{number}"), number * 1_000 + 7);
        let living = load.live(callers, |caller| Life::new(caller, &tenant.organization).live());
        let killing = async {
            let killed = self.kill_around(random, between).await;
            load.end();
            run.doing.now("the callers end");
            killed
        };
        let (lived, killed) = tokio::join!(living, killing);
        killed?;
        run.doing.now(format!("log {number} is checked in the end"));
        if !self.findings.is_red() {
            self.check().await?;
        }
        for outcome in lived {
            if let Err(error) = outcome {
                self.findings.violation(format!("a request did not come to what it must: {error:#}"));
            }
        }
        let done = load.account.operations::<Effect>()?.into_values();
        let done = done.filter(|entry| entry.outcome == Outcome::Ok);
        happened.extend(done.filter_map(|entry| entry.what.event));
        let mut findings = self.findings;
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let Load { acknowledged, refused, unknown, undecided, .. } = load;
        findings.done += count(acknowledged);
        findings.did("refused, as the rules say", count(refused));
        findings.did("unknown, settled by the first retry that could be answered", count(unknown));
        let undecided = count(undecided);
        findings.claim(undecided == 0, || {
            format!("{undecided} requests met no kill, and what was unknown was not decided all the same")
        });
        Ok(findings)
    }

    /// Kills servers and the database at random moments, starts again what does not come back by itself, and checks
    /// everything before the load goes on.
    async fn kill_around(&mut self, random: &mut fastrand::Rng, between: u64) -> anyhow::Result<()> {
        let mut killed = 0;
        while killed < KILLS_A_LOG && !self.findings.is_red() && !self.load.is_over() {
            self.load_goes_on(random, between).await;
            self.run.doing.now(format!("kill {killed} of this log"));
            self.load.gate.is_harmed();
            let (victim, choice, holds_at_once) = (random.usize(..SERVERS), random.u8(..4), random.bool());
            if choice < 2 {
                killed += u64::from(self.load.place.kill_database().await?);
            }
            if choice > 0 {
                killed += u64::from(self.load.place.process(victim).is_some());
                self.load.place.end_server(victim, Signal::SIGKILL).await?;
            }
            // Now and then what was being done is looked at before anybody does it again; else others go on meanwhile,
            // and repeat at once what they have got no answer to.
            let started = async {
                if choice > 0 {
                    self.load.place.start(victim).await
                } else {
                    self.load.place.database_is_up().await
                }
            };
            let gate = &self.load.gate;
            let held = if holds_at_once {
                let (held, started) = tokio::join!(gate.hold(), started);
                started?;
                held
            } else {
                started.await?;
                gate.hold().await
            };
            self.run.doing.now(format!("the check after {killed} kills of this log"));
            self.check().await?;
            self.load.gate.is_back();
            drop(held);
        }
        self.findings.did(KILLS, killed);
        Ok(())
    }

    /// The load goes on for a while between kills, however long the servers take to come back.
    async fn load_goes_on(&self, random: &mut fastrand::Rng, between: u64) {
        let done = || self.load.acknowledged.load(Ordering::Relaxed);
        let (aim, until) = (done() + random.u64(20..between.max(21)), Instant::now() + UNTIL_HARMED);
        self.run.doing.now(format!("the load goes on to {aim}"));
        while done() < aim && Instant::now() < until && !self.load.is_over() {
            sleep(Duration::from_millis(random.u64(1..10))).await;
        }
    }
}
