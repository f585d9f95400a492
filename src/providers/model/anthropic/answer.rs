//! What is answered: the events of Anthropic's streams.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use super::question;
use crate::providers::model::exchange::{self, Deltas, Partial};
use crate::providers::model::{Reply, Stop, ToolCall, Usage, Verbatim, sse};

/// New kinds of events and deltas may come at any time, and are passed over; so the vendor's versioning has it.
#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Event {
    MessageStart {
        message: Start,
    },
    ContentBlockStart {
        index: u32,
        content_block: Block,
    },
    ContentBlockDelta {
        index: u32,
        delta: Delta,
    },
    MessageDelta {
        delta: Ending,
        usage: Told,
    },
    MessageStop {},
    Error {
        error: VendorError,
    },
    #[serde(other)]
    Other,
}

#[derive(Deserialize)]
struct Start {
    id: String,
    usage: Told,
}

/// What is told of the usage: at the start, and again at the end, where the numbers are of the whole answer.
#[derive(Deserialize)]
struct Told {
    input_tokens: Option<u64>,
    output_tokens: Option<u64>,
    cache_read_input_tokens: Option<u64>,
    cache_creation_input_tokens: Option<u64>,
}

#[derive(Deserialize)]
struct Ending {
    stop_reason: Option<String>,
}

#[derive(Deserialize)]
struct VendorError {
    #[serde(rename = "type")]
    kind: String,
    message: String,
}

#[derive(Deserialize)]
#[serde(tag = "type")]
enum Delta {
    #[serde(rename = "text_delta")]
    Text { text: String },
    #[serde(rename = "input_json_delta")]
    InputJson { partial_json: String },
    #[serde(rename = "thinking_delta")]
    Thinking { thinking: String },
    #[serde(rename = "signature_delta")]
    Signature { signature: String },
    #[serde(other)]
    Other,
}

/// A block, at first as it starts and then with what was added to it.
#[derive(Debug, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Block {
    Text {
        text: String,
    },
    ToolUse {
        id: String,
        name: String,
        /// Whole only where it is not told in pieces.
        input: Value,
        #[serde(skip)]
        pieces: String,
    },
    Thinking {
        thinking: String,
        #[serde(default)]
        signature: String,
    },
    RedactedThinking {
        data: String,
    },
    #[serde(other)]
    Other,
}

impl Block {
    /// The input of a tool, as the model wrote it.
    fn input(input: &Value, pieces: &str) -> String {
        if pieces.is_empty() { input.to_string() } else { pieces.to_owned() }
    }
}

/// Puts an answer together.
#[derive(Debug)]
pub(super) struct Decoder {
    model: String,
    id: Option<String>,
    blocks: BTreeMap<u32, Block>,
    usage: Option<Usage>,
    stop: Option<String>,
    ended: bool,
}

impl Decoder {
    /// For an answer of `model`.
    pub(super) fn new(model: &str) -> Self {
        Self {
            model: model.to_owned(),
            id: None,
            blocks: BTreeMap::new(),
            usage: None,
            stop: None,
            ended: false,
        }
    }

    fn add(&mut self, index: u32, delta: Delta, deltas: &mut Deltas<'_>) -> Result<(), String> {
        match (self.blocks.get_mut(&index), delta) {
            (Some(Block::Text { text }), Delta::Text { text: more }) => {
                text.push_str(&more);
                deltas(&more);
            }
            (Some(Block::ToolUse { pieces, .. }), Delta::InputJson { partial_json }) => {
                pieces.push_str(&partial_json);
            }
            (Some(Block::Thinking { thinking, .. }), Delta::Thinking { thinking: more }) => {
                thinking.push_str(&more);
            }
            (Some(Block::Thinking { signature, .. }), Delta::Signature { signature: more }) => {
                signature.push_str(&more);
            }
            (_, Delta::Other) | (Some(Block::Other), _) => {}
            _ => return Err("the stream adds to what it has not begun".to_owned()),
        }
        Ok(())
    }

