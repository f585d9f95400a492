//! What things cost, by the price list and an arithmetic of the proof's own.

use std::collections::BTreeMap;

use anyhow::Context;
use rust_decimal::{Decimal, RoundingStrategy};
use serde_json::Value;

/// The prices of a million tokens of a model.
#[derive(Debug, Clone, Copy)]
pub(super) struct Model {
    input: Decimal,
    output: Decimal,
    /// The dearest that a token of input can be.
    dearest: Decimal,
}

pub(super) struct Prices {
    models: BTreeMap<String, Model>,
    compute_per_minute: Decimal,
}

pub(super) fn decimal(value: &Value) -> anyhow::Result<Decimal> {
    let text = value.as_str().with_context(|| format!("a number: {value}"))?;
    Ok(text.parse()?)
}

/// As a charge is rounded: half-even, to twelve places.
fn rounded(amount: Decimal) -> Decimal {
    amount.round_dp_with_strategy(12, RoundingStrategy::MidpointNearestEven)
}

fn of_million(price: Decimal, tokens: u64) -> Decimal {
    rounded(price * Decimal::from(tokens) / Decimal::from(1_000_000))
}

impl Model {
    /// What a call costs at most: its request's bytes as input, and all the output that it may have.
    pub(super) fn worst(self, bytes: u64, max_tokens: u64) -> Decimal {
        of_million(self.dearest, bytes) + of_million(self.output, max_tokens)
    }

    /// What a call has cost.
    pub(super) fn cost(self, input: u64, output: u64) -> Decimal {
        of_million(self.input, input) + of_million(self.output, output)
    }
}

impl Prices {
    /// Those of a card as `theazo rates show --json` prints it.
    pub(super) fn of(card: &Value) -> anyhow::Result<Self> {
        let markup = Decimal::ONE + decimal(&card["markupPercent"])? / Decimal::ONE_HUNDRED;
        let mut models = BTreeMap::new();
        for listed in card["models"].as_array().context("models of a card")? {
            let price = |name: &str| anyhow::Ok(decimal(&listed[name])? * markup);
            let (input, output) = (price("input")?, price("output")?);
            let dearest = input.max(price("cacheRead")?).max(price("cacheWrite")?);
            let id = listed["id"].as_str().context("a model's id")?.to_owned();
            models.insert(id, Model { input, output, dearest });
        }
        Ok(Self { models, compute_per_minute: decimal(&card["computePerMinute"])? })
    }

    pub(super) fn model(&self, id: &str) -> anyhow::Result<Model> {
        self.models.get(id).copied().with_context(|| format!("{id} has a price"))
    }

    /// What so many milliseconds of compute cost.
    pub(super) fn compute(&self, ms: i64) -> Decimal {
        rounded(self.compute_per_minute * Decimal::from(ms) / Decimal::from(60_000))
    }
}
