//! Servers are killed while they run agents: in calls of models, in calls of tools, and between them.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use futures_util::FutureExt;
use futures_util::future::join_all;
use nix::sys::signal::Signal;
use rust_decimal::Decimal;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::client::{Ask, Caller};
use crate::place::{Place, Tenant};
use crate::prove::{Findings, Row, Run};

#[expect(dead_code, reason = "the tests use all of it")]
#[path = "../../../tests/it/handover/account.rs"]
mod account;

use super::models::script::Cuts;
use super::models::{Answer, Asked, Delivery, ModelServer, Said, Turn};
use account::{Booked, Event, amount};

pub(crate) const ROW: Row = Row {
    name: "runs",
    claim: "a run survives any crash, ends once, and repeats no recorded effect and no charge",
    floor: (10, 500),
    bugs: &["repeated-tool", "forgotten-result", "doubled-usage"],
    run: |run| prove(run).boxed(),
};

const SERVERS: usize = 3;
/// Agents that run at the same time.
const AGENTS: usize = 16;
/// Turns of a run in which the model calls tools: two in each.
const TURNS: usize = 6;
/// Kills upon one organization's log, which is then held against its read models.
const KILLS_A_LOG: u64 = 25;
/// How long a request is repeated, and a run waited for: far longer than it takes to take up what a server has left.
const GIVE_UP: Duration = Duration::from_secs(100);
/// How long a server is waited for that is to have runs: how fast they are taken up is for other tests to say.
const UNTIL_BUSY: Duration = GIVE_UP;

async fn prove(run: Run) -> anyhow::Result<Findings> {
    let enough = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&enough);
    let models = ModelServer::new(move |asked| answer(asked, &told)).await;
    let sandboxes = std::env::temp_dir().join(format!("theazo-proof-runs-{:x}", fastrand::u64(..)));
    let outcome = rounds(&run, &models, &enough, &sandboxes).await;
    let _ = std::fs::remove_dir_all(&sandboxes);
    outcome
}

