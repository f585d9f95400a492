//! Prices and amounts by an arithmetic of its own.

use std::collections::BTreeMap;

use anyhow::Context;
use rust_decimal::{Decimal, RoundingStrategy};
use serde_json::Value;

/// The units of a call's charges, in the order of [`Used`].
pub(crate) const UNITS: [&str; 4] = ["input_token", "output_token", "cache_read_token", "cache_write_token"];

/// Tokens of a call, by unit.
pub(crate) type Used = [u64; 4];

/// What a card says, in units of the currency.
#[derive(Debug, Clone)]
pub(crate) struct Prices {
    pub(crate) version: String,
    /// Of a million tokens, with the markup.
    models: BTreeMap<String, [Decimal; 4]>,
    compute_per_minute: Decimal,
    storage_per_gb_hour: Decimal,
}

fn decimal(value: &Value, name: &str) -> anyhow::Result<Decimal> {
    let text = value[name].as_str().with_context(|| format!("{name} of a card"))?;
    Ok(text.parse()?)
}

/// Half-even, to so many places.
pub(crate) fn rounded(amount: Decimal, places: u32) -> Decimal {
    amount.round_dp_with_strategy(places, RoundingStrategy::MidpointNearestEven).normalize()
}

impl Prices {
    /// Those of a card as `theazo rates show --json` prints it.
    pub(crate) fn of(card: &Value) -> anyhow::Result<Self> {
        let markup = Decimal::ONE + decimal(card, "markupPercent")? / Decimal::ONE_HUNDRED;
        let mut models = BTreeMap::new();
        for listed in card["models"].as_array().context("models of a card")? {
            let mut prices = [Decimal::ZERO; 4];
            for (price, name) in prices.iter_mut().zip(["input", "output", "cacheRead", "cacheWrite"]) {
                *price = decimal(listed, name)? * markup;
            }
            models.insert(super::text(listed, "id")?, prices);
        }
        Ok(Self {
            version: super::text(card, "version")?,
            models,
            compute_per_minute: decimal(card, "computePerMinute")?,
            storage_per_gb_hour: decimal(card, "storagePerGbMonth")? / Decimal::from(730),
        })
    }

    pub(crate) fn has(&self, model: &str) -> bool {
        self.models.contains_key(model)
    }

    /// What so many tokens of a unit cost; nothing of a model without a price.
    pub(crate) fn tokens(&self, model: &str, unit: usize, tokens: u64) -> Decimal {
        let price = self.models.get(model).map_or(Decimal::ZERO, |prices| prices[unit]);
        rounded(price * Decimal::from(tokens) / Decimal::from(1_000_000), 12)
    }

    /// What a call costs at worst: its request's bytes as tokens of the dearest input, and so many tokens of output.
    pub(crate) fn worst(&self, model: &str, bytes: u64, most_output: u64) -> Decimal {
        let input = [0, 2, 3].map(|unit| self.tokens(model, unit, bytes)).into_iter().max();
        input.unwrap_or_default() + self.tokens(model, 1, most_output)
    }

    /// What a quantity costs that is of no model, as nearly as its price is known.
    pub(crate) fn other(&self, category: &str, quantity: Decimal) -> Decimal {
        match category {
            "compute" => rounded(self.compute_per_minute * quantity / Decimal::from(60_000), 12),
            _ => rounded(self.storage_per_gb_hour * quantity, 12),
        }
    }
}

/// An amount on the wire: exact, and in cents.
pub(crate) fn amount(value: &Value) -> anyhow::Result<(Decimal, i64)> {
    let exact = value["exact"].as_str().with_context(|| format!("an amount: {value}"))?;
    anyhow::ensure!(value["currency"] == "usd", "an amount in dollars: {value}");
    Ok((exact.parse()?, value["amount"].as_i64().context("cents")?))
}

/// The cents of an exact amount.
pub(crate) fn cents(exact: Decimal) -> i64 {
    i64::try_from(rounded(exact * Decimal::ONE_HUNDRED, 0)).unwrap_or(i64::MAX)
}
