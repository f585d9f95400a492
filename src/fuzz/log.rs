//! What an auditor reads: signed notes, checkpoints, and proofs about the tree over a log.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use serde_json::Value;
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::text;
use crate::config;
use crate::log::checkpoint::Checkpoint;
use crate::log::definition;
use crate::log::merkle::{Hash, Head};
use crate::log::note::{Note, Signer, Verifier};
use crate::log::proof::{Consistency, Inclusion};

/// The name of the log whose notes are signed here.
const ORIGIN: &str = "log.example/1";
/// The name of another log that is known too, and that signs beside.
const OTHER: &str = "another.example";
/// Bytes that the signature of a key named [`ORIGIN`] adds to a text: four that tell the key and 64 of Ed25519, which are
/// 92 in base64, and what stands around them.
const SIGNATURE_BYTES: usize = "\n— ".len() + ORIGIN.len() + " ".len() + 92 + "\n".len();
/// The key of the example in `golang.org/x/mod/sumdb/note`, which a note of the corpus is signed with.
const PUBLISHED_KEY: &str = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW";
/// The leaves of the largest tree that hostile proofs are about.
const LEAVES: u8 = 33;

/// A signed note, or the text of one. As a note it is read if it is one by the words of the specification, and written
/// again byte for byte; as a text it is signed. What verifies does not with a byte of the text changed. A checkpoint
/// has one spelling, and is signed and opened where a key of its log's name signs.
pub fn note(bytes: &[u8]) {
    let signer = signer(ORIGIN);
    let known = [signer.verifier().clone(), PUBLISHED_KEY.parse().expect("it is a key")];
    let read = Note::parse(bytes);
    assert_eq!(read.is_ok(), is_note(bytes));
    if let Ok(note) = read {
        assert_eq!(note.to_string().as_bytes(), bytes);
        if let Ok(verified) = note.verify(&known) {
            check_changed(bytes, verified.text.len(), &known);
        }
    }
    let Some(text) = text(bytes) else { return };
    if let Ok(verifier) = text.parse::<Verifier>() {
        assert_eq!(verifier.to_string(), text);
    }
    let signers = [signer];
    let signed = Note::sign(text, &signers);
    let is_text = text.ends_with('\n') && !text.contains(|character| character < ' ' && character != '\n');
    assert_eq!(signed.is_ok(), is_text && text.len() + SIGNATURE_BYTES <= config::NOTE_BYTES);
    let Ok(signed) = signed else { return };
    assert_eq!(signed.verify(&known).expect("the key is known").text, text);
    let written = signed.to_string();
    check_changed(written.as_bytes(), text.len(), &known);
    if let Ok(checkpoint) = Checkpoint::parse(text) {
        check_checkpoint(&checkpoint, text);
    }
}

/// Signs a checkpoint by the keys of two logs that are both known, by each alone and by both.
fn check_checkpoint(checkpoint: &Checkpoint, text: &str) {
    assert_eq!(checkpoint.to_string(), text);
    for names in [&[ORIGIN][..], &[OTHER], &[OTHER, ORIGIN]] {
        let signers: Vec<Signer> = names.iter().map(|name| signer(name)).collect();
        let Ok(signed) = Note::sign(text, &signers) else { continue };
        let is_its_own = names.contains(&checkpoint.origin());
        assert_eq!(checkpoint.sign(&signers).ok().as_ref(), Some(&signed).filter(|_| is_its_own));
        let written = signed.to_string();
        let known = [ORIGIN, OTHER].map(|name| signer(name).verifier().clone());
        for origin in [checkpoint.origin(), ORIGIN, OTHER, "a third"] {
            let opened = Checkpoint::open(written.as_bytes(), origin, &known);
            let expected = Some(checkpoint).filter(|_| is_its_own && origin == checkpoint.origin());
            assert_eq!(opened.ok().as_ref(), expected, "{origin} by {names:?}");
        }
    }
}

fn signer(name: &str) -> Signer {
    Signer::new(name, &Zeroizing::new([7; 32])).expect("it is a name")
}

/// Whether this is a signed note, line by line.
fn is_note(bytes: &[u8]) -> bool {
    let Some(text) = text(bytes).and_then(|text| text.strip_suffix('\n')) else { return false };
    let lines: Vec<&str> = text.split('\n').collect();
    let signatures = lines.iter().rev().take_while(|line| !line.is_empty()).count();
    let is_signature = |line: &&str| match line.split(' ').collect::<Vec<_>>()[..] {
        ["—", name, encoded] => {
            let is_name = !name.is_empty() && !name.chars().any(|c| c == '+' || c.is_whitespace());
            let decoded = STANDARD.decode(encoded).unwrap_or_default();
            is_name && decoded.len() > 4 && STANDARD.encode(decoded) == encoded
        }
        _ => false,
    };
    // Before the signatures stand an empty line and one of the text.
    bytes.len() <= config::NOTE_BYTES
        && !lines.iter().any(|line| line.bytes().any(|byte| byte < 0x20))
        && (1..=config::NOTE_SIGNATURES).contains(&signatures)
        && lines.len() >= signatures + 2
        && lines[lines.len() - signatures..].iter().all(is_signature)
}

/// Changes some bytes of the text that a note begins with, one at a time: it does not verify any more.
fn check_changed(note: &[u8], text_bytes: usize, known: &[Verifier]) {
    for (place, mask) in [(0, 1), (text_bytes / 3, 0x20), (text_bytes / 2, 4), (text_bytes - 1, 0x20)] {
        let mut changed = note.to_vec();
        changed[place] ^= mask;
        let verifies = Note::parse(&changed).is_ok_and(|note| note.verify(known).is_ok());
        assert!(!verifies, "{}", String::from_utf8_lossy(&changed));
    }
}

