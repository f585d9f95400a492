//! `/v1/agent-definitions`.

use axum::body::Body;
use futures_util::future::join_all;
use serde_json::{Value, json};
use theazo_domain::key::Role;
use theazo_domain::organization::Mode;

use crate::support::api::{Api, Reply};
use crate::support::site::Site;

const UNKNOWN: &str = "adef_01ARZ3NDEKTSV4RRFFQ69G50AV";
const ROUTE: &str = "/v1/agent-definitions";

fn example() -> Value {
    json!({
        "name": "Research Assistant",
        "instructions": "You are a research assistant. Be thorough and cite sources.",
        "tools": ["web_search", "write_file"],
        "model": { "id": "claude-sonnet-4-20250514" },
    })
}

fn path(definition: &Value) -> String {
    format!("{ROUTE}/{}", definition["id"].as_str().unwrap())
}

async fn delete(api: &Api, path: &str) -> Reply {
    api.send(api.request("DELETE", path).body(Body::empty()).unwrap()).await
}

async fn ids(api: &Api, query: &str) -> Vec<Value> {
    let page = api.get(&format!("{ROUTE}{query}")).await.expect(200);
    page["data"].as_array().unwrap().iter().map(|row| row["id"].clone()).collect()
}

#[tokio::test]
async fn the_example_of_the_reference_creates_version_1() {
    let api = Site::new().await.admin().await;
    let definition = api.post(ROUTE, &example()).await.expect(201);
    let mut expected = example();
    for name in ["id", "createdAt", "updatedAt"] {
        expected[name] = definition[name].clone();
    }
    expected["version"] = 1.into();
    expected["status"] = "active".into();
    assert_eq!(definition, expected);
    assert!(definition["id"].as_str().unwrap().starts_with("adef_"));
    assert_eq!(definition["createdAt"], definition["updatedAt"]);
    assert_eq!(api.get(&path(&definition)).await.expect(200), definition);
    let event = api.get("/v1/events?limit=1").await.expect(200)["data"][0].clone();
    assert_eq!(event["type"], "definition.created");
    assert_eq!(event["subjects"], json!([definition["id"]]));
    assert_eq!(event["data"]["tools"], definition["tools"]);
    assert!(!event.to_string().contains("thorough"), "what agents are told stands beside the log: {event}");
    let opened = api.get(&format!("/v1/events/{}", event["position"])).await.expect(200);
    assert!(opened["content"].to_string().contains("thorough"), "{opened}");
}

#[tokio::test]
async fn every_field_comes_back_as_it_was_sent() {
    let api = Site::new().await.admin().await;
    let body = r#"{"name":"a","instructions":"","tools":[],
        "model":{"id":"m","maxTokens":4096.0,"temperature":0.70,"other":1},
        "compute":{"provider":"e2b","timeout":86400},"metadata":{ "z": 1.50, "a": [] }}"#;
    let request = api.request("POST", ROUTE).header("content-type", "application/json");
    let reply = api.send(request.body(Body::from(body)).unwrap()).await;
    let shown = concat!(
        r#""name":"a","version":1,"instructions":"","tools":[],"#,
        r#""model":{"id":"m","maxTokens":4096,"temperature":0.70},"#,
        r#""compute":{"provider":"e2b","timeout":86400},"metadata":{"z":1.50,"a":[]},"status":"active""#,
    );
    assert!(String::from_utf8_lossy(&reply.body).contains(shown), "{reply:?}");
    let read = api.get(&path(&reply.expect(201))).await;
    assert_eq!(read.body, reply.body);
    let event = api.get("/v1/events?limit=1").await.expect(200)["data"][0].clone();
    assert_eq!(event["data"]["model"]["temperature"], "0.70");
}

#[tokio::test]
async fn a_definition_needs_no_more_than_a_name() {
    let api = Site::new().await.admin().await;
    let body = json!({
        "name": "a", "instructions": null, "tools": null, "model": null, "compute": null, "metadata": null,
    });
    for body in [body, json!({ "name": "é".repeat(256) })] {
        let definition = api.post(ROUTE, &body).await.expect(201);
        let mut names: Vec<_> = definition.as_object().unwrap().keys().map(String::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["createdAt", "id", "name", "status", "updatedAt", "version"]);
    }
}

