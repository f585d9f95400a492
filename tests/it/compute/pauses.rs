//! Pauses that meet what they do not expect: an agent that is asked to go on before its sandbox is suspended, and
//! calls of vendors that break.

use serde_json::json;
use theazo_domain::key::Role;
use theazo_domain::organization::Mode;

use super::runs::{agents_of_a_session, docker, idle, site};
use crate::support::site::Site;
use crate::support::vendors::Fault;
use crate::support::wait::until;

/// It is suspended and woken as if nobody had been in a hurry: nothing is begun in a sandbox that is being suspended.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_for_an_agent_that_is_resumed_while_its_sandbox_is_suspended_waits_until_that_was_woken() {
    let place = docker().await;
    let (_site, api) = site(&place, None).await;
    let id = idle(&api, &agents_of_a_session(&api).await).await;
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

/// What cannot be suspended costs its provider's money for longer; nobody has to wait for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_goes_on_also_where_its_provider_refuses_to_suspend_its_sandbox() {
    let place = docker().await;
    let (_site, api) = site(&place, None).await;
    let id = idle(&api, &agents_of_a_session(&api).await).await;
    for _ in 0..100 {
        let words = r#"{"message":"no freezer cgroup"}"#.to_owned();
        place.wire.fault("/pause", Fault::Status(500, vec![], words));
    }
    api.act(&format!("/v1/agents/{id}/pause")).await.expect(200);
    until("the refusal", || place.wire.seen().iter().any(|line| line.ends_with("/pause")).then_some(()))
        .await;
    api.act(&format!("/v1/agents/{id}/resume")).await.expect(200);
    let body = json!({ "lang": "bash", "code": "echo awake" });
    let ran = api.post(&format!("/v1/agents/{id}/exec"), &body).await.expect(200);
    assert_eq!(ran["stdout"], "awake\n");
}

/// However callers come between each other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_waits_for_its_sandbox_also_where_that_is_suspended_after_it_was_looked_at() {
    let site = Site::working(None).await;
    let api = site.organization(Mode::Test, 1_000_000).await.api(Role::Developer).await;
    let path = agents_of_a_session(&api).await;
    let id = api.post(&path, &json!({})).await.expect(201)["id"].as_str().unwrap().to_owned();
    let path = |action: &str| format!("/v1/agents/{id}/{action}");
    let restless = async {
        for _ in 0..60 {
            api.act(&path("pause")).await;
            api.act(&path("resume")).await;
        }
    };
    let asking = async || {
        for _ in 0..60 {
            let ran = api.post(&path("exec"), &json!({ "lang": "bash", "code": "true" })).await;
            // It is refused where it comes between the two, and for no other reason.
            let shown = String::from_utf8_lossy(&ran.body);
            assert!(ran.status == 200 || shown.contains("is paus"), "{shown}");
        }
    };
    tokio::join!(restless, asking(), asking(), asking());
}
