//! The spenders: sessions whose limits change all the time, and agents in them that work as long as they may.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, bail};
use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::asks::{Asked, Asks, Work};
use super::clock::{Clock, machine_ms};
use super::vendor::Choice;
use crate::again::Again;
use crate::client::{Ask, Caller, DEADLINE};
use crate::place::{Place, Tenant};

/// Spenders of one session.
pub(super) const AGENTS: usize = 20;
/// How long a session lives, in seconds: some longer than a dead call may stay open.
const LIFE_S: std::ops::Range<u64> = 30..110;
/// How a spender asks until it is answered: two cores with a thousand of them, and a server that is killed every three
/// seconds and has forgotten all of them each time, may tell one to ask again some times in a row. The longest is shown.
const AGAIN: Again = Again {
    each: DEADLINE,
    all: Duration::from_secs(240),
    rest: Duration::from_millis(20),
    unanswered: true,
};
/// After so long, by the moved clock, a server may have forgotten an idempotency key.
const KEY_KEPT_MS: i64 = 24 * 3_600 * 1_000;
/// Models, of which the first is chosen most.
const MODELS: [&str; 2] = ["claude-sonnet-4-5", "claude-haiku-4-5"];
/// A limit of cost, in cents: a few of the spenders fit at the same time, and never all.
const CENTS: std::ops::Range<u64> = 3..30;

pub(super) struct Scene<'a> {
    pub(super) place: &'a Place,
    pub(super) tenant: &'a Tenant,
    pub(super) clock: &'a Clock,
    pub(super) asks: &'a Asks<'a>,
    /// Sessions at the same time.
    pub(super) sessions: usize,
    /// The longest that a spender has asked until it was answered, in seconds.
    pub(super) longest_s: AtomicU64,
    pub(super) until: Instant,
    pub(super) over: AtomicBool,
}

/// Something to ask under an idempotency key of its own.
struct Wanted {
    work: Work,
    about: String,
    key: String,
    ask: Ask,
}

impl Wanted {
    fn new(work: Work, about: &str, key: String, ask: Ask) -> Self {
        Self { work, about: about.to_owned(), ask: ask.once(&*key), key }
    }
}

