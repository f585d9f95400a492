//! Two servers over one database run agents, and are killed or told to stop in the middle of it, again and again.

mod account;
mod calls;
mod execs;
mod leases;
mod proof;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tokio_postgres::Client;

use crate::crash::{Place, kill};
use crate::support::models::{Answer, Asked, Delivery, ModelServer, Said, Turn, script::Cuts};
use crate::support::server::{self, Ask, Server};
use crate::support::wait::{until, until_async};

/// Agents that run at the same time.
const AGENTS: usize = 5;
/// Servers that are killed.
const KILLS: usize = 6;
/// How soon another server goes on after a kill, and after a server was told to stop.
const AFTER_KILL: Duration = Duration::from_secs(15);
const AFTER_STOP: Duration = Duration::from_secs(1);

/// Where a run stands when its server is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Moment {
    /// The model is answering.
    Call,
    /// A tool has begun, and its effect may or may not be there.
    Tool,
    /// Its effect is there, and its result is not recorded.
    Effect,
}

/// A model that calls two tools a turn until it is told to end. Which turn it is, it reads in the conversation.
fn model(asked: &Asked, enough: &AtomicBool) -> Answer {
    let calls = |said: &&Said| matches!(said, Said::Model { calls, .. } if !calls.is_empty());
    let turn = asked.task().1.iter().filter(calls).count();
    let delivery = || Delivery {
        cuts: Cuts::At(vec![40, 200]),
        pause: Duration::from_millis(60),
        ..Delivery::default()
    };
    if turn > 0 && enough.load(Ordering::Relaxed) {
        return Turn::says("All done.").delivered(delivery()).into();
    }
    let input = |index: usize| {
        let code = format!("sleep 0.1; echo {turn}.{index} >> effects; sleep 0.15; echo did {turn}.{index}");
        json!({ "lang": "bash", "code": code }).to_string()
    };
    let turn_of = Turn::says(format!("Turn {turn}."))
        .and_calls(&format!("toolu_{turn}_0"), "run_code", &input(0))
        .and_calls(&format!("toolu_{turn}_1"), "run_code", &input(1));
    turn_of.delivered(delivery()).into()
}

/// The two servers, the agents that they run, and what is looked at.
struct World {
    place: Place,
    models: ModelServer,
    servers: [Option<Server>; 2],
    client: Client,
    key: String,
    session: String,
    /// Of each agent, its task.
    tasks: BTreeMap<String, String>,
    random: u64,
}

impl World {
    async fn new(enough: &Arc<AtomicBool>) -> Self {
        let place = Place::new().await;
        let told = Arc::clone(enough);
        let models = ModelServer::new(move |asked| model(asked, &told)).await;
        let mut world = Self {
            client: place.connect().await,
            key: String::new(),
            session: String::new(),
            tasks: BTreeMap::new(),
            servers: [None, None],
            random: 0x9e37_79b9_7f4a_7c15,
            place,
            models,
        };
        world.start(0).await;
        world.start(1).await;
        world.key = world.place.new_key().await;
        world.session = world.server(0).create_session(&world.key, "user_1").await;
        for number in 0..AGENTS {
            world.begin(number).await;
        }
        world
    }

    fn server(&self, number: usize) -> &Server {
        self.servers[number].as_ref().unwrap()
    }

    async fn start(&mut self, number: usize) {
        let environment = [
            ("ANTHROPIC_BASE_URL", self.models.anthropic_url()),
            ("ANTHROPIC_API_KEY", "sk-ant-test-0000".to_owned()),
            ("THEAZO_SANDBOX_DIR", self.sandboxes().display().to_string()),
        ];
        self.servers[number] = Some(self.place.start_with(number, &environment).await);
    }

    /// The folder that both servers have their sandboxes in.
    fn sandboxes(&self) -> PathBuf {
        self.place.scratch.path.join("sandboxes")
    }

    async fn begin(&mut self, number: usize) {
        let path = format!("/v1/sessions/{}/agents", self.session);
        let created = self.post(number % 2, &path, json!({ "tools": ["run_code"], "timeout": 3_600 })).await;
        let agent = created["id"].as_str().unwrap().to_owned();
        let path = format!("/v1/agents/{agent}/run");
        let ran = self.post(number % 2, &path, json!({ "task": format!("Work, {number}.") })).await;
        self.tasks.insert(agent, ran["taskId"].as_str().unwrap().to_owned());
    }

    async fn post(&self, server: usize, path: &str, body: Value) -> Value {
        let response = self.server(server).request("POST", path, &self.key, Some(body)).await.unwrap();
        assert!(matches!(response.status, 200..=202), "{path}: {response:?}");
        response.body
    }

    async fn get(&self, path: &str) -> Value {
        let ask = Ask { method: "GET", path, key: &self.key, idempotency_key: None, body: None };
        let response = server::ask(&self.server(0).address, ask).await.unwrap();
        assert_eq!(response.status, 200, "{path}: {response:?}");
        response.body
    }

