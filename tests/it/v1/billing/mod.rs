//! Usage and billing: every view shows sums of the same charges.

mod agreement;
mod api;
mod export;
mod kept;
mod synthetic;

use rust_decimal::Decimal;
use serde_json::Value;

/// The exact amount of a money object.
fn exact(money: &Value) -> Decimal {
    money["exact"].as_str().expect("money has an exact amount").parse().unwrap()
}

/// The cents of a money object.
fn cents(money: &Value) -> i64 {
    assert_eq!(money["currency"], "usd");
    money["amount"].as_i64().expect("money has an amount in cents")
}
