//! The tree over a log: leaf hashes, and the compact range that appending needs.
//!
//! The tree is that of RFC 6962 (Certificate Transparency), section 2.1: leaves are hashed with a 0x00 prefix, inner
//! nodes with 0x01, and the largest full subtrees stand to the left.

use sha2::{Digest, Sha256};

use super::{Stored, Tenant};

/// A SHA-256 hash.
pub type Hash = [u8; 32];

/// What canonical bytes begin with, so that they can never be taken for those of something else.
const CANONICAL_PREFIX: &[u8] = b"theazo event\n";

/// The leaf hash of an event: SHA-256 of 0x00 and its canonical bytes.
///
/// The canonical bytes are the prefix `theazo event\n` and then each of these as its length in bytes (32 bits, big
/// endian) and its UTF-8: the organization's id, the mode, the position, the event id, the type, the version, the
/// subjects with a space between them, the data and the metadata as they are stored, and the time in milliseconds
/// since 1970. Numbers are written in decimal.
#[must_use]
pub fn leaf_hash(tenant: &Tenant, event: &Stored) -> Hash {
    let mut hasher = Sha256::new();
    hasher.update([0x00]);
    hasher.update(CANONICAL_PREFIX);
    let mut part = |text: &str| {
        // A part is bounded by the limit on bodies, far below 4 GiB.
        hasher.update(u32::try_from(text.len()).unwrap_or(u32::MAX).to_be_bytes());
        hasher.update(text.as_bytes());
    };
    part(&tenant.organization_id.to_string());
    part(tenant.mode.as_str());
    part(&event.position.to_string());
    part(&event.event_id.to_string());
    part(&event.kind);
    part(&event.version.to_string());
    part(&event.subjects.join(" "));
    part(&event.data);
    part(&event.metadata);
    part(&event.at.millis().to_string());
    hasher.finalize().into()
}

/// The hash of an inner node: SHA-256 of 0x01 and the hashes of its two children.
pub(super) fn node_hash(left: &Hash, right: &Hash) -> Hash {
    let mut hasher = Sha256::new();
    hasher.update([0x01]);
    hasher.update(left);
    hasher.update(right);
    hasher.finalize().into()
}

/// The head of a tree: all that a checkpoint says of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// How many leaves it has.
    pub size: u64,
    /// The hash of all of them.
    pub root: Hash,
}

/// The roots of the full subtrees of a tree, largest first: what is needed to append leaves and tell the root.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Frontier {
    leaves: u64,
    roots: Vec<Hash>,
}

impl Frontier {
    /// Reads the frontier of a tree of so many leaves: 32 bytes a root.
    ///
    /// `None` when the bytes are not those of a frontier of that size.
    #[must_use]
    pub fn from_bytes(leaves: u64, bytes: &[u8]) -> Option<Self> {
        let (roots, rest) = bytes.as_chunks::<32>();
        // A tree of n leaves has one full subtree for each bit that is set in n.
        let fits = rest.is_empty() && roots.len() == leaves.count_ones() as usize;
        fits.then(|| Self { leaves, roots: roots.to_vec() })
    }

    /// The roots, 32 bytes each.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        self.roots.concat()
    }

    /// Appends a leaf.
    pub fn push(&mut self, leaf: Hash) {
        let mut root = leaf;
        // Each trailing one bit of the size is a full subtree as large as the one just completed.
        for _ in 0..self.leaves.trailing_ones() {
            let left = self.roots.pop().expect("there is a root for each bit that is set");
            root = node_hash(&left, &root);
        }
        self.roots.push(root);
        self.leaves += 1;
    }

    /// The hash of the whole tree; of the empty tree SHA-256 of nothing.
    #[must_use]
    pub fn root(&self) -> Hash {
        let mut roots = self.roots.iter().rev();
        let Some(smallest) = roots.next() else { return Sha256::digest(b"").into() };
        roots.fold(*smallest, |right, left| node_hash(left, &right))
    }

    /// The size of the tree, and its hash.
    #[must_use]
    pub fn head(&self) -> Head {
        Head { size: self.leaves, root: self.root() }
    }
}

impl FromIterator<Hash> for Frontier {
    fn from_iter<I: IntoIterator<Item = Hash>>(leaves: I) -> Self {
        let mut frontier = Self::default();
        leaves.into_iter().for_each(|leaf| frontier.push(leaf));
        frontier
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::definition;
    use proptest::prelude::*;

    #[test]
    fn the_published_test_tree_has_its_published_roots() {
        let mut frontier = Frontier::default();
        for (leaf, root) in definition::published_leaves().into_iter().zip(definition::PUBLISHED_ROOTS) {
            frontier.push(leaf);
            assert_eq!(hex::encode(frontier.root()), root);
        }
    }

    proptest! {
        #[test]
        fn the_root_is_that_of_the_definition_at_every_size(
            seeds in prop::collection::vec(any::<u64>(), 0..80),
        ) {
            let leaves: Vec<Hash> = seeds.iter().map(|seed| Sha256::digest(seed.to_be_bytes()).into()).collect();
            let mut frontier = Frontier::default();
            for (index, leaf) in leaves.iter().enumerate() {
                frontier.push(*leaf);
                prop_assert_eq!(frontier.root(), definition::root(&leaves[..=index]));
                let size = u64::try_from(index).unwrap() + 1;
                prop_assert_eq!(Frontier::from_bytes(size, &frontier.to_bytes()), Some(frontier.clone()));
                prop_assert_eq!(Frontier::from_bytes(size + 1, &frontier.to_bytes()).is_some(),
                    size.count_ones() == (size + 1).count_ones());
            }
        }
    }
}
