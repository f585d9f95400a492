//! Conditions: logical expressions of RFC 9535, asked of a whole document.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;
use serde_json_path::JsonPath;

use super::compare::{is_equal, is_less};
use super::outline::{self, Piece};
use super::spelled::{BLANKS, Spelled};
use super::work::{OF_NODES, Work};
use super::{Invalid, Rule, TooMuch, only, read};

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
    work: Work,
}

impl Condition {
    /// Reads a logical expression.
    ///
    /// # Errors
    /// [`Invalid`] says which rule it breaks, and where.
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        let spelled = Spelled::of(text)?;
        let (pieces, mut work) = outline::of(&spelled)?;
        // The outline has no bracket closed and no comma outside of those that the text opens itself. So the filter
        // ends where the text ends, and is the only one.
        read(&format!("$[?{}]", spelled.text), &spelled, "$[?".len())?;
        let (mut atoms, mut joined) = (vec![], "$[?".to_owned());
        for piece in pieces {
            match piece {
                Piece::Logic(bytes) => joined.push_str(&spelled.text[bytes]),
                Piece::Atom(bytes, operator) => {
                    joined.push_str(&format!("(@[{}]==true)", atoms.len()));
                    let atom = Atom::read(&spelled, bytes, operator)?;
                    work = work.plus(atom.work());
                    atoms.push(atom);
                }
            }
        }
        joined.push(']');
        let joined = read(&joined, &spelled, joined.len())?;
        Ok(Self { text: text.to_owned(), atoms, joined, work })
    }

    /// As it was read.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether it holds of a document.
    ///
    /// # Errors
    /// [`TooMuch::Work`] when it would cost more than [`MOST_WORK`](super::MOST_WORK) to find out.
    pub fn holds(&self, document: &Value) -> Result<bool, TooMuch> {
        self.work.check(document)?;
        let truths = self.atoms.iter().map(|atom| Value::Bool(atom.holds(document))).collect();
        Ok(!self.joined.query(&Value::Array(vec![truths])).is_empty())
    }
}

/// What a condition is joined of.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Atom {
    /// A query by itself.
    Test(JsonPath),
    Comparison(Side, Operator, Side),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operator {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

impl Atom {
    fn read(spelled: &Spelled, bytes: Range<usize>, operator: Option<Range<usize>>) -> Result<Self, Invalid> {
        let text = &spelled.text;
        let Some(operator) = operator else {
            return read(&text[bytes.clone()], spelled, 0).map(Self::Test);
        };
        let left = Side::read(spelled, bytes.start..operator.start)?;
        let right = Side::read(spelled, operator.end..bytes.end)?;
        let operator = match &text[operator.clone()] {
            "==" => Operator::Equal,
            "!=" => Operator::NotEqual,
            "<" => Operator::Less,
            "<=" => Operator::LessOrEqual,
            ">" => Operator::Greater,
            ">=" => Operator::GreaterOrEqual,
            other => {
                return Err(
                    spelled.invalid(operator.start, Rule::Syntax(format!("{other} compares nothing")))
                );
            }
        };
        Ok(Self::Comparison(left, operator, right))
    }

    fn holds(&self, document: &Value) -> bool {
        match self {
            Self::Test(query) => {
                query.query(document).iter().any(|node| !matches!(node, Value::Null | Value::Bool(false)))
            }
            Self::Comparison(left, operator, right) => {
                let (left, right) = (left.value(document), right.value(document));
                operator.holds(left.as_deref(), right.as_deref())
            }
        }
    }

    /// What it costs beside its queries.
    const fn work(&self) -> Work {
        let is_long = match self {
            Self::Test(_) => false,
            Self::Comparison(left, _, right) => {
                left.lengths + right.lengths > 0 || (left.is_node() && right.is_node())
            }
        };
        Work { visits: if is_long { OF_NODES } else { 0 }, sweeps: 0 }
    }
}

impl Operator {
    /// By section 2.3.5.2.2, which makes all of them from two.
    fn holds(self, left: Option<&Value>, right: Option<&Value>) -> bool {
        match self {
            Self::Equal => is_equal(left, right),
            Self::NotEqual => !is_equal(left, right),
            Self::Less => is_less(left, right),
            Self::LessOrEqual => is_less(left, right) || is_equal(left, right),
            Self::Greater => is_less(right, left),
            Self::GreaterOrEqual => is_less(right, left) || is_equal(left, right),
        }
    }
}

/// A side of a comparison.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Side {
    source: Source,
    /// How many times `length` is asked of it.
    lengths: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Source {
    Literal(Value),
    /// The only node of a query.
    Node(JsonPath),
    /// The number of its nodes.
    Count(JsonPath),
}

impl Side {
    fn read(spelled: &Spelled, bytes: Range<usize>) -> Result<Self, Invalid> {
        let (mut inner, mut lengths) = (spelled.text[bytes.clone()].trim_matches(BLANKS), 0);
        while let Some(argument) = argument(inner, "length") {
            inner = argument;
            lengths += 1;
        }
        let source = if let Some(query) = argument(inner, "count") {
            Source::Count(read(query, spelled, query.len())?)
        } else if let Some(query) = argument(inner, "value").or(inner.starts_with('$').then_some(inner)) {
            Source::Node(read(query, spelled, query.len())?)
        } else {
            let wrong = || spelled.invalid(bytes.start, Rule::Syntax("expected a literal".to_owned()));
            Source::Literal(literal(inner).ok_or_else(wrong)?)
        };
        Ok(Self { source, lengths })
    }

    const fn is_node(&self) -> bool {
        matches!(self.source, Source::Node(_))
    }

    fn value<'a>(&'a self, document: &'a Value) -> Option<Cow<'a, Value>> {
        let value = match &self.source {
            Source::Literal(value) => Some(Cow::Borrowed(value)),
            Source::Node(query) => only(query, document).map(Cow::Borrowed),
            Source::Count(query) => Some(Cow::Owned(query.query(document).len().into())),
        };
        (0..self.lengths).fold(value, |value, _| Some(Cow::Owned(length(&*value?)?.into())))
    }
}

/// What stands between the parentheses of a function.
fn argument<'text>(text: &'text str, function: &str) -> Option<&'text str> {
    let inside = text.strip_prefix(function)?.strip_prefix('(')?.strip_suffix(')')?;
    Some(inside.trim_matches(BLANKS))
}

/// What a literal spells. But for strings in single quotes, it is as in JSON.
fn literal(text: &str) -> Option<Value> {
    let Some(inside) = text.strip_prefix('\'').and_then(|text| text.strip_suffix('\'')) else {
        return serde_json::from_str(text).ok();
    };
    let (mut json, mut characters) = ("\"".to_owned(), inside.chars());
    while let Some(character) = characters.next() {
        match character {
            '"' => json.push_str("\\\""),
            '\\' => match characters.next()? {
                '\'' => json.push('\''),
                escaped => json.extend(['\\', escaped]),
            },
            _ => json.push(character),
        }
    }
    json.push('"');
    serde_json::from_str(&json).ok()
}

/// The function `length` (section 2.4.4): the characters of a string, or the elements of an array or object.
fn length(value: &Value) -> Option<usize> {
    match value {
        Value::String(text) => Some(text.chars().count()),
        Value::Array(values) => Some(values.len()),
        Value::Object(members) => Some(members.len()),
        Value::Null | Value::Bool(_) | Value::Number(_) => None,
    }
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
