//! What has to hold of a run, whatever was killed meanwhile, by what the log says of its agent and by what its tools have
//! done. Nothing here depends on the rest of the tests: the proofs take this file in as it is.

use std::collections::{BTreeMap, BTreeSet};

use rust_decimal::Decimal;
use serde_json::Value;

/// How the reason of a call begins that was released because nobody was asked: no connection could be made for it, the machine
/// being too busy for that, or its server was told to stop before. It is made again. Any other call that was released was
/// refused by its vendor.
const UNSENT: [&str; 2] = [
    "the model's vendor cannot be reached: it cannot be connected to",
    "the model's vendor cannot be reached: the server stops",
];

/// What a crash had left open.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) lost: usize,
    pub(crate) interrupted: usize,
}

/// The type of an event, and its data.
pub(crate) type Event = (String, Value);

fn text(data: &Value, name: &str) -> String {
    data[name].as_str().unwrap_or_default().to_owned()
}

/// The labels of the tools that have been begun, in order: the turn of the model and the place in it.
pub(crate) fn labels(events: &[Event]) -> Vec<String> {
    let mut labels = Labels::default();
    events.iter().filter_map(|(kind, data)| labels.fold(kind, data)).collect()
}

/// Which turn each answer of the model is.
#[derive(Default)]
struct Labels(BTreeMap<String, usize>);

impl Labels {
    fn fold(&mut self, kind: &str, data: &Value) -> Option<String> {
        match kind {
            "model.call_settled" => {
                let turn = self.0.len();
                self.0.insert(text(data, "callId"), turn);
                None
            }
            "tool.started" => {
                let turn = self.0.get(&text(data, "callId"))?;
                Some(format!("{turn}.{}", data["index"]))
            }
            _ => None,
        }
    }
}

/// A run that is walked through, event by event.
struct Walk<'a> {
    labels: Labels,
    effects: &'a [String],
    open: BTreeMap<String, String>,
    calls: BTreeSet<String>,
    given_up: BTreeSet<String>,
    tools: BTreeSet<String>,
    epoch: u64,
    ends: usize,
    seen: Seen,
}

/// The run of an agent has ended once, in an answer, and nothing that was recorded has happened twice. The effects are
/// the labels that its tools have written.
///
/// # Errors
/// What does not hold.
pub(crate) fn one_run(events: &[Event], effects: &[String]) -> Result<Seen, String> {
    let mut walk = Walk {
        labels: Labels::default(),
        effects,
        open: BTreeMap::new(),
        calls: BTreeSet::new(),
        given_up: BTreeSet::new(),
        tools: BTreeSet::new(),
        epoch: 0,
        ends: 0,
        seen: Seen::default(),
    };
    for (kind, data) in events {
        walk.step(kind, data)?;
    }
    claim(walk.open.is_empty(), || format!("{:?} was left open", walk.open))?;
    claim(walk.ends == 1, || format!("the run has ended {} times", walk.ends))?;
    let stray = effects.iter().find(|effect| !walk.tools.contains(*effect));
    claim(stray.is_none(), || format!("{stray:?} happened, and no tool was started for it"))?;
    Ok(walk.seen)
}

fn claim(holds: bool, otherwise: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(otherwise()) }
}

impl Walk<'_> {
    fn step(&mut self, kind: &str, data: &Value) -> Result<(), String> {
        let label = self.labels.fold(kind, data);
        match kind {
            "task.claimed" => {
                self.epoch += 1;
                claim(data["epoch"] == self.epoch, || format!("claim {} is {data}", self.epoch))?;
                let open = &self.open;
                claim(open.is_empty(), || format!("somebody went on, and {open:?} was not closed"))?;
            }
            "model.call_opened" => {
                let call = text(data, "callId");
                claim(self.calls.insert(call.clone()), || format!("{call} was made twice"))?;
                self.open.insert(call, String::new());
            }
            "model.call_settled" | "model.call_lost" => {
                let call = text(data, "callId");
                let open = self.open.remove(&call);
                open.ok_or_else(|| format!("{kind} of a call that is not open: {data}"))?;
                if kind == "model.call_lost" {
                    self.seen.lost += 1;
                    self.given_up.insert(call);
                }
            }
            "model.call_released" if UNSENT.iter().any(|unsent| text(data, "reason").starts_with(unsent)) => {
                let open = self.open.remove(&text(data, "callId"));
                open.ok_or_else(|| format!("{kind} of a call that is not open: {data}"))?;
            }
            // Its answer came all the same: what it has used is known, and somebody else goes on.
            "model.call_reconciled" => {
                let given_up = self.given_up.remove(&text(data, "callId"));
                claim(given_up, || format!("{kind} of a call that was not given up: {data}"))?;
            }
            "tool.started" => {
                let label = label.ok_or_else(|| format!("a tool that no answer called: {data}"))?;
                claim(self.tools.insert(label.clone()), || format!("{label} was started twice"))?;
                self.open.insert(text(data, "toolCallId"), label);
            }
            "tool.finished" => self.finished(data)?,
            "task.completed" => self.ends += 1,
            // No vendor refuses a call, and nothing may fail.
            "model.call_released" | "task.failed" | "task.cancelled" | "agent.failed" => {
                return Err(format!("{kind}: {data}"));
            }
            _ => {}
        }
        Ok(())
    }

    fn finished(&mut self, data: &Value) -> Result<(), String> {
        let label = self.open.remove(&text(data, "toolCallId"));
        let label = label.ok_or_else(|| format!("a tool that was not begun has ended: {data}"))?;
        let times = self.effects.iter().filter(|effect| **effect == label).count();
        if data["result"].is_null() {
            self.seen.interrupted += 1;
            return claim(times <= 1, || format!("{label} was interrupted, and took effect {times} times"));
        }
        claim(times == 1, || format!("{label} is recorded, and took effect {times} times"))
    }
}

/// What the events of a session book.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Booked {
    pub(crate) reserved: Decimal,
    pub(crate) cost: Decimal,
    pub(crate) unconfirmed: Decimal,
}

/// Adds up what the events of a session book.
///
/// # Errors
/// Where more is released than was held.
pub(crate) fn booked(events: &[Event]) -> Result<Booked, String> {
    let mut sum = Booked::default();
    for (kind, data) in events {
        let booking = &data["booking"];
        sum.reserved += amount(&booking["reserved"]) - amount(&booking["released"]);
        sum.cost += costs(&booking["charges"]);
        sum.unconfirmed += costs(&booking["unconfirmed"]) - costs(&booking["withdrawn"]);
        claim(sum.reserved >= Decimal::ZERO, || format!("{kind} releases more than is held: {data}"))?;
    }
    Ok(sum)
}

/// An amount of money, 0 where there is none.
pub(crate) fn amount(value: &Value) -> Decimal {
    value.as_str().and_then(|text| text.parse().ok()).unwrap_or_default()
}

fn costs(charges: &Value) -> Decimal {
    charges.as_array().into_iter().flatten().map(|charge| amount(&charge["cost"])).sum()
}
