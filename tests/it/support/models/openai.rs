//! OpenAI's Chat Completions as its server sees them.
//! Source: the types of OpenAI's Python client 3.57.0 (generated from its OpenAPI document, November 2026), and the
//! refusals that its server is known for, read on 24 November 2026.

use std::collections::BTreeSet;
use std::fmt::Write;

use axum::http::HeaderMap;
use serde::Deserialize;
use serde_json::{Value, json};

use super::anthropic::pieces;
use super::{Asked, Called, Offered, Protocol, Refusal, Said, Turn, WRONG_KEY, invalid};

/// Models that reason: they take no `max_tokens` and no temperature.
const REASONING: [&str; 5] = ["o1", "o3", "o4-mini", "gpt-5", "gpt-6"];
/// Models that take tools here only where they do not reason.
const TOOLS_WITHOUT_REASONING: [&str; 4] = ["gpt-5.4", "gpt-5.5", "gpt-5.6", "gpt-6"];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Request {
    model: String,
    messages: Vec<Message>,
    stream: bool,
    stream_options: StreamOptions,
    max_tokens: Option<u32>,
    max_completion_tokens: Option<u32>,
    temperature: Option<f64>,
    reasoning_effort: Option<String>,
    tools: Option<Vec<Tool>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StreamOptions {
    include_usage: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Tool {
    r#type: String,
    function: Described,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Described {
    name: String,
    #[serde(rename = "description")]
    _description: String,
    parameters: Value,
}

#[derive(Deserialize)]
#[serde(tag = "role", rename_all = "snake_case", deny_unknown_fields)]
enum Message {
    System { content: String },
    Developer { content: String },
    User { content: String },
    Assistant { content: Option<String>, tool_calls: Option<Vec<Use>> },
    Tool { content: String, tool_call_id: String },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Use {
    id: String,
    r#type: String,
    function: Function,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Function {
    name: String,
    arguments: String,
}

/// An error's body.
pub(crate) fn error_body(kind: &str, message: &str) -> String {
    json!({ "error": { "message": message, "type": kind, "param": null, "code": null } }).to_string()
}

/// What the vendor checks before a model hears of it.
pub(super) fn check(headers: &HeaderMap, body: &[u8]) -> Result<Asked, Refusal> {
    let key = headers.get("authorization").and_then(|value| value.to_str().ok());
    let unauthorized = |message: String| Refusal { status: 401, kind: "invalid_request_error", message };
    match key.and_then(|key| key.strip_prefix("Bearer ")) {
        None | Some("") => return Err(unauthorized("You didn't provide an API key.".to_owned())),
        Some(WRONG_KEY) => return Err(unauthorized(format!("Incorrect API key provided: {WRONG_KEY}."))),
        Some(_) => {}
    }
    let json: Value = serde_json::from_slice(body).map_err(|error| invalid(error.to_string()))?;
    let request: Request = serde_json::from_slice(body).map_err(|error| invalid(error.to_string()))?;
    check_settings(&request)?;
    check_messages(&request.messages)?;
    let conversation = request.messages.into_iter().map(said).collect();
    let tools = request.tools.into_iter().flatten();
    let tools = tools.map(|tool| Offered { name: tool.function.name, schema: tool.function.parameters });
    let tools = tools.collect();
    Ok(Asked { protocol: Protocol::OpenAi, number: 0, model: request.model, conversation, tools, body: json })
}

fn is_plain(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'))
}

fn check_settings(request: &Request) -> Result<(), Refusal> {
    let is_one_of = |models: &[&str]| models.iter().any(|model| request.model.starts_with(model));
    if !request.stream || !request.stream_options.include_usage {
        return Err(invalid("this server streams only, and tells the usage"));
    }
    if is_one_of(&REASONING) {
        if request.max_tokens.is_some() {
            return Err(invalid(
                "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' \
                 instead.",
            ));
        }
        if request.temperature.is_some() {
            return Err(invalid(
                "Unsupported value: 'temperature' does not support this value with this model.",
            ));
        }
    }
    match (request.max_tokens, request.max_completion_tokens) {
        (Some(_), Some(_)) => return Err(invalid("max_tokens and max_completion_tokens exclude each other")),
        (Some(0), _) | (_, Some(0)) => return Err(invalid("max_tokens is too small: expected a value >= 1")),
        (None, None) => return Err(invalid("a limit of the output is expected here")),
        _ => {}
    }
    if request.temperature.is_some_and(|temperature| !(0.0..=2.0).contains(&temperature)) {
        return Err(invalid("Invalid 'temperature': expected a value between 0 and 2"));
    }
    let Some(tools) = &request.tools else {
        return Ok(());
    };
    if tools.is_empty() {
        return Err(invalid("Invalid 'tools': empty array. Expected an array with minimum length 1"));
    }
    if is_one_of(&TOOLS_WITHOUT_REASONING) && request.reasoning_effort.as_deref() != Some("none") {
        return Err(invalid("Function tools with reasoning_effort are not supported for this model here."));
    }
    let mut names = BTreeSet::new();
    for tool in tools {
        let name = &tool.function.name;
        if tool.r#type != "function" || !is_plain(name) || name.len() > 64 || !names.insert(name) {
            return Err(invalid(
                "Invalid 'tools[0].function.name': string does not match '^[a-zA-Z0-9_-]{1,64}$'",
            ));
        }
        if tool.function.parameters.get("type") != Some(&json!("object")) {
            return Err(invalid("Invalid schema for function: schema must be of 'type: \"object\"'"));
        }
    }
    Ok(())
}

/// Each call of a tool is answered by a message of its own before anything else is said.
fn check_messages(messages: &[Message]) -> Result<(), Refusal> {
    if messages.is_empty() {
        return Err(invalid("Invalid 'messages': empty array. Expected an array with minimum length 1"));
    }
    let mut open: BTreeSet<&str> = BTreeSet::new();
    for (place, message) in messages.iter().enumerate() {
        if let Message::Tool { tool_call_id, .. } = message {
            if !open.remove(tool_call_id.as_str()) {
                return Err(invalid(format!(
                    "messages.[{place}].role: messages with role 'tool' must be a response to a preceding message \
                     with 'tool_calls'"
                )));
            }
            continue;
        }
        if !open.is_empty() {
            return Err(invalid(
                "An assistant message with 'tool_calls' must be followed by tool messages responding to each \
                 'tool_call_id'",
            ));
        }
        let Message::Assistant { content, tool_calls } = message else { continue };
        if tool_calls.as_ref().is_some_and(Vec::is_empty) {
            return Err(invalid(
                "Invalid 'tool_calls': empty array. Expected an array with minimum length 1",
            ));
        }
        if content.is_none() && tool_calls.is_none() {
            return Err(invalid("Invalid value for 'content': expected a string, got null."));
        }
        for call in tool_calls.iter().flatten() {
            if call.id.is_empty()
                || call.id.len() > 40
                || call.r#type != "function"
                || !is_plain(&call.function.name)
            {
                return Err(invalid("Invalid 'tool_calls[0].id': expected a string of 1 to 40 characters"));
            }
            if !open.insert(&call.id) {
                return Err(invalid("Duplicate value for 'tool_call_id'"));
            }
        }
    }
    if open.is_empty() { Ok(()) } else { Err(invalid("the last message leaves calls of tools open")) }
}

fn said(message: Message) -> Said {
    match message {
        Message::System { content } | Message::Developer { content } => Said::System(content),
        Message::User { content } => Said::User(content),
        Message::Tool { content, tool_call_id } => Said::Result { call_id: tool_call_id, text: content },
        Message::Assistant { content, tool_calls } => {
            let calls = tool_calls.into_iter().flatten().map(|call| Called {
                id: call.id,
                name: call.function.name,
                input: call.function.arguments,
            });
            Said::Model { text: content.unwrap_or_default(), calls: calls.collect() }
        }
    }
}

/// A turn in the chunks of a stream.
pub(crate) fn frames(turn: &Turn, asked: &Asked) -> String {
    let mut stream = Chunks { text: String::new(), number: asked.number, model: asked.model.clone() };
    let content = if turn.calls.is_empty() { json!("") } else { Value::Null };
    stream.choice(json!({ "role": "assistant", "content": content, "refusal": null }), None);
    for piece in pieces(&turn.text) {
        stream.choice(json!({ "content": piece }), None);
    }
    for (index, call) in turn.calls.iter().enumerate() {
        let function = json!({ "name": call.name, "arguments": "" });
        let start = json!({ "index": index, "id": call.id, "type": "function", "function": function });
        stream.choice(json!({ "tool_calls": [start] }), None);
        for piece in pieces(&call.input) {
            let delta = json!({ "index": index, "function": { "arguments": piece } });
            stream.choice(json!({ "tool_calls": [delta] }), None);
        }
    }
    let fitting = if turn.calls.is_empty() { "stop" } else { "tool_calls" };
    stream.choice(json!({}), Some(turn.stop.unwrap_or(fitting)));
    let used = turn.usage;
    let prompt = used.input + used.cache_read + used.cache_write;
    let usage = json!({
        "prompt_tokens": prompt, "completion_tokens": used.output, "total_tokens": prompt + used.output,
        "prompt_tokens_details": {
            "cached_tokens": used.cache_read, "cache_write_tokens": used.cache_write, "audio_tokens": 0,
        },
        "completion_tokens_details": {
            "reasoning_tokens": 0, "audio_tokens": 0, "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    });
    stream.push(json!({ "choices": [], "usage": usage }));
    stream.text.push_str("data: [DONE]\n\n");
    stream.text
}

struct Chunks {
    text: String,
    number: usize,
    model: String,
}

impl Chunks {
    fn push(&mut self, mut chunk: Value) {
        chunk["id"] = json!(format!("chatcmpl-{:029}", self.number));
        chunk["object"] = json!("chat.completion.chunk");
        chunk["created"] = json!(1_763_942_400);
        chunk["model"] = json!(self.model);
        chunk["service_tier"] = json!("default");
        chunk["system_fingerprint"] = json!("fp_44709d6fcb");
        chunk["obfuscation"] = json!("pAd1ng");
        write!(self.text, "data: {chunk}\n\n").expect("a text takes everything");
    }

    fn choice(&mut self, delta: Value, finish_reason: Option<&str>) {
        let choice = json!({ "index": 0, "delta": delta, "logprobs": null, "finish_reason": finish_reason });
        self.push(json!({ "choices": [choice], "usage": null }));
    }
}
