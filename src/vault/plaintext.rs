//! A text that is confided to the server, for as long as it has to be in memory.

use std::fmt;
use std::io::{self, Write};
use std::ops::Deref;

use serde::{Deserialize, Serialize};
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

/// The JSON of what holds something confided, wiped from memory when it is dropped, with so many bytes left free before
/// it and room for one behind it. Its size is found out first: a text that grows moves, and leaves what it has outgrown behind as it was.
///
/// # Errors
/// When the value cannot be written as JSON.
pub fn json(free: usize, value: &impl Serialize) -> serde_json::Result<Zeroizing<Vec<u8>>> {
    let mut counted = Counted(free);
    serde_json::to_writer(&mut counted, value)?;
    let mut json = Zeroizing::new(Vec::with_capacity(counted.0 + 1));
    json.resize(free, 0);
    serde_json::to_writer(&mut *json, value)?;
    debug_assert_eq!(json.len(), counted.0, "a value reads the same twice");
    Ok(json)
}

/// What counts bytes and keeps none.
struct Counted(usize);

impl Write for Counted {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_written_where_it_stays() {
        let value = ("hunter2 \"\n\u{1F511}", vec![Some(1), None], "x".repeat(10_000));
        let written = json(4, &value).unwrap();
        assert_eq!(written.capacity(), written.len() + 1, "it has not moved since it was begun");
        assert_eq!((&written[..4], &written[4..]), (&[0; 4][..], &serde_json::to_vec(&value).unwrap()[..]));
    }

    #[test]
    fn a_confided_text_is_never_shown() {
        let text: Plaintext = serde_json::from_str("\"hunter2\"").unwrap();
        assert_eq!(&*text, "hunter2");
        assert_eq!(format!("{text:?} {:#?}", Some(&text)), "Plaintext(…) Some(\n    Plaintext(…),\n)");
        assert_eq!(Plaintext::from_opened(b"\xff"), None);
    }
}
