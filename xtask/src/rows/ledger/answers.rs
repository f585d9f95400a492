//! The model's vendor, which remembers what each of its answers used.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::json;
use theazo::clock::{Clock, SystemClock};

use super::super::models::script::Used as Usage;
use super::super::models::{Answer, Asked, Delivery, End, ModelServer, Said, Turn};
use super::money::Used;
use crate::load::Account as Journal;

/// Bytes of a stream after which Anthropic's has told what the prompt used, and neither has told the rest.
const BEHIND_PROMPT: usize = 480;

/// What was answered in one turn of a task.
#[derive(Debug, Clone)]
pub(super) struct Answered {
    pub(super) used: Used,
    /// The bytes of each request for it.
    pub(super) asked: Vec<u64>,
    /// Whether the first answer to it broke off, behind what it told of the prompt where the protocol tells that first.
    pub(super) broke_off: bool,
}

/// A task as its vendor knows it.
#[derive(Debug, Clone, Default)]
pub(super) struct Told {
    pub(super) turns: Vec<Answered>,
    /// When the vendor was first asked, by its own clock.
    pub(super) first_ms: Option<i64>,
}

pub(super) struct Vendor {
    pub(super) server: ModelServer,
    memory: Arc<Mutex<Memory>>,
}

struct Memory {
    tasks: BTreeMap<String, Told>,
    charges: u64,
    random: fastrand::Rng,
    journal: Arc<Journal>,
    /// Of how many answers one breaks off.
    breaks: Option<u32>,
}

impl Vendor {
    pub(super) async fn new(random: fastrand::Rng, journal: Arc<Journal>, breaks: Option<u32>) -> Self {
        let memory = Memory { tasks: BTreeMap::new(), charges: 0, random, journal, breaks };
        let memory = Arc::new(Mutex::new(memory));
        let told = Arc::clone(&memory);
        let server = ModelServer::new(move |asked| answer(asked, &told)).await;
        Self { server, memory }
    }

    /// How many charges the answers so far must come to.
    pub(super) fn charges(&self) -> u64 {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner).charges
    }

    /// What is known of a task.
    pub(super) fn told(&self, task: &str) -> Told {
        let memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        memory.tasks.get(task).cloned().unwrap_or_default()
    }

    /// The tasks that it was asked about.
    pub(super) fn tasks(&self) -> Vec<String> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner).tasks.keys().cloned().collect()
    }
}

/// A task for the model: it says how many turns it takes.
pub(super) fn task(name: &str, turns: usize) -> String {
    format!("{name}, in {turns} turns.")
}

/// Calls a tool in every turn but the last. The same turn of the same task always uses the same.
fn answer(asked: &Asked, memory: &Mutex<Memory>) -> Answer {
    let (task, since) = asked.task();
    let turn = since.iter().filter(|said| matches!(said, Said::Model { .. })).count();
    let turns: usize = task.rsplit(' ').nth(1).and_then(|number| number.parse().ok()).unwrap_or(1);
    let mut memory = memory.lock().unwrap_or_else(PoisonError::into_inner);
    let ([input, output, cache_read, cache_write], breaks_off) = memory.remember(task, turn, asked);
    drop(memory);
    let says = if turn + 1 < turns {
        let id = format!("toolu_{}", asked.conversation.len());
        Turn::says("More.").and_calls(&id, "web_search", r#"{"query":"prices"}"#)
    } else {
        Turn::says("Done.")
    };
    let turn = Turn { usage: Usage { input, output, cache_read, cache_write }, ..says };
    let end = if breaks_off { End::BreakAt(BEHIND_PROMPT) } else { End::Whole };
    turn.delivered(Delivery { end, ..Delivery::default() }).into()
}

impl Memory {
    /// Remembers a request; what its answer uses, and whether it breaks off.
    fn remember(&mut self, task: &str, turn: usize, asked: &Asked) -> (Used, bool) {
        let told = self.tasks.entry(task.to_owned()).or_default();
        told.first_ms.get_or_insert_with(|| SystemClock.now().millis());
        // As it was sent: the same letters, in another order at most.
        let request = asked.body.to_string().len() as u64;
        let (used, times, broke_off) = match told.turns.get_mut(turn) {
            Some(answered) => {
                answered.asked.push(request);
                (answered.used, answered.asked.len(), false)
            }
            None => {
                // What is used is odd, and some of it often nothing.
                let random = &mut self.random;
                let mut cached = || if random.u8(..4) == 0 { 0 } else { random.u64(1..30_000) };
                let (cache_read, cache_write) = (cached(), cached());
                let used = [random.u64(1..20_000), random.u64(1..3_000), cache_read, cache_write];
                self.charges += used.iter().filter(|tokens| **tokens > 0).count() as u64;
                let broke_off = self.breaks.is_some_and(|of| random.u32(..of) == 0);
                told.turns.push(Answered { used, asked: vec![request], broke_off });
                (used, 1, broke_off)
            }
        };
        let line = json!({
            "answered": task, "turn": turn, "request": asked.number, "used": used, "times": times,
            "brokeOff": broke_off,
        });
        // Where the disk is full, whatever is asked for next says so.
        let _ = self.journal.write(&line);
        (used, broke_off)
    }
}
