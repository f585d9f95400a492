//! A text that is confided to the server, for as long as it has to be in memory.

use std::fmt;
use std::ops::Deref;

use serde::Deserialize;
use zeroize::Zeroizing;

/// A confided text: wiped from memory when it is dropped, and never shown.
#[derive(Clone, PartialEq, Eq, Deserialize)]
pub struct Plaintext(Zeroizing<String>);

impl Plaintext {
    /// Reads what was sealed as a text; `None` when it is none.
    #[must_use]
    pub fn from_opened(opened: &[u8]) -> Option<Self> {
        std::str::from_utf8(opened).ok().map(|text| Self(Zeroizing::new(text.to_owned())))
    }
}

impl From<String> for Plaintext {
    fn from(text: String) -> Self {
        Self(Zeroizing::new(text))
    }
}

impl Deref for Plaintext {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Plaintext {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Plaintext(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_confided_text_is_never_shown() {
        let text: Plaintext = serde_json::from_str("\"hunter2\"").unwrap();
        assert_eq!(&*text, "hunter2");
        assert_eq!(format!("{text:?} {:#?}", Some(&text)), "Plaintext(…) Some(\n    Plaintext(…),\n)");
        assert_eq!(Plaintext::from_opened(b"\xff"), None);
    }
}
