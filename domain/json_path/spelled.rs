//! The spelling of a text that the library reads, of all that RFC 9535 allows it.
//!
//! The library wants the high half of a surrogate pair (`\uD83D`) in capitals, and no blanks before `..`. So the digits
//! of every escape are made capitals, and those blanks are left out; before two dots, outside of strings, they mean
//! nothing wherever they may stand, and leaving them out makes no text valid that was not.

use super::{Invalid, LONGEST, Rule};

/// What RFC 9535 calls blanks, and nothing else: beyond ASCII everything is a letter of a name.
pub(super) const BLANKS: [char; 4] = [' ', '\t', '\n', '\r'];

/// A text as the library reads it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Spelled {
    pub text: String,
    /// For every blank that was left out, the byte before which it would stand.
    left_out: Vec<usize>,
}

#[derive(Clone, Copy)]
enum Within {
    Nothing,
    /// A string, by its quote.
    String(char),
    /// The character behind a `\`.
    Escape(char),
    /// The hexadecimal digits of an escape, and how many more there are.
    Digits(char, u8),
}

impl Spelled {
    pub(super) fn of(text: &str) -> Result<Self, Invalid> {
        let mut spelled = Self { text: String::with_capacity(text.len()), left_out: vec![] };
        if text.len() > LONGEST {
            return Err(spelled.invalid(0, Rule::TooLong));
        }
        let mut within = Within::Nothing;
        for (at, mut character) in text.char_indices() {
            if matches!(within, Within::Nothing) && text[at..].starts_with("..") {
                spelled.leave_out_blanks();
            }
            if matches!(within, Within::Digits(..)) {
                character.make_ascii_uppercase();
            }
            within = within.behind(character);
            spelled.text.push(character);
        }
        Ok(spelled)
    }

    fn leave_out_blanks(&mut self) {
        let kept = self.text.trim_end_matches(BLANKS).len();
        self.left_out.extend((kept..self.text.len()).map(|_| kept));
        self.text.truncate(kept);
    }

    /// A rule that is broken at this byte of the text as it is spelled here.
    pub(super) fn invalid(&self, byte: usize, rule: Rule) -> Invalid {
        let before = self.text.char_indices().take_while(|(at, _)| *at < byte).count();
        let left_out = self.left_out.iter().filter(|at| **at <= byte).count();
        Invalid { rule, place: before + left_out + 1 }
    }
}

impl Within {
    /// Where the next character stands.
    fn behind(self, character: char) -> Self {
        match self {
            Self::Nothing if matches!(character, '\'' | '"') => Self::String(character),
            Self::Nothing => Self::Nothing,
            Self::Escape(quote) if character == 'u' => Self::Digits(quote, 4),
            Self::Escape(quote) => Self::String(quote),
            Self::Digits(quote, left) if character.is_ascii_hexdigit() => {
                if left > 1 {
                    Self::Digits(quote, left - 1)
                } else {
                    Self::String(quote)
                }
            }
            Self::String(quote) | Self::Digits(quote, _) => match character {
                '\\' => Self::Escape(quote),
                _ if character == quote => Self::Nothing,
                _ => Self::String(quote),
            },
        }
    }
}
