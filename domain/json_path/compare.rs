//! Comparisons of RFC 9535 (section 2.3.5.2.2), to the letter. Where there is no node, there is no value.

use serde_json::{Number, Value};

/// Whether these are equal: of the same type, and alike within as well; two that are missing are.
///
/// It looks at no more of the one than of the other, and so costs at most the size of the smaller.
pub(super) fn is_equal(left: Option<&Value>, right: Option<&Value>) -> bool {
    match (left, right) {
        (Some(left), Some(right)) => is_same(left, right),
        (None, None) => true,
        _ => false,
    }
}

/// Whether the one comes before the other: only numbers and strings do.
pub(super) fn is_less(left: Option<&Value>, right: Option<&Value>) -> bool {
    match (left, right) {
        (Some(Value::Number(left)), Some(Value::Number(right))) => float(left) < float(right),
        // By bytes, which in UTF-8 is by code points.
        (Some(Value::String(left)), Some(Value::String(right))) => left < right,
        _ => false,
    }
}

fn is_same(left: &Value, right: &Value) -> bool {
    match (left, right) {
        (Value::Number(left), Value::Number(right)) => float(left) == float(right),
        (Value::Array(left), Value::Array(right)) => {
            left.len() == right.len() && left.iter().zip(right).all(|(left, right)| is_same(left, right))
        }
        (Value::Object(left), Value::Object(right)) => {
            left.len() == right.len()
                && left.iter().all(|(name, left)| right.get(name).is_some_and(|right| is_same(left, right)))
        }
        (left, right) => left == right,
    }
}

fn float(number: &Number) -> Option<f64> {
    number.as_f64()
}
