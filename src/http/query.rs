//! Reading the path and the query string, with every mistake in the query told at once.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::str::FromStr;

use axum::extract::rejection::RawPathParamsRejection;
use axum::extract::{FromRequestParts, RawPathParams};
use axum::http::request::Parts;
use percent_encoding::percent_decode_str;
use serde::de::DeserializeOwned;
use theazo_domain::time::Timestamp;

use super::error::{Error, Field};
use crate::config;

/// The id in the path. What is not spelled like one names nothing.
pub(crate) struct Id<T>(pub(crate) T);

impl<T: FromStr, S: Send + Sync> FromRequestParts<S> for Id<T> {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Error> {
        let params =
            RawPathParams::from_request_parts(parts, state).await.map_err(|_| Error::nothing_here())?;
        let (_, text) = params.iter().next().ok_or_else(Error::nothing_here)?;
        text.parse().map(Self).map_err(|_| Error::nothing_here())
    }
}

/// The caller's own id of an end user in the path: opaque, percent-decoded, taken byte for byte.
pub(crate) struct ExternalId(pub(crate) String);

impl<S: Send + Sync> FromRequestParts<S> for ExternalId {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Error> {
        let wrong = |rule, message: &str| Error::field("userId", rule, message);
        let params = RawPathParams::from_request_parts(parts, state).await.map_err(|error| match error {
            RawPathParamsRejection::InvalidUtf8InPathParam(_) => wrong("text", "must be UTF-8"),
            _ => Error::internal("a route without its parameters"),
        })?;
        let (_, text) = params.iter().next().ok_or_else(Error::nothing_here)?;
        if text.contains('\0') {
            return Err(wrong("text", "must not contain the character U+0000"));
        }
        if text.chars().count() > config::NAME_CHARACTERS {
            return Err(wrong("maxLength", "must not be longer than 256 characters"));
        }
        Ok(Self(text.to_owned()))
    }
}

/// The parameters of a query. Each reader notes what is wrong; [`Query::finish`] tells all of it.
pub(crate) struct Query {
    given: BTreeMap<String, String>,
    /// The filters that were read, which a cursor is bound to.
    filters: Vec<(&'static str, String)>,
    fields: Vec<Field>,
}

impl<S: Send + Sync> FromRequestParts<S> for Query {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Error> {
        Ok(Self::parse(parts.uri.query().unwrap_or_default()))
    }
}

impl Query {
    pub(super) fn parse(query: &str) -> Self {
        let mut parsed = Self { given: BTreeMap::new(), filters: vec![], fields: vec![] };
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let Some(name) = decode(name) else {
                parsed.fields.push(Field::new("", "encoding", "the query is not percent-encoded UTF-8"));
                continue;
            };
            match decode(value) {
                Some(value) if value.contains('\0') => {
                    parsed.wrong(&name, "text", "must not contain the character U+0000");
                }
                Some(value) => {
                    if parsed.given.insert(name.clone(), value).is_some() {
                        parsed.wrong(&name, "single", "must be given once");
                    }
                }
                None => parsed.wrong(&name, "encoding", "must be percent-encoded UTF-8"),
            }
        }
        parsed
    }

    /// Notes a mistake.
    pub(crate) fn wrong(&mut self, name: &str, rule: &str, message: &str) {
        self.fields.push(Field::new(name, rule, message));
    }

    /// What was given under this name, which is no filter.
    pub(crate) fn plain(&self, name: &str) -> Option<String> {
        self.given.get(name).cloned()
    }

    /// A filter by a text of at most 256 characters.
    pub(crate) fn text(&mut self, name: &'static str) -> Option<String> {
        let text = self.plain(name)?;
        if text.is_empty() || text.chars().count() > config::NAME_CHARACTERS {
            self.wrong(name, "length", "must have 1 to 256 characters");
            return None;
        }
        self.filters.push((name, text.clone()));
        Some(text)
    }

    /// A filter by something that is written in one way only.
    pub(crate) fn parsed<T: FromStr>(&mut self, name: &'static str, expected: &str) -> Option<T> {
        let text = self.plain(name)?;
        let parsed = text.parse().ok();
        self.noted(name, parsed, text, expected)
    }

