//! `/v1/sessions`.

use axum::body::Body;
use futures_util::future::join_all;
use serde_json::{Value, json};
use theazo_domain::key::Role;
use theazo_domain::organization::Mode;

use crate::support::api::Api;
use crate::support::site::Site;

const UNKNOWN: &str = "ses_01ARZ3NDEKTSV4RRFFQ69G50AV";

async fn newest(api: &Api) -> Value {
    api.get("/v1/events?limit=1").await.expect(200)["data"][0].clone()
}

#[tokio::test]
async fn the_example_of_the_reference_creates_a_session() {
    let api = Site::new().await.admin().await;
    let limits = json!({ "maxCost": { "amount": 500, "currency": "usd", "period": "day" }, "maxAgents": 3 });
    let body = json!({ "userId": "user_123", "limits": limits, "metadata": { "plan": "pro" } });
    let reply = api.post("/v1/sessions", &body).await;
    let session = reply.expect(201);
    assert_eq!(session["userId"], "user_123");
    assert_eq!(session["status"], "active");
    assert_eq!(session["limits"], limits);
    assert_eq!(session["metadata"], json!({ "plan": "pro" }));
    assert_eq!(session["createdAt"], session["updatedAt"]);
    let path = format!("/v1/sessions/{}", session["id"].as_str().unwrap());
    assert_eq!(api.get(&path).await.expect(200), session);
    let event = newest(&api).await;
    assert_eq!(event["type"], "session.created");
    assert_eq!(event["metadata"]["requestId"], reply.header("x-request-id").unwrap());
    assert!(!event.to_string().contains("user_123"), "who it is stands beside the log: {event}");
}

#[tokio::test]
async fn a_session_without_limits_and_metadata_shows_none() {
    let api = Site::new().await.admin().await;
    let body = json!({ "userId": "a", "limits": null, "metadata": null, "somethingElse": [1] });
    let session = api.post("/v1/sessions", &body).await.expect(201);
    let mut names: Vec<_> = session.as_object().unwrap().keys().map(String::as_str).collect();
    names.sort_unstable();
    assert_eq!(names, ["createdAt", "id", "status", "updatedAt", "userId"]);
}

