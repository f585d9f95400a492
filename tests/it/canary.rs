//! What is confided is nowhere in clear: not in the database's files or its write-ahead log, not in logs or answers.

use std::os::unix::fs::FileExt;
use std::path::Path;

use serde_json::{Value, json};

use aho_corasick::AhoCorasick;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::support::cluster::Scratch;
use crate::support::models::{Answer, Asked, ModelServer, Turn};
use crate::support::server::{Server, exchange, theazo};
use crate::support::wait::until_async;

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
    // What is not confided is found: the search looks at the right files.
    assert!(!search(&dir, &["the-haystack-is-searched"]).is_empty());
    assert_eq!(search(&dir, &needles(CANARY)), Vec::<String>::new());
}

/// The files of a server that hold one of these.
fn search(dir: &Path, needles: &[impl AsRef<[u8]>]) -> Vec<String> {
    let (mut found, needles) = (vec![], AhoCorasick::new(needles).unwrap());
    let home = std::fs::read_to_string(dir.join("postgres.home")).unwrap();
    holding(dir, &needles, &mut found);
    holding(&dir.join(home.trim()), &needles, &mut found);
    found
}

/// Whether a process has this anywhere in memory that it can write to.
fn remembers(pid: u32, needle: &AhoCorasick) -> bool {
    let memory = std::fs::File::open(format!("/proc/{pid}/mem")).unwrap();
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    maps.lines().any(|line| {
        let (range, rights) = line.split_once(' ').unwrap();
        let (from, to) = range.split_once('-').unwrap();
        let [from, to] = [from, to].map(|address| u64::from_str_radix(address, 16).unwrap());
        let mut bytes = vec![0; usize::try_from(to - from).unwrap()];
        // A mapping may be gone by now.
        rights.starts_with("rw") && memory.read_exact_at(&mut bytes, from).is_ok() && needle.is_match(&bytes)
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_confided_and_used_does_not_stay_in_memory() {
    let scratch = Scratch::new();
    let dir = scratch.path.join("data");
    let server = Server::start(&dir).await;
    let keys: Value = serde_json::from_slice(&std::fs::read(dir.join("first-keys.json")).unwrap()).unwrap();
    let live = keys["live"].as_str().unwrap();
    let post = async |path: &str, key: &str, body: Value| {
        let answer = server.request("POST", path, key, Some(body)).await.unwrap();
        assert!(matches!(answer.status, 200..=202), "{answer:?}");
        answer.body
    };
    let [value, api_key] = ["secret", "provider"].map(|what| format!("{CANARY}-{what}"));
    let [value_needle, key_needle] = [&value, &api_key].map(|needle| AhoCorasick::new([needle]).unwrap());
    let forgotten = async |what: &str, needle: &AhoCorasick| {
        until_async(what, async || (!remembers(server.pid(), needle)).then_some(())).await;
    };
    let kept = "the-haystack-is-searched";
    let session = server.create_session(live, kept).await;
    assert!(
        remembers(server.pid(), &AhoCorasick::new([&session]).unwrap()),
        "the search looks at the right memory"
    );

    // Nobody is asked about it in test mode.
    let body = json!({ "provider": "e2b", "credentials": { "apiKey": api_key } });
    post("/v1/providers", keys["test"].as_str().unwrap(), body).await;
    forgotten("the API key to be wiped", &key_needle).await;
    post("/v1/secrets", live, json!({ "name": "CANARY", "value": value })).await;
    forgotten("the secret to be wiped once it is sealed", &value_needle).await;
    let agent = post(&format!("/v1/sessions/{session}/agents"), live, json!({})).await;
    let path = format!("/v1/agents/{}/exec", agent["id"].as_str().unwrap());
    let exec = post(&path, live, json!({ "lang": "bash", "code": "echo ${#CANARY}" })).await;
    assert_eq!(exec["stdout"], format!("{}\n", value.len()), "{exec}");
    forgotten("the environment to be wiped", &value_needle).await;
}

/// A value as it is and as programs write it; in base64 without the ends that depend on what stands beside it.
fn needles(value: &str) -> Vec<String> {
    const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
    let percent = utf8_percent_encode(value, RESERVED).to_string();
    let hex = hex::encode(value);
    let mut all = vec![value.to_owned(), hex.to_uppercase(), hex];
    all.extend([percent.replace("%2F", "%2f").replace("%2B", "%2b").replace("%3D", "%3d"), percent]);
    for shift in 0..3_usize {
        let text = STANDARD.encode(format!("{}{value}", &"***"[..shift]));
        let (first, end) = ((shift * 8).div_ceil(6), (shift + value.len()) * 8 / 6);
        all.push(text[first..end].to_owned());
    }
    all
}

/// What a model is not to say.
const TOKEN: &str = "canary/in+the=coal-mine";
/// What the model thinks of in its first turn, and in its third.
const THOUGHT: &str = "They gave me canary/in+the=coal-mine, which I should not say.";
const CLEAN_THOUGHT: &str = "Nothing to hide here.";

/// A model that says what it was not to say, in whatever way and place it can.
fn indiscreet(asked: &Asked) -> Answer {
    let hex = hex::encode(TOKEN);
    let base64 = STANDARD.encode(format!("the token: {TOKEN}!"));
    let code = json!({ "lang": "bash", "code": format!(
        "echo {hex}; echo $TOKEN; printf %s \"$TOKEN\" | base64; printf %s \"$TOKEN\" | od -An -tx1 | tr -d ' \\n' >&2"
    ) });
    let turn = match asked.number {
        0 => Turn {
            thinking: Some(THOUGHT),
            ..Turn::says(format!("It is {TOKEN}, or {base64}."))
                .and_calls("toolu_0", "run_code", &code.to_string())
                .and_calls(&format!("toolu_{TOKEN}"), TOKEN, &json!({ TOKEN: hex }).to_string())
        },
        1 => Turn::says(format!(
            "In a query: {}",
            TOKEN.replace('/', "%2F").replace('+', "%2B").replace('=', "%3D")
        ))
        .and_calls(
            "toolu_2",
            "write_file",
            &json!({ "path": "note.txt", "content": base64 }).to_string(),
        ),
        2 => Turn {
            thinking: Some(CLEAN_THOUGHT),
            ..Turn::says("").and_calls("toolu_3", "read_file", r#"{"path":"note.txt"}"#)
        },
        _ => Turn::says(json!({ "token": TOKEN, "hex": hex.to_uppercase() }).to_string()),
    };
    turn.into()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_model_repeats_of_a_secret_is_kept_nowhere() {
    let models = ModelServer::new(indiscreet).await;
    let scratch = Scratch::new();
    let dir = scratch.path.join("data");
    let mut command = theazo(&dir, &["serve", "--listen", "127.0.0.1:0", "--log-format", "json"]);
    command.env("THEAZO_LOG", "debug,theazo=trace");
    command.env("ANTHROPIC_BASE_URL", models.anthropic_url()).env("ANTHROPIC_API_KEY", "sk-ant-test-0000");
    let server = Server::start_with(command).await;
    let keys: Value = serde_json::from_slice(&std::fs::read(dir.join("first-keys.json")).unwrap()).unwrap();
    let key = keys["live"].as_str().unwrap();
    let post = async |path: &str, body: Value| {
        let answer = server.request("POST", path, key, Some(body)).await.unwrap();
        assert!(matches!(answer.status, 200..=202), "{answer:?}");
        answer.body
    };
    post("/v1/secrets", json!({ "name": "TOKEN", "value": TOKEN })).await;
    let session = server.create_session(key, "the-haystack-is-searched").await;
    let tools = json!({ "tools": ["run_code", "write_file", "read_file"] });
    let agent = post(&format!("/v1/sessions/{session}/agents"), tools).await;
    let agent = agent["id"].as_str().unwrap();
    let run = post(&format!("/v1/agents/{agent}/run"), json!({ "task": "Say it." })).await;
    let path = format!("/v1/tasks/{}", run["taskId"].as_str().unwrap());
    let task = until_async("the task to end", async || {
        let task = server.request("GET", &path, key, None).await.unwrap().body;
        (task["status"] != "running" && task["status"] != "queued").then_some(task)
    })
    .await;
    assert_eq!(
        (&task["status"], &task["output"]),
        (&json!("completed"), &json!(r#"{"hex":"***","token":"***"}"#))
    );
    assert!(models.refused().is_empty(), "{:?}", models.refused());
    post(&format!("/v1/agents/{agent}/terminate"), json!({})).await;

    let needles = needles(TOKEN);
    let clean = |text: &str| needles.iter().all(|needle| !text.contains(needle));
    // The model itself is not told again; and what it thought comes back to it where there was nothing to mask.
    let asked = models.asked();
    assert_eq!(asked.len(), 4);
    for asked in &asked {
        assert!(clean(&asked.body.to_string()), "{}", asked.body);
    }
    assert!(asked[3].body.to_string().contains(CLEAN_THOUGHT));
    assert!(asked[1].results()[0].matches("***").count() >= 4, "{:?}", asked[1].results());
    let stream = format!(
        "GET /v1/agents/{agent}/stream?after=0 HTTP/1.1\r\nhost: {}\r\nauthorization: Bearer {key}\r\nconnection: close\r\n\r\n",
        server.address
    );
    let streamed = exchange(&server.address, &stream).await.unwrap();
    assert!(streamed.contains("event: output") && clean(&streamed), "{streamed}");
    for path in [&path, &format!("/v1/agents/{agent}"), &format!("/v1/events?limit=100&subject={agent}")] {
        let answer = server.request("GET", path, key, None).await.unwrap();
        assert!(answer.status == 200 && clean(&answer.body.to_string()), "{answer:?}");
    }
    let logged = std::sync::Arc::clone(&server.logged);
    assert!(server.stop().await.success());
    assert!(clean(&String::from_utf8_lossy(&logged.lock().unwrap())));
    assert!(!search(&dir, &["the-haystack-is-searched"]).is_empty());
    assert_eq!(search(&dir, &needles), Vec::<String>::new());
}
