//! What becomes known of a call to a model after it has ended: what a lost one used, and what an unrated one costs.

use rust_decimal::prelude::ToPrimitive;
use serde::{Deserialize, Serialize};

use super::{CallLost, CallSettled, Existing, ModelRates, Tokens};
use crate::charge::{Booking, Category, Charge, Line, Place, Unit};
use crate::id::{CallId, TaskId};
use crate::time::Timestamp;
use crate::{Event, Facts, Refusal};

/// Seconds of unrated usage that one event rates at most.
pub const RATED_AT_ONCE: usize = 100;

/// Usage within it is rated together: periods begin and end with whole seconds, so that none parts what is rated at once.
const TOGETHER_MS: i64 = 1_000;
/// Tokens of a prompt up to which its call is rated together with others. A longer one may have other prices: no model's
/// begin below that.
const TOGETHER_PROMPT: u64 = 32_000;
/// What older events have rated together.
const FORMERLY_TOGETHER_MS: i64 = 3_600_000;

fn within(span_ms: i64, one: Timestamp, other: Timestamp) -> bool {
    one.millis().div_euclid(span_ms) == other.millis().div_euclid(span_ms)
}

/// It became known what a call used whose usage was unconfirmed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CallReconciled {
    /// Whose it was.
    pub place: Place,
    /// For which task. What the task has cost stays what its output said.
    pub task_id: TaskId,
    /// The call.
    pub call_id: CallId,
    /// The model's id at its vendor's.
    pub model: String,
    /// What it used; none where its vendor has not billed it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens: Option<Tokens>,
    /// Withdraws what was unconfirmed, and charges what was used.
    pub booking: Booking,
}

/// Usage that had no price was given one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UsageRated {
    /// Whose it was.
    pub place: Place,
    /// The model's id at its vendor's.
    pub model: String,
    /// Seconds of usage of this model that are still unrated.
    #[serde(default)]
    pub left: u32,
    /// Charges the usage.
    pub booking: Booking,
}

/// A call to a model whose usage is unconfirmed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Unconfirmed {
    call_id: CallId,
    task_id: TaskId,
    model: String,
    rates: ModelRates,
    charges: Vec<Charge>,
}

/// Usage of a model in one second that has no price.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Unrated {
    model: String,
    /// The newest of it.
    used_at: Timestamp,
    tokens: Tokens,
    calls: u32,
}

/// What is to become known.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Later {
    /// In the order in which the calls ended.
    unconfirmed: Vec<Unconfirmed>,
    /// In the order of time.
    unrated: Vec<Unrated>,
}

impl Later {
    /// Takes in an event; before it ends the open call, whose rates are these.
    pub(super) fn fold(&mut self, event: &Event, open: Option<&ModelRates>) {
        match event {
            Event::CallLost(CallLost { task_id, call_id, model, booking, .. })
            | Event::CallSettled(CallSettled { task_id, call_id, model, booking, .. })
                if !booking.unconfirmed.is_empty() =>
            {
                let (task_id, call_id, model) = (*task_id, *call_id, model.clone());
                if let Some(rates) = open.cloned() {
                    let charges = booking.unconfirmed.clone();
                    self.unconfirmed.push(Unconfirmed { call_id, task_id, model, rates, charges });
                }
            }
            Event::CallReconciled(reconciled) => {
                self.unconfirmed.retain(|call| call.call_id != reconciled.call_id);
            }
            Event::UsageRated(rated) => {
                for charge in &rated.booking.charges {
                    if let Line::Rating { used_at, .. } = charge.line {
                        // The oldest is rated first, so what is older of the same hour has been rated too.
                        self.unrated.retain(|usage| {
                            usage.model != rated.model
                                || usage.used_at > used_at
                                || !within(FORMERLY_TOGETHER_MS, usage.used_at, used_at)
                        });
                    }
                }
            }
            _ => {}
        }
        if let Event::CallSettled(CallSettled { model, booking, .. })
        | Event::CallReconciled(CallReconciled { model, booking, .. }) = event
        {
            self.note_unrated(model, &booking.charges);
        }
    }

    fn note_unrated(&mut self, model: &str, charges: &[Charge]) {
        let mut unrated = charges.iter().filter(|charge| charge.is_unrated()).peekable();
        let Some(used_at) = unrated.peek().map(|charge| charge.at) else { return };
        let mut usage = Unrated { model: model.to_owned(), used_at, tokens: Tokens::default(), calls: 1 };
        for charge in unrated {
            let quantity = charge.quantity.to_u64().unwrap_or(u64::MAX);
            let tokens = &mut usage.tokens;
            let sum = match charge.unit {
                Unit::InputToken => &mut tokens.input,
                Unit::OutputToken => &mut tokens.output,
                Unit::CacheReadToken => &mut tokens.cache_read,
                Unit::CacheWriteToken => &mut tokens.cache_write,
                Unit::Millisecond | Unit::GbHour => continue,
            };
            *sum = sum.saturating_add(quantity);
        }
        let known = self.unrated.iter().rposition(|known| known.takes(&usage));
        if let Some(known) = known.map(|at| self.unrated.remove(at)) {
            usage.take(&known);
        }
        self.unrated.push(usage);
    }
}

