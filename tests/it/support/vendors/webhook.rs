//! A receiver of `docs/webhook-compute.md`, which it holds to the letter.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use hmac::{Hmac, KeyInit, Mac};
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::Sha256;

use super::{Answer, Request, Vendor};

/// What the receiver remembers.
#[derive(Default)]
pub(crate) struct Receiver {
    /// Answers by message id.
    answered: BTreeMap<String, (u16, Value)>,
    /// Sandboxes: id → (agent, files, paused).
    pub(crate) sandboxes: BTreeMap<String, (String, BTreeMap<String, String>, bool)>,
    /// What was carried out, repetitions aside.
    pub(crate) carried_out: Vec<String>,
}

/// The receiver, with what it shares with the test.
pub(crate) struct Webhook {
    pub(crate) key: Vec<u8>,
    pub(crate) now_s: i64,
    pub(crate) state: Arc<Mutex<Receiver>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Message {
    #[serde(rename = "type")]
    kind: String,
    timestamp: String,
    data: Value,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Wanted {
    sandbox: Option<String>,
    agent_id: String,
    session_id: String,
    browser: bool,
    lifetime_seconds: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Run {
    sandbox: String,
    language: String,
    code: String,
    environment: BTreeMap<String, String>,
    timeout_ms: u64,
    output_limit: usize,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    sandbox: String,
    path: String,
    content: Option<String>,
    limit: Option<usize>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Which {
    sandbox: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct After {
    cursor: Option<String>,
}

#[async_trait::async_trait]
impl Vendor for Webhook {
    async fn answer(&self, request: Request) -> Answer {
        match self.judge(&request) {
            Ok((status, body)) => Answer::json(status, &body),
            Err(answer) => answer,
        }
    }
}

type Outcome = Result<(u16, Value), Answer>;

impl Webhook {
    fn judge(&self, request: &Request) -> Outcome {
        if (request.method.as_str(), request.path.as_str()) != ("POST", "/compute") {
            return Err(Answer::violation("path"));
        }
        request.only_query(&[])?;
        request.only_headers(&[
            ("content-type", Some("application/json")),
            ("webhook-id", None),
            ("webhook-timestamp", None),
            ("webhook-signature", None),
        ])?;
        let header = |name: &str| request.headers.get(name).cloned().unwrap_or_default();
        let (id, timestamp) = (header("webhook-id"), header("webhook-timestamp"));
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.key).unwrap();
        mac.update(&[id.as_bytes(), b".", timestamp.as_bytes(), b".", request.body.as_slice()].concat());
        let expected =
            base64::Engine::encode(&base64::engine::general_purpose::STANDARD, mac.finalize().into_bytes());
        let fresh = timestamp.parse::<i64>().is_ok_and(|sent| (sent - self.now_s).abs() <= 300);
        if header("webhook-signature") != format!("v1,{expected}") || !fresh || !id.starts_with("msg_") {
            return Ok((401, json!({"error": {"code": "refused", "message": "the signature is wrong"}})));
        }
        let message: Message = request.json()?;
        assert!(message.timestamp.ends_with('Z'));
        let mut state = self.state.lock().unwrap();
        if let Some(answer) = state.answered.get(&id) {
            return Ok(answer.clone());
        }
        let answer = carry_out(&mut state, &message)?;
        state.carried_out.push(message.kind);
        state.answered.insert(id, answer.clone());
        Ok(answer)
    }
}

fn typed<T: serde::de::DeserializeOwned>(data: &Value) -> Result<T, Answer> {
    serde_json::from_value(data.clone()).map_err(|error| Answer::violation(&format!("data: {error}")))
}

fn refusal(status: u16, code: &str, message: &str) -> (u16, Value) {
    (status, json!({"error": {"code": code, "message": message}}))
}

fn carry_out(state: &mut Receiver, message: &Message) -> Outcome {
    let data = &message.data;
    let named = data.get("sandbox").and_then(Value::as_str);
    if named.is_some_and(|sandbox| !state.sandboxes.contains_key(sandbox)) {
        return Ok(refusal(404, "gone", "no such sandbox"));
    }
    match message.kind.split('_').next().unwrap_or_default() {
        "sandbox.write" | "sandbox.read" | "sandbox.list" => files(state, message),
        _ => sandboxes(state, message),
    }
}

fn sandboxes(state: &mut Receiver, message: &Message) -> Outcome {
    let data = &message.data;
    Ok(match message.kind.as_str() {
        "sandbox.create" | "sandbox.resume" => {
            let wanted: Wanted = typed(data)?;
            assert!(wanted.session_id.starts_with("ses_") && wanted.lifetime_seconds > 0);
            if wanted.browser {
                return Ok(refusal(422, "unsupported", "there is no browser here"));
            }
            let name = wanted.sandbox.unwrap_or_else(|| format!("box of {}", wanted.agent_id));
            let entry = state.sandboxes.entry(name.clone()).or_default();
            (entry.0, entry.2) = (wanted.agent_id, false);
            (200, json!({"sandbox": name}))
        }
        "sandbox.run" => {
            let run: Run = typed(data)?;
            assert!(state.sandboxes.contains_key(&run.sandbox) && run.timeout_ms > 0 && run.output_limit > 0);
            let stdout = format!("{} {} {:?}", run.language, run.code, run.environment);
            match run.code.as_str() {
                "kill" => (200, json!({"stdout": "", "stderr": "", "signal": 9, "durationMs": 2})),
                "sleep" => (200, json!({"stdout": "", "stderr": "", "timedOut": true, "durationMs": 2})),
                "odd" => (200, json!({"stdout": "", "stderr": "", "durationMs": 2})),
                _ => (200, json!({"stdout": stdout, "stderr": "é", "exitCode": 3, "durationMs": 2})),
            }
        }
        "sandbox.pause" => {
            let which: Which = typed(data)?;
            state.sandboxes.get_mut(&which.sandbox).unwrap().2 = true;
            (200, json!({"sandbox": which.sandbox, "storedBytes": 7}))
        }
        "sandbox.terminate" => {
            let which: Which = typed(data)?;
            state.sandboxes.remove(&which.sandbox);
            (200, json!({}))
        }
        "ping" if *data == json!({}) => (200, json!({})),
        "sandbox.measure" => {
            let _: Which = typed(data)?;
            (200, json!({"storedBytes": 9}))
        }
        _ => return Err(Answer::violation("type")),
    })
}

fn files(state: &mut Receiver, message: &Message) -> Outcome {
    let data = &message.data;
    Ok(match message.kind.as_str() {
        "sandbox.write_file" => {
            let file: File = typed(data)?;
            let files = &mut state.sandboxes.get_mut(&file.sandbox).unwrap().1;
            files.insert(file.path, file.content.unwrap());
            (200, json!({}))
        }
        "sandbox.read_file" => {
            let file: File = typed(data)?;
            assert!(file.limit.is_some());
            match state.sandboxes[&file.sandbox].1.get(&file.path) {
                Some(content) => (200, json!({"content": content})),
                None => refusal(422, "path", "there is no such file"),
            }
        }
        "sandbox.list_files" => {
            let file: File = typed(data)?;
            let entry = |(path, _): (&String, &String)| json!({"name": path, "size": 1});
            let mut entries: Vec<Value> = state.sandboxes[&file.sandbox].1.iter().map(entry).collect();
            entries.push(json!({"name": "a", "folder": true}));
            (200, json!({"entries": entries}))
        }
        "sandbox.list" => {
            let after: After = typed(data)?;
            // One a page, so that pages are followed.
            let at: usize = after.cursor.map_or(0, |cursor| cursor.parse().unwrap());
            let held =
                |(name, entry): (&String, &(String, _, _))| json!({"agentId": entry.0, "sandbox": name});
            let page: Vec<Value> = state.sandboxes.iter().skip(at).take(1).map(held).collect();
            let more = at + 1 < state.sandboxes.len();
            let mut answer = json!({"sandboxes": page});
            if more {
                answer["cursor"] = json!((at + 1).to_string());
            }
            (200, answer)
        }
        _ => return Err(Answer::violation("type")),
    })
}
