//! What is the same for every vendor: refusals, and whether a call that failed can have cost.

use std::time::Duration;

use theazo::providers::model::{CallError, Models, Settings};
use tokio::net::TcpListener;

use super::{DEADLINE, KEY, ask, ask_with, call, models, wire};
use crate::support::models::{Answer, ModelServer, Turn, WRONG_KEY, anthropic, openai};

const MODELS: [&str; 2] = ["claude-sonnet-4-20250514", "gpt-4o"];

#[tokio::test]
async fn each_error_status_is_a_refusal_that_cost_nothing() {
    let statuses = [
        (400, "invalid_request_error", false),
        (401, "authentication_error", false),
        (402, "billing_error", false),
        (403, "permission_error", false),
        (404, "not_found_error", false),
        (413, "request_too_large", false),
        (429, "rate_limit_error", true),
        (500, "api_error", true),
        (503, "unavailable", true),
        (529, "overloaded_error", true),
        (302, "moved", false),
    ];
    for (model, error_body) in MODELS.into_iter().zip([anthropic::error_body, openai::error_body]) {
        let answers = statuses.map(|(status, kind, _)| Answer::Error {
            status,
            retry_after: (status == 429).then_some("17"),
            body: error_body(kind, &format!("No: {KEY}")),
        });
        let server = ModelServer::scripted(answers).await;
        let models = models(&server, DEADLINE);
        for (expected, kind, may_be_repeated) in statuses {
            let error = ask(&models, &call(model)).await.unwrap_err();
            assert_eq!(error.may_be_repeated(), may_be_repeated, "{error}");
            let CallError::Refused { status, message, retry_after } = error else { panic!("{error}") };
            assert_eq!(status, expected);
            assert!(message.starts_with(&format!("{kind}: No: [key] (request req_")), "{message}");
            assert_eq!(retry_after, (status == 429).then_some(Duration::from_secs(17)));
        }
    }
}

#[tokio::test]
async fn what_gave_up_on_the_way_may_have_cost() {
    let statuses = [408, 502, 504, 520, 524, 527];
    for model in MODELS {
        let answers =
            statuses.map(|status| Answer::Error { status, retry_after: None, body: KEY.to_owned() });
        let server = ModelServer::scripted(answers).await;
        let models = models(&server, DEADLINE);
        for expected in statuses {
            let error = ask(&models, &call(model)).await.unwrap_err();
            assert!(!error.may_be_repeated(), "{error}");
            let CallError::BrokeOff { message, usage, vendor_id, .. } = error else { panic!("{error}") };
            assert_eq!((message, usage), (format!("status {expected}: [key]"), None));
            assert!(vendor_id.is_some_and(|id| id.starts_with("req_")));
        }
    }
}

#[tokio::test]
async fn an_error_of_another_form_is_told_in_short() {
    let bodies = [
        ("{\"error\": \"model not found\"}", "model not found"),
        ("{\"detail\": \"Not allowed\"}", "Not allowed"),
        ("upstream connect error", "upstream connect error"),
        ("", "Service Unavailable"),
    ];
    let error = |body: &str| Answer::Error { status: 503, retry_after: None, body: body.to_owned() };
    let long = "x".repeat(1_000_000);
    let answers = bodies.iter().map(|(body, _)| error(body)).chain([error(&long)]);
    let server = ModelServer::scripted(answers).await;
    let models = models(&server, DEADLINE);
    for (_, expected) in bodies {
        let error = ask(&models, &call("llama3.3")).await.unwrap_err();
        let CallError::Refused { message, .. } = error else { panic!("{error}") };
        assert!(message.starts_with(expected), "{message}");
    }
    let CallError::Refused { message, .. } = ask(&models, &call("llama3.3")).await.unwrap_err() else {
        panic!()
    };
    assert!(message.len() < 600);
}

#[tokio::test]
async fn a_wrong_key_and_a_missing_one_are_refused_and_never_told() {
    let server = ModelServer::new(|_| Turn::says("42").into()).await;
    let models = models(&server, DEADLINE);
    for model in MODELS {
        for key in [WRONG_KEY, ""] {
            let error = ask_with(&models, &call(model), key, DEADLINE).await.unwrap_err();
            assert!(matches!(error, CallError::Refused { status: 401, .. }), "{error}");
            assert!(!error.to_string().contains(WRONG_KEY), "{error}");
        }
        let error = ask_with(&models, &call(model), "two\nlines", DEADLINE).await.unwrap_err();
        assert!(matches!(error, CallError::NotSent(_)), "{error}");
    }
}

#[tokio::test]
async fn a_vendor_that_cannot_be_reached_was_never_asked() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    for scheme in ["http", "https"] {
        let settings = Settings {
            anthropic_base_url: Some(format!("{scheme}://{address}")),
            openai_base_url: Some(format!("{scheme}://{address}/v1")),
            ..Settings::default()
        };
        let models = Models::new(settings, &wire(DEADLINE)).unwrap();
        for model in MODELS {
            let error = ask(&models, &call(model)).await.unwrap_err();
            assert!(matches!(error, CallError::NotSent(_)) && error.may_be_repeated(), "{error}");
        }
    }
}

#[tokio::test]
async fn a_connection_that_closes_without_an_answer_may_have_cost() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base_url = format!("http://{}", listener.local_addr().unwrap());
    let closing = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            drop(stream);
        }
    });
    let settings = Settings {
        anthropic_base_url: Some(base_url.clone()),
        openai_base_url: Some(base_url),
        ..Settings::default()
    };
    let models = Models::new(settings, &wire(DEADLINE)).unwrap();
    for model in MODELS {
        let error = ask(&models, &call(model)).await.unwrap_err();
        assert!(matches!(error, CallError::BrokeOff { usage: None, .. }), "{error}");
    }
    closing.abort();
}
