//! Held against definitions of its own: RFC 9535, applied to values one by one.

use std::cmp::Ordering;
use std::collections::BTreeSet;

use super::*;
use proptest::prelude::*;

/// A condition by its meaning.
#[derive(Debug, Clone)]
enum Tree {
    Test(&'static str),
    Comparison(&'static str, &'static str, &'static str),
    Not(Box<Tree>),
    All(Vec<Tree>),
    Any(Vec<Tree>),
}

fn document() -> Value {
    json!({ "n": 3, "m": -2.5, "s": "x", "t": true, "f": false, "z": null, "l": [1, 2], "k": [1.0, 2.0], "e": {} })
}

/// A value written so that two are written alike where RFC 9535 has them equal: all numbers as those of 64 bits that
/// they are, and members by their names.
fn canonical(value: &Value) -> String {
    match value {
        Value::Number(number) => {
            let float = number.as_f64().unwrap();
            // The only two that are equal and not the same.
            if float == 0.0 { "0".to_owned() } else { format!("{:x}", float.to_bits()) }
        }
        Value::Array(values) => format!("[{}]", values.iter().map(canonical).collect::<Vec<_>>().join(",")),
        Value::Object(members) => {
            let members: BTreeSet<String> =
                members.iter().map(|(name, value)| format!("{name:?}:{}", canonical(value))).collect();
            format!("{members:?}")
        }
        _ => value.to_string(),
    }
}

/// Section 2.3.5.2.2.
fn compared(left: Option<&Value>, operator: &str, right: Option<&Value>) -> bool {
    let is_equal = left.map(canonical) == right.map(canonical);
    let order = match (left, right) {
        (Some(Value::Number(left)), Some(Value::Number(right))) => left.as_f64().partial_cmp(&right.as_f64()),
        (Some(Value::String(left)), Some(Value::String(right))) => Some(left.chars().cmp(right.chars())),
        _ => None,
    };
    match operator {
        "==" => is_equal,
        "!=" => !is_equal,
        "<" => order == Some(Ordering::Less),
        ">" => order == Some(Ordering::Greater),
        "<=" => is_equal || order == Some(Ordering::Less),
        ">=" => is_equal || order == Some(Ordering::Greater),
        _ => panic!("{operator}"),
    }
}

/// Values that are often equal, and often only nearly.
fn value() -> impl Strategy<Value = Value> {
    let leaf = prop::sample::select(vec![
        json!(0),
        json!(-0.0),
        json!(1),
        json!(1.0),
        json!(-1),
        json!(u64::MAX),
        json!(18_446_744_073_709_551_616.0),
        json!(i64::MIN),
        json!(0.1),
        json!(""),
        json!("a"),
        json!("1"),
        json!("\u{ffff}"),
        json!("😀"),
        json!(null),
        json!(true),
        json!(false),
        json!([]),
        json!({}),
    ]);
    leaf.prop_recursive(3, 8, 3, |inner| {
        let name = prop::sample::select(vec!["a", "b", "\u{a0}"]).prop_map(str::to_owned);
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
            prop::collection::btree_map(name, inner, 0..3).prop_map(|members| json!(members)),
        ]
    })
}

/// The same value, its numbers spelled otherwise.
fn respelled(value: &Value) -> Value {
    match value {
        Value::Number(number) => json!(number.as_f64().unwrap()),
        Value::Array(values) => values.iter().map(respelled).collect(),
        Value::Object(members) => {
            members.iter().map(|(name, value)| (name.clone(), respelled(value))).collect()
        }
        _ => value.clone(),
    }
}

impl Tree {
    /// Written with a parenthesis around each part that is itself joined.
    fn text(&self) -> String {
        let parts = |trees: &[Self], operator: &str| {
            let parts = trees.iter().map(|tree| match tree {
                Self::All(_) | Self::Any(_) => format!("({})", tree.text()),
                _ => tree.text(),
            });
            parts.collect::<Vec<_>>().join(operator)
        };
        match self {
            Self::Test(query) => (*query).to_owned(),
            Self::Comparison(left, operator, right) => format!("{left} {operator}{right}"),
            Self::Not(tree) => format!("!({})", tree.text()),
            Self::All(trees) => parts(trees, "&&"),
            Self::Any(trees) => parts(trees, " || "),
        }
    }

    fn value(text: &str) -> Option<Value> {
        match text.strip_prefix("$.") {
            Some("l[-1]") => Some(json!(2)),
            Some(name) => document().get(name).cloned(),
            None => Some(serde_json::from_str(&text.replace('\'', "\"")).unwrap()),
        }
    }

