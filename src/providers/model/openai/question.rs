//! What is asked: a call in the form of Chat Completions.
//!
//! What a model takes is told by its id. Models that reason (`o1`, `o3`, `o4` and their kin, `gpt-5` and later) take
//! `max_completion_tokens`, no `temperature`, and instructions as `developer`; all others, wherever they run, take
//! `max_tokens`, which every server knows. From `gpt-5.4` on tools are refused here unless reasoning is off.

use std::borrow::Cow;

use serde::Serialize;
use serde_json::{Number, Value};

use crate::providers::model::models::tool_id;
use crate::providers::model::{Call, Message, ToolCall, ToolDescription, ToolResult};

/// How long the vendor lets the id of a call be.
const ID_CHARACTERS: usize = 40;

#[derive(Serialize)]
struct Body<'a> {
    model: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_tokens: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_completion_tokens: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    temperature: Option<&'a Number>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning_effort: Option<&'static str>,
    stream: bool,
    stream_options: StreamOptions,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tools: Vec<Tool<'a>>,
    messages: Vec<Said<'a>>,
}

#[derive(Serialize)]
struct StreamOptions {
    include_usage: bool,
}

#[derive(Serialize)]
#[serde(tag = "type", content = "function", rename_all = "snake_case")]
enum Tool<'a> {
    Function { name: &'a str, description: &'a str, parameters: &'a Value },
}

#[derive(Serialize)]
#[serde(tag = "role", rename_all = "snake_case")]
enum Said<'a> {
    System {
        content: &'a str,
    },
    Developer {
        content: &'a str,
    },
    User {
        content: &'a str,
    },
    Assistant {
        /// Null where it only calls tools.
        content: Option<&'a str>,
        #[serde(skip_serializing_if = "Vec::is_empty")]
        tool_calls: Vec<Use<'a>>,
    },
    Tool {
        tool_call_id: Cow<'a, str>,
        content: Cow<'a, str>,
    },
}

#[derive(Serialize)]
struct Use<'a> {
    id: Cow<'a, str>,
    r#type: &'static str,
    function: Function<'a>,
}

#[derive(Serialize)]
struct Function<'a> {
    name: &'a str,
    arguments: &'a str,
}

/// What a model is, by its id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// It says what it thinks.
    Plain,
    /// It thinks before it speaks.
    Reasoning {
        /// Whether tools are refused here unless it is told not to.
        must_not_with_tools: bool,
    },
}

impl Kind {
    fn of(model: &str) -> Self {
        let number = |text: &str| text.parse::<u32>().ok();
        if let Some(version) = model.strip_prefix("gpt-") {
            let version = version.split('-').next().unwrap_or_default();
            let (major, minor) = version.split_once('.').unwrap_or((version, "0"));
            let version = number(major).map(|major| (major, number(minor).unwrap_or(0)));
            return match version {
                Some(version) if version >= (5, 0) => {
                    Self::Reasoning { must_not_with_tools: version >= (5, 4) }
                }
                _ => Self::Plain,
            };
        }
        let generation = model.strip_prefix('o').and_then(|rest| rest.split('-').next());
        if generation.and_then(number).is_some() {
            Self::Reasoning { must_not_with_tools: false }
        } else {
            Self::Plain
        }
    }
}

/// The JSON of a request.
pub(super) fn body(call: &Call) -> Vec<u8> {
    let kind = Kind::of(&call.model);
    let is_plain = kind == Kind::Plain;
    let refuses = matches!(kind, Kind::Reasoning { must_not_with_tools: true }) && !call.tools.is_empty();
    let system = call.system.as_deref().filter(|text| !text.trim().is_empty());
    let system =
        system.map(|content| if is_plain { Said::System { content } } else { Said::Developer { content } });
    let body = Body {
        model: &call.model,
        max_tokens: is_plain.then_some(call.max_tokens),
        max_completion_tokens: (!is_plain).then_some(call.max_tokens),
        temperature: call.temperature.as_ref().filter(|_| is_plain),
        reasoning_effort: refuses.then_some("none"),
        stream: true,
        stream_options: StreamOptions { include_usage: true },
        tools: call.tools.iter().map(tool).collect(),
        messages: system.into_iter().chain(call.messages.iter().flat_map(said)).collect(),
    };
    serde_json::to_vec(&body).expect("a request has only names as keys, and numbers that JSON has")
}

fn tool(tool: &ToolDescription) -> Tool<'_> {
    Tool::Function { name: &tool.name, description: &tool.description, parameters: &tool.input_schema }
}

/// What is said in a turn: nothing where nothing was said, and each result of a tool by itself.
fn said(message: &Message) -> Vec<Said<'_>> {
    match message {
        Message::User { text } => vec![Said::User { content: text }],
        Message::Assistant { text, tool_calls, .. } if text.is_empty() && tool_calls.is_empty() => vec![],
        Message::Assistant { text, tool_calls, .. } => {
            let content = (!text.is_empty()).then_some(text.as_str());
            vec![Said::Assistant { content, tool_calls: tool_calls.iter().map(use_of_tool).collect() }]
        }
        Message::Tools { results } => results.iter().map(result).collect(),
    }
}

fn use_of_tool(call: &ToolCall) -> Use<'_> {
    Use {
        id: tool_id(&call.id, ID_CHARACTERS),
        r#type: "function",
        function: Function { name: &call.name, arguments: &call.input },
    }
}

/// The protocol has no mark for a tool that went wrong, so the text says it.
fn result(result: &ToolResult) -> Said<'_> {
    let tool_call_id = tool_id(&result.call_id, ID_CHARACTERS);
    let content = if result.is_error {
        Cow::Owned(format!("Error: {}", result.text))
    } else {
        Cow::Borrowed(result.text.as_str())
    };
    Said::Tool { tool_call_id, content }
}

#[cfg(test)]
mod tests {
    use super::Kind;

    #[test]
    fn the_id_tells_what_a_model_takes() {
        for model in [
            "gpt-4o",
            "gpt-4.1-mini",
            "gpt-3.5-turbo",
            "gpt-oss-120b",
            "llama3.3",
            "olmo-2",
            "chatgpt-4o-latest",
        ] {
            assert_eq!(Kind::of(model), Kind::Plain, "{model}");
        }
        for model in ["o1", "o3-mini", "o4-mini-2025-04-16", "gpt-5", "gpt-5-mini", "gpt-5.3-chat-latest"] {
            assert_eq!(Kind::of(model), Kind::Reasoning { must_not_with_tools: false }, "{model}");
        }
        for model in ["gpt-5.4", "gpt-5.6-sol", "gpt-5.10", "gpt-6-luna", "gpt-6.1-sol"] {
            assert_eq!(Kind::of(model), Kind::Reasoning { must_not_with_tools: true }, "{model}");
        }
    }
}
