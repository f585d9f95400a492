//! OpenAI's Chat Completions.

use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use serde_json::json;
use theazo::providers::model::{Call, CallError, Message, Reply, Stop, Usage};

use super::{DEADLINE, ask, ask_with, broke_off, call, models, results, tool, tool_call, turn, user};
use crate::support::models::script::{Cuts, Used};
use crate::support::models::{Answer, Asked, Delivery, End, ModelServer, Protocol, Said, Turn, openai};

const MODEL: &str = "gpt-4o";

/// A turn with everything in it.
fn rich() -> Turn {
    let usage = Used { input: 40, output: 90, cache_read: 2_048, cache_write: 300 };
    let turn = Turn { usage, ..Turn::says("Zwölf € — I will\n\nrun it.") };
    turn.and_calls("call_01", "run_code", r#"{"code": "print(\"6 × 7\")"}"#)
        .and_calls("call_02", "run_code", "")
}

fn usage() -> Usage {
    Usage { input: 40, output: 90, cache_read: 2_048, cache_write: 300 }
}

async fn whole_reply() -> Reply {
    let server = ModelServer::scripted([rich().into()]).await;
    ask(&models(&server, DEADLINE), &call(MODEL)).await.unwrap()
}

/// The stream of that turn.
async fn stream() -> String {
    let server = ModelServer::scripted([rich().into()]).await;
    ask(&models(&server, DEADLINE), &call(MODEL)).await.unwrap();
    openai::frames(&rich(), &server.asked()[0])
}

fn raw(body: impl Into<String>) -> Answer {
    Answer::Stream { content_type: "text/event-stream", body: body.into(), delivery: Delivery::default() }
}

#[tokio::test]
async fn a_conversation_with_parallel_tools_goes_through_turn_by_turn() {
    let server = ModelServer::scripted([rich().into(), Turn::says("It is 42.").into()]).await;
    let models = models(&server, DEADLINE);
    let mut call = call(MODEL);
    call.temperature = Some(serde_json::Number::from_f64(0.25).unwrap());

    let reply = ask(&models, &call).await.unwrap();
    assert_eq!(reply.text, "Zwölf € — I will\n\nrun it.");
    let calls = [tool_call("call_01", r#"{"code": "print(\"6 × 7\")"}"#), tool_call("call_02", "{}")];
    assert_eq!(reply.tool_calls, calls);
    assert_eq!((reply.stop, reply.usage), (Stop::ToolUse, Some(usage())));
    assert_eq!(reply.vendor_id.as_deref(), Some("req_5f3b8a0c1d2e4f60"));

    call.messages.extend([turn(&reply), results(&[("call_01", "42"), ("call_02", "failed")])]);
    let reply = ask(&models, &call).await.unwrap();
    assert_eq!((reply.text.as_str(), reply.stop), ("It is 42.", Stop::Complete));
    assert_eq!(reply.tool_calls, vec![]);

    assert_eq!(server.refused(), Vec::<String>::new());
    let asked = &server.asked()[1];
    assert_eq!((asked.protocol, asked.results()), (Protocol::OpenAi, vec!["42", "Error: failed"]));
    assert_eq!(asked.conversation[0], Said::System("You are an agent.".to_owned()));
    assert_eq!((&asked.body["temperature"], &asked.body["max_tokens"]), (&json!(0.25), &json!(4_096)));
    assert_eq!(asked.body["messages"][0]["role"], "system");
}

#[tokio::test]
async fn each_model_is_given_what_it_takes() {
    let server = ModelServer::new(|_| Turn::says("42").into()).await;
    let models = models(&server, DEADLINE);
    let plain = json!({ "max_tokens": 4_096, "temperature": 1 });
    let reasoning = json!({ "max_completion_tokens": 4_096 });
    let reasoning_off = json!({ "max_completion_tokens": 4_096, "reasoning_effort": "none" });
    for (model, expected) in [
        ("gpt-4.1-mini", &plain),
        ("llama3.3:70b", &plain),
        ("o3-mini", &reasoning),
        ("gpt-5-mini", &reasoning),
        ("gpt-5.6-luna", &reasoning_off),
        ("gpt-6-sol", &reasoning_off),
    ] {
        let mut call = call(model);
        call.temperature = Some(1.into());
        ask(&models, &call).await.unwrap();
        let body = server.asked().pop().unwrap().body;
        let names = ["max_tokens", "max_completion_tokens", "temperature", "reasoning_effort"];
        let sent = names.iter().filter_map(|&name| Some((name.to_owned(), body.get(name)?.clone())));
        assert_eq!(&sent.collect::<serde_json::Value>(), expected, "{model}");
        let role = if expected == &plain { "system" } else { "developer" };
        assert_eq!(body["messages"][0]["role"], role, "{model}");
    }
}

#[tokio::test]
async fn a_server_of_ones_own_may_need_no_key() {
    let server = ModelServer::new(|_| Turn::says("42").into()).await;
    let models = models(&server, DEADLINE);
    let error = ask_with(&models, &call("llama3.3"), "", DEADLINE).await.unwrap_err();
    let CallError::Refused { status: 401, message, .. } = error else { panic!("{error}") };
    assert!(message.contains("didn't provide"), "no header was sent at all: {message}");
}

#[tokio::test]
async fn a_conversation_from_elsewhere_is_put_as_this_vendor_takes_it() {
    let server = ModelServer::scripted([Turn::says("42").into()]).await;
    let mut call = call(MODEL);
    let long = "a".repeat(64);
    let tool_calls = vec![tool_call("functions.run:0", "{\"code\": "), tool_call(&long, "{}")];
    call.messages.extend([
        Message::Assistant { text: String::new(), tool_calls, verbatim: None },
        results(&[("functions.run:0", "failed"), (&long, "")]),
        Message::Assistant { text: String::new(), tool_calls: vec![], verbatim: None },
        user("Go on."),
    ]);
    ask(&models(&server, DEADLINE), &call).await.unwrap();
    let body = &server.asked()[0].body;
    assert_eq!(body["messages"][2]["tool_calls"][0]["function"]["arguments"], "{\"code\": ");
    assert_eq!(body["messages"][2]["content"], json!(null));
}

#[tokio::test]
async fn each_reason_to_stop_is_told_apart() {
    let reasons = [("stop", Stop::Complete), ("length", Stop::MaxTokens), ("content_filter", Stop::Refusal)];
    let turns = reasons.map(|(word, _)| Turn { stop: Some(word), ..Turn::says("I") }.into());
    let server = ModelServer::scripted(turns).await;
    let models = models(&server, DEADLINE);
    for (word, stop) in reasons {
        assert_eq!(ask(&models, &call(MODEL)).await.unwrap().stop, stop, "{word}");
    }
}

#[tokio::test]
async fn a_stream_in_single_bytes_is_the_same_answer() {
    let delivery = Delivery { cuts: Cuts::EveryByte, ..Delivery::default() };
    let server = ModelServer::scripted([rich().delivered(delivery).into()]).await;
    assert_eq!(ask(&models(&server, DEADLINE), &call(MODEL)).await.unwrap(), whole_reply().await);
}

#[test]
fn any_split_of_a_stream_is_the_same_answer() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (stream, expected) = runtime.block_on(async { (stream().await, whole_reply().await) });
    let cuts = prop::collection::vec(0..stream.len(), 0..30);
    TestRunner::default()
        .run(&cuts, |cuts| {
            let delivery = Delivery { cuts: Cuts::At(cuts), ..Delivery::default() };
            let reply = runtime.block_on(async {
                let server = ModelServer::scripted([rich().delivered(delivery).into()]).await;
                ask(&models(&server, DEADLINE), &call(MODEL)).await
            });
            prop_assert_eq!(reply.unwrap(), expected.clone());
            Ok(())
        })
        .unwrap();
}

#[tokio::test]
async fn a_stream_that_breaks_off_at_any_byte_is_no_answer_unless_all_of_it_had_come() {
    let (stream, expected) = (stream().await, whole_reply().await);
    let whole = stream.find("data: [DONE]").unwrap();
    let server = ModelServer::new(|asked: &Asked| {
        rich().delivered(Delivery { end: End::BreakAt(asked.number), ..Delivery::default() }).into()
    })
    .await;
    let models = models(&server, DEADLINE);
    for at in 0..stream.len() {
        let result = ask(&models, &call(MODEL)).await;
        if at >= whole {
            assert_eq!(result.unwrap(), expected, "{at}");
        } else {
            assert_eq!(broke_off(result).1, None, "{at}");
        }
    }
}

#[tokio::test]
async fn an_error_within_the_stream_may_have_cost() {
    let error = openai::error_body("server_error", "The server had an error");
    let frames = [format!("data: {error}\n\n"), format!("event: error\ndata: {error}\n\n")];
    let server = ModelServer::scripted(frames.map(raw)).await;
    let models = models(&server, DEADLINE);
    for _ in 0..2 {
        let (message, usage) = broke_off(ask(&models, &call(MODEL)).await);
        assert_eq!((message.as_str(), usage), ("server_error: The server had an error", None));
    }
}

#[tokio::test]
async fn a_stream_that_makes_no_sense_is_cut() {
    let bodies = ["data: {\"choices\": [{\n\n", "data: [DONE]\n\n", "data: 7\n\n", "", "<html>"];
    let server = ModelServer::scripted(bodies.map(raw)).await;
    let models = models(&server, DEADLINE);
    for body in bodies {
        assert_eq!(broke_off(ask(&models, &call(MODEL)).await).1, None, "{body}");
    }
}

#[tokio::test]
async fn servers_that_keep_the_protocol_loosely_are_understood() {
    let whole_call = r#"{"choices":[{"delta":{"role":"assistant","tool_calls":[{"function":{"name":"run_code","arguments":"{}"}},{"id":"","function":{"name":"run_code","arguments":""}}]},"finish_reason":"stop"}],"usage":{"prompt_tokens":7,"completion_tokens":3}}"#;
    let silent_usage =
        r#"{"id":"x","choices":[{"index":0,"delta":{"content":"42"},"finish_reason":"stop"}]}"#;
    let refusal = r#"{"choices":[{"index":0,"delta":{"refusal":"No."},"finish_reason":"stop"}],"usage":{"prompt_tokens":7,"completion_tokens":3}}"#;
    let reasoned = r#"{"choices":[{"delta":{"content":"42"},"finish_reason":"stop"}],"usage":{"prompt_tokens":32,"completion_tokens":9,"total_tokens":135,"completion_tokens_details":{"reasoning_tokens":94}}}"#;
    let impossible = r#"{"choices":[{"delta":{"content":"42"},"finish_reason":"stop"}],"usage":{"prompt_tokens":18446744073709551615,"completion_tokens":9}}"#;
    let nothing = r#"{"choices":[{"delta":{"content":"42"},"finish_reason":"stop"}],"usage":{}}"#;
    let running =
        r#"{"choices":[{"delta":{"content":"4"}}],"usage":{"prompt_tokens":7,"completion_tokens":1}}"#;
    let end = r#"{"choices":[{"delta":{"content":"2"},"finish_reason":"stop"}]}"#;
    let [open, closed] = ["", r#","usage":{"prompt_tokens":7,"completion_tokens":2}"#]
        .map(|usage| end.replace("]}", &format!("]{usage}}}")));
    let [open, closed] = [open, closed].map(|end| format!("{running}\n\ndata: {end}"));
    let bodies =
        [whole_call, silent_usage, refusal, reasoned, impossible, nothing, open.as_str(), closed.as_str()];
    let server =
        ModelServer::scripted(bodies.map(|chunk| raw(format!("data: {chunk}\n\ndata: [DONE]\n\n")))).await;
    let models = models(&server, DEADLINE);

    let reply = ask(&models, &call(MODEL)).await.unwrap();
    let told = Usage { input: 7, output: 3, ..Usage::default() };
    assert_eq!((reply.stop, reply.usage), (Stop::ToolUse, Some(told)));
    let [first, second] = reply.tool_calls.as_slice() else { panic!("{reply:?}") };
    assert_eq!((first.input.as_str(), second.input.as_str()), ("{}", "{}"));
    assert!(first.id.starts_with("call_") && first.id.len() <= 40 && first.id != second.id);

    let reply = ask(&models, &call(MODEL)).await.unwrap();
    assert_eq!((reply.text.as_str(), reply.stop, reply.usage), ("42", Stop::Complete, None));

    let reply = ask(&models, &call(MODEL)).await.unwrap();
    assert_eq!((reply.text.as_str(), reply.stop), ("No.", Stop::Refusal));

    // What was reasoned is output, also where it is in the total only.
    let reply = ask(&models, &call(MODEL)).await.unwrap();
    assert_eq!(reply.usage, Some(Usage { input: 32, output: 103, ..Usage::default() }));

    let reply = ask(&models, &call(MODEL)).await.unwrap();
    assert_eq!((reply.text.as_str(), reply.usage), ("42", None), "nobody used so much");

    let reply = ask(&models, &call(MODEL)).await.unwrap();
    assert_eq!((reply.text.as_str(), reply.usage), ("42", None), "there was a prompt");

    let reply = ask(&models, &call(MODEL)).await.unwrap();
    assert_eq!((reply.text.as_str(), reply.usage), ("42", None), "more came since that was told");
    let reply = ask(&models, &call(MODEL)).await.unwrap();
    assert_eq!(
        (reply.text.as_str(), reply.usage),
        ("42", Some(Usage { input: 7, output: 2, ..Usage::default() }))
    );
}

#[tokio::test]
async fn of_an_answer_that_breaks_off_what_was_told_so_far_is_known() {
    let running =
        r#"{"choices":[{"delta":{"content":"4"}}],"usage":{"prompt_tokens":7,"completion_tokens":1}}"#;
    let server = ModelServer::scripted([raw(format!("data: {running}\n\n"))]).await;
    let (_, told) = broke_off(ask(&models(&server, DEADLINE), &call(MODEL)).await);
    assert_eq!(told, Some(Usage { input: 7, output: 1, ..Usage::default() }));
}

#[tokio::test]
async fn silence_has_a_deadline() {
    let silent = Delivery { end: End::SilentAt(700), ..Delivery::default() };
    let server = ModelServer::scripted([Answer::Silence, rich().delivered(silent).into()]).await;
    let models = models(&server, Duration::from_millis(200));
    assert_eq!(broke_off(ask(&models, &call(MODEL)).await).0, "it did not answer in time");
    assert_eq!(broke_off(ask(&models, &call(MODEL)).await).0, "its answer did not come in time");
}

#[tokio::test]
async fn what_the_vendor_would_refuse_is_refused_here() {
    let server = ModelServer::new(|_| Turn::says("42").into()).await;
    let models = models(&server, DEADLINE);
    let mut wrong = vec![];
    let changes: [fn(&mut Call); 6] = [
        |call| {
            call.system = None;
            call.messages.clear();
        },
        |call| call.max_tokens = 0,
        |call| call.tools.push(tool("run code")),
        |call| call.temperature = Some(3.into()),
        |call| call.messages.push(results(&[("call_01", "42")])),
        |call| {
            let tool_calls = vec![tool_call("call_01", "{}")];
            call.messages.push(Message::Assistant { text: String::new(), tool_calls, verbatim: None });
            call.messages.push(user("Never mind the tool."));
        },
    ];
    for change in changes {
        let mut call = call(MODEL);
        change(&mut call);
        let Err(CallError::Refused { status: 400, message, .. }) = ask(&models, &call).await else {
            panic!("{call:?} is not refused");
        };
        wrong.push(message);
    }
    wrong.dedup();
    assert_eq!((wrong.len(), server.refused().len()), (6, 6), "{wrong:?}");
}

#[tokio::test]
async fn a_closed_loop_calls_every_tool_that_the_task_names() {
    let server = ModelServer::new(crate::support::models::closed_loop).await;
    let models = models(&server, DEADLINE);
    let mut call = call(MODEL);
    call.tools = vec![tool("web_search"), tool("run_code"), tool("read_file")];
    call.messages = vec![user("Use run_code and read_file.")];
    let reply = ask(&models, &call).await.unwrap();
    let names: Vec<_> = reply.tool_calls.iter().map(|call| call.name.as_str()).collect();
    assert_eq!(names, ["run_code", "read_file"]);
    let ids: Vec<_> = reply.tool_calls.iter().map(|call| call.id.clone()).collect();
    call.messages.extend([turn(&reply), results(&[(&ids[0], "42"), (&ids[1], "text")])]);
    let reply = ask(&models, &call).await.unwrap();
    assert_eq!(
        (reply.text.as_str(), reply.stop),
        ("Done: Use run_code and read_file.\n42\ntext", Stop::Complete)
    );
    call.messages.extend([turn(&reply), user("Once more.")]);
    assert_eq!(ask(&models, &call).await.unwrap().tool_calls.len(), 1);
}
