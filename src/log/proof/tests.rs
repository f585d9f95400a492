use sha2::{Digest, Sha256};

use super::*;
use crate::log::definition;
use proptest::prelude::*;

/// The largest tree that is gone through leaf by leaf.
const LEAVES: usize = 33;

fn leaves(number: usize) -> Vec<Hash> {
    (0..number).map(|index| Sha256::digest(index.to_be_bytes()).into()).collect()
}

fn head(leaves: &[Hash]) -> Head {
    Head { size: leaves.len() as u64, root: definition::root(leaves) }
}

fn decoded(hashes: &[&str]) -> Vec<Hash> {
    hashes.iter().map(|hash| hex::decode(hash).unwrap().try_into().unwrap()).collect()
}

/// Every proof that differs from this one by a hash: dropped, doubled, swapped with another, put in, or with one bit flipped.
fn tampered(hashes: &[Hash], bits: impl Iterator<Item = usize> + Clone) -> Vec<Vec<Hash>> {
    let mut made = vec![];
    let mut change = |change: &dyn Fn(&mut Vec<Hash>)| {
        let mut changed = hashes.to_vec();
        change(&mut changed);
        if changed != hashes {
            made.push(changed);
        }
    };
    for place in 0..=hashes.len() {
        change(&|hashes| hashes.insert(place, [0x5A; 32]));
        change(&|hashes| hashes.truncate(place));
    }
    for place in 0..hashes.len() {
        change(&|hashes| {
            hashes.remove(place);
        });
        change(&|hashes| hashes.insert(place, hashes[place]));
        (0..place).for_each(|other| change(&|hashes| hashes.swap(place, other)));
        bits.clone().for_each(|bit| change(&|hashes| hashes[place][bit / 8] ^= 1 << (bit % 8)));
    }
    made
}

