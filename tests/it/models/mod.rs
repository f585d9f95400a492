//! The clients of the models' vendors, against servers that are as strict as the vendors are.

mod anthropic;
mod openai;
mod refusals;

use std::time::Duration;

use serde_json::json;
use theazo::providers::client::Clients;
use theazo::providers::guard::Guard;
use theazo::providers::model::{
    Call, CallError, Message, Models, Reply, Settings, ToolCall, ToolDescription, ToolResult, Until, Vendor,
    Wire,
};
use zeroize::Zeroizing;

use crate::support::models::{ModelServer, Said};

/// Longer than anything here takes.
const DEADLINE: Duration = Duration::from_secs(30);
/// What a key looks like.
const KEY: &str = "sk-test-key-0001";

/// A way out on which a vendor may be silent for `idle`.
fn wire(idle: Duration) -> Wire {
    Wire::new(Clients::new(Guard::default()).operator, idle)
}

/// Models whose vendors are all this server, which may be silent for `idle`.
fn models(server: &ModelServer, idle: Duration) -> Models {
    let settings = Settings {
        anthropic_base_url: Some(server.anthropic_url()),
        openai_base_url: Some(server.openai_url()),
        ..Settings::default()
    };
    Models::new(settings, &wire(idle)).unwrap()
}

/// Asks the vendor of the call's model; what was streamed is the reply's text.
async fn ask(models: &Models, call: &Call) -> Result<Reply, CallError> {
    ask_with(models, call, KEY, DEADLINE).await
}

async fn ask_with(models: &Models, call: &Call, key: &str, deadline: Duration) -> Result<Reply, CallError> {
    ask_until(models, call, key, deadline.into(), |_| {}).await
}

/// Calls `hears` with each piece of the answer as it comes.
async fn ask_until(
    models: &Models,
    call: &Call,
    key: &str,
    until: Until<'_>,
    hears: impl Fn(&str) + Sync,
) -> Result<Reply, CallError> {
    let model = models.at(Vendor::of(&call.model));
    let mut streamed = String::new();
    let key = Zeroizing::new(key.to_owned());
    let mut deltas = |text: &str| {
        streamed.push_str(text);
        hears(text);
    };
    let reply = model.send(&model.prepare(call), &key, until, &mut deltas).await;
    match &reply {
        Ok(Reply { text, .. }) | Err(CallError::BrokeOff { text, .. }) => assert_eq!(&streamed, text),
        Err(_) => assert_eq!(streamed, ""),
    }
    reply
}

/// A call with one tool and one task.
fn call(model: &str) -> Call {
    Call {
        model: model.to_owned(),
        system: Some("You are an agent.".to_owned()),
        messages: vec![user("What is 6 times 7?")],
        tools: vec![tool("run_code")],
        max_tokens: 4_096,
        temperature: None,
    }
}

fn user(text: &str) -> Message {
    Message::User { text: text.to_owned() }
}

fn tool(name: &str) -> ToolDescription {
    let schema =
        json!({ "type": "object", "required": ["code"], "properties": { "code": { "type": "string" } } });
    ToolDescription { name: name.to_owned(), description: "Runs code".to_owned(), input_schema: schema }
}

fn tool_call(id: &str, input: &str) -> ToolCall {
    ToolCall { id: id.to_owned(), name: "run_code".to_owned(), input: input.to_owned() }
}

fn results(results: &[(&str, &str)]) -> Message {
    let result = |&(call_id, text): &(&str, &str)| ToolResult {
        call_id: call_id.to_owned(),
        text: text.to_owned(),
        is_error: text == "failed",
    };
    Message::Tools { results: results.iter().map(result).collect() }
}

/// The turn as it goes on with the conversation.
fn turn(reply: &Reply) -> Message {
    let Reply { text, tool_calls, verbatim, .. } = reply.clone();
    Message::Assistant { text, tool_calls, verbatim }
}

fn answered(call_id: &str, text: &str) -> Said {
    Said::Result { call_id: call_id.to_owned(), text: text.to_owned() }
}

/// What is left of a call that may have cost.
fn broke_off(result: Result<Reply, CallError>) -> (String, Option<theazo::providers::model::Usage>) {
    match result {
        Err(CallError::BrokeOff { message, usage, .. }) => (message, usage),
        other => panic!("it did not break off: {other:?}"),
    }
}
