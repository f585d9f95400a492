//! Reading the body of a request: how large, of which type, how deep; then every rule at once.

use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::{FromRequest, Request};
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use axum::http::{HeaderMap, Method, Uri};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use serde_path_to_error::Segment;
use utoipa::ToSchema;
use zeroize::{Zeroize, Zeroizing};

use super::access::Notes;
use super::error::{Error, Field};
use super::{Edge, idempotency, json, schema};
use crate::config;
use crate::log::Once;

/// What a request can bring in its body.
pub(crate) trait Input: DeserializeOwned + ToSchema + Send + 'static {
    /// Rules that a schema cannot say.
    fn check(_value: &Value, _fields: &mut Vec<Field>) {}

    /// Rules that depend on what the server's operator says, for fields that have broken no other.
    fn check_here(_edge: &Edge, _value: &Value, _fields: &mut Vec<Field>) {}
}

/// A request that changes something: what it says, and what it is known again by.
pub(crate) struct Submitted<T> {
    /// The body.
    pub(crate) body: T,
    /// The request itself.
    pub(crate) request: Signed,
}

/// The same, of a request that may come without a body.
pub(crate) struct Optional<T> {
    /// The body, or what an empty one means.
    pub(crate) body: T,
    /// The request itself.
    pub(crate) request: Signed,
}

/// What makes a request the same as another: all that the caller sent.
pub(crate) struct Signed {
    /// How.
    pub(crate) method: Method,
    /// Where to, with the query.
    pub(crate) uri: Uri,
    /// The very bytes. They may hold what is confided, so they are wiped.
    pub(crate) raw: Zeroizing<Vec<u8>>,
    /// What makes it repeatable, if it is to be carried out once.
    pub(crate) once: Option<Once>,
}

/// A body that says nothing.
#[derive(Debug, Default, Deserialize, ToSchema)]
pub(crate) struct Nothing {}

impl Input for Nothing {}

impl<T: Input> FromRequest<Edge> for Submitted<T> {
    type Rejection = Error;

    async fn from_request(request: Request, edge: &Edge) -> Result<Self, Error> {
        let (request, json, mut fields) = receive(edge, request).await?;
        if !json {
            return Err(Error::UnsupportedMediaType);
        }
        let body = parse(edge, &request.raw, &mut fields);
        settle(body, fields).map(|body| Self { body, request })
    }
}

impl<T: Input + Default> FromRequest<Edge> for Optional<T> {
    type Rejection = Error;

    async fn from_request(request: Request, edge: &Edge) -> Result<Self, Error> {
        let (request, json, mut fields) = receive(edge, request).await?;
        if !json && !request.raw.is_empty() {
            return Err(Error::UnsupportedMediaType);
        }
        let body =
            if request.raw.is_empty() { Some(T::default()) } else { parse(edge, &request.raw, &mut fields) };
        settle(body, fields).map(|body| Self { body, request })
    }
}

fn settle<T>(body: Option<T>, mut fields: Vec<Field>) -> Result<T, Error> {
    match body {
        Some(body) if fields.is_empty() => Ok(body),
        _ => {
            fields.sort();
            fields.dedup();
            Err(Error::Unprocessable(fields))
        }
    }
}

/// The whole request, whether it is said to be JSON, and what is wrong with its headers. What makes it repeatable is noted
/// with the request, for answers that are found before anything is decided.
async fn receive(edge: &Edge, request: Request) -> Result<(Signed, bool, Vec<Field>), Error> {
    let (parts, body) = request.into_parts();
    let mut fields = vec![];
    let idempotency_key = idempotency_key(&parts.headers).unwrap_or_else(|field| {
        fields.push(field);
        None
    });
    let raw = wiped(read(&parts.headers, body).await?);
    let mut signed = Signed { method: parts.method, uri: parts.uri, raw, once: None };
    let notes = parts.extensions.get::<Arc<Notes>>();
    if let Some(notes) = notes
        && let (Some(key), Some((tenant, _))) = (idempotency_key, notes.caller.get())
    {
        let once = idempotency::once(edge, *tenant, &signed, key);
        let _ = notes.once.set(once.clone());
        signed.once = Some(once);
    }
    Ok((signed, is_json(&parts.headers), fields))
}

