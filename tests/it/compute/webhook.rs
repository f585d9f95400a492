//! Compute behind a webhook.

use std::sync::{Arc, Mutex};

use theazo::clock::ManualClock;
use theazo::providers::client::Clients;
use theazo::providers::compute::mock::Mock;
use theazo::providers::compute::webhook::Webhook;
use theazo::providers::compute::{Compute, End, Error, Handle, Language, New};
use theazo::providers::guard::Guard;
use zeroize::Zeroizing;

use super::{agent, client, program, wanted};
use crate::support::vendors::webhook::{Receiver, Webhook as Server};
use crate::support::vendors::{Fault, Wire};

const NOW_MS: i64 = 1_762_000_000_000;
const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

struct Fixture {
    wire: Wire,
    state: Arc<Mutex<Receiver>>,
    compute: Webhook,
}

fn secret(text: &str) -> Zeroizing<String> {
    Zeroizing::new(text.to_owned())
}

async fn fixture_with(secret_of_client: &str) -> Fixture {
    let state = Arc::new(Mutex::new(Receiver::default()));
    let key = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, &SECRET[6..]).unwrap();
    let wire = Wire::serve(Server { key, now_s: NOW_MS / 1_000, state: Arc::clone(&state) }).await;
    let url = format!("{}/compute", wire.url()).parse().unwrap();
    let clock = Arc::new(ManualClock::at(NOW_MS));
    let compute = Webhook::new(client(), url, secret(secret_of_client), clock).unwrap();
    Fixture { wire, state, compute }
}

async fn fixture() -> Fixture {
    fixture_with(SECRET).await
}

