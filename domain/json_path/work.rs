//! What it costs at most to answer a query, known before it is answered.
//!
//! Each segment and each comparison of a text is applied to each node of a document at most as often as the selectors
//! in brackets multiply nodes, that is `copies` times: nodes are reached from above, in as many steps as the text has,
//! and so in one way, also through its one `..`, since the steps behind that are as many for every node. Without `..`
//! the segments of one query lie at different depths, so together they meet each node once, but for those behind a `$`
//! within a filter, which are gone for each node anew. So these are counted:
//!
//! - Visits, for every node: one for the query itself, and for what stands in its filters or behind `..` what the
//!   constants here say. A comparison looks at no more than the smaller of its sides. As one of these is a literal or
//!   what lies below `@`, without `..` all that it looks at for all nodes is no more than the document.
//! - Sweeps, for every node as often as it is deep: `..` itself, which hands what it finds up step by step, and each
//!   comparison in the filters of a query that has it, since `@` is then every node and all that lies below.
//!
//! All strings weigh as much as nodes: 32 bytes as one. The prices are what was measured: no visit takes much more
//! than 12 nanoseconds.

use serde_json::Value;

use super::{MOST_WORK, TooMuch};

/// How many bytes of strings weigh as much as a node.
pub(super) const BYTES_PER_NODE: usize = 32;
/// How many steps of a sweep cost as much as a visit.
const STEPS_PER_VISIT: u64 = 2;

/// The visits of a segment.
pub(super) const OF_SEGMENT: u64 = 1;
/// Of `..`, beside its sweep.
pub(super) const OF_DESCENT: u64 = 4;
/// Of a comparison in a filter.
pub(super) const OF_COMPARISON: u64 = 1;
/// Of a query that is a side of one.
pub(super) const OF_COMPARED: u64 = 1;
/// Of any other query in a filter, and of one that a function is called with: these collect nodes.
pub(super) const OF_TESTED: u64 = 4;
/// Of a call of a function, beside its argument.
pub(super) const OF_CALL: u64 = 4;
/// Of a comparison of two nodes outside of filters, or of a `length` there.
pub(super) const OF_NODES: u64 = 2;

/// How often all nodes of a document are visited and swept over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Work {
    pub visits: u64,
    pub sweeps: u64,
}

impl Work {
    pub(super) const fn plus(self, other: Self) -> Self {
        Self { visits: self.visits + other.visits, sweeps: self.sweeps + other.sweeps }
    }

    pub(super) const fn times(self, copies: u64) -> Self {
        Self { visits: self.visits * copies, sweeps: self.sweeps * copies }
    }

    /// What it comes to over a document. Nothing is asked of the document where names and indices lead to all that is
    /// asked for.
    pub(super) fn over(self, document: &Value) -> u64 {
        if self == Self::default() {
            return 0;
        }
        let mut weight = Weight::default();
        weight.add(document, 1);
        let visits = self.visits.saturating_mul(weight.nodes);
        visits.saturating_add(self.sweeps.saturating_mul(weight.steps) / STEPS_PER_VISIT)
    }

    pub(super) fn check(self, document: &Value) -> Result<(), TooMuch> {
        if self.over(document) > MOST_WORK { Err(TooMuch::Work) } else { Ok(()) }
    }
}

#[derive(Default)]
struct Weight {
    nodes: u64,
    /// Each as often as it is deep, the root once.
    steps: u64,
}

impl Weight {
    fn add(&mut self, value: &Value, depth: u64) {
        match value {
            Value::Array(values) => values.iter().for_each(|value| self.add(value, depth + 1)),
            Value::Object(members) => {
                for (name, value) in members {
                    self.count(name.len() / BYTES_PER_NODE, depth + 1);
                    self.add(value, depth + 1);
                }
            }
            Value::String(text) => self.count(text.len() / BYTES_PER_NODE, depth),
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
        self.count(1, depth);
    }

    fn count(&mut self, nodes: usize, depth: u64) {
        let nodes = nodes as u64;
        self.nodes += nodes;
        self.steps += nodes * depth;
    }
}
