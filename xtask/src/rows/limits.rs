//! Many agents spend against small limits on two servers that are killed; the log is checked at every position.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, bail};
use futures_util::FutureExt;
use futures_util::future::join_all;
use nix::sys::signal::Signal;
use rust_decimal::Decimal;
use serde_json::{Value, json};
use theazo_domain::Event;
use theazo_domain::account::{Account, Excess, LimitName, Need};
use theazo_domain::id::{AgentId, SessionId};
use theazo_domain::session::{CostLimit, Limits};
use theazo_domain::time::Timestamp;
use tokio::time::Instant;

use crate::client::{Ask, Caller};
use crate::place::{Place, Tenant};
use crate::prove::{Findings, Row, Run};

pub(crate) const ROW: Row = Row {
    name: "limits",
    claim: "no work starts that does not fit, none is refused that fits, and no reservation outlives its work by a minute",
    floor: (300, 20_000),
    bugs: &["stale-standing", "smaller-limit"],
    run: |run| prove(run).boxed(),
};

/// Spenders of one session.
const AGENTS: usize = 20;
/// A limit: a few of the spenders fit at the same time, and never all.
const CENTS: Range<u64> = 3..20;
/// Refusals below which a run has shown nothing.
const REFUSALS: u64 = 20;
/// How long a session lives at most.
const LIFE: Duration = Duration::from_secs(45);
/// How long a spender asks until it is answered: two cores with a thousand of them, and a server that is killed every three
/// seconds and has forgotten all of them each time, may tell one to ask again some times in a row. The longest is shown.
const ANSWERED: Duration = Duration::from_secs(240);
/// How long a reservation may stay open once its work is dead.
const RELEASED: Duration = Duration::from_secs(60);

async fn prove(run: Run) -> anyhow::Result<Findings> {
    let place = Place::new(&run, 2, &[]).await?;
    let tenant = place.organization("test").await?;
    let sessions = usize::try_from(run.amount(6, 50))?;
    let scene = Scene {
        place: &place,
        tenant: &tenant,
        spent: AtomicU64::new(0),
        longest_s: AtomicU64::new(0),
        until: Instant::now() + Duration::from_secs(run.amount(45, 900)),
        over: AtomicBool::new(false),
    };
    let mut findings = Findings::default();
    let spending = async {
        let spent =
            join_all((0..sessions).map(|number| scene.sessions(number, run.random(number as u64)))).await;
        scene.over.store(true, Ordering::Relaxed);
        spent
    };
    let (spent, killed) = tokio::join!(spending, scene.kill(run.random(77)));
    findings.did("kills", killed?);
    let mut ids = vec![];
    for outcome in spent {
        ids.extend(outcome?);
    }
    scene.settle(&ids, &mut findings).await?;
    check(&place, &tenant, &mut findings).await?;
    let refusals = findings.work.get("refusals").copied().unwrap_or(0);
    findings.claim(refusals >= REFUSALS, || format!("only {refusals} refusals: the limits were hardly met"));
    findings.did("spenders", (ids.len() * AGENTS) as u64);
    findings.did("runs asked for", scene.spent.load(Ordering::Relaxed));
    findings.did("seconds until the slowest answer", scene.longest_s.load(Ordering::Relaxed));
    place.stop().await?;
    Ok(findings)
}

struct Scene<'a> {
    place: &'a Place,
    tenant: &'a Tenant,
    spent: AtomicU64,
    /// The longest that a spender has asked until it was answered, in seconds.
    longest_s: AtomicU64,
    until: Instant,
    over: AtomicBool,
}

