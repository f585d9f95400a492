//! What is asked: a call in the form of Anthropic's requests.

use std::borrow::Cow;

use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Number, Value};

use crate::providers::model::models::tool_id;
use crate::providers::model::{Call, Message, ToolCall, ToolDescription, ToolResult, Verbatim};

/// A call's id may have any length.
const ID_CHARACTERS: usize = usize::MAX;

#[derive(Serialize)]
struct Body<'a> {
    model: &'a str,
    max_tokens: u32,
    stream: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    temperature: Option<&'a Number>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tools: Vec<Tool<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    system: Vec<Block<'a>>,
    messages: Vec<Turn<'a>>,
}

#[derive(Serialize)]
struct Tool<'a> {
    name: &'a str,
    description: &'a str,
    input_schema: &'a Value,
    #[serde(skip_serializing_if = "Option::is_none")]
    cache_control: Option<CacheControl>,
}

#[derive(Serialize)]
struct Turn<'a> {
    role: &'static str,
    content: Content<'a>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Content<'a> {
    Blocks(Vec<Block<'a>>),
    /// Blocks that the vendor made itself.
    Verbatim(&'a RawValue),
}

/// A piece of a turn.
#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum Block<'a> {
    Text {
        text: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        cache_control: Option<CacheControl>,
    },
    ToolUse {
        id: Cow<'a, str>,
        name: &'a str,
        input: Cow<'a, RawValue>,
    },
    ToolResult {
        tool_use_id: Cow<'a, str>,
        #[serde(skip_serializing_if = "str::is_empty")]
        content: &'a str,
        #[serde(skip_serializing_if = "is_false")]
        is_error: bool,
        #[serde(skip_serializing_if = "Option::is_none")]
        cache_control: Option<CacheControl>,
    },
    Thinking {
        thinking: &'a str,
        signature: &'a str,
    },
    RedactedThinking {
        data: &'a str,
    },
}

/// A mark: what stands before it is kept for five minutes.
#[derive(Clone, Copy, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum CacheControl {
    Ephemeral,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
const fn is_false(value: &bool) -> bool {
    !*value
}

/// The JSON of a request.
pub(super) fn body(call: &Call) -> Vec<u8> {
    let body = Body {
        model: &call.model,
        max_tokens: call.max_tokens,
        stream: true,
        temperature: call.temperature.as_ref().filter(|_| takes_temperature(&call.model)),
        tools: call.tools.iter().map(tool).collect(),
        system: call.system.iter().filter_map(|text| said(text)).collect(),
        messages: call.messages.iter().filter_map(|message| turn(message, &call.model)).collect(),
    };
    serde_json::to_vec(&marked(body)).expect("a request has only names as keys, and numbers that JSON has")
}

/// Whether a model lets its temperature be set: those from version 4.7 on refuse every request that does. An id names
/// its version behind the family (`claude-opus-4-7`), or before it as ids once did (`claude-3-5-sonnet-20241022`).
fn takes_temperature(model: &str) -> bool {
    let is_version = |part: &&str| part.len() < 4 && part.bytes().all(|byte| byte.is_ascii_digit());
    let mut parts = model.split('-').skip_while(|part| !is_version(part)).take_while(is_version);
    let mut number = || parts.next().and_then(|part| part.parse::<u32>().ok());
    number().is_some_and(|major| (major, number().unwrap_or(0)) < (4, 7))
}

/// Sets the marks for the vendor's cache. Writing to it costs more than not doing so, which pays where the model has
/// tools, and so is asked again, or where the conversation goes on.
fn marked(mut body: Body<'_>) -> Body<'_> {
    if body.tools.is_empty() && body.messages.len() < 2 {
        return body;
    }
    let mark = Some(CacheControl::Ephemeral);
    match (body.system.last_mut(), body.tools.last_mut()) {
        (Some(Block::Text { cache_control, .. }), _) => *cache_control = mark,
        (_, Some(tool)) => tool.cache_control = mark,
        _ => {}
    }
    if let Some(Turn { content: Content::Blocks(blocks), .. }) = body.messages.last_mut()
        && let Some(Block::Text { cache_control, .. } | Block::ToolResult { cache_control, .. }) =
            blocks.last_mut()
    {
        *cache_control = mark;
    }
    body
}

fn tool(tool: &ToolDescription) -> Tool<'_> {
    Tool {
        name: &tool.name,
        description: &tool.description,
        input_schema: &tool.input_schema,
        cache_control: None,
    }
}

/// Text, where there is any: the vendor refuses a block without.
pub(super) fn said(text: &str) -> Option<Block<'_>> {
    (!text.trim().is_empty()).then_some(Block::Text { text, cache_control: None })
}

/// A turn; `None` for one in which nothing was said, which the vendor would refuse.
fn turn<'a>(message: &'a Message, model: &str) -> Option<Turn<'a>> {
    let (role, content) = match message {
        Message::User { text } => ("user", Content::Blocks(vec![said(text)?])),
        Message::Assistant { verbatim: Some(Verbatim { model: by, content }), .. }
            if by == model && serde_json::from_str::<&RawValue>(content).is_ok() =>
        {
            ("assistant", Content::Verbatim(serde_json::from_str(content).ok()?))
        }
        Message::Assistant { text, tool_calls, .. } => {
            let blocks: Vec<_> = said(text).into_iter().chain(tool_calls.iter().map(use_of_tool)).collect();
            if blocks.is_empty() {
                return None;
            }
            ("assistant", Content::Blocks(blocks))
        }
        Message::Tools { results } => ("user", Content::Blocks(results.iter().map(result).collect())),
    };
    Some(Turn { role, content })
}

/// A call of a tool, as it is given back.
pub(super) fn use_of_tool(call: &ToolCall) -> Block<'_> {
    Block::ToolUse { id: tool_id(&call.id, ID_CHARACTERS), name: &call.name, input: input(&call.input) }
}

/// The vendor takes objects only. What a model wrote instead is shown to it as such; the result says what is wrong.
fn input(text: &str) -> Cow<'_, RawValue> {
    match serde_json::from_str::<&RawValue>(text) {
        Ok(raw) if raw.get().starts_with('{') => Cow::Borrowed(raw),
        _ => {
            let wrapped = to_raw_value(&serde_json::json!({ "invalid_input": text }));
            Cow::Owned(wrapped.expect("an object of a text is JSON"))
        }
    }
}

fn result(result: &ToolResult) -> Block<'_> {
    Block::ToolResult {
        tool_use_id: tool_id(&result.call_id, ID_CHARACTERS),
        content: if result.text.trim().is_empty() { "" } else { &result.text },
        is_error: result.is_error,
        cache_control: None,
    }
}

#[cfg(test)]
mod tests {
    use super::takes_temperature;

    #[test]
    fn a_temperature_is_for_models_before_version_4_7() {
        for model in
            ["claude-3-5-sonnet-20241022", "claude-sonnet-4-20250514", "claude-opus-4-6", "claude-haiku-4-5"]
        {
            assert!(takes_temperature(model), "{model}");
        }
        let later = [
            "claude-opus-4-7",
            "claude-opus-4-10",
            "claude-sonnet-5",
            "claude-fable-5-2",
            "claude-mythos-preview",
        ];
        for model in later {
            assert!(!takes_temperature(model), "{model}");
        }
    }
}