    fn holds(&self) -> bool {
        match self {
            Self::Test(query) => !matches!(Self::value(query), None | Some(Value::Null | Value::Bool(false))),
            Self::Comparison(left, operator, right) => {
                let (left, right) = (Self::value(left), Self::value(right));
                compared(left.as_ref(), operator, right.as_ref())
            }
            Self::Not(tree) => !tree.holds(),
            Self::All(trees) => trees.iter().all(Self::holds),
            Self::Any(trees) => trees.iter().any(Self::holds),
        }
    }
}

fn tree() -> impl Strategy<Value = Tree> {
    let query = prop::sample::select(vec![
        "$.n", "$.m", "$.s", "$.t", "$.f", "$.z", "$.l", "$.k", "$.e", "$.absent", "$.gone", "$.l[-1]",
    ]);
    let literal = prop::sample::select(vec!["3", "-2.5", "2", "'x'", "'y'", "true", "false", "null"]);
    let side = || prop_oneof![query.clone(), literal.clone()];
    let operator = prop::sample::select(&OPERATORS[..]);
    let leaf = prop_oneof![
        query.clone().prop_map(Tree::Test),
        (side(), operator, side())
            .prop_map(|(left, operator, right)| Tree::Comparison(left, operator, right)),
    ];
    leaf.prop_recursive(3, 12, 3, |inner| {
        let several = prop::collection::vec(inner.clone(), 1..4);
        prop_oneof![
            inner.prop_map(|tree| Tree::Not(Box::new(tree))),
            several.clone().prop_map(Tree::All),
            several.prop_map(Tree::Any),
        ]
    })
}

/// Texts of the words that conditions are made of.
fn words() -> impl Strategy<Value = String> {
    let words = vec![
        "$", "@", ".a", ".l", "..", ".*", "[", "]", "[0]", "[?", "(", ")", "!", "&&", "||", "==", "<", ",",
        "'", "\"", "\\", "\\u", "'x'", "1", "-1", ":", "*", " ", "count(", "length(", "value(", "true",
        "$.a", "$.l", "$.a == 1", "ä",
    ];
    prop::collection::vec(prop::sample::select(words), 0..14).prop_map(|words| words.concat())
}

const OPERATORS: [&str; 6] = ["==", "!=", "<", ">", "<=", ">="];

proptest! {
    #[test]
    fn values_are_compared_as_rfc_9535_has_it(left in value(), right in value(), missing in 0..8_u8) {
        let same = respelled(&left);
        prop_assert_eq!(canonical(&same), canonical(&left));
        // A name that ends with what only Rust takes for a blank.
        let mut document = json!({ "l": left, "r\u{3000}": right, "s": same, "r": "decoy" });
        let members = document.as_object_mut().unwrap();
        members.retain(|name, _| missing > 1 || name.starts_with(['r', 's'][usize::from(missing)]));
        let [left, right, same] = ["l", "r\u{3000}", "s"].map(|name| document.get(name));
        for operator in OPERATORS {
            for (text, expected) in [
                (format!("$.l{operator}$.r\u{3000}"), compared(left, operator, right)),
                (format!("$.r\u{3000}{operator}$['l']"), compared(right, operator, left)),
                (format!("value($.l) {operator} $.s"), compared(left, operator, same)),
                (format!("$.s\t{operator}\tvalue($..['l'])"), compared(same, operator, left)),
            ] {
                prop_assert_eq!(holds(&text, &document), expected, "{}", text);
            }
        }
    }

    #[test]
    fn conditions_mean_what_they_say(tree in tree()) {
        let text = tree.text();
        let condition = Condition::parse(&text);
        prop_assert!(condition.is_ok(), "{}: {:?}", text, condition);
        prop_assert_eq!(condition.unwrap().holds(&document()), Ok(tree.holds()), "{}", text);
    }

    #[test]
    fn any_text_is_refused_or_stays_within_its_parentheses(text in words()) {
        let document = json!({ "a": 1, "l": [{ "a": false }, [1]] });
        if let Ok(condition) = Condition::parse(&text) {
            let held = condition.holds(&document).unwrap();
            // What would get out of the filter would not get out of the parenthesis as well.
            let is_deepest = matches!(Condition::parse(&format!("({text})")), Err(Invalid { rule: Rule::TooDeep, .. }));
            if !is_deepest {
                prop_assert_eq!(holds(&format!("({text})"), &document), held, "{}", text);
                prop_assert_eq!(holds(&format!("!({text})"), &document), !held, "{}", text);
            }
        }
        if let Ok(path) = Path::parse(&text) {
            let nodes = path.select(&document).unwrap();
            prop_assert_eq!(path.only(&document), Ok(if nodes.len() == 1 { Some(nodes[0]) } else { None }));
            let tested = nodes.iter().any(|node| !matches!(node, Value::Null | Value::Bool(false)));
            prop_assert_eq!(holds(&text, &document), tested, "{}", text);
        }
    }

    #[test]
    fn no_text_makes_them_panic(text in "[$@.a0\\[\\]()?!&|=<>'\"\\\\u,:* -]{0,30}") {
        let _ = (Path::parse(&text), Condition::parse(&text));
    }
}
