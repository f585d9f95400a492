use super::*;
use proptest::prelude::*;
use zeroize::Zeroizing;

/// The keys, the text and the signatures of the documentation and tests of `golang.org/x/mod/sumdb/note`.
const PETER: &str = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW";
const PETER_SEED: &str = "AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz";
const ENOCH: &str = "EnochRoot+af0cfe78+ATtqJ7zOtqQtYqOo0CpvDXNlMhV3HeJDpjrASKGLWdop";
const TEXT: &str =
    "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n";
const BY_PETER: &str = "— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n";
const BY_ENOCH: &str = "— EnochRoot rwz+eBzmZa0SO3NbfRGzPCpDckykFXSdeX+MNtCOXm2/5n2tiOHp+vAF1aGrQ5ovTG01oOTGwnWLox33WWd1RvMc+QQ=\n";

fn peter() -> Verifier {
    PETER.parse().unwrap()
}

fn enoch() -> Verifier {
    ENOCH.parse().unwrap()
}

fn signer(name: &str, seed: u8) -> Signer {
    Signer::new(name, &Zeroizing::new([seed; 32])).unwrap()
}

fn note(parts: &[&str]) -> Result<Note, Malformed> {
    Note::parse(parts.concat().as_bytes())
}

#[test]
fn the_published_note_is_signed_and_verified_to_the_letter() {
    let seed = STANDARD.decode(PETER_SEED).unwrap();
    let signer = Signer::new("PeterNeumann", &Zeroizing::new(seed[1..].try_into().unwrap())).unwrap();
    assert_eq!(signer.verifier().to_string(), PETER);
    let signed = Note::sign(TEXT, &[signer]).unwrap();
    assert_eq!(signed.to_string(), [TEXT, "\n", BY_PETER].concat());
    let known = [enoch(), peter()];
    assert_eq!(signed.verify(&known), Ok(Verified { text: TEXT, by: vec![&known[1]] }));
}

#[test]
fn signatures_by_unknown_keys_are_passed_over_whatever_they_are() {
    let both = note(&[TEXT, "\n", BY_PETER, BY_ENOCH]).unwrap();
    let known = [peter(), enoch()];
    assert_eq!(both.verify(&known).unwrap().by, [&known[0], &known[1]]);
    assert_eq!(both.verify(&known[1..]).unwrap().by, [&known[1]]);
    assert_eq!(both.verify(&[]), Err(Untrusted::Unknown));
    // By another key of a known name, and by one of another name with a known id.
    let strangers = ["— PeterNeumann AAAAAAE=\n", "— CarmenSandiego x08gowE=\n"].concat();
    let strange = note(&[TEXT, "\n", &strangers, BY_ENOCH]).unwrap();
    assert_eq!(strange.verify(&known).unwrap().by, [&known[1]]);
    assert_eq!(strange.verify(&known[..1]), Err(Untrusted::Unknown));
}

#[test]
fn a_wrong_signature_by_a_known_key_spoils_the_note() {
    let wrong = Err(Untrusted::Wrong("PeterNeumann".to_owned()));
    let short = "— PeterNeumann x08gowE=\n";
    let known = [peter(), enoch()];
    for spoiled in [
        note(&["Another text.\n\n", BY_PETER]),
        note(&[TEXT, "\n\n", BY_PETER]),
        note(&[TEXT, "\n", short]),
        // Also behind a right one, by whomever.
        note(&[TEXT, "\n", BY_ENOCH, short]),
        note(&[TEXT, "\n", BY_PETER, short]),
    ] {
        assert_eq!(spoiled.unwrap().verify(&known), wrong);
    }
}

#[test]
fn signatures_and_keys_that_stand_there_twice_count_once() {
    let twice = note(&[TEXT, "\n", BY_PETER, BY_PETER]).unwrap();
    assert_eq!(twice.to_string(), [TEXT, "\n", BY_PETER, BY_PETER].concat());
    let known = [peter(), peter()];
    assert_eq!(twice.verify(&known).unwrap().by, [&known[0]]);
}