    fn tell(&mut self, told: &Told) {
        let usage = self.usage.get_or_insert_default();
        usage.input = told.input_tokens.unwrap_or(usage.input);
        usage.output = told.output_tokens.unwrap_or(usage.output);
        usage.cache_read = told.cache_read_input_tokens.unwrap_or(usage.cache_read);
        usage.cache_write = told.cache_creation_input_tokens.unwrap_or(usage.cache_write);
    }

    fn text(&self) -> String {
        let texts = self.blocks.values().filter_map(|block| match block {
            Block::Text { text } => Some(text.as_str()),
            _ => None,
        });
        texts.collect()
    }

    fn tool_calls(&self) -> Vec<ToolCall> {
        let calls = self.blocks.values().filter_map(|block| match block {
            Block::ToolUse { id, name, input, pieces } => {
                Some(ToolCall { id: id.clone(), name: name.clone(), input: Block::input(input, pieces) })
            }
            _ => None,
        });
        calls.collect()
    }

    /// The turn word for word, where there is something in it that only these words carry.
    fn verbatim(&self) -> Option<Verbatim> {
        let is_thought =
            |block: &Block| matches!(block, Block::Thinking { .. } | Block::RedactedThinking { .. });
        if !self.blocks.values().any(is_thought) {
            return None;
        }
        let calls = self.tool_calls();
        let mut calls = calls.iter();
        let blocks = self.blocks.values().filter_map(|block| match block {
            Block::Text { text } => question::said(text),
            Block::ToolUse { .. } => calls.next().map(question::use_of_tool),
            Block::Thinking { thinking, signature } => {
                Some(question::Block::Thinking { thinking, signature })
            }
            Block::RedactedThinking { data } => Some(question::Block::RedactedThinking { data }),
            Block::Other => None,
        });
        let blocks: Vec<_> = blocks.collect();
        let content = serde_json::to_string(&blocks).expect("blocks have only names as keys");
        Some(Verbatim { model: self.model.clone(), content })
    }
}

impl exchange::Decoder for Decoder {
    fn take(&mut self, event: &sse::Event, deltas: &mut Deltas<'_>) -> Result<(), String> {
        let event = serde_json::from_str(&event.data)
            .map_err(|error| format!("an event of the stream cannot be understood: {error}"))?;
        match event {
            Event::MessageStart { message } => {
                self.tell(&message.usage);
                self.id = Some(message.id);
            }
            Event::ContentBlockStart { index, content_block } => {
                if let Block::Text { text } = &content_block
                    && !text.is_empty()
                {
                    deltas(text);
                }
                self.blocks.insert(index, content_block);
            }
            Event::ContentBlockDelta { index, delta } => self.add(index, delta, deltas)?,
            Event::MessageDelta { delta, usage } => {
                self.tell(&usage);
                self.stop = delta.stop_reason.or(self.stop.take());
            }
            Event::MessageStop {} => self.ended = true,
            Event::Error { error } => return Err(format!("{}: {}", error.kind, error.message)),
            Event::Other => {}
        }
        Ok(())
    }

    fn has_ended(&self) -> bool {
        self.ended
    }

    /// Once the reason is told why it stopped, the answer and its usage are whole.
    fn finish(self) -> Result<Reply, Partial> {
        let Some(reason) = &self.stop else {
            return Err(Partial { text: self.text(), usage: self.usage, vendor_id: self.id });
        };
        let tool_calls = self.tool_calls();
        let stop = match reason.as_str() {
            "max_tokens" | "model_context_window_exceeded" => Stop::MaxTokens,
            "refusal" => Stop::Refusal,
            _ if tool_calls.is_empty() => Stop::Complete,
            _ => Stop::ToolUse,
        };
        let (text, verbatim) = (self.text(), self.verbatim());
        Ok(Reply { text, tool_calls, stop, usage: self.usage, vendor_id: self.id, verbatim })
    }
}