/// The body, never more of it than a request may have.
async fn read(headers: &HeaderMap, body: Body) -> Result<Bytes, Error> {
    let announced = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|length| length > config::BODY_BYTES as u64) {
        return Err(Error::PayloadTooLarge);
    }
    match Limited::new(body, config::BODY_BYTES).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(Error::PayloadTooLarge),
        Err(_) => Err(Error::field("", "body", "the body broke off")),
    }
}

/// The bytes of a body, which lie nowhere else any more if nobody shares them.
fn wiped(bytes: Bytes) -> Zeroizing<Vec<u8>> {
    let copy = Zeroizing::new(bytes.to_vec());
    if let Ok(mut alone) = bytes.try_into_mut() {
        alone.as_mut().zeroize();
    }
    copy
}

/// Wipes the texts of a value.
fn wipe(value: Value) {
    match value {
        Value::String(mut text) => text.zeroize(),
        Value::Array(items) => items.into_iter().for_each(wipe),
        Value::Object(members) => members.into_iter().for_each(|(_, member)| wipe(member)),
        _ => {}
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    let Some(value) = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()) else { return false };
    let essence = value.split(';').next().unwrap_or_default();
    essence.trim().eq_ignore_ascii_case("application/json")
}

fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Field> {
    let mut all = headers.get_all("idempotency-key").iter();
    let Some(value) = all.next() else { return Ok(None) };
    let visible = value.as_bytes().iter().all(u8::is_ascii_graphic);
    let fits = (1..=config::IDEMPOTENCY_KEY_BYTES).contains(&value.len());
    match value.to_str() {
        Ok(key) if visible && fits && all.next().is_none() => Ok(Some(key.to_owned())),
        _ => {
            let message = format!(
                "must be one header of 1 to {} visible ASCII characters",
                config::IDEMPOTENCY_KEY_BYTES
            );
            Err(Field::new("Idempotency-Key", "header", message))
        }
    }
}

/// The body as `T`; every field that is wrong is noted.
fn parse<T: Input>(edge: &Edge, raw: &[u8], fields: &mut Vec<Field>) -> Option<T> {
    if depth(raw) > config::JSON_DEPTH {
        let message = format!("must not be nested more than {} deep", config::JSON_DEPTH);
        fields.push(Field::new("", "depth", message));
        return None;
    }
    let (value, repeated) = match json::read(raw) {
        Ok(read) => read,
        Err(error) => {
            let place = format!("is not valid JSON at line {} column {}", error.line(), error.column());
            fields.push(Field::new("", "json", place));
            return None;
        }
    };
    fields.extend(repeated.into_iter().map(|path| {
        let path = path.replace('\0', "\u{fffd}");
        Field::new(path, "unique", "must not be given more than once")
    }));
    if raw.windows(ESCAPED_NUL.len()).any(|window| window == ESCAPED_NUL) {
        find_nul(&value, &mut vec![], fields);
    }
    fields.extend(schema::violations::<T>(&value));
    T::check(&value, fields);
    T::check_here(edge, &value, fields);
    wipe(value);
    let mut reader = serde_json::Deserializer::from_slice(raw);
    match serde_path_to_error::deserialize(&mut reader) {
        Ok(body) => Some(body),
        Err(error) => {
            let path = dotted(error.path());
            // Mostly a schema has said it already, and in more words.
            if !fields.iter().any(|field| is_about(&field.path, &path)) {
                fields.push(unread(path, error.inner()));
            }
            None
        }
    }
}

/// `limits.maxCost.amount`, `inputs.3`.
fn dotted(path: &serde_path_to_error::Path) -> String {
    let segments = path.iter().filter_map(|segment| match segment {
        Segment::Seq { index } => Some(index.to_string()),
        Segment::Map { key } => Some(key.clone()),
        Segment::Enum { .. } | Segment::Unknown => None,
    });
    segments.collect::<Vec<_>>().join(".")
}

/// Whether one path leads to the other, or on from it.
fn is_about(one: &str, other: &str) -> bool {
    let leads = |to: &str, on: &str| {
        to.is_empty() || on.strip_prefix(to).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    };
    leads(one, other) || leads(other, one)
}

/// What a number is told that has more digits than are kept.
pub(crate) const TOO_MANY_DIGITS: &str = "must not have more than 28 digits";

/// What no schema has said. The error's own text may hold values.
fn unread(path: String, error: &serde_json::Error) -> Field {
    if error.to_string().starts_with(TOO_MANY_DIGITS) {
        return Field::new(path, "digits", TOO_MANY_DIGITS);
    }
    Field::new(path, "type", "cannot be read")
}