    /// A filter that this function reads.
    pub(crate) fn filter<T>(
        &mut self,
        name: &'static str,
        expected: &str,
        read: impl FnOnce(&str) -> Option<T>,
    ) -> Option<T> {
        let text = self.plain(name)?;
        let read = read(&text);
        self.noted(name, read, text, expected)
    }

    /// A filter by one of a list of words.
    pub(crate) fn word<T: DeserializeOwned>(&mut self, name: &'static str, expected: &str) -> Option<T> {
        let text = self.plain(name)?;
        let parsed = serde_json::from_value(text.clone().into()).ok();
        self.noted(name, parsed, text, expected)
    }

    /// A filter by a moment.
    pub(crate) fn time(&mut self, name: &'static str) -> Option<Timestamp> {
        let text = self.plain(name)?;
        let parsed = Timestamp::parse(&text).ok();
        self.noted(name, parsed, text, "an RFC 3339 time such as 2025-05-01T00:00:00.000Z")
    }

    /// A whole number within these bounds.
    pub(crate) fn whole(&mut self, name: &str, bounds: RangeInclusive<i64>) -> Option<i64> {
        let text = self.plain(name)?;
        let digits = text.bytes().all(|byte| byte.is_ascii_digit());
        match text.parse() {
            Ok(number) if digits && bounds.contains(&number) => return Some(number),
            _ if *bounds.end() == i64::MAX => {
                self.wrong(name, "range", &format!("must be a whole number from {} on", bounds.start()));
            }
            _ => {
                let message = format!("must be a whole number from {} to {}", bounds.start(), bounds.end());
                self.wrong(name, "range", &message);
            }
        }
        None
    }

    /// How many rows the page shall have.
    pub(crate) fn limit(&mut self) -> i64 {
        self.whole("limit", 1..=config::LARGEST_PAGE).unwrap_or(config::PAGE)
    }

    /// The filters that were read so far, each unambiguously.
    pub(crate) fn filters(&self) -> &[(&'static str, String)] {
        &self.filters
    }

    /// Goes on if nothing was wrong.
    ///
    /// # Errors
    /// [`Error::Unprocessable`] with all that was.
    pub(crate) fn finish(mut self) -> Result<(), Error> {
        if self.fields.is_empty() {
            return Ok(());
        }
        self.fields.sort();
        self.fields.dedup();
        Err(Error::Unprocessable(self.fields))
    }

    fn noted<T>(&mut self, name: &'static str, parsed: Option<T>, text: String, expected: &str) -> Option<T> {
        if parsed.is_some() {
            self.filters.push((name, text));
        } else {
            self.wrong(name, "format", &format!("must be {expected}"));
        }
        parsed
    }
}

/// A part of a query: `+` is a space, `%` must be followed by two hexadecimal digits, the bytes must be UTF-8.
fn decode(part: &str) -> Option<String> {
    let bytes = part.as_bytes();
    let hexadecimal = |at: usize| bytes.get(at).is_some_and(u8::is_ascii_hexdigit);
    let whole = (0..bytes.len()).all(|at| bytes[at] != b'%' || (hexadecimal(at + 1) && hexadecimal(at + 2)));
    if !whole {
        return None;
    }
    percent_decode_str(&part.replace('+', " ")).decode_utf8().ok().map(std::borrow::Cow::into_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mistake_is_told_at_once() {
        let mut query =
            Query::parse("limit=0&status=gone&createdAfter=today&userId=a&userId=b&x=%ff&y=%0&z=%00");
        query.limit();
        assert_eq!(query.word::<theazo_domain::session::Status>("status", "a status"), None);
        assert_eq!(query.time("createdAfter"), None);
        let Err(Error::Unprocessable(fields)) = query.finish() else { panic!("nothing was wrong") };
        let told: Vec<_> = fields.iter().map(|field| (field.path.as_str(), field.rule.as_str())).collect();
        let expected = [
            ("createdAfter", "format"),
            ("limit", "range"),
            ("status", "format"),
            ("userId", "single"),
            ("x", "encoding"),
            ("y", "encoding"),
            ("z", "text"),
        ];
        assert_eq!(told, expected);
    }

    #[test]
    fn a_query_is_decoded_as_a_form() {
        let mut query = Query::parse("userId=a+b%2Bc%26&&=&flag");
        assert_eq!(query.text("userId").as_deref(), Some("a b+c&"));
        assert_eq!(query.limit(), config::PAGE);
        assert!(query.finish().is_ok());
    }
}
