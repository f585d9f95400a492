//! Masking secrets wherever they would enter an event, a log line or an answer.
//!
//! Each value is looked for as it is, in base64 (both alphabets, padded or not, at each of the three places that it can
//! begin at within a longer text), and in hexadecimal; and so it is in the text with its escapes undone, for whatever
//! characters they were written: those of JSON and of programming languages, percent-encoding, the entities of HTML.
//! Ends of lines, and what stands between the digits of a dump, hide nothing. In base64 the characters at the two ends
//! that a value shares with its neighbours stay: up to four bits of it.

mod views;

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use aho_corasick::{AhoCorasick, AhoCorasickKind};
use views::View;
use zeroize::Zeroizing;

/// The shortest value that is masked, in bytes: shorter ones are part of too many innocent texts.
pub const SHORTEST: usize = 8;
/// The shortest part of a value, in bytes, that is masked at the end of a text that was cut.
pub const SHORTEST_PART: usize = 4;
/// What stands where a secret stood.
pub const MASK: &str = "***";
/// How many bytes all that is looked for may have, in all encodings.
pub const MOST_PATTERN_BYTES: usize = 8 * 1024 * 1024;

const BASE64: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// The secrets are too large to be looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the secrets are too large to be masked: in all encodings they have more than {MOST_PATTERN_BYTES} bytes"
)]
pub struct TooLarge;

/// Masks some secrets in whatever text it is given.
pub struct Redactor {
    /// `None` where there is nothing to mask.
    needles: Option<Needles>,
}

/// What is looked for.
struct Needles {
    /// The values as they are.
    plain: Needle,
    /// In digits of base64.
    base64: Needle,
    /// In hexadecimal digits, of lower case.
    hex: Needle,
}

/// What is looked for in one encoding.
struct Needle {
    automaton: AhoCorasick,
    spellings: Vec<Zeroizing<String>>,
    /// The shortest part of a spelling that is masked before a cut.
    least: usize,
}

impl Redactor {
    /// Masks these values, as far as they have [`SHORTEST`] bytes or more.
    ///
    /// # Errors
    /// [`TooLarge`].
    pub fn new<'a>(values: impl IntoIterator<Item = &'a str>) -> Result<Self, TooLarge> {
        let (mut plain, mut base64, mut hex, mut bytes) = (vec![], vec![], vec![], 0);
        for value in values.into_iter().filter(|value| value.len() >= SHORTEST) {
            // The value itself, two digits and four for each of its bytes.
            bytes += value.len() * 7;
            if bytes > MOST_PATTERN_BYTES {
                return Err(TooLarge);
            }
            plain.push(Zeroizing::new(value.to_owned()));
            base64.extend((0..3).map(|shift| Zeroizing::new(self::base64(value.as_bytes(), shift))));
            hex.push(Zeroizing::new(hex::encode(value)));
        }
        if plain.is_empty() {
            return Ok(Self { needles: None });
        }
        let plain = Needle::new(plain, SHORTEST_PART)?;
        let base64 = Needle::new(base64, SHORTEST_PART * 8 / 6)?;
        let hex = Needle::new(hex, SHORTEST_PART * 2)?;
        Ok(Self { needles: Some(Needles { plain, base64, hex }) })
    }

    /// The text with every secret masked.
    #[must_use]
    pub fn text<'a>(&self, text: &'a str) -> Cow<'a, str> {
        self.masked(text, false)
    }

    /// The text with every secret masked, and what may be the beginning of one at its end, behind which it was cut.
    #[must_use]
    pub fn cut_text<'a>(&self, text: &'a str) -> Cow<'a, str> {
        self.masked(text, true)
    }

    fn masked<'a>(&self, text: &'a str, cut: bool) -> Cow<'a, str> {
        let covered = self.needles.as_ref().map(|needles| needles.covered(text, cut)).unwrap_or_default();
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
}

