//! Paths into JSON documents and conditions on them: RFC 9535, whose root `$` is the whole document.
//!
//! A [`Path`] is a query, and selects nodes. A [`Condition`] is what stands behind the `?` of a filter, asked of the
//! document itself. Both are read by `serde_json_path`; what it leaves open is closed here, by rules that a text has
//! to keep before it is read:
//!
//! - Nobody can write a text that is dear to read: brackets nest [`DEEPEST`] deep at most, since every filter within
//!   another doubles the work.
//! - `..` stands once in a query, the selectors in its brackets multiply nodes [`MOST_COPIES`] times at most, and a `$`
//!   within a filter leads by names and indices to a single value, into no function, and is not compared with another
//!   `$`. So what a query costs can be told from the text and the document.
//! - The functions `match` and `search` do not exist: what a stranger's regular expression costs has no bound.
//! - A negative index that is compared within a filter would be taken for a missing node by the library, so it may not
//!   stand in one. Everywhere else it counts from the end.
//!
//! Nobody can ask what is dear to answer: what it costs at most is counted before it is done, and beyond [`MOST_WORK`]
//! it is not done ([`TooMuch::Work`]). Names and indices alone lead to what they name at no cost. Any other query visits
//! each node of the document once. What stands in its filters or behind `..` costs more visits of each node: one for each
//! segment, each comparison and each query that is compared; four for each other query, each function and `..` itself.
//! All this is multiplied by the numbers of selectors in its brackets. `..`, and each comparison in the filters of a
//! query that has one, costs besides a visit for each node and every two levels that it is deep. A condition costs what
//! its queries do together, and two visits of each node where it compares two queries or asks for a `length`. Each 32
//! bytes of a string count as one, in a filter as in the document.
//!
//! The comparisons of a condition are those of RFC 9535 to the letter. Those within the filters of a query are the
//! library's, which differ where there is no order: of two truth values, arrays or objects that are not equal it takes
//! each for the greater, and of two missing nodes neither for `<=` the other. And within arrays and objects, there, it
//! takes the same number for another where it is spelled otherwise: `[1]` is not `[1.0]`, though `1` is `1.0`.
//!
//! Numbers are compared as 64-bit floating point, as RFC 9535 has it of documents that are to be understood alike by
//! everybody (I-JSON). A document is one that `serde_json` has read, and so nests 128 deep at most.

use std::borrow::Cow;
use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;
use serde_json_path::JsonPath;

mod compare;
mod condition;
mod outline;
mod spelled;
#[cfg(test)]
mod tests;
mod work;

pub use condition::Condition;

use spelled::Spelled;
use work::Work;

/// The most bytes of a path or a condition.
pub const LONGEST: usize = 1_000;
/// How deep brackets and parentheses may nest in a text.
pub const DEEPEST: usize = 8;
/// How often a query may select one node by the selectors in its brackets: the product of their numbers.
pub const MOST_COPIES: usize = 16;
/// The most nodes that a path gives.
pub const MOST_NODES: usize = 10_000;

/// The most work that is done to answer: so many visits of nodes. It is some 50 milliseconds, at worst.
pub const MOST_WORK: u64 = 4_000_000;

/// A query of RFC 9535, such as `$.review.output.items[*].id`. Written as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Path {
    text: String,
    query: JsonPath,
    work: Work,
}

impl Path {
    /// Reads a query.
    ///
    /// # Errors
    /// [`Invalid`] says which rule it breaks, and where.
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        let spelled = Spelled::of(text)?;
        let (_, work) = outline::of(&spelled)?;
        let query = read(&spelled.text, &spelled, 0)?;
        Ok(Self { text: text.to_owned(), query, work })
    }

    /// As it was read.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The nodes of a document that it selects, in the order of RFC 9535; one that it selects twice is there twice.
    ///
    /// # Errors
    /// [`TooMuch`] when there are more than [`MOST_NODES`], or it would cost more than [`MOST_WORK`] to find them.
    pub fn select<'document>(&self, document: &'document Value) -> Result<Vec<&'document Value>, TooMuch> {
        self.work.check(document)?;
        let nodes = self.query.query(document).all();
        if nodes.len() > MOST_NODES { Err(TooMuch::Nodes) } else { Ok(nodes) }
    }

    /// The node that it selects, if it selects one and no other.
    ///
    /// # Errors
    /// [`TooMuch::Work`] when it would cost more than [`MOST_WORK`] to find it.
    pub fn only<'document>(&self, document: &'document Value) -> Result<Option<&'document Value>, TooMuch> {
        self.work.check(document)?;
        Ok(only(&self.query, document))
    }
}

/// The node that a query selects, if it selects one and no other.
fn only<'document>(query: &JsonPath, document: &'document Value) -> Option<&'document Value> {
    query.query(document).exactly_one().ok()
}

/// Reads `query`, which is a text with `before` bytes ahead of it.
fn read(query: &str, spelled: &Spelled, before: usize) -> Result<JsonPath, Invalid> {
    JsonPath::parse(query).map_err(|error| {
        let byte = error.position().saturating_sub(before);
        spelled.invalid(byte, Rule::Syntax(error.message().to_owned()))
    })
}

/// Why there is no answer for a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TooMuch {
    /// A path has selected more than [`MOST_NODES`].
    #[error("the path selects more than {MOST_NODES} nodes")]
    Nodes,
    /// It would cost more than [`MOST_WORK`].
    #[error("it would take more than {MOST_WORK} visits of nodes, for this document, to answer")]
    Work,
}

/// Why a text is not a path or not a condition.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{rule}, at character {place}")]
pub struct Invalid {
    /// The rule that it breaks.
    pub rule: Rule,
    /// The character of the text where it does so, the first being 1.
    pub place: usize,
}

/// A rule that paths and conditions keep.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rule {
    /// It is longer than [`LONGEST`].
    #[error("there are more than {LONGEST} bytes")]
    TooLong,
    /// It nests deeper than [`DEEPEST`].
    #[error("brackets nest deeper than {DEEPEST}")]
    TooDeep,
    /// A string has no end.
    #[error("a string is not closed")]
    OpenString,
    /// A bracket or parenthesis is closed that is not open, or the other way round.
    #[error("a bracket has no counterpart")]
    Unbalanced,
    /// A comma outside of brackets and arguments.
    #[error("a comma stands outside of brackets")]
    Comma,
    /// `@` outside of a filter.
    #[error("@ means nothing outside of a filter in brackets")]
    Current,
    /// More than one `..` in a query.
    #[error("`..` stands more than once in a query")]
    Descents,
    /// More selectors than [`MOST_COPIES`].
    #[error("the selectors of a query multiply nodes more than {MOST_COPIES} times")]
    Copies,
    /// A `$` within a filter that is more than a way to a single value.
    #[error("within a filter, $ leads by names and indices to a single value, outside of functions")]
    Absolute,
    /// Two `$` that are compared within a filter.
    #[error("within a filter, $ is compared with @ or a literal, and not with another $")]
    Constant,
    /// A negative index within a filter.
    #[error("a negative index stands within a filter")]
    NegativeIndex,
    /// It is not what RFC 9535 says, in the words of the library.
    #[error("this is not as RFC 9535 has it: {0}")]
    Syntax(String),
}

impl fmt::Display for Path {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.text)
    }
}

impl Serialize for Path {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for Path {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<'de, str>::deserialize(deserializer)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}
