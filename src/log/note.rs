//! Signed notes: texts with the signatures of those who vouch for them, as <https://c2sp.org/signed-note> has them.
//!
//! A note is its text, an empty line, and a line for each signature: `— NAME BASE64`, where the base64 holds four bytes
//! that tell the key and the signature of the text. Whoever verifies one knows the keys beforehand, each as a line
//! `NAME+HASH+BASE64`. Limits are those of the first implementation, `golang.org/x/mod/sumdb/note`.
//!
//! A note's text is only to be had from [`Note::verify`]: what nobody known has signed means nothing.

use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use sha2::{Digest, Sha256};

use crate::config;
use crate::vault::Key;

/// What a line of a signature begins with.
const SIGNATURE_MARK: &str = "— ";
/// The signature type of Ed25519.
const ED25519_TYPE: u8 = 0x01;

/// A text with its signatures, whoever they are by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    text: String,
    signatures: Vec<Signature>,
}

/// A signature, as it stands in a note.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Signature {
    name: String,
    key_id: KeyId,
    bytes: Vec<u8>,
}

/// What tells keys of one name apart: the beginning of a hash, which anyone can make another key for. It proves nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct KeyId([u8; 4]);

impl KeyId {
    fn of(name: &str, public_key: &[u8; 32]) -> Self {
        let named = Sha256::new().chain_update(name).chain_update([b'\n', ED25519_TYPE]);
        let [a, b, c, d, ..]: [u8; 32] = named.chain_update(public_key).finalize().into();
        Self([a, b, c, d])
    }
}

/// A key that notes are signed with.
#[derive(Debug)]
pub struct Signer {
    verifier: Verifier,
    // On the heap, so that it is wiped when it is dropped: the allocator does that.
    pair: Box<Ed25519KeyPair>,
}

/// A key that notes are verified with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verifier {
    name: String,
    public_key: [u8; 32],
}

/// What is known of a note that was verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified<'a> {
    /// The text, with the newline at its end.
    pub text: &'a str,
    /// The known keys that have signed it, each once.
    pub by: Vec<&'a Verifier>,
}

/// A text that is no note, or that cannot become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// It is longer than any note may be.
    #[error("a note has at most {} bytes", config::NOTE_BYTES)]
    TooLong,
    /// It is not UTF-8, or holds a control character other than newline.
    #[error("a note is UTF-8 without control characters")]
    Characters,
    /// The text does not end in a newline.
    #[error("the text of a note ends in a newline")]
    Text,
    /// There is no signature after an empty line.
    #[error("a note has signatures after its last empty line, each ending in a newline")]
    Unsigned,
    /// There are more signatures than a note may have.
    #[error("a note has at most {} signatures", config::NOTE_SIGNATURES)]
    TooManySignatures,
    /// A line of a signature is not written as one.
    #[error("the line of a signature is `— NAME BASE64`")]
    Signature,
}

/// Why a note is not to be trusted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Untrusted {
    /// None of the known keys has signed it.
    #[error("no known key has signed the note")]
    Unknown,
    /// What stands there as the signature of a known key is none of this text.
    #[error("the signature by {0} is wrong")]
    Wrong(String),
}

/// A key of notes that is not one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidKey {
    /// It is not written as a key to verify with.
    #[error("a verifier key is NAME+HASH+BASE64")]
    Form,
    /// The name cannot be that of a key.
    #[error(
        "the name of a key is not empty, not long, and holds neither spaces nor `+` nor control characters"
    )]
    Name,
    /// It is of another kind than Ed25519.
    #[error("only Ed25519 keys are known")]
    Type,
    /// The hash is not that of the name and the key.
    #[error("the hash of the verifier key is not that of its name and key")]
    Hash,
}

impl Note {
    /// Reads a note. It is written again as the very same bytes.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn parse(note: &[u8]) -> Result<Self, Malformed> {
        if note.len() > config::NOTE_BYTES {
            return Err(Malformed::TooLong);
        }
        let note = std::str::from_utf8(note).map_err(|_| Malformed::Characters)?;
        if !is_text(note) {
            return Err(Malformed::Characters);
        }
        let newline = note.rfind("\n\n").ok_or(Malformed::Unsigned)?;
        let (text, signatures) = (&note[..=newline], &note[newline + 2..]);
        let lines = signatures.strip_suffix('\n').ok_or(Malformed::Unsigned)?.split('\n');
        if lines.clone().nth(config::NOTE_SIGNATURES).is_some() {
            return Err(Malformed::TooManySignatures);
        }
        let signatures = lines.map(Signature::parse).collect::<Option<_>>().ok_or(Malformed::Signature)?;
        Ok(Self { text: text.to_owned(), signatures })
    }

    /// Signs a text, which ends in a newline.
    ///
    /// # Errors
    /// [`Malformed`] where there would be no note.
    pub fn sign(text: &str, signers: &[Signer]) -> Result<Self, Malformed> {
        if !text.ends_with('\n') {
            return Err(Malformed::Text);
        }
        let signatures = signers.iter().map(|signer| signer.sign(text)).collect();
        let note = Self { text: text.to_owned(), signatures };
        // What cannot be read is not given away.
        Self::parse(note.to_string().as_bytes())
    }

    /// Verifies every signature by a key that is known; those by others are passed over.
    ///
    /// # Errors
    /// [`Untrusted`] where there is none by a known key, or one of them is wrong.
    pub fn verify<'a>(&'a self, known: &'a [Verifier]) -> Result<Verified<'a>, Untrusted> {
        let mut by: Vec<&Verifier> = vec![];
        for (index, signature) in self.signatures.iter().enumerate() {
            if self.signatures[..index].contains(signature) {
                continue;
            }
            for verifier in known.iter().filter(|verifier| verifier.is_of(signature)) {
                if !verifier.verify(&self.text, signature) {
                    return Err(Untrusted::Wrong(verifier.name.clone()));
                }
                if !by.contains(&verifier) {
                    by.push(verifier);
                }
            }
        }
        if by.is_empty() { Err(Untrusted::Unknown) } else { Ok(Verified { text: &self.text, by }) }
    }
}

