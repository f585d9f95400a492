//! Conditions: logical expressions of RFC 9535, asked of a whole document.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};
use serde_json_path::JsonPath;

use super::outline::{self, Piece};
use super::{Invalid, only, read};

/// A logical expression of RFC 9535 (section 2.3.5) over a document, such as
/// `$.review.output.score > 0.8 && !($.trigger.kind == 'refund')`. Written as it was read.
///
/// Comparisons are those of section 2.3.5.2.2: values of different types are neither equal nor in an order, and a node
/// that is missing equals only another that is missing.
///
/// A query that is not compared holds where it selects a node whose value is neither `false` nor `null`, wherever it
/// stands in the expression. RFC 9535 would have it hold where it selects anything, so that
/// `$.review.output.approved` held where it is `false`. Within the filters of a query, as in
/// `$.items[?@.approved]`, it is as RFC 9535 has it.
///
/// `@` means nothing outside of such a filter, and is refused there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    text: String,
    atoms: Vec<Atom>,
    /// How the atoms are joined: a filter on an array of what each came to.
    joined: JsonPath,
}

impl Condition {
    /// Reads a logical expression.
    ///
    /// # Errors
    /// [`Invalid`] says which rule it breaks, and where.
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        let pieces = outline::of(text)?;
        // The outline has no bracket closed and no comma outside of those that the text opens itself. So the filter
        // ends where the text ends, and is the only one.
        read(&format!("$[?{text}]"), text, "$[?".len())?;
        let (mut atoms, mut joined) = (vec![], "$[?".to_owned());
        for piece in pieces {
            match piece {
                Piece::Logic(bytes) => joined.push_str(&text[bytes]),
                Piece::Atom(bytes, operator) => {
                    joined.push_str(&format!("(@[{}]==true)", atoms.len()));
                    atoms.push(Atom::read(text, bytes, operator)?);
                }
            }
        }
        joined.push(']');
        let joined = read(&joined, text, joined.len())?;
        Ok(Self { text: text.to_owned(), atoms, joined })
    }

    /// As it was read.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether it holds of a document.
    #[must_use]
    pub fn holds(&self, document: &Value) -> bool {
        let truths = self.atoms.iter().map(|atom| Value::Bool(atom.holds(document))).collect();
        selects(&self.joined, Value::Array(truths))
    }
}

/// Whether a filter at the root selects this.
fn selects(filter: &JsonPath, node: Value) -> bool {
    !filter.query(&Value::Array(vec![node])).is_empty()
}

/// What a condition is joined of.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Atom {
    /// A query by itself.
    Test(JsonPath),
    /// A filter that compares two members of an object, or one and a literal.
    Comparison { sides: [Side; 2], compared: JsonPath },
}

impl Atom {
    fn read(text: &str, bytes: Range<usize>, operator: Option<Range<usize>>) -> Result<Self, Invalid> {
        let Some(operator) = operator else {
            return read(&text[bytes.clone()], text, 0).map(Self::Test);
        };
        let left = Side::read(text, &text[bytes.start..operator.start], "l")?;
        let right = Side::read(text, &text[operator.end..bytes.end], "r")?;
        let (l, r) = (&left.operand, &right.operand);
        // RFC 9535 makes all of them from two, and the library does not quite: what has no order, such as truth values
        // and missing nodes, is `>=` and `<=` only what it equals.
        let compared = match &text[operator] {
            ">" => format!("$[?{r}<{l}]"),
            ">=" => format!("$[?{r}<{l}||{l}=={r}]"),
            "<=" => format!("$[?{l}<{r}||{l}=={r}]"),
            other => format!("$[?{l}{other}{r}]"),
        };
        let compared = read(&compared, text, compared.len())?;
        Ok(Self::Comparison { sides: [left, right], compared })
    }

    fn holds(&self, document: &Value) -> bool {
        match self {
            Self::Test(query) => {
                query.query(document).iter().any(|node| !matches!(node, Value::Null | Value::Bool(false)))
            }
            Self::Comparison { sides, compared } => {
                let bound =
                    sides.iter().filter_map(|side| Some((side.name.to_owned(), side.value(document)?)));
                selects(compared, Value::Object(bound.collect::<Map<_, _>>()))
            }
        }
    }
}

/// A side of a comparison. What it takes from the document is found first: the library, comparing, would not count a
/// negative index from the end.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Side {
    name: &'static str,
    /// What stands for it in the comparison.
    operand: String,
    query: Option<JsonPath>,
    /// Whether the number of nodes is asked for, and not the only one.
    is_count: bool,
}

impl Side {
    fn read(text: &str, side: &str, name: &'static str) -> Result<Self, Invalid> {
        let (mut inner, mut lengths) = (side.trim(), 0);
        while let Some(argument) = argument(inner, "length") {
            inner = argument;
            lengths += 1;
        }
        let count = argument(inner, "count");
        let Some(query) = count.or(argument(inner, "value")).or(inner.starts_with('$').then_some(inner))
        else {
            return Ok(Self { name, operand: side.trim().to_owned(), query: None, is_count: false });
        };
        let operand = format!("{}@.{name}{}", "length(".repeat(lengths), ")".repeat(lengths));
        Ok(Self { name, operand, query: Some(read(query, text, query.len())?), is_count: count.is_some() })
    }

    fn value(&self, document: &Value) -> Option<Value> {
        let query = self.query.as_ref()?;
        if self.is_count { Some(query.query(document).len().into()) } else { only(query, document).cloned() }
    }
}

/// What stands between the parentheses of a function.
fn argument<'text>(text: &'text str, function: &str) -> Option<&'text str> {
    text.strip_prefix(function)?.strip_prefix('(')?.strip_suffix(')').map(str::trim)
}

impl fmt::Display for Condition {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.text)
    }
}

impl Serialize for Condition {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for Condition {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<'de, str>::deserialize(deserializer)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}
