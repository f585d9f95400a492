//! Anthropic's Messages API as its server sees it.
//! Source: the types of Anthropic's Python client 2.13.0 (generated from its OpenAPI document, November 2026), the
//! frames of <https://platform.claude.com/docs/en/build-with-claude/streaming>, and the refusals of
//! <https://platform.claude.com/docs/en/api/errors#common-validation-errors>, read on 24 November 2026.

use std::collections::BTreeSet;
use std::fmt::Write;

use axum::http::HeaderMap;
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{Asked, Called, Offered, Protocol, Refusal, Said, Turn, WRONG_KEY, invalid};

/// Models that refuse a temperature.
const WITHOUT_TEMPERATURE: [&str; 8] = [
    "claude-opus-4-7",
    "claude-opus-4-8",
    "claude-opus-5",
    "claude-sonnet-5",
    "claude-haiku-5",
    "claude-fable-",
    "claude-mythos-",
    "claude-opus-5-5",
];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Request {
    model: String,
    max_tokens: u32,
    messages: Vec<Message>,
    stream: bool,
    system: Option<Content>,
    temperature: Option<f64>,
    #[serde(default)]
    tools: Vec<Tool>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Message {
    role: Role,
    content: Content,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Role {
    User,
    Assistant,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Content {
    Text(String),
    Blocks(Vec<Block>),
}

#[derive(Clone, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
enum Block {
    Text {
        text: String,
        cache_control: Option<CacheControl>,
    },
    ToolUse {
        id: String,
        name: String,
        input: serde_json::Map<String, Value>,
        cache_control: Option<CacheControl>,
    },
    ToolResult {
        tool_use_id: String,
        content: Option<String>,
        #[serde(default, rename = "is_error")]
        _is_error: bool,
        cache_control: Option<CacheControl>,
    },
    Thinking {
        thinking: String,
        signature: String,
    },
}

#[derive(Clone, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
enum CacheControl {
    Ephemeral {},
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Tool {
    name: String,
    #[serde(rename = "description")]
    _description: String,
    input_schema: Value,
    cache_control: Option<CacheControl>,
}

impl Content {
    fn blocks(&self) -> Vec<Block> {
        match self {
            Self::Text(text) => vec![Block::Text { text: text.clone(), cache_control: None }],
            Self::Blocks(blocks) => blocks.clone(),
        }
    }
}

/// An error's body.
pub(crate) fn error_body(kind: &str, message: &str) -> String {
    let error = json!({ "type": kind, "message": message });
    json!({ "type": "error", "error": error, "request_id": "req_011CSHoEeqs5C35K2UUqR7Fy" }).to_string()
}

/// What the vendor checks before a model hears of it.
pub(super) fn check(headers: &HeaderMap, body: &[u8]) -> Result<Asked, Refusal> {
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let unauthorized =
        |message: &str| Refusal { status: 401, kind: "authentication_error", message: message.to_owned() };
    match header("x-api-key") {
        None | Some("") => return Err(unauthorized("x-api-key header is required")),
        Some(WRONG_KEY) => return Err(unauthorized("invalid x-api-key")),
        Some(_) => {}
    }
    if header("authorization").is_some() {
        return Err(unauthorized("one of x-api-key and authorization is enough"));
    }
    if header("anthropic-version") != Some("2023-06-01") {
        return Err(invalid("anthropic-version: header is required"));
    }
    if let Some(beta) = header("anthropic-beta") {
        return Err(invalid(format!("Unexpected value(s) `{beta}` for the `anthropic-beta` header")));
    }
    let json: Value = serde_json::from_slice(body).map_err(|error| invalid(error.to_string()))?;
    let request: Request = serde_json::from_slice(body).map_err(|error| invalid(error.to_string()))?;
    check_settings(&request)?;
    let turns = merged(&request.messages);
    check_turns(&turns)?;
    let system = request.system.iter().flat_map(Content::blocks).map(|block| match block {
        Block::Text { text, .. } if !text.trim().is_empty() => Ok(Said::System(text)),
        _ => Err(invalid("system: text content blocks must be non-empty")),
    });
    let system = system.collect::<Result<Vec<_>, _>>()?;
    let conversation = system.into_iter().chain(turns.iter().flat_map(said)).collect();
    let tools = request.tools.into_iter().map(|tool| Offered { name: tool.name, schema: tool.input_schema });
    let tools = tools.collect();
    Ok(Asked {
        protocol: Protocol::Anthropic,
        number: 0,
        model: request.model,
        conversation,
        tools,
        body: json,
    })
}

fn is_plain(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'))
}

fn check_settings(request: &Request) -> Result<(), Refusal> {
    if request.max_tokens == 0 {
        return Err(invalid("max_tokens: must be greater than or equal to 1"));
    }
    if !request.stream {
        return Err(invalid("stream: this server streams only"));
    }
    if let Some(temperature) = request.temperature {
        if !(0.0..=1.0).contains(&temperature) {
            return Err(invalid("temperature: range: 0..1"));
        }
        if WITHOUT_TEMPERATURE.iter().any(|model| request.model.starts_with(model)) {
            return Err(invalid("`temperature` is deprecated for this model."));
        }
    }
    let mut names = BTreeSet::new();
    for tool in &request.tools {
        if !is_plain(&tool.name) || tool.name.len() > 128 {
            return Err(invalid("tools.0.custom.name: String should match pattern '^[a-zA-Z0-9_-]{1,128}$'"));
        }
        if !names.insert(&tool.name) {
            return Err(invalid("tools: Tool names must be unique."));
        }
        if tool.input_schema.get("type") != Some(&json!("object")) {
            return Err(invalid("tools.0.custom.input_schema.type: Input should be 'object'"));
        }
    }
    let blocks = request.messages.iter().flat_map(|message| message.content.blocks());
    let blocks = request.system.iter().flat_map(Content::blocks).chain(blocks);
    let marks = blocks.filter(|block| {
        matches!(
            block,
            Block::Text { cache_control: Some(_), .. }
                | Block::ToolUse { cache_control: Some(_), .. }
                | Block::ToolResult { cache_control: Some(_), .. }
        )
    });
    let marks = marks.count() + request.tools.iter().filter(|tool| tool.cache_control.is_some()).count();
    if marks > 4 {
        return Err(invalid("A maximum of 4 blocks with cache_control may be provided."));
    }
    Ok(())
}

/// Turns of the same role in a row are one turn.
fn merged(messages: &[Message]) -> Vec<(Role, Vec<Block>)> {
    let mut turns: Vec<(Role, Vec<Block>)> = vec![];
    for message in messages {
        let blocks = message.content.blocks();
        match turns.last_mut().filter(|(role, _)| *role == message.role) {
            Some((_, known)) => known.extend(blocks),
            None => turns.push((message.role, blocks)),
        }
    }
    turns
}

fn check_turns(turns: &[(Role, Vec<Block>)]) -> Result<(), Refusal> {
    if turns.first().is_none_or(|(role, _)| *role != Role::User) {
        return Err(invalid("messages: first message must use the \"user\" role"));
    }
    if turns.last().is_some_and(|(role, _)| *role == Role::Assistant) {
        return Err(invalid("This model does not support assistant message prefill."));
    }
    let (mut open, mut known) = (BTreeSet::new(), BTreeSet::new());
    for (place, (role, blocks)) in turns.iter().enumerate() {
        if blocks.is_empty() {
            return Err(invalid(format!("messages.{place}: all messages must have non-empty content")));
        }
        let mut answered = BTreeSet::new();
        let mut results_may_come = true;
        for block in blocks {
            check_block(*role, block)?;
            if let Block::ToolResult { tool_use_id, .. } = block {
                let expected = results_may_come && open.contains(tool_use_id);
                if !expected || !answered.insert(tool_use_id.clone()) {
                    return Err(invalid(format!(
                        "messages.{place}: unexpected `tool_use_id` found in `tool_result` blocks: {tool_use_id}"
                    )));
                }
            } else {
                results_may_come = false;
            }
        }
        if *role == Role::User && answered != open {
            return Err(invalid(format!(
                "messages.{place}: `tool_use` ids were found without `tool_result` blocks immediately after"
            )));
        }
        open = blocks
            .iter()
            .filter_map(|block| match block {
                Block::ToolUse { id, .. } => Some(id.clone()),
                _ => None,
            })
            .collect();
        for id in &open {
            if !known.insert(id.clone()) {
                return Err(invalid(format!("messages.{place}: `tool_use` ids must be unique")));
            }
        }
    }
    Ok(())
}

fn check_block(role: Role, block: &Block) -> Result<(), Refusal> {
    match block {
        Block::Text { text, .. } if text.is_empty() => {
            Err(invalid("messages: text content blocks must be non-empty"))
        }
        Block::Text { text, .. } if text.trim().is_empty() => {
            Err(invalid("messages: text content blocks must contain non-whitespace text"))
        }
        Block::ToolUse { id, .. } if role == Role::Assistant && !is_plain(id) => {
            Err(invalid("tool_use.id: String should match pattern '^[a-zA-Z0-9_-]+$'"))
        }
        Block::Thinking { thinking, signature }
            if role == Role::Assistant && *signature != sign(thinking) =>
        {
            Err(invalid("Invalid `signature` in `thinking` block"))
        }
        Block::ToolUse { .. } | Block::Thinking { .. } if role == Role::User => {
            Err(invalid("`tool_use` and `thinking` blocks can only be in `assistant` messages"))
        }
        Block::ToolResult { .. } if role == Role::Assistant => {
            Err(invalid("`tool_result` blocks can only be in `user` messages"))
        }
        _ => Ok(()),
    }
}

fn said((role, blocks): &(Role, Vec<Block>)) -> Vec<Said> {
    let texts = blocks.iter().filter_map(|block| match block {
        Block::Text { text, .. } => Some(text.as_str()),
        _ => None,
    });
    let text: String = texts.collect();
    let results = blocks.iter().filter_map(|block| match block {
        Block::ToolResult { tool_use_id, content, .. } => {
            Some(Said::Result { call_id: tool_use_id.clone(), text: content.clone().unwrap_or_default() })
        }
        _ => None,
    });
    if *role == Role::User {
        let user = (!text.is_empty()).then_some(Said::User(text));
        return results.chain(user).collect();
    }
    let calls = blocks.iter().filter_map(|block| match block {
        Block::ToolUse { id, name, input, .. } => {
            let input = Value::Object(input.clone()).to_string();
            Some(Called { id: id.clone(), name: name.clone(), input })
        }
        _ => None,
    });
    vec![Said::Model { text, calls: calls.collect() }]
}

/// What stands for the vendor's signature of what a model thought.
fn sign(thinking: &str) -> String {
    hex::encode(Sha256::digest(thinking))
}

/// A turn in the frames of a stream.
pub(crate) fn frames(turn: &Turn, asked: &Asked) -> String {
    let used = turn.usage;
    let mut stream = Frames::default();
    let usage = json!({
        "input_tokens": used.input, "cache_creation_input_tokens": used.cache_write,
        "cache_read_input_tokens": used.cache_read, "output_tokens": 1, "service_tier": "standard",
        "cache_creation": { "ephemeral_5m_input_tokens": used.cache_write, "ephemeral_1h_input_tokens": 0 },
    });
    let message = json!({
        "id": format!("msg_{:024}", asked.number), "type": "message", "role": "assistant", "model": asked.model,
        "content": [], "stop_reason": null, "stop_sequence": null, "usage": usage,
    });
    stream.push("message_start", json!({ "message": message }));
    if let Some(thinking) = turn.thinking {
        let deltas = pieces(thinking).map(|piece| json!({ "type": "thinking_delta", "thinking": piece }));
        let signature = json!({ "type": "signature_delta", "signature": sign(thinking) });
        let start = json!({ "type": "thinking", "thinking": "", "signature": "" });
        stream.block(&start, deltas.chain([signature]));
    }
    stream.push("ping", json!({}));
    if !turn.text.is_empty() {
        let deltas = pieces(&turn.text).map(|piece| json!({ "type": "text_delta", "text": piece }));
        stream.block(&json!({ "type": "text", "text": "" }), deltas);
    }
    for call in &turn.calls {
        let deltas = std::iter::once("").chain(pieces(&call.input));
        let deltas = deltas.map(|piece| json!({ "type": "input_json_delta", "partial_json": piece }));
        let start = json!({ "type": "tool_use", "id": call.id, "name": call.name, "input": {} });
        stream.block(&start, deltas);
    }
    let fitting = if turn.calls.is_empty() { "end_turn" } else { "tool_use" };
    let delta = json!({ "stop_reason": turn.stop.unwrap_or(fitting), "stop_sequence": null });
    let usage = json!({
        "input_tokens": used.input, "cache_creation_input_tokens": used.cache_write,
        "cache_read_input_tokens": used.cache_read, "output_tokens": used.output,
    });
    stream.push("message_delta", json!({ "delta": delta, "usage": usage }));
    stream.push("message_stop", json!({}));
    stream.text
}

/// The frame of an error within a stream.
pub(crate) fn error_frame(kind: &str, message: &str) -> String {
    let mut stream = Frames::default();
    stream.push("error", json!({ "error": { "type": kind, "message": message } }));
    stream.text
}

#[derive(Default)]
struct Frames {
    text: String,
    blocks: usize,
}

impl Frames {
    fn push(&mut self, kind: &str, mut data: Value) {
        data["type"] = json!(kind);
        write!(self.text, "event: {kind}\ndata: {data}\n\n").expect("a text takes everything");
    }

    fn block(&mut self, start: &Value, deltas: impl Iterator<Item = Value>) {
        let index = self.blocks;
        self.push("content_block_start", json!({ "index": index, "content_block": start }));
        for delta in deltas {
            self.push("content_block_delta", json!({ "index": index, "delta": delta }));
        }
        self.push("content_block_stop", json!({ "index": index }));
        self.blocks += 1;
    }
}

/// A text in pieces of a few characters.
pub(super) fn pieces(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let end = rest.char_indices().nth(7).map_or(rest.len(), |(end, _)| end);
        let (piece, after) = rest.split_at(end);
        rest = after;
        (!piece.is_empty()).then_some(piece)
    })
}