#[tokio::test]
async fn every_wrong_field_is_named_and_nothing_changes() {
    let api = Site::new().await.admin().await;
    let definition = api.post(ROUTE, &example()).await.expect(201);
    let before = api.head().await;
    let body = json!({
        "name": "x".repeat(257),
        "instructions": "x".repeat(256 * 1024 + 1),
        "tools": ["web_search", "teleport", 5],
        "model": { "maxTokens": 0, "temperature": 2.1 },
        "compute": { "provider": "aws", "timeout": 86_401 },
        "metadata": { "a": "x".repeat(16 * 1024) },
    });
    let expected = [
        ("compute.provider", "enum"),
        ("compute.timeout", "maximum"),
        ("instructions", "maxBytes"),
        ("metadata", "maxBytes"),
        ("model.id", "required"),
        ("model.maxTokens", "minimum"),
        ("model.temperature", "maximum"),
        ("name", "maxLength"),
        ("tools.1", "enum"),
        ("tools.2", "enum"),
        ("tools.2", "type"),
    ];
    let expected = expected.map(|(path, rule)| (path.to_owned(), rule.to_owned()));
    assert_eq!(api.post(ROUTE, &body).await.fields(), expected);
    assert_eq!(api.call("PUT", &path(&definition), &body).await.fields(), expected);
    for (body, field, rule) in [
        (json!({ "name": null }), "name", "type"),
        (json!({ "name": "" }), "name", "minLength"),
        (json!({ "name": "a", "tools": ["run_code", "run_code"] }), "tools", "uniqueItems"),
        (json!({ "name": "a", "tools": "run_code" }), "tools", "type"),
        (json!({ "name": "a", "model": { "id": "" } }), "model.id", "minLength"),
        (json!({ "name": "a", "model": { "id": "m", "maxTokens": 1.5 } }), "model.maxTokens", "type"),
        (
            json!({ "name": "a", "model": { "id": "m", "maxTokens": 1_000_001 } }),
            "model.maxTokens",
            "maximum",
        ),
        (json!({ "name": "a", "model": { "id": "m", "temperature": -0.1 } }), "model.temperature", "minimum"),
        (json!({ "name": "a", "model": { "id": "m", "temperature": "1" } }), "model.temperature", "type"),
        (json!({ "name": "a", "compute": { "timeout": 0 } }), "compute.timeout", "minimum"),
        (json!({ "name": "a", "metadata": [] }), "metadata", "type"),
        (json!({ "name": "a\u{0}" }), "name", "text"),
    ] {
        for reply in [api.post(ROUTE, &body).await, api.call("PUT", &path(&definition), &body).await] {
            assert_eq!(reply.fields(), [(field.to_owned(), rule.to_owned())], "{body}");
        }
    }
    assert_eq!(api.post(ROUTE, &json!({})).await.fields(), [("name".to_owned(), "required".to_owned())]);
    // Only reading it tells that a number is longer than what is kept.
    let long = r#"{"name":"","model":{"id":"m","temperature":0.12345678901234567890123456789}}"#;
    let request = api.request("POST", ROUTE).header("content-type", "application/json");
    let told = api.send(request.body(axum::body::Body::from(long)).unwrap()).await.fields();
    let expected = [("model.temperature", "digits"), ("name", "minLength")];
    assert_eq!(told, expected.map(|(path, rule)| (path.to_owned(), rule.to_owned())));
    assert_eq!(api.head().await, before);
}

