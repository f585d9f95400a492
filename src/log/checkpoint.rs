//! Checkpoints: what a log says of itself at a moment, signed, as <https://c2sp.org/tlog-checkpoint> has them.
//!
//! A checkpoint is a note (`note`) of three lines: the log's name, the number of its events in decimal, and the hash of
//! the tree over them in base64. More lines may follow. Whoever holds one holds the log to all that is before it: what
//! was changed since fits no proof (`proof`).

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::merkle::Head;
use super::note::{self, Note, Signer, Verifier};
use super::proof::read_hash;
use crate::config;

/// What a log says of itself: its name and the head of its tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    origin: String,
    head: Head,
    extensions: Vec<String>,
}

/// A text that is not a checkpoint's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// It has fewer lines than three, or an empty one, or more than may follow, or holds what no note can hold.
    #[error("a checkpoint has three lines or more, none of them empty, each ending in a newline")]
    Lines,
    /// The name is none that a log of ours can have.
    #[error("the name of a log holds neither spaces nor `+` nor control characters")]
    Origin,
    /// The second line is not a number as it is written in decimal.
    #[error("the second line of a checkpoint is a number in decimal, without leading zeros")]
    Size,
    /// The third line is not a hash in base64.
    #[error("the third line of a checkpoint is 32 bytes in base64")]
    Root,
}

/// Why a note is not, or does not become, a checkpoint of a log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It is not a note.
    #[error(transparent)]
    Note(#[from] note::Malformed),
    /// Nobody known has signed it.
    #[error(transparent)]
    Untrusted(#[from] note::Untrusted),
    /// It is a note about something else.
    #[error(transparent)]
    Text(#[from] Malformed),
    /// It is of another log.
    #[error("the checkpoint is of the log {0}")]
    Origin(String),
    /// The log has not signed it, whoever else has.
    #[error("no known key that is named {0}, as the log is, signs the checkpoint")]
    Unsigned(String),
}

impl Checkpoint {
    /// What a log of this name says, best a URL without its scheme. A key of the log has the same name.
    ///
    /// # Errors
    /// [`Malformed::Origin`].
    pub fn new(origin: &str, head: Head) -> Result<Self, Malformed> {
        if !note::is_name(origin) || !note::is_text(origin) {
            return Err(Malformed::Origin);
        }
        Ok(Self { origin: origin.to_owned(), head, extensions: vec![] })
    }

    /// Reads the text of a checkpoint, which has one spelling.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn parse(text: &str) -> Result<Self, Malformed> {
        let mut lines = text.strip_suffix('\n').ok_or(Malformed::Lines)?.split('\n');
        let is_bounded = lines.clone().nth(3 + config::CHECKPOINT_EXTENSIONS).is_none();
        if !is_bounded || !note::is_text(text) || lines.clone().any(str::is_empty) {
            return Err(Malformed::Lines);
        }
        let mut next = || lines.next().ok_or(Malformed::Lines);
        let (origin, size, root) = (next()?.to_owned(), next()?, next()?);
        let number: u64 = size.parse().map_err(|_| Malformed::Size)?;
        if number.to_string() != size {
            return Err(Malformed::Size);
        }
        let head = Head { size: number, root: read_hash(root).ok_or(Malformed::Root)? };
        Ok(Self { origin, head, extensions: lines.map(str::to_owned).collect() })
    }

    /// Reads a checkpoint of the log of this name that a known key of the same name has signed. Known keys of other
    /// names, those of witnesses and of other logs, may have signed it as well: they do not vouch for it.
    ///
    /// # Errors
    /// [`Refused`].
    pub fn open(note: &[u8], origin: &str, known: &[Verifier]) -> Result<Self, Refused> {
        let note = Note::parse(note)?;
        let verified = note.verify(known)?;
        let checkpoint = Self::parse(verified.text)?;
        if checkpoint.origin != origin {
            return Err(Refused::Origin(checkpoint.origin));
        }
        checkpoint.check_keys(verified.by)?;
        Ok(checkpoint)
    }

    /// Signs it, by a key that has the log's name and by whatever other keys there are.
    ///
    /// # Errors
    /// [`Refused::Unsigned`] without a key of the log's name, [`Refused::Note`] with too many keys or lines too long.
    pub fn sign(&self, signers: &[Signer]) -> Result<Note, Refused> {
        self.check_keys(signers.iter().map(Signer::verifier))?;
        Ok(Note::sign(&self.to_string(), signers)?)
    }

    /// That one of the keys has the log's name. The specification only recommends it; held to it, no log that is known
    /// can speak for another.
    fn check_keys<'a>(&self, keys: impl IntoIterator<Item = &'a Verifier>) -> Result<(), Refused> {
        let is_signed = keys.into_iter().any(|key| key.name() == self.origin);
        if is_signed { Ok(()) } else { Err(Refused::Unsigned(self.origin.clone())) }
    }

    /// The log's name.
    #[must_use]
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// The size and the hash of the log's tree.
    #[must_use]
    pub const fn head(&self) -> Head {
        self.head
    }

    /// The lines that follow, whatever they say.
    #[must_use]
    pub fn extensions(&self) -> &[String] {
        &self.extensions
    }
}

