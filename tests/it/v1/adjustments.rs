//! Corrections of charges.

use serde_json::{Value, json};
use theazo_domain::key::Role;
use theazo_domain::organization::Mode;

use crate::support::api::Api;
use crate::support::site::{Organization, Site};
use crate::support::wait;

const PATH: &str = "/v1/billing/adjustments";

/// A task that was run in test mode.
struct Ran {
    session: String,
    agent: String,
    task: String,
    /// The first of its charges: 100 tokens of input at 3.30 dollars a million.
    charge: String,
}

async fn organization() -> Organization {
    Site::working(None).await.organization(Mode::Test, 10_000).await
}

async fn ran(api: &Api) -> Ran {
    let session = api.session("user_1").await;
    let created = api.post(&format!("/v1/sessions/{session}/agents"), &json!({})).await.expect(201);
    let agent = created["id"].as_str().unwrap().to_owned();
    let started = api.post(&format!("/v1/agents/{agent}/run"), &json!({ "task": "x" })).await.expect(202);
    let task = started["taskId"].as_str().unwrap().to_owned();
    let settled = wait::until_async("the task", async || {
        let path = format!("/v1/events?subject={task}&type=model.call_settled");
        let found = api.get(&path).await.expect(200);
        found["data"][0]["position"].as_i64()
    })
    .await;
    Ran { session, agent, task, charge: format!("{settled}.0") }
}

fn credit(charge: &str, exact: &str) -> Value {
    json!({ "chargeId": charge, "exact": exact, "reason": "Ada asked for it" })
}

