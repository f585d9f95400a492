//! Rate cards: what compute, storage, the control plane and models cost, as data with versions and dates of effect.
//!
//! The program comes with one. Others are imported into the log, each as a whole, and apply from a moment on.

#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::sync::{Arc, LazyLock};

use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};

use crate::agent::{LongPrices, ModelPrices, ModelRates};
use crate::charge::{Price, Rate};
use crate::money::Currency;
use crate::time::{Day, Timestamp};

/// Vendors name prices by the million tokens.
const PER_TOKENS: i64 = 1_000_000;
/// Compute and the control plane are priced by the minute and metered in milliseconds.
const PER_MS: i64 = 60_000;
/// Storage is priced by the month of 730 hours and metered in GB-hours.
const PER_MONTH_HOURS: i64 = 730;
/// The most models that a card lists.
pub const LISTED_MODELS: usize = 2_000;
/// The most characters of a version, a model's id or a note.
const CHARACTERS: usize = 256;
/// The highest price and the most percent.
const HIGHEST: i64 = 1_000_000;

/// A rate card. Prices are decimals, written as texts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Card {
    /// Its version, which every charge names.
    pub version: String,
    /// From when on it applies; where it does not say, from its import.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub effective_from: Option<Timestamp>,
    /// Of all its prices.
    pub currency: Currency,
    /// What a minute of a sandbox costs.
    #[serde(with = "written")]
    pub compute_per_minute: Decimal,
    /// What a minute of the control plane's own work costs.
    #[serde(with = "written")]
    pub orchestration_per_minute: Decimal,
    /// What 10^9 bytes cost that are kept for 730 hours.
    #[serde(with = "written")]
    pub storage_per_gb_month: Decimal,
    /// What is added to vendors' prices of managed calls, in percent.
    #[serde(with = "written")]
    pub markup_percent: Decimal,
    /// The vendors' prices.
    pub models: Vec<Listed>,
}

/// A model's prices at its vendor's, in units of the currency a million tokens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Listed {
    /// As it is named in calls.
    pub id: String,
    /// Whose it is.
    pub vendor: String,
    /// Of input.
    #[serde(with = "written")]
    pub input: Decimal,
    /// Of output.
    #[serde(with = "written")]
    pub output: Decimal,
    /// Of input read from the vendor's cache.
    #[serde(with = "written")]
    pub cache_read: Decimal,
    /// Of input written to the vendor's cache.
    #[serde(with = "written")]
    pub cache_write: Decimal,
    /// The prices of calls with a long prompt, where they differ.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub long_context: Option<LongContext>,
    /// Where the prices are published.
    pub source: String,
    /// When they were looked up.
    pub date: Day,
    /// What is to be known about them besides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// The prices of every token of a call whose prompt is longer than so many tokens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LongContext {
    /// Tokens of input, cached or not.
    pub over_tokens: u64,
    /// Of input.
    #[serde(with = "written")]
    pub input: Decimal,
    /// Of output.
    #[serde(with = "written")]
    pub output: Decimal,
    /// Of input read from the vendor's cache.
    #[serde(with = "written")]
    pub cache_read: Decimal,
    /// Of input written to the vendor's cache.
    #[serde(with = "written")]
    pub cache_write: Decimal,
}

/// Why a card cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {rule}")]
pub struct Unusable {
    /// The part of it that is wrong, such as `models.3.input`.
    path: String,
    rule: &'static str,
}

/// What a sandbox, or what it keeps, costs from now on, whoever runs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ComputeRates {
    /// On this server's account.
    pub managed: Rate,
    /// On credentials of the organization's own: minutes count, and cost nothing here.
    pub own: Rate,
}

impl ComputeRates {
    /// The rate for whose credentials they are.
    #[must_use]
    pub fn of(&self, own_credentials: bool) -> Rate {
        if own_credentials { self.own.clone() } else { self.managed.clone() }
    }
}

static BUILT_IN: LazyLock<Arc<Card>> =
    LazyLock::new(|| Arc::new(serde_json::from_str(include_str!("default.json")).expect("a test reads it")));

