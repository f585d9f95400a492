//! Asking a search engine, by way of SearXNG's JSON interface (its documentation, "Search API").

use std::fmt::Write as _;

use serde::Deserialize;
use url::Url;

use super::{Failure, cut};
use crate::config;
use crate::providers::client::{Call, Client, Limits};

/// What a search engine found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct Found {
    /// The best first.
    #[serde(default)]
    pub results: Vec<Hit>,
}

/// A result of a search.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Hit {
    /// Where it is.
    pub url: String,
    /// Its title.
    pub title: Option<String>,
    /// An excerpt of it.
    pub content: Option<String>,
}

/// Asks the search engine at this address, and gives what it found as text for a model.
///
/// # Errors
/// [`Failure`] when it does not answer as it should.
pub async fn search(client: &Client, engine: &Url, query: &str) -> Result<String, Failure> {
    let failed = |what: String| Failure(format!("The web search failed: {what}."));
    let limits = Limits {
        header: config::SEARCH_DEADLINE,
        between: config::SEARCH_DEADLINE,
        total: config::SEARCH_DEADLINE,
        response_bytes: config::SEARCH_RESPONSE_BYTES,
        ..Limits::default()
    };
    let call = Call::get(address(engine, query));
    let reply = client.send(call, &limits).await.map_err(|error| failed(error.to_string()))?;
    let status = reply.status();
    if !status.is_success() {
        // An engine whose settings do not name the JSON format refuses it with 403.
        return Err(failed(format!("the search engine answered with status {status}")));
    }
    let body = reply.whole().await.map_err(|error| failed(error.to_string()))?;
    let found: Found = serde_json::from_slice(&body)
        .map_err(|_| failed("the search engine did not answer in its JSON form".to_owned()))?;
    Ok(told(query, &found))
}

/// `/search` below the engine's own address, which may have a path and parameters of its own.
fn address(engine: &Url, query: &str) -> Url {
    let mut url = engine.clone();
    if let Ok(mut segments) = url.path_segments_mut() {
        segments.pop_if_empty().push("search");
    }
    url.query_pairs_mut().append_pair("q", query).append_pair("format", "json");
    url
}

fn told(query: &str, found: &Found) -> String {
    if found.results.is_empty() {
        return format!("Nothing was found for: {query}");
    }
    let mut text = String::new();
    for (number, hit) in (1..).zip(found.results.iter().take(config::SEARCH_RESULTS)) {
        let title = hit.title.as_deref().map_or_else(|| "Untitled".to_owned(), one_line);
        let _ = write!(text, "{number}. {title}\n   {}\n", one_line(&hit.url));
        if let Some(excerpt) = hit.content.as_deref().map(one_line).filter(|excerpt| !excerpt.is_empty()) {
            let _ = writeln!(text, "   {excerpt}");
        }
    }
    text
}

/// A text of the web as one line of bounded length.
fn one_line(text: &str) -> String {
    let words: Vec<_> = text.split_whitespace().collect();
    cut(&words.join(" "), config::SEARCH_EXCERPT_CHARACTERS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_engine_is_asked_below_its_own_address() {
        for (engine, asked) in [
            ("http://127.0.0.1:8888", "http://127.0.0.1:8888/search?q=a+b%26c&format=json"),
            ("https://example.com/searx/?k=1", "https://example.com/searx/search?k=1&q=a+b%26c&format=json"),
        ] {
            assert_eq!(address(&Url::parse(engine).unwrap(), "a b&c").as_str(), asked);
        }
    }

    #[test]
    fn a_model_is_shown_the_best_results_a_few_lines_each() {
        let hit = |number: usize| Hit {
            url: format!("https://example.com/{number}"),
            title: Some(format!("T\n  {number}")),
            content: Some("é".repeat(10_000)),
        };
        let text = told("a", &Found { results: (1..100).map(hit).collect() });
        assert!(text.starts_with("1. T 1\n   https://example.com/1\n   éé"), "{text}");
        assert_eq!(text.lines().count(), 3 * config::SEARCH_RESULTS);
        assert!(text.lines().all(|line| line.chars().count() <= config::SEARCH_EXCERPT_CHARACTERS + 4));
        let bare = Hit { url: "https://example.com".into(), title: None, content: Some(" ".into()) };
        assert_eq!(told("a", &Found { results: vec![bare] }), "1. Untitled\n   https://example.com\n");
        assert_eq!(told("a", &Found::default()), "Nothing was found for: a");
    }
}
