//! E2B's API and the envd of its sandboxes, after github.com/e2b-dev/infra: `spec/openapi.yml` at 00514550,
//! `packages/envd/spec/envd.yaml` at 0347cb89 and `packages/envd/spec/process/process.proto` at 28467c01 (read in November
//! 2026). It refuses fields, paths, parameters and headers that it does not know.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::{Value, json};

use super::inside;
use super::{Answer, Request, Vendor};
use crate::support::cluster::Scratch;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewSandbox {
    #[serde(rename = "templateID")]
    template: String,
    timeout: u32,
    #[serde(rename = "autoPause")]
    auto_pause: bool,
    secure: bool,
    allow_internet_access: bool,
    metadata: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ConnectSandbox {
    timeout: u32,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Start {
    process: Process,
    stdin: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Process {
    cmd: String,
    args: Vec<String>,
}

/// A sandbox.
pub(crate) struct Sandbox {
    pub(crate) is_paused: bool,
    metadata: BTreeMap<String, String>,
}

/// A team's sandboxes, with what it shares with the test.
#[derive(Clone)]
pub(crate) struct E2b {
    pub(crate) sandboxes: Arc<Mutex<BTreeMap<String, Sandbox>>>,
    pub(crate) scratch: Arc<Scratch>,
}

type Outcome = Result<Answer, Answer>;

fn refusal(status: u16, message: &str) -> Answer {
    Answer::json(status, &json!({"code": status, "message": message}))
}

#[async_trait::async_trait]
impl Vendor for E2b {
    async fn answer(&self, request: Request) -> Answer {
        let answer = if request.path.starts_with("/files") || request.path.starts_with("/process.") {
            self.envd(&request).await
        } else {
            self.api(&request)
        };
        answer.unwrap_or_else(|answer| answer)
    }
}

impl E2b {
    pub(crate) fn new() -> Self {
        Self { sandboxes: Arc::default(), scratch: Arc::new(Scratch::new()) }
    }

    fn api(&self, request: &Request) -> Outcome {
        if request.headers.get("x-api-key").map(String::as_str) != Some("e2b_key") {
            return Err(refusal(401, "Invalid API key: e2b_key"));
        }
        request.only_headers(&[("x-api-key", None), ("content-type", None)])?;
        let mut sandboxes = self.sandboxes.lock().unwrap();
        match (request.method.as_str(), request.parts().as_slice()) {
            ("POST", ["sandboxes"]) => {
                let new: NewSandbox = request.json()?;
                let secure = new.secure && new.auto_pause && !new.allow_internet_access;
                if new.template != "base" || new.timeout != 3_600 || !secure {
                    return Err(Answer::violation("NewSandbox"));
                }
                let id = format!("sbx{}", sandboxes.len());
                sandboxes.insert(id.clone(), Sandbox { is_paused: false, metadata: new.metadata });
                Ok(Answer::json(201, &shown(&id)))
            }
            ("GET", ["v2", "sandboxes"]) => list(&sandboxes, request),
            ("POST", ["sandboxes", id, "connect"]) => {
                let connect: ConnectSandbox = request.json()?;
                assert!(connect.timeout >= 3_600);
                let sandbox = sandboxes.get_mut(*id).ok_or_else(|| refusal(404, "sandbox not found"))?;
                let woken = std::mem::replace(&mut sandbox.is_paused, false);
                Ok(Answer::json(if woken { 201 } else { 200 }, &shown(id)))
            }
            ("POST", ["sandboxes", id, "pause"]) => {
                if !request.body.is_empty() {
                    return Err(Answer::violation("pause has no body"));
                }
                let sandbox = sandboxes.get_mut(*id).ok_or_else(|| refusal(404, "sandbox not found"))?;
                if std::mem::replace(&mut sandbox.is_paused, true) {
                    return Err(refusal(409, "sandbox is already paused"));
                }
                Ok(Answer::empty(204))
            }
            ("DELETE", ["sandboxes", id]) => sandboxes
                .remove(*id)
                .map(|_| Answer::empty(204))
                .ok_or_else(|| refusal(404, "sandbox not found")),
            _ => Err(Answer::violation("path")),
        }
    }

    async fn envd(&self, request: &Request) -> Outcome {
        let id = request.headers.get("e2b-sandbox-id").cloned().unwrap_or_default();
        let is_running = self.sandboxes.lock().unwrap().get(&id).is_some_and(|sandbox| !sandbox.is_paused);
        if !is_running {
            let body = json!({"sandboxId": id, "message": "The sandbox was not found", "code": 502});
            return Err(Answer::json(502, &body));
        }
        let token = format!("envd of {id}");
        let basic = format!("Basic {}", STANDARD.encode("user:"));
        let mut headers = vec![
            ("authorization", Some(basic.as_str())),
            ("x-access-token", Some(token.as_str())),
            ("e2b-traffic-access-token", Some("traffic")),
            ("e2b-sandbox-id", None),
            ("e2b-sandbox-port", Some("49983")),
        ];
        match (request.method.as_str(), request.path.as_str()) {
            ("POST", "/files") => {
                headers.push(("content-type", None));
                request.only_headers(&headers)?;
                self.upload(request)
            }
            ("POST", "/process.Process/Start") => {
                headers.push(("content-type", Some("application/connect+json")));
                headers.push(("connect-protocol-version", Some("1")));
                headers.push(("connect-timeout-ms", None));
                headers.push(("keepalive-ping-interval", Some("50")));
                request.only_headers(&headers)?;
                self.start(request).await
            }
            _ => Err(Answer::violation("path")),
        }
    }

    /// The file of this machine that stands for a file of the sandbox's `/tmp`.
    fn place(&self, path: &str) -> Result<String, Answer> {
        let name = path.strip_prefix("/tmp/").filter(|name| !name.contains('/'));
        let name = name.ok_or_else(|| Answer::violation("a file elsewhere"))?;
        Ok(self.scratch.path.join(name).display().to_string())
    }

    fn upload(&self, request: &Request) -> Outcome {
        request.only_query(&["path", "username"])?;
        let kind = &request.headers["content-type"];
        let boundary = kind.strip_prefix("multipart/form-data; boundary=").unwrap();
        let body = String::from_utf8(request.body.clone()).unwrap();
        let body = body.strip_prefix(&format!("--{boundary}\r\n")).unwrap();
        let (head, rest) = body.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("Content-Disposition: form-data; name=\"file\"; filename="));
        let content = rest.strip_suffix(&format!("\r\n--{boundary}--\r\n")).unwrap();
        std::fs::write(self.place(&request.query["path"])?, content).unwrap();
        let path = &request.query["path"];
        Ok(Answer::json(200, &json!([{"path": path, "name": "x", "type": "file"}])))
    }

    async fn start(&self, request: &Request) -> Outcome {
        let length = u32::from_be_bytes(request.body[1..5].try_into().unwrap()) as usize;
        if request.body[0] != 0 || request.body.len() != 5 + length {
            return Err(Answer::violation("envelope"));
        }
        let start: Start = Request { body: request.body[5..].to_vec(), ..request.clone() }.json()?;
        if start.stdin || start.process.args.len() != 5 {
            return Err(Answer::violation("StartRequest"));
        }
        let mut command = vec![start.process.cmd];
        command.extend(start.process.args);
        command[5] = self.place(&command[5])?;
        if !std::path::Path::new(&command[5]).exists() {
            return Err(Answer::violation("a request that was not uploaded"));
        }
        let ended = inside::run(&command, b"", &self.scratch.path).await;
        let ended = ended.map_err(|error| Answer::violation(&error))?;
        let mut body = envelope(0, &json!({"event": {"start": {"pid": 7}}}));
        body.extend(envelope(0, &json!({"event": {"keepalive": {}}})));
        for (stream, output) in [("stderr", &ended.stderr), ("stdout", &ended.stdout)] {
            for piece in output.chunks(1_000) {
                body.extend(envelope(0, &json!({"event": {"data": {stream: STANDARD.encode(piece)}}})));
            }
        }
        // As protobuf's JSON has it, what is zero is left out.
        let end = match ended.code {
            0 => json!({"exited": true, "status": "exit status 0"}),
            137 => json!({"exitCode": -1, "status": "signal: killed", "error": "signal: killed"}),
            code => json!({"exitCode": code, "exited": true, "status": format!("exit status {code}")}),
        };
        body.extend(envelope(0, &json!({"event": {"end": end}})));
        body.extend(envelope(2, &json!({})));
        Ok(Answer::new(200, "application/connect+json", body))
    }
}

pub(crate) fn envelope(flags: u8, message: &Value) -> Vec<u8> {
    let message = message.to_string();
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    [&[flags], length.as_slice(), message.as_bytes()].concat()
}

fn shown(id: &str) -> Value {
    json!({"templateID": "base", "sandboxID": id, "clientID": "c", "envdVersion": "0.4.2", "domain": null,
        "envdAccessToken": format!("envd of {id}"), "trafficAccessToken": "traffic"})
}

/// One a page, so that pages are followed.
fn list(sandboxes: &BTreeMap<String, Sandbox>, request: &Request) -> Outcome {
    if request.query.len() == 1 && request.query.get("limit").is_some_and(|limit| limit == "1") {
        // Whether the key is good.
        let first: Vec<Value> = sandboxes.keys().take(1).map(|id| shown(id)).collect();
        return Ok(Answer::json(200, &json!(first)));
    }
    request.only_query(&["metadata", "state", "limit", "nextToken"])?;
    if request.query["state"] != "running,paused" || request.query["limit"] != "100" {
        return Err(Answer::violation("query"));
    }
    let (name, value) = request.query["metadata"].split_once('=').unwrap();
    let value =
        percent_encoding::percent_decode_str(&value.replace('+', " ")).decode_utf8().unwrap().into_owned();
    let at: usize = request.query.get("nextToken").map_or(0, |next| next.parse().unwrap());
    let held: Vec<Value> = sandboxes
        .iter()
        .filter(|(_, sandbox)| sandbox.metadata.get(name) == Some(&value))
        .map(|(id, sandbox)| {
            let mut shown = shown(id);
            shown["metadata"] = json!(sandbox.metadata);
            shown
        })
        .collect();
    let page: Vec<&Value> = held.iter().skip(at).take(1).collect();
    let mut answer = Answer::json(200, &json!(page));
    if at + 1 < held.len() {
        answer.headers.push(("x-next-token".to_owned(), (at + 1).to_string()));
    }
    Ok(answer)
}