async fn rounds(
    run: &Run,
    models: &ModelServer,
    enough: &AtomicBool,
    sandboxes: &PathBuf,
) -> anyhow::Result<Findings> {
    let environment = [
        ("ANTHROPIC_BASE_URL", &*models.anthropic_url()),
        ("ANTHROPIC_API_KEY", "sk-ant-proof-0000"),
        ("THEAZO_SANDBOX_DIR", &*sandboxes.display().to_string()),
    ];
    let place = Place::new(run, SERVERS, &environment).await?;
    let mut random = run.random(1);
    let kills = run.amount(12, 500);
    let findings = Mutex::new(Findings::default());
    while lock(&findings).done < kills && !lock(&findings).is_red() {
        enough.store(false, Ordering::Relaxed);
        let round = Round::new(&place, sandboxes, &findings, enough).await?;
        let living = join_all((0..AGENTS).map(|number| round.live(number)));
        let killing = async {
            let killed = round.kill_around(&mut random, kills.min(KILLS_A_LOG)).await;
            enough.store(true, Ordering::Relaxed);
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
        if !lock(&findings).is_red() {
            round.check().await?;
        }
    }
    let mut findings = findings.into_inner().unwrap_or_else(PoisonError::into_inner);
    for refused in models.refused() {
        findings.violation(format!("the model's vendor refused a request: {refused}"));
    }
    findings.did("kills of servers that ran agents", findings.done);
    place.stop().await?;
    Ok(findings)
}

fn lock(findings: &Mutex<Findings>) -> std::sync::MutexGuard<'_, Findings> {
    findings.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A model that calls two tools a turn, until it has had its turns or is told to end. Which turn it is, it reads in the
/// conversation.
fn answer(asked: &Asked, enough: &AtomicBool) -> Answer {
    let calls = |said: &&Said| matches!(said, Said::Model { calls, .. } if !calls.is_empty());
    let turn = asked.task().1.iter().filter(calls).count();
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

/// One organization's agents, until so many kills have met them.
struct Round<'a> {
    place: &'a Place,
    sandboxes: &'a PathBuf,
    findings: &'a Mutex<Findings>,
    over: &'a AtomicBool,
    tenant: Tenant,
    client: tokio_postgres::Client,
    session: String,
    asked: AtomicU64,
    /// When a server was killed last, and was up again.
    killed: Mutex<Instant>,
}

impl<'a> Round<'a> {
    async fn new(
        place: &'a Place,
        sandboxes: &'a PathBuf,
        findings: &'a Mutex<Findings>,
        over: &'a AtomicBool,
    ) -> anyhow::Result<Self> {
        let tenant = place.organization("live").await?;
        let client = place.superuser().await?;
        let (session, asked) = (String::new(), AtomicU64::new(0));
        let killed = Mutex::new(Instant::now());
        let mut round = Self { place, sandboxes, findings, over, tenant, client, session, asked, killed };
        let mut caller = Caller::new(&round.tenant.key);
        let session = round.carry_out(&mut caller, "/v1/sessions", json!({ "userId": "user_1" })).await?;
        round.session = text(&session, "id")?;
        Ok(round)
    }

    /// Asks, on one server after the other and always with the same idempotency key, until it is done.
    async fn carry_out(&self, caller: &mut Caller, path: &str, body: Value) -> anyhow::Result<Value> {
        let number = self.asked.fetch_add(1, Ordering::Relaxed);
        self.repeat(caller, &Ask::post(path, Some(body)).once(format!("runs-{number}"))).await
    }

    async fn repeat(&self, caller: &mut Caller, ask: &Ask) -> anyhow::Result<Value> {
        self.place.carry_out(caller, 0, ask, GIVE_UP).await
    }

    /// Lets one agent after the other run, and looks at what it has done.
    async fn live(&self, number: usize) -> anyhow::Result<()> {
        let mut caller = Caller::new(&self.tenant.key);
        while !self.over.load(Ordering::Relaxed) && !lock(self.findings).is_red() {
            let path = format!("/v1/sessions/{}/agents", self.session);
            let new = json!({ "tools": ["run_code"], "timeout": 3_600 });
            let agent = text(&self.carry_out(&mut caller, &path, new).await?, "id")?;
            let task = json!({ "task": format!("Work, {number}.") });
            let ran = self.carry_out(&mut caller, &format!("/v1/agents/{agent}/run"), task).await?;
            let task = Ask::get(format!("/v1/tasks/{}", text(&ran, "taskId")?));
            let began = Instant::now();
            let ended = loop {
                let shown = self.repeat(&mut caller, &task).await?;
                if !matches!(shown["status"].as_str(), Some("queued" | "running")) {
                    break shown;
                }
                if lock(self.findings).is_red() {
                    return Ok(());
                }
                // Kills go on meeting it, and each costs it the time until it is taken up again.
                let undisturbed = began.max(*self.killed.lock().unwrap_or_else(PoisonError::into_inner));
                anyhow::ensure!(undisturbed.elapsed() < GIVE_UP, "the run of {agent} does not end: {shown}");
                sleep(Duration::from_millis(100)).await;
            };
            self.check_run(&agent, &ended).await?;
            self.carry_out(&mut caller, &format!("/v1/agents/{agent}/terminate"), json!({})).await?;
            let until = Instant::now() + GIVE_UP;
            while !self.events(&agent).await?.iter().any(|(kind, _)| kind == "agent.released") {
                anyhow::ensure!(Instant::now() < until, "the sandbox of {agent} does not go");
                sleep(Duration::from_millis(100)).await;
            }
        }
        Ok(())
    }

    /// Holds the log of a run against what its tools have done and what its model has said.
    async fn check_run(&self, agent: &str, ended: &Value) -> anyhow::Result<()> {
        let effects = self.sandboxes.join(agent).join("workspace/effects");
        let effects = std::fs::read_to_string(effects).unwrap_or_default();
        let effects: Vec<String> = effects.lines().map(str::to_owned).collect();
        let events = self.events(agent).await?;
        let mut findings = lock(self.findings);
        let done = ended["status"] == "completed" && ended["output"] == "All done.";
        findings.claim(done, || format!("{agent} has come to {ended}"));
        match account::one_run(&events, &effects) {
            Ok(seen) => {
                findings.did("calls of models that a kill met", seen.lost as u64);
                findings.did("calls of tools that a kill met", seen.interrupted as u64);
            }
            Err(wrong) => findings.violation(format!("{agent}: {wrong}")),
        }
        for (_, data) in events.iter().filter(|(kind, _)| kind == "model.call_settled") {
            let used = &data["tokens"];
            let right = used["input"] == 25 && used["output"] == 15;
            findings
                .claim(right, || format!("the model has used 25 and 15 tokens, and {data} says otherwise"));
        }
        findings.did("runs", 1);
        findings.did("tools", effects.len() as u64);
        Ok(())
    }

    /// The events about something, in order.
    async fn events(&self, subject: &str) -> anyhow::Result<Vec<Event>> {
        let sql =
            "select e.type, e.data::text from event_subjects s join events e using (tenant_id, position)
                   where s.subject = $1 order by position";
        let rows = self.client.query(sql, &[&subject]).await?;
        rows.iter().map(|row| Ok((row.get(0), serde_json::from_str(row.get(1))?))).collect()
    }

    /// Kills servers that have runs, at random moments, and starts them again.
    async fn kill_around(&self, random: &mut fastrand::Rng, kills: u64) -> anyhow::Result<()> {
        let mut killed = 0;
        while killed < kills && !lock(self.findings).is_red() {
            let first = random.usize(..SERVERS);
            let until = Instant::now() + UNTIL_BUSY;
            let victim = loop {
                let mut busy = None;
                for number in (0..SERVERS).map(|turn| (first + turn) % SERVERS) {
                    if busy.is_none() && self.holds(number).await? > 0 {
                        busy = Some(number);
                    }
                }
                if let Some(number) = busy {
                    break number;
                }
                if lock(self.findings).is_red() {
                    return Ok(());
                }
                anyhow::ensure!(Instant::now() < until, "no server takes up the runs");
                sleep(Duration::from_millis(50)).await;
            };
            sleep(Duration::from_millis(random.u64(..1_500))).await;
            let held = self.holds(victim).await?;
            self.place.end_server(victim, Signal::SIGKILL).await?;
            self.place.start(victim).await?;
            *self.killed.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
            if held > 0 {
                killed += 1;
                let mut findings = lock(self.findings);
                findings.done += 1;
                findings.did("runs that a kill met", held);
            }
        }
        Ok(())
    }

    /// How many runs a server has: by the name under which it holds work, which stands in its log.
    async fn holds(&self, number: usize) -> anyhow::Result<u64> {
        let log = std::fs::read_to_string(self.place.folder(number).with_extension("log"))?;
        let worker = log.rsplit_once(r#""worker":""#).and_then(|(_, rest)| rest.split_once('"'));
        let Some((worker, _)) = worker else { return Ok(0) };
        let sql = "select count(*) from leases where kind = 'run' and worker = $1 and expires_at > now()";
        let held: i64 = self.client.query_one(sql, &[&worker]).await?.get(0);
        Ok(u64::try_from(held)?)
    }

    /// What the session shows is the sum of what its events book, nothing is held any more, and the log is sound.
    async fn check(&self) -> anyhow::Result<()> {
        let mut caller = Caller::new(&self.tenant.key);
        let usage = Ask::get(format!("/v1/sessions/{}/usage", self.session));
        let usage = self.repeat(&mut caller, &usage).await?;
        let events = self.events(&self.session).await?;
        let exact = |name: &str| amount(&usage[name]["exact"]);
        let shown =
            Booked { reserved: exact("reserved"), cost: exact("cost"), unconfirmed: exact("unconfirmed") };
        let mut wrong = vec![];
        match account::booked(&events) {
            Ok(booked) if booked == shown && (shown.reserved == Decimal::ZERO) => {}
            booked => wrong.push(format!("the session shows {shown:?}, and its events book {booked:?}")),
        }
        for sound in [&["log", "verify"][..], &["projection", "compare"]] {
            let checked = self.place.command(&[sound, &["--org", &self.tenant.organization]].concat()).await;
            wrong.extend(checked.err().map(|error| format!("{error:#}")));
        }
        let mut findings = lock(self.findings);
        wrong.into_iter().for_each(|wrong| findings.violation(wrong));
        Ok(())
    }
}

fn text(value: &Value, name: &str) -> anyhow::Result<String> {
    value[name].as_str().map(str::to_owned).with_context(|| format!("{name} of {value}"))
}
