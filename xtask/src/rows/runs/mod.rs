//! Servers are killed while they run agents: in calls of models, in calls of tools, and between them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use futures_util::FutureExt;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Row as Found};

use crate::load::{Account, Again, Customer, Load};
use crate::place::{Place, Tenant};
use crate::prove::{Findings, Row, Run};

#[path = "../../../../tests/it/handover/account.rs"]
mod account;
mod kills;
mod paid;

use super::ledger::harm::Outages;
use super::ledger::money::Prices;
use super::ledger::spans::{Ready, now_ms};
use super::models::script::Cuts;
use super::models::{Answer, Asked, Delivery, ModelServer, Said, Turn};
use account::{Booked, Event, amount};
use paid::Vendor;

pub(crate) const ROW: Row = Row {
    name: "runs",
    claim: "a run survives any crash, ends once, and repeats no recorded effect and no charge",
    floor: (10, 500),
    bugs: &["repeated-tool", "forgotten-result", "doubled-usage", "unlogged-call", "doubled-charge"],
    run: |run| prove(run).boxed(),
};

const SERVERS: usize = 3;
/// Agents that run at the same time.
const AGENTS: usize = 16;
/// Turns of a run in which the model calls tools: two in each.
const TURNS: usize = 6;
/// Longer than a tool takes that a server is still at which has lost its run.
const STALE: Duration = Duration::from_secs(2);
/// Kills upon one organization's log, which is then held against its read models.
const KILLS_A_LOG: u64 = 25;
/// How long a run is waited for: far longer than it takes to take up what a server has left.
const GIVE_UP: Duration = Duration::from_secs(100);

async fn prove(run: Run) -> anyhow::Result<Findings> {
    let (enough, vendor) = (Arc::new(AtomicBool::new(false)), Arc::new(Vendor::default()));
    let (told, memory) = (Arc::clone(&enough), Arc::clone(&vendor));
    let models = ModelServer::new(move |asked| answer(asked, &told, &memory)).await;
    let sandboxes = std::env::temp_dir().join(format!("theazo-proof-runs-{:x}", fastrand::u64(..)));
    let outcome = rounds(&run, (&models, &vendor), &enough, &sandboxes).await;
    let _ = std::fs::remove_dir_all(&sandboxes);
    outcome
}

async fn rounds(
    run: &Run,
    (models, vendor): (&ModelServer, &Vendor),
    enough: &AtomicBool,
    sandboxes: &Path,
) -> anyhow::Result<Findings> {
    let environment = [
        ("ANTHROPIC_BASE_URL", &*models.anthropic_url()),
        ("ANTHROPIC_API_KEY", "sk-ant-proof-0000"),
        ("THEAZO_SANDBOX_DIR", &*sandboxes.display().to_string()),
    ];
    let place = Place::new(run, SERVERS, &environment).await?;
    let prices = Prices::of(&place.command(&["rates", "show"]).await?)?;
    let scene = Scene { place: &place, sandboxes, vendor, prices: &prices };
    let mut random = run.random(1);
    let kills = run.amount(12, 500);
    let findings = Mutex::new(run.findings());
    while lock(&findings).done < kills && !lock(&findings).is_red() {
        enough.store(false, Ordering::Relaxed);
        let account = Account::new(run, "runs")?;
        let load = Load::new(run, &place, &account, Again::KILLED);
        let round = Round::new(scene, &load, &findings).await?;
        let customers = load.customers([&*round.tenant.key; AGENTS], "run", 100);
        let living = load.live(customers, |customer| round.live(customer));
        let killing = async {
            let killed = round.kill_around(&mut random, kills.min(KILLS_A_LOG)).await;
            enough.store(true, Ordering::Relaxed);
            load.end();
            killed
        };
        let (lived, killed) = tokio::join!(living, killing);
        for outcome in lived {
            if let Err(error) = outcome {
                lock(&findings).violation(format!("{error:#}"));
            }
        }
        if lock(&findings).is_red() {
            // Without runs there is nothing to be killed either.
            break;
        }
        killed?;
        round.check().await?;
        account.close(&lock(&findings));
    }
    let mut findings = findings.into_inner().unwrap_or_else(PoisonError::into_inner);
    for refused in models.refused() {
        findings.violation(format!("the model's vendor refused a request: {refused}"));
    }
    place.stop().await?;
    Ok(findings)
}

fn lock(findings: &Mutex<Findings>) -> std::sync::MutexGuard<'_, Findings> {
    findings.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A model that calls two tools a turn, until it has had its turns or is told to end. Which turn it is, it reads in the
