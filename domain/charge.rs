//! Charges and reservations: what an event books, in one form for every limit, bill and audit.
//!
//! Every event that moves money carries a [`Booking`]. Accounts, read models and exports all fold the same bookings,
//! so they cannot disagree.

use std::fmt;
use std::str::FromStr;

use rust_decimal::prelude::ToPrimitive;
use rust_decimal::{Decimal, RoundingStrategy};
use serde::{Deserialize, Serialize};

use crate::id::{AgentId, OrganizationId, SessionId, TaskId, UserId};
use crate::time::Timestamp;

/// Decimal places that a charge is rounded to, half-even, when it is made.
pub const CHARGE_PLACES: u32 = 12;

/// What kind of thing is paid for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Category {
    /// Tokens of language models.
    Model,
    /// Sandboxes, while they are ready.
    Compute,
    /// Snapshots and workspaces.
    Storage,
    /// Work of the control plane itself.
    Orchestration,
}

impl Category {
    /// Every category, in the order in which they are shown.
    pub const ALL: [Self; 4] = [Self::Model, Self::Compute, Self::Storage, Self::Orchestration];

    /// The category as it is written everywhere.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Model => "model",
            Self::Compute => "compute",
            Self::Storage => "storage",
            Self::Orchestration => "orchestration",
        }
    }
}

/// What a quantity counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// Tokens of input that were neither read from nor written to a cache.
    InputToken,
    /// Tokens of output.
    OutputToken,
    /// Tokens of input that the vendor read from its cache.
    CacheReadToken,
    /// Tokens of input that the vendor wrote to its cache.
    CacheWriteToken,
    /// Milliseconds; their price is that of a minute divided by 60,000.
    Millisecond,
    /// 10^9 bytes kept for an hour.
    GbHour,
}

impl Unit {
    /// The unit as it is written everywhere.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::InputToken => "input_token",
            Self::OutputToken => "output_token",
            Self::CacheReadToken => "cache_read_token",
            Self::CacheWriteToken => "cache_write_token",
            Self::Millisecond => "millisecond",
            Self::GbHour => "gb_hour",
        }
    }
}

/// A price of so many units: vendors name prices by the million tokens, ours are by the minute.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Price {
    /// In units of the currency.
    #[serde(with = "rust_decimal::serde::str")]
    pub amount: Decimal,
    /// For this many units.
    pub per: i64,
}

impl Price {
    /// What nothing costs.
    pub const FREE: Self = Self { amount: Decimal::ZERO, per: 1 };

    /// The cost of a quantity, rounded half-even to twelve places.
    #[must_use]
    pub fn of(self, quantity: Decimal) -> Decimal {
        let per = Decimal::from(self.per.max(1));
        let exact = quantity.checked_mul(self.amount).map_or(Decimal::MAX, |product| product / per);
        rounded(exact)
    }
}

/// An amount as it is booked: rounded half-even to twelve places.
#[must_use]
pub fn rounded(amount: Decimal) -> Decimal {
    amount.round_dp_with_strategy(CHARGE_PLACES, RoundingStrategy::MidpointNearestEven).normalize()
}

/// Something that was used, and what it costs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Charge {
    /// When it counts: the event's own time, but for compute before a midnight that the event is past.
    pub at: Timestamp,
    /// What kind of thing it is.
    pub category: Category,
    /// How much, in its unit.
    #[serde(with = "rust_decimal::serde::str")]
    pub quantity: Decimal,
    /// What the quantity counts.
    pub unit: Unit,
    /// The price; none where the model has none, and the usage is unrated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub price: Option<Price>,
    /// The version of the rate card that the price is from.
    pub rate_card: String,
    /// In units of the currency, rounded half-even to twelve places. Only an adjustment can be negative.
    #[serde(with = "rust_decimal::serde::str")]
    pub cost: Decimal,
    /// What sort of line it is on a bill.
    #[serde(default, skip_serializing_if = "Line::is_usage")]
    pub line: Line,
}

/// What sort of line a charge is on a bill.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "kind")]
pub enum Line {
    /// Something that was used.
    #[default]
    Usage,
    /// The price of something that was used earlier and had none then. Its quantity has been counted already, as
    /// unrated, and is so no more.
    #[serde(rename_all = "camelCase")]
    Rating {
        /// When it was used.
        used_at: Timestamp,
        /// How many calls it rates: told by one of a call's charges.
        calls: u32,
    },
    /// A credit or a correction of an earlier charge. It has no quantity.
    #[serde(rename_all = "camelCase")]
    Adjustment {
        /// The charge that it corrects.
        corrects: ChargeId,
    },
}

impl Line {
    /// Whether it is of something that was used.
    #[must_use]
    pub const fn is_usage(&self) -> bool {
        matches!(self, Self::Usage)
    }
}

/// Where a charge stands in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ChargeId {
    /// The position of the event that books it.
    pub position: i64,
    /// Its place among the settled charges of that event, from 0.
    pub index: u32,
}

impl fmt::Display for ChargeId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}.{}", self.position, self.index)
    }
}

/// A text that is not a position and an index, such as `12.0`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected the id of a charge such as 12.0")]
pub struct NotACharge;

impl FromStr for ChargeId {
    type Err = NotACharge;

