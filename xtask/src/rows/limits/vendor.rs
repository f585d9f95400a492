//! The model's vendor: it uses what the client has chosen for each task, takes its time, and remembers how long each
//! request was.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::super::models::script::{Cuts, Used};
use super::super::models::{Answer, Asked, Delivery, ModelServer, Said, Turn};

/// The bytes of the requests for each turn of each task.
type Lengths = BTreeMap<(String, usize), BTreeSet<u64>>;

pub(super) struct Vendor {
    pub(super) server: ModelServer,
    lengths: Arc<Mutex<Lengths>>,
}

/// What the client chooses for a task. The model reads it in the task's text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Choice {
    /// Tokens that each turn uses.
    pub(super) input: u64,
    pub(super) output: u64,
    pub(super) turns: usize,
    /// How long a turn takes, in two halves.
    pub(super) half_ms: u64,
}

impl Choice {
    pub(super) fn text(self, name: &str) -> String {
        let Self { input, output, turns, half_ms } = self;
        format!("Task {name} of {input} {output} {turns} {half_ms}")
    }

    pub(super) fn of(text: &str) -> Option<Self> {
        let (_, numbers) = text.split_once(" of ")?;
        let mut numbers = numbers.split(' ').map(str::parse::<u64>);
        let mut next = || numbers.next()?.ok();
        let (input, output) = (next()?, next()?);
        Some(Self { input, output, turns: usize::try_from(next()?).ok()?, half_ms: next()? })
    }
}

impl Vendor {
    pub(super) async fn new() -> Self {
        let lengths = Arc::new(Mutex::new(Lengths::new()));
        let noted = Arc::clone(&lengths);
        let server = ModelServer::new(move |asked| answer(asked, &noted)).await;
        Self { server, lengths }
    }

    /// The bytes of all requests by task and turn.
    pub(super) fn lengths(&self) -> Lengths {
        self.lengths.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// It calls a tool in each turn but the last.
fn answer(asked: &Asked, lengths: &Mutex<Lengths>) -> Answer {
    let (said, since) = asked.task();
    // A task that came to nothing stands before the next in the same message.
    let task = said.rfind("Task ").map_or(said, |at| &said[at..]);
    let turn = since.iter().filter(|said| matches!(said, Said::Model { .. })).count();
    let bytes = asked.body.to_string().len() as u64;
    let mut lengths = lengths.lock().unwrap_or_else(PoisonError::into_inner);
    lengths.entry((task.to_owned(), turn)).or_default().insert(bytes);
    drop(lengths);
    let choice = Choice::of(task).unwrap_or(Choice { input: 1, output: 1, turns: 1, half_ms: 0 });
    let says = if turn + 1 < choice.turns {
        let id = format!("toolu_{}", asked.conversation.len());
        Turn::says("More.").and_calls(&id, "web_search", r#"{"query":"limits"}"#)
    } else {
        Turn::says("Done.")
    };
    let pause = Duration::from_millis(choice.half_ms);
    let usage = Used { input: choice.input, output: choice.output, cache_read: 0, cache_write: 0 };
    let delivery = Delivery { cuts: Cuts::At(vec![40]), pause, ..Delivery::default() };
    Turn { usage, ..says }.delivered(delivery).into()
}
