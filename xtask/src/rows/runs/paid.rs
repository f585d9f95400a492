//! What runs cost: by what the model's vendor was asked and has answered, by the price list, and by the client's clock.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use anyhow::Context;
use rust_decimal::Decimal;
use serde_json::Value;

use super::super::ledger::harm::Outages;
use super::super::ledger::money::{Prices, UNITS};
use super::super::ledger::spans::{Piece, Ready, Spans, now_ms};
use super::super::models::Asked;
use super::account::{Booked, Event, amount};
use super::text;

/// Tokens of an answer at most, where nobody says.
const MOST_OUTPUT: u64 = 4_096;
/// What each answer uses, of the units of [`UNITS`].
const USED: [u64; 4] = [25, 15, 0, 0];
/// A piece of compute is so long at most; what is longer is not charged.
const PIECE_MS: i64 = 60_000;
/// Bytes of a gigabyte times milliseconds of an hour.
const GB_HOUR: i64 = 1_000_000_000 * 3_600_000;
/// What charges are rounded to.
const NEAR: Decimal = Decimal::from_parts(1, 0, 0, false, 12);

/// What the vendor was asked about one task.
#[derive(Debug, Clone, Default)]
pub(super) struct Told {
    /// Turn by turn: the bytes of each request.
    turns: Vec<Vec<u64>>,
    model: String,
    /// When it was first asked.
    first_ms: i64,
}

impl Told {
    /// How many requests those were.
    pub(super) fn requests(&self) -> u64 {
        self.turns.iter().map(|requests| requests.len() as u64).sum()
    }
}

/// What the vendor was asked, by the text of the task.
#[derive(Default)]
pub(super) struct Vendor(Mutex<BTreeMap<String, Told>>);

impl Vendor {
    /// Remembers a request.
    pub(super) fn remember(&self, task: &str, turn: usize, asked: &Asked) {
        let mut tasks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let told = tasks.entry(task.to_owned()).or_insert_with(|| Told {
            turns: vec![],
            model: asked.model.clone(),
            first_ms: now_ms(),
        });
        while told.turns.len() <= turn {
            told.turns.push(vec![]);
        }
        // As it was sent: the same letters, in another order at most.
        told.turns[turn].push(asked.body.to_string().len() as u64);
    }

    /// The tasks that it was asked about. It forgets all of them.
    pub(super) fn forget(&self) -> BTreeMap<String, Told> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// What one turn of a task was, by the log.
#[derive(Default)]
struct Turn {
    calls: usize,
    settled: bool,
}

/// What was paid for one agent's run, walked through event by event.
struct Walk<'a> {
    told: &'a Told,
    prices: &'a Prices,
    turns: Vec<Turn>,
    /// What each call that was given up may have cost.
    lost: BTreeMap<String, Decimal>,
    /// Until when compute has been charged.
    measured: Option<i64>,
    /// What of it was.
    pieces: Vec<Piece>,
    /// What is kept, and until when that has been charged.
    kept: Option<(i64, u64)>,
    sum: Booked,
}

/// Each request that the vendor saw is a call of the same turn in the log; each charge is what was used times its price;
/// compute is charged without a gap for as long as the agent has lived. Gives what that comes to.
///
/// # Errors
/// What does not hold.
pub(super) fn one_run(
    events: &[Event],
    told: &Told,
    (life, outages): (&Ready, &Outages),
    prices: &Prices,
) -> Result<Booked, String> {
    let mut walk = Walk {
        told,
        prices,
        turns: vec![],
        lost: BTreeMap::new(),
        measured: None,
        pieces: vec![],
        kept: None,
        sum: Booked::default(),
    };
    claim(prices.has(&told.model), || format!("the vendor was asked for {:?}", told.model))?;
    for (kind, data) in events {
        walk.step(kind, data).map_err(|wrong| format!("{kind}: {wrong:#}"))?;
    }
    walk.requests()?;
    let ready = vec![Ready { by: told.first_ms, ..life.clone() }];
    let (least, most) = Spans { ready, ..Spans::default() }.compute_ms(&walk.pieces, outages);
    let charged: i64 = walk.pieces.iter().map(|piece| piece.ms).sum();
    claim((least..=most).contains(&charged), || {
        format!("it has lived {least} to {most} ms, and {charged} were charged")
    })?;
    Ok(walk.sum)
}

fn claim(holds: bool, otherwise: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(otherwise()) }
}