const ESCAPED_NUL: &[u8] = br"\u0000";

/// Notes every text and name that holds the character that PostgreSQL cannot store.
fn find_nul(value: &Value, path: &mut Vec<String>, fields: &mut Vec<Field>) {
    let note = |path: &[String]| {
        let path = path.join(".").replace('\0', "\u{fffd}");
        Field::new(path, "text", "must not contain the character U+0000")
    };
    match value {
        Value::String(text) if text.contains('\0') => fields.push(note(path)),
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                path.push(index.to_string());
                find_nul(item, path, fields);
                path.pop();
            }
        }
        Value::Object(members) => {
            for (name, member) in members {
                path.push(name.clone());
                if name.contains('\0') {
                    fields.push(note(path));
                }
                find_nul(member, path, fields);
                path.pop();
            }
        }
        _ => {}
    }
}

/// How deeply the brackets of a JSON text are nested. Told before it is parsed, whatever else is wrong with it.
fn depth(raw: &[u8]) -> usize {
    let (mut depth, mut deepest) = (0_usize, 0);
    let (mut in_text, mut escaped) = (false, false);
    for byte in raw {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_text => escaped = true,
            b'"' => in_text = !in_text,
            b'[' | b'{' if !in_text => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b']' | b'}' if !in_text => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

/// A rule that schemas cannot say: how large the metadata may be, as JSON.
pub(crate) fn check_metadata(value: &Value, fields: &mut Vec<Field>) {
    let size = value.get("metadata").map_or(0, |metadata| metadata.to_string().len());
    if size > config::METADATA_BYTES {
        let message = format!("must not be larger than {} bytes as JSON", config::METADATA_BYTES);
        fields.push(Field::new("metadata", "maxBytes", message));
    }
}

/// JSON without the white space between its parts; its texts and numbers stay as they were written.
pub(crate) fn compact(json: &str) -> String {
    let mut compact = String::with_capacity(json.len());
    let (mut in_text, mut escaped) = (false, false);
    for character in json.chars() {
        match character {
            _ if escaped => escaped = false,
            '\\' if in_text => escaped = true,
            '"' => in_text = !in_text,
            _ => {}
        }
        if in_text || !matches!(character, ' ' | '\t' | '\r' | '\n') {
            compact.push(character);
        }
    }
    compact
}

/// A member that is there, null or not.
pub(crate) fn given<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Option<T>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

/// A whole number however JSON writes it: `5`, `5.0` and `5e0` are the same number, to a schema too.
pub(crate) fn whole<'de, D: Deserializer<'de>>(deserializer: D) -> Result<i64, D::Error> {
    let number = serde_json::Number::deserialize(deserializer)?;
    let exact = number.as_i64().or_else(|| {
        let float = number.as_f64()?;
        // Up to here every whole number has one float and one only.
        (float.fract() == 0.0 && float.abs() <= 9_007_199_254_740_992.0)
            .then(|| float.to_string().parse().ok())?
    });
    exact.ok_or_else(|| serde::de::Error::custom("expected a whole number"))
}

/// The same, where it may be left out or null.
pub(crate) fn optional_whole<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<i64>, D::Error> {
    #[derive(Deserialize)]
    struct Whole(#[serde(deserialize_with = "whole")] i64);
    Ok(Option::<Whole>::deserialize(deserializer)?.map(|Whole(number)| number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn depth_is_counted_outside_of_texts_only() {
        assert_eq!(depth(br#"{"a":[1,{"b":"[[[\"[["}]}"#), 3);
        assert_eq!(depth(b"]]][["), 2);
        assert_eq!(depth(b"1"), 0);
    }

    #[test]
    fn compacting_leaves_texts_and_numbers_alone() {
        let json = "{ \"a b\" : [ 1.50 ,\n \"x \\\" y\" ] }";
        assert_eq!(compact(json), r#"{"a b":[1.50,"x \" y"]}"#);
    }

    #[test]
    fn a_whole_number_may_be_written_as_a_float() {
        let read = |text: &str| whole(&mut serde_json::Deserializer::from_str(text)).ok();
        assert_eq!(read("5"), Some(5));
        assert_eq!(read("5.0"), Some(5));
        assert_eq!(read("5e2"), Some(500));
        assert_eq!(read("5.5"), None);
        assert_eq!(read("1e300"), None);
        assert_eq!(read("\"5\""), None);
    }
}
