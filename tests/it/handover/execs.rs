//! A caller's program is open while its server goes away.

use std::time::Instant;

use serde_json::json;
use tokio::task::JoinHandle;

use super::{AFTER_KILL, Place, Signal, kill, until};
use crate::support::server::{self, Ask, Response, Server};
use crate::support::wait::until_async;

/// A server with an agent in whose sandbox a program runs that would go on for a minute.
struct Open {
    place: Place,
    server: Server,
    key: String,
    agent: String,
    program: JoinHandle<std::io::Result<Response>>,
}

const PROGRAM: &str = r"touch begun; sleep 60";

async fn exec(address: &str, key: &str, agent: &str) -> std::io::Result<Response> {
    let path = format!("/v1/agents/{agent}/exec");
    let body = Some(json!({ "lang": "bash", "code": PROGRAM }));
    server::ask(address, Ask { method: "POST", path: &path, key, idempotency_key: Some("once"), body }).await
}

impl Open {
    async fn new() -> Self {
        let place = Place::new().await;
        let server = place.start_with(0, &Self::environment(&place)).await;
        let key = place.new_key().await;
        let session = server.create_session(&key, "user_1").await;
        let path = format!("/v1/sessions/{session}/agents");
        let created = server.request("POST", &path, &key, Some(json!({}))).await.unwrap();
        let agent = created.body["id"].as_str().unwrap().to_owned();
        let (address, secret, id) = (server.address.clone(), key.clone(), agent.clone());
        let program = tokio::spawn(async move { exec(&address, &secret, &id).await });
        let begun = place.scratch.path.join("sandboxes").join(&agent).join("workspace/begun");
        until("the program to begin", || begun.exists().then_some(())).await;
        Self { place, server, key, agent, program }
    }

    fn environment(place: &Place) -> [(&'static str, String); 1] {
        [("THEAZO_SANDBOX_DIR", place.scratch.path.join("sandboxes").display().to_string())]
    }

    async fn pause(server: &Server, key: &str, agent: &str) -> Response {
        server.request("POST", &format!("/v1/agents/{agent}/pause"), key, None).await.unwrap()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_whose_server_is_killed_is_given_up_as_soon_as_a_run_would_be_taken_up() {
    let Open { place, server, key, agent, program } = Open::new().await;
    let killed = Instant::now();
    kill(server).await;
    assert!(program.await.unwrap().is_err(), "nobody can have answered");
    let server = place.start_with(0, &Open::environment(&place)).await;
    assert_eq!(Open::pause(&server, &key, &agent).await.body["status"], "pausing");
    let path = format!("/v1/agents/{agent}");
    until_async("the agent to be paused", async || {
        let agent = server.request("GET", &path, &key, None).await.unwrap();
        (agent.body["status"] == "paused").then_some(())
    })
    .await;
    assert!(killed.elapsed() < AFTER_KILL, "{:?} after the kill", killed.elapsed());
    assert_eq!(exec(&server.address, &key, &agent).await.unwrap().status, 409);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_told_to_stop_says_that_it_has_given_a_program_up() {
    let Open { place, server, key, agent, program } = Open::new().await;
    server.signal(Signal::SIGTERM);
    let answered = program.await.unwrap().unwrap();
    assert_eq!(
        (answered.status, &answered.body["error"]["code"]),
        (503, &json!("unavailable")),
        "{answered:?}"
    );
    assert!(server.ended().await.success());
    let server = place.start_with(0, &Open::environment(&place)).await;
    assert_eq!(Open::pause(&server, &key, &agent).await.body["status"], "paused");
}
