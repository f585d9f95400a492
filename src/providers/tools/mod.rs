//! The built-in tools: what models are told of them, what they may give to them, and those that need no sandbox.

/// Making an HTTP request.
pub mod http_request;
/// What a model gives to a tool, held against the tool's schema.
pub mod input;
/// Making JavaScript of TypeScript.
pub mod typescript;
/// Asking a search engine.
pub mod web_search;

/// What stands behind the end of a result that was cut, on a line of its own; why may follow, and a bracket.
pub const CUT: &str = "\n[cut";

/// Why a tool gives no result: in words for the model, which may do better with them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Failure(pub String);

/// A text of at most so many characters; one that is longer ends with an ellipsis.
fn cut(text: &str, characters: usize) -> String {
    match text.char_indices().nth(characters) {
        None => text.to_owned(),
        Some(_) => text.chars().take(characters.saturating_sub(1)).chain(['…']).collect(),
    }
}