impl fmt::Display for Note {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.text)?;
        formatter.write_str("\n")?;
        for Signature { name, key_id, bytes } in &self.signatures {
            let encoded = STANDARD.encode([&key_id.0[..], bytes].concat());
            writeln!(formatter, "{SIGNATURE_MARK}{name} {encoded}")?;
        }
        Ok(())
    }
}

impl Signature {
    fn parse(line: &str) -> Option<Self> {
        let (name, encoded) = line.strip_prefix(SIGNATURE_MARK)?.split_once(' ')?;
        let decoded = STANDARD.decode(encoded).ok()?;
        let (key_id, bytes) = decoded.split_first_chunk::<4>()?;
        let is_one = is_name(name) && !bytes.is_empty();
        is_one.then(|| Self { name: name.to_owned(), key_id: KeyId(*key_id), bytes: bytes.to_vec() })
    }
}

impl Signer {
    /// The key of this name that grows from a seed: the private key of RFC 8032.
    ///
    /// # Errors
    /// [`InvalidKey::Name`].
    pub fn new(name: &str, seed: &Key) -> Result<Self, InvalidKey> {
        let pair = Ed25519KeyPair::from_seed_unchecked(&seed[..]).expect("every 32 bytes are a seed");
        let pair = Box::new(pair);
        let public_key = pair.public_key().as_ref().try_into().expect("a public key has 32 bytes");
        let verifier = Verifier::new(name, public_key)?;
        Ok(Self { verifier, pair })
    }

    /// The key that verifies what this one signs.
    #[must_use]
    pub fn verifier(&self) -> &Verifier {
        &self.verifier
    }

    fn sign(&self, text: &str) -> Signature {
        let Verifier { name, .. } = &self.verifier;
        let bytes = self.pair.sign(text.as_bytes()).as_ref().to_vec();
        Signature { name: name.clone(), key_id: self.verifier.key_id(), bytes }
    }
}

impl Verifier {
    /// The key of this name that consists of these bytes, as RFC 8032 encodes it.
    ///
    /// # Errors
    /// [`InvalidKey::Name`].
    pub fn new(name: &str, public_key: [u8; 32]) -> Result<Self, InvalidKey> {
        let verifier = Self { name: name.to_owned(), public_key };
        let is_short = verifier.to_string().len() <= config::VERIFIER_KEY_BYTES;
        if is_short && is_name(name) && is_text(name) { Ok(verifier) } else { Err(InvalidKey::Name) }
    }

    /// Whose key it is.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    fn key_id(&self) -> KeyId {
        KeyId::of(&self.name, &self.public_key)
    }

    /// Whether a signature is said to be by this key.
    fn is_of(&self, signature: &Signature) -> bool {
        self.name == signature.name && self.key_id() == signature.key_id
    }

    fn verify(&self, text: &str, signature: &Signature) -> bool {
        UnparsedPublicKey::new(&ED25519, self.public_key).verify(text.as_bytes(), &signature.bytes).is_ok()
    }
}

/// Written as `NAME+HASH+BASE64`, where the hash is in hex and the base64 holds the type and the key.
impl fmt::Display for Verifier {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let encoded = STANDARD.encode([&[ED25519_TYPE][..], &self.public_key].concat());
        write!(formatter, "{}+{}+{encoded}", self.name, hex::encode(self.key_id().0))
    }
}

/// Read as it is written, and in no other spelling.
impl FromStr for Verifier {
    type Err = InvalidKey;

    fn from_str(text: &str) -> Result<Self, InvalidKey> {
        if text.len() > config::VERIFIER_KEY_BYTES {
            return Err(InvalidKey::Form);
        }
        let (name, rest) = text.split_once('+').ok_or(InvalidKey::Form)?;
        let (hash, encoded) = rest.split_once('+').ok_or(InvalidKey::Form)?;
        let decoded = STANDARD.decode(encoded).map_err(|_| InvalidKey::Form)?;
        let (kind, key) = decoded.split_first().ok_or(InvalidKey::Form)?;
        if *kind != ED25519_TYPE {
            return Err(InvalidKey::Type);
        }
        let verifier = Self::new(name, key.try_into().map_err(|_| InvalidKey::Form)?)?;
        if hex::encode(verifier.key_id().0) == hash { Ok(verifier) } else { Err(InvalidKey::Hash) }
    }
}

/// Whether a key can have this name.
pub(super) fn is_name(name: &str) -> bool {
    !name.is_empty() && !name.contains(|character: char| character.is_whitespace() || character == '+')
}

/// Whether a note can hold this.
pub(super) fn is_text(text: &str) -> bool {
    text.bytes().all(|byte| byte >= b' ' || byte == b'\n')
}

#[cfg(test)]
mod tests;
