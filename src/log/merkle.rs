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

fn node_hash(left: &Hash, right: &Hash) -> Hash {
    let mut hasher = Sha256::new();
    hasher.update([0x01]);
    hasher.update(left);
    hasher.update(right);
    hasher.finalize().into()
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
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The definition of RFC 6962, 2.1, as it is written there.
    fn by_definition(leaves: &[Hash]) -> Hash {
        match leaves {
            [] => Sha256::digest(b"").into(),
            [leaf] => *leaf,
            _ => {
                let split = leaves.len().next_power_of_two() / 2;
                node_hash(&by_definition(&leaves[..split]), &by_definition(&leaves[split..]))
            }
        }
    }

    #[test]
    fn the_published_test_tree_has_its_published_roots() {
        // The leaves and roots of certificate-transparency's merkle_tree_test.cc.
        let inputs = [
            "",
            "00",
            "10",
            "2021",
            "3031",
            "40414243",
            "5051525354555657",
            "606162636465666768696a6b6c6d6e6f",
        ];
        let roots = [
            "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
            "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
            "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
            "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
            "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
            "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
            "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
        ];
        let mut frontier = Frontier::default();
        for (input, root) in inputs.into_iter().zip(roots) {
            let mut leaf = vec![0x00];
            leaf.extend(hex::decode(input).unwrap());
            frontier.push(Sha256::digest(&leaf).into());
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
                prop_assert_eq!(frontier.root(), by_definition(&leaves[..=index]));
                let size = u64::try_from(index).unwrap() + 1;
                prop_assert_eq!(Frontier::from_bytes(size, &frontier.to_bytes()), Some(frontier.clone()));
                prop_assert_eq!(Frontier::from_bytes(size + 1, &frontier.to_bytes()).is_some(),
                    size.count_ones() == (size + 1).count_ones());
            }
        }
    }
}