    /// A number below `end`: the same at every run of the test.
    fn draw(&mut self, end: usize) -> usize {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        usize::try_from(self.random % u64::try_from(end).unwrap()).unwrap()
    }

    /// The name by which a server holds work: it has written it to its log.
    async fn worker(&self, number: usize) -> String {
        until("a server to say its name", || {
            let logged = self.server(number).logged.lock().unwrap();
            let text = String::from_utf8_lossy(&logged);
            let (_, rest) = text.split_once(r#""worker":""#)?;
            rest.split_once('"').map(|(name, _)| name.to_owned())
        })
        .await
    }

    /// The agents whose runs a server has.
    async fn held(&self, number: usize) -> Vec<String> {
        let sql = "select subject from leases where kind = 'run' and worker = $1 order by subject";
        let rows = self.client.query(sql, &[&self.worker(number).await]).await.unwrap();
        rows.iter().map(|row| row.get(0)).collect()
    }

    /// How often the run of an agent was claimed.
    async fn claims(&self, agent: &str) -> i64 {
        let sql = "select count(*) from event_subjects s join events e using (tenant_id, position)
                   where s.subject = $1 and e.type = 'task.claimed'";
        self.client.query_one(sql, &[&agent]).await.unwrap().get(0)
    }

    /// The last thing that happened to an agent, and when it stands there as the moment wants it.
    async fn stands(&self, agent: &str, moment: Moment) -> bool {
        let sql = "select e.type from event_subjects s join events e using (tenant_id, position)
                   where s.subject = $1 order by position desc limit 2";
        let rows = self.client.query(sql, &[&agent]).await.unwrap();
        let newest: &str = rows[0].get(0);
        match moment {
            Moment::Call => newest == "model.call_opened",
            Moment::Tool => newest == "tool.started",
            Moment::Effect => {
                let started = proof::begun(&self.client, agent).await;
                let there = self.effects(agent);
                newest == "tool.started" && started.last().is_some_and(|label| there.contains(label))
            }
        }
    }

    /// What the tools of an agent have written.
    fn effects(&self, agent: &str) -> Vec<String> {
        let path = self.sandboxes().join(agent).join("workspace/effects");
        std::fs::read_to_string(path).unwrap_or_default().lines().map(str::to_owned).collect()
    }

    /// Waits until one of the runs of a server stands so. Gives the server, and how often each run that it has was
    /// claimed.
    async fn comes_to(&mut self, moment: Moment) -> (usize, BTreeMap<String, i64>) {
        let first = self.draw(2);
        let (number, held) = until_async("a server to have runs", async || {
            for number in [first, 1 - first] {
                let held = self.held(number).await;
                if !held.is_empty() {
                    return Some((number, held));
                }
            }
            None
        })
        .await;
        let chosen = held[self.draw(held.len())].clone();
        until_async("the moment", async || self.stands(&chosen, moment).await.then_some(())).await;
        let mut claims = BTreeMap::new();
        for agent in held {
            let count = self.claims(&agent).await;
            claims.insert(agent, count);
        }
        (number, claims)
    }

    /// Waits until all of these runs have been claimed again.
    async fn claimed_again(&self, before: &BTreeMap<String, i64>) {
        for (agent, count) in before {
            until_async("the run to be claimed", async || (self.claims(agent).await > *count).then_some(()))
                .await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_whose_servers_are_killed_ends_in_one_answer_and_repeats_nothing() {
    let enough = Arc::new(AtomicBool::new(false));
    let mut world = World::new(&enough).await;
    for number in 0..KILLS {
        let moment = [Moment::Call, Moment::Tool, Moment::Effect][number % 3];
        let (victim, before) = world.comes_to(moment).await;
        let killed = Instant::now();
        kill(world.servers[victim].take().unwrap()).await;
        world.claimed_again(&before).await;
        assert!(killed.elapsed() < AFTER_KILL, "{:?} after kill {number}", killed.elapsed());
        world.start(victim).await;
    }
    enough.store(true, Ordering::Relaxed);
    let seen = proof::all_is_whole(&world).await;
    // Each moment has left something open, which is told apart from what was recorded.
    assert!(seen.lost > 0 && seen.interrupted > 0, "{seen:?}");
    assert!(world.models.refused().is_empty(), "{:?}", world.models.refused());
    for server in &mut world.servers {
        assert!(server.take().unwrap().stop().await.success());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_told_to_stop_hands_its_runs_over_within_a_second() {
    let enough = Arc::new(AtomicBool::new(false));
    let mut world = World::new(&enough).await;
    for (number, moment) in [Moment::Call, Moment::Effect, Moment::Tool].into_iter().enumerate() {
        let (leaving, before) = world.comes_to(moment).await;
        let told = Instant::now();
        world.server(leaving).signal(Signal::SIGTERM);
        world.claimed_again(&before).await;
        assert!(told.elapsed() < AFTER_STOP, "{:?} after stop {number}", told.elapsed());
        assert!(world.servers[leaving].take().unwrap().ended().await.success());
        world.start(leaving).await;
    }
    enough.store(true, Ordering::Relaxed);
    proof::all_is_whole(&world).await;
}