impl Walk<'_> {
    fn step(&mut self, kind: &str, data: &Value) -> anyhow::Result<()> {
        match kind {
            "model.call_opened" => {
                anyhow::ensure!(data["model"] == self.told.model, "another model: {data}");
                if self.turns.last().is_none_or(|turn| turn.settled) {
                    self.turns.push(Turn::default());
                }
                self.turn()?.calls += 1;
            }
            "model.call_settled" => {
                self.turn()?.settled = true;
                self.answer(data)?;
            }
            // It was never sent, so no request can be its own.
            "model.call_released" => {
                let turn = self.turn()?;
                turn.calls = turn.calls.saturating_sub(1);
            }
            // Its answer came when it had been given up already.
            "model.call_reconciled" => {
                let may = self.lost.remove(&text(data, "callId")?).context("it was not given up")?;
                let withdrawn = charges(&data["booking"]["withdrawn"])?;
                let withdrawn = withdrawn.iter().map(|(.., cost)| cost).sum::<Decimal>();
                anyhow::ensure!(withdrawn == may, "it may have cost {may}: {data}");
                self.sum.unconfirmed -= may;
                self.answer(data)?;
            }
            "model.call_lost" => {
                let turn = self.turns.len().checked_sub(1).context("a call was opened")?;
                let asked = self.told.turns.get(turn).context("it was asked for later")?;
                let worst =
                    asked.iter().map(|bytes| self.prices.worst(&self.told.model, *bytes, MOST_OUTPUT));
                let worst: Vec<Decimal> = worst.collect();
                let charges = charges(&data["booking"]["unconfirmed"])?;
                let cost = charges.iter().map(|(.., cost)| cost).sum::<Decimal>();
                anyhow::ensure!(worst.contains(&cost), "at worst it has cost {worst:?}: {data}");
                self.sum.unconfirmed += cost;
                self.lost.insert(text(data, "callId")?, cost);
            }
            "compute.started" => self.measured = Some(moment(&data["at"])?),
            "compute.ticked" | "compute.stopped" => self.measure(data)?,
            "storage.metered" => self.measure_storage(data)?,
            _ => anyhow::ensure!(data["booking"]["charges"].is_null(), "nobody has used that: {data}"),
        }
        Ok(())
    }

    /// An answer costs what it has used.
    fn answer(&mut self, data: &Value) -> anyhow::Result<()> {
        let used = UNITS.iter().enumerate().filter(|(unit, _)| USED[*unit] > 0);
        let cost = |unit| self.prices.tokens(&self.told.model, unit, USED[unit]);
        let must: Vec<_> = used.map(|(unit, name)| (*name, Decimal::from(USED[unit]), cost(unit))).collect();
        let charges = charges(&data["booking"]["charges"])?;
        anyhow::ensure!(charges == must, "it must be charged {must:?}: {data}");
        self.sum.cost += must.iter().map(|(.., cost)| cost).sum::<Decimal>();
        Ok(())
    }

    fn turn(&mut self) -> anyhow::Result<&mut Turn> {
        self.turns.last_mut().context("no call was opened")
    }

    /// A piece of compute begins where the one before it has ended, and costs what its length does.
    fn measure(&mut self, data: &Value) -> anyhow::Result<()> {
        let (from, to) = (moment(&data["from"])?, moment(&data["to"])?);
        anyhow::ensure!(self.measured == Some(from), "it does not go on from {:?}: {data}", self.measured);
        self.measured = Some(to);
        let mut ms = Decimal::ZERO;
        for (unit, quantity, cost) in charges(&data["booking"]["charges"])? {
            let must = self.prices.other("compute", quantity);
            let right = unit == "millisecond" && (must - cost).abs() <= NEAR;
            anyhow::ensure!(right, "{quantity} ms cost {must}: {data}");
            ms += quantity;
            self.sum.cost += cost;
        }
        let used = (to - from).min(PIECE_MS);
        anyhow::ensure!(ms == Decimal::from(used), "{used} ms were used: {data}");
        self.pieces.push(Piece { until: from + used, ms: used });
        Ok(())
    }

    /// What is kept costs what its bytes and its time do.
    fn measure_storage(&mut self, data: &Value) -> anyhow::Result<()> {
        let (bytes, kept) = (data["bytes"].as_u64().context("bytes")?, self.kept.as_ref());
        let (from, to) = (moment(&data["from"])?, moment(&data["to"])?);
        let goes_on = kept.map_or(bytes == 0, |kept| *kept == (from, bytes));
        anyhow::ensure!(goes_on, "{kept:?} was kept: {data}");
        let must = Decimal::from(bytes) * Decimal::from(to - from) / Decimal::from(GB_HOUR);
        let mut sum = Decimal::ZERO;
        for (unit, quantity, cost) in charges(&data["booking"]["charges"])? {
            let price = self.prices.other("storage", quantity);
            let right = unit == "gb_hour" && (price - cost).abs() <= NEAR;
            anyhow::ensure!(right, "{quantity} GB for an hour cost {price}: {data}");
            sum += quantity;
            self.sum.cost += cost;
        }
        anyhow::ensure!((sum - must).abs() <= NEAR, "{must} GB for an hour were kept: {data}");
        let kept = data["keptBytes"].as_u64().context("bytes that are kept")?;
        self.kept = (kept > 0).then_some((to, kept));
        Ok(())
    }

    /// What the vendor was asked is what the log has.
    fn requests(&self) -> Result<(), String> {
        let (turns, told) = (&self.turns, &self.told.turns);
        claim(turns.len() == told.len(), || {
            format!("{} turns are in the log, and {} at the vendor", turns.len(), told.len())
        })?;
        for (number, (turn, asked)) in turns.iter().zip(told).enumerate() {
            claim(asked.len() <= turn.calls, || {
                format!("turn {number}: {} requests, and {} calls in the log", asked.len(), turn.calls)
            })?;
        }
        Ok(())
    }
}

/// Charges, each with its unit, its quantity and its cost.
fn charges(charges: &Value) -> anyhow::Result<Vec<(&str, Decimal, Decimal)>> {
    let charge = |charge: &'_ Value| -> anyhow::Result<(Decimal, Decimal)> {
        Ok((text(charge, "quantity")?.parse()?, amount(&charge["cost"])))
    };
    let all = charges.as_array().into_iter().flatten();
    all.map(|one| {
        let (quantity, cost) = charge(one)?;
        Ok((one["unit"].as_str().unwrap_or_default(), quantity, cost))
    })
    .collect()
}

/// A moment, in milliseconds.
fn moment(value: &Value) -> anyhow::Result<i64> {
    let text = value.as_str().with_context(|| format!("a moment: {value}"))?;
    Ok(theazo_domain::time::Timestamp::parse(text)?.millis())
}