impl Scene<'_> {
    /// Asks again, on the servers by turns, until somebody answers.
    async fn ask(&self, caller: &mut Caller, server: usize, ask: &Ask) -> anyhow::Result<(u16, Value)> {
        let began = Instant::now();
        for turn in 0.. {
            if let Some(address) = self.place.address(server.wrapping_add(turn))
                && let Ok(answer) = caller.ask(&address, ask).await
                && answer.status != 503
            {
                if answer.status >= 500 {
                    bail!("{} {}: {} {}", ask.method, ask.path, answer.status, answer.text);
                }
                self.longest_s.fetch_max(began.elapsed().as_secs(), Ordering::Relaxed);
                return Ok((answer.status, answer.json()));
            }
            if began.elapsed() > ANSWERED {
                bail!("{} {}: nobody answers", ask.method, ask.path);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        unreachable!("it ends by the clock")
    }

    /// One session after the other, until time is up: what a session may spend is soon spent.
    async fn sessions(&self, number: usize, mut random: fastrand::Rng) -> anyhow::Result<Vec<String>> {
        let mut ids = vec![];
        while Instant::now() < self.until {
            let until = self.until.min(Instant::now() + LIFE);
            ids.push(self.session((number, ids.len()), until, random.fork()).await?);
        }
        Ok(ids)
    }

    /// A session with a limit, whose agents spend until its time is up. The limit is changed now and then.
    async fn session(
        &self,
        (number, life): (usize, usize),
        until: Instant,
        mut random: fastrand::Rng,
    ) -> anyhow::Result<String> {
        let mut caller = Caller::new(&self.tenant.key);
        let period = ["session", "day", "month"][number % 3];
        let limit =
            |amount: u64| json!({ "maxCost": { "amount": amount, "currency": "usd", "period": period } });
        let body = json!({ "userId": format!("user_{}", number % 7), "limits": limit(random.u64(CENTS)) });
        let create = Ask::post("/v1/sessions", Some(body)).once(format!("limits-{number}-{life}"));
        let id = self.ask(&mut caller, number, &create).await?.1["id"].as_str().context("an id")?.to_owned();
        let choices: Vec<_> = std::iter::repeat_with(|| random.fork()).take(AGENTS).collect();
        let agents = choices.into_iter().enumerate();
        let agents = agents.map(|(agent, random)| {
            let name = format!("{number}-{life}-{agent}");
            self.agent(&id, name, until, random)
        });
        let changing = async {
            while Instant::now() < until {
                tokio::time::sleep(Duration::from_millis(2_500)).await;
                let other = Some(limit(random.u64(CENTS)));
                let change = Ask::new("PATCH", format!("/v1/sessions/{id}/limits"), other);
                self.ask(&mut caller, number, &change).await?;
            }
            anyhow::Ok(())
        };
        let (agents, changed) = tokio::join!(join_all(agents), changing);
        for outcome in agents {
            outcome?;
        }
        changed?;
        Ok(id)
    }

    /// An agent that is given one task after the other, and resumed when a limit has paused it.
    async fn agent(
        &self,
        session: &str,
        name: String,
        until: Instant,
        mut random: fastrand::Rng,
    ) -> anyhow::Result<()> {
        let mut caller = Caller::new(&self.tenant.key);
        let model = json!({ "id": "claude-sonnet-4-20250514", "maxTokens": random.u32(100..2_000) });
        let body = json!({ "tools": ["web_search"], "model": model });
        let mut agent: Option<String> = None;
        for turn in 0_u64.. {
            if Instant::now() >= until {
                break;
            }
            let server = random.usize(..2);
            let Some(id) = agent.clone() else {
                let create = Ask::post(format!("/v1/sessions/{session}/agents"), Some(body.clone()));
                let create = create.once(format!("limits-agent-{name}-{turn}"));
                let (status, created) = self.ask(&mut caller, server, &create).await?;
                match status {
                    201 => agent = created["id"].as_str().map(ToOwned::to_owned),
                    _ => tokio::time::sleep(Duration::from_millis(random.u64(200..1_500))).await,
                }
                continue;
            };
            let run =
                Ask::post(format!("/v1/agents/{id}/run"), Some(json!({ "task": format!("task {turn}") })));
            let (status, _) =
                self.ask(&mut caller, server, &run.once(format!("limits-run-{name}-{turn}"))).await?;
            self.spent.fetch_add(1, Ordering::Relaxed);
            if status != 202 {
                // Running still, paused at the limit, or what it would cost does not fit.
                let resume = Ask::post(format!("/v1/agents/{id}/resume"), None);
                self.ask(&mut caller, server, &resume).await?;
                tokio::time::sleep(Duration::from_millis(random.u64(50..700))).await;
            }
        }
        Ok(())
    }

    async fn kill(&self, mut random: fastrand::Rng) -> anyhow::Result<u64> {
        let mut killed = 0;
        while !self.over.load(Ordering::Relaxed) {
            tokio::time::sleep(Duration::from_millis(random.u64(1_000..5_000))).await;
            let server = random.usize(..2);
            self.place.end_server(server, Signal::SIGKILL).await?;
            self.place.start(server).await?;
            killed += 1;
        }
        Ok(killed)
    }

    /// Ends every session, and waits until nothing is held for its work any more.
    async fn settle(&self, sessions: &[String], findings: &mut Findings) -> anyhow::Result<()> {
        let mut caller = Caller::new(&self.tenant.key);
        for id in sessions {
            self.ask(&mut caller, 0, &Ask::post(format!("/v1/sessions/{id}/terminate"), None)).await?;
        }
        let until = Instant::now() + RELEASED;
        for id in sessions {
            loop {
                let usage = Ask::get(format!("/v1/sessions/{id}/usage"));
                let reserved = self.ask(&mut caller, 0, &usage).await?.1["reserved"].clone();
                let held: Decimal = reserved["exact"].as_str().context("an amount")?.parse()?;
                if held.is_zero() {
                    break;
                }
                if Instant::now() > until {
                    findings.violation(format!("{id}: {held} are held a minute after its end"));
                    break;
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
        Ok(())
    }
}

/// A session as the log tells it.
#[derive(Default)]
struct Told {
    limits: Limits,
    account: Account,
    agents: u64,
}

/// Folds the log, event by event, and holds each that starts or refuses work against what stood before it.
async fn check(place: &Place, tenant: &Tenant, findings: &mut Findings) -> anyhow::Result<()> {
    let sql = "select e.position, e.type, e.data::text, e.at from events e join tenants t using (tenant_id)
               where t.organization_id = $1 and t.mode = 'test' order by e.position";
    let mut sessions: BTreeMap<SessionId, Told> = BTreeMap::new();
    let mut homes: BTreeMap<AgentId, SessionId> = BTreeMap::new();
    for row in place.superuser().await?.query(sql, &[&tenant.organization]).await? {
        let (position, kind, data): (i64, String, String) = (row.get(0), row.get(1), row.get(2));
        let at = theazo::database::millis(row.get(3));
        let event = Event::read(&kind, &data)?;
        findings.did("events checked", 1);
        match &event {
            Event::SessionCreated(created) => {
                sessions.entry(created.session_id).or_default().limits = created.limits.clone();
            }
            Event::SessionLimitsChanged(changed) => {
                sessions.entry(changed.session_id).or_default().limits = changed.limits.clone();
            }
            Event::AgentCreated(created) => {
                homes.insert(created.place.agent_id, created.place.session_id);
                sessions.entry(created.place.session_id).or_default().agents += 1;
            }
            Event::LimitRefused(refused) => {
                refusal(&sessions, refused.session_id, &refused.excess, (position, at), findings);
            }
            Event::AgentLimitReached(reached) => {
                refusal(&sessions, reached.place.session_id, &reached.excess, (position, at), findings);
            }
            _ => {}
        }
        let Some(booked) = event.booked() else { continue };
        let told = sessions.entry(booked.place.session_id).or_default();
        let mut after = told.account.clone();
        after.book(booked.booking);
        if booked.booking.reserved > booked.booking.released
            && let Some(limit) = &told.limits.max_cost
        {
            findings.did("work started", 1);
            findings.done += 1;
            over(&after, limit, (position, at), &kind, findings);
        }
        told.account = after;
    }
    for (id, told) in &sessions {
        findings.claim(told.account.reserved().is_zero(), || {
            format!("{id}: {} are held at the end", told.account.reserved())
        });
    }
    Ok(())
}

/// Work has started: what is spent and held then is within the limit.
fn over(
    account: &Account,
    limit: &CostLimit,
    (position, at): (i64, Timestamp),
    kind: &str,
    findings: &mut Findings,
) {
    let allowed = Decimal::new(limit.amount, 2);
    let taken = account.spent(limit.period, at) + account.reserved();
    findings
        .claim(taken <= allowed, || format!("position {position}, {kind}: {taken} of {allowed} are taken"));
}

/// Work was refused: it would indeed not have fitted.
fn refusal(
    sessions: &BTreeMap<SessionId, Told>,
    id: SessionId,
    excess: &Excess,
    (position, at): (i64, Timestamp),
    findings: &mut Findings,
) {
    findings.did("refusals", 1);
    if excess.limit != LimitName::MaxCost {
        return;
    }
    let Some(told) = sessions.get(&id) else { return };
    let Some(limit) = &told.limits.max_cost else {
        findings.violation(format!("position {position}: refused by a limit that is not there"));
        return;
    };
    let need = if excess.requested.is_zero() { Need::Something } else { Need::AtMost(excess.requested) };
    let fits = told.account.excess((LimitName::MaxCost, limit), need, at).is_none();
    findings.claim(!fits, || format!("position {position}: refused although it fits: {excess:?}"));
}