impl Card {
    /// The card that the program comes with.
    #[must_use]
    pub fn built_in() -> &'static Arc<Self> {
        &BUILT_IN
    }

    /// What a model's tokens cost when they are managed: the vendor's price and the markup.
    #[must_use]
    pub fn model(&self, id: &str) -> ModelRates {
        let with_markup = Decimal::ONE + self.markup_percent / Decimal::ONE_HUNDRED;
        let price = |amount: Decimal| Price { amount: (amount * with_markup).normalize(), per: PER_TOKENS };
        let listed = self.models.iter().find(|listed| listed.id == id);
        let prices = listed.map(|listed| ModelPrices {
            input: price(listed.input),
            output: price(listed.output),
            cache_read: price(listed.cache_read),
            cache_write: price(listed.cache_write),
            long: listed.long_context.as_ref().map(|long| LongPrices {
                over_tokens: long.over_tokens,
                input: price(long.input),
                output: price(long.output),
                cache_read: price(long.cache_read),
                cache_write: price(long.cache_write),
            }),
        });
        ModelRates { rate_card: self.version.clone(), prices }
    }

    /// What tokens cost that are paid for with a key of the organization's own: nothing here.
    #[must_use]
    pub fn free(&self) -> ModelRates {
        let free = Price::FREE;
        let prices =
            ModelPrices { input: free, output: free, cache_read: free, cache_write: free, long: None };
        ModelRates { rate_card: self.version.clone(), prices: Some(prices) }
    }

    /// What a millisecond of a sandbox costs.
    #[must_use]
    pub fn compute_rates(&self) -> ComputeRates {
        let managed = self.rate(self.compute_per_minute, PER_MS);
        ComputeRates { managed, own: self.own() }
    }

    /// What a millisecond of the control plane's own work costs.
    #[must_use]
    pub fn orchestration(&self) -> Rate {
        self.rate(self.orchestration_per_minute, PER_MS)
    }

    /// What a gigabyte kept for an hour costs.
    #[must_use]
    pub fn storage_rates(&self) -> ComputeRates {
        let managed = self.rate(self.storage_per_gb_month, PER_MONTH_HOURS);
        ComputeRates { managed, own: self.own() }
    }

    fn own(&self) -> Rate {
        Rate { price: Some(Price::FREE), rate_card: self.version.clone() }
    }

    fn rate(&self, amount: Decimal, per: i64) -> Rate {
        Rate { price: Some(Price { amount, per }), rate_card: self.version.clone() }
    }

    /// That it can be used.
    ///
    /// # Errors
    /// The first part of it that breaks a rule.
    pub fn check(&self) -> Result<(), Unusable> {
        let wrong = |path: &str, rule| Err(Unusable { path: path.to_owned(), rule });
        let spelled = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        if !is_text(&self.version) || !self.version.bytes().all(spelled) {
            return wrong("version", "must have 1 to 256 letters, digits, dots, hyphens or underscores");
        }
        let own = [
            ("computePerMinute", self.compute_per_minute),
            ("orchestrationPerMinute", self.orchestration_per_minute),
            ("storagePerGbMonth", self.storage_per_gb_month),
        ];
        if let Some((path, _)) = own.into_iter().find(|(_, price)| !is_amount(*price, 9)) {
            return wrong(path, PRICE);
        }
        if !is_amount(self.markup_percent, 4) {
            return wrong("markupPercent", "must be from 0 to 1000000, with 4 places at most");
        }
        if self.models.len() > LISTED_MODELS {
            return wrong("models", "must not be more than 2000");
        }
        let mut ids = HashSet::new();
        for (index, listed) in self.models.iter().enumerate() {
            let below = |Unusable { path, rule }| Unusable { path: format!("models.{index}.{path}"), rule };
            listed.check().map_err(below)?;
            if !ids.insert(listed.id.as_str()) {
                return wrong(&format!("models.{index}.id"), "must not be that of another row");
            }
        }
        Ok(())
    }
}

const PRICE: &str = "must be from 0 to 1000000, with 9 places at most";

impl Listed {
    fn check(&self) -> Result<(), Unusable> {
        let wrong = |path: &str, rule| Err(Unusable { path: path.to_owned(), rule });
        for (path, text) in [("id", &self.id), ("vendor", &self.vendor)] {
            if !is_text(text) {
                return wrong(path, "must have 1 to 256 characters");
            }
        }
        if !self.source.starts_with("https://") || !is_text(&self.source) {
            return wrong("source", "must be an https address of at most 256 characters");
        }
        if self.note.as_ref().is_some_and(|note| !is_text(note)) {
            return wrong("note", "must have 1 to 256 characters");
        }
        let prices = [
            ("input", self.input, self.long_context.as_ref().map(|long| long.input)),
            ("output", self.output, self.long_context.as_ref().map(|long| long.output)),
            ("cacheRead", self.cache_read, self.long_context.as_ref().map(|long| long.cache_read)),
            ("cacheWrite", self.cache_write, self.long_context.as_ref().map(|long| long.cache_write)),
        ];
        for (path, price, long) in prices {
            if !is_amount(price, 9) {
                return wrong(path, PRICE);
            }
            // The worst case of a call is reckoned with its longest prompt.
            if long.is_some_and(|long| !is_amount(long, 9) || long < price) {
                let path = format!("longContext.{path}");
                return wrong(&path, "must be a price, and not lower than that of a shorter prompt");
            }
        }
        Ok(())
    }
}

/// Decimals as their texts say, to the last place: what a decimal cannot hold is refused, not rounded. A price that is
/// rounded to nothing is one that nobody has asked for.
mod written {
    use std::borrow::Cow;

    use rust_decimal::Decimal;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(amount: &Decimal, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(amount)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Decimal, D::Error> {
        let text = Cow::<str>::deserialize(deserializer)?;
        let exact = Decimal::from_str_exact(&text);
        exact.map_err(|error| serde::de::Error::custom(format!("`{text}` is no price: {error}")))
    }
}

fn is_amount(amount: Decimal, places: u32) -> bool {
    (Decimal::ZERO..=Decimal::from(HIGHEST)).contains(&amount) && amount.normalize().scale() <= places
}

fn is_text(text: &str) -> bool {
    (1..=CHARACTERS).contains(&text.chars().count()) && !text.contains('\0')
}
