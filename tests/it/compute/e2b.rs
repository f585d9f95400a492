//! Compute at E2B.

use std::time::Duration;

use theazo::providers::compute::e2b::{E2b, Settings};
use theazo::providers::compute::{Compute, End, Error, Handle, Language, New};
use zeroize::Zeroizing;

use super::{agent, client, lives, program, wanted};
use crate::support::vendors::e2b::E2b as Server;
use crate::support::vendors::{Fault, Wire};

struct Fixture {
    wire: Wire,
    server: Server,
    compute: E2b,
}

fn compute_with(wire: &Wire, server: &Server, key: &str) -> E2b {
    let settings = Settings {
        api_url: wire.url().parse().unwrap(),
        sandbox_url: Some(wire.url().parse().unwrap()),
        workspace: server.scratch.path.join("workspace").display().to_string(),
        ..Settings::of("org_1 live".to_owned())
    };
    E2b::new(client(), Zeroizing::new(key.to_owned()), settings)
}

async fn fixture() -> Fixture {
    let server = Server::new();
    let wire = Wire::serve(server.clone()).await;
    let compute = compute_with(&wire, &server, "e2b_key");
    Fixture { wire, server, compute }
}

#[tokio::test]
async fn an_agent_lives_in_a_sandbox_at_e2b() {
    let Fixture { wire, server, compute } = fixture().await;
    wire.split();
    lives(&compute).await;
    assert!(server.sandboxes.lock().unwrap().is_empty());
    wire.satisfied();
}

#[tokio::test]
async fn a_sandbox_that_e2b_has_paused_by_itself_is_woken() {
    let Fixture { wire, server, compute } = fixture().await;
    let handle = compute.create(&wanted(1)).await.unwrap();
    server.sandboxes.lock().unwrap().get_mut(&handle.0).unwrap().is_paused = true;
    let ran = compute.run(&handle, &program(Language::Bash, "echo awake")).await.unwrap();
    assert_eq!((ran.stdout.as_str(), ran.end), ("awake\n", End::Code(0)));
    // Another server, which never made it, finds its way to it.
    let other = compute_with(&wire, &server, "e2b_key");
    assert!(other.run(&handle, &program(Language::Bash, "true")).await.is_ok());
    server.sandboxes.lock().unwrap().clear();
    assert_eq!(compute.run(&handle, &program(Language::Bash, "true")).await, Err(Error::Gone));
    assert_eq!(compute.resume(&handle, &wanted(1)).await, Err(Error::Gone));
    wire.satisfied();
}

#[tokio::test]
async fn a_pause_and_an_awakening_that_break_are_done_again() {
    let Fixture { wire, server, compute } = fixture().await;
    let handle = compute.create(&wanted(1)).await.unwrap();
    let is_paused = || server.sandboxes.lock().unwrap()[&handle.0].is_paused;
    // What measures the workspace is lost once too.
    wire.fault("/process.Process/Start", Fault::CutBefore);
    for fault in [Fault::Status(500, vec![], String::new()), Fault::CutBefore, Fault::CutAfter] {
        wire.fault("/pause", fault.clone());
        wire.fault("/connect", fault);
    }
    let paused = compute.pause(&handle).await.unwrap();
    assert!(is_paused());
    assert_eq!(compute.resume(&paused.handle, &wanted(1)).await, Ok(handle.clone()));
    assert!(!is_paused());
    // A pause that nobody heard of any more: whoever asks again finds it done.
    server.sandboxes.lock().unwrap().get_mut(&handle.0).unwrap().is_paused = true;
    assert_eq!(compute.pause(&handle).await, Ok(paused));
    wire.satisfied();
}

