//! What a model's tokens cost, as it stands in the events of calls: a call is charged at the prices it was opened with.

use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};

use crate::charge::{Category, Charge, Price, Rate, Unit};
use crate::time::Timestamp;

/// Prices of a model, of a rate card.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ModelRates {
    /// The version of the rate card.
    pub rate_card: String,
    /// None for a model without a price.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prices: Option<ModelPrices>,
}

/// Prices of a model's tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ModelPrices {
    /// Of input.
    pub input: Price,
    /// Of output.
    pub output: Price,
    /// Of input read from the vendor's cache.
    pub cache_read: Price,
    /// Of input written to the vendor's cache.
    pub cache_write: Price,
    /// Those of calls with a long prompt, where they differ.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub long: Option<LongPrices>,
}

/// Prices of every token of a call whose prompt is longer than so many tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LongPrices {
    /// Tokens of input, cached or not.
    pub over_tokens: u64,
    /// Of input.
    pub input: Price,
    /// Of output.
    pub output: Price,
    /// Of input read from the vendor's cache.
    pub cache_read: Price,
    /// Of input written to the vendor's cache.
    pub cache_write: Price,
}

/// Tokens that a call to a model used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Tokens {
    /// Input that was neither read from nor written to a cache.
    pub input: u64,
    /// Output.
    pub output: u64,
    /// Input read from the vendor's cache.
    #[serde(default)]
    pub cache_read: u64,
    /// Input written to the vendor's cache.
    #[serde(default)]
    pub cache_write: u64,
}

impl Tokens {
    /// All of the input, cached or not.
    #[must_use]
    pub const fn prompt(self) -> u64 {
        self.input.saturating_add(self.cache_read).saturating_add(self.cache_write)
    }
}

/// What calls to a model cost, as far as it matters to whether a run of them may begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ModelCost {
    /// They have a price.
    Priced,
    /// Nothing, as with a key of the organization's own.
    Free,
    /// Nobody knows: no limit of cost could be kept.
    Unpriced,
}

impl ModelRates {
    /// What calls cost at these rates.
    #[must_use]
    pub fn cost(&self) -> ModelCost {
        match self.prices {
            None => ModelCost::Unpriced,
            Some(ModelPrices { input, output, cache_read, cache_write, long: None })
                if [input, output, cache_read, cache_write].iter().all(|price| price.amount.is_zero()) =>
            {
                ModelCost::Free
            }
            Some(_) => ModelCost::Priced,
        }
    }

    /// What tokens cost at most: input at the dearest of its prices.
    #[must_use]
    pub fn worst(&self, tokens: Tokens) -> Decimal {
        self.charges_at_worst(tokens, Timestamp::default()).iter().map(|charge| charge.cost).sum()
    }

    /// The charges of as many tokens as a call can use at most.
    pub(super) fn charges_at_worst(&self, tokens: Tokens, at: Timestamp) -> Vec<Charge> {
        let prices = self.of_prompt(tokens.prompt());
        let dearest = prices.map(|prices| {
            [prices.input, prices.cache_read, prices.cache_write]
                .into_iter()
                .max_by(|one, other| one.dearness().cmp(&other.dearness()))
                .unwrap_or(prices.input)
        });
        let input = tokens.prompt();
        let output = prices.map(|prices| prices.output);
        self.listed([(input, Unit::InputToken, dearest), (tokens.output, Unit::OutputToken, output)], at)
    }

    /// The charges of what was used.
    #[must_use]
    pub fn charges(&self, tokens: Tokens, at: Timestamp) -> Vec<Charge> {
        let prices = self.of_prompt(tokens.prompt());
        let price = |of: fn(&ModelPrices) -> Price| prices.as_ref().map(of);
        self.listed(
            [
                (tokens.input, Unit::InputToken, price(|prices| prices.input)),
                (tokens.output, Unit::OutputToken, price(|prices| prices.output)),
                (tokens.cache_read, Unit::CacheReadToken, price(|prices| prices.cache_read)),
                (tokens.cache_write, Unit::CacheWriteToken, price(|prices| prices.cache_write)),
            ],
            at,
        )
    }

    /// The prices of a call whose prompt has so many tokens.
    fn of_prompt(&self, tokens: u64) -> Option<ModelPrices> {
        self.prices.map(|prices| match prices.long {
            Some(LongPrices { over_tokens, input, output, cache_read, cache_write })
                if tokens > over_tokens =>
            {
                ModelPrices { input, output, cache_read, cache_write, long: None }
            }
            _ => prices,
        })
    }

    /// Those of calls with a short prompt: where only the sum of several calls' tokens is known.
    #[must_use]
    pub(super) fn of_short_prompts(&self) -> Self {
        let prices = self.prices.map(|prices| ModelPrices { long: None, ..prices });
        Self { rate_card: self.rate_card.clone(), prices }
    }

    fn listed<const N: usize>(&self, used: [(u64, Unit, Option<Price>); N], at: Timestamp) -> Vec<Charge> {
        let charge = |(quantity, unit, price): (u64, Unit, Option<Price>)| {
            let rate = Rate { price, rate_card: self.rate_card.clone() };
            Charge::new(at, Category::Model, (Decimal::from(quantity), unit), &rate)
        };
        used.into_iter().filter(|(quantity, ..)| *quantity > 0).map(charge).collect()
    }
}

impl Price {
    fn dearness(self) -> Decimal {
        self.amount / Decimal::from(self.per.max(1))
    }
}
