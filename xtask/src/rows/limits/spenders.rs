//! The spenders: sessions whose limits change all the time, and agents in them that work as long as they may.

use std::time::Duration;

use anyhow::Context;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::asks::{Asked, Work};
use super::clock::Clock;
use super::vendor::Choice;
use crate::client::{Ask, DEADLINE};
use crate::load::{Again, Customer, Load};
use crate::place::Tenant;

/// Spenders of one session.
pub(super) const AGENTS: usize = 20;
/// How long a session lives, in seconds: some longer than a dead call may stay open.
const LIFE_S: std::ops::Range<u64> = 30..110;
/// How a spender asks until it is answered: two cores with a thousand of them, and a server that is killed every three
/// seconds and has forgotten all of them each time, may tell one to ask again some times in a row. The longest is shown.
pub(super) const AGAIN: Again =
    Again { each: DEADLINE, all: Duration::from_secs(240), rest_ms: 20..=20, ..Again::KILLED };
/// Models, of which the first is chosen most.
const MODELS: [&str; 2] = ["claude-sonnet-4-5", "claude-haiku-4-5"];
/// A limit of cost, in cents: a few of the spenders fit at the same time, and never all.
const CENTS: std::ops::Range<u64> = 3..30;

pub(super) struct Scene<'a> {
    pub(super) load: &'a Load<'a>,
    pub(super) tenant: &'a Tenant,
    pub(super) clock: &'a Clock,
    /// Sessions at the same time.
    pub(super) sessions: usize,
    pub(super) until: Instant,
}