#[tokio::test]
async fn what_e2b_refuses_is_told_in_its_words_without_the_key() {
    let Fixture { wire, server, compute } = fixture().await;
    let wrong = compute_with(&wire, &server, "e2b_wrong");
    let refused = wrong.create(&wanted(1)).await;
    assert_eq!(refused, Err(Error::Refused("Invalid API key: e2b_key".to_owned())));
    let browser = New { browser: true, ..wanted(1) };
    assert!(matches!(compute.create(&browser).await, Err(Error::Unsupported(_))));
    let words = r#"{"code":400,"message":"e2b_key: timeout too long"}"#.to_owned();
    wire.fault("POST /sandboxes", Fault::Status(400, vec![], words));
    let refused = compute.create(&wanted(1)).await;
    assert_eq!(refused, Err(Error::Refused("***: timeout too long".to_owned())));
    // Making one is never repeated but when it was refused for its pace.
    let later = ("retry-after".to_owned(), "0".to_owned());
    wire.seen();
    wire.fault("POST /sandboxes", Fault::Status(429, vec![later], String::new()));
    wire.fault("POST /sandboxes", Fault::Status(500, vec![], r#"{"code":500,"message":"no"}"#.to_owned()));
    assert_eq!(compute.create(&wanted(1)).await, Err(Error::Unavailable("no".to_owned())));
    assert_eq!(wire.seen().len(), 2);
    // A sandbox that cannot be prepared is not kept.
    wire.fault("/process.Process/Start", Fault::CutAfter);
    assert!(matches!(compute.create(&wanted(1)).await, Err(Error::Unavailable(_))));
    assert!(server.sandboxes.lock().unwrap().is_empty());
    wire.satisfied();
}

#[tokio::test]
async fn a_stream_that_breaks_off_ends_its_program() {
    let Fixture { wire, compute, .. } = fixture().await;
    let handle = compute.create(&wanted(1)).await.unwrap();
    for fault in [Fault::CutAfter, Fault::CutBefore] {
        wire.fault("/process.Process/Start", fault);
        let lost = compute.run(&handle, &program(Language::Bash, "echo lost")).await;
        assert!(matches!(lost, Err(Error::Unavailable(_))), "{lost:?}");
    }
    let error = br#"{"error":{"code":"invalid_argument","message":"no such user"}}"#;
    let body = [&[2, 0, 0, 0, u8::try_from(error.len()).unwrap()], error.as_slice()].concat();
    let body = String::from_utf8(body).unwrap();
    wire.fault("/process.Process/Start", Fault::Status(200, vec![], body));
    let refused = compute.run(&handle, &program(Language::Bash, "x")).await;
    assert_eq!(refused, Err(Error::Refused("invalid_argument: no such user".to_owned())));
    wire.satisfied();
}

#[tokio::test]
async fn sandboxes_that_a_crash_left_are_found_and_released() {
    let Fixture { wire, compute, .. } = fixture().await;
    for number in 1..=3 {
        compute.create(&wanted(number)).await.unwrap();
    }
    wire.fault("GET /v2/sandboxes", Fault::Status(503, vec![], String::new()));
    wire.fault("GET /v2/sandboxes", Fault::CutAfter);
    let found = compute.list().await.unwrap();
    assert_eq!(found.iter().map(|(agent, _)| *agent).collect::<Vec<_>>(), [agent(1), agent(2), agent(3)]);
    for (_, handle) in &found {
        wire.fault("DELETE", Fault::CutAfter);
        compute.terminate(handle).await.unwrap();
    }
    assert_eq!(compute.list().await, Ok(vec![]));
    wire.satisfied();
}

#[tokio::test]
async fn a_vendor_that_never_answers_costs_its_deadline() {
    let Fixture { wire, compute, .. } = fixture().await;
    for _ in 0..4 {
        wire.fault("DELETE", Fault::Silence);
    }
    tokio::time::pause();
    let begun = tokio::time::Instant::now();
    let ended = compute.terminate(&Handle("sbx0".to_owned())).await;
    assert!(matches!(ended, Err(Error::Unavailable(_))), "{ended:?}");
    assert!(begun.elapsed() <= theazo::config::COMPUTE_DEADLINE + Duration::from_secs(1));
}
