//! Proofs about the tree over a log, which an auditor checks without the log: that an event stands in it at its place,
//! and that nothing has changed between two of its checkpoints.
//!
//! They are made as RFC 6962 defines them (sections 2.1.1 and 2.1.2) and checked as RFC 9162 says (sections 2.1.3.2 and
//! 2.1.4.2). In a file, a proof is JSON with its hashes in base64.

use std::ops::Range;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::merkle::{Frontier, Hash, Head, node_hash};
use crate::config;

/// The most hashes that a proof has: one for each bit of the largest size, and one that a proof of consistency begins
/// with.
pub const MOST_HASHES: usize = 65;

/// That a leaf stands at its place in a tree: the hashes beside the way from the leaf to the root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Inclusion {
    /// How many leaves stand before it.
    pub leaf_index: u64,
    /// How many leaves the tree has.
    pub tree_size: u64,
    /// The hashes, from the leaf up.
    #[serde(with = "base64_hashes")]
    pub hashes: Vec<Hash>,
}

/// That a tree is the beginning of another: the hashes that both of them are made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Consistency {
    /// How many leaves the first tree has.
    pub first_size: u64,
    /// How many leaves the second tree has.
    pub second_size: u64,
    /// The hashes, from below.
    #[serde(with = "base64_hashes")]
    pub hashes: Vec<Hash>,
}

/// Why a proof proves nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It is about trees of other sizes.
    #[error("the proof is about a tree of another size")]
    Size,
    /// The leaf stands behind the end of the tree, or the first tree is the larger one.
    #[error("the proof is about a place outside of the tree")]
    Range,
    /// There is exactly one number of hashes that a proof of such sizes has.
    #[error("the proof does not have as many hashes as one of its size")]
    Length,
    /// The hashes do not lead to the root.
    #[error("the proof does not lead to the root")]
    Root,
}

/// A text that is not a proof in JSON.
#[derive(Debug, thiserror::Error)]
pub enum Malformed {
    /// It is longer than any proof.
    #[error("a proof has at most {} bytes", config::PROOF_BYTES)]
    TooLong,
    /// It is not an object.
    #[error("a proof is an object")]
    NotObject,
    /// It is not JSON, or not of a proof.
    #[error("not a proof: {0}")]
    Json(#[from] serde_json::Error),
}

impl Inclusion {
    /// The runs of leaves whose roots are the hashes of the proof, in its order; `None` where there is no such leaf.
    ///
    /// No leaf is in two of them, so all are made in one pass over the log. Each is a tree by itself, to be made by a
    /// [`Frontier`].
    #[must_use]
    pub fn ranges(leaf_index: u64, tree_size: u64) -> Option<Vec<Range<u64>>> {
        if leaf_index >= tree_size {
            return None;
        }
        let (mut start, mut end, mut beside) = (0, tree_size, vec![]);
        while end - start > 1 {
            let middle = start + left_size(end - start);
            if leaf_index < middle {
                beside.push(middle..end);
                end = middle;
            } else {
                beside.push(start..middle);
                start = middle;
            }
        }
        beside.reverse();
        Some(beside)
    }

    /// The proof for a leaf of a tree that is in memory; `None` where there is no such leaf.
    #[must_use]
    pub fn of(leaves: &[Hash], leaf_index: u64) -> Option<Self> {
        let tree_size = leaves.len() as u64;
        let hashes = roots(leaves, Self::ranges(leaf_index, tree_size)?);
        Some(Self { leaf_index, tree_size, hashes })
    }

    /// Reads a proof in JSON.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn from_json(json: &[u8]) -> Result<Self, Malformed> {
        read(json)
    }

    /// Proves that this leaf is the one at the proof's index of the tree with this head.
    ///
    /// # Errors
    /// [`Refused`] when it proves nothing.
    pub fn verify(&self, leaf: &Hash, head: &Head) -> Result<(), Refused> {
        if self.tree_size != head.size {
            return Err(Refused::Size);
        }
        if self.leaf_index >= self.tree_size {
            return Err(Refused::Range);
        }
        let way = Way { node: self.leaf_index, last: self.tree_size - 1 };
        if way.clone().count() != self.hashes.len() {
            return Err(Refused::Length);
        }
        let root = way.zip(&self.hashes).fold(*leaf, |below, (side, beside)| match side {
            Side::Left => node_hash(beside, &below),
            Side::Right => node_hash(&below, beside),
        });
        if root == head.root { Ok(()) } else { Err(Refused::Root) }
    }
}

impl Consistency {
    /// As [`Inclusion::ranges`]; `None` where the first tree is the larger one.
    ///
    /// Of the empty tree, and of a tree with itself, there is nothing to prove.
    #[must_use]
    pub fn ranges(first_size: u64, second_size: u64) -> Option<Vec<Range<u64>>> {
        if first_size > second_size {
            return None;
        }
        let (mut start, mut end, mut beside) = (0, second_size, vec![]);
        // The subtree that the first tree ends with is looked for.
        while first_size != 0 && end != first_size {
            let middle = start + left_size(end - start);
            if first_size <= middle {
                beside.push(middle..end);
                end = middle;
            } else {
                beside.push(start..middle);
                start = middle;
            }
        }
        // Where it is the whole of the first tree, its root is known to whoever checks.
        if start != 0 {
            beside.push(start..end);
        }
        beside.reverse();
        Some(beside)
    }

