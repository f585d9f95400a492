//! Masking secrets wherever they would enter an event, a log line or an answer.
//!
//! Each value is looked for as it is and in the encodings that programs put texts into: base64 (both alphabets, padded
//! or not, at each of the three places that it can begin at within a longer text), hexadecimal, percent-encoding and
//! the escapes of JSON. In base64 the characters at the two ends that a value shares with its neighbours stay: up to
//! four bits of it.

use std::borrow::Cow;
use std::fmt::{self, Write as _};
use std::ops::Range;

use aho_corasick::{AhoCorasick, AhoCorasickKind};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use zeroize::Zeroizing;

/// The shortest value that is masked, in bytes: shorter ones are part of too many innocent texts.
pub const SHORTEST: usize = 8;
/// What stands where a secret stood.
pub const MASK: &str = "***";
/// How many bytes all that is looked for may have, in all encodings.
pub const MOST_PATTERN_BYTES: usize = 8 * 1024 * 1024;

/// RFC 3986: everything but the unreserved characters.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
/// What JavaScript's encodeURIComponent escapes.
const COMPONENT: &AsciiSet = &RESERVED.remove(b'!').remove(b'\'').remove(b'(').remove(b')').remove(b'*');
/// What HTML forms escape; a space becomes a plus sign.
const FORM: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'*').remove(b' ');

const STANDARD: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
const URL_SAFE: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// The secrets are too large to be looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the secrets are too large to be masked: in all encodings they have more than {MOST_PATTERN_BYTES} bytes"
)]
pub struct TooLarge;

/// Masks some secrets in whatever text it is given.
pub struct Redactor {
    /// `None` where there is nothing to mask.
    automaton: Option<AhoCorasick>,
    /// The longest of what is looked for, in bytes.
    longest: usize,
}

impl Redactor {
    /// Masks these values, as far as they have [`SHORTEST`] bytes or more.
    ///
    /// # Errors
    /// [`TooLarge`].
    pub fn new<'a>(values: impl IntoIterator<Item = &'a str>) -> Result<Self, TooLarge> {
        let (mut patterns, mut bytes) = (vec![], 0);
        for value in values.into_iter().filter(|value| value.len() >= SHORTEST) {
            let spellings = spellings(value);
            bytes += spellings.iter().map(|spelling| spelling.len()).sum::<usize>();
            if bytes > MOST_PATTERN_BYTES {
                return Err(TooLarge);
            }
            patterns.extend(spellings);
        }
        let longest = patterns.iter().map(|pattern| pattern.len()).max().unwrap_or(0);
        if longest == 0 {
            return Ok(Self { automaton: None, longest });
        }
        let kind = Some(AhoCorasickKind::ContiguousNFA);
        let patterns = patterns.iter().map(|pattern| pattern.as_bytes());
        let automaton = AhoCorasick::builder().kind(kind).build(patterns).map_err(|_| TooLarge)?;
        Ok(Self { automaton: Some(automaton), longest })
    }

    /// The text with every secret masked.
    #[must_use]
    pub fn text<'a>(&self, text: &'a str) -> Cow<'a, str> {
        let covered = self.covered(text.as_bytes());
        if covered.is_empty() {
            return Cow::Borrowed(text);
        }
        let mut masked = String::with_capacity(text.len());
        let mut from = 0;
        for Range { start, end } in covered {
            masked.push_str(&text[from..start]);
            masked.push_str(MASK);
            from = end;
        }
        masked.push_str(&text[from..]);
        Cow::Owned(masked)
    }

    /// Masks a text that comes in pieces, however the pieces cut the secrets in it.
    #[must_use]
    pub fn stream(&self) -> Redacting<'_> {
        Redacting { redactor: self, held: Zeroizing::default(), covered: 0 }
    }

    /// Where secrets lie, in order; those that overlap are one.
    fn covered(&self, bytes: &[u8]) -> Vec<Range<usize>> {
        let Some(automaton) = &self.automaton else { return vec![] };
        let found = automaton.find_overlapping_iter(bytes);
        // They come in the order of their ends, and a longer one begins before those that it holds.
        let mut covered: Vec<Range<usize>> = vec![];
        for Range { mut start, end } in found.map(|found| found.range()) {
            while let Some(last) = covered.pop_if(|last| last.end > start) {
                start = start.min(last.start);
            }
            covered.push(start..end);
        }
        covered
    }
}

impl fmt::Debug for Redactor {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Redactor").finish_non_exhaustive()
    }
}

/// Masks a text that comes in pieces. It holds back as much of the end as could be the beginning of a secret.
pub struct Redacting<'a> {
    redactor: &'a Redactor,
    held: Zeroizing<Vec<u8>>,
    /// How much of the beginning of what is held lies in a secret whose mask was given out already.
    covered: usize,
}