async fn cost(api: &Api, session: &str) -> String {
    let usage = api.get(&format!("/v1/sessions/{session}/usage")).await.expect(200);
    usage["cost"]["exact"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_charge_is_corrected_by_a_line_of_its_own() {
    let api = organization().await.api(Role::Admin).await;
    let Ran { session, agent, task, charge } = ran(&api).await;
    api.act(&format!("/v1/agents/{agent}/terminate")).await.expect(200);
    let before: rust_decimal::Decimal = cost(&api, &session).await.parse().unwrap();
    let made = api.post(PATH, &credit(&charge, "-0.0003")).await.expect(201);
    let expected = json!({
        "id": made["id"], "chargeId": charge, "category": "model",
        "amount": { "amount": 0, "currency": "usd", "exact": "-0.0003" },
        "reason": "Ada asked for it", "createdAt": made["createdAt"], "userId": "user_1",
        "sessionId": session, "agentId": agent, "taskId": task, "model": "claude-sonnet-4-20250514",
    });
    assert_eq!(made, expected);
    let after: rust_decimal::Decimal = cost(&api, &session).await.parse().unwrap();
    assert_eq!(before - after, "0.0003".parse().unwrap());
    // What a task has cost stays what its output said.
    assert_eq!(api.get(&format!("/v1/tasks/{task}")).await.expect(200)["cost"]["exact"], "0.001155");
    let position = made["id"].as_str().unwrap().strip_suffix(".0").unwrap();
    let event = api.get(&format!("/v1/events/{position}")).await.expect(200);
    assert_eq!(event["type"], "billing.adjusted");
    assert!(!event["data"].to_string().contains("Ada"), "{event}");
    assert!(event["content"].to_string().contains("Ada"), "{event}");

    let refused = api.post(PATH, &credit(&charge, "-0.00004")).await.error(409, "conflict");
    assert!(refused["message"].as_str().unwrap().contains("0.00003 is left"), "{refused}");
    api.post(PATH, &credit(made["id"].as_str().unwrap(), "0.01")).await.error(409, "conflict");
    let more = json!({ "chargeId": charge, "amount": 5, "reason": "too little" });
    let more = api.post(PATH, &more).await.expect(201);
    assert_eq!(more["amount"], json!({ "amount": 5, "currency": "usd", "exact": "0.05" }));
    let listed = api.get(PATH).await.expect(200);
    assert_eq!(listed, json!({ "data": [more, made], "hasMore": false }));
    let first = api.get(&format!("{PATH}?limit=1")).await.expect(200);
    let next = api.get(&format!("{PATH}?limit=1&cursor={}", first["nextCursor"].as_str().unwrap())).await;
    assert_eq!(next.expect(200), json!({ "data": [made], "hasMore": false }));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_charges_are_corrected_and_only_by_those_who_may() {
    let organization = organization().await;
    let api = organization.api(Role::Admin).await;
    let Ran { charge, .. } = ran(&api).await;
    let position = charge.strip_suffix(".0").unwrap();
    for unknown in ["", "x", "1.0", "999999.0", &format!("{position}.2"), &format!("0{charge}"), position] {
        api.post(PATH, &credit(unknown, "-0.0001")).await.error(404, "not_found");
    }
    // Also what does not exist is decided, and a repeat gets the same answer.
    let body = credit("999999.0", "-0.0001");
    let (first, again) = (api.post_once(PATH, "gone", &body).await, api.post_once(PATH, "gone", &body).await);
    first.error(404, "not_found");
    assert_eq!((first.body, Some("true")), (again.body.clone(), again.header("idempotency-replayed")));
    api.post_once(PATH, "gone", &credit(&charge, "-0.0001")).await.error(409, "conflict");
    let run = "/v1/agents/agt_01ARZ3NDEKTSV4RRFFQ69G50AV/run";
    let nobody = async || api.post_once(run, "nobody", &json!({ "task": "x" })).await;
    nobody().await.error(404, "not_found");
    assert_eq!(nobody().await.header("idempotency-replayed"), Some("true"));
    let stranger = organization.site.admin().await;
    stranger.post(PATH, &credit(&charge, "-0.0001")).await.error(404, "not_found");
    for (body, wrong) in [
        (json!({ "amount": 1, "exact": "1" }), ("amount", "oneOf")),
        (json!({}), ("amount", "oneOf")),
        (json!({ "amount": 0 }), ("amount", "not")),
        (json!({ "exact": "-0.00" }), ("exact", "not")),
        (json!({ "exact": "0.0000000000001" }), ("exact", "pattern")),
        (json!({ "exact": "1e3" }), ("exact", "pattern")),
        (json!({ "amount": 1_000_000_000_000_001_i64 }), ("amount", "maximum")),
        (json!({ "amount": 1, "reason": "" }), ("reason", "minLength")),
        (json!({ "amount": 1, "reason": "x".repeat(257) }), ("reason", "maxLength")),
    ] {
        let mut asked = json!({ "chargeId": charge, "reason": "x" });
        asked.as_object_mut().unwrap().extend(body.as_object().unwrap().clone());
        let (path, rule) = wrong;
        assert_eq!(api.post(PATH, &asked).await.fields(), [(path.to_owned(), rule.to_owned())], "{body}");
    }
    let missing: Vec<_> = api.post(PATH, &json!({ "amount": 1 })).await.fields();
    assert_eq!(missing.iter().map(|(path, _)| path.as_str()).collect::<Vec<_>>(), ["chargeId", "reason"]);
    for role in [Role::Developer, Role::Finance, Role::ReadOnly] {
        let other = organization.api(role).await;
        other.post(PATH, &credit(&charge, "-0.0001")).await.error(403, "forbidden");
        other.get(PATH).await.expect(200);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_at_once_give_back_no_more_than_was_charged_and_a_repeat_gives_nothing() {
    let api = organization().await.api(Role::Admin).await;
    let Ran { charge, .. } = ran(&api).await;
    let mut callers = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let (api, body) = (api.clone(), credit(&charge, "-0.00009"));
        callers.spawn(async move { api.post(PATH, &body).await });
    }
    let replies = callers.join_all().await;
    assert_eq!(replies.iter().filter(|reply| reply.status == 201).count(), 3);
    assert_eq!(replies.iter().filter(|reply| reply.status == 409).count(), 17);
    let body = credit(&charge, "-0.00001");
    let first = api.post_once(PATH, "once", &body).await;
    let again = api.post_once(PATH, "once", &body).await;
    assert_eq!((first.expect(201), &first.body), (again.expect(201), &again.body));
    assert_eq!(api.get(PATH).await.expect(200)["data"].as_array().unwrap().len(), 4);
}