/// conversation.
fn answer(asked: &Asked, enough: &AtomicBool, vendor: &Vendor) -> Answer {
    let calls = |said: &&Said| matches!(said, Said::Model { calls, .. } if !calls.is_empty());
    let (task, since) = asked.task();
    let turn = since.iter().filter(calls).count();
    vendor.remember(task, turn, asked);
    let pause = Duration::from_millis(50);
    let delivery = Delivery { cuts: Cuts::At(vec![40, 200]), pause, ..Delivery::default() };
    if turn >= TURNS || turn > 0 && enough.load(Ordering::Relaxed) {
        return Turn::says("All done.").delivered(delivery).into();
    }
    let input = |index: usize| {
        let code = format!("sleep 0.1; echo {turn}.{index} >> effects; sleep 0.1; echo did {turn}.{index}");
        json!({ "lang": "bash", "code": code }).to_string()
    };
    let turn_of = Turn::says(format!("Turn {turn}."))
        .and_calls(&format!("toolu_{turn}_0"), "run_code", &input(0))
        .and_calls(&format!("toolu_{turn}_1"), "run_code", &input(1));
    turn_of.delivered(delivery).into()
}

/// Where all rounds take place.
#[derive(Clone, Copy)]
struct Scene<'a> {
    place: &'a Place,
    sandboxes: &'a Path,
    vendor: &'a Vendor,
    prices: &'a Prices,
}

/// A run that has ended, as it was then.
struct Ran {
    agent: String,
    /// What its model was told.
    told: String,
    task_id: String,
    shown: Value,
    effects: Vec<String>,
    life: Ready,
    /// Whether its agent still lives.
    stays: bool,
}

/// One organization's agents, until so many kills have met them.
struct Round<'a> {
    scene: Scene<'a>,
    load: &'a Load<'a>,
    findings: &'a Mutex<Findings>,
    tenant: Tenant,
    client: Mutex<Arc<Client>>,
    session: String,
    ran: Mutex<Vec<Ran>>,
    outages: Outages,
    /// When something was killed last, and was up again.
    killed: Mutex<Instant>,
}

impl<'a> Round<'a> {
    async fn new(
        scene: Scene<'a>,
        load: &'a Load<'a>,
        findings: &'a Mutex<Findings>,
    ) -> anyhow::Result<Self> {
        let tenant = scene.place.organization("live").await?;
        let mut customer = load.customer(&tenant.key, "session", 0);
        let session = customer.post("/v1/sessions", json!({ "userId": "user_1" })).await?;
        Ok(Self {
            scene,
            load,
            findings,
            tenant,
            client: Mutex::new(Arc::new(scene.place.superuser().await?)),
            session: text(&session, "id")?,
            ran: Mutex::default(),
            outages: Outages::default(),
            killed: Mutex::new(Instant::now()),
        })
    }

    /// Lets one agent after the other run, and looks at what it has done. Every other one lives on until the end of the
    /// round, so that what its tools do later is seen.
    async fn live(&self, mut customer: Customer<'_>) -> anyhow::Result<()> {
        let (number, mut lived) = (customer.number, 0);
        while !self.load.is_over() && !lock(self.findings).is_red() {
            let path = format!("/v1/sessions/{}/agents", self.session);
            let new = json!({ "tools": ["run_code"], "timeout": 3_600 });
            let from = now_ms();
            let agent = text(&customer.post(&path, new).await?, "id")?;
            let told = format!("Work, {number}.{lived} of {}.", self.session);
            let task = json!({ "task": told });
            let ran = customer.post(&format!("/v1/agents/{agent}/run"), task).await?;
            let task_id = text(&ran, "taskId")?;
            let Some(shown) = self.ended(&mut customer, (&agent, &task_id)).await? else { return Ok(()) };
            let life = Ready { from, by: from, asked: from, ended: from };
            let effects = self.effects(&agent);
            let mut ran = Ran { agent, told, task_id, shown, effects, life, stays: true };
            self.check_run(&ran, &ran.shown, &ran.effects).await?;
            if (number + lived).is_multiple_of(2) {
                self.terminate(&mut customer, &mut ran).await?;
            }
            self.ran.lock().unwrap_or_else(PoisonError::into_inner).push(ran);
            lived += 1;
        }
        Ok(())
    }

    /// A run as it is shown once it has ended; nothing where it is not worth waiting for any more.
    async fn ended(
        &self,
        customer: &mut Customer<'_>,
        (agent, task_id): (&str, &str),
    ) -> anyhow::Result<Option<Value>> {
        let began = Instant::now();
        loop {
            let shown = customer.look(format!("/v1/tasks/{task_id}")).await?;
            if !matches!(shown["status"].as_str(), Some("queued" | "running")) {
                return Ok(Some(shown));
            }
            if lock(self.findings).is_red() {
                return Ok(None);
            }
            // Kills go on meeting it, and each costs it the time until it is taken up again.
            let undisturbed = began.max(*self.killed.lock().unwrap_or_else(PoisonError::into_inner));
            anyhow::ensure!(undisturbed.elapsed() < GIVE_UP, "the run of {agent} does not end: {shown}");
            sleep(Duration::from_millis(100)).await;
        }
    }