impl Redacting<'_> {
    /// Takes a piece and gives what can be told of the text so far. Where pieces are UTF-8, so is what is given.
    pub fn push(&mut self, piece: &[u8]) -> Vec<u8> {
        let mut text = Zeroizing::new(Vec::with_capacity(self.held.len() + piece.len()));
        text.extend_from_slice(&self.held);
        text.extend_from_slice(piece);
        self.held = text;
        // Whatever begins before this point ends in what is here.
        let mut settled = self.held.len().saturating_sub(self.redactor.longest.saturating_sub(1));
        while settled > 0 && settled < self.held.len() && is_continuation(self.held[settled]) {
            settled -= 1;
        }
        self.give(settled)
    }

    /// The rest of the text.
    #[must_use]
    pub fn finish(mut self) -> Vec<u8> {
        self.give(self.held.len())
    }

    /// Gives what comes before this point, and the mask of what begins before it.
    fn give(&mut self, settled: usize) -> Vec<u8> {
        let mut given = vec![];
        let mut from = self.covered;
        for Range { start, end } in self.redactor.covered(&self.held) {
            if start >= settled {
                break;
            }
            if start >= from {
                given.extend_from_slice(&self.held[from..start]);
                given.extend_from_slice(MASK.as_bytes());
            }
            from = from.max(end);
        }
        if from < settled {
            given.extend_from_slice(&self.held[from..settled]);
        }
        self.covered = from.saturating_sub(settled);
        self.held = Zeroizing::new(self.held[settled..].to_vec());
        given
    }
}

impl fmt::Debug for Redacting<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Redacting").finish_non_exhaustive()
    }
}

/// Whether a byte of UTF-8 goes on with a character.
const fn is_continuation(byte: u8) -> bool {
    byte & 0b1100_0000 == 0b1000_0000
}

/// Every way in which a value is looked for.
fn spellings(value: &str) -> Vec<Zeroizing<String>> {
    let escaped = escaped(value, |_| false);
    let mut spellings = vec![
        value.to_owned(),
        hex::encode(value),
        hex::encode_upper(value),
        self::escaped(value, |character| !character.is_ascii()),
        self::escaped(value, |character| matches!(character, '<' | '>' | '&')),
        self::escaped(value, |character| !character.is_ascii() || matches!(character, '<' | '>' | '&')),
        escaped.replace('/', "\\/"),
        self::escaped(&escaped, |_| false),
    ];
    for set in [RESERVED, COMPONENT, FORM] {
        let percent = utf8_percent_encode(value, set).to_string();
        // Only a form leaves spaces, which it writes as plus signs.
        let percent = percent.replace(' ', "+");
        spellings.push(lower_percent(&percent));
        spellings.push(percent);
    }
    for shift in 0..3 {
        let standard = base64(value.as_bytes(), shift, STANDARD);
        spellings.push(utf8_percent_encode(&standard, RESERVED).to_string());
        spellings.push(standard.replace('/', "\\/"));
        spellings.push(standard);
        spellings.push(base64(value.as_bytes(), shift, URL_SAFE));
    }
    spellings.push(escaped);
    spellings.sort_unstable();
    spellings.dedup();
    spellings.into_iter().map(Zeroizing::new).collect()
}

/// The value as it stands in a text of JSON, where these characters are written as escapes of UTF-16 too.
fn escaped(value: &str, too: impl Fn(char) -> bool) -> String {
    let mut escaped = String::with_capacity(value.len());
    for character in value.chars() {
        if too(character) {
            for unit in character.encode_utf16(&mut [0; 2]) {
                let _ = write!(escaped, "\\u{unit:04x}");
            }
        } else {
            let written = serde_json::to_string(&character).expect("a character is plain data");
            escaped.push_str(&written[1..written.len() - 1]);
        }
    }
    escaped
}

/// The same with the digits of each `%XX` in lower case.
fn lower_percent(text: &str) -> String {
    let mut since_percent = usize::MAX;
    let lowered = text.chars().map(|character| {
        since_percent = if character == '%' { 0 } else { since_percent.saturating_add(1) };
        if since_percent <= 2 { character.to_ascii_lowercase() } else { character }
    });
    lowered.collect()
}

