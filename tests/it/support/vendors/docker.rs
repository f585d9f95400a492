//! A Docker host with its Engine API as far as containers of agents need it, after
//! <https://docs.docker.com/reference/api/engine/version/v1.51.yaml> (read in November 2026). It refuses fields, paths and
//! parameters that it does not know, and containers that could do more than they may.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt};

use super::inside;
use super::{Answer, Connection, Request, Vendor};
use crate::support::cluster::Scratch;

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct Create {
    image: String,
    user: String,
    working_dir: String,
    entrypoint: Vec<String>,
    cmd: Vec<String>,
    labels: BTreeMap<String, String>,
    host_config: Host,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct Host {
    memory: i64,
    memory_swap: i64,
    pids_limit: i64,
    nano_cpus: i64,
    ulimits: Vec<Ulimit>,
    cap_drop: Vec<String>,
    security_opt: Vec<String>,
    readonly_rootfs: bool,
    network_mode: String,
    ipc_mode: String,
    log_config: Value,
    tmpfs: BTreeMap<String, String>,
    mounts: Option<Vec<Volume>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct Ulimit {
    #[serde(rename = "Name")]
    _name: String,
    #[serde(rename = "Soft")]
    _soft: i64,
    #[serde(rename = "Hard")]
    _hard: i64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct Volume {
    target: String,
    source: String,
    #[serde(rename = "Type")]
    kind: String,
    volume_options: VolumeOptions,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct VolumeOptions {
    no_copy: bool,
    labels: BTreeMap<String, String>,
    driver_config: Option<Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct Exec {
    attach_stdin: bool,
    attach_stdout: bool,
    attach_stderr: bool,
    user: String,
    working_dir: String,
    cmd: Vec<String>,
}

/// A container; its workspace is a folder of this machine.
pub(crate) struct Container {
    labels: BTreeMap<String, String>,
    pub(crate) running: bool,
    pub(crate) paused: bool,
    pub(crate) scratch: Arc<Scratch>,
}

/// What the host holds.
#[derive(Default)]
pub(crate) struct Held {
    pub(crate) containers: BTreeMap<String, Container>,
    /// Volumes, with their labels and their folders.
    pub(crate) volumes: BTreeMap<String, (BTreeMap<String, String>, Arc<Scratch>)>,
    execs: BTreeMap<String, (String, Exec, Option<i64>)>,
}

/// The host, with what it shares with the test.
#[derive(Clone, Default)]
pub(crate) struct Docker {
    pub(crate) host: Arc<Mutex<Held>>,
}

type Outcome = Result<Answer, Answer>;

fn refusal(status: u16, message: &str) -> Answer {
    Answer::json(status, &json!({"message": message}))
}

#[async_trait::async_trait]
impl Vendor for Docker {
    async fn answer(&self, request: Request) -> Answer {
        self.judge(&request).unwrap_or_else(|answer| answer)
    }
}

impl Docker {
    fn judge(&self, request: &Request) -> Outcome {
        if request.method == "GET" && request.path == "/_ping" {
            request.only_headers(&[])?;
            return Ok(Answer::new(200, "text/plain; charset=utf-8", "OK"));
        }
        let upgrade: [(&str, Option<&str>); 3] =
            [("content-type", Some("application/json")), ("upgrade", None), ("transfer-encoding", None)];
        request.only_headers(&upgrade)?;
        // The client leaves the version out, which by Docker's rule means the host's own.
        let parts = request.parts();
        if request.method == "GET" && parts == ["version"] {
            request.only_query(&[])?;
            let version = json!({"Version": "28.2.2", "ApiVersion": "1.50", "MinAPIVersion": "1.24"});
            return Ok(Answer::json(200, &version));
        }
        match (request.method.as_str(), parts.as_slice()) {
            ("POST", ["containers", "create"]) => self.create(request),
            ("GET", ["containers", "json"]) => self.list(request),
            ("GET", ["volumes"]) => self.list_volumes(request),
            ("DELETE", ["volumes", name]) => {
                request.only_query(&["force"])?;
                let removed = self.host.lock().unwrap().volumes.remove(*name);
                removed.map(|_| Answer::empty(204)).ok_or_else(|| refusal(404, "no such volume"))
            }
            ("POST", ["containers", name, "exec"]) => self.create_exec(request, name),
            ("POST", ["exec", id, "start"]) => self.start_exec(request, id),
            ("GET", ["exec", id, "json"]) => {
                let host = self.host.lock().unwrap();
                let (container, _, code) =
                    host.execs.get(*id).ok_or_else(|| refusal(404, "No such exec instance"))?;
                let body =
                    json!({"ID": id, "Running": code.is_none(), "ExitCode": code, "ContainerID": container});
                Ok(Answer::json(200, &body))
            }
            (method, ["containers", name, rest @ ..]) => self.change(request, method, name, rest),
            _ => Err(Answer::violation("path")),
        }
    }

    fn create(&self, request: &Request) -> Outcome {
        request.only_query(&["name", "platform"])?;
        let create: Create = request.json()?;
        let name = request.query["name"].clone();
        let config = create.host_config;
        let confined = config.cap_drop == ["ALL"]
            && config.security_opt == ["no-new-privileges"]
            && config.readonly_rootfs
            && config.network_mode == "none"
            && config.ipc_mode == "private"
            && config.memory > 0
            && config.memory_swap == config.memory
            && config.pids_limit > 0
            && config.nano_cpus > 0
            && config.ulimits.len() == 3
            && config.log_config == json!({"Type": "none"})
            && config.tmpfs.values().all(|options| options.contains("size=") && options.contains("nosuid"))
            && create.user == "1000:1000"
            && create.working_dir == "/workspace"
            && create.cmd.is_empty()
            && create.entrypoint[..2] == ["python3", "-I"];
        if !confined {
            return Err(Answer::violation("a container that may do too much"));
        }
        if create.image == "missing" {
            return Err(refusal(404, "No such image: missing"));
        }
        let mut host = self.host.lock().unwrap();
        if host.containers.contains_key(&name) {
            return Err(refusal(409, &format!("Conflict. The container name \"/{name}\" is already in use")));
        }
        let mut scratch = Arc::new(Scratch::new());
        match config.mounts.as_deref() {
            None => assert!(config.tmpfs.contains_key("/workspace")),
            Some([volume]) => {
                assert!(
                    volume.kind == "volume" && volume.target == "/workspace" && volume.volume_options.no_copy
                );
                let limit = volume.volume_options.driver_config.clone();
                assert!(
                    limit.is_none_or(
                        |limit| limit == json!({"Name": "local", "Options": {"size": "1073741824"}})
                    )
                );
                let labels = volume.volume_options.labels.clone();
                let held = host.volumes.entry(volume.source.clone()).or_insert((labels, scratch));
                scratch = Arc::clone(&held.1);
            }
            Some(_) => return Err(Answer::violation("mounts")),
        }
        std::fs::create_dir_all(scratch.path.join("workspace")).unwrap();
        let container = Container { labels: create.labels, running: false, paused: false, scratch };
        host.containers.insert(name, container);
        Ok(Answer::json(201, &json!({"Id": "c0ffee", "Warnings": []})))
    }

    fn filtered(request: &Request) -> Result<(String, String), Answer> {
        let filters: BTreeMap<String, Vec<String>> = serde_json::from_str(&request.query["filters"]).unwrap();
        let label = filters.get("label").and_then(|labels| labels.first()?.split_once('='));
        let (name, value) = label.ok_or_else(|| Answer::violation("filters"))?;
        Ok((name.to_owned(), value.to_owned()))
    }

    fn list(&self, request: &Request) -> Outcome {
        request.only_query(&["all", "size", "filters"])?;
        let (label, value) = Self::filtered(request)?;
        let host = self.host.lock().unwrap();
        let held =
            host.containers.iter().filter(|(_, container)| container.labels.get(&label) == Some(&value));
        let shown: Vec<Value> = held
            .map(|(name, held)| json!({"Id": "c0ffee", "Names": [format!("/{name}")], "Labels": held.labels}))
            .collect();
        Ok(Answer::json(200, &json!(shown)))
    }

    fn list_volumes(&self, request: &Request) -> Outcome {
        request.only_query(&["filters"])?;
        let (label, value) = Self::filtered(request)?;
        let host = self.host.lock().unwrap();
        let held = host.volumes.iter().filter(|(_, (labels, _))| labels.get(&label) == Some(&value));
        let shown: Vec<Value> = held
            .map(|(name, (labels, _))| {
                json!({"Name": name, "Driver": "local", "Mountpoint": "/x", "Labels": labels, "Scope": "local", "Options": {}})
            })
            .collect();
        Ok(Answer::json(200, &json!({"Volumes": shown, "Warnings": []})))
    }

    fn change(&self, request: &Request, method: &str, name: &str, rest: &[&str]) -> Outcome {
        request.only_query(&["v", "force", "link", "t", "size"])?;
        let mut host = self.host.lock().unwrap();
        let Some(container) = host.containers.get_mut(name) else {
            return Err(refusal(404, &format!("No such container: {name}")));
        };
        let changed = match (method, rest) {
            ("GET", ["json"]) => {
                let state = json!({"Running": container.running, "Paused": container.paused});
                return Ok(Answer::json(200, &json!({"Id": "c0ffee", "State": state})));
            }
            ("POST", ["start"]) => !std::mem::replace(&mut container.running, true),
            ("POST", ["stop"]) => std::mem::replace(&mut container.running, false),
            ("POST", ["pause"]) => {
                if std::mem::replace(&mut container.paused, true) {
                    return Err(refusal(409, "Container c0ffee is already paused"));
                }
                true
            }
            ("POST", ["unpause"]) => {
                if !std::mem::replace(&mut container.paused, false) {
                    return Err(refusal(409, "Container c0ffee is not paused"));
                }
                true
            }
            ("DELETE", []) => {
                if request.query.get("force").map(String::as_str) != Some("true") {
                    return Err(Answer::violation("a removal without force"));
                }
                host.containers.remove(name);
                true
            }
            _ => return Err(Answer::violation("path")),
        };
        Ok(Answer::empty(if changed { 204 } else { 304 }))
    }

    fn create_exec(&self, request: &Request, name: &str) -> Outcome {
        request.only_query(&[])?;
        let exec: Exec = request.json()?;
        let mut host = self.host.lock().unwrap();
        let Some(container) = host.containers.get(name) else {
            return Err(refusal(404, &format!("No such container: {name}")));
        };
        if !container.running {
            return Err(refusal(409, "container c0ffee is not running"));
        }
        if container.paused {
            return Err(refusal(409, "Container c0ffee is paused, unpause the container before exec"));
        }
        let attached = exec.attach_stdin && exec.attach_stdout && exec.attach_stderr;
        if !attached
            || exec.working_dir != "/workspace"
            || !["1000:1000", "0:0"].contains(&exec.user.as_str())
        {
            return Err(Answer::violation("exec"));
        }
        let id = format!("e{}", host.execs.len());
        host.execs.insert(id.clone(), (name.to_owned(), exec, None));
        Ok(Answer::json(201, &json!({"Id": id})))
    }

    fn start_exec(&self, request: &Request, id: &str) -> Outcome {
        let wanted: Value = request.json()?;
        // The third field is not Docker's: the library sends its own setting along, as nothing.
        if wanted != json!({"Detach": false, "Tty": false, "OutputCapacity": null}) {
            return Err(Answer::violation(&format!("exec start {wanted}")));
        }
        let docker = self.clone();
        let id = id.to_owned();
        let headers = vec![
            ("content-type".to_owned(), "application/vnd.docker.multiplexed-stream".to_owned()),
            ("connection".to_owned(), "Upgrade".to_owned()),
            ("upgrade".to_owned(), "tcp".to_owned()),
        ];
        let takeover: super::Takeover = Box::new(move |connection| Box::pin(docker.attached(id, connection)));
        Ok(Answer { headers, takeover: Some(takeover), ..Answer::empty(101) })
    }

    /// Runs the supervisor with what comes as its input, and sends its outputs in the frames of Docker's streams.
    async fn attached(self, id: String, mut connection: Connection) {
        let (command, scratch) = {
            let host = self.host.lock().unwrap();
            let (container, exec, _) = &host.execs[&id];
            (exec.cmd.clone(), Arc::clone(&host.containers[container].scratch))
        };
        let mut line = vec![];
        connection.read_until(b'\n', &mut line).await.unwrap();
        let workspace = scratch.path.join("workspace").display().to_string();
        let line = String::from_utf8(line).unwrap().replace("\"/workspace\"", &format!("\"{workspace}\""));
        let ended = inside::run(&command, line.as_bytes(), &scratch.path).await.unwrap();
        self.host.lock().unwrap().execs.get_mut(&id).unwrap().2 = Some(ended.code);
        let mut bytes = vec![];
        for (stream, output) in [(2, &ended.stderr), (1, &ended.stdout)] {
            for piece in output.chunks(1_000) {
                bytes.extend_from_slice(&[stream, 0, 0, 0]);
                bytes.extend_from_slice(&u32::try_from(piece.len()).unwrap().to_be_bytes());
                bytes.extend_from_slice(piece);
            }
        }
        let step = if bytes.len() > 64 * 1024 { 997 } else { 1 };
        for piece in bytes.chunks(step) {
            if connection.get_mut().write_all(piece).await.is_err() {
                return;
            }
            let _ = connection.get_mut().flush().await;
        }
        let _ = connection.get_mut().shutdown().await;
    }
}