#[tokio::test]
async fn a_sandbox_behind_a_webhook_lives_and_ends() {
    let Fixture { wire, state, compute } = fixture().await;
    wire.split();
    let handle = compute.create(&wanted(1)).await.unwrap();
    let ran = compute.run(&handle, &program(Language::Python, "print(1)")).await.unwrap();
    assert_eq!(ran.stdout, r#"python print(1) {"TOKEN": "s3cret"}"#);
    assert_eq!((ran.stderr.as_str(), ran.end, ran.truncated), ("é", End::Code(3), false));
    for (code, end) in [("kill", End::Signal(9)), ("sleep", End::TimedOut)] {
        assert_eq!(compute.run(&handle, &program(Language::Bash, code)).await.unwrap().end, end);
    }
    let mut short = program(Language::TypeScript, "1");
    short.output_limit = 1;
    let ran = compute.run(&handle, &short).await.unwrap();
    assert_eq!((ran.stdout.as_str(), ran.stderr.as_str(), ran.truncated), ("j", "", true));

    compute.write_file(&handle, "b", &[0, 255]).await.unwrap();
    let read = compute.read_file(&handle, "b", 1).await.unwrap();
    assert_eq!((read.bytes, read.truncated), (vec![0], true));
    let names: Vec<String> =
        compute.list_files(&handle, "", 10).await.unwrap().into_iter().map(|entry| entry.name).collect();
    assert_eq!(names, ["a/", "b"]);
    assert_eq!(compute.stored_bytes(&handle).await, Ok(9));

    let paused = compute.pause(&handle).await.unwrap();
    assert_eq!(paused.stored_bytes, 7);
    let handle = compute.resume(&paused.handle, &wanted(1)).await.unwrap();
    compute.terminate(&handle).await.unwrap();
    compute.terminate(&handle).await.unwrap();
    assert_eq!(compute.run(&handle, &program(Language::Bash, "x")).await, Err(Error::Gone));
    assert!(state.lock().unwrap().sandboxes.is_empty());
    wire.satisfied();
}

#[tokio::test]
async fn what_a_receiver_refuses_is_told_in_its_words() {
    let Fixture { wire, compute, .. } = fixture().await;
    let browser = New { browser: true, ..wanted(1) };
    let refused = compute.create(&browser).await;
    assert_eq!(refused, Err(Error::Unsupported("there is no browser here".to_owned())));
    let handle = compute.create(&wanted(1)).await.unwrap();
    let missing = compute.read_file(&handle, "nothing", 9).await;
    assert_eq!(missing, Err(Error::Path("there is no such file".to_owned())));
    for path in ["/etc/passwd", "../x", "a/../../x", "a\0"] {
        assert!(matches!(compute.write_file(&handle, path, b"").await, Err(Error::Path(_))), "{path}");
    }
    let odd = compute.run(&handle, &program(Language::Bash, "odd")).await;
    assert!(matches!(odd, Err(Error::Unavailable(_))), "{odd:?}");
    let words = r#"{"error":{"code":"refused","message":"quota of whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"}}"#;
    wire.fault("POST", Fault::Status(402, vec![], words.to_owned()));
    assert_eq!(compute.create(&wanted(2)).await, Err(Error::Refused("quota of ***".to_owned())));
    // A name that the log cannot hold would not find the sandbox again.
    for odd in ["{}", r#"{"sandbox":"a\u0000"}"#] {
        wire.fault("POST", Fault::Status(200, vec![], odd.to_owned()));
        assert!(matches!(compute.create(&wanted(2)).await, Err(Error::Unavailable(_))), "{odd}");
    }
    wire.satisfied();
}

#[tokio::test]
async fn a_call_that_breaks_is_made_again_under_its_id_and_carried_out_once() {
    let Fixture { wire, state, compute } = fixture().await;
    let handle = compute.create(&wanted(1)).await.unwrap();
    state.lock().unwrap().carried_out.clear();
    wire.seen();
    let later = ("retry-after".to_owned(), "0".to_owned());
    let in_progress = r#"{"error":{"code":"in_progress","message":"wait"}}"#.to_owned();
    wire.fault("POST", Fault::CutBefore);
    wire.fault("POST", Fault::CutAfter);
    wire.fault("POST", Fault::Status(500, vec![], String::new()));
    wire.fault("POST", Fault::Status(409, vec![later.clone()], in_progress));
    wire.fault("POST", Fault::Status(429, vec![later], String::new()));
    let ran = compute.run(&handle, &program(Language::Bash, "x")).await.unwrap();
    assert_eq!(ran.end, End::Code(3));
    assert_eq!(wire.seen().len(), 6);
    assert_eq!(state.lock().unwrap().carried_out, ["sandbox.run"]);
    for _ in 0..4 {
        wire.fault("POST", Fault::Status(500, vec![], "down".to_owned()));
    }
    assert_eq!(compute.stored_bytes(&handle).await, Err(Error::Unavailable("down".to_owned())));
    wire.satisfied();
}

#[tokio::test(start_paused = true)]
async fn a_receiver_that_never_answers_costs_its_deadline_and_no_more() {
    let Fixture { wire, compute, .. } = fixture().await;
    let handle = Handle("box".to_owned());
    for _ in 0..8 {
        wire.fault("POST", Fault::Silence);
    }
    let begun = tokio::time::Instant::now();
    assert!(matches!(compute.stored_bytes(&handle).await, Err(Error::Unavailable(_))));
    assert!(begun.elapsed() <= theazo::config::COMPUTE_DEADLINE);
}

#[tokio::test]
async fn sandboxes_that_a_crash_left_are_found_page_by_page() {
    let Fixture { wire, compute, .. } = fixture().await;
    for number in 1..=3 {
        compute.create(&wanted(number)).await.unwrap();
    }
    let found = compute.list().await.unwrap();
    let agents: Vec<_> = found.iter().map(|(agent, _)| *agent).collect();
    assert_eq!(agents, [agent(1), agent(2), agent(3)]);
    for (_, handle) in &found {
        compute.terminate(handle).await.unwrap();
    }
    assert_eq!(compute.list().await, Ok(vec![]));
    wire.satisfied();
}

#[tokio::test]
async fn a_wrong_secret_and_a_private_address_are_refused() {
    let Fixture { wire: _wire, compute, .. } = fixture_with("another secret").await;
    let refused = compute.create(&wanted(1)).await;
    assert_eq!(refused, Err(Error::Refused("the signature is wrong".to_owned())));

    let Fixture { wire, .. } = fixture().await;
    let guarded = Clients::new(Guard::default()).guarded;
    let url = format!("{}/compute", wire.url()).parse().unwrap();
    let clock = Arc::new(ManualClock::at(NOW_MS));
    let compute = Webhook::new(guarded, url, secret(SECRET), clock).unwrap();
    assert!(matches!(compute.create(&wanted(1)).await, Err(Error::Refused(_))));
    assert_eq!(wire.seen(), Vec::<String>::new());
}

#[tokio::test]
async fn test_mode_answers_the_same_to_every_program_and_keeps_nothing() {
    let compute = Mock;
    let handle = compute.create(&wanted(1)).await.unwrap();
    let ran = compute.run(&handle, &program(Language::Bash, "rm -rf /")).await.unwrap();
    assert_eq!((ran.stdout.as_str(), ran.stderr.as_str(), ran.end), ("mock output\n", "", End::Code(0)));
    assert_eq!((ran.duration.as_millis(), ran.truncated), (1, false));
    compute.write_file(&handle, "a", b"x").await.unwrap();
    assert!(matches!(compute.read_file(&handle, "a", 1).await, Err(Error::Path(_))));
    assert!(matches!(compute.write_file(&handle, "../a", b"x").await, Err(Error::Path(_))));
    assert_eq!(compute.list_files(&handle, "", 9).await, Ok(vec![]));
    assert!(compute.list_files(&handle, "a", 9).await.is_err());
    let paused = compute.pause(&handle).await.unwrap();
    assert_eq!(compute.resume(&paused.handle, &wanted(1)).await, Ok(handle.clone()));
    compute.terminate(&handle).await.unwrap();
    assert_eq!(compute.list().await, Ok(vec![]));
}