    /// Lets an agent die, and waits until its sandbox is gone.
    async fn terminate(&self, customer: &mut Customer<'_>, ran: &mut Ran) -> anyhow::Result<()> {
        ran.life.asked = now_ms();
        customer.post(&format!("/v1/agents/{}/terminate", ran.agent), json!({})).await?;
        ran.life.ended = now_ms();
        ran.stays = false;
        let until = Instant::now() + GIVE_UP;
        while !self.events(&ran.agent).await?.iter().any(|(kind, _)| kind == "agent.released") {
            anyhow::ensure!(Instant::now() < until, "the sandbox of {} does not go", ran.agent);
            sleep(Duration::from_millis(100)).await;
        }
        Ok(())
    }

    /// What the tools of an agent have done, in order.
    fn effects(&self, agent: &str) -> Vec<String> {
        let effects = self.scene.sandboxes.join(agent).join("workspace/effects");
        let effects = std::fs::read_to_string(effects).unwrap_or_default();
        effects.lines().map(str::to_owned).collect()
    }

    /// Holds the log of a run against what its tools have done and what its model has said.
    async fn check_run(&self, ran: &Ran, shown: &Value, effects: &[String]) -> anyhow::Result<account::Seen> {
        let agent = &ran.agent;
        let events = self.events(agent).await?;
        let mut findings = lock(self.findings);
        let done = shown["status"] == "completed" && shown["output"] == "All done.";
        findings.claim(done, || format!("{agent} has come to {shown}"));
        for (_, data) in events.iter().filter(|(kind, _)| kind == "model.call_settled") {
            let used = &data["tokens"];
            let right = used["input"] == 25 && used["output"] == 15;
            findings
                .claim(right, || format!("the model has used 25 and 15 tokens, and {data} says otherwise"));
        }
        Ok(account::one_run(&events, effects).unwrap_or_else(|wrong| {
            findings.violation(format!("{agent}: {wrong}"));
            account::Seen::default()
        }))
    }

    /// The events about something, in order.
    async fn events(&self, subject: &str) -> anyhow::Result<Vec<Event>> {
        let sql =
            "select e.type, e.data::text from event_subjects s join events e using (tenant_id, position)
                   where s.subject = $1 order by position";
        let rows = self.query(sql, &[&subject]).await?;
        rows.iter().map(|row| Ok((row.get(0), serde_json::from_str(row.get(1))?))).collect()
    }

    /// Asks the database, again where it was killed meanwhile.
    async fn query(&self, sql: &str, parameters: &[&(dyn ToSql + Sync)]) -> anyhow::Result<Vec<Found>> {
        let until = Instant::now() + GIVE_UP;
        loop {
            let client = Arc::clone(&self.client.lock().unwrap_or_else(PoisonError::into_inner));
            match client.query(sql, parameters).await {
                Ok(rows) => return Ok(rows),
                Err(error) if Instant::now() > until => return Err(error.into()),
                Err(_) => sleep(Duration::from_millis(20)).await,
            }
            if let Ok(client) = self.scene.place.superuser().await {
                *self.client.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(client);
            }
        }
    }

    /// Looks at all runs again, once the servers are quiet; then at what they cost, and at the log.
    async fn check(&self) -> anyhow::Result<()> {
        self.is_quiet().await?;
        sleep(STALE).await;
        let mut customer = self.load.customer(&self.tenant.key, "check", 1);
        let mut paid = Booked::default();
        let mut asked_about = self.scene.vendor.forget();
        let all = std::mem::take(&mut *self.ran.lock().unwrap_or_else(PoisonError::into_inner));
        for mut ran in all {
            let shown = customer.look(format!("/v1/tasks/{}", ran.task_id)).await?;
            let later = if ran.stays { self.effects(&ran.agent) } else { ran.effects.clone() };
            let seen = self.check_run(&ran, &shown, &later).await?;
            let events = self.events(&ran.agent).await?;
            let same = shown == ran.shown && has_only_landed(&ran.effects, &later, &interrupted(&events));
            lock(self.findings).claim(same, || {
                format!(
                    "{} was {} with {:?}, and is {shown} with {later:?}",
                    ran.agent, ran.shown, ran.effects
                )
            });
            lock(self.findings)
                .did("runs that were looked at again with their sandbox", u64::from(ran.stays));
            if ran.stays {
                self.terminate(&mut customer, &mut ran).await?;
            }
            let told = asked_about.remove(&ran.told).unwrap_or_default();
            let events = self.events(&ran.agent).await?;
            let cost = paid::one_run(&events, &told, (&ran.life, &self.outages), self.scene.prices);
            let mut findings = lock(self.findings);
            match cost {
                Ok(cost) => {
                    paid.cost += cost.cost;
                    paid.unconfirmed += cost.unconfirmed;
                }
                Err(wrong) => findings.violation(format!("{}: {wrong}", ran.agent)),
            }
            findings.did("calls of models that a kill met", seen.lost as u64);
            findings.did("calls of tools that a kill met", seen.interrupted as u64);
            findings.did("runs", 1);
            findings.did("tools", later.len() as u64);
            findings.did("requests that the vendor saw", told.requests());
        }
        let strange: Vec<_> = asked_about.into_keys().collect();
        lock(self.findings).claim(strange.is_empty(), || format!("the vendor was asked about {strange:?}"));
        self.check_session(&mut customer, &paid).await
    }

