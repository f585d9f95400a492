//! Money on the wire: integer cents, and beside them the exact amount.

use rust_decimal::Decimal;
use serde::Serialize;
use theazo_domain::money::{Currency, Money};
use utoipa::ToSchema;
use utoipa::openapi::schema::{Object, ObjectBuilder, Type};

/// An amount of money.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = Money)]
pub(crate) struct Amount {
    /// In cents, rounded half-even.
    amount: i64,
    #[schema(schema_with = currency)]
    currency: Currency,
    /// In units of the currency, as a decimal that is not rounded.
    #[schema(examples("0.119875"))]
    exact: String,
}

impl From<Money> for Amount {
    fn from(money: Money) -> Self {
        Self { amount: money.cents(), currency: money.currency, exact: exact(money.exact) }
    }
}

/// An amount in dollars.
pub(crate) fn usd(exact: Decimal) -> Amount {
    Money { exact, currency: Currency::Usd }.into()
}

/// An amount in dollars that is shown as so many cents, since it is a part of a total whose parts add up.
pub(crate) fn allotted(cents: i64, exact_amount: Decimal) -> Amount {
    Amount { amount: cents, currency: Currency::Usd, exact: exact(exact_amount) }
}

/// A decimal as a number: one that is no money, as minutes are.
pub(crate) fn number(decimal: Decimal) -> serde_json::Number {
    decimal.normalize().to_string().parse().expect("a decimal is written as a number")
}

/// A decimal with two places at least, and no zeros after those.
pub(crate) fn exact(amount: Decimal) -> String {
    let mut amount = amount.normalize();
    if amount.scale() < 2 {
        amount.rescale(2);
    }
    amount.to_string()
}

/// The schema of a currency.
pub(crate) fn currency() -> Object {
    ObjectBuilder::new().schema_type(Type::String).enum_values(Some(["usd"])).build()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_amount_is_shown_in_cents_and_exactly() {
        let shown = |text: &str| serde_json::to_string(&usd(text.parse().unwrap())).unwrap();
        assert_eq!(shown("0.11987500"), r#"{"amount":12,"currency":"usd","exact":"0.119875"}"#);
        assert_eq!(shown("5"), r#"{"amount":500,"currency":"usd","exact":"5.00"}"#);
        assert_eq!(shown("0"), r#"{"amount":0,"currency":"usd","exact":"0.00"}"#);
    }
}
