//! Making an HTTP request that a model asks for.

use std::borrow::Cow;
use std::fmt::Write as _;

use hyper::body::Bytes;
use reqwest::Method;
use reqwest::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use url::Url;

use super::{CUT, Failure, input::HttpRequest};
use crate::config;
use crate::providers::client::{Call, Client, Excerpt, Limits};

/// Makes a request, and gives the answer, whatever its status, as text for a model: the status, the headers and as much
/// of the body as a model is shown.
///
/// # Errors
/// [`Failure`] when the request cannot be made, may not be, or is not answered.
pub async fn request(client: &Client, asked: &HttpRequest) -> Result<String, Failure> {
    let call = call(asked)?;
    let (method, url) = (call.method.clone(), call.url.clone());
    let limits = Limits {
        header: config::HTTP_TOOL_DEADLINE,
        between: config::HTTP_TOOL_DEADLINE,
        total: config::HTTP_TOOL_DEADLINE,
        response_bytes: config::HTTP_TOOL_BODY_BYTES,
        ..Limits::default()
    };
    let failed = |what: String| Failure(format!("The request failed: {what}."));
    let reply = client.send(call, &limits).await.map_err(|error| failed(error.to_string()))?;
    let mut text = format!("HTTP status {}\n", reply.status());
    if reply.url != url {
        let _ = writeln!(text, "redirected to: {}", reply.url);
    }
    let headers = reply.headers().clone();
    write_headers(&mut text, &headers);
    text.push('\n');
    let body = reply.excerpt().await.map_err(|error| failed(error.to_string()))?;
    if method != Method::HEAD {
        write_body(&mut text, &body, &headers);
    }
    Ok(text)
}

fn call(asked: &HttpRequest) -> Result<Call, Failure> {
    let url = Url::parse(&asked.url);
    let url = url.map_err(|error| Failure(format!("`url` is not an address: {error}.")))?;
    let method = Method::from_bytes(asked.method.as_bytes());
    let method = method.map_err(|_| Failure("`method` is not a method of HTTP.".to_owned()))?;
    let mut headers = HeaderMap::new();
    for (name, value) in &asked.headers {
        let wrong = || Failure(format!("`headers`: {name:?} cannot be sent as a header with this value."));
        let (name, value) = (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_str(value));
        headers.append(name.map_err(|_| wrong())?, value.map_err(|_| wrong())?);
    }
    let body = asked.body.clone().map_or_else(Bytes::new, Bytes::from);
    Ok(Call { method, url, headers, body })
}

fn write_headers(text: &mut String, headers: &HeaderMap) {
    let begin = text.len();
    for (name, value) in headers {
        let line = format!("{name}: {}\n", String::from_utf8_lossy(value.as_bytes()));
        if text.len() - begin + line.len() > config::HTTP_TOOL_HEADER_BYTES {
            text.push_str("[more headers]\n");
            return;
        }
        text.push_str(&line);
    }
}

fn write_body(text: &mut String, body: &Excerpt, headers: &HeaderMap) {
    let header = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    let kind = header(CONTENT_TYPE).unwrap_or("of no stated type");
    let Some(shown) = readable(body, kind) else {
        let size = match (header(CONTENT_LENGTH), body.truncated) {
            (Some(length), true) => format!("{length} bytes"),
            (None, true) => format!("more than {} bytes", body.bytes.len()),
            (_, false) => format!("{} bytes", body.bytes.len()),
        };
        let _ = write!(text, "[binary: {kind}, {size}]");
        return;
    };
    text.push_str(&shown);
    if body.truncated {
        let _ = write!(text, "{CUT}: only the first {} bytes are shown]", body.bytes.len());
    }
}

/// A body that is text, without the part of a character that the cut has left at its end. What is said to be text and is
/// in another encoding than UTF-8 loses what is not ASCII.
fn readable<'a>(body: &'a Excerpt, kind: &str) -> Option<Cow<'a, str>> {
    let whole = match std::str::from_utf8(&body.bytes) {
        Ok(text) => text,
        Err(error) if body.truncated && error.error_len().is_none() => {
            std::str::from_utf8(&body.bytes[..error.valid_up_to()]).ok()?
        }
        Err(_) if kind.starts_with("text/") && !body.bytes.contains(&0) => {
            return Some(String::from_utf8_lossy(&body.bytes));
        }
        Err(_) => return None,
    };
    // Text has no other control characters than these; an image may be valid UTF-8 by chance.
    let usual = |character: char| matches!(character, '\t' | '\n' | '\r' | '\u{c}' | '\u{1b}');
    let strange = |character: char| character.is_control() && !usual(character);
    (!whole.chars().any(strange)).then_some(Cow::Borrowed(whole))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_told_from_what_is_not() {
        let read = |bytes: &[u8], truncated, kind| {
            let body = Excerpt { bytes: bytes.to_vec(), truncated };
            readable(&body, kind).map(Cow::into_owned)
        };
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(read("{\"é\": 1}\r\n".as_bytes(), false, "application/json"), some("{\"é\": 1}\r\n"));
        assert_eq!(read(b"", false, ""), some(""));
        assert_eq!(read(b"ab\xc3", true, ""), some("ab"), "the cut is within a character");
        assert_eq!(read(b"caf\xe9", false, "text/html; charset=iso-8859-1"), some("caf\u{fffd}"));
        for bytes in [&b"ab\xc3"[..], b"\x89PNG\r\n", b"a\0b", b"\xff\xfea\0"] {
            assert_eq!(read(bytes, false, "application/octet-stream"), None, "{bytes:?}");
        }
        assert_eq!(read(b"\xff\xfea\0", false, "text/plain; charset=utf-16"), None);
    }

    #[test]
    fn what_cannot_be_sent_is_told_by_its_field() {
        let asked = |method: &str, url: &str, name: &str, value: &str| {
            let headers = [(name.to_owned(), value.to_owned())].into();
            let asked = HttpRequest { method: method.into(), url: url.into(), headers, body: None };
            call(&asked).unwrap_err().0
        };
        assert!(asked("GET", "example.com", "a", "b").starts_with("`url`"));
        assert!(asked("G T", "http://example.com", "a", "b").starts_with("`method`"));
        assert!(asked("GET", "http://example.com", "a b", "c").starts_with("`headers`"));
        assert!(asked("GET", "http://example.com", "a", "b\r\nc: d").starts_with("`headers`"));
    }
}
