//! What is answered: the chunks of Chat Completions.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use crate::providers::model::exchange::{self, Deltas, Partial, words};
use crate::providers::model::{Reply, Stop, ToolCall, Usage, sse};
use crate::random;

/// What stands in the place of a chunk when no more come.
const END: &str = "[DONE]";

#[derive(Deserialize)]
struct Chunk {
    #[serde(default)]
    id: Option<String>,
    #[serde(default)]
    choices: Vec<Choice>,
    #[serde(default)]
    usage: Option<Told>,
    #[serde(default)]
    error: Option<Value>,
}

#[derive(Deserialize)]
struct Choice {
    #[serde(default)]
    index: u32,
    #[serde(default)]
    delta: Delta,
    #[serde(default)]
    finish_reason: Option<String>,
}

#[derive(Default, Deserialize)]
struct Delta {
    #[serde(default)]
    content: Option<String>,
    #[serde(default)]
    refusal: Option<String>,
    #[serde(default)]
    tool_calls: Option<Vec<CallDelta>>,
}

#[derive(Deserialize)]
struct CallDelta {
    /// Some servers send a whole call at once, without a place.
    #[serde(default)]
    index: Option<u32>,
    #[serde(default)]
    id: Option<String>,
    #[serde(default)]
    function: Option<FunctionDelta>,
}

#[derive(Deserialize)]
struct FunctionDelta {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    arguments: Option<String>,
}

/// The whole input, and of it what was read from and written to the cache. Some vendors leave what a model has reasoned
/// out of `completion_tokens`, and have it in the total.
#[derive(Deserialize)]
struct Told {
    #[serde(default)]
    prompt_tokens: u64,
    #[serde(default)]
    completion_tokens: u64,
    #[serde(default)]
    total_tokens: Option<u64>,
    #[serde(default)]
    prompt_tokens_details: Option<PromptDetails>,
}

#[derive(Default, Deserialize)]
struct PromptDetails {
    #[serde(default)]
    cached_tokens: Option<u64>,
    #[serde(default)]
    cache_write_tokens: Option<u64>,
}

/// Puts an answer together.
#[derive(Debug, Default)]
pub(super) struct Decoder {
    id: Option<String>,
    text: String,
    refused: bool,
    calls: BTreeMap<u32, ToolCall>,
    usage: Option<Usage>,
    /// Whether the usage was told once the answer had stopped, so that it is of all of it.
    is_used_up: bool,
    stop: Option<String>,
    ended: bool,
}

impl Decoder {
    fn tell(&mut self, told: &Told) {
        let details = told.prompt_tokens_details.as_ref();
        let cache_read = details.and_then(|details| details.cached_tokens).unwrap_or(0);
        let cache_write = details.and_then(|details| details.cache_write_tokens).unwrap_or(0);
        let input = told.prompt_tokens.saturating_sub(cache_read).saturating_sub(cache_write);
        let beyond_prompt = told.total_tokens.unwrap_or(0).saturating_sub(told.prompt_tokens);
        let output = told.completion_tokens.max(beyond_prompt);
        self.usage = Some(Usage { input, output, cache_read, cache_write });
    }

    fn add(&mut self, delta: Delta, deltas: &mut Deltas<'_>) {
        self.refused |= delta.refusal.as_ref().is_some_and(|refusal| !refusal.is_empty());
        for text in [delta.content, delta.refusal].into_iter().flatten().filter(|text| !text.is_empty()) {
            self.text.push_str(&text);
            deltas(&text);
        }
        for call in delta.tool_calls.into_iter().flatten() {
            let next = self.calls.last_key_value().map_or(0, |(last, _)| last.saturating_add(1));
            let empty = ToolCall { id: String::new(), name: String::new(), input: String::new() };
            let known = self.calls.entry(call.index.unwrap_or(next)).or_insert(empty);
            if let Some(id) = call.id.filter(|id| !id.is_empty()) {
                known.id = id;
            }
            let Some(function) = call.function else { continue };
            if let Some(name) = function.name.filter(|name| !name.is_empty()) {
                known.name = name;
            }
            known.input.push_str(&function.arguments.unwrap_or_default());
        }
    }

    /// A call without an id gets one, since its result has to name it; one without an input has an empty one.
    fn tool_calls(calls: BTreeMap<u32, ToolCall>) -> Vec<ToolCall> {
        let calls = calls.into_values().map(|mut call| {
            if call.id.is_empty() {
                call.id = format!("call_{}", hex::encode(random::bytes::<12>()));
            }
            if call.input.trim().is_empty() {
                "{}".clone_into(&mut call.input);
            }
            call
        });
        calls.collect()
    }
}

impl exchange::Decoder for Decoder {
    fn take(&mut self, event: &sse::Event, deltas: &mut Deltas<'_>) -> Result<(), String> {
        if event.data.trim() == END {
            self.ended = true;
            return Ok(());
        }
        if event.name == "error" {
            return Err(words(event.data.as_bytes()));
        }
        let chunk: Chunk = serde_json::from_str(&event.data)
            .map_err(|error| format!("a chunk of the stream cannot be understood: {error}"))?;
        if chunk.error.is_some_and(|error| !error.is_null()) {
            return Err(words(event.data.as_bytes()));
        }
        self.id = chunk.id.filter(|id| !id.is_empty()).or(self.id.take());
        for choice in chunk.choices.into_iter().filter(|choice| choice.index == 0) {
            self.add(choice.delta, deltas);
            self.stop = choice.finish_reason.or(self.stop.take());
        }
        if let Some(usage) = &chunk.usage {
            self.tell(usage);
            self.is_used_up = self.stop.is_some();
        }
        Ok(())
    }

    fn has_ended(&self) -> bool {
        self.ended
    }

    /// The answer is whole once the reason is told why it stopped; its usage comes with that or behind it, and where the
    /// stream breaks off in between, what the call cost is not known. Some servers tell the usage all along: what they
    /// told before is not that of the whole answer.
    fn finish(self) -> Result<Reply, Partial> {
        let is_whole = self.ended || self.is_used_up;
        let Some(reason) = self.stop.filter(|_| is_whole) else {
            return Err(Partial { text: self.text, usage: self.usage, vendor_id: self.id });
        };
        let tool_calls = Self::tool_calls(self.calls);
        let stop = match reason.as_str() {
            "length" => Stop::MaxTokens,
            "content_filter" => Stop::Refusal,
            _ if self.refused => Stop::Refusal,
            _ if tool_calls.is_empty() => Stop::Complete,
            _ => Stop::ToolUse,
        };
        let usage = self.usage.filter(|_| self.is_used_up);
        let (text, vendor_id) = (self.text, self.id);
        Ok(Reply { text, tool_calls, stop, usage, vendor_id, verbatim: None })
    }
}