impl Charge {
    /// Whether it is of usage of a model that has no price.
    #[must_use]
    pub fn is_unrated(&self) -> bool {
        self.line.is_usage() && self.price.is_none() && self.category == Category::Model
    }
}

impl Unrated {
    /// Whether the two are rated together.
    fn takes(&self, other: &Self) -> bool {
        let is_long = |usage: &Self| usage.tokens.prompt() > TOGETHER_PROMPT && usage.calls == 1;
        self.model == other.model
            && within(TOGETHER_MS, self.used_at, other.used_at)
            && !is_long(self)
            && !is_long(other)
    }

    /// Takes in what was used before it.
    fn take(&mut self, other: &Self) {
        let Tokens { input, output, cache_read, cache_write } = other.tokens;
        let tokens = &mut self.tokens;
        tokens.input = tokens.input.saturating_add(input);
        tokens.output = tokens.output.saturating_add(output);
        tokens.cache_read = tokens.cache_read.saturating_add(cache_read);
        tokens.cache_write = tokens.cache_write.saturating_add(cache_write);
        self.calls = self.calls.saturating_add(other.calls);
    }

    /// Its charges at these rates: in its own time while the month of that is open, else now.
    fn rated(&self, rates: &ModelRates, now: Timestamp) -> Vec<Charge> {
        let is_open = self.used_at.day().month_start() == now.day().month_start();
        let at = if is_open { self.used_at } else { now };
        let mut calls = self.calls;
        let rating = |charge| {
            let calls = std::mem::take(&mut calls);
            Charge { line: Line::Rating { used_at: self.used_at, calls }, ..charge }
        };
        // Of several calls only the sum of their tokens is known, and each of their prompts was short.
        let rates = if self.calls == 1 { rates.clone() } else { rates.of_short_prompts() };
        rates.charges(self.tokens, at).into_iter().map(rating).collect()
    }
}

impl Existing {
    /// It became known what a call used; nothing where its vendor has not billed it.
    pub(super) fn reconcile(
        &self,
        call_id: CallId,
        tokens: Option<Tokens>,
        facts: &Facts,
    ) -> Result<Vec<Event>, Refusal> {
        let call = self.later.unconfirmed.iter().find(|call| call.call_id == call_id);
        let refused = || Refusal::Conflict(format!("{call_id} is not unconfirmed"));
        let call = call.ok_or_else(refused)?;
        let charges = tokens.map(|tokens| call.rates.charges(tokens, facts.now)).unwrap_or_default();
        let withdrawn = call.charges.clone();
        let booking = Booking { charges, withdrawn, ..Booking::default() };
        let (place, task_id, model) = (self.life.place, call.task_id, call.model.clone());
        Ok(vec![Event::CallReconciled(CallReconciled { place, task_id, call_id, model, tokens, booking })])
    }

    /// A model has a price now: what was used of it before and had none is charged, the oldest first.
    pub(super) fn rate_usage(
        &self,
        model: &str,
        rates: &ModelRates,
        facts: &Facts,
    ) -> Result<Vec<Event>, Refusal> {
        if rates.prices.is_none() {
            return Err(Refusal::Conflict(format!("the model {model} has no price")));
        }
        let unrated: Vec<&Unrated> = self.later.unrated.iter().filter(|usage| usage.model == model).collect();
        let last = unrated.len().min(RATED_AT_ONCE).checked_sub(1).map(|last| unrated[last].used_at);
        // What was used at the same moment is rated at once, since the moment is what tells it from what is left.
        let (now, left): (Vec<_>, Vec<_>) =
            unrated.into_iter().partition(|usage| Some(usage.used_at) <= last);
        let charges: Vec<Charge> = now.into_iter().flat_map(|usage| usage.rated(rates, facts.now)).collect();
        if charges.is_empty() {
            return Ok(vec![]);
        }
        let booking = Booking { charges, ..Booking::default() };
        let left = u32::try_from(left.len()).unwrap_or(u32::MAX);
        let place = self.life.place;
        Ok(vec![Event::UsageRated(UsageRated { place, model: model.to_owned(), left, booking })])
    }
}
