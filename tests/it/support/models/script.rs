//! What a server answers, and how it delivers it.

use std::time::Duration;

use theazo::providers::model::plausible;

use super::{Asked, Called, Said};

/// An answer.
#[derive(Debug, Clone)]
pub(crate) enum Answer {
    /// A turn of the model, in the protocol's frames.
    Turn(Turn),
    /// A stream to the letter.
    Stream { content_type: &'static str, body: String, delivery: Delivery },
    /// An error before the stream.
    Error { status: u16, retry_after: Option<&'static str>, body: String },
    /// Nothing, for ever.
    Silence,
}

/// A turn of the model.
#[derive(Debug, Clone, Default)]
pub(crate) struct Turn {
    /// What it thinks before it speaks (Anthropic).
    pub(crate) thinking: Option<&'static str>,
    pub(crate) text: String,
    pub(crate) calls: Vec<Called>,
    /// The vendor's word for why it stops; without one it is what fits.
    pub(crate) stop: Option<&'static str>,
    pub(crate) usage: Used,
    pub(crate) delivery: Delivery,
}

/// What a turn uses: input that is neither read from nor written to the cache, and so on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Used {
    pub(crate) input: u64,
    pub(crate) output: u64,
    pub(crate) cache_read: u64,
    pub(crate) cache_write: u64,
}

impl Default for Used {
    fn default() -> Self {
        Self { input: 25, output: 15, cache_read: 0, cache_write: 0 }
    }
}

/// How a stream is delivered.
#[derive(Debug, Clone, Default)]
pub(crate) struct Delivery {
    pub(crate) cuts: Cuts,
    /// Before each piece.
    pub(crate) pause: Duration,
    pub(crate) end: End,
}

/// Where a stream is cut into pieces.
#[derive(Debug, Clone, Default)]
pub(crate) enum Cuts {
    #[default]
    Whole,
    EveryByte,
    At(Vec<usize>),
}

/// How a stream ends.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum End {
    #[default]
    Whole,
    /// The connection breaks after so many bytes.
    BreakAt(usize),
    /// Nothing more comes after so many bytes, and nothing ends.
    SilentAt(usize),
}

impl Delivery {
    /// The pieces of a body, and how it ends behind them.
    pub(super) fn pieces(&self, mut body: Vec<u8>) -> (Vec<Vec<u8>>, End) {
        if let End::BreakAt(at) | End::SilentAt(at) = self.end {
            body.truncate(at);
        }
        let mut cuts = match &self.cuts {
            Cuts::Whole => vec![],
            Cuts::EveryByte => (1..body.len()).collect(),
            Cuts::At(cuts) => cuts.iter().map(|&cut| cut.min(body.len())).collect(),
        };
        cuts.extend([0, body.len()]);
        cuts.sort_unstable();
        cuts.dedup();
        let pieces = cuts.windows(2).map(|cut| body[cut[0]..cut[1]].to_vec()).collect();
        (pieces, self.end)
    }
}

impl Turn {
    /// It says something.
    pub(crate) fn says(text: impl Into<String>) -> Self {
        Self { text: text.into(), ..Self::default() }
    }

    /// It calls a tool as well.
    pub(crate) fn and_calls(mut self, id: &str, name: &str, input: &str) -> Self {
        let called = Called { id: id.to_owned(), name: name.to_owned(), input: input.to_owned() };
        self.calls.push(called);
        self
    }

    /// It is delivered so.
    pub(crate) fn delivered(self, delivery: Delivery) -> Self {
        Self { delivery, ..self }
    }
}

impl From<Turn> for Answer {
    fn from(turn: Turn) -> Self {
        Self::Turn(turn)
    }
}

/// A model that needs no script: it calls the tools that the task names, else the first one that is offered, all at
/// once and once a task, with an input that their schemas allow; then it says what came of it.
pub(crate) fn closed_loop(asked: &Asked) -> Answer {
    let (task, since) = asked.task();
    let results = asked.results();
    let has_called = since.iter().any(|said| matches!(said, Said::Model { calls, .. } if !calls.is_empty()));
    if has_called || asked.tools.is_empty() {
        let mut text = format!("Done: {task}");
        for result in results {
            text.push('\n');
            text.push_str(result.trim_end());
        }
        return Turn::says(text).into();
    }
    let named: Vec<_> = asked.tools.iter().filter(|tool| task.contains(&tool.name)).collect();
    let chosen = if named.is_empty() { asked.tools.iter().take(1).collect() } else { named };
    let turn = chosen.iter().enumerate().fold(Turn::says("I will use a tool."), |turn, (place, tool)| {
        let id = format!("call_{}_{place}", asked.conversation.len());
        turn.and_calls(&id, &tool.name, &plausible(&tool.schema).to_string())
    });
    turn.into()
}