#[tokio::test]
async fn an_update_makes_the_next_version_and_the_earlier_ones_stay() {
    let api = Site::new().await.admin().await;
    let first = api.post(ROUTE, &example()).await.expect(201);
    let path = path(&first);
    let change = json!({
        "model": { "id": "claude-sonnet-4-20250514" }, "tools": ["web_search", "write_file", "http_request"],
    });
    let second = api.call("PUT", &path, &change).await.expect(200);
    assert_eq!(second["version"], 2);
    assert_eq!(second["tools"], change["tools"]);
    for name in ["id", "name", "instructions", "model", "createdAt", "status"] {
        assert_eq!(second[name], first[name], "{name}");
    }
    let change = json!({
        "name": "Assistant", "instructions": null, "model": null, "compute": { "provider": "local" },
        "metadata": { "a": 1 },
    });
    let third = api.call("PUT", &path, &change).await.expect(200);
    assert_eq!(third["version"], 3);
    assert_eq!((&third["name"], &third["metadata"]), (&json!("Assistant"), &json!({ "a": 1 })));
    assert_eq!((third.get("instructions"), third.get("model")), (None, None));
    assert_eq!(third["tools"], second["tools"]);
    let fourth = api.call("PUT", &path, &json!({})).await.expect(200);
    assert_eq!(fourth["version"], 4, "every update makes a version");
    assert_eq!(api.get(&path).await.expect(200), fourth);
    for (number, version) in (1..).zip([&first, &second, &third, &fourth]) {
        assert_eq!(&api.get(&format!("{path}?version={number}")).await.expect(200), version);
    }
    api.get(&format!("{path}?version=5")).await.error(404, "not_found");
    for wrong in ["0", "-1", "+1", "x", "", "99999999999999999999"] {
        let told = api.get(&format!("{path}?version={wrong}")).await.fields();
        assert_eq!(told, [("version".to_owned(), "range".to_owned())]);
    }
    assert_eq!(ids(&api, "").await, [first["id"].clone()]);
    let event = api.get("/v1/events?type=definition.updated&limit=1").await.expect(200)["data"][0].clone();
    assert_eq!((&event["data"]["version"], &event["data"]["name"]), (&json!(4), &json!("Assistant")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_of_many_updates_at_once_is_answered_with_the_version_that_it_made() {
    let api = Site::new().await.admin().await;
    let path = path(&api.post(ROUTE, &example()).await.expect(201));
    let update = async |number: usize| {
        let body = json!({ "name": format!("name {number}"), "instructions": format!("do {number}") });
        let reply = match number % 2 {
            0 => api.call("PUT", &path, &body).await,
            _ => api.send(api.once("PUT", &path, &format!("update-{number}"), &body)).await,
        };
        let told = reply.expect(200);
        assert_eq!((&told["name"], &told["instructions"]), (&body["name"], &body["instructions"]));
        told
    };
    let told = join_all((0..40).map(update)).await;
    let mut versions: Vec<_> = told.iter().map(|told| told["version"].as_i64().unwrap()).collect();
    versions.sort_unstable();
    assert_eq!(versions, (2..=41).collect::<Vec<_>>());
    for told in &told {
        let path = format!("{path}?version={}", told["version"]);
        assert_eq!(api.get(&path).await.expect(200), *told);
    }
}

#[tokio::test]
async fn versions_are_paged_newest_first() {
    let api = Site::new().await.admin().await;
    let (one, two) = (
        path(&api.post(ROUTE, &example()).await.expect(201)),
        path(&api.post(ROUTE, &example()).await.expect(201)),
    );
    for number in 2..=5 {
        api.call("PUT", &one, &json!({ "name": format!("v{number}") })).await.expect(200);
    }
    let mut seen = vec![];
    let mut query = "?limit=2".to_owned();
    loop {
        let page = api.get(&format!("{one}/versions{query}")).await.expect(200);
        for row in page["data"].as_array().unwrap() {
            let asked = api.get(&format!("{one}?version={}", row["version"])).await.expect(200);
            assert_eq!(&asked, row);
            seen.push(row["version"].as_i64().unwrap());
        }
        let Some(cursor) = page["nextCursor"].as_str() else { break };
        assert_eq!(page["hasMore"], true);
        query = format!("?limit=2&cursor={cursor}");
        let foreign = api.get(&format!("{two}/versions?cursor={cursor}")).await;
        assert_eq!(foreign.fields(), [("cursor".to_owned(), "cursor".to_owned())]);
    }
    assert_eq!(seen, [5, 4, 3, 2, 1]);
    api.get(&format!("{ROUTE}/{UNKNOWN}/versions")).await.error(404, "not_found");
}

#[tokio::test]
async fn an_archived_definition_is_read_and_listed_on_demand_but_not_changed() {
    let api = Site::new().await.admin().await;
    let kept = api.post(ROUTE, &json!({ "name": "kept" })).await.expect(201);
    let definition = api.post(ROUTE, &example()).await.expect(201);
    let path = path(&definition);
    assert_eq!(delete(&api, &path).await.expect(200), json!({ "ok": true }));
    let before = api.head().await;
    assert_eq!(delete(&api, &path).await.expect(200), json!({ "ok": true }));
    api.call("PUT", &path, &json!({ "name": "b" })).await.error(409, "conflict");
    assert_eq!(api.head().await, before);
    let read = api.get(&path).await.expect(200);
    assert_eq!(read["status"], "archived");
    assert_eq!((&read["version"], &read["instructions"]), (&json!(1), &definition["instructions"]));
    let version = api.get(&format!("{path}?version=1")).await.expect(200);
    assert_eq!((&version["status"], &version["updatedAt"]), (&json!("archived"), &definition["updatedAt"]));
    assert_eq!(api.get(&format!("{path}/versions")).await.expect(200)["data"], json!([version]));
    for (query, expected) in [
        ("", vec![kept["id"].clone()]),
        ("?includeArchived=false", vec![kept["id"].clone()]),
        ("?includeArchived=true", vec![definition["id"].clone(), kept["id"].clone()]),
    ] {
        assert_eq!(ids(&api, query).await, expected, "{query}");
    }
    let told = api.get(&format!("{ROUTE}?includeArchived=1")).await.fields();
    assert_eq!(told, [("includeArchived".to_owned(), "format".to_owned())]);
}

#[tokio::test]
async fn definitions_are_paged_newest_first_while_others_come_and_go() {
    let api = Site::new().await.admin().await;
    let mut made = vec![];
    for number in 0..5 {
        made.push(api.post(ROUTE, &json!({ "name": number.to_string() })).await.expect(201)["id"].clone());
    }
    let page = api.get(&format!("{ROUTE}?limit=2")).await.expect(200);
    assert_eq!(page["data"][1]["id"], made[3]);
    let cursor = page["nextCursor"].as_str().unwrap();
    api.post(ROUTE, &json!({ "name": "later" })).await.expect(201);
    delete(&api, &format!("{ROUTE}/{}", made[2].as_str().unwrap())).await.expect(200);
    assert_eq!(ids(&api, &format!("?cursor={cursor}")).await, [made[1].clone(), made[0].clone()]);
    let other = api.get(&format!("{ROUTE}?includeArchived=true&cursor={cursor}")).await;
    assert_eq!(other.fields(), [("cursor".to_owned(), "cursor".to_owned())]);
}

#[tokio::test]
async fn a_repeated_request_makes_one_version() {
    let api = Site::new().await.admin().await;
    let first = api.post_once(ROUTE, "create", &example()).await;
    let again = api.post_once(ROUTE, "create", &example()).await;
    assert_eq!((again.header("idempotency-replayed"), &again.body), (Some("true"), &first.body));
    let path = path(&first.expect(201));
    let update = || api.once("PUT", &path, "update", &json!({ "name": "b" }));
    let second = api.send(update()).await;
    assert_eq!(second.expect(200)["version"], 2);
    assert_eq!(api.send(update()).await.body, second.body);
    assert_eq!(api.get(&path).await.expect(200)["version"], 2);
}

#[tokio::test]
async fn what_does_not_exist_is_404_and_another_tenants_too() {
    let site = Site::new().await;
    let (api, stranger) = (site.admin().await, site.admin().await);
    let test = site.organization(Mode::Test, 1_000).await.api(Role::Admin).await;
    let foreign = api.post(ROUTE, &example()).await.expect(201);
    let head = api.head().await;
    for id in [UNKNOWN, "adef_x", "ses_01ARZ3NDEKTSV4RRFFQ69G50AV", foreign["id"].as_str().unwrap()] {
        for caller in [&stranger, &test] {
            let path = format!("{ROUTE}/{id}");
            for query in ["", "?version=1", "/versions"] {
                caller.get(&format!("{path}{query}")).await.error(404, "not_found");
            }
            caller.call("PUT", &path, &json!({ "name": "mine" })).await.error(404, "not_found");
            delete(caller, &path).await.error(404, "not_found");
        }
    }
    assert_eq!(ids(&stranger, "").await, Vec::<Value>::new());
    assert_eq!((api.get(&path(&foreign)).await.expect(200), api.head().await), (foreign, head));
}

#[tokio::test]
async fn each_role_may_do_what_the_contract_says() {
    let site = Site::new().await;
    let organization = site.organization(Mode::Live, 1_000).await;
    let admin = organization.api(Role::Admin).await;
    let path = path(&admin.post(ROUTE, &example()).await.expect(201));
    // May write, may read.
    let roles = [
        (Role::Admin, [true, true]),
        (Role::Developer, [true, true]),
        (Role::ReadOnly, [false, true]),
        (Role::Finance, [false, false]),
    ];
    for (role, [write, read]) in roles {
        let api = organization.api(role).await;
        let own = api.post(ROUTE, &example()).await;
        let replies = [
            (write, own),
            (write, api.call("PUT", &path, &json!({})).await),
            (read, api.get(ROUTE).await),
            (read, api.get(&path).await),
            (read, api.get(&format!("{path}/versions")).await),
        ];
        for (allowed, reply) in replies {
            if allowed {
                assert!(reply.status.is_success(), "{role:?}: {reply:?}");
            } else {
                reply.error(403, "forbidden");
            }
        }
        let unknown = delete(&api, &format!("{ROUTE}/{UNKNOWN}")).await;
        assert_eq!(unknown.status.as_u16(), if write { 404 } else { 403 });
    }
}
