//! Compute at Fly.io.

use theazo::providers::compute::fly::{Fly, Settings};
use theazo::providers::compute::{Compute, Error, Handle, Language, New};
use zeroize::Zeroizing;

use super::{agent, client, lives, program, wanted};
use crate::support::vendors::fly::Fly as Server;
use crate::support::vendors::{Fault, Wire};

struct Fixture {
    wire: Wire,
    server: Server,
    compute: Fly,
}

fn compute_with(wire: &Wire, server: &Server, (app, token): (&str, &str)) -> Fly {
    let settings = Settings {
        api_url: wire.url().parse().unwrap(),
        workspace: server.scratch.path.join("workspace").display().to_string(),
        ..Settings::of("org_1 live".to_owned(), app.to_owned())
    };
    Fly::new(client(), Zeroizing::new(token.to_owned()), settings)
}

async fn fixture() -> Fixture {
    let server = Server::new();
    let wire = Wire::serve(server.clone()).await;
    let compute = compute_with(&wire, &server, ("agents", "fly-token"));
    Fixture { wire, server, compute }
}

#[tokio::test]
async fn an_agent_lives_in_a_machine_at_fly() {
    let Fixture { wire, server, compute } = fixture().await;
    wire.split();
    lives(&compute).await;
    assert!(server.machines.lock().unwrap().is_empty());
    wire.satisfied();
}

#[tokio::test]
async fn what_is_too_large_for_a_command_goes_in_pieces() {
    let Fixture { wire, compute, .. } = fixture().await;
    let handle = compute.create(&wanted(1)).await.unwrap();
    let content: Vec<u8> = (0..300_000_u32).map(|number| u8::try_from(number % 251).unwrap()).collect();
    wire.seen();
    compute.write_file(&handle, "large", &content).await.unwrap();
    // 400,000 bytes in base64: five pieces, then the work.
    assert_eq!(wire.seen().len(), 6);
    let read = compute.read_file(&handle, "large", 1_000_000).await.unwrap();
    assert_eq!((read.bytes == content, read.truncated), (true, false));
    wire.satisfied();
}

#[tokio::test]
async fn a_machine_is_waited_for_and_a_pace_is_kept() {
    let Fixture { wire, compute, .. } = fixture().await;
    wire.fault("/wait", Fault::Status(408, vec![], r#"{"error":"deadline_exceeded"}"#.to_owned()));
    let later = ("retry-after".to_owned(), "0".to_owned());
    wire.fault("/exec", Fault::Status(429, vec![later], String::new()));
    let handle = compute.create(&wanted(1)).await.unwrap();
    assert!(compute.run(&handle, &program(Language::Bash, "true")).await.is_ok());
    wire.satisfied();
}

#[tokio::test]
async fn a_pause_and_an_awakening_that_break_are_looked_after_and_done_once() {
    let Fixture { wire, server, compute } = fixture().await;
    let handle = compute.create(&wanted(1)).await.unwrap();
    let at = |order: &str| format!("POST /v1/apps/agents/machines/{}/{order}", handle.0);
    let error = r#"{"error":"unable to start machine from current state: 'stopping'"}"#.to_owned();
    for (stop, start) in
        [(Fault::CutBefore, Fault::Status(412, vec![], error)), (Fault::CutAfter, Fault::CutAfter)]
    {
        wire.fault(&at("stop"), stop);
        wire.fault(&at("start"), start);
    }
    // What measures the workspace is lost once too.
    wire.fault("/exec", Fault::CutBefore);
    wire.seen();
    let paused = compute.pause(&handle).await.unwrap();
    assert_eq!(server.machines.lock().unwrap()[&handle.0].state, "stopped");
    assert_eq!(compute.resume(&paused.handle, &wanted(1)).await, Ok(handle.clone()));
    let seen = wire.seen();
    let orders = ["stop", "start"].map(|order| seen.iter().filter(|line| **line == at(order)).count());
    assert_eq!(orders, [2, 2], "{seen:?}");
    // A pause that nobody heard of any more: whoever asks again finds it done.
    server.machines.lock().unwrap().get_mut(&handle.0).unwrap().state = "stopped";
    assert_eq!(compute.pause(&handle).await, Ok(paused));
    wire.satisfied();
}

#[tokio::test]
async fn what_fly_refuses_is_told_in_its_words_and_leaves_nothing() {
    let Fixture { wire, server, compute } = fixture().await;
    let wrong = compute_with(&wire, &server, ("agents", "wrong"));
    assert_eq!(wrong.create(&wanted(1)).await, Err(Error::Refused("unauthorized: fly-token".to_owned())));
    let wrong = compute_with(&wire, &server, ("other", "fly-token"));
    assert_eq!(wrong.create(&wanted(1)).await, Err(Error::Refused("Fly knows no such app".to_owned())));
    let browser = New { browser: true, ..wanted(1) };
    assert!(matches!(compute.create(&browser).await, Err(Error::Unsupported(_))));
    let words = r#"{"error":"no capacity for fly-token"}"#.to_owned();
    wire.fault("POST /v1/apps/agents/machines", Fault::Status(422, vec![], words));
    assert_eq!(compute.create(&wanted(1)).await, Err(Error::Refused("no capacity for ***".to_owned())));
    wire.fault("/exec", Fault::CutAfter);
    assert!(matches!(compute.create(&wanted(1)).await, Err(Error::Unavailable(_))));
    assert!(server.machines.lock().unwrap().is_empty());
    assert_eq!(compute.resume(&Handle("gone".to_owned()), &wanted(1)).await, Err(Error::Gone));
    assert_eq!(compute.list_files(&Handle("gone".to_owned()), "", 1).await, Err(Error::Gone));
    wire.satisfied();
}

#[tokio::test]
async fn machines_that_a_crash_left_are_found_and_released() {
    let Fixture { wire, compute, .. } = fixture().await;
    for number in 1..=2 {
        compute.create(&wanted(number)).await.unwrap();
    }
    // Its answer was lost: the machine stands, and is found.
    wire.fault("POST /v1/apps/agents/machines", Fault::CutAfter);
    assert!(matches!(compute.create(&wanted(3)).await, Err(Error::Unavailable(_))));
    let found = compute.list().await.unwrap();
    assert_eq!(found.iter().map(|(agent, _)| *agent).collect::<Vec<_>>(), [agent(1), agent(2), agent(3)]);
    for (_, handle) in &found {
        compute.terminate(handle).await.unwrap();
    }
    assert_eq!(compute.list().await, Ok(vec![]));
    wire.satisfied();
}
