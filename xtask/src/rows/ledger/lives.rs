//! Users with sessions, agents and runs, as the client knows them.

use anyhow::Context;
use rust_decimal::Decimal;
use serde_json::{Value, json};
use theazo_domain::time::Timestamp;
use tokio::time::{Duration, Instant, sleep};

use super::answers::{Vendor, task};
use super::spans::{Ready, Slept, Spans, now_ms};
use super::{Desk, GIVE_UP, UNPRICED, money, text};
use crate::load::Customer;

/// Sessions at the same time.
pub(super) const WORKERS: usize = 24;
const USERS: usize = 9;
const MODELS: [&str; 4] = ["claude-sonnet-4-5", "claude-haiku-4-5", "gpt-4.1-mini", UNPRICED];
/// Tokens of an answer at most.
pub(super) const MOST_OUTPUT: u64 = 4_000;

/// A session, with all that happened in it.
pub(super) struct Session {
    pub(super) id: String,
    pub(super) created_at: Timestamp,
    pub(super) agents: Vec<Agent>,
}

/// An agent, which has ended.
#[derive(Clone)]
pub(super) struct Agent {
    pub(super) id: String,
    pub(super) session: String,
    pub(super) user: String,
    pub(super) model: String,
    /// Whether its calls are made with a key of the organization's own.
    pub(super) own_key: bool,
    /// In which half of the round it lived; none where it was all of it.
    pub(super) half: Option<u64>,
    pub(super) created_at: Timestamp,
    /// When its sandbox was there, and what was in it.
    pub(super) spans: Spans,
    pub(super) runs: Vec<Done>,
}

/// A run that has completed.
#[derive(Clone)]
pub(super) struct Done {
    pub(super) task_id: String,
    /// What the model was told.
    pub(super) task: String,
    pub(super) turns: usize,
    /// What the server says that it cost.
    pub(super) cost: Decimal,
}

pub(super) struct Lives<'a> {
    pub(super) desk: Desk<'a>,
    pub(super) vendor: &'a Vendor,
    pub(super) half: u64,
    /// Charges of models after which nothing is begun.
    pub(super) enough: u64,
    /// When nothing is begun any more, however little was charged.
    pub(super) limit: Instant,
}

/// One who lets one session after the other live.
struct Worker<'a> {
    lives: &'a Lives<'a>,
    customer: Customer<'a>,
}

impl<'a> Lives<'a> {
    /// Lets sessions live until enough was charged; all of them have ended then.
    pub(super) async fn live(&'a self, customer: Customer<'a>) -> anyhow::Result<Vec<Session>> {
        let (mut worker, mut sessions) = (Worker { lives: self, customer }, vec![]);
        let is_enough = || self.vendor.charges() >= self.enough || Instant::now() >= self.limit;
        while !is_enough() && !worker.customer.load.is_over() {
            sessions.push(worker.session().await?);
        }
        Ok(sessions)
    }
}