impl Needles {
    /// Where secrets lie, in order; those that overlap are one.
    fn covered(&self, text: &str, cut: bool) -> Vec<Range<usize>> {
        // What is left of a character that was cut is no part of what comes before it. It is one: more are the text's own.
        let rest = if cut { text.strip_suffix(char::REPLACEMENT_CHARACTER) } else { None };
        let whole = rest.unwrap_or(text);
        let mut found = vec![];
        let mut look = |view: &View, also_digits: bool| self.look(view, (cut, also_digits), &mut found);
        let raw = View::of(whole, cut);
        look(&raw, true);
        let often: [fn(&View) -> Option<View>; 2] =
            [|view| views::backslashes(view, false), |view| views::percents(view, false)];
        for undo in often {
            let Some(once) = undo(&raw) else { continue };
            look(&once, true);
            // A text of JSON in a text of JSON, an address in an address.
            if let Some(twice) = undo(&once) {
                look(&twice, false);
            }
        }
        let others = [views::backslashes(&raw, true), views::percents(&raw, true), views::entities(&raw)];
        others.iter().flatten().for_each(|view| look(view, false));
        for range in &mut found {
            // A secret is whole characters, and so is what stands for them.
            range.start = text.floor_char_boundary(range.start);
            range.end = text.ceil_char_boundary(range.end);
        }
        joined(found)
    }

    /// Notes where secrets lie in a view, also in digits if they are to be looked for.
    fn look(&self, view: &View, (cut, also_digits): (bool, bool), found: &mut Vec<Range<usize>>) {
        self.plain.look(view, cut, found);
        if also_digits {
            self.base64.look(&views::base64_digits(view, self.base64.least), cut, found);
            self.hex.look(&views::hex_digits(view, self.hex.least), cut, found);
            views::dump_digits(view).iter().for_each(|dump| self.hex.look(dump, cut, found));
        }
    }
}

impl Needle {
    fn new(spellings: Vec<Zeroizing<String>>, least: usize) -> Result<Self, TooLarge> {
        let kind = Some(AhoCorasickKind::ContiguousNFA);
        let patterns = spellings.iter().map(|spelling| spelling.as_bytes());
        let automaton = AhoCorasick::builder().kind(kind).build(patterns).map_err(|_| TooLarge)?;
        Ok(Self { automaton, spellings, least })
    }

    fn look(&self, view: &View, cut: bool, found: &mut Vec<Range<usize>>) {
        let matches = self.automaton.find_overlapping_iter(&view.bytes[..]);
        found.extend(matches.map(|found| view.place(found.range())));
        if cut {
            let begun = self.spellings.iter().map(|spelling| begun(spelling.as_bytes(), &view.bytes)).max();
            let length = begun.unwrap_or_default();
            if length >= self.least {
                let begun = view.place(view.bytes.len() - length..view.bytes.len());
                // With what was left of an escape or a character.
                found.push(begun.start..usize::MAX);
            }
        }
    }
}

impl fmt::Debug for Redactor {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Redactor").finish_non_exhaustive()
    }
}

/// Ranges in order; those that overlap are one.
fn joined(mut ranges: Vec<Range<usize>>) -> Vec<Range<usize>> {
    ranges.sort_unstable_by_key(|range| (range.start, range.end));
    let mut joined: Vec<Range<usize>> = vec![];
    for range in ranges {
        match joined.last_mut() {
            Some(last) if range.start < last.end => last.end = last.end.max(range.end),
            _ => joined.push(range),
        }
    }
    joined
}

/// How much of the end of a text is the beginning of a pattern (Knuth, Morris and Pratt, 1977).
fn begun(pattern: &[u8], text: &[u8]) -> usize {
    // For each beginning of the pattern, how much of its own end it begins with.
    let mut borders = vec![0; pattern.len()];
    let longer = |borders: &[usize], mut length: usize, byte: u8| {
        while length > 0 && pattern[length] != byte {
            length = borders[length - 1];
        }
        length + usize::from(pattern[length] == byte)
    };
    for at in 1..pattern.len() {
        borders[at] = longer(&borders, borders[at - 1], pattern[at]);
    }
    let tail = &text[text.len().saturating_sub(pattern.len() - 1)..];
    tail.iter().fold(0, |length, byte| longer(&borders, length, *byte))
}

/// The characters of base64 that only the value decides, where it follows `shift` other bytes (modulo 3).
fn base64(value: &[u8], shift: usize) -> String {
    let bit = |at: usize| {
        let byte = (at / 8).checked_sub(shift).map_or(0, |index| value[index]);
        byte >> (7 - at % 8) & 1
    };
    let (first, end) = ((shift * 8).div_ceil(6), (shift + value.len()) * 8 / 6);
    let digit = |at: usize| (at * 6..at * 6 + 6).fold(0, |digit, at| digit << 1 | bit(at));
    (first..end).map(|at| char::from(BASE64[usize::from(digit(at))])).collect()
}

#[cfg(test)]
mod tests;