/// A proof in JSON, or what is to be done to one: what is read is an object of the same fields and no other kind of proof,
/// and nothing but the proof of the definition verifies, for no leaf but its own.
pub fn proof(bytes: &[u8]) {
    let leaves: Vec<Hash> = (0..LEAVES).map(|leaf| Sha256::digest([leaf]).into()).collect();
    if let Ok(proof) = Inclusion::from_json(bytes) {
        check_json(bytes, &proof);
        let json = serde_json::to_vec(&proof).expect("it is plain data");
        assert_eq!(Inclusion::from_json(&json).expect("it is read again"), proof);
        check_inclusion(&leaves, &proof);
    }
    if let Ok(proof) = Consistency::from_json(bytes) {
        check_json(bytes, &proof);
        let json = serde_json::to_vec(&proof).expect("it is plain data");
        assert_eq!(Consistency::from_json(&json).expect("it is read again"), proof);
        check_consistency(&leaves, &proof);
    }
    let [size, place, changes @ ..] = bytes else { return };
    let tree = &leaves[..usize::from(size % (LEAVES + 1))];
    if let Some(mut proof) = Inclusion::of(tree, u64::from(*place)) {
        check_inclusion(&leaves, &proof);
        change(&mut proof.hashes, &mut [&mut proof.leaf_index, &mut proof.tree_size], changes, &leaves);
        check_inclusion(&leaves, &proof);
    }
    if let Some(mut proof) = Consistency::of(tree, u64::from(*place)) {
        check_consistency(&leaves, &proof);
        change(&mut proof.hashes, &mut [&mut proof.first_size, &mut proof.second_size], changes, &leaves);
        check_consistency(&leaves, &proof);
    }
}

/// The text that a proof was read from says what the proof is written as, but for spaces and the order of its fields.
fn check_json(bytes: &[u8], proof: &impl Serialize) {
    let read: Value = serde_json::from_slice(bytes).expect("it was read");
    assert_eq!(read, serde_json::to_value(proof).expect("it is plain data"));
}

/// Changes a proof as bytes say, three for a change.
fn change(hashes: &mut Vec<Hash>, numbers: &mut [&mut u64; 2], changes: &[u8], leaves: &[Hash]) {
    for [what, place, value] in changes.as_chunks::<3>().0 {
        let (place, value) = (usize::from(*place), usize::from(*value));
        let (at, other) = (place % hashes.len().max(1), value % hashes.len().max(1));
        match what % 8 {
            0 => *numbers[place % 2] ^= 1 << (value % 64),
            1 => *numbers[place % 2] = value as u64,
            2 => hashes.insert(at, leaves[value % leaves.len()]),
            3 => hashes.insert(at, definition::root(&leaves[..value % leaves.len()])),
            _ if hashes.is_empty() => {}
            4 => {
                hashes.remove(at);
            }
            5 => hashes[at][value / 8] ^= 1 << (value % 8),
            6 => hashes.swap(at, other),
            _ => hashes.insert(at, hashes[other]),
        }
    }
}

/// The tree of so many leaves, and its head; `None` where there are not so many.
fn tree(leaves: &[Hash], size: u64) -> Option<(&[Hash], Head)> {
    let tree = leaves.get(..usize::try_from(size).ok()?)?;
    Some((tree, Head { size, root: definition::root(tree) }))
}

fn check_inclusion(leaves: &[Hash], proof: &Inclusion) {
    let Some((tree, head)) = tree(leaves, proof.tree_size) else {
        let head = Head { size: proof.tree_size, root: [0; 32] };
        assert!(proof.verify(&leaves[0], &head).is_err());
        return;
    };
    let index = usize::try_from(proof.leaf_index).ok().filter(|index| *index < tree.len());
    let right = index.filter(|index| definition::path(*index, tree) == proof.hashes);
    for (index, leaf) in leaves.iter().enumerate() {
        assert_eq!(proof.verify(leaf, &head).is_ok(), right == Some(index), "{index}: {proof:?}");
    }
    assert!(proof.verify(&leaves[0], &Head { size: head.size + 1, ..head }).is_err());
}

fn check_consistency(leaves: &[Hash], proof: &Consistency) {
    let trees = tree(leaves, proof.first_size).zip(tree(leaves, proof.second_size));
    let Some(((begun, first), (grown, second))) = trees else {
        let (first, second) = (proof.first_size, proof.second_size);
        let [first, second] = [(first, [1; 32]), (second, [2; 32])].map(|(size, root)| Head { size, root });
        assert!(proof.verify(&first, &second).is_err());
        return;
    };
    let is_right = match begun.len() {
        0 => proof.hashes.is_empty(),
        size => size <= grown.len() && definition::proof(size, grown) == proof.hashes,
    };
    assert_eq!(proof.verify(&first, &second).is_ok(), is_right, "{proof:?}");
    let forged = Head { root: leaves[32], ..first };
    assert!(proof.verify(&forged, &second).is_err());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_signed_up_to_the_last_byte_that_a_note_has_room_for() {
        for left in [201, 200, 199, 113, 112, 111, 1, 0] {
            let text = "a".repeat(config::NOTE_BYTES - left - 1) + "\n";
            note(text.as_bytes());
        }
    }
}
