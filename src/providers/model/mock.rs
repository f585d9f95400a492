//! What stands in for every model in test mode: it answers the same to the same, at once, and calls nobody.

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::{Call, CallError, Message, Model, Prepared, Reply, Stop, ToolCall, Until, Usage, plausible};

/// What each call counts.
const USAGE: Usage = Usage { input: 100, output: 50, cache_read: 0, cache_write: 0 };
/// A request is at least as long as the tokens that it counts: what a call may cost is bound by its length.
const BODY_BYTES: usize = 100;

/// A task calls its first tool once, if there is one, and ends with `Mock response to: TASK`.
#[derive(Debug, Clone, Copy)]
pub struct Mock;

/// What will be answered: it is known as soon as it is asked.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Answer {
    Text(String),
    Call(ToolCall),
}

#[async_trait]
impl Model for Mock {
    fn prepare(&self, call: &Call) -> Prepared {
        let answer = serde_json::to_string(&answer(call)).expect("an answer is text");
        let asked = Prepared::of(call, format!("{answer:BODY_BYTES$}").into_bytes());
        // What it counts does not depend on what is asked for.
        Prepared { most_output: asked.most_output.max(USAGE.output), ..asked }
    }

    async fn send(
        &self,
        prepared: &Prepared,
        _key: &Zeroizing<String>,
        _until: Until<'_>,
        deltas: &mut (dyn for<'a> FnMut(&'a str) + Send),
    ) -> Result<Reply, CallError> {
        let answer = serde_json::from_slice(&prepared.body)
            .map_err(|error| CallError::NotSent(format!("it was not prepared here: {error}")))?;
        let (text, tool_calls, stop) = match answer {
            Answer::Text(text) => (text, vec![], Stop::Complete),
            Answer::Call(call) => (String::new(), vec![call], Stop::ToolUse),
        };
        if !text.is_empty() {
            deltas(&text);
        }
        Ok(Reply { text, tool_calls, stop, usage: Some(USAGE), vendor_id: None, verbatim: None })
    }
}

fn answer(call: &Call) -> Answer {
    let asked = call.messages.iter().rposition(|message| matches!(message, Message::User { .. }));
    let (task, since) = match asked {
        Some(at) => (task(&call.messages[at]), &call.messages[at + 1..]),
        None => ("", &call.messages[..]),
    };
    let has_called = since.iter().any(|message| matches!(message, Message::Tools { .. }));
    match call.tools.first().filter(|_| !has_called) {
        Some(tool) => Answer::Call(ToolCall {
            id: format!("mock_call_{}", call.messages.len()),
            name: tool.name.clone(),
            input: plausible(&tool.input_schema).to_string(),
        }),
        None => Answer::Text(format!("Mock response to: {task}")),
    }
}

fn task(message: &Message) -> &str {
    match message {
        Message::User { text } => text,
        Message::Assistant { .. } | Message::Tools { .. } => "",
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;
    use crate::providers::model::{ToolDescription, ToolResult};

    async fn ask(call: &Call) -> (Reply, String) {
        let prepared = Mock.prepare(call);
        assert!(prepared.body.len() >= 100, "its length bounds its tokens");
        assert!(prepared.most_output >= USAGE.output, "whatever is asked for");
        let mut streamed = String::new();
        let key = Zeroizing::new(String::new());
        let reply =
            Mock.send(&prepared, &key, Duration::ZERO.into(), &mut |text| streamed.push_str(text)).await;
        (reply.unwrap(), streamed)
    }

    #[tokio::test]
    async fn each_task_calls_the_first_tool_once_and_is_answered() {
        let schema = json!({ "type": "object", "required": ["query"], "properties": { "query": { "type": "string" } } });
        let tool = |name: &str| ToolDescription {
            name: name.to_owned(),
            description: String::new(),
            input_schema: schema.clone(),
        };
        let mut call = Call {
            model: "claude-sonnet-4-20250514".to_owned(),
            system: None,
            messages: vec![],
            tools: vec![tool("web_search"), tool("other")],
            max_tokens: 1,
            temperature: None,
        };
        let mut ids = vec![];
        for task in ["first", "second"] {
            call.messages.push(Message::User { text: task.to_owned() });
            let (reply, streamed) = ask(&call).await;
            assert_eq!((reply.stop, reply.usage, streamed.as_str()), (Stop::ToolUse, Some(USAGE), ""));
            assert_eq!(reply.tool_calls.len(), 1);
            assert_eq!(reply.tool_calls[0].name, "web_search");
            assert!(jsonschema::is_valid(
                &schema,
                &serde_json::from_str(&reply.tool_calls[0].input).unwrap()
            ));
            let call_id = reply.tool_calls[0].id.clone();
            ids.push(call_id.clone());
            let text = "mock result".to_owned();
            let assistant =
                Message::Assistant { text: reply.text, tool_calls: reply.tool_calls, verbatim: None };
            let results = vec![ToolResult { call_id, text, is_error: false }];
            call.messages.extend([assistant, Message::Tools { results }]);
            let (reply, streamed) = ask(&call).await;
            assert_eq!((reply.stop, reply.usage), (Stop::Complete, Some(USAGE)));
            assert_eq!(reply.text, format!("Mock response to: {task}"));
            assert_eq!(streamed, reply.text);
            call.messages.push(Message::Assistant { text: reply.text, tool_calls: vec![], verbatim: None });
        }
        assert_ne!(ids[0], ids[1]);
    }
}
