//! What is confided is nowhere in clear: not in the database's files or its write-ahead log, not in logs or answers.

use std::path::Path;

use serde_json::{Value, json};

use aho_corasick::AhoCorasick;

use crate::support::cluster::Scratch;
use crate::support::server::{Server, theazo};

/// What no file, no line of a log and no answer may hold.
const CANARY: &str = "canary-in-the-coal-mine";

/// The files below a directory that hold one of the needles.
fn holding(dir: &Path, needles: &AhoCorasick, found: &mut Vec<String>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            holding(&path, needles, found);
        } else if path.is_file() {
            let bytes = std::fs::read(&path).unwrap();
            if needles.is_match(&bytes) {
                found.push(path.display().to_string());
            }
        }
    }
}

fn holds(bytes: &[u8], needle: &[u8]) -> bool {
    bytes.windows(needle.len()).any(|window| window == needle)
}

#[tokio::test]
async fn no_file_of_the_database_no_log_and_no_answer_holds_a_value_that_was_confided() {
    let scratch = Scratch::new();
    let dir = scratch.path.join("data");
    let mut command = theazo(&dir, &["serve", "--listen", "127.0.0.1:0", "--log-format", "json"]);
    command.env("THEAZO_LOG", "debug,theazo=trace");
    let server = Server::start_with(command).await;
    let keys: Value = serde_json::from_slice(&std::fs::read(dir.join("first-keys.json")).unwrap()).unwrap();
    let key = keys["live"].as_str().unwrap();
    let session = server.create_session(key, "the-haystack-is-searched").await;
    let value = |number: u32| format!("{CANARY}-{number}");
    let bodies = [
        json!({ "name": "KEPT", "value": value(1) }),
        json!({ "name": "KEPT", "value": value(2) }),
        json!({ "name": "GONE", "value": value(3), "sessionId": session }),
        json!({ "name": "WRONG NAME", "value": value(4) }),
        json!({ "name": "NUL", "value": format!("{}\0", value(5)) }),
        json!({ "name": "LONG", "value": value(6).repeat(4_000) }),
        json!({ "name": "LOST", "value": value(7), "sessionId": "ses_01ARZ3NDEKTSV4RRFFQ69G50AV" }),
        json!({ "name": "TYPE", "value": { "nested": value(8) } }),
        json!({ "name": "KEPT", "value": value(9).repeat(1_000) }),
    ];
    let mut statuses = vec![];
    let mut answers = vec![];
    for body in bodies {
        let answer = server.request("POST", "/v1/secrets", key, Some(body)).await.unwrap();
        statuses.push(answer.status);
        answers.push(answer.body);
    }
    assert_eq!(statuses, [201, 201, 201, 422, 422, 422, 404, 422, 201]);
    for (method, path) in [
        ("DELETE", &format!("/v1/secrets/GONE?sessionId={session}")[..]),
        ("GET", "/v1/secrets"),
        ("GET", "/v1/events?limit=100"),
    ] {
        let answer = server.request(method, path, key, None).await.unwrap();
        assert_eq!(answer.status, 200, "{answer:?}");
        answers.push(answer.body);
    }
    let logged = std::sync::Arc::clone(&server.logged);
    assert!(server.stop().await.success());

    assert!(answers.iter().all(|answer| !answer.to_string().contains(CANARY)));
    let logged = logged.lock().unwrap().clone();
    assert!(holds(&logged, b"/v1/secrets") && !holds(&logged, CANARY.as_bytes()));
    let home = std::fs::read_to_string(dir.join("postgres.home")).unwrap();
    let search = |needles: &[&str]| {
        let (mut found, needles) = (vec![], AhoCorasick::new(needles).unwrap());
        holding(&dir, &needles, &mut found);
        holding(&dir.join(home.trim()), &needles, &mut found);
        found
    };
    // What is not confided is found: the search looks at the right files.
    assert!(!search(&["the-haystack-is-searched"]).is_empty());
    let hex = hex::encode(CANARY);
    // In base64, without the ends that depend on what stands beside it.
    let base64 = [
        "Y2FuYXJ5LWluLXRoZS1jb2FsLW1pbm",
        "NhbmFyeS1pbi10aGUtY29hbC1taW5l",
        "jYW5hcnktaW4tdGhlLWNvYWwtbWluZ",
    ];
    let upper = hex.to_uppercase();
    let needles = [&[CANARY, &hex, &upper], &base64[..]].concat();
    assert_eq!(search(&needles), Vec::<String>::new());
}