#[test]
fn a_text_may_have_empty_lines_and_signatures_begin_after_the_last() {
    for text in ["\n", "\n\n", "a\n\n\nb\n", "— PeterNeumann x08gowE=\n\n— b\n"] {
        let note = Note::sign(text, &[signer("a", 1)]).unwrap();
        let known = [signer("a", 1).verifier().clone()];
        assert_eq!(note.verify(&known).unwrap().text, text);
    }
}

/// The examples of c2sp.org/signed-note and c2sp.org/tlog-checkpoint, whose keys are not told.
#[test]
fn the_examples_of_the_specifications_are_read() {
    for example in [
        "Ognuno sta solo sul cuor della terra\ntrafitto da un raggio di sole:\n\ned è subito sera.\n\n— quasimodo.example/salvatore NnugSzTjtVAewIS+Z/iJhUPeFDkO/5QQ2i5ddnGITLlC+EhfLW9oJKONrMouFSQU0xMcXxj99ihAQwaqP3ZekRwNtIc=\n",
        "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n\n— example.com/behind-the-sofa Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=\n",
    ] {
        let note = note(&[example]).unwrap();
        assert_eq!(note.to_string(), example);
        assert_eq!(note.verify(&[peter()]), Err(Untrusted::Unknown));
    }
}

#[test]
fn what_is_not_a_note_is_refused() {
    let line = |line: &str| note(&[TEXT, "\n", line, "\n"]);
    for (wrong, why) in [
        (note(&[""]), Malformed::Unsigned),
        (note(&[TEXT]), Malformed::Unsigned),
        (note(&[TEXT, "\n"]), Malformed::Unsigned),
        (note(&["\n", BY_PETER]), Malformed::Unsigned),
        (note(&[TEXT, BY_PETER]), Malformed::Unsigned),
        (note(&[TEXT, "\n", BY_PETER, "\n"]), Malformed::Unsigned),
        (note(&[TEXT, "\n", BY_PETER.trim_end()]), Malformed::Unsigned),
        (note(&["\u{1}", TEXT, "\n", BY_PETER]), Malformed::Characters),
        (note(&[TEXT, "\r\n", BY_PETER]), Malformed::Characters),
        (note(&["a\tb", TEXT, "\n", BY_PETER]), Malformed::Characters),
        (note(&[TEXT, "\n", BY_PETER, "Unexpected line.\n"]), Malformed::Signature),
        (line("— Bad Name x08gowE="), Malformed::Signature),
        (line("— Bad\u{a0}Name x08gowE="), Malformed::Signature),
        (line("— Bad+Name x08gowE="), Malformed::Signature),
        (line("—  x08gowE="), Malformed::Signature),
        (line("- Name x08gowE="), Malformed::Signature),
        (line("— Name"), Malformed::Signature),
        (line("— Name "), Malformed::Signature),
        (line("— Name x08gowE= "), Malformed::Signature),
        // Four bytes and no signature; and other spellings of the same bytes.
        (line("— Name x08gow=="), Malformed::Signature),
        (line("— Name x08gowE"), Malformed::Signature),
        (line("— Name x08gowF="), Malformed::Signature),
    ] {
        assert_eq!(wrong, Err(why));
    }
    assert_eq!(Note::parse(b"a\xff\n\n\xe2\x80\x94 Name x08gowE=\n"), Err(Malformed::Characters));
}

#[test]
fn a_note_has_its_limits() {
    let most = config::NOTE_SIGNATURES;
    assert!(note(&[TEXT, "\n", &BY_PETER.repeat(most)]).unwrap().verify(&[peter()]).is_ok());
    let more = note(&[TEXT, "\n", &BY_PETER.repeat(most + 1)]);
    assert_eq!(more, Err(Malformed::TooManySignatures));
    let room = config::NOTE_BYTES - BY_PETER.len() - 2;
    assert!(note(&[&"a".repeat(room), "\n\n", BY_PETER]).is_ok());
    assert_eq!(note(&[&"a".repeat(room + 1), "\n\n", BY_PETER]), Err(Malformed::TooLong));

    let signers: Vec<Signer> = (0..=100).map(|seed| signer("a", seed)).collect();
    assert_eq!(Note::sign(TEXT, &signers), Err(Malformed::TooManySignatures));
    assert_eq!(Note::sign(TEXT, &[]), Err(Malformed::Unsigned));
    assert_eq!(Note::sign("a", &signers[..1]), Err(Malformed::Text));
    assert_eq!(Note::sign("", &signers[..1]), Err(Malformed::Text));
    assert_eq!(Note::sign("a\0\n", &signers[..1]), Err(Malformed::Characters));
    assert_eq!(Note::sign(&"a\n".repeat(500_000), &signers[..1]), Err(Malformed::TooLong));
}