impl Scene<'_> {
    /// Asks for work until somebody answers, whatever that is: the log is held against it later.
    async fn write(
        &self,
        customer: &mut Customer<'_>,
        work: (Work, &str),
        ask: Ask,
    ) -> anyhow::Result<(u16, Value)> {
        let asked = Asked::new(work, &ask, self.clock);
        let answer = customer.write(ask, asked).await?;
        Ok((answer.status, answer.json()))
    }

    /// One session after the other, until time is up: what a session may spend is soon spent. Some of them go on with
    /// nothing but what their agents cost while they do nothing.
    pub(super) async fn sessions(&self, mut customer: Customer<'_>) -> anyhow::Result<Vec<String>> {
        let mut ids = vec![];
        while Instant::now() < self.until && !self.load.is_over() {
            // How often limits are changed in a life depends on the clock, and what the next one is like does not.
            let next = customer.random.fork();
            let life = Duration::from_secs(customer.random.u64(LIFE_S));
            let until = self.until.min(Instant::now() + life);
            let id = self.session(&mut customer, until).await?;
            if customer.random.u8(..4) > 0 && Instant::now() < self.until {
                self.end_session(&mut customer, &id).await?;
            }
            ids.push(id);
            customer.random = next;
        }
        Ok(ids)
    }

    pub(super) async fn end_session(&self, customer: &mut Customer<'_>, id: &str) -> anyhow::Result<()> {
        let end = Ask::post(format!("/v1/sessions/{id}/terminate"), None).once(format!("end-{id}"));
        let asked = Asked::new((Work::EndSession, id), &end, self.clock);
        customer.send(&end, asked).await.map(drop)
    }

    /// A session with limits, whose agents spend until its time is up. The limits are changed now and then.
    async fn session(&self, customer: &mut Customer<'_>, until: Instant) -> anyhow::Result<String> {
        let user = self.user(customer.number);
        let body = json!({ "userId": user, "limits": limits(&mut customer.random, false) });
        let create = Ask::post("/v1/sessions", Some(body));
        let made = self.write(customer, (Work::Session, &user), create).await?.1;
        let id = made["id"].as_str().context("an id")?.to_owned();
        let (name, purpose) = (format!("{}-{}", customer.number, customer.asked), customer.random.u32(..));
        let spenders = self.load.customers([&*self.tenant.key; AGENTS], &name, purpose.into());
        let spend = |customer| Spender { scene: self, session: &id, until, customer }.live();
        let changing = async {
            loop {
                sleep(Duration::from_millis(2_500)).await;
                if Instant::now() >= until || self.load.is_over() {
                    break;
                }
                let limits = limits(&mut customer.random, true);
                let change = Ask::new("PATCH", format!("/v1/sessions/{id}/limits"), Some(limits));
                self.write(customer, (Work::Limits, &id), change).await?;
                // Where it was paused at its limit of compute, the new one may let it go on.
                let resume = Ask::post(format!("/v1/sessions/{id}/resume"), None);
                self.write(customer, (Work::ResumeSession, &id), resume).await?;
            }
            anyhow::Ok(())
        };
        let (spent, changed) = tokio::join!(self.load.live(spenders, spend), changing);
        spent.into_iter().collect::<anyhow::Result<Vec<()>>>()?;
        changed?;
        Ok(id)
    }

    /// Some sessions at the same time are of the same end user.
    fn user(&self, number: usize) -> String {
        format!("user_{}", number % (self.sessions / 3).max(1))
    }

    /// Sets and removes budgets of the organization and of its users: none, one that blocks nothing, wide ones and ones
    /// that are soon used up.
    pub(super) async fn budgets(&self, mut customer: Customer<'_>) -> anyhow::Result<()> {
        let mut used: std::collections::BTreeMap<String, u64> = std::collections::BTreeMap::new();
        for turn in 0.. {
            // The pace: budgets change now and then while others spend.
            sleep(Duration::from_millis(customer.random.u64(500..2_000))).await;
            if self.load.is_over() {
                break;
            }
            let random = &mut customer.random;
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
            let answer = self.write(&mut customer, (Work::Budget, &whose), set).await?.1;
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
    until: Instant,
    customer: Customer<'a>,
}

impl Spender<'_> {
    async fn live(mut self) -> anyhow::Result<()> {
        let max_tokens = self.customer.random.u64(100..2_000);
        let model = MODELS[usize::from(self.customer.random.u8(..5) == 0)];
        let model = json!({ "id": model, "maxTokens": max_tokens });
        let body = json!({ "tools": ["web_search"], "model": model });
        let is_idle = self.customer.random.u8(..6) == 0;
        let mut agent: Option<String> = None;
        while Instant::now() < self.until && !self.scene.load.is_over() {
            let Some(id) = agent.clone() else {
                let create = Ask::post(format!("/v1/sessions/{}/agents", self.session), Some(body.clone()));
                let session = self.session;
                let (status, made) = self.write(Work::Agent, session, create).await?;
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
                let text =
                    self.choice(max_tokens).text(&format!("{}-{}", self.customer.name, self.customer.asked));
                let run = Ask::post(format!("/v1/agents/{id}/run"), Some(json!({ "task": text })));
                paused = self.write(Work::Run, &id, run).await?.0 != 202;
            }
            if paused {
                // Running still, paused at the limit, or what it would cost does not fit.
                let resume = Ask::post(format!("/v1/agents/{id}/resume"), None);
                self.write(Work::Resume, &id, resume).await?;
                self.rest(50..700).await;
            }
            if self.customer.random.u8(..40) == 0 {
                let end = Ask::post(format!("/v1/agents/{id}/terminate"), None);
                self.write(Work::End, &id, end).await?;
                agent = None;
            }
        }
        Ok(())
    }

    /// What a task is to use. Now and then it is more than the vendor was allowed.
    fn choice(&mut self, max_tokens: u64) -> Choice {
        let random = &mut self.customer.random;
        let output = if random.u8(..20) == 0 { max_tokens * 2 } else { random.u64(1..max_tokens.min(400)) };
        let turns = if random.u8(..4) == 0 { 2 } else { 1 };
        Choice { input: random.u64(1..300), output, turns, half_ms: random.u64(25..250) }
    }

    /// The pace of a spender, who does something else between two requests; nothing is taken to have happened meanwhile.
    async fn rest(&mut self, ms: std::ops::Range<u64>) {
        sleep(Duration::from_millis(self.customer.random.u64(ms))).await;
    }

    async fn write(&mut self, work: Work, about: &str, ask: Ask) -> anyhow::Result<(u16, Value)> {
        self.scene.write(&mut self.customer, (work, about), ask).await
    }
}
