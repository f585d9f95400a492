//! Language models: a conversation goes out, an answer streams back.

mod anthropic;
mod exchange;
mod mock;
mod models;
mod openai;
mod schema;
mod sse;

use std::pin::Pin;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

pub use anthropic::Anthropic;
pub use exchange::Wire;
pub use mock::Mock;
pub use models::{Models, Settings, SettingsError, Vendor};
pub use openai::OpenAi;
pub use schema::plausible;
pub use theazo_domain::agent::{Stop, Tokens as Usage};

/// What the stream of each vendor comes to that these pieces are: the text given as it came, and how it ended.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn read_streams(pieces: &[&[u8]]) -> [(String, String); 2] {
    [exchange::read_pieces(anthropic::decoder(), pieces), exchange::read_pieces(openai::decoder(), pieces)]
}

/// A vendor's protocol for asking models.
#[async_trait]
pub trait Model: Send + Sync {
    /// The body of the request, as it will be sent: its length bounds what the call can cost.
    fn prepare(&self, call: &Call) -> Prepared;

    /// Makes the call, always streamed, so that its usage is known even when it breaks off. It is never repeated here.
    ///
    /// `deltas` is given each piece of the answer's text as it arrives. `until` is for all of it; a silence is cut
    /// earlier, by a limit of the vendor's. Without a `key` (an empty one) none is sent.
    ///
    /// # Errors
    /// [`CallError`], which says whether the call may have been charged.
    async fn send(
        &self,
        prepared: &Prepared,
        key: &Zeroizing<String>,
        until: Until<'_>,
        deltas: &mut (dyn for<'a> FnMut(&'a str) + Send),
    ) -> Result<Reply, CallError>;
}

/// Why a call was broken off, or not made, that nobody waits for any longer.
pub(crate) const STOPPED: &str = "the server stops";

/// How long a call is waited for. When that is over it is broken off, and what has come by then is told.
pub struct Until<'a> {
    /// How long all of it may take.
    pub deadline: Duration,
    /// Ends when nobody waits any longer, whatever is left of that.
    pub stop: Pin<Box<dyn Future<Output = ()> + Send + 'a>>,
}

impl From<Duration> for Until<'_> {
    fn from(deadline: Duration) -> Self {
        Self { deadline, stop: Box::pin(std::future::pending()) }
    }
}

/// A call to a model.
#[derive(Debug, Clone, PartialEq)]
pub struct Call {
    /// The model's id at its vendor's.
    pub model: String,
    /// Instructions that stand before the conversation.
    pub system: Option<String>,
    /// The conversation so far; it begins with the user's.
    pub messages: Vec<Message>,
    /// The tools that it may call.
    pub tools: Vec<ToolDescription>,
    /// Output tokens at most.
    pub max_tokens: u32,
    /// As a decimal in the vendor's range, where one is asked for. It is left out for models that take none.
    pub temperature: Option<serde_json::Number>,
}

/// A turn of a conversation. Every call of a tool is answered in the turn after it: vendors refuse anything else.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "role")]
pub enum Message {
    /// What the user says.
    User {
        /// In text.
        text: String,
    },
    /// What the model said and asked for.
    Assistant {
        /// In text; may be empty where it only calls tools.
        text: String,
        /// Tools that it called, in order.
        tool_calls: Vec<ToolCall>,
        /// The same in its vendor's own words, where it has to be given back so.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        verbatim: Option<Verbatim>,
    },
    /// What came of the calls: one for each, in their order.
    Tools {
        /// The results.
        results: Vec<ToolResult>,
    },
}

/// What a model said, word for word: thinking that its vendor signed has to come back unchanged with the calls of tools
/// that it led to. It means nothing to another model, which is given the text and the calls instead.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verbatim {
    /// Which model said it.
    pub model: String,
    /// JSON text in the vendor's form.
    pub content: String,
}

/// A tool that a model may call.
#[derive(Debug, Clone, PartialEq)]
pub struct ToolDescription {
    /// Its name.
    pub name: String,
    /// What it does, for the model.
    pub description: String,
    /// JSON Schema of its input.
    pub input_schema: serde_json::Value,
}

/// A call of a tool by a model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToolCall {
    /// By which the result refers to it.
    pub id: String,
    /// Which tool.
    pub name: String,
    /// Its input: JSON text, valid or not (models make mistakes).
    pub input: String,
}

/// What came of a call of a tool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToolResult {
    /// Which call.
    pub call_id: String,
    /// In text.
    pub text: String,
    /// Whether it went wrong.
    pub is_error: bool,
}

/// The body of a request, ready to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prepared {
    /// The model that is asked.
    pub model: String,
    /// JSON.
    pub body: Vec<u8>,
    /// Output tokens that it can come to at most.
    pub most_output: u64,
}

impl Prepared {
    /// The call in this body, to a model that keeps to what it is asked for.
    fn of(call: &Call, body: Vec<u8>) -> Self {
        Self { model: call.model.clone(), body, most_output: u64::from(call.max_tokens) }
    }
}

/// The answer of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// Its text; empty where it only calls tools.
    pub text: String,
    /// Tools that it calls, in order.
    pub tool_calls: Vec<ToolCall>,
    /// Why it ended.
    pub stop: Stop,
    /// What it used. `None` where the vendor told nothing: then it may have cost up to its worst case.
    pub usage: Option<Usage>,
    /// The vendor's id of the request, else of its answer, to reconcile by.
    pub vendor_id: Option<String>,
    /// What has to be given back with the turn.
    pub verbatim: Option<Verbatim>,
}

/// A call that did not give an answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// It never reached the vendor: it cannot have cost anything, and may be made again.
    #[error("the model's vendor cannot be reached: {0}")]
    NotSent(String),
    /// The vendor refused it before it began (an error status of its own): it cost nothing.
    #[error("the model's vendor refused the call with status {status}: {message}")]
    Refused {
        /// The HTTP status.
        status: u16,
        /// The vendor's words.
        message: String,
        /// When it may be asked again, where it said so.
        retry_after: Option<Duration>,
    },
    /// It began and broke off, or no answer came: it may have cost up to its worst case.
    #[error("the call to the model broke off: {message}")]
    BrokeOff {
        /// How.
        message: String,
        /// What had arrived of the text.
        text: String,
        /// The usage that the vendor had told by then: a lower bound.
        usage: Option<Usage>,
        /// The vendor's id of the call, to reconcile by.
        vendor_id: Option<String>,
    },
}

impl CallError {
    /// It was broken off before anything was told.
    #[must_use]
    pub const fn untold(message: String) -> Self {
        Self::BrokeOff { message, text: String::new(), usage: None, vendor_id: None }
    }

    /// Whether the same call may be made again: it cost nothing, and its refusal is about the moment, not about it.
    #[must_use]
    pub const fn may_be_repeated(&self) -> bool {
        match self {
            Self::NotSent(_) => true,
            Self::Refused { status, .. } => matches!(*status, 409 | 429 | 500..),
            Self::BrokeOff { .. } => false,
        }
    }
}