/// The text of the note.
impl fmt::Display for Checkpoint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Head { size, root } = self.head;
        writeln!(formatter, "{}\n{size}\n{}", self.origin, STANDARD.encode(root))?;
        self.extensions.iter().try_for_each(|line| writeln!(formatter, "{line}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::merkle::{Frontier, Hash};
    use crate::log::proof::{Consistency, Inclusion};
    use proptest::prelude::*;
    use zeroize::Zeroizing;

    const ORIGIN: &str = "theazo.example/org_1/live";
    /// The text of the example of c2sp.org/tlog-checkpoint.
    const EXAMPLE: &str =
        "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n";

    fn signer(name: &str) -> Signer {
        Signer::new(name, &Zeroizing::new([1; 32])).unwrap()
    }

    #[test]
    fn the_example_of_the_specification_is_read_and_written() {
        let checkpoint = Checkpoint::parse(EXAMPLE).unwrap();
        assert_eq!(checkpoint.to_string(), EXAMPLE);
        assert_eq!(checkpoint.origin(), "example.com/behind-the-sofa");
        assert_eq!(checkpoint.head().size, 20_852_163);
        assert_eq!(STANDARD.encode(checkpoint.head().root), "CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=");
        assert!(checkpoint.extensions().is_empty());
        let extended = format!("{EXAMPLE}more\n and more\n");
        let checkpoint = Checkpoint::parse(&extended).unwrap();
        assert_eq!(checkpoint.extensions(), ["more", " and more"]);
        assert_eq!(checkpoint.to_string(), extended);
    }

    #[test]
    fn what_is_not_a_checkpoint_is_refused() {
        let root = "CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=";
        let most = format!("a\n1\n{root}\n") + &"x\n".repeat(config::CHECKPOINT_EXTENSIONS);
        assert!(Checkpoint::parse(&most).is_ok());
        for (wrong, why) in [
            (String::new(), Malformed::Lines),
            ("\n".to_owned(), Malformed::Lines),
            ("a\n1\n".to_owned(), Malformed::Lines),
            (format!("a\n1\n{root}"), Malformed::Lines),
            (format!("\n1\n{root}\n"), Malformed::Lines),
            (format!("a\n1\n{root}\n\n"), Malformed::Lines),
            (format!("a\n1\n{root}\n\nx\n"), Malformed::Lines),
            (format!("a\r\n1\n{root}\n"), Malformed::Lines),
            (most + "x\n", Malformed::Lines),
            (format!("a\n01\n{root}\n"), Malformed::Size),
            (format!("a\n+1\n{root}\n"), Malformed::Size),
            (format!("a\n-1\n{root}\n"), Malformed::Size),
            (format!("a\n 1\n{root}\n"), Malformed::Size),
            (format!("a\n0x1\n{root}\n"), Malformed::Size),
            (format!("a\n18446744073709551616\n{root}\n"), Malformed::Size),
            (format!("a\n1\n{root} \n"), Malformed::Root),
            (format!("a\n1\n{}\n", root.trim_end_matches('=')), Malformed::Root),
            (format!("a\n1\n{}\n", root.replace("2I=", "2J=")), Malformed::Root),
            (format!("a\n1\n{}\n", STANDARD.encode([1; 31])), Malformed::Root),
            (format!("a\n1\n{}\n", STANDARD.encode([1; 33])), Malformed::Root),
        ] {
            assert_eq!(Checkpoint::parse(&wrong), Err(why), "{wrong}");
        }
        for wrong in ["", "a b", "a\nb", "a+b", "a\u{1}"] {
            assert_eq!(Checkpoint::new(wrong, Frontier::default().head()), Err(Malformed::Origin));
        }
    }

    #[test]
    fn a_checkpoint_is_opened_by_the_key_and_the_name_of_its_log() {
        let head = Frontier::from_iter([[1; 32], [2; 32]]).head();
        let checkpoint = Checkpoint::new(ORIGIN, head).unwrap();
        let (ours, others) = (signer(ORIGIN), signer("another.example"));
        let (known, unknown) = ([ours.verifier().clone()], [others.verifier().clone()]);
        let note = checkpoint.sign(&[ours]).unwrap().to_string();
        assert_eq!(Checkpoint::open(note.as_bytes(), ORIGIN, &known), Ok(checkpoint.clone()));
        let refused =
            |note: &str, origin, known| Checkpoint::open(note.as_bytes(), origin, known).unwrap_err();
        assert_eq!(refused(&note, ORIGIN, &unknown), note::Untrusted::Unknown.into());
        assert_eq!(refused(&note, "another.example", &known), Refused::Origin(ORIGIN.to_owned()));
        let larger = note.replace("\n2\n", "\n3\n");
        assert_eq!(refused(&larger, ORIGIN, &known), note::Untrusted::Wrong(ORIGIN.to_owned()).into());
        assert_eq!(refused("", ORIGIN, &known), note::Malformed::Unsigned.into());
        let text = Note::sign("Hello.\n", &[others]).unwrap().to_string();
        assert_eq!(refused(&text, ORIGIN, &unknown), Malformed::Lines.into());
        assert_eq!(checkpoint.sign(&[]), Err(Refused::Unsigned(ORIGIN.to_owned())));
    }

    #[test]
    fn a_checkpoint_is_vouched_for_by_the_key_of_its_own_log() {
        let checkpoint = Checkpoint::new(ORIGIN, Frontier::from_iter([[1; 32]]).head()).unwrap();
        let keys = [signer(ORIGIN), signer("another.example")];
        let known = keys.each_ref().map(|key| key.verifier().clone());
        let [ours, others] = keys;
        let unsigned = Refused::Unsigned(ORIGIN.to_owned());
        // Of two logs that are known, neither vouches for the other.
        let others = [others];
        let forged = Note::sign(&checkpoint.to_string(), &others).unwrap().to_string();
        assert_eq!(Checkpoint::open(forged.as_bytes(), ORIGIN, &known), Err(unsigned.clone()));
        assert_eq!(checkpoint.sign(&others), Err(unsigned.clone()));
        // A witness signs beside it, and does not stand for it.
        let [others] = others;
        let witnessed = checkpoint.sign(&[others, ours]).unwrap().to_string();
        for keys in [&known[..], &known[..1]] {
            assert_eq!(Checkpoint::open(witnessed.as_bytes(), ORIGIN, keys), Ok(checkpoint.clone()));
        }
        assert_eq!(Checkpoint::open(witnessed.as_bytes(), ORIGIN, &known[1..]), Err(unsigned));
        // A log that changes its key keeps its name.
        let next = Signer::new(ORIGIN, &Zeroizing::new([2; 32])).unwrap();
        let keys = [known[0].clone(), next.verifier().clone()];
        let signed = checkpoint.sign(&[next]).unwrap().to_string();
        assert_eq!(Checkpoint::open(signed.as_bytes(), ORIGIN, &keys), Ok(checkpoint));
    }

    #[test]
    fn what_was_changed_since_a_checkpoint_fits_no_proof() {
        let leaves: Vec<Hash> = (0..9).map(|leaf| [leaf; 32]).collect();
        let checkpoint = |leaves: &[Hash]| {
            let head = leaves.iter().copied().collect::<Frontier>().head();
            Checkpoint::new(ORIGIN, head).unwrap().head()
        };
        let (earlier, later) = (checkpoint(&leaves[..5]), checkpoint(&leaves));
        assert_eq!(Consistency::of(&leaves, 5).unwrap().verify(&earlier, &later), Ok(()));
        assert_eq!(Inclusion::of(&leaves, 3).unwrap().verify(&leaves[3], &later), Ok(()));
        let mut changed = leaves.clone();
        changed[3] = [0x99; 32];
        let forged = checkpoint(&changed);
        assert!(Consistency::of(&changed, 5).unwrap().verify(&earlier, &forged).is_err());
        assert!(Inclusion::of(&changed, 3).unwrap().verify(&leaves[3], &forged).is_err());
    }

    proptest! {
        #[test]
        fn what_is_read_is_written_to_the_letter(
            origin in "[^\\x00-\\x1f]{1,9}",
            size: u64,
            root: Hash,
            extensions in prop::collection::vec("[^\\x00-\\x1f]{1,9}", 0..3),
        ) {
            let lines = [vec![origin, size.to_string(), STANDARD.encode(root)], extensions].concat();
            let text = lines.join("\n") + "\n";
            let checkpoint = Checkpoint::parse(&text).unwrap();
            prop_assert_eq!(checkpoint.head(), Head { size, root });
            prop_assert_eq!(checkpoint.to_string(), text);
        }
    }
}
