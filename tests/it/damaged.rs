//! What is sealed and does not open: the operator is told where it lies, callers only that it is no fault of theirs.

use std::path::Path;

use serde_json::{Value, json};
use theazo::boot::DATABASE_NAME;
use theazo::postgres::Cluster;
use tokio_postgres::Client;

use crate::support::cluster::{Scratch, connect};
use crate::support::server::{Server, run, theazo};
use crate::support::wait::until_async;

async fn owner(dir: &Path) -> Client {
    let endpoint = Cluster::attach(dir).await.unwrap().unwrap();
    connect(&endpoint.config(DATABASE_NAME, &endpoint.user)).await
}

/// What the check of sealed values says, and whether all is well with them.
async fn sealed_values(dir: &Path) -> (bool, String) {
    let doctor = run(dir, &["doctor", "--json"]).await;
    let checks: Value = serde_json::from_slice(&doctor.stdout).unwrap();
    let all = checks["data"].as_array().unwrap();
    let check = all.iter().find(|check| check["name"] == "sealed values").unwrap();
    let is_well = check["ok"].as_bool().unwrap();
    assert!(is_well || doctor.status.code() == Some(1), "{doctor:?}");
    (is_well, check["detail"].as_str().unwrap().to_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_does_not_open_is_named_by_doctor_and_is_an_internal_error_to_callers() {
    let scratch = Scratch::new();
    let dir = scratch.path.join("data");
    let mut command = theazo(&dir, &["serve", "--listen", "127.0.0.1:0", "--log-format", "json"]);
    command.env("E2B_API_URL", "http://127.0.0.1:1");
    let server = Server::start_with(command).await;
    let keys: Value = serde_json::from_slice(&std::fs::read(dir.join("first-keys.json")).unwrap()).unwrap();
    let key = keys["live"].as_str().unwrap();
    let post = async |path: &str, body: Value| server.request("POST", path, key, Some(body)).await.unwrap();
    let get = async |path: &str| server.request("GET", path, key, None).await.unwrap().body;
    for name in ["SWAPPED", "SOUND", "GONE"] {
        let set = post("/v1/secrets", json!({ "name": name, "value": format!("a value of {name}") })).await;
        assert_eq!(set.status, 201, "{set:?}");
    }
    let provider = json!({ "provider": "e2b", "credentials": { "apiKey": "e2b_0000" } });
    assert_eq!(post("/v1/providers", provider).await.status, 201);
    let session = server.create_session(key, "user_1").await;
    let agents = format!("/v1/sessions/{session}/agents");
    let agent = post(&agents, json!({ "compute": { "provider": "local" } })).await.body;
    let agent = agent["id"].as_str().unwrap();
    let program = json!({ "lang": "bash", "code": "echo $SOUND" });
    let sound = post(&format!("/v1/agents/{agent}/exec"), program.clone()).await;
    assert_eq!((sound.status, &sound.body["stdout"]), (200, &json!("***\n")), "{sound:?}");
    let (is_well, detail) = sealed_values(&dir).await;
    assert!(is_well && detail.starts_with("4 open"), "{detail}");

    let owner = owner(&dir).await;
    let swap = "update sealed_values a set data_key = b.data_key, nonce = b.nonce, ciphertext = b.ciphertext
        from sealed_values b where a.place = 'secret/org/SWAPPED' and b.place = 'secret/org/SOUND'";
    owner.execute(swap, &[]).await.unwrap();
    owner.execute("delete from sealed_values where place = 'secret/org/GONE'", &[]).await.unwrap();
    let cut = "update sealed_values set ciphertext = substr(ciphertext, 2) where place = 'provider/e2b'";
    owner.execute(cut, &[]).await.unwrap();
    let (is_well, detail) = sealed_values(&dir).await;
    assert!(!is_well && detail.starts_with("3 do not open"), "{detail}");
    for place in ["secret/org/SWAPPED", "secret/org/GONE", "provider/e2b"] {
        assert!(detail.contains(place), "{detail}");
    }
    assert!(!detail.contains("SOUND"), "{detail}");

    let is_plain = |error: &Value| {
        let said = error["message"] == "An unexpected error occurred.";
        assert!(said && error["code"] == "internal_error", "{error}");
    };
    let exec = post(&format!("/v1/agents/{agent}/exec"), program).await;
    assert_eq!(exec.status, 500, "{exec:?}");
    is_plain(&exec.body["error"]);
    let task = post(&format!("/v1/agents/{agent}/run"), json!({ "task": "Say it." })).await.body;
    let ended = |shown: Value| (!shown["error"].is_null()).then_some(shown);
    let path = format!("/v1/tasks/{}", task["taskId"].as_str().unwrap());
    let task = until_async("the task to end", async || ended(get(&path).await)).await;
    is_plain(&task["error"]);
    let elsewhere = post(&agents, json!({ "compute": { "provider": "e2b" } })).await.body;
    let path = format!("/v1/agents/{}", elsewhere["id"].as_str().unwrap());
    let elsewhere = until_async("the agent to fail", async || ended(get(&path).await)).await;
    is_plain(&elsewhere["error"]);

    let logged = String::from_utf8_lossy(&server.logged.lock().unwrap()).into_owned();
    let errors: Vec<_> = logged.lines().filter(|line| line.contains(r#""level":"ERROR""#)).collect();
    for what in ["secret/org/", "credentials of e2b"] {
        assert!(errors.iter().any(|line| line.contains(what)), "{what}: {errors:?}");
    }
}
