//! The model's vendor, which remembers what each of its answers used.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::super::models::script::Used as Usage;
use super::super::models::{Answer, Asked, ModelServer, Said, Turn};
use super::money::Used;

/// What was answered of one task, turn by turn: what it used, and how often it was asked.
type Turns = Vec<(Used, u64)>;

pub(super) struct Vendor {
    pub(super) server: ModelServer,
    said: Arc<Mutex<Told>>,
}

struct Told {
    tasks: BTreeMap<String, Turns>,
    charges: u64,
    random: fastrand::Rng,
}

impl Vendor {
    pub(super) async fn new(random: fastrand::Rng) -> Self {
        let said = Arc::new(Mutex::new(Told { tasks: BTreeMap::new(), charges: 0, random }));
        let told = Arc::clone(&said);
        let server = ModelServer::new(move |asked| answer(asked, &told)).await;
        Self { server, said }
    }

    /// How many charges the answers so far must come to.
    pub(super) fn charges(&self) -> u64 {
        self.said.lock().unwrap_or_else(PoisonError::into_inner).charges
    }

    /// What the turns of a task used, and how often each was asked for.
    pub(super) fn turns(&self, task: &str) -> Turns {
        let said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        said.tasks.get(task).cloned().unwrap_or_default()
    }
}

/// A task for the model: it says how many turns it takes.
pub(super) fn task(name: &str, turns: usize) -> String {
    format!("{name}, in {turns} turns.")
}

/// A model that calls a tool in each turn but the last. The same turn always uses the same, however often it is asked for.
fn answer(asked: &Asked, said: &Mutex<Told>) -> Answer {
    let (task, since) = asked.task();
    let turn = since.iter().filter(|said| matches!(said, Said::Model { .. })).count();
    let turns = task.rsplit(' ').nth(1).and_then(|number| number.parse().ok()).unwrap_or(1);
    let mut said = said.lock().unwrap_or_else(PoisonError::into_inner);
    let known = said.tasks.get(task).and_then(|answered| answered.get(turn)).map(|(used, _)| *used);
    let used = known.unwrap_or_else(|| {
        // What is used is odd, and some of it often nothing.
        let random = &mut said.random;
        let mut cached = || if random.u8(..4) == 0 { 0 } else { random.u64(1..30_000) };
        let (cache_read, cache_write) = (cached(), cached());
        [random.u64(1..20_000), random.u64(1..3_000), cache_read, cache_write]
    });
    if known.is_none() {
        said.charges += used.iter().filter(|tokens| **tokens > 0).count() as u64;
    }
    let answered = said.tasks.entry(task.to_owned()).or_default();
    match answered.get_mut(turn) {
        Some((_, times)) => *times += 1,
        None => answered.push((used, 1)),
    }
    drop(said);
    let [input, output, cache_read, cache_write] = used;
    let says = if turn + 1 < turns {
        let id = format!("toolu_{}", asked.conversation.len());
        Turn::says("More.").and_calls(&id, "web_search", r#"{"query":"prices"}"#)
    } else {
        Turn::says("Done.")
    };
    Turn { usage: Usage { input, output, cache_read, cache_write }, ..says }.into()
}