/// Proofs of certificate-transparency's tests of its tree: the place counted from 1, the size, and the hashes.
const PUBLISHED_INCLUSION: [(u64, usize, &[&str]); 5] = [
    (1, 1, &[]),
    (
        1,
        8,
        &[
            "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
            "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
            "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
        ],
    ),
    (
        6,
        8,
        &[
            "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
            "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        ],
    ),
    (3, 3, &["fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"]),
    (
        2,
        5,
        &[
            "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
            "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
            "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        ],
    ),
];

/// The same of consistency: both sizes, and the hashes.
const PUBLISHED_CONSISTENCY: [(usize, usize, &[&str]); 5] = [
    (1, 1, &[]),
    (
        1,
        8,
        &[
            "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
            "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
            "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
        ],
    ),
    (
        6,
        8,
        &[
            "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
            "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        ],
    ),
    (
        2,
        5,
        &[
            "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
            "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        ],
    ),
    (
        6,
        7,
        &[
            "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
            "b08693ec2e721597130641e8211e7eedccb4c26413963eee6c1e2ed16ffb1a5f",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        ],
    ),
];

#[test]
fn the_published_proofs_are_made_and_verified() {
    let leaves = definition::published_leaves();
    for (place, size, hashes) in PUBLISHED_INCLUSION {
        let proof = Inclusion::of(&leaves[..size], place - 1).unwrap();
        assert_eq!(proof.hashes, decoded(hashes));
        let leaf = leaves[usize::try_from(place).unwrap() - 1];
        assert_eq!(proof.verify(&leaf, &head(&leaves[..size])), Ok(()));
    }
    for (first, second, hashes) in PUBLISHED_CONSISTENCY {
        let proof = Consistency::of(&leaves[..second], first as u64).unwrap();
        assert_eq!(proof.hashes, decoded(hashes));
        assert_eq!(proof.verify(&head(&leaves[..first]), &head(&leaves[..second])), Ok(()));
    }
}

#[test]
fn every_leaf_of_every_small_tree_has_the_proof_of_the_definition_and_no_other() {
    let all = leaves(LEAVES);
    for size in 1..=LEAVES {
        let head = head(&all[..size]);
        for (index, leaf) in all[..size].iter().enumerate() {
            let proof = Inclusion::of(&all[..size], index as u64).unwrap();
            assert_eq!(proof.hashes, definition::path(index, &all[..size]));
            for (other, hash) in all.iter().enumerate() {
                assert_eq!(
                    proof.verify(hash, &head).is_ok(),
                    other == index,
                    "{other} for {index} of {size}"
                );
            }
            for wrong in (0..size as u64 + 2).filter(|wrong| *wrong != index as u64) {
                let proof = Inclusion { leaf_index: wrong, ..proof.clone() };
                assert!(proof.verify(leaf, &head).is_err(), "{wrong} for {index} of {size}");
            }
            for hashes in tampered(&proof.hashes, (0..256).step_by(7)) {
                assert!(Inclusion { hashes, ..proof.clone() }.verify(leaf, &head).is_err());
            }
        }
        assert_eq!(Inclusion::of(&all[..size], size as u64), None);
    }
    assert_eq!(Inclusion::of(&[], 0), None);
}

#[test]
fn every_beginning_of_every_small_tree_has_the_proof_of_the_definition_and_no_other() {
    let all = leaves(LEAVES);
    for size in 0..=LEAVES {
        let second = head(&all[..size]);
        for begins in 0..=size {
            let first = head(&all[..begins]);
            let proof = Consistency::of(&all[..size], begins as u64).unwrap();
            let defined = if begins == 0 { vec![] } else { definition::proof(begins, &all[..size]) };
            assert_eq!(proof.hashes, defined);
            assert_eq!(proof.verify(&first, &second), Ok(()));
            for hashes in tampered(&proof.hashes, (0..256).step_by(7)) {
                assert!(Consistency { hashes, ..proof.clone() }.verify(&first, &second).is_err());
            }
            let mut wrong = first;
            wrong.root[31] ^= 1;
            assert_eq!(proof.verify(&wrong, &second), Err(Refused::Root));
            let mut wrong = second;
            wrong.root[0] ^= 0x80;
            // There is nothing that the empty tree could contradict.
            assert_eq!(proof.verify(&first, &wrong).is_err(), begins != 0 || size == 0);
        }
        assert_eq!(Consistency::of(&all[..size], size as u64 + 1), None);
    }
}

#[test]
fn a_proof_with_any_bit_flipped_is_refused() {
    let all = leaves(13);
    let inclusion = Inclusion::of(&all, 9).unwrap();
    for hashes in tampered(&inclusion.hashes, 0..256) {
        assert!(Inclusion { hashes, ..inclusion.clone() }.verify(&all[9], &head(&all)).is_err());
    }
    let consistency = Consistency::of(&all, 7).unwrap();
    for hashes in tampered(&consistency.hashes, 0..256) {
        let proof = Consistency { hashes, ..consistency.clone() };
        assert!(proof.verify(&head(&all[..7]), &head(&all)).is_err());
    }
}

#[test]
fn a_proof_is_about_the_sizes_of_the_heads_that_it_is_held_against() {
    let all = leaves(9);
    let (five, eight) = (head(&all[..5]), head(&all[..8]));
    // Its hashes lead from the first leaf to the root of the tree of eight, whatever size is claimed.
    let proof = Inclusion { tree_size: 5, ..Inclusion::of(&all[..8], 0).unwrap() };
    assert_eq!(proof.verify(&all[0], &eight), Err(Refused::Size));
    assert_eq!(proof.verify(&all[0], &five), Err(Refused::Root));
    let proof = Consistency::of(&all[..8], 5).unwrap();
    assert_eq!(proof.verify(&eight, &five), Err(Refused::Size));
    let backwards = Consistency { first_size: 8, second_size: 5, hashes: vec![] };
    assert_eq!(backwards.verify(&eight, &five), Err(Refused::Range));
    let outside = Inclusion { leaf_index: 5, tree_size: 5, hashes: vec![] };
    assert_eq!(outside.verify(&all[0], &five), Err(Refused::Range));
}

#[test]
fn proofs_of_the_largest_trees_have_as_many_hashes_as_there_may_be() {
    let most = |first| Consistency::ranges(first, u64::MAX).unwrap().len();
    assert_eq!(Inclusion::ranges(0, u64::MAX).unwrap().len(), MOST_HASHES - 1);
    assert_eq!((0..64).map(|bit| most((1 << bit) | 1)).max(), Some(MOST_HASHES));
    // The last leaf of a tree of one more than a power of two stands right below the root.
    let beside = Inclusion::ranges(1 << 63, (1 << 63) + 1).unwrap();
    assert_eq!((beside.len(), &beside[0]), (1, &(0..1 << 63)));
    let lonely = Inclusion { leaf_index: 1 << 63, tree_size: (1 << 63) + 1, hashes: vec![[1; 32]] };
    let head = Head { size: (1 << 63) + 1, root: node_hash(&[1; 32], &[2; 32]) };
    assert_eq!(lonely.verify(&[2; 32], &head), Ok(()));
    let proof = Consistency { first_size: 1 << 63, second_size: (1 << 63) + 1, hashes: vec![[2; 32]] };
    assert_eq!(proof.verify(&Head { size: 1 << 63, root: [1; 32] }, &head), Ok(()));
}

#[test]
fn a_proof_in_json_has_its_sizes_and_its_hashes_in_base64() {
    let json = r#"{"leafIndex":1,"treeSize":2,"hashes":["AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE="]}"#;
    let proof = Inclusion::from_json(json.as_bytes()).unwrap();
    assert_eq!(proof, Inclusion { leaf_index: 1, tree_size: 2, hashes: vec![[1; 32]] });
    assert_eq!(serde_json::to_string(&proof).unwrap(), json);
    let json = r#"{"firstSize":0,"secondSize":18446744073709551615,"hashes":[]}"#;
    let proof = Consistency::from_json(json.as_bytes()).unwrap();
    assert_eq!(serde_json::to_string(&proof).unwrap(), json);
}

#[test]
fn what_is_not_a_proof_in_json_is_refused() {
    for wrong in [
        "",
        "[]",
        r#"{"leafIndex":1,"treeSize":2}"#,
        r#"{"leafIndex":-1,"treeSize":2,"hashes":[]}"#,
        r#"{"leafIndex":1.0,"treeSize":2,"hashes":[]}"#,
        r#"{"leafIndex":1,"treeSize":18446744073709551616,"hashes":[]}"#,
        r#"{"leafIndex":1,"treeSize":2,"hashes":[],"more":1}"#,
        r#"{"leafIndex":1,"leafIndex":1,"treeSize":2,"hashes":[]}"#,
        r#"{"leafIndex":1,"treeSize":2,"hashes":["AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQ=="]}"#,
        r#"{"leafIndex":1,"treeSize":2,"hashes":["AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQF="]}"#,
        r#"{"leafIndex":1,"treeSize":2,"hashes":["AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE"]}"#,
    ] {
        assert!(Inclusion::from_json(wrong.as_bytes()).is_err(), "{wrong}");
    }
    let long = Consistency { first_size: 1, second_size: 2, hashes: vec![[0; 32]; MOST_HASHES] };
    let json = serde_json::to_vec_pretty(&long).unwrap();
    assert_eq!(Consistency::from_json(&json).unwrap(), long);
    let longer = Consistency { hashes: vec![[0; 32]; MOST_HASHES + 1], ..long };
    let json = serde_json::to_vec(&longer).unwrap();
    assert!(Consistency::from_json(&json).unwrap_err().to_string().contains("at most 65 hashes"));
    assert!(matches!(Consistency::from_json(&[b' '; config::PROOF_BYTES + 1]), Err(Malformed::TooLong)));
}

#[test]
fn a_list_of_what_is_in_a_proof_is_none() {
    let list = r#"[1,2,["AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE="]]"#;
    for list in [list, "[0,1,[]]", " \t\r\n[0,1,[]]", "null", "0", r#""hashes""#] {
        assert!(Inclusion::from_json(list.as_bytes()).is_err(), "{list}");
        assert!(Consistency::from_json(list.as_bytes()).is_err(), "{list}");
    }
    let spaced = b" \t\r\n{\"leafIndex\":0,\"treeSize\":1,\"hashes\":[]}";
    assert!(Inclusion::from_json(spaced).is_ok());
}

proptest! {
    #[test]
    fn proofs_of_larger_trees_verify(size in 1_usize..2_000, place in any::<prop::sample::Index>()) {
        let all = leaves(size);
        let index = place.index(size);
        let proof = Inclusion::of(&all, index as u64).unwrap();
        prop_assert_eq!(proof.verify(&all[index], &head(&all)), Ok(()));
        let proof = Consistency::of(&all, index as u64).unwrap();
        prop_assert_eq!(proof.verify(&head(&all[..index]), &head(&all)), Ok(()));
    }

    #[test]
    fn no_sizes_are_too_large_to_be_told_apart(index: u64, size: u64, number in 0_usize..=MOST_HASHES) {
        let hashes = vec![[7; 32]; number];
        let fits = Inclusion::ranges(index, size).is_some_and(|ranges| ranges.len() == number);
        let refused = Inclusion { leaf_index: index, tree_size: size, hashes: hashes.clone() }
            .verify(&[7; 32], &Head { size, root: [7; 32] });
        prop_assert_eq!(refused == Err(Refused::Root), fits);
        // Of what is the empty tree's or the same tree's, nothing is left to be proved.
        prop_assume!(index != 0 && index != size);
        let fits = Consistency::ranges(index, size).is_some_and(|ranges| ranges.len() == number);
        let refused = Consistency { first_size: index, second_size: size, hashes }
            .verify(&Head { size: index, root: [7; 32] }, &Head { size, root: [7; 32] });
        prop_assert_eq!(refused == Err(Refused::Root), fits);
    }

    #[test]
    fn the_runs_of_a_proof_are_disjoint_and_leave_out_what_is_known(index: u64, size: u64) {
        for (ranges, known) in [
            (Inclusion::ranges(index, size), 1),
            (Consistency::ranges(index, size), if index.is_power_of_two() { index } else { 0 }),
        ] {
            let Some(mut ranges) = ranges else { continue };
            ranges.sort_by_key(|range| range.start);
            prop_assert!(ranges.is_sorted_by(|one, other| one.end <= other.start));
            let covered: u64 = ranges.iter().map(|range| range.end - range.start).sum();
            prop_assert!(covered == size - known || (covered == 0 && (index == 0 || index == size)));
        }
    }
}