#[tokio::test]
async fn metadata_comes_back_as_it_was_sent() {
    let api = Site::new().await.admin().await;
    let metadata = r#"{ "z": 1, "a": 1.50, "big": 123456789012345678901234567890, "t": "a  b" }"#;
    let body = format!(r#"{{"userId":"a","metadata":{metadata}}}"#);
    let request =
        api.request("POST", "/v1/sessions").header("content-type", "application/json; charset=utf-8");
    let reply = api.send(request.body(Body::from(body)).unwrap()).await;
    let id = reply.expect(201)["id"].as_str().unwrap().to_owned();
    let sent = r#""metadata":{"z":1,"a":1.50,"big":123456789012345678901234567890,"t":"a  b"}"#;
    assert!(String::from_utf8_lossy(&reply.body).contains(sent));
    let read = api.get(&format!("/v1/sessions/{id}")).await;
    assert!(String::from_utf8_lossy(&read.body).contains(sent));
}

#[tokio::test]
async fn every_wrong_field_is_named_at_once() {
    let api = Site::new().await.admin().await;
    let before = api.head().await;
    let cost = json!({ "amount": -1, "currency": "eur" });
    let limits = json!({ "maxCost": cost, "maxAgents": 0, "maxComputeMinutes": "ten" });
    let body = json!({ "userId": "", "limits": limits, "metadata": [1] });
    let told = api.post("/v1/sessions", &body).await.fields();
    let expected = [
        ("limits.maxAgents", "minimum"),
        ("limits.maxComputeMinutes", "type"),
        ("limits.maxCost.amount", "minimum"),
        ("limits.maxCost.currency", "enum"),
        ("limits.maxCost.period", "required"),
        ("metadata", "type"),
        ("userId", "minLength"),
    ];
    let expected: Vec<_> =
        expected.iter().map(|(path, rule)| ((*path).to_owned(), (*rule).to_owned())).collect();
    assert_eq!(told, expected);
    let reply = api.post("/v1/sessions", &json!({ "limits": 5 })).await;
    assert_eq!(reply.fields(), [("limits".into(), "type".into()), ("userId".into(), "required".into())]);
    assert_eq!(api.post("/v1/sessions", &json!([])).await.fields(), [(String::new(), "type".into())]);
    assert_eq!(api.head().await, before);
}

#[tokio::test]
async fn a_whole_number_may_be_written_as_a_float() {
    let api = Site::new().await.admin().await;
    let limits =
        json!({ "maxAgents": 3.0, "maxCost": { "amount": 5e2, "currency": "usd", "period": "month" } });
    let session = api.post("/v1/sessions", &json!({ "userId": "a", "limits": limits })).await.expect(201);
    assert_eq!(session["limits"]["maxAgents"], 3);
    assert_eq!(session["limits"]["maxCost"]["amount"], 500);
    let limits = json!({ "maxAgents": 3.5 });
    let reply = api.post("/v1/sessions", &json!({ "userId": "a", "limits": limits })).await;
    assert_eq!(reply.fields(), [("limits.maxAgents".into(), "type".into())]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_parallel_callers_get_one_session_of_a_new_user() {
    let api = Site::new().await.admin().await;
    let path = "/v1/sessions/by-user/user_123";
    let body = json!({ "limits": { "maxCost": { "amount": 1000, "currency": "usd", "period": "month" } } });
    let replies = join_all((0..200).map(|_| api.post(path, &body))).await;
    let created = replies.iter().filter(|reply| reply.status == 201).count();
    assert_eq!(created, 1);
    assert!(replies.iter().all(|reply| reply.status == 200 || reply.status == 201));
    let first = replies[0].json();
    assert!(replies.iter().all(|reply| reply.json() == first));
    let listed = api.get("/v1/sessions?userId=user_123").await.expect(200);
    assert_eq!(listed["data"], json!([first]));
    assert_eq!(listed["hasMore"], false);
    assert!(listed.get("nextCursor").is_none());
}

#[tokio::test]
async fn by_user_takes_no_body_and_leaves_an_open_session_unchanged() {
    let api = Site::new().await.admin().await;
    let created = api.act("/v1/sessions/by-user/a%2Fb%20c%C3%A9").await.expect(201);
    assert_eq!(created["userId"], "a/b cé");
    let limits = json!({ "limits": { "maxAgents": 1 }, "metadata": { "a": 1 } });
    let again = api.post("/v1/sessions/by-user/a%2Fb%20c%C3%A9", &limits).await.expect(200);
    assert_eq!(again, created);
    api.act(&format!("/v1/sessions/{}/terminate", created["id"].as_str().unwrap())).await.expect(200);
    let next = api.post("/v1/sessions/by-user/a%2Fb%20c%C3%A9", &limits).await.expect(201);
    assert_ne!(next["id"], created["id"]);
    assert_eq!(next["metadata"], json!({ "a": 1 }));
}

#[tokio::test]
async fn a_user_id_in_the_path_is_opaque_but_must_be_text() {
    let api = Site::new().await.admin().await;
    let before = api.head().await;
    for (path, rule) in [("%ff", "text"), ("a%00b", "text"), (&"é".repeat(257)[..], "maxLength")] {
        let path = percent_encoding::utf8_percent_encode(path, percent_encoding::CONTROLS).to_string();
        let reply = api.act(&format!("/v1/sessions/by-user/{path}")).await;
        assert_eq!(reply.fields(), [("userId".into(), rule.into())], "{path}");
    }
    assert_eq!(api.head().await, before);
    api.act(&format!("/v1/sessions/by-user/{}", "%C3%A9".repeat(256))).await.expect(201);
    for user in [".", "..", "A", "a", "a+b", "%25"] {
        let session = api.act(&format!("/v1/sessions/by-user/{user}")).await.expect(201);
        assert_eq!(session["userId"], if user == "%25" { "%" } else { user });
    }
}

#[tokio::test]
async fn a_session_is_paused_resumed_and_terminated() {
    let api = Site::new().await.admin().await;
    let path = format!("/v1/sessions/{}", api.session("a").await);
    let act = async |verb: &str| api.act(&format!("{path}/{verb}")).await;
    act("resume").await.error(409, "conflict");
    for (verb, status) in
        [("pause", "paused"), ("pause", "paused"), ("resume", "active"), ("pause", "paused")]
    {
        assert_eq!(act(verb).await.expect(200)["status"], status);
    }
    let ended = act("terminate").await.expect(200);
    assert_eq!(ended["status"], "terminated");
    assert_eq!(api.get(&path).await.expect(200), ended);
    let before = api.head().await;
    assert_eq!(act("terminate").await.expect(200), ended);
    act("pause").await.error(409, "conflict");
    act("resume").await.error(409, "conflict");
    let change = api.call("PATCH", &format!("{path}/limits"), &json!({ "maxAgents": 2 })).await;
    change.error(409, "conflict");
    assert_eq!(api.head().await, before);
    let types = api.get("/v1/events").await.expect(200);
    let types: Vec<_> = types["data"].as_array().unwrap().iter().map(|event| event["type"].clone()).collect();
    assert_eq!(types[..4], ["session.terminated", "session.paused", "session.resumed", "session.paused"]);
}

#[tokio::test]
async fn limits_are_changed_one_by_one_and_lifted_by_null() {
    let api = Site::new().await.admin().await;
    let path = format!("/v1/sessions/{}/limits", api.session("a").await);
    assert_eq!(api.get(&path).await.expect(200), json!({}));
    let cost = json!({ "amount": 500, "currency": "usd", "period": "day" });
    let body = json!({ "maxCost": cost, "maxAgents": 3 });
    let changed = api.call("PATCH", &path, &body).await.expect(200);
    let zero = json!({ "amount": 0, "currency": "usd", "exact": "0.00" });
    let five = json!({ "amount": 500, "currency": "usd", "exact": "5.00" });
    let limit = json!({ "amount": 500, "currency": "usd", "period": "day", "exact": "5.00" });
    let expected = json!({
        "maxCost": { "limit": limit, "used": zero, "remaining": five, "percentage": 0.0 },
        "maxAgents": { "limit": 3, "used": 0, "remaining": 3, "percentage": 0.0 },
    });
    assert_eq!(changed, expected);
    assert_eq!(api.get(&path).await.expect(200), expected);
    let before = api.head().await;
    assert_eq!(api.call("PATCH", &path, &json!({})).await.expect(200), expected);
    assert_eq!(api.head().await, before, "nothing changed, so nothing happened");
    let lifted = api.call("PATCH", &path, &json!({ "maxCost": null })).await.expect(200);
    assert_eq!(lifted, json!({ "maxAgents": expected["maxAgents"] }));
    let wrong = json!({ "maxCost": { "amount": 1 }, "maxComputeMinutes": 0 });
    let told = api.call("PATCH", &path, &wrong).await.fields();
    let paths: Vec<_> = told.iter().map(|(path, _)| path.as_str()).collect();
    assert_eq!(paths, ["maxComputeMinutes", "maxCost.currency", "maxCost.period"]);
}

#[tokio::test]
async fn a_new_session_has_used_nothing() {
    let api = Site::new().await.admin().await;
    let path = format!("/v1/sessions/{}/usage", api.session("a").await);
    let zero = json!({ "amount": 0, "currency": "usd", "exact": "0.00" });
    let expected = json!({
        "cost": zero, "reserved": zero, "unconfirmed": zero, "computeMinutes": 0, "activeAgents": 0,
        "totalAgentsCreated": 0, "modelCalls": 0,
    });
    assert_eq!(api.get(&path).await.expect(200), expected);
}

#[tokio::test]
async fn sessions_are_listed_newest_first_and_filtered() {
    let api = Site::new().await.admin().await;
    let mut ids = vec![];
    for user in ["a", "b", "a", "b"] {
        ids.push(api.session(user).await);
    }
    api.act(&format!("/v1/sessions/{}/pause", ids[0])).await.expect(200);
    let listed = async |query: &str| -> Vec<String> {
        let page = api.get(&format!("/v1/sessions{query}")).await.expect(200);
        page["data"].as_array().unwrap().iter().map(|row| row["id"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(listed("").await, [&ids[3], &ids[2], &ids[1], &ids[0]].map(Clone::clone));
    assert_eq!(listed("?userId=a").await, [&ids[2], &ids[0]].map(Clone::clone));
    assert_eq!(listed("?userId=a&status=active").await, [ids[2].clone()]);
    assert_eq!(listed("?status=paused").await, [ids[0].clone()]);
    api.act(&format!("/v1/sessions/{}/terminate", ids[3])).await.expect(200);
    assert_eq!(listed("?status=active").await, [&ids[2], &ids[1]].map(Clone::clone));
    assert_eq!(listed("?status=terminated").await, [ids[3].clone()]);
    assert_eq!(listed("?userId=nobody").await, Vec::<String>::new());
    assert_eq!(listed("?createdAfter=2020-01-01T00:00:00Z").await.len(), 4);
    assert_eq!(listed("?createdAfter=2999-01-01T00:00:00.000Z").await.len(), 0);
    let told = api.get("/v1/sessions?status=gone&createdAfter=2025-05-01&limit=101&cursor=x").await.fields();
    let paths: Vec<_> = told.iter().map(|(path, _)| path.as_str()).collect();
    assert_eq!(paths, ["createdAfter", "cursor", "limit", "status"]);
}

#[tokio::test]
async fn what_does_not_exist_is_404_and_another_tenants_too() {
    let site = Site::new().await;
    let (api, stranger) = (site.admin().await, site.admin().await);
    let test = site.organization(Mode::Test, 1_000).await.api(Role::Admin).await;
    let foreign = api.session("a").await;
    for id in [UNKNOWN, "ses_x", "agt_01ARZ3NDEKTSV4RRFFQ69G50AV", &UNKNOWN.to_lowercase(), &foreign] {
        for caller in [&stranger, &test] {
            for path in ["", "/limits", "/usage"] {
                let reply = caller.get(&format!("/v1/sessions/{id}{path}")).await;
                reply.error(404, "not_found");
            }
            for verb in ["pause", "resume", "terminate"] {
                caller.act(&format!("/v1/sessions/{id}/{verb}")).await.error(404, "not_found");
            }
            let path = format!("/v1/sessions/{id}/limits");
            caller.call("PATCH", &path, &json!({ "maxAgents": 1 })).await.error(404, "not_found");
        }
    }
    assert_eq!(api.get(&format!("/v1/sessions/{foreign}")).await.expect(200)["status"], "active");
}

#[tokio::test]
async fn each_role_may_do_what_the_contract_says() {
    let site = Site::new().await;
    let organization = site.organization(Mode::Live, 1_000).await;
    let admin = organization.api(Role::Admin).await;
    let path = format!("/v1/sessions/{}", admin.session("a").await);
    // May write, may read, may inspect.
    let roles = [
        (Role::Admin, [true, true, true]),
        (Role::Developer, [true, true, true]),
        (Role::ReadOnly, [false, true, true]),
        (Role::Finance, [false, false, true]),
    ];
    for (role, [write, read, inspect]) in roles {
        let api = organization.api(role).await;
        let replies = [
            (write, api.post("/v1/sessions", &json!({ "userId": "b" })).await),
            (write, api.act("/v1/sessions/by-user/c").await),
            (write, api.act(&format!("{path}/pause")).await),
            (write, api.call("PATCH", &format!("{path}/limits"), &json!({})).await),
            (read, api.get("/v1/sessions").await),
            (read, api.get(&path).await),
            (read, api.get(&format!("{path}/limits")).await),
            (inspect, api.get(&format!("{path}/usage")).await),
            (inspect, api.get("/v1/events").await),
            (inspect, api.get("/v1/events/1").await),
        ];
        for (allowed, reply) in replies {
            if allowed {
                assert!(reply.status.is_success(), "{role:?}: {reply:?}");
            } else {
                reply.error(403, "forbidden");
            }
        }
    }
}
