//! The tree and its proofs as RFC 6962 defines them, word for word and slowly: what the quick ways are compared with.

use sha2::{Digest, Sha256};

use super::merkle::{Hash, node_hash};

/// The leaves of certificate-transparency's `merkle_tree_test.cc`, in hex, before they are hashed.
#[cfg(test)]
const PUBLISHED_LEAVES: [&str; 8] =
    ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"];

/// The root of each tree of the first of them, in hex.
#[cfg(test)]
pub(crate) const PUBLISHED_ROOTS: [&str; 8] = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
];

/// The leaf hashes of the published test tree.
#[cfg(test)]
pub(crate) fn published_leaves() -> Vec<Hash> {
    let leaf = |input: &str| {
        let input = hex::decode(input).expect("they are written in hex");
        Sha256::new().chain_update([0x00]).chain_update(input).finalize().into()
    };
    PUBLISHED_LEAVES.map(leaf).to_vec()
}

/// The largest power of two that is smaller than `n`, which is two or more.
fn split(n: usize) -> usize {
    n.next_power_of_two() / 2
}

/// MTH of section 2.1.
pub(crate) fn root(leaves: &[Hash]) -> Hash {
    match leaves {
        [] => Sha256::digest(b"").into(),
        [leaf] => *leaf,
        _ => {
            let (left, right) = leaves.split_at(split(leaves.len()));
            node_hash(&root(left), &root(right))
        }
    }
}

/// PATH of section 2.1.1.
pub(crate) fn path(index: usize, leaves: &[Hash]) -> Vec<Hash> {
    if leaves.len() == 1 {
        return vec![];
    }
    let half = split(leaves.len());
    let (left, right) = leaves.split_at(half);
    if index < half {
        [path(index, left), vec![root(right)]].concat()
    } else {
        [path(index - half, right), vec![root(left)]].concat()
    }
}

/// PROOF of section 2.1.2, for a first tree that is neither empty nor larger than the second.
pub(crate) fn proof(first: usize, leaves: &[Hash]) -> Vec<Hash> {
    subproof(first, leaves, true)
}

fn subproof(first: usize, leaves: &[Hash], complete: bool) -> Vec<Hash> {
    if first == leaves.len() {
        return if complete { vec![] } else { vec![root(leaves)] };
    }
    let half = split(leaves.len());
    let (left, right) = leaves.split_at(half);
    if first <= half {
        [subproof(first, left, complete), vec![root(right)]].concat()
    } else {
        [subproof(first - half, right, false), vec![root(left)]].concat()
    }
}