    fn from_str(text: &str) -> Result<Self, NotACharge> {
        let (position, index) = text.split_once('.').ok_or(NotACharge)?;
        let position = position.parse().map_err(|_| NotACharge)?;
        let id = Self { position, index: index.parse().map_err(|_| NotACharge)? };
        // Numbers are read leniently (`+1`, `01`); an id has one spelling.
        if position > 0 && id.to_string() == text { Ok(id) } else { Err(NotACharge) }
    }
}

impl Charge {
    /// A quantity at its price.
    #[must_use]
    pub fn new(at: Timestamp, category: Category, used: (Decimal, Unit), rate: &Rate) -> Self {
        let (quantity, unit) = used;
        let cost = rate.price.map_or(Decimal::ZERO, |price| price.of(quantity));
        Self {
            at,
            category,
            quantity,
            unit,
            price: rate.price,
            rate_card: rate.rate_card.clone(),
            cost,
            line: Line::Usage,
        }
    }
}

/// A price and where it stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Rate {
    /// The price; none where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub price: Option<Price>,
    /// The version of the rate card.
    pub rate_card: String,
}

/// What an event books.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Booking {
    /// Held from now on, for work that begins: its worst case.
    #[serde(default, with = "rust_decimal::serde::str", skip_serializing_if = "Decimal::is_zero")]
    pub reserved: Decimal,
    /// No longer held: its work is settled, never began or is unconfirmed.
    #[serde(default, with = "rust_decimal::serde::str", skip_serializing_if = "Decimal::is_zero")]
    pub released: Decimal,
    /// Settled.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub charges: Vec<Charge>,
    /// May have been used: counts against limits, and stands beside the totals.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unconfirmed: Vec<Charge>,
    /// Unconfirmed charges of an earlier event that are so no more, because it became known what was used.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub withdrawn: Vec<Charge>,
}

impl Booking {
    /// That so much is held from now on.
    #[must_use]
    pub fn reserving(reserved: Decimal) -> Self {
        Self { reserved, ..Self::default() }
    }

    /// That so much is no longer held.
    #[must_use]
    pub fn releasing(released: Decimal) -> Self {
        Self { released, ..Self::default() }
    }

    /// The sum of the settled charges.
    #[must_use]
    pub fn cost(&self) -> Decimal {
        self.charges.iter().map(|charge| charge.cost).sum()
    }

    /// Milliseconds of compute that are charged.
    #[must_use]
    pub fn compute_ms(&self) -> i64 {
        let of_compute = self.charges.iter().filter(|charge| charge.category == Category::Compute);
        let of_compute = of_compute.filter(|charge| charge.unit == Unit::Millisecond);
        of_compute.filter_map(|charge| charge.quantity.to_i64()).sum()
    }

    /// What the sum of the unconfirmed charges changes by.
    #[must_use]
    pub fn unconfirmed_cost(&self) -> Decimal {
        let sum = |charges: &[Charge]| charges.iter().map(|charge| charge.cost).sum::<Decimal>();
        sum(&self.unconfirmed) - sum(&self.withdrawn)
    }
}

/// Whose work it is: named by every event of an agent's, and by every booking.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Place {
    /// The agent.
    pub agent_id: AgentId,
    /// Its session.
    pub session_id: SessionId,
    /// Its end user.
    pub user_id: UserId,
    /// The organization.
    pub organization_id: OrganizationId,
}

/// A booking of an event, and all that a bill breaks it down by.
#[derive(Debug, Clone, Copy)]
pub struct Booked<'a> {
    /// Whose work it was.
    pub place: Place,
    /// For which task, where it was for one.
    pub task_id: Option<TaskId>,
    /// With which model, where it was a call to one.
    pub model: Option<&'a str>,
    /// What was booked.
    pub booking: &'a Booking,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn decimal(text: &str) -> Decimal {
        text.parse().unwrap()
    }

    #[test]
    fn a_cost_is_rounded_half_even_to_twelve_places() {
        let price = Price { amount: decimal("0.005"), per: 60_000 };
        assert_eq!(price.of(decimal("60000")), decimal("0.005"));
        assert_eq!(price.of(decimal("1")), decimal("0.000000083333"));
        let half = Price { amount: decimal("0.0000000000005"), per: 1 };
        assert_eq!(half.of(decimal("1")), decimal("0"));
        assert_eq!(half.of(decimal("3")), decimal("0.000000000002"));
    }

    #[test]
    fn the_id_of_a_charge_has_one_spelling() {
        assert_eq!("12.0".parse(), Ok(ChargeId { position: 12, index: 0 }));
        for text in ["", "12", "12.", ".0", "012.0", "12.+0", "0.0", "-1.0", "1.0.0", "1.4294967296"] {
            assert_eq!(text.parse::<ChargeId>(), Err(NotACharge), "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_cost_is_within_half_a_last_place_of_the_exact_product(
            cents in 0..10_000_000_i64, per in 1..2_000_000_i64, quantity in 0..10_000_000_000_i64,
        ) {
            let price = Price { amount: Decimal::new(cents, 4), per };
            let cost = price.of(Decimal::from(quantity));
            prop_assert!(cost >= Decimal::ZERO);
            // cost × per differs from quantity × amount by at most per × half a last place.
            let exact = Decimal::from(quantity) * Decimal::new(cents, 4);
            let difference = (cost * Decimal::from(per) - exact).abs();
            prop_assert!(difference <= Decimal::from(per) * Decimal::new(5, 13) + Decimal::new(1, 12));
        }
    }
}
