//! What holds for every route: errors, ids, bodies, pages, and requests that are carried out once.

use std::time::{Duration, Instant};

use axum::body::{Body, Bytes};
use axum::http::Request;
use futures_util::future::join_all;
use futures_util::stream;
use serde_json::{Value, json};
use theazo_domain::key::Role;
use theazo_domain::organization::Mode;
use theazo_domain::{Command, key};

use crate::support::api::{Api, Reply, send};
use crate::support::site::Site;

async fn post_raw(api: &Api, content_type: &str, body: impl Into<Body>) -> Reply {
    let request = api.request("POST", "/v1/sessions").header("content-type", content_type);
    api.send(request.body(body.into()).unwrap()).await
}

#[tokio::test]
async fn unknown_paths_and_methods_are_answered_in_the_envelope() {
    let api = Site::new().await.admin().await;
    for path in ["/", "/v1", "/v1/", "/v1/nothing", "/v1/sessions/", "/v2/sessions", "/v1/sessions/a/b/c/d"] {
        api.get(path).await.error(404, "not_found");
    }
    let reply = api.call("DELETE", "/v1/sessions", &json!({})).await;
    reply.error(405, "method_not_allowed");
    let mut allowed: Vec<_> = reply.header("allow").unwrap().split(',').collect();
    allowed.sort_unstable();
    assert_eq!(allowed, ["GET", "HEAD", "POST"]);
}

#[tokio::test]
async fn every_answer_has_an_id_of_its_own() {
    let api = Site::new().await.admin().await;
    let mut ids = vec![];
    for path in ["/v1/sessions", "/v1/nothing", "/healthz", "/v1/sessions?limit=0", "/v1/events/99"] {
        let reply = api.get(path).await;
        ids.push(reply.header("x-request-id").unwrap().to_owned());
        assert!(reply.headers.get_all("x-request-id").iter().count() == 1);
    }
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 5);
}

#[tokio::test]
async fn nothing_is_told_to_who_has_no_valid_key() {
    let site = Site::new().await;
    let organization = site.organization(Mode::Live, 1_000).await;
    let (_, secret) = organization.key(Role::Admin).await;
    let other = theazo::keys::generate(Mode::Live);
    let mut changed = secret.to_string();
    changed.replace_range(20..21, if &changed[20..21] == "a" { "b" } else { "a" });
    let wrong = [
        String::new(),
        "Bearer".to_owned(),
        "Bearer ".to_owned(),
        format!("Basic {}", *secret),
        (*secret).clone(),
        format!("Bearer {}x", *secret),
        format!("Bearer {changed}"),
        format!("Bearer {}", *other),
        format!("Bearer {}", secret.replace("th_live_", "th_test_")),
        format!("Bearer {}", "x".repeat(10_000)),
    ];
    for value in wrong {
        let request =
            Request::get("/v1/sessions").header("authorization", &value).body(Body::empty()).unwrap();
        let reply = send(&site.next().router, request).await;
        reply.error(401, "unauthorized");
        assert_eq!(reply.header("x-ratelimit-limit"), None);
    }
    for value in [format!("bearer {}", *secret), format!("BEARER  {} ", *secret)] {
        let request =
            Request::get("/v1/sessions").header("authorization", value).body(Body::empty()).unwrap();
        assert_eq!(send(&site.next().router, request).await.status, 200);
    }
}

#[tokio::test]
async fn a_revoked_key_is_refused_by_both_servers_within_a_second() {
    let site = Site::new().await;
    let organization = site.organization(Mode::Live, 1_000_000).await;
    let (id, secret) = organization.key(Role::Admin).await;
    let api = Api::new(&site, organization.tenant, &secret);
    for _ in 0..4 {
        api.get("/v1/sessions").await.expect(200);
    }
    site.execute(organization.tenant, Command::Key(id, key::Command::Revoke)).await;
    let revoked = Instant::now();
    let mut refused = 0;
    while refused < 4 {
        let asked = revoked.elapsed();
        let reply = api.get("/v1/sessions").await;
        if reply.status == 401 {
            refused += 1;
        } else {
            refused = 0;
            assert!(asked < Duration::from_secs(1), "it still opened the API after {asked:?}");
        }
    }
}