impl Scene<'_> {
    pub(super) fn caller(&self) -> Caller {
        Caller::new(&self.tenant.key)
    }

    /// Asks again, on the servers by turns, until somebody answers.
    pub(super) async fn ask(
        &self,
        caller: &mut Caller,
        server: usize,
        ask: &Ask,
    ) -> anyhow::Result<(u16, Value)> {
        let began = Instant::now();
        let address = |turn| self.place.address(server.wrapping_add(turn));
        let (answer, _) = AGAIN.ask(caller, address, ask).await?;
        if answer.status >= 500 {
            bail!("{} {}: {} {}", ask.method, ask.path, answer.status, answer.text);
        }
        self.longest_s.fetch_max(began.elapsed().as_secs(), Ordering::Relaxed);
        Ok((answer.status, answer.json()))
    }

    /// The same, written down before and after.
    async fn write(
        &self,
        caller: &mut Caller,
        server: usize,
        wanted: Wanted,
    ) -> anyhow::Result<(u16, Value)> {
        let Wanted { work, about, key, ask } = wanted;
        let wish = ask.body.clone().unwrap_or_default();
        let (status, answer, order) = (0, Value::Null, 0);
        let asked = Asked { key, work, about, wish, status, answer, order, forgotten: false };
        self.asks.write(asked.clone())?;
        let began = self.clock.shown_at(machine_ms());
        let (status, answer) = self.ask(caller, server, &ask).await?;
        let forgotten = self.clock.shown_at(machine_ms()) - began > KEY_KEPT_MS;
        self.asks.write(Asked { status, answer: answer.clone(), forgotten, ..asked })?;
        Ok((status, answer))
    }

    /// One session after the other, until time is up: what a session may spend is soon spent. Some of them go on with
    /// nothing but what their agents cost while they do nothing.
    pub(super) async fn sessions(
        &self,
        number: usize,
        mut random: fastrand::Rng,
    ) -> anyhow::Result<Vec<String>> {
        let mut ids = vec![];
        while Instant::now() < self.until {
            let life = Duration::from_secs(random.u64(LIFE_S));
            let until = self.until.min(Instant::now() + life);
            let life = ids.len();
            let id = self.session((number, life), until, random.fork()).await?;
            if random.u8(..4) > 0 && Instant::now() < self.until {
                self.end_session(&mut self.caller(), &id).await?;
            }
            ids.push(id);
        }
        Ok(ids)
    }

    pub(super) async fn end_session(&self, caller: &mut Caller, id: &str) -> anyhow::Result<()> {
        let end = Ask::post(format!("/v1/sessions/{id}/terminate"), None);
        self.write(caller, 0, Wanted::new(Work::EndSession, id, format!("end-{id}"), end)).await?;
        Ok(())
    }

    /// A session with limits, whose agents spend until its time is up. The limits are changed now and then.
    async fn session(
        &self,
        (number, life): (usize, usize),
        until: Instant,
        mut random: fastrand::Rng,
    ) -> anyhow::Result<String> {
        let mut caller = self.caller();
        let user = self.user(number);
        let body = json!({ "userId": user, "limits": limits(&mut random, false) });
        let create = Ask::post("/v1/sessions", Some(body));
        let create = Wanted::new(Work::Session, &user, format!("session-{number}-{life}"), create);
        let made = self.write(&mut caller, number, create).await?.1;
        let id = made["id"].as_str().context("an id")?.to_owned();
        let choices: Vec<_> = std::iter::repeat_with(|| random.fork()).take(AGENTS).collect();
        let agents = choices.into_iter().enumerate().map(|(agent, random)| {
            let name = format!("{number}-{life}-{agent}");
            Spender { scene: self, session: &id, name, until, random, asked: 0 }.live()
        });
        let changing = async {
            for turn in 0.. {
                sleep(Duration::from_millis(2_500)).await;
                if Instant::now() >= until {
                    break;
                }
                let change =
                    Ask::new("PATCH", format!("/v1/sessions/{id}/limits"), Some(limits(&mut random, true)));
                let change = Wanted::new(Work::Limits, &id, format!("limits-{id}-{turn}"), change);
                self.write(&mut caller, number, change).await?;
                // Where it was paused at its limit of compute, the new one may let it go on.
                let resume = Ask::post(format!("/v1/sessions/{id}/resume"), None);
                let resume = Wanted::new(Work::ResumeSession, &id, format!("resume-{id}-{turn}"), resume);
                self.write(&mut caller, number, resume).await?;
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

    /// Some sessions at the same time are of the same end user.
    fn user(&self, number: usize) -> String {
        format!("user_{}", number % (self.sessions / 3).max(1))
    }

    /// Sets and removes budgets of the organization and of its users: none, one that blocks nothing, wide ones and ones
    /// that are soon used up.
    pub(super) async fn budgets(&self, mut random: fastrand::Rng) -> anyhow::Result<()> {
        let mut caller = self.caller();
        let mut used: std::collections::BTreeMap<String, u64> = std::collections::BTreeMap::new();
        for turn in 0.. {
            sleep(Duration::from_millis(random.u64(500..2_000))).await;
            if self.over.load(Ordering::Relaxed) {
                break;
            }
            // The first of the organization and of a user are soon used up.
            let is_tight = turn < 2;
            let of_all = if is_tight { turn == 0 } else { random.u8(..3) == 0 };
            let whose = if of_all { String::new() } else { self.user(random.usize(..self.sessions)) };
            let room = random.u64(1..if of_all { 60 } else { 25 });
            let amount = match random.u8(..10) {
                0..4 if is_tight => json!(room),
                0..3 => Value::Null,
                3 => json!(100_000),
                _ => json!(used.get(&whose).copied().unwrap_or_default() + room),
            };
            let action = if random.u8(..6) == 0 && !is_tight { "notify" } else { "block" };
            let period = ["day", "month"][random.usize(..2)];
            let mut body = json!({ "amount": amount, "currency": "usd", "period": period, "action": action });
            if !of_all {
                body["userId"] = json!(whose);
            }
            let set = Ask::new("PUT", "/v1/billing/budgets", Some(body));
            let set = Wanted::new(Work::Budget, &whose, format!("budget-{turn}"), set);
            let answer = self.write(&mut caller, turn, set).await?.1;
            if let Some(cents) = answer["used"]["amount"].as_u64() {
                used.insert(whose, cents);
            }
        }
        Ok(())
    }
}

/// Limits of a session, of kinds that are drawn. In a change those that were not drawn are lifted.
fn limits(random: &mut fastrand::Rng, lift: bool) -> Value {
    let period = ["session", "day", "month"][random.usize(..3)];
    let cost = json!({ "amount": random.u64(CENTS), "currency": "usd", "period": period });
    let kinds = [
        ("maxCost", random.u8(..10) < 7, cost),
        ("maxAgents", random.u8(..10) < 4, json!(random.u64(3..22))),
        ("maxComputeMinutes", random.u8(..10) < 3, json!(random.u64(1..16))),
    ];
    let mut limits = json!({});
    for (name, drawn, limit) in kinds {
        if drawn || lift {
            limits[name] = if drawn { limit } else { Value::Null };
        }
    }
    limits
}

/// An agent that is given one task after the other, and resumed when a limit has paused it. Some do nothing but be there,
/// and some end, so that there is room for another.
struct Spender<'a> {
    scene: &'a Scene<'a>,
    session: &'a str,
    name: String,
    until: Instant,
    random: fastrand::Rng,
    asked: u64,
}

impl Spender<'_> {
    async fn live(mut self) -> anyhow::Result<()> {
        let mut caller = self.scene.caller();
        let max_tokens = self.random.u64(100..2_000);
        let model = MODELS[usize::from(self.random.u8(..5) == 0)];
        let model = json!({ "id": model, "maxTokens": max_tokens });
        let body = json!({ "tools": ["web_search"], "model": model });
        let is_idle = self.random.u8(..6) == 0;
        let mut agent: Option<String> = None;
        while Instant::now() < self.until {
            let Some(id) = agent.clone() else {
                let create = Ask::post(format!("/v1/sessions/{}/agents", self.session), Some(body.clone()));
                let session = self.session;
                let (status, made) = self.write(&mut caller, Work::Agent, session, create).await?;
                match status {
                    201 => agent = made["id"].as_str().map(ToOwned::to_owned),
                    _ => self.rest(200..1_500).await,
                }
                continue;
            };
            let mut paused = is_idle;
            if is_idle {
                self.rest(500..2_500).await;
            } else {
                let text = self.choice(max_tokens).text(&format!("{}-{}", self.name, self.asked));
                let run = Ask::post(format!("/v1/agents/{id}/run"), Some(json!({ "task": text })));
                paused = self.write(&mut caller, Work::Run, &id, run).await?.0 != 202;
            }
            if paused {
                // Running still, paused at the limit, or what it would cost does not fit.
                let resume = Ask::post(format!("/v1/agents/{id}/resume"), None);
                self.write(&mut caller, Work::Resume, &id, resume).await?;
                self.rest(50..700).await;
            }
            if self.random.u8(..40) == 0 {
                let end = Ask::post(format!("/v1/agents/{id}/terminate"), None);
                self.write(&mut caller, Work::End, &id, end).await?;
                agent = None;
            }
        }
        Ok(())
    }

    /// What a task is to use. Now and then it is more than the vendor was allowed.
    fn choice(&mut self, max_tokens: u64) -> Choice {
        let random = &mut self.random;
        let output = if random.u8(..20) == 0 { max_tokens * 2 } else { random.u64(1..max_tokens.min(400)) };
        let turns = if random.u8(..4) == 0 { 2 } else { 1 };
        Choice { input: random.u64(1..300), output, turns, half_ms: random.u64(25..250) }
    }

    async fn rest(&mut self, ms: std::ops::Range<u64>) {
        sleep(Duration::from_millis(self.random.u64(ms))).await;
    }

    async fn write(
        &mut self,
        caller: &mut Caller,
        work: Work,
        about: &str,
        ask: Ask,
    ) -> anyhow::Result<(u16, Value)> {
        self.asked += 1;
        let key = format!("{}-{}", self.name, self.asked);
        let server = self.random.usize(..2);
        self.scene.write(caller, server, Wanted::new(work, about, key, ask)).await
    }
}
