//! Paths and conditions, held against RFC 9535.

use std::collections::BTreeSet;

use serde_json::Value;
use theazo_domain::json_path::{Condition, Path, Rule, TooMuch};

/// How many of a document's members or elements are compared with each other.
const COMPARED: usize = 4;

/// A condition or a path on the first line, and a document. What is read is read again from JSON, and means the same
/// with blanks around it; a condition holds where its negation does not, and reaches no further within parentheses; a
/// path holds where it selects what is neither false nor null, and counts what it selects. The members of the document,
/// whatever their names and values, are equal and in order where RFC 9535 has them so.
pub fn condition(bytes: &[u8]) {
    let Some(text) = super::text(bytes) else { return };
    let (expression, document) = super::first_line(text);
    let document: Value = serde_json::from_str(document).unwrap_or_default();
    comparisons(&document);
    let held = Condition::parse(expression).ok().map(|condition| {
        let json = serde_json::to_string(&condition).expect("it is a string");
        assert_eq!(serde_json::from_str(&json).ok(), Some(condition.clone()), "{json}");
        assert_eq!(condition.to_string(), expression);
        condition.holds(&document)
    });
    if let Some(Ok(held)) = held {
        for (wrapped, expected) in [
            (format!("({expression})"), held),
            (format!("!({expression})"), !held),
            (format!("\n {expression}\t\r"), held),
        ] {
            assert_holds(&wrapped, &document, expected);
        }
    }
    let Ok(path) = Path::parse(expression) else { return };
    let json = serde_json::to_string(&path).expect("it is a string");
    assert_eq!(serde_json::from_str(&json).ok(), Some(path.clone()), "{json}");
    let Ok(nodes) = path.select(&document) else { return };
    assert_eq!(path.only(&document), Ok(nodes.first().copied().filter(|_| nodes.len() == 1)));
    let tested = nodes.iter().any(|node| !matches!(node, Value::Null | Value::Bool(false)));
    assert_eq!(held, Some(Ok(tested)), "{expression}");
    assert_holds(&format!("count({expression})=={}", nodes.len()), &document, true);
}

/// A condition holds or does not, unless it is beyond a limit.
fn assert_holds(text: &str, document: &Value, expected: bool) {
    match Condition::parse(text).map(|condition| condition.holds(document)) {
        Ok(held) => assert!(held == Ok(expected) || held == Err(TooMuch::Work), "{text}: {held:?}"),
        Err(error) => assert!(matches!(error.rule, Rule::TooDeep | Rule::TooLong), "{text}: {error}"),
    }
}

/// Compares what lies in a document, by each way to name it, and with what is missing.
fn comparisons(document: &Value) {
    let mut children: Vec<(Vec<String>, Option<&Value>)> = match document {
        Value::Array(values) => {
            (0..).zip(values).map(|(at, value): (usize, _)| (vec![format!("$[{at}]")], Some(value))).collect()
        }
        Value::Object(members) => {
            members.iter().map(|(name, value)| (spellings(name), Some(value))).collect()
        }
        _ => return,
    };
    let values: Vec<&Value> = children.iter().filter_map(|(_, value)| *value).collect();
    children.truncate(COMPARED);
    children.push((vec!["$['none'][0]".to_owned()], None));
    if document.get("none").is_some() {
        return;
    }
    for (lefts, left) in &children {
        for operator in ["==", "!=", "<", "<=", ">", ">="] {
            for (rights, right) in &children {
                let expected = is_true(*left, operator, *right);
                for (left, right) in
                    lefts.iter().flat_map(|left| rights.iter().map(move |right| (left, right)))
                {
                    assert_holds(&format!("{left}{operator}{right}"), document, expected);
                    assert_holds(&format!("value( {left} ) {operator} {right}\t"), document, expected);
                }
            }
            // Within filters, the library's comparisons are these where there is an order or nothing within.
            if let Some(Value::Null | Value::Number(_) | Value::String(_)) = left {
                let number = values.iter().filter(|value| is_true(Some(value), operator, *left)).count();
                for left in lefts {
                    assert_holds(&format!("count($[?@{operator}{left}])=={number}"), document, true);
                }
            }
        }
    }
}

/// The ways to name a member (section 2.5.1.1): as a string, and, where it is one, by shorthand.
fn spellings(name: &str) -> Vec<String> {
    let mut spellings = vec![format!("$[{}]", Value::from(name))];
    let is_first =
        |character: char| character.is_ascii_alphabetic() || character == '_' || !character.is_ascii();
    let is_shorthand =
        name.starts_with(is_first) && name.chars().all(|each| is_first(each) || each.is_ascii_digit());
    if is_shorthand {
        spellings.extend([format!("$.{name}"), format!("$ .{name}")]);
    }
    spellings
}

/// Section 2.3.5.2.2, by what is written alike.
fn is_true(left: Option<&Value>, operator: &str, right: Option<&Value>) -> bool {
    let is_equal = left.map(canonical) == right.map(canonical);
    let is_less = |left: Option<&Value>, right: Option<&Value>| match (left, right) {
        (Some(Value::Number(left)), Some(Value::Number(right))) => left.as_f64() < right.as_f64(),
        (Some(Value::String(left)), Some(Value::String(right))) => left.chars().lt(right.chars()),
        _ => false,
    };
    match operator {
        "==" => is_equal,
        "!=" => !is_equal,
        "<" => is_less(left, right),
        "<=" => is_less(left, right) || is_equal,
        ">" => is_less(right, left),
        _ => is_less(right, left) || is_equal,
    }
}

/// A value written so that two are written alike where they are equal: numbers by the 64 bits that they are.
fn canonical(value: &Value) -> String {
    match value {
        Value::Number(number) => {
            let float = number.as_f64().expect("every number is one");
            // Zero is the only one that is two.
            if float == 0.0 { "zero".to_owned() } else { format!("{:x}", float.to_bits()) }
        }
        Value::Array(values) => format!("{:?}", values.iter().map(canonical).collect::<Vec<_>>()),
        Value::Object(members) => {
            let members = members.iter().map(|(name, value)| (name, canonical(value)));
            format!("{:?}", members.collect::<BTreeSet<_>>())
        }
        Value::Null | Value::Bool(_) | Value::String(_) => value.to_string(),
    }
}