#[tokio::test]
async fn a_bad_body_is_told_what_is_wrong_and_changes_nothing() {
    let api = Site::new().await.admin().await;
    let before = api.head().await;
    let body = json!({ "userId": "a" }).to_string();
    for content_type in ["text/plain", "application/x-www-form-urlencoded", "application/jsonp", ""] {
        post_raw(&api, content_type, body.clone()).await.error(415, "unsupported_media_type");
    }
    let request = api.request("POST", "/v1/sessions").body(Body::from(body)).unwrap();
    api.send(request).await.error(415, "unsupported_media_type");
    let one = |path: &str, rule: &str| vec![(path.to_owned(), rule.to_owned())];
    let nested = |depth: usize| {
        let (open, close) = ("[".repeat(depth), "]".repeat(depth));
        format!(r#"{{"userId":"a","metadata":{{"a":{open}{close}}}}}"#)
    };
    let large = json!({ "userId": "a", "metadata": { "a": "x".repeat(16_384) } }).to_string();
    let bad = [
        (b"".to_vec(), one("", "json")),
        (b"{".to_vec(), one("", "json")),
        (b"{\"userId\":\"a\"} x".to_vec(), one("", "json")),
        (b"{\"userId\":\"\xff\"}".to_vec(), one("", "json")),
        (b"{\"userId\":\"a\x00\"}".to_vec(), one("", "json")),
        (b"{\"userId\":\"\\ud800\"}".to_vec(), one("", "json")),
        (b"{\"userId\":\"a\",\"metadata\":{\"n\":1e999}}".to_vec(), one("", "json")),
        (b"null".to_vec(), one("", "type")),
        (b"{\"userId\":\"a\\u0000\"}".to_vec(), one("userId", "text")),
        (b"{\"userId\":\"a\",\"metadata\":{\"x\":[\"\\u0000\"]}}".to_vec(), one("metadata.x.0", "text")),
        (b"{\"userId\":\"a\",\"metadata\":{\"\\u0000\":1}}".to_vec(), one("metadata.\u{fffd}", "text")),
        (b"{\"userId\":\"a\",\"userId\":\"b\"}".to_vec(), one("userId", "unique")),
        (
            b"{\"userId\":\"a\",\"limits\":{\"maxAgents\":1,\"maxAgents\":2}}".to_vec(),
            one("limits.maxAgents", "unique"),
        ),
        (
            b"{\"userId\":\"a\",\"metadata\":{\"x\":[{\"y\":1,\"y\":1}]}}".to_vec(),
            one("metadata.x.0.y", "unique"),
        ),
        (nested(63).into_bytes(), one("", "depth")),
        (nested(900).into_bytes(), one("", "depth")),
        (large.into_bytes(), one("metadata", "maxBytes")),
        (json!({ "userId": "é".repeat(257) }).to_string().into_bytes(), one("userId", "maxLength")),
    ];
    for (body, expected) in bad {
        let shown = String::from_utf8_lossy(&body[..body.len().min(80)]).into_owned();
        assert_eq!(post_raw(&api, "application/json", body).await.fields(), expected, "{shown}");
    }
    assert_eq!(api.head().await, before);
    post_raw(&api, "Application/JSON ; charset=utf-8", nested(62)).await.expect(201);
    post_raw(&api, "application/json", json!({ "userId": "é".repeat(256) }).to_string()).await.expect(201);
}

#[tokio::test]
async fn a_body_over_one_mebibyte_is_refused_announced_or_in_chunks() {
    let api = Site::new().await.admin().await;
    let before = api.head().await;
    let padded = |size: usize| {
        let body = json!({ "userId": "a" }).to_string();
        format!("{body}{}", " ".repeat(size - body.len()))
    };
    let too_large = padded(1024 * 1024 + 1);
    post_raw(&api, "application/json", too_large.clone()).await.error(413, "payload_too_large");
    let announced = api.request("POST", "/v1/sessions").header("content-type", "application/json");
    let announced = announced.header("content-length", "99999999999").body(Body::empty()).unwrap();
    api.send(announced).await.error(413, "payload_too_large");
    let chunks =
        too_large.as_bytes().chunks(1000).map(|chunk| Ok::<_, std::io::Error>(Bytes::copy_from_slice(chunk)));
    let chunked = Body::from_stream(stream::iter(chunks.collect::<Vec<_>>()));
    post_raw(&api, "application/json", chunked).await.error(413, "payload_too_large");
    let endless = stream::repeat_with(|| Ok::<_, std::io::Error>(Bytes::from_static(&[b' '; 4096])));
    post_raw(&api, "application/json", Body::from_stream(endless)).await.error(413, "payload_too_large");
    let broken = stream::iter([Err::<Bytes, _>(std::io::Error::other("gone"))]);
    let broken = post_raw(&api, "application/json", Body::from_stream(broken)).await;
    assert_eq!(broken.fields(), [(String::new(), "body".into())]);
    assert_eq!(api.head().await, before);
    post_raw(&api, "application/json", padded(1024 * 1024)).await.expect(201);
}

#[tokio::test]
async fn pages_lead_through_everything_once_while_rows_are_added() {
    let api = Site::new().await.admin().await;
    let mut expected = vec![];
    for number in 0..7 {
        expected.insert(0, api.session(&format!("user_{number}")).await);
    }
    let mut seen = vec![];
    let mut path = "/v1/sessions?limit=3".to_owned();
    loop {
        let page = api.get(&path).await.expect(200);
        seen.extend(
            page["data"].as_array().unwrap().iter().map(|row| row["id"].as_str().unwrap().to_owned()),
        );
        assert_eq!(page["hasMore"].as_bool().unwrap(), page.get("nextCursor").is_some());
        let Some(cursor) = page["nextCursor"].as_str() else { break };
        assert_eq!((&cursor[..4], cursor.len()), ("cur_", 30));
        path = format!("/v1/sessions?limit=3&cursor={cursor}");
        api.session("late").await;
    }
    assert_eq!(seen, expected);
}

#[tokio::test]
async fn a_cursor_is_of_use_to_its_own_listing_only() {
    let site = Site::new().await;
    let (api, stranger) = (site.admin().await, site.admin().await);
    for caller in [&api, &stranger] {
        for _ in 0..3 {
            caller.session("a").await;
        }
    }
    let page = api.get("/v1/sessions?limit=1&userId=a").await.expect(200);
    let cursor = page["nextCursor"].as_str().unwrap();
    api.get(&format!("/v1/sessions?limit=2&userId=a&cursor={cursor}")).await.expect(200);
    let wrong = [("cursor".to_owned(), "cursor".to_owned())];
    for path in [
        format!("/v1/sessions?cursor={cursor}"),
        format!("/v1/sessions?userId=b&cursor={cursor}"),
        format!("/v1/sessions?userId=a&status=active&cursor={cursor}"),
        format!("/v1/events?cursor={cursor}"),
        format!("/v1/sessions?userId=a&cursor={}", cursor.to_lowercase()),
        format!("/v1/sessions?userId=a&cursor={}", cursor.replace("cur_0", "cur_1")),
        "/v1/sessions?userId=a&cursor=cur_01ARZ3NDEKTSV4RRFFQ69G50AV".to_owned(),
        "/v1/sessions?userId=a&cursor=".to_owned(),
        "/v1/sessions?userId=a&cursor=cur_%F0%9F%92%A9".to_owned(),
    ] {
        assert_eq!(api.get(&path).await.fields(), wrong, "{path}");
    }
    let foreign = stranger.get(&format!("/v1/sessions?userId=a&cursor={cursor}")).await;
    assert_eq!(foreign.fields(), wrong);
}

#[tokio::test]
async fn a_parameter_that_is_given_twice_or_badly_encoded_is_refused() {
    let api = Site::new().await.admin().await;
    let reply = api.get("/v1/sessions?userId=a&userId=b&status=%zz&createdAfter=%ff&x=%00").await;
    let told = reply.fields();
    let told: Vec<_> = told.iter().map(|(path, rule)| (path.as_str(), rule.as_str())).collect();
    let expected =
        [("createdAfter", "encoding"), ("status", "encoding"), ("userId", "single"), ("x", "text")];
    assert_eq!(told, expected);
    for limit in ["0", "101", "-1", "1.5", "x", "", "99999999999999999999"] {
        let reply = api.get(&format!("/v1/sessions?limit={limit}")).await;
        assert_eq!(reply.fields(), [("limit".into(), "range".into())], "{limit}");
    }
}

#[tokio::test]
async fn a_request_with_an_idempotency_key_is_carried_out_once() {
    let api = Site::new().await.admin().await;
    let body = json!({ "userId": "a", "metadata": { "b": 1 } });
    let first = api.post_once("/v1/sessions", "key", &body).await;
    first.expect(201);
    assert_eq!(first.header("idempotency-replayed"), None);
    let after = api.head().await;
    for _ in 0..4 {
        let again = api.post_once("/v1/sessions", "key", &body).await;
        assert_eq!((again.status, &again.body), (first.status, &first.body));
        assert_eq!(again.header("idempotency-replayed"), Some("true"));
        assert_eq!(again.header("content-type"), Some("application/json"));
        assert_ne!(again.header("x-request-id"), first.header("x-request-id"));
    }
    let restarted = api.site.another();
    let again = send(&restarted.router, api.once("POST", "/v1/sessions", "key", &body)).await;
    assert_eq!(again.body, first.body);
    assert_eq!(api.head().await, after);
    let event = api.get(&format!("/v1/events/{after}")).await.expect(200);
    assert_eq!(event["metadata"]["idempotencyKey"], "key");
}

#[tokio::test]
async fn an_idempotency_key_is_refused_for_another_request_and_free_for_another_tenant() {
    let site = Site::new().await;
    let (api, stranger) = (site.admin().await, site.admin().await);
    let body = json!({ "userId": "a" });
    let first = api.post_once("/v1/sessions", "key", &body).await.expect(201);
    let before = api.head().await;
    api.post_once("/v1/sessions", "key", &json!({ "userId": "b" })).await.error(409, "conflict");
    api.post_once("/v1/sessions?x=1", "key", &body).await.error(409, "conflict");
    let path = format!("/v1/sessions/{}/pause", first["id"].as_str().unwrap());
    api.post_once(&path, "key", &body).await.error(409, "conflict");
    api.post_once("/v1/sessions/by-user/a", "key", &body).await.error(409, "conflict");
    assert_eq!(api.head().await, before);
    assert_ne!(stranger.post_once("/v1/sessions", "key", &body).await.expect(201)["id"], first["id"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twins_at_the_same_moment_get_the_same_answer() {
    let api = Site::new().await.admin().await;
    let body = json!({ "userId": "a" });
    let before = api.head().await;
    let replies = join_all((0..50).map(|_| api.post_once("/v1/sessions", "key", &body))).await;
    let firsts = replies.iter().filter(|reply| reply.header("idempotency-replayed").is_none()).count();
    assert_eq!(firsts, 1);
    assert!(replies.iter().all(|reply| reply.status == 201 && reply.body == replies[0].body));
    assert_eq!(api.head().await, before + 1);
}

#[tokio::test]
async fn refusals_by_the_rules_are_kept_and_mistakes_are_not() {
    let api = Site::new().await.admin().await;
    let path = format!("/v1/sessions/{}", api.session("a").await);
    let resume = format!("{path}/resume");
    let conflict = api.post_once(&resume, "one", &json!({})).await;
    conflict.error(409, "conflict");
    api.act(&format!("{path}/pause")).await.expect(200);
    let again = api.post_once(&resume, "one", &json!({})).await;
    assert_eq!((again.status, &again.body), (conflict.status, &conflict.body));
    assert_eq!(again.header("idempotency-replayed"), Some("true"));
    api.post_once(&resume, "two", &json!({})).await.expect(200);
    let unknown = "/v1/sessions/ses_01ARZ3NDEKTSV4RRFFQ69G50AV/pause";
    let missing = api.post_once(unknown, "three", &json!({})).await;
    missing.error(404, "not_found");
    assert_eq!(api.post_once(unknown, "three", &json!({})).await.body, missing.body);
    api.post_once("/v1/sessions", "four", &json!({})).await.error(422, "unprocessable_entity");
    api.post_once("/v1/sessions", "four", &json!({ "userId": "a" })).await.expect(201);
}

#[tokio::test]
async fn what_is_not_found_before_anything_is_decided_is_kept_as_well() {
    const NOBODY: &str = "01ARZ3NDEKTSV4RRFFQ69G50AV";
    let api = Site::new().await.admin().await;
    let definition = api.post("/v1/agent-definitions", &json!({ "name": "a" })).await.expect(201);
    let agents = format!("/v1/sessions/{}/agents", api.session("a").await);
    let from = json!({ "definitionId": definition["id"], "definitionVersion": 2 });
    let secret = |session: &str| json!({ "name": "A", "value": "12345678", "sessionId": session });
    let asked = [
        (agents.clone(), from.clone()),
        (agents.clone(), json!({ "definitionId": "nonsense" })),
        ("/v1/secrets".to_owned(), secret("nonsense")),
        ("/v1/secrets".to_owned(), secret(&format!("ses_{NOBODY}"))),
        (format!("/v1/agents/agt_{NOBODY}/exec"), json!({ "lang": "bash", "code": "true" })),
    ];
    let before = api.head().await;
    let mut firsts = vec![];
    for (number, (path, body)) in asked.iter().enumerate() {
        let first = api.post_once(path, &number.to_string(), body).await;
        first.error(404, "not_found");
        firsts.push(first);
    }
    assert_eq!(api.head().await, before);
    // What was not there is there now; the answers stay.
    let path = format!("/v1/agent-definitions/{}", definition["id"].as_str().unwrap());
    api.call("PUT", &path, &json!({ "name": "b" })).await.expect(200);
    for (number, ((path, body), first)) in asked.iter().zip(&firsts).enumerate() {
        let key = number.to_string();
        let again = api.post_once(path, &key, body).await;
        assert_eq!((again.status, &again.body), (first.status, &first.body), "{path} {body}");
        assert_eq!(again.header("idempotency-replayed"), Some("true"));
        api.post_once("/v1/sessions", &key, &json!({ "userId": "b" })).await.error(409, "conflict");
    }
    api.post(&agents, &from).await.expect(201);
}

#[tokio::test]
async fn an_idempotency_key_that_cannot_be_one_is_refused_with_the_other_fields() {
    let api = Site::new().await.admin().await;
    let before = api.head().await;
    for key in ["", "a b", "é", &"x".repeat(256)] {
        let told = api.post_once("/v1/sessions", key, &json!({})).await.fields();
        assert_eq!(told, [("Idempotency-Key".into(), "header".into()), ("userId".into(), "required".into())]);
    }
    assert_eq!(api.head().await, before);
    api.post_once("/v1/sessions", &"x".repeat(255), &json!({ "userId": "a" })).await.expect(201);
}

#[tokio::test]
async fn a_patch_is_carried_out_once_too() {
    let api = Site::new().await.admin().await;
    let path = format!("/v1/sessions/{}/limits", api.session("a").await);
    let patch = |agents: i64| api.once("PATCH", &path, "key", &json!({ "maxAgents": agents }));
    let first = api.send(patch(3)).await;
    first.expect(200);
    api.call("PATCH", &path, &json!({ "maxAgents": 4 })).await.expect(200);
    assert_eq!(api.send(patch(3)).await.body, first.body);
    assert_eq!(api.get(&path).await.expect(200)["maxAgents"]["limit"], 4);
    api.send(patch(4)).await.error(409, "conflict");
}

#[tokio::test]
async fn a_server_says_how_it_is() {
    let api = Site::new().await.admin().await;
    let public = async |path: &str| {
        let request = Request::get(path).body(Body::empty()).unwrap();
        send(&api.site.servers[0].router, request).await
    };
    for path in ["/healthz", "/readyz"] {
        assert_eq!(public(path).await.expect(200), json!({ "status": "ok" }));
    }
    let metrics = public("/metrics").await;
    let text = String::from_utf8(metrics.body).unwrap();
    assert!(text.contains("theazo_http_requests_total{"), "{text}");
    assert!(text.contains("theazo_http_request_duration_seconds_bucket{"), "{text}");
    let document: Value = public("/v1/openapi.json").await.expect(200);
    assert_eq!(document["openapi"], "3.1.0");
    api.site.servers[0].app.stopping.send_replace(true);
    assert_eq!(public("/healthz").await.status, 200);
    let reply = public("/readyz").await;
    reply.error(503, "unavailable");
    assert_eq!(reply.header("retry-after"), Some("1"));
}