    /// The proof that the tree of so many leaves is the beginning of that of all of these; `None` where it is larger.
    #[must_use]
    pub fn of(leaves: &[Hash], first_size: u64) -> Option<Self> {
        let second_size = leaves.len() as u64;
        let hashes = roots(leaves, Self::ranges(first_size, second_size)?);
        Some(Self { first_size, second_size, hashes })
    }

    /// Reads a proof in JSON.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn from_json(json: &[u8]) -> Result<Self, Malformed> {
        read(json)
    }

    /// Proves that the leaves of the tree with the first head are the first leaves of the one with the second.
    ///
    /// # Errors
    /// [`Refused`] when it proves nothing.
    pub fn verify(&self, first: &Head, second: &Head) -> Result<(), Refused> {
        if (self.first_size, self.second_size) != (first.size, second.size) {
            return Err(Refused::Size);
        }
        if first.size > second.size {
            return Err(Refused::Range);
        }
        if first.size == 0 || first.size == second.size {
            return self.verify_nothing(first, second);
        }
        let levels = first.size.trailing_zeros();
        let way = Way { node: (first.size - 1) >> levels, last: (second.size - 1) >> levels };
        // The subtree that the first tree ends with: of a power of two that is all of it.
        let (end, hashes) = if first.size.is_power_of_two() {
            (&first.root, &self.hashes[..])
        } else {
            self.hashes.split_first().ok_or(Refused::Length)?
        };
        if way.clone().count() != hashes.len() {
            return Err(Refused::Length);
        }
        let roots = way.zip(hashes).fold((*end, *end), |(one, other), (side, beside)| match side {
            Side::Left => (node_hash(beside, &one), node_hash(beside, &other)),
            Side::Right => (one, node_hash(&other, beside)),
        });
        if roots == (first.root, second.root) { Ok(()) } else { Err(Refused::Root) }
    }

    /// Every tree begins with the empty one, and with itself.
    fn verify_nothing(&self, first: &Head, second: &Head) -> Result<(), Refused> {
        if !self.hashes.is_empty() {
            return Err(Refused::Length);
        }
        let empty_is_empty = first.size != 0 || first.root == Frontier::default().root();
        let same_is_same = first.size != second.size || first.root == second.root;
        if empty_is_empty && same_is_same { Ok(()) } else { Err(Refused::Root) }
    }
}

/// How many of the leaves of a tree of two or more are below its root's left child: the largest power of two that is
/// smaller than all.
const fn left_size(size: u64) -> u64 {
    1 << (size - 1).ilog2()
}

/// The roots of runs of leaves.
fn roots(leaves: &[Hash], ranges: Vec<Range<u64>>) -> Vec<Hash> {
    let place = |index| usize::try_from(index).expect("it is the index of a leaf in memory");
    let root = |run: Range<u64>| {
        let leaves = leaves[place(run.start)..place(run.end)].iter();
        leaves.copied().collect::<Frontier>().root()
    };
    ranges.into_iter().map(root).collect()
}

/// On which side of a node its sibling stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Left,
    Right,
}

/// The way up from a node: the side of each sibling. A node that is the last of its level and has none there stands
/// one level higher as well.
#[derive(Debug, Clone)]
struct Way {
    /// The node's index in its level.
    node: u64,
    /// The index of the last node of the level.
    last: u64,
}

impl Iterator for Way {
    type Item = Side;

    fn next(&mut self) -> Option<Side> {
        if self.last == 0 {
            return None;
        }
        let side = if self.node.is_multiple_of(2) && self.node != self.last {
            Side::Right
        } else {
            // It is odd, or else the last and not 0: then it rises to the level where it is odd.
            let levels = self.node.trailing_zeros();
            self.node >>= levels;
            self.last >>= levels;
            Side::Left
        };
        self.node >>= 1;
        self.last >>= 1;
        Some(side)
    }
}

fn read<T: DeserializeOwned>(json: &[u8]) -> Result<T, Malformed> {
    if json.len() > config::PROOF_BYTES {
        return Err(Malformed::TooLong);
    }
    // A derived reader takes a struct as a list too, in which nothing tells one kind of proof from the other.
    if json.trim_ascii_start().first() != Some(&b'{') {
        return Err(Malformed::NotObject);
    }
    Ok(serde_json::from_slice(json)?)
}

/// Hashes as a list of texts in base64.
mod base64_hashes {
    use super::*;

    pub(super) fn serialize<S: Serializer>(hashes: &[Hash], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(hashes.iter().map(|hash| STANDARD.encode(hash)))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Hash>, D::Error> {
        let texts = Vec::<String>::deserialize(deserializer)?;
        if texts.len() > MOST_HASHES {
            return Err(D::Error::invalid_length(texts.len(), &"at most 65 hashes"));
        }
        let hashes = texts.iter().map(|text| read_hash(text));
        hashes.collect::<Option<_>>().ok_or_else(|| D::Error::custom("expected 32 bytes in base64"))
    }
}

/// Reads a hash in base64, which has one spelling.
pub(super) fn read_hash(text: &str) -> Option<Hash> {
    STANDARD.decode(text).ok()?.try_into().ok()
}

#[cfg(test)]
mod tests;
