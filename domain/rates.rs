//! The rate card: what compute and models cost, as data with a version.

use std::collections::HashMap;
use std::sync::LazyLock;

use rust_decimal::Decimal;
use serde::Deserialize;

use crate::agent::{ModelPrices, ModelRates};
use crate::charge::{Price, Rate};

/// Vendors name prices by the million tokens.
const PER_TOKENS: i64 = 1_000_000;
/// Compute is priced by the minute and metered in milliseconds.
const PER_MS: i64 = 60_000;

/// Dollars for a gigabyte (10^9 bytes) and month.
const STORAGE_PER_GB_MONTH: Decimal = Decimal::from_parts(10, 0, 0, false, 2);
/// Hours of a month, as storage is priced.
const HOURS_PER_MONTH: i64 = 730;

/// A rate card.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Card {
    /// Its version, which every charge names.
    pub version: String,
    /// What a minute of a sandbox costs, in dollars.
    pub compute_per_minute: Decimal,
    /// What is added to vendors' prices of managed calls, in percent.
    pub markup_percent: Decimal,
    /// The vendors' prices.
    models: Vec<Listed>,
    #[serde(skip)]
    by_id: HashMap<String, usize>,
}

/// A model's prices at its vendor's, in dollars a million tokens.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Listed {
    id: String,
    input: Decimal,
    output: Decimal,
    cache_read: Decimal,
    cache_write: Decimal,
}

static BUILT_IN: LazyLock<Card> = LazyLock::new(|| {
    let mut card: Card = serde_json::from_str(include_str!("rates/default.json")).expect("a test reads it");
    card.by_id = card.models.iter().enumerate().map(|(index, model)| (model.id.clone(), index)).collect();
    card
});

impl Card {
    /// The card that the program comes with.
    #[must_use]
    pub fn built_in() -> &'static Self {
        &BUILT_IN
    }

    /// What a model's tokens cost when they are managed: the vendor's price and the markup.
    #[must_use]
    pub fn model(&self, id: &str) -> ModelRates {
        let with_markup = Decimal::ONE + self.markup_percent / Decimal::ONE_HUNDRED;
        let price = |amount: Decimal| Price { amount: (amount * with_markup).normalize(), per: PER_TOKENS };
        let listed = self.by_id.get(id).map(|index| &self.models[*index]);
        let prices = listed.map(|listed| ModelPrices {
            input: price(listed.input),
            output: price(listed.output),
            cache_read: price(listed.cache_read),
            cache_write: price(listed.cache_write),
        });
        ModelRates { rate_card: self.version.clone(), prices }
    }

    /// What tokens cost that are paid for with a key of the organization's own: nothing here.
    #[must_use]
    pub fn free(&self) -> ModelRates {
        let prices = ModelPrices {
            input: Price::FREE,
            output: Price::FREE,
            cache_read: Price::FREE,
            cache_write: Price::FREE,
        };
        ModelRates { rate_card: self.version.clone(), prices: Some(prices) }
    }

    /// What a gigabyte kept for an hour costs: nothing on credentials of the organization's own.
    #[must_use]
    pub fn storage(&self, own_credentials: bool) -> Rate {
        let managed = Price { amount: STORAGE_PER_GB_MONTH, per: HOURS_PER_MONTH };
        let price = if own_credentials { Price::FREE } else { managed };
        Rate { price: Some(price), rate_card: self.version.clone() }
    }

    /// What a millisecond of a sandbox costs: nothing on credentials of the organization's own.
    #[must_use]
    pub fn compute(&self, own_credentials: bool) -> Rate {
        let managed = Price { amount: self.compute_per_minute, per: PER_MS };
        let price = if own_credentials { Price::FREE } else { managed };
        Rate { price: Some(price), rate_card: self.version.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::Tokens;
    use crate::time::Timestamp;

    #[test]
    fn a_managed_call_costs_the_vendors_price_and_a_tenth() {
        let rates = Card::built_in().model("claude-sonnet-4-20250514");
        let tokens = Tokens { input: 1_000_000, output: 100_000, cache_read: 0, cache_write: 0 };
        let cost: Decimal =
            rates.charges(tokens, Timestamp::default()).iter().map(|charge| charge.cost).sum();
        // 3 + 1.50 dollars, and 10 %.
        assert_eq!(cost, Decimal::new(495, 2));
        assert!(Card::built_in().model("nobody-knows-it").prices.is_none());
        assert!(
            Card::built_in()
                .free()
                .charges(tokens, Timestamp::default())
                .iter()
                .all(|charge| charge.cost.is_zero())
        );
    }

    #[test]
    fn every_model_stands_in_the_card_once() {
        let card = Card::built_in();
        assert_eq!(card.by_id.len(), card.models.len());
        assert!(
            card.models.iter().all(|model| model.input >= Decimal::ZERO && model.output >= Decimal::ZERO)
        );
    }
}
