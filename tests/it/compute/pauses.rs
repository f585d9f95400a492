//! Pauses that meet what they do not expect: an agent that is asked to go on before its sandbox is suspended, and
//! calls of vendors that break.

use serde_json::json;

use super::runs::{docker, site, stands};

/// It is suspended and woken as if nobody had been in a hurry: nothing is begun in a sandbox that is being suspended.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_for_an_agent_that_is_resumed_while_its_sandbox_is_suspended_waits_until_that_was_woken() {
    let place = docker().await;
    let (_site, api) = site(&place, None).await;
    let path = format!("/v1/sessions/{}/agents", api.session("user_1").await);
    let created = api.post(&path, &json!({})).await.expect(201);
    let id = created["id"].as_str().unwrap();
    stands(&api, id, "idle").await;
    let gate = place.wire.hold("/pause");
    api.act(&format!("/v1/agents/{id}/pause")).await.expect(200);
    gate.reached.notified().await;
    place.wire.seen();
    assert_eq!(api.act(&format!("/v1/agents/{id}/resume")).await.expect(200)["status"], "idle");
    let body = json!({ "lang": "bash", "code": "echo awake" });
    let exec = {
        let (api, path) = (api.clone(), format!("/v1/agents/{id}/exec"));
        async move { api.post(&path, &body).await }
    };
    let exec = tokio::spawn(exec);
    gate.opened.notify_one();
    assert_eq!(exec.await.unwrap().expect(200)["stdout"], "awake\n");
    let seen = place.wire.seen();
    let first = |what: &str| seen.iter().position(|line| line.ends_with(what));
    assert!(first("/unpause").is_some() && first("/unpause") < first("/exec"), "{seen:?}");
    place.wire.satisfied();
}