impl Worker<'_> {
    async fn session(&mut self) -> anyhow::Result<Session> {
        let user = format!("user_{}", self.customer.random.usize(..USERS));
        let made = self.customer.post("/v1/sessions", json!({ "userId": user })).await?;
        let id = text(&made, "id")?;
        let created_at = Timestamp::parse(&text(&made, "createdAt")?)?;
        let own_key = self.customer.random.u8(..5) == 0;
        if own_key {
            for name in ["ANTHROPIC_API_KEY", "OPENAI_API_KEY"] {
                let secret = json!({ "name": name, "value": "sk-of-their-own-0000", "sessionId": id });
                self.customer.post("/v1/secrets", secret).await?;
            }
        }
        let mut agents = vec![];
        for _ in 0..self.customer.random.usize(1..4) {
            agents.push(self.agent(&id, &user, own_key).await?);
        }
        self.customer.post(&format!("/v1/sessions/{id}/terminate"), json!({})).await?;
        Ok(Session { id, created_at, agents })
    }

    async fn agent(&mut self, session: &str, user: &str, own_key: bool) -> anyhow::Result<Agent> {
        let model = MODELS[self.customer.random.usize(..MODELS.len())];
        let mut from = now_ms();
        let made = create(&mut self.customer, session, model).await?;
        let id = text(&made, "id")?;
        let mut spans = Spans::default();
        if self.customer.random.u8(..6) == 0 {
            from = self.sleep(&id, from, &mut spans).await?;
        }
        let mut runs = vec![];
        for _ in 0..self.customer.random.usize(1..4) {
            runs.push(self.run(&id).await?);
        }
        // Its first call to its model is made once its sandbox is ready.
        let by = self.lives.vendor.told(&runs[0].task).first_ms.context("a task that its vendor knows")?;
        if let Some(slept) = &mut spans.slept {
            slept.awake_by = by;
        }
        let asked = now_ms();
        self.customer.post(&format!("/v1/agents/{id}/terminate"), json!({})).await?;
        spans.ready.push(Ready { from, by, asked, ended: now_ms() });
        Ok(Agent {
            id,
            session: session.to_owned(),
            user: user.to_owned(),
            model: model.to_owned(),
            own_key,
            half: Some(self.lives.half),
            created_at: Timestamp::parse(&text(&made, "createdAt")?)?,
            spans,
            runs,
        })
    }

    /// Pauses a new agent that has a file, lets it rest for a while, and lets it go on; when that was asked for.
    async fn sleep(&mut self, id: &str, from: i64, spans: &mut Spans) -> anyhow::Result<i64> {
        let customer = &mut self.customer;
        let by = is_ready(customer, id).await?;
        let size = customer.random.usize(1_000_000..4_000_000);
        spans.bytes = self.lives.desk.keep_file(id, size)?;
        let asked = now_ms();
        customer.post(&format!("/v1/agents/{id}/pause"), json!({})).await?;
        spans.ready.push(Ready { from, by, asked, ended: now_ms() });
        let events = format!("/v1/events?subject={id}&type=agent.suspended");
        until(customer, "a pause", &events, |shown| shown["data"][0]["type"] == "agent.suspended").await?;
        let suspended_by = now_ms();
        spans.has_lost_file = !self.lives.desk.has_file(id, size);
        sleep(Duration::from_millis(customer.random.u64(500..3_000))).await;
        let resumed = now_ms();
        customer.post(&format!("/v1/agents/{id}/resume"), json!({})).await?;
        spans.slept = Some(Slept { asked, suspended_by, resumed, awake_by: resumed });
        Ok(resumed)
    }

    async fn run(&mut self, agent: &str) -> anyhow::Result<Done> {
        let customer = &mut self.customer;
        let turns = customer.random.usize(1..7);
        let task = task(&format!("Task {}.{}", customer.name, customer.asked), turns);
        let started = customer.post(&format!("/v1/agents/{agent}/run"), json!({ "task": task })).await?;
        let task_id = text(&started, "taskId")?;
        let runs = |shown: &Value| matches!(shown["status"].as_str(), Some("queued" | "running"));
        let ended = until(customer, "a run", &format!("/v1/tasks/{task_id}"), |shown| !runs(shown)).await?;
        anyhow::ensure!(ended["status"] == "completed", "a run has not completed: {ended}");
        let cost = money::amount(&ended["cost"]).context("the cost of a task")?.0;
        Ok(Done { task_id, task, turns, cost })
    }
}

/// A new agent.
pub(super) async fn create(customer: &mut Customer<'_>, session: &str, model: &str) -> anyhow::Result<Value> {
    let new = json!({ "tools": ["web_search"], "model": { "id": model, "maxTokens": MOST_OUTPUT } });
    customer.post(&format!("/v1/sessions/{session}/agents"), new).await
}

/// Waits for the sandbox of a new agent; when it was there at the latest.
pub(super) async fn is_ready(customer: &mut Customer<'_>, id: &str) -> anyhow::Result<i64> {
    let made = |shown: &Value| shown["status"] != "provisioning";
    let shown = until(customer, "a sandbox", &format!("/v1/agents/{id}"), made).await?;
    anyhow::ensure!(shown["status"] == "idle", "a sandbox was not made: {shown}");
    Ok(now_ms())
}

/// What is shown once it is as it has to be.
async fn until(
    customer: &mut Customer<'_>,
    what: &str,
    path: &str,
    is_so: impl Fn(&Value) -> bool,
) -> anyhow::Result<Value> {
    let until = Instant::now() + GIVE_UP;
    let mut rest = Duration::from_millis(20);
    loop {
        let shown = customer.look(path).await?;
        if is_so(&shown) {
            return Ok(shown);
        }
        anyhow::ensure!(Instant::now() < until, "{what} does not come about: {path}: {shown}");
        sleep(rest).await;
        rest = (rest * 3 / 2).min(Duration::from_millis(300));
    }
}