#[test]
fn a_key_is_read_in_one_spelling_only() {
    assert_eq!(peter().to_string(), PETER);
    assert_eq!(peter().name(), "PeterNeumann");
    for start in 0..PETER.len() {
        for end in start..=PETER.len() {
            assert!(end - start == PETER.len() || PETER[start..end].parse::<Verifier>().is_err());
        }
        let mut changed = PETER.as_bytes().to_vec();
        changed[start] += 1;
        assert!(String::from_utf8(changed).unwrap().parse::<Verifier>().is_err());
    }
    for (wrong, why) in [
        // As published, with the hashes that fit: a key that is too long, and one of another type.
        ("PeterNeumann+cc469956+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TWBADKEY==", InvalidKey::Form),
        ("PeterNeumann+173116ae+ZRpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW", InvalidKey::Type),
        ("PeterNeumann+C74F20A3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW", InvalidKey::Hash),
        ("Peter Neumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW", InvalidKey::Name),
        ("+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW", InvalidKey::Name),
    ] {
        assert_eq!(wrong.parse::<Verifier>(), Err(why), "{wrong}");
    }
}

#[test]
fn a_key_has_a_name_that_a_note_can_hold() {
    for wrong in ["", "a b", "a\nb", "a+b", "a\u{2003}b", "a\u{1}b", &"a".repeat(config::VERIFIER_KEY_BYTES)]
    {
        assert_eq!(Verifier::new(wrong, [1; 32]), Err(InvalidKey::Name), "{wrong}");
        assert_eq!(Signer::new(wrong, &Zeroizing::new([1; 32])).err(), Some(InvalidKey::Name));
    }
    let longest = "a".repeat(config::VERIFIER_KEY_BYTES - "++c74f20a3".len() - 44);
    let verifier = Verifier::new(&longest, [1; 32]).unwrap();
    assert_eq!(verifier.to_string().parse(), Ok(verifier));
}

#[test]
fn the_private_key_is_not_shown() {
    let shown = format!("{:?}", signer("a", 7));
    assert!(!shown.contains("7, 7, 7"), "{shown}");
    assert!(shown.contains("Ed25519KeyPair { public_key: PublicKey("), "{shown}");
}

proptest! {
    #[test]
    fn a_signed_text_verifies_and_no_other_does(
        lines in prop::collection::vec("[^\\x00-\\x1f]{0,9}", 1..5),
        seeds: (u8, u8),
        place: prop::sample::Index,
        bit in 0_u32..8,
    ) {
        prop_assume!(seeds.0 != seeds.1);
        let text = lines.join("\n") + "\n";
        let [one, other] = [seeds.0, seeds.1].map(|seed| signer("log.example/1", seed));
        let known = [one.verifier().clone(), other.verifier().clone()];
        let signed = Note::sign(&text, &[one, other]).unwrap();
        let read = Note::parse(signed.to_string().as_bytes()).unwrap();
        prop_assert_eq!(&read, &signed);
        prop_assert_eq!(read.verify(&known), Ok(Verified { text: &text, by: known.iter().collect() }));
        let mut changed = signed.to_string().into_bytes();
        let place = place.index(changed.len());
        changed[place] ^= 1 << bit;
        // A change may take a signature from a known key, but never leaves one for what is not the text.
        if let Ok(note) = Note::parse(&changed) {
            prop_assert!(note.verify(&known).is_err() || note.verify(&known).unwrap().text == text);
        }
    }
}
