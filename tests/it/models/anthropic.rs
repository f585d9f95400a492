//! Anthropic's Messages API.

use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use serde_json::json;
use theazo::providers::model::{Call, CallError, Message, Reply, Stop, Until, Usage, Verbatim};
use tokio::sync::Notify;

use super::{
    DEADLINE, answered, ask, ask_until, ask_with, broke_off, call, models, results, tool, tool_call, turn,
    user,
};
use crate::support::models::script::{Cuts, Used};
use crate::support::models::{Answer, Asked, Delivery, End, ModelServer, Protocol, Said, Turn, anthropic};
use crate::support::wait::until;

const MODEL: &str = "claude-sonnet-4-20250514";

/// A turn with everything in it.
fn rich() -> Turn {
    let turn = Turn {
        thinking: Some("They want a product; I had better compute it."),
        usage: Used { input: 40, output: 90, cache_read: 2_000, cache_write: 300 },
        ..Turn::says("Zwölf € — I will\n\nrun it.")
    };
    turn.and_calls("toolu_01", "run_code", r#"{"code": "print(\"6 × 7\")"}"#)
        .and_calls("toolu_02", "run_code", "{}")
}

fn usage() -> Usage {
    Usage { input: 40, output: 90, cache_read: 2_000, cache_write: 300 }
}

async fn whole_reply() -> Reply {
    let server = ModelServer::scripted([rich().into()]).await;
    ask(&models(&server, DEADLINE), &call(MODEL)).await.unwrap()
}

/// The stream of that turn.
async fn stream() -> String {
    let server = ModelServer::scripted([rich().into()]).await;
    ask(&models(&server, DEADLINE), &call(MODEL)).await.unwrap();
    anthropic::frames(&rich(), &server.asked()[0])
}

#[tokio::test]
async fn a_conversation_with_parallel_tools_goes_through_turn_by_turn() {
    let server = ModelServer::scripted([rich().into(), Turn::says("It is 42.").into()]).await;
    let models = models(&server, DEADLINE);
    let mut call = call(MODEL);
    call.temperature = Some(serde_json::Number::from_f64(0.25).unwrap());

    let reply = ask(&models, &call).await.unwrap();
    assert_eq!(reply.text, "Zwölf € — I will\n\nrun it.");
    let calls = [tool_call("toolu_01", r#"{"code": "print(\"6 × 7\")"}"#), tool_call("toolu_02", "{}")];
    assert_eq!(reply.tool_calls, calls);
    assert_eq!((reply.stop, reply.usage), (Stop::ToolUse, Some(usage())));
    assert_eq!(reply.vendor_id.as_deref(), Some("req_011CSHoEeqs5C35K2UUqR7Fy"));

    call.messages.extend([turn(&reply), results(&[("toolu_01", "42"), ("toolu_02", "failed")])]);
    let reply = ask(&models, &call).await.unwrap();
    assert_eq!((reply.text.as_str(), reply.stop), ("It is 42.", Stop::Complete));
    assert_eq!((reply.tool_calls, reply.verbatim), (vec![], None));

    assert_eq!(server.refused(), Vec::<String>::new());
    let asked = &server.asked()[1];
    assert_eq!((asked.protocol, asked.model.as_str()), (Protocol::Anthropic, MODEL));
    assert_eq!(asked.results(), ["42", "failed"]);
    assert_eq!(asked.conversation[0], Said::System("You are an agent.".to_owned()));
    let body = &asked.body;
    assert_eq!((&body["temperature"], &body["max_tokens"]), (&json!(0.25), &json!(4_096)));
    let content = &body["messages"][1]["content"];
    assert_eq!(content[0]["type"], "thinking");
    assert_eq!(content[2]["input"], json!({ "code": "print(\"6 × 7\")" }));
    let failed = &body["messages"][2]["content"][1];
    assert_eq!(
        (&failed["is_error"], &failed["cache_control"]),
        (&json!(true), &json!({ "type": "ephemeral" }))
    );
    assert_eq!(body["system"][0]["cache_control"], json!({ "type": "ephemeral" }));
}

#[tokio::test]
async fn a_single_question_writes_nothing_to_the_cache() {
    let server = ModelServer::scripted([Turn::says("42").into()]).await;
    let mut call = call(MODEL);
    call.tools.clear();
    ask(&models(&server, DEADLINE), &call).await.unwrap();
    assert!(!server.asked()[0].body.to_string().contains("cache_control"));
}

#[tokio::test]
async fn a_temperature_is_left_out_for_a_model_that_refuses_one() {
    let server = ModelServer::new(|_| Turn::says("42").into()).await;
    let models = models(&server, DEADLINE);
    for model in ["claude-opus-4-7", "claude-sonnet-5-5", "claude-haiku-5-5", "claude-fable-5-2", MODEL] {
        let mut call = call(model);
        call.temperature = Some(1.into());
        ask(&models, &call).await.unwrap();
    }
    let sent = server.asked().iter().map(|asked| !asked.body["temperature"].is_null()).collect::<Vec<_>>();
    assert_eq!(sent, [false, false, false, false, true]);
}

#[tokio::test]
async fn a_conversation_from_elsewhere_is_put_as_this_vendor_takes_it() {
    let server = ModelServer::scripted([Turn::says("42").into()]).await;
    let mut call = call(MODEL);
    let foreign = Reply { verbatim: None, ..whole_reply().await };
    let other_model = Verbatim { model: "claude-other".to_owned(), content: "[]".to_owned() };
    call.messages.extend([
        Message::Assistant {
            text: " \n".to_owned(),
            tool_calls: vec![tool_call("functions.run:0", "{\"code\": "), tool_call("functions.run:1", "[]")],
            verbatim: None,
        },
        results(&[("functions.run:0", "failed"), ("functions.run:1", "")]),
        Message::Assistant { text: String::new(), tool_calls: vec![], verbatim: None },
        user("Go on."),
        Message::Assistant {
            text: foreign.text,
            tool_calls: foreign.tool_calls,
            verbatim: Some(other_model),
        },
        results(&[("toolu_01", "42"), ("toolu_02", "42")]),
    ]);
    ask(&models(&server, DEADLINE), &call).await.unwrap();
    let body = &server.asked()[0].body;
    assert_eq!(body["messages"][1]["content"][0]["input"], json!({ "invalid_input": "{\"code\": " }));
    assert_eq!(body["messages"][4]["content"][0]["text"], "Zwölf € — I will\n\nrun it.");
}

#[tokio::test]
async fn each_reason_to_stop_is_told_apart() {
    let reasons = [
        ("end_turn", Stop::Complete),
        ("stop_sequence", Stop::Complete),
        ("max_tokens", Stop::MaxTokens),
        ("model_context_window_exceeded", Stop::MaxTokens),
        ("refusal", Stop::Refusal),
    ];
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
    let told = stream.find("\n\n").unwrap() + 2;
    let whole = stream.find("event: message_stop").unwrap();
    let server = ModelServer::new(|asked: &Asked| {
        rich().delivered(Delivery { end: End::BreakAt(asked.number), ..Delivery::default() }).into()
    })
    .await;
    let models = models(&server, DEADLINE);
    for at in 0..stream.len() {
        let result = ask(&models, &call(MODEL)).await;
        if at >= whole {
            assert_eq!(result.unwrap(), expected, "{at}");
            continue;
        }
        let (_, usage) = broke_off(result);
        let lower_bound = Usage { output: 1, ..self::usage() };
        assert_eq!(usage, (at >= told).then_some(lower_bound), "{at}");
    }
}

#[tokio::test]
async fn an_error_within_the_stream_may_have_cost() {
    let (stream, turn) = (stream().await, rich());
    let cut = stream.find("event: content_block_stop").unwrap();
    let error = anthropic::error_frame("overloaded_error", "Overloaded");
    let body = format!("{}{error}", &stream[..cut]);
    let stream =
        |body| Answer::Stream { content_type: "text/event-stream", body, delivery: Delivery::default() };
    let server = ModelServer::scripted([stream(error), stream(body)]).await;
    let models = models(&server, DEADLINE);
    assert_eq!(
        broke_off(ask(&models, &call(MODEL)).await),
        ("overloaded_error: Overloaded".to_owned(), None)
    );
    let (message, usage) = broke_off(ask(&models, &call(MODEL)).await);
    assert_eq!(message, "overloaded_error: Overloaded");
    assert_eq!(usage.unwrap().cache_read, turn.usage.cache_read);
}

#[tokio::test]
async fn a_stream_that_makes_no_sense_is_cut() {
    let bodies = [
        ("text/event-stream", "data: {\"type\": \"message_start\", \"message\": {\n\n"),
        (
            "text/event-stream",
            "data: {\"type\": \"content_block_delta\", \"index\": 3, \"delta\": {\"type\": \"text_delta\", \"text\": \"a\"}}\n\n",
        ),
        ("text/event-stream", ""),
        ("application/json", "{}"),
        ("text/html", "<html>"),
    ];
    let answers = bodies.map(|(content_type, body)| Answer::Stream {
        content_type,
        body: body.to_owned(),
        delivery: Delivery::default(),
    });
    let server = ModelServer::scripted(answers).await;
    let models = models(&server, DEADLINE);
    for (_, body) in bodies {
        assert_eq!(broke_off(ask(&models, &call(MODEL)).await).1, None, "{body}");
    }
}

#[tokio::test]
async fn new_kinds_of_events_and_deltas_are_passed_over() {
    let news = "event: news\ndata: {\"type\": \"news\"}\n\nevent: content_block_start\ndata: {\"type\": \
                \"content_block_start\", \"index\": 9, \"content_block\": {\"type\": \"news\", \"a\": 1}}\n\nevent: \
                content_block_delta\ndata: {\"type\": \"content_block_delta\", \"index\": 9, \"delta\": {\"type\": \
                \"news_delta\"}}\n\n: a comment\n\n";
    let stream = stream().await;
    let at = stream.find("event: ping").unwrap();
    let body = format!("{}{news}{}", &stream[..at], &stream[at..]);
    let answer = Answer::Stream { content_type: "text/event-stream", body, delivery: Delivery::default() };
    let server = ModelServer::scripted([answer]).await;
    assert_eq!(ask(&models(&server, DEADLINE), &call(MODEL)).await.unwrap(), whole_reply().await);
}

#[tokio::test]
async fn silence_has_a_deadline_and_so_has_the_whole() {
    let short = Duration::from_millis(200);
    let stream_end = Delivery { end: End::SilentAt(700), ..Delivery::default() };
    let slow = Delivery { cuts: Cuts::EveryByte, pause: Duration::from_millis(20), end: End::Whole };
    let answers = [Answer::Silence, rich().delivered(stream_end).into(), rich().delivered(slow).into()];
    let server = ModelServer::scripted(answers).await;
    let models = models(&server, short);
    let (message, usage) = broke_off(ask(&models, &call(MODEL)).await);
    assert_eq!((message.as_str(), usage), ("it did not answer in time", None));
    let (message, usage) = broke_off(ask(&models, &call(MODEL)).await);
    assert_eq!((message.as_str(), usage.unwrap().input), ("its answer did not come in time", 40));
    let (message, _) = broke_off(ask_with(&models, &call(MODEL), "key", Duration::from_millis(600)).await);
    assert_eq!(message, "its answer did not come in time");
}

#[tokio::test]
async fn a_call_that_nobody_waits_for_any_longer_tells_what_has_come() {
    let silent = Delivery { end: End::SilentAt(1_200), ..Delivery::default() };
    let speaks = Turn { thinking: None, ..rich() }.delivered(silent);
    let server = ModelServer::scripted([speaks.into(), Answer::Silence]).await;
    let models = models(&server, DEADLINE);
    let heard = Notify::new();
    let hears = Until { deadline: DEADLINE, stop: Box::pin(heard.notified()) };
    let stopped = ask_until(&models, &call(MODEL), "key", hears, |_| heard.notify_one()).await;
    let (message, usage) = broke_off(stopped);
    assert_eq!((message.as_str(), usage.unwrap().input), ("the server stops", 40));
    let asked = until("the vendor to be asked", || (server.asked().len() == 2).then_some(()));
    let is_asked = Until { deadline: DEADLINE, stop: Box::pin(asked) };
    let stopped = ask_until(&models, &call(MODEL), "key", is_asked, |_| {}).await;
    assert_eq!(broke_off(stopped), ("the server stops".to_owned(), None));
}

#[tokio::test]
async fn what_the_vendor_would_refuse_is_refused_here() {
    let server = ModelServer::new(|_| Turn::says("42").into()).await;
    let models = models(&server, DEADLINE);
    let mut wrong = vec![];
    let changes: [fn(&mut Call); 8] = [
        |call| call.messages.clear(),
        |call| call.max_tokens = 0,
        |call| call.tools.push(tool("run_code")),
        |call| call.tools.push(tool("run code")),
        |call| call.temperature = Some(2.into()),
        |call| call.messages.push(results(&[("toolu_01", "42")])),
        |call| call.messages = vec![user(" ")],
        |call| {
            let calls = vec![tool_call("toolu_01", "{}")];
            call.messages.push(Message::Assistant { text: String::new(), tool_calls: calls, verbatim: None });
            call.messages.push(user("Never mind the tool."));
        },
    ];
    for change in changes {
        let mut call = call(MODEL);
        change(&mut call);
        let Err(CallError::Refused { status: 400, message, .. }) = ask(&models, &call).await else {
            panic!("{call:?} is not refused");
        };
        assert!(message.starts_with("invalid_request_error: "), "{message}");
        wrong.push(message);
    }
    wrong.dedup();
    assert_eq!((wrong.len(), server.refused().len()), (8, 8), "{wrong:?}");
}

#[tokio::test]
async fn a_closed_loop_needs_no_script() {
    let server = ModelServer::new(crate::support::models::closed_loop).await;
    let models = models(&server, DEADLINE);
    let mut call = call(MODEL);
    let reply = ask(&models, &call).await.unwrap();
    assert_eq!((reply.stop, reply.tool_calls.len()), (Stop::ToolUse, 1));
    let id = reply.tool_calls[0].id.clone();
    call.messages.extend([turn(&reply), results(&[(&id, "42")])]);
    assert_eq!(ask(&models, &call).await.unwrap().text, "Done: What is 6 times 7?\n42");
    assert!(server.asked()[1].conversation.contains(&answered(&id, "42")));
}
