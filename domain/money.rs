//! Amounts of money: exact decimals of the currency unit inside, integer cents on the wire.

use rust_decimal::{Decimal, RoundingStrategy};
use serde::{Deserialize, Serialize};

/// The currencies that a rate card can be in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Currency {
    /// United States dollar, of 100 cents.
    Usd,
}

/// An exact amount of a currency, in its unit (dollars, not cents).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Money {
    /// Units of the currency, with all the places that the arithmetic gave.
    #[serde(with = "rust_decimal::serde::str")]
    pub exact: Decimal,
    /// Which currency.
    pub currency: Currency,
}

impl Money {
    /// No money at all.
    #[must_use]
    pub const fn zero(currency: Currency) -> Self {
        Self { exact: Decimal::ZERO, currency }
    }

    /// A whole number of cents.
    #[must_use]
    pub fn from_cents(cents: i64, currency: Currency) -> Self {
        Self { exact: Decimal::new(cents, 2), currency }
    }

    /// The amount in cents, rounded half-even: done once, where an amount is presented.
    ///
    /// Beyond what an `i64` holds it is held at the end of the range.
    #[must_use]
    pub fn cents(self) -> i64 {
        let cents = self
            .exact
            .checked_mul(Decimal::ONE_HUNDRED)
            .unwrap_or(if self.exact.is_sign_negative() { Decimal::MIN } else { Decimal::MAX });
        let rounded = cents.round_dp_with_strategy(0, RoundingStrategy::MidpointNearestEven);
        let held = if rounded.is_sign_negative() { i64::MIN } else { i64::MAX };
        i64::try_from(rounded).unwrap_or(held)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_half_cent_goes_to_the_even_neighbour() {
        let cents = |text: &str| Money { exact: text.parse().unwrap(), currency: Currency::Usd }.cents();
        assert_eq!(cents("0.125"), 12);
        assert_eq!(cents("0.135"), 14);
        assert_eq!(cents("-0.125"), -12);
        assert_eq!(cents("0.12500000001"), 13);
    }

    proptest! {
        #[test]
        fn cents_come_back_as_they_went_in(cents in any::<i64>()) {
            prop_assert_eq!(Money::from_cents(cents, Currency::Usd).cents(), cents);
        }
    }
}
