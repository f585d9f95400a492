//! Every operation of the API document, asked in the ways that must not work.

use std::path::Path;

use axum::body::Body;
use axum::http::Request;
use serde_json::{Value, json};

use crate::support::api::send;
use crate::support::site::Site;

const UNKNOWN: &str = "ses_01ARZ3NDEKTSV4RRFFQ69G50AV";

/// An operation: its method, its path with ids put in, and what is known of it.
struct Operation {
    method: String,
    path: String,
    public: bool,
    has_id: bool,
    described: Value,
}

fn operations(id: &str) -> Vec<Operation> {
    let document: Value = serde_json::from_str(&theazo::http::document()).unwrap();
    let mut operations = vec![];
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, described) in item.as_object().unwrap() {
            operations.push(Operation {
                method: method.to_uppercase(),
                path: path
                    .replace("{id}", id)
                    .replace("{name}", id)
                    .replace("{provider}", id)
                    .replace("{userId}", "someone")
                    .replace("{position}", "999999"),
                public: described.get("security").is_none(),
                has_id: ["{id}", "{name}", "{provider}", "{position}"].iter().any(|part| path.contains(part)),
                described: described.clone(),
            });
        }
    }
    assert!(operations.len() > 10);
    operations
}

#[test]
fn the_committed_document_is_the_one_that_is_served() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/openapi.json");
    if std::env::var_os("UPDATE_DOCUMENT").is_some() {
        std::fs::write(&path, theazo::http::document()).unwrap();
    }
    let committed = std::fs::read_to_string(path).unwrap();
    assert!(
        committed == theazo::http::document(),
        "docs/openapi.json is out of date: run the tests once with UPDATE_DOCUMENT=1 and look at the difference"
    );
}

#[test]
fn no_body_may_be_null() {
    let bodies =
        operations("x").into_iter().filter_map(|operation| operation.described.get("requestBody").cloned());
    let bodies: Vec<Value> = bodies.collect();
    assert!(bodies.len() > 5);
    for body in bodies {
        assert!(!body.to_string().contains(r#""type":"null""#), "{body}");
    }
}

#[test]
fn the_credentials_that_each_provider_takes_are_described() {
    let document: Value = serde_json::from_str(&theazo::http::document()).unwrap();
    let referred = |reference: &Value| document.pointer(&reference.as_str().unwrap()[1..]).unwrap().clone();
    let mapping = &document["components"]["schemas"]["NewProvider"]["discriminator"]["mapping"];
    let mapping = mapping.as_object().unwrap();
    let names: Vec<_> = mapping.keys().collect();
    assert_eq!(names, ["docker", "e2b", "fly", "local", "webhook"]);
    for (name, reference) in mapping {
        let properties = referred(reference)["properties"].clone();
        assert_eq!(properties["provider"]["enum"], json!([name]));
        assert_eq!(referred(&properties["credentials"]["$ref"])["additionalProperties"], false, "{name}");
    }
    let secret = referred(&json!("#/components/schemas/WebhookCredentials"))["properties"]["secret"].clone();
    assert_eq!((&secret["minLength"], &secret["maxLength"]), (&json!(16), &json!(4_096)));
}

#[test]
fn only_what_is_about_the_server_itself_is_public() {
    let public: Vec<_> = operations(UNKNOWN).into_iter().filter(|operation| operation.public).collect();
    let paths: Vec<_> = public.iter().map(|operation| operation.path.as_str()).collect();
    assert_eq!(paths, ["/healthz", "/metrics", "/readyz", "/v1/openapi.json"]);
}

#[test]
fn every_operation_is_described() {
    let mut ids = vec![];
    for Operation { method, path, described, .. } in operations(UNKNOWN) {
        let id = described["operationId"].as_str().unwrap_or_default().to_owned();
        assert!(!id.is_empty() && !ids.contains(&id), "{method} {path} has no id of its own");
        ids.push(id);
        assert!(described["summary"].is_string(), "{method} {path} has no summary");
        let answers = described["responses"].as_object().unwrap();
        assert!(
            answers.values().all(|answer| answer.get("$ref").is_some() || answer["description"].is_string())
        );
        assert!(answers.keys().any(|status| status.starts_with('2')), "{method} {path} never succeeds");
    }
}

#[tokio::test]
async fn no_operation_answers_without_a_key() {
    let site = Site::new().await;
    for operation in operations(UNKNOWN).into_iter().filter(|operation| !operation.public) {
        let request = Request::builder().method(operation.method.as_str()).uri(&operation.path);
        let reply = send(&site.next().router, request.body(Body::from("{")).unwrap()).await;
        reply.error(401, "unauthorized");
    }
}

#[tokio::test]
async fn no_operation_finds_what_does_not_exist_or_is_another_tenants() {
    let site = Site::new().await;
    let (owner, stranger) = (site.admin().await, site.admin().await);
    let foreign = owner.session("a").await;
    let before = (owner.head().await, stranger.head().await);
    for id in [UNKNOWN, &foreign, "no-id"] {
        for operation in operations(id).into_iter().filter(|operation| operation.has_id) {
            let reply = if operation.method == "GET" {
                stranger.get(&operation.path).await
            } else {
                stranger.call(&operation.method, &operation.path, &json!({})).await
            };
            reply.error(404, "not_found");
        }
    }
    assert_eq!((owner.head().await, stranger.head().await), before);
}