/// The characters of base64 that only the value decides, where it follows `shift` other bytes (modulo 3).
fn base64(value: &[u8], shift: usize, alphabet: &[u8; 64]) -> String {
    let bit = |at: usize| {
        let byte = (at / 8).checked_sub(shift).map_or(0, |index| value[index]);
        byte >> (7 - at % 8) & 1
    };
    let (first, end) = ((shift * 8).div_ceil(6), (shift + value.len()) * 8 / 6);
    let digit = |at: usize| (at * 6..at * 6 + 6).fold(0, |digit, at| digit << 1 | bit(at));
    (first..end).map(|at| char::from(alphabet[usize::from(digit(at))])).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECRET: &str = "p/ss \"wörd\"<1>";

    fn redactor(values: &[&str]) -> Redactor {
        Redactor::new(values.iter().copied()).unwrap()
    }

    fn in_pieces(redactor: &Redactor, text: &[u8], sizes: &[usize]) -> Vec<u8> {
        let (mut stream, mut given, mut rest) = (redactor.stream(), vec![], text);
        for size in sizes.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (piece, after) = rest.split_at((*size).min(rest.len()));
            given.extend(stream.push(piece));
            rest = after;
        }
        given.extend(stream.finish());
        given
    }

    #[test]
    fn a_secret_is_masked_as_it_is_and_in_every_common_encoding() {
        let redactor = redactor(&[SECRET]);
        for spelled in [
            SECRET,
            "702f73732022",
            "702F73732022",
            "p%2Fss%20%22w%C3%B6rd%22%3C1%3E",
            "p%2fss%20%22w%c3%b6rd%22%3c1%3e",
            "p%2Fss+%22w%C3%B6rd%22%3C1%3E",
            r#"p/ss \"wörd\"<1>"#,
            r#"p\/ss \"wörd\"<1>"#,
            r#"p/ss \"w\u00f6rd\"\u003c1\u003e"#,
            r#"p/ss \\\"wörd\\\"<1>"#,
            "cC9zcyAid8O2cmQiPDE-",
            "cC9zcyAid8O2cmQiPDE+",
        ] {
            let spelled = if spelled.eq_ignore_ascii_case("702f73732022") {
                let hex = hex::encode(SECRET);
                if spelled.contains('F') { hex.to_uppercase() } else { hex }
            } else {
                spelled.to_owned()
            };
            assert_eq!(redactor.text(&format!("a {spelled} b")), "a *** b", "{spelled}");
        }
        assert_eq!(redactor.text("nothing to hide"), "nothing to hide");
    }

    #[test]
    fn short_values_are_left_alone_and_long_ones_are_refused() {
        assert_eq!(redactor(&["1234567", ""]).text("1234567"), "1234567");
        assert_eq!(redactor(&["12345678"]).text("12345678"), "***");
        assert_eq!(redactor(&["1234ö67"]).text("1234ö67"), "***");
        let long = "x".repeat(64 * 1024);
        assert!(redactor(&[&long]).text(&format!("<{long}>")) == "<***>");
        assert_eq!(Redactor::new(std::iter::repeat_n(&long[..], 100)).err(), Some(TooLarge));
    }

    #[test]
    fn secrets_that_overlap_are_one_mask() {
        let redactor = redactor(&["abcdefgh", "efghijkl", "cdefghijklmn"]);
        assert_eq!(redactor.text("-abcdefghijkl-"), "-***-");
        assert_eq!(redactor.text("-abcdefghijklmn-"), "-***-");
        assert_eq!(redactor.text("-abcdefghabcdefgh-"), "-******-");
        assert_eq!(in_pieces(&redactor, b"-abcdefghabcdefghijklmn-", &[1]), b"-******-");
    }

    /// Few letters, so that secrets overlap and repeat.
    fn few() -> impl Strategy<Value = String> {
        "[ab/ö]{8,12}"
    }

    proptest! {
        #[test]
        fn no_text_keeps_a_secret_however_it_is_cut(
            secrets in proptest::collection::vec(few(), 1..4),
            text in "[ab/ö ]{0,120}",
            sizes in proptest::collection::vec(1..20_usize, 1..6),
        ) {
            let secrets: Vec<&str> = secrets.iter().map(String::as_str).collect();
            let redactor = redactor(&secrets);
            let masked = redactor.text(&text);
            prop_assert!(secrets.iter().all(|secret| !masked.contains(secret)));
            let given = in_pieces(&redactor, text.as_bytes(), &sizes);
            prop_assert_eq!(String::from_utf8(given).unwrap(), masked);
        }

        #[test]
        fn a_secret_in_a_longer_base64_text_is_masked(
            secret in "[ -~ö]{8,40}",
            before in "[a-z]{0,7}",
            after in "[a-z]{0,7}",
        ) {
            let redactor = redactor(&[&secret]);
            let whole = format!("{before}{secret}{after}");
            for alphabet in [STANDARD, URL_SAFE] {
                let text = base64(whole.as_bytes(), 0, alphabet);
                let masked = redactor.text(&text);
                prop_assert!(masked.contains(MASK));
                // At the ends stand the neighbours and at most one character of base64 that is shared with them.
                let kept = masked.replace(MASK, "").len();
                prop_assert!(kept <= before.len() * 8 / 6 + after.len() * 8 / 6 + 4, "{} {}", text, masked);
            }
        }

        #[test]
        fn a_secret_is_masked_in_json_percent_and_hex(secret in "\\PC{8,30}", around in "[a-z ]{0,9}") {
            let redactor = redactor(&[&secret]);
            let json = serde_json::to_string(&format!("{around}{secret}{around}")).unwrap();
            prop_assert_eq!(redactor.text(&json), format!("\"{around}{MASK}{around}\""));
            let percent = utf8_percent_encode(&secret, RESERVED).to_string();
            prop_assert_eq!(redactor.text(&percent), MASK);
            let hex = hex::encode(&secret);
            prop_assert_eq!(redactor.text(&hex), MASK);
        }
    }
}
