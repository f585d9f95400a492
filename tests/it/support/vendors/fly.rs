//! Fly's Machines API, after <https://docs.machines.dev/spec/openapi3.json> and
//! <https://fly.io/docs/machines/api/machines-resource/> (superfly/docs, `machines/api/machines-resource.mdx` at 1e411826;
//! read in November 2026). It refuses fields, paths, parameters and headers that it does not know.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use serde::Deserialize;
use serde_json::{Value, json};

use super::inside;
use super::{Answer, Request, Vendor};
use crate::support::cluster::Scratch;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Create {
    #[serde(default)]
    region: Option<String>,
    config: Config,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    image: String,
    guest: Guest,
    init: Init,
    restart: Restart,
    auto_destroy: bool,
    metadata: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Guest {
    cpu_kind: String,
    cpus: u32,
    memory_mb: u32,
    persist_rootfs: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Init {
    exec: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Restart {
    policy: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Stop {
    signal: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Exec {
    command: Vec<String>,
    stdin: String,
    timeout: u64,
}

/// A machine of the app.
pub(crate) struct Machine {
    pub(crate) state: &'static str,
    metadata: BTreeMap<String, String>,
}

/// The app `agents`, with what it shares with the test.
#[derive(Clone)]
pub(crate) struct Fly {
    pub(crate) machines: Arc<Mutex<BTreeMap<String, Machine>>>,
    pub(crate) scratch: Arc<Scratch>,
}

type Outcome = Result<Answer, Answer>;

fn ok() -> Answer {
    Answer::json(200, &json!({"ok": true}))
}

#[async_trait::async_trait]
impl Vendor for Fly {
    async fn answer(&self, request: Request) -> Answer {
        self.judge(&request).await.unwrap_or_else(|answer| answer)
    }
}

impl Fly {
    pub(crate) fn new() -> Self {
        Self { machines: Arc::default(), scratch: Arc::new(Scratch::new()) }
    }

    async fn judge(&self, request: &Request) -> Outcome {
        if request.headers.get("authorization").map(String::as_str) != Some("Bearer fly-token") {
            return Err(Answer::json(401, &json!({"error": "unauthorized: fly-token"})));
        }
        request.only_headers(&[("authorization", None), ("content-type", None)])?;
        let parts = request.parts();
        if let ("GET", ["v1", "apps", app @ "agents"]) = (request.method.as_str(), parts.as_slice()) {
            return Ok(Answer::json(200, &json!({"id": "z4k69", "name": app, "status": "deployed"})));
        }
        let ["v1", "apps", app, "machines", rest @ ..] = parts.as_slice() else {
            return Err(Answer::violation("path"));
        };
        if *app != "agents" {
            return Err(Answer::json(404, &json!({"error": "app not found"})));
        }
        match (request.method.as_str(), rest) {
            ("POST", []) => self.create(request),
            ("GET", []) => self.list(request),
            ("POST", [id, "exec"]) => self.exec(request, id).await,
            (method, [id, rest @ ..]) => self.change(request, method, id, rest),
            _ => Err(Answer::violation("path")),
        }
    }

    fn create(&self, request: &Request) -> Outcome {
        request.only_query(&[])?;
        let create: Create = request.json()?;
        let guest = create.config_guest();
        let config = create.config;
        let fits = create.region.is_none()
            && guest
            && config.init.exec[..2] == ["python3", "-I"]
            && config.restart.policy == "no"
            && !config.auto_destroy
            && !config.image.is_empty();
        if !fits {
            return Err(Answer::violation("config"));
        }
        let mut machines = self.machines.lock().unwrap();
        let id = format!("d89{:04}", machines.len());
        let answer = json!({"id": id, "name": "aged-wind", "state": "created", "region": "ord", "instance_id": "01HEP",
            "private_ip": "fdaa::3", "config": {"metadata": config.metadata}});
        machines.insert(id, Machine { state: "started", metadata: config.metadata });
        Ok(Answer::json(200, &answer))
    }

    fn list(&self, request: &Request) -> Outcome {
        request.only_query(&["metadata.theazo_owner"])?;
        let owner = request.query.get("metadata.theazo_owner");
        let machines = self.machines.lock().unwrap();
        let held = machines.iter().filter(|(_, machine)| machine.metadata.get("theazo_owner") == owner);
        let shown: Vec<Value> = held
            .map(|(id, held)| json!({"id": id, "state": held.state, "config": {"metadata": held.metadata}}))
            .collect();
        Ok(Answer::json(200, &json!(shown)))
    }

    fn change(&self, request: &Request, method: &str, id: &str, rest: &[&str]) -> Outcome {
        let mut machines = self.machines.lock().unwrap();
        let Some(machine) = machines.get_mut(id) else {
            return Err(Answer::json(404, &json!({"error": "machine not found"})));
        };
        let state = machine.state;
        let cannot = |verb: &str| {
            let reason =
                format!("failed_precondition: unable to {verb} machine from current state: '{state}'");
            Err(Answer::json(412, &json!({"error": reason})))
        };
        match (method, rest) {
            ("POST", ["stop"]) if state != "started" => cannot("stop"),
            ("POST", ["start"]) if state != "stopped" => cannot("start"),
            ("GET", []) => {
                request.only_query(&[])?;
                Ok(Answer::json(200, &json!({"id": id, "state": machine.state, "instance_id": "01HEP"})))
            }
            ("GET", ["wait"]) => {
                request.only_query(&["instance_id", "state", "timeout"])?;
                let timeout: u64 = request.query["timeout"].parse().unwrap();
                if !(1..=60).contains(&timeout) || request.query["instance_id"] != "01HEP" {
                    return Err(Answer::violation("wait"));
                }
                if request.query["state"] == machine.state { Ok(ok()) } else { Err(Answer::empty(408)) }
            }
            ("POST", ["stop"]) => {
                let stop: Stop = request.json()?;
                assert_eq!(stop.signal, "SIGTERM");
                machine.state = "stopped";
                Ok(ok())
            }
            ("POST", ["start"]) => {
                machine.state = "started";
                Ok(Answer::json(
                    200,
                    &json!({"previous_state": "stopped", "migrated": false, "new_host": ""}),
                ))
            }
            ("DELETE", []) => {
                request.only_query(&["force"])?;
                if request.query["force"] != "true" {
                    return Err(Answer::violation("a removal without force"));
                }
                machines.remove(id);
                Ok(ok())
            }
            _ => Err(Answer::violation("path")),
        }
    }

    async fn exec(&self, request: &Request, id: &str) -> Outcome {
        request.only_query(&[])?;
        let exec: Exec = request.json()?;
        let state = self.machines.lock().unwrap().get(id).map(|machine| machine.state);
        match state {
            Some("started") => {}
            Some(_) => return Err(Answer::json(412, &json!({"error": "machine not running"}))),
            None => return Err(Answer::json(404, &json!({"error": "machine not found"}))),
        }
        if exec.timeout > 30 || request.body.len() > 200_000 {
            return Err(Answer::violation("a command that is too long or too large"));
        }
        let ended = inside::run(&exec.command, exec.stdin.as_bytes(), &self.scratch.path).await;
        let ended = ended.map_err(|error| Answer::violation(&error))?;
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        let body =
            json!({"stdout": text(ended.stdout), "stderr": text(ended.stderr), "exit_code": ended.code});
        Ok(Answer::json(200, &body))
    }
}

impl Create {
    fn config_guest(&self) -> bool {
        let guest = &self.config.guest;
        guest.cpu_kind == "shared"
            && guest.cpus == 1
            && guest.memory_mb == 512
            && guest.persist_rootfs == "always"
    }
}
