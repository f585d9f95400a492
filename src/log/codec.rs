//! Format versions of events: every old one is read for ever, and a newer one than this program knows is noticed. And
//! what no event can hold, since PostgreSQL cannot: the character U+0000. Callers are refused it; in what programs,
//! models and vendors say, U+FFFD takes its place.

use std::borrow::Cow;

use serde_json::Value;
use theazo_domain::Event;
use theazo_domain::event::Written;

/// Lifts the data of one type of event from a format version to the next.
#[derive(Debug, Clone, Copy)]
pub struct Upcaster {
    /// The type of event.
    pub kind: &'static str,
    /// The version that it reads; it makes the one after it.
    pub from: i16,
    /// What changes.
    pub lift: fn(Value) -> Value,
}

/// Every upcaster there is, in the order of their versions within a type.
static UPCASTERS: [Upcaster; 0] = [];

/// Reads events of every format version up to this program's own.
#[derive(Debug, Clone, Copy)]
pub struct Codec {
    upcasters: &'static [Upcaster],
}

impl Default for Codec {
    fn default() -> Self {
        Self { upcasters: &UPCASTERS }
    }
}

/// An event that only a newer server understands.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{kind} in format version {version}")]
pub struct NewerFormat {
    /// Its type.
    pub kind: String,
    /// Its format version.
    pub version: i16,
}

/// Why an event could not be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unreadable {
    /// It was written by a newer server.
    #[error(transparent)]
    Newer(#[from] NewerFormat),
    /// Its data is not of its form: the log was tampered with, or an upcaster is missing.
    #[error("{kind} version {version}: {source}")]
    Broken { kind: String, version: i16, source: serde_json::Error },
}

impl Codec {
    /// With these upcasters instead of the program's own, to show what they do.
    #[must_use]
    pub const fn with(upcasters: &'static [Upcaster]) -> Self {
        Self { upcasters }
    }

    /// The format version of a type that this codec reads without lifting: the one after the last upcaster's.
    fn newest(self, kind: &str) -> Option<i16> {
        let own = Event::newest_version(kind)?;
        let lifted =
            self.upcasters.iter().filter(|upcaster| upcaster.kind == kind).map(|upcaster| upcaster.from + 1);
        Some(lifted.max().unwrap_or(own).max(own))
    }

    pub(crate) fn read(self, kind: &str, version: i16, data: &str) -> Result<Event, Unreadable> {
        let broken = |source| Unreadable::Broken { kind: kind.to_owned(), version, source };
        match self.newest(kind) {
            Some(newest) if version == newest => Event::read(kind, data).map_err(broken),
            Some(newest) if version < newest => {
                let mut value: Value = serde_json::from_str(data).map_err(broken)?;
                for upcaster in self.upcasters {
                    if upcaster.kind == kind && upcaster.from >= version {
                        value = (upcaster.lift)(value);
                    }
                }
                Event::read(kind, &value.to_string()).map_err(broken)
            }
            _ => Err(NewerFormat { kind: kind.to_owned(), version }.into()),
        }
    }
}

/// The character that takes the place of what cannot be kept.
const REPLACEMENT: &str = "\u{fffd}";
/// How JSON writes the character that cannot be kept.
const ESCAPED_NUL: &str = "\\u0000";

/// A text as it can be kept.
pub(crate) fn storable_text(text: String) -> String {
    if text.contains('\0') { text.replace('\0', REPLACEMENT) } else { text }
}

/// A text of JSON of which every text and every name can be kept.
pub(crate) fn storable_json(json: &str) -> Cow<'_, str> {
    if !json.contains(ESCAPED_NUL) {
        return Cow::Borrowed(json);
    }
    let (mut storable, mut rest) = (String::with_capacity(json.len()), json);
    while let Some(at) = rest.find('\\') {
        let (before, escape) = rest.split_at(at);
        storable.push_str(before);
        rest = match escape.strip_prefix(ESCAPED_NUL) {
            Some(after) => {
                storable.push_str(REPLACEMENT);
                after
            }
            None => {
                // The character after a backslash begins no escape of its own.
                let length = 1 + escape[1..].chars().next().map_or(0, char::len_utf8);
                storable.push_str(&escape[..length]);
                &escape[length..]
            }
        };
    }
    storable.push_str(rest);
    Cow::Owned(storable)
}

/// An event as it can be kept, and how it is written.
pub(crate) fn storable(event: Event) -> (Event, Written) {
    let mut written = event.write();
    if let Cow::Owned(data) = storable_json(&written.data)
        && let Ok(event) = Event::read(&written.kind, &data)
    {
        written.data = data;
        return (event, written);
    }
    (event, written)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_kept_is_replaced_in_texts_and_names_and_nothing_else_is() {
        for (json, storable) in [
            (r#"{"a":"b"}"#, r#"{"a":"b"}"#),
            (r#"{"\u0000a":["x\u0000\u0000y",1.10]}"#, "{\"\u{fffd}a\":[\"x\u{fffd}\u{fffd}y\",1.10]}"),
            (r#"{"a":"\\u0000"}"#, r#"{"a":"\\u0000"}"#),
            (r#"{"a":"\\\u0000\"é\u00001"}"#, "{\"a\":\"\\\\\u{fffd}\\\"é\u{fffd}1\"}"),
            ("\\u0000\\", "\u{fffd}\\"),
        ] {
            assert_eq!(storable_json(json), storable);
        }
        assert_eq!(storable_text("a\0b".to_owned()), "a\u{fffd}b");
    }

    const KEY: &str = r#"{"keyId":"key_01ARZ3NDEKTSV4RRFFQ69G5FAV"}"#;

    #[test]
    fn an_event_of_a_newer_format_or_an_unknown_type_is_not_guessed_at() {
        let codec = Codec::default();
        assert!(codec.read("key.revoked", 1, KEY).is_ok());
        for (kind, version) in [("key.revoked", 2), ("key.rotated", 1)] {
            assert!(matches!(codec.read(kind, version, KEY), Err(Unreadable::Newer(_))));
        }
        assert!(matches!(codec.read("key.revoked", 1, "{}"), Err(Unreadable::Broken { .. })));
    }

    #[test]
    fn an_old_event_is_lifted_version_by_version() {
        fn rename(from: &str, to: &str, mut value: Value) -> Value {
            let object = value.as_object_mut().unwrap();
            let moved = object.remove(from).unwrap();
            object.insert(to.to_owned(), moved);
            value
        }
        static LIFTS: [Upcaster; 2] = [
            Upcaster { kind: "key.revoked", from: 1, lift: |value| rename("key", "id", value) },
            Upcaster { kind: "key.revoked", from: 2, lift: |value| rename("id", "keyId", value) },
        ];
        let codec = Codec::with(&LIFTS);
        let id = "key_01ARZ3NDEKTSV4RRFFQ69G5FAV";
        let newest = codec.read("key.revoked", 3, KEY).unwrap();
        for (version, data) in [(1, format!("{{\"key\":\"{id}\"}}")), (2, format!("{{\"id\":\"{id}\"}}"))] {
            assert_eq!(codec.read("key.revoked", version, &data).unwrap(), newest);
        }
        assert!(codec.read("key.revoked", 4, KEY).is_err());
    }
}
