//! Users with sessions, agents and runs, as the client knows them.

use anyhow::Context;
use futures_util::future::join_all;
use rust_decimal::Decimal;
use serde_json::{Value, json};
use theazo::clock::{Clock, SystemClock};
use theazo_domain::time::Timestamp;
use tokio::time::{Duration, Instant, sleep};

use super::answers::{Vendor, task};
use super::{Desk, GIVE_UP, UNPRICED, money, text};
use crate::client::{Ask, Caller};

/// Sessions at the same time.
const WORKERS: usize = 24;
const USERS: usize = 9;
const MODELS: [&str; 4] = ["claude-sonnet-4-5", "claude-haiku-4-5", "gpt-4.1-mini", UNPRICED];

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
    /// In which half of the round its calls were made.
    pub(super) half: u64,
    pub(super) created_at: Timestamp,
    /// Its life at most, by the client's clock: from when it was asked for until it was said to have ended.
    pub(super) lived_ms: i64,
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

/// One worker's requests: each has an idempotency key of its own.
struct Worker<'a> {
    lives: &'a Lives<'a>,
    caller: Caller,
    name: String,
    asked: u64,
    random: fastrand::Rng,
}

impl Lives<'_> {
    /// Lets sessions live until enough was charged; all of them have ended then.
    pub(super) async fn all(&self, random: &fastrand::Rng) -> anyhow::Result<Vec<Session>> {
        let mut choices = random.clone();
        let workers = (0..WORKERS).map(|number| Worker {
            lives: self,
            caller: self.desk.caller(),
            name: format!("{}.{number}", self.half),
            asked: 0,
            random: choices.fork(),
        });
        let workers: Vec<_> = workers.collect();
        let lived = join_all(workers.into_iter().map(Worker::live)).await;
        Ok(lived.into_iter().collect::<anyhow::Result<Vec<_>>>()?.into_iter().flatten().collect())
    }
}

impl Worker<'_> {
    async fn live(mut self) -> anyhow::Result<Vec<Session>> {
        let mut sessions = vec![];
        while self.lives.vendor.charges() < self.lives.enough && Instant::now() < self.lives.limit {
            sessions.push(self.session().await?);
        }
        Ok(sessions)
    }

    async fn write(&mut self, path: &str, body: Value) -> anyhow::Result<Value> {
        self.asked += 1;
        let ask = Ask::post(path, Some(body)).once(format!("{}.{}", self.name, self.asked));
        self.lives.desk.ask(&mut self.caller, &ask).await
    }

    async fn session(&mut self) -> anyhow::Result<Session> {
        let user = format!("user_{}", self.random.usize(..USERS));
        let made = self.write("/v1/sessions", json!({ "userId": user })).await?;
        let id = text(&made, "id")?;
        let created_at = Timestamp::parse(&text(&made, "createdAt")?)?;
        let own_key = self.random.u8(..5) == 0;
        if own_key {
            for name in ["ANTHROPIC_API_KEY", "OPENAI_API_KEY"] {
                let secret = json!({ "name": name, "value": "sk-of-their-own-0000", "sessionId": id });
                self.write("/v1/secrets", secret).await?;
            }
        }
        let mut agents = vec![];
        for _ in 0..self.random.usize(1..4) {
            agents.push(self.agent(&id, &user, own_key).await?);
        }
        self.write(&format!("/v1/sessions/{id}/terminate"), json!({})).await?;
        Ok(Session { id, created_at, agents })
    }

    async fn agent(&mut self, session: &str, user: &str, own_key: bool) -> anyhow::Result<Agent> {
        let model = MODELS[self.random.usize(..MODELS.len())];
        let began = SystemClock.now().millis();
        let new = json!({ "tools": ["web_search"], "model": { "id": model, "maxTokens": 4_000 } });
        let made = self.write(&format!("/v1/sessions/{session}/agents"), new).await?;
        let id = text(&made, "id")?;
        let mut runs = vec![];
        for _ in 0..self.random.usize(1..4) {
            runs.push(self.run(&id).await?);
        }
        self.write(&format!("/v1/agents/{id}/terminate"), json!({})).await?;
        Ok(Agent {
            id,
            session: session.to_owned(),
            user: user.to_owned(),
            model: model.to_owned(),
            own_key,
            half: self.lives.half,
            created_at: Timestamp::parse(&text(&made, "createdAt")?)?,
            lived_ms: SystemClock.now().millis() - began,
            runs,
        })
    }

    async fn run(&mut self, agent: &str) -> anyhow::Result<Done> {
        let turns = self.random.usize(1..7);
        let task = task(&format!("Task {}.{}", self.name, self.asked), turns);
        let started = self.write(&format!("/v1/agents/{agent}/run"), json!({ "task": task })).await?;
        let task_id = text(&started, "taskId")?;
        let shown = Ask::get(format!("/v1/tasks/{task_id}"));
        let until = Instant::now() + GIVE_UP;
        let mut rest = Duration::from_millis(20);
        let ended = loop {
            let shown = self.lives.desk.ask(&mut self.caller, &shown).await?;
            if !matches!(shown["status"].as_str(), Some("queued" | "running")) {
                break shown;
            }
            anyhow::ensure!(Instant::now() < until, "the run of {agent} does not end: {shown}");
            sleep(rest).await;
            rest = (rest * 3 / 2).min(Duration::from_millis(300));
        };
        anyhow::ensure!(ended["status"] == "completed", "a run has not completed: {ended}");
        let cost = money::amount(&ended["cost"]).context("the cost of a task")?.0;
        Ok(Done { task_id, task, turns, cost })
    }
}