    /// What the session shows is what was paid by the client's own reckoning, nothing is held any more, and the log is
    /// sound.
    async fn check_session(&self, customer: &mut Customer<'_>, paid: &Booked) -> anyhow::Result<()> {
        let usage = customer.look(format!("/v1/sessions/{}/usage", self.session)).await?;
        let events = self.events(&self.session).await?;
        let exact = |name: &str| amount(&usage[name]["exact"]);
        let shown =
            Booked { reserved: exact("reserved"), cost: exact("cost"), unconfirmed: exact("unconfirmed") };
        let (operations, mut wrong) = self.load.against_the_log(&self.tenant).await?;
        match account::booked(&events) {
            Ok(booked) if booked == shown && shown == *paid => {}
            booked => wrong.push(format!("{paid:?} was paid, {shown:?} is shown, and {booked:?} booked")),
        }
        for sound in [&["log", "verify"][..], &["projection", "compare"]] {
            let arguments = [sound, &["--org", &self.tenant.organization]].concat();
            let checked = self.scene.place.command(&arguments).await;
            wrong.extend(checked.err().map(|error| format!("{error:#}")));
        }
        let mut findings = lock(self.findings);
        findings.did("operations", operations);
        wrong.into_iter().for_each(|wrong| findings.violation(wrong));
        Ok(())
    }

    /// Waits until nothing is left to be done but to measure the agents that live.
    async fn is_quiet(&self) -> anyhow::Result<()> {
        let sql = "select distinct w.kind from work w join tenants t using (tenant_id)
                   where t.organization_id = $1 and w.build = live_build(w.tenant_id, 'work')
                     and w.kind <> all('{meter,store}')";
        let until = Instant::now() + GIVE_UP;
        loop {
            let left = self.query(sql, &[&self.tenant.organization]).await?;
            if left.is_empty() {
                return Ok(());
            }
            let left: Vec<String> = left.iter().map(|row| row.get(0)).collect();
            anyhow::ensure!(Instant::now() < until, "work is left: {left:?}");
            // Nobody is told when work ends, so it is looked at again, until the deadline.
            sleep(Duration::from_millis(50)).await;
        }
    }
}

/// Whether what the tools of a run have done by now is what they had done when it ended, and besides only what of these
/// labels had not happened by then. A server that could not renew its lease, and so has lost the run to another, is still at
/// a tool that the other has closed as interrupted; that the tool then takes effect repeats nothing that was recorded.
fn has_only_landed(before: &[String], now: &[String], interrupted: &BTreeSet<String>) -> bool {
    let Some(since) = now.strip_prefix(before) else { return false };
    let landed = |label: &&String| interrupted.contains(*label) && !before.contains(label);
    let distinct: BTreeSet<&String> = since.iter().filter(landed).collect();
    distinct.len() == since.len()
}

/// The labels of the tools that were closed as interrupted.
fn interrupted(events: &[Event]) -> BTreeSet<String> {
    let id = |(_, data): &'_ Event| data["toolCallId"].to_string();
    let started = events.iter().filter(|(kind, _)| kind == "tool.started");
    let labels: BTreeMap<String, String> = started.map(id).zip(account::labels(events)).collect();
    let closed = events.iter().filter(|(kind, data)| kind == "tool.finished" && data["result"].is_null());
    closed.filter_map(|event| labels.get(&id(event)).cloned()).collect()
}

fn text(value: &Value, name: &str) -> anyhow::Result<String> {
    value[name].as_str().map(str::to_owned).with_context(|| format!("{name} of {value}"))
}
