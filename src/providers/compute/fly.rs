//! Machines at Fly.io, through the Machines API (<https://fly.io/docs/machines/api/>, its specification at
//! <https://docs.machines.dev>), one for each agent.
//!
//! Fly's `exec` answers when its command has ended, in one piece, with a deadline that Fly does not publish and that is
//! about a minute; and it takes one request a second for a machine (three in a burst). So a command here never takes
//! longer than 20 s: the supervisor inside (see `inside`) carries the work out in the background and is asked for its
//! answer until it is there; requests and answers larger than 96 KiB go in pieces, about one a second. A program of a few
//! seconds costs one command, a file of 1 MiB some fifteen.
//!
//! The root file system is kept (`persist_rootfs`), so a pause stops the machine: memory is given back, files stay. A
//! suspended machine would keep its memory too, and Fly does not promise to find it again. It was tested against the
//! strict server in `tests/it/support/vendors/fly.rs`, not against Fly.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue};
use reqwest::{Method, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};
use theazo_domain::id::AgentId;
use tokio::time::{Instant, timeout};
use url::Url;
use zeroize::Zeroizing;

use super::api::{Answer, Api, Manner, repeatedly};
use super::inside::{self, Exec, FIRST_PROCESS, Named, Output, SUPERVISOR, Work};
use super::{Compute, Error, FileContent, FileEntry, Finished, Handle, New, Paused, Program};
use crate::config;
use crate::providers::client::{Call, Client};

/// Where Fly's errors say why.
const REASON: &str = "/error";
/// The longest that Fly lets anyone wait for a state, in seconds.
const LONGEST_WAIT_S: u64 = 60;

/// How machines are made, and where.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Whose they are: what is of another owner in the same app is never listed.
    pub owner: String,
    /// The API, as in `FLY_API_HOSTNAME`.
    pub api_url: Url,
    /// The app that the machines belong to.
    pub app: String,
    /// Where they run; Fly chooses where none is named.
    pub region: Option<String>,
    /// The image; it must hold `python3`, `node` and `bash`.
    pub image: String,
    /// Shared processors.
    pub cpus: u32,
    /// Memory, in MiB, a multiple of 256.
    pub memory_mb: u32,
    /// Where the workspace is in a machine.
    pub workspace: String,
}

impl Settings {
    /// Fly.io itself, with the image that Docker hosts use.
    ///
    /// # Panics
    /// Never: the address is a constant.
    #[must_use]
    pub fn of(owner: String, app: String) -> Self {
        Self {
            owner,
            api_url: Url::parse("https://api.machines.dev").expect("it is a URL"),
            app,
            region: None,
            image: super::docker::DEFAULT_IMAGE.to_owned(),
            cpus: 1,
            memory_mb: 512,
            workspace: "/workspace".to_owned(),
        }
    }
}

/// Compute at Fly.io.
pub struct Fly {
    api: Api,
    settings: Settings,
}

#[derive(Deserialize)]
struct Machine {
    id: String,
    #[serde(default)]
    state: String,
    #[serde(default)]
    instance_id: String,
    config: Option<Config>,
    /// What is left of the configuration while the machine's host cannot be reached.
    incomplete_config: Option<Config>,
}

#[derive(Deserialize)]
struct Config {
    metadata: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize)]
struct Executed {
    #[serde(default)]
    stdout: String,
    #[serde(default)]
    stderr: String,
    #[serde(default)]
    exit_code: i64,
    #[serde(default)]
    exit_signal: i64,
}

/// What the supervisor says of work that goes on in the background.
#[derive(Deserialize)]
#[serde(untagged)]
enum Collected {
    Piece { piece: String, total: usize },
    Pending { pending: bool },
}

impl Fly {
    /// Compute in this app, by a token that may manage its machines.
    #[must_use]
    pub const fn new(client: Client, api_token: Zeroizing<String>, settings: Settings) -> Self {
        Self { api: Api::new(client, api_token), settings }
    }

    fn call(
        &self,
        method: Method,
        path: &[&str],
        query: &[(&str, &str)],
        body: Option<&Value>,
    ) -> Result<Call, Error> {
        let mut url = self.settings.api_url.clone();
        {
            let mut parts =
                url.path_segments_mut().map_err(|()| Error::Refused("the API's URL is none".to_owned()))?;
            parts.pop_if_empty().extend(["v1", "apps", &self.settings.app, "machines"]).extend(path);
        }
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        let mut headers = HeaderMap::new();
        // A token that flyctl prints begins with its scheme already.
        let token = self.api.credential();
        let has_scheme = token.starts_with("FlyV1 ") || token.starts_with("Bearer ");
        let token = Zeroizing::new(if has_scheme { token.to_owned() } else { format!("Bearer {token}") });
        let mut token = HeaderValue::from_str(&token)
            .map_err(|_| Error::Refused("the token holds characters that no header can".to_owned()))?;
        token.set_sensitive(true);
        headers.insert(AUTHORIZATION, token);
        let body = body.map_or_else(Vec::new, |body| body.to_string().into_bytes());
        if !body.is_empty() {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        Ok(Call { method, url, headers, body: body.into() })
    }

    async fn ask(&self, manner: Manner, call: Call) -> Result<Answer, Error> {
        let answer = self.api.call(manner, || call.clone()).await?;
        match answer.status {
            status if status.is_success() => Ok(answer),
            StatusCode::NOT_FOUND => Err(Error::Gone),
            _ => Err(self.api.refusal(&answer, REASON)),
        }
    }

    async fn machine(&self, id: &str) -> Result<Machine, Error> {
        let machine: Machine =
            self.ask(Manner::REPEATABLE, self.call(Method::GET, &[id], &[], None)?).await?.json()?;
        // A machine that is destroyed can still be looked at for a while.
        if matches!(machine.state.as_str(), "destroyed" | "destroying") {
            Err(Error::Gone)
        } else {
            Ok(machine)
        }
    }

    /// Waits until a machine is in a state, for as long as making one may take.
    async fn wait(&self, machine: &Machine, state: &str) -> Result<(), Error> {
        let until = Instant::now() + config::COMPUTE_CREATE_DEADLINE;
        loop {
            let left = until.saturating_duration_since(Instant::now()).as_secs();
            if left == 0 {
                return Err(Error::Unavailable(format!("the machine is not {state} in time")));
            }
            let seconds = left.min(LONGEST_WAIT_S).to_string();
            let query =
                [("instance_id", machine.instance_id.as_str()), ("state", state), ("timeout", &seconds)];
            let call = self.call(Method::GET, &[&machine.id, "wait"], &query, None)?;
            // Twice: one attempt of a call that may be repeated has half of its time.
            let manner = Manner::REPEATABLE.within(Duration::from_secs(LONGEST_WAIT_S + 10) * 2);
            let answer = self.api.call(manner, || call.clone()).await?;
            match answer.status {
                status if status.is_success() => return Ok(()),
                StatusCode::REQUEST_TIMEOUT => {}
                StatusCode::NOT_FOUND => return Err(Error::Gone),
                _ => return Err(self.api.refusal(&answer, REASON)),
            }
        }
    }

    /// Brings a machine to a state. It is looked at before each attempt and only asked to go where it neither is nor is
    /// on its way to, so that an order whose answer was lost does no harm.
    async fn bring(&self, id: &str, (state, on_its_way): (&str, &str), order: &Call) -> Result<(), Error> {
        let bring = || async move {
            let machine = self.machine(id).await?;
            if machine.state == state {
                return Ok(());
            }
            if machine.state != on_its_way {
                let answer = self.api.call(Manner::ONCE, || order.clone()).await?;
                match answer.status {
                    status if status.is_success() => {}
                    StatusCode::NOT_FOUND => return Err(Error::Gone),
                    // It cannot go there from where it is; where that is, is seen next.
                    StatusCode::PRECONDITION_FAILED => {
                        return Err(Error::Unavailable(self.api.reason(&answer, REASON)));
                    }
                    _ => return Err(self.api.refusal(&answer, REASON)),
                }
            }
            self.wait(&machine, state).await
        };
        repeatedly(bring).await
    }

    async fn start(&self, id: &str) -> Result<(), Error> {
        let order = self.call(Method::POST, &[id, "start"], &[], None)?;
        self.bring(id, ("started", "starting"), &order).await
    }

    /// Runs the supervisor with a request, for a short while. It is made once: nobody knows what a lost one did.
    async fn command(&self, id: &str, name: &str, request: &Value) -> Result<Output, Error> {
        let seconds = (config::COMPUTE_COMMAND + Duration::from_secs(5)).as_secs();
        let body = json!({
            "command": ["python3", "-I", "-c", SUPERVISOR, name],
            "stdin": format!("{request}\n"),
            "timeout": seconds,
        });
        let manner = Manner::ONCE.within(config::COMPUTE_COMMAND + config::COMPUTE_RUN_GRACE);
        let call = self.call(Method::POST, &[id, "exec"], &[], Some(&body))?;
        let executed: Executed = self.ask(manner, call).await?.json()?;
        let code = if executed.exit_signal > 0 { 128 + executed.exit_signal } else { executed.exit_code };
        let (stdout, stderr) = (executed.stdout.into_bytes(), executed.stderr.into_bytes());
        Ok(Output { stdout, stderr, code: Some(code) })
    }

    /// Puts a request that is too large for one command where the supervisor finds it.
    async fn stage(&self, id: &str, work: &Work) -> Result<Value, Error> {
        if work.request.len() <= config::COMPUTE_PIECE_BYTES {
            return serde_json::from_slice(&work.request)
                .map_err(|_| Error::Refused("the request is no JSON".to_owned()));
        }
        for piece in work.request.chunks(config::COMPUTE_PIECE_BYTES) {
            let request = json!({"operation": "stage", "name": work.name, "data": STANDARD.encode(piece)});
            let output = self.command(id, &work.name, &request).await?;
            if output.code != Some(0) {
                return Err(Error::Refused(String::from_utf8_lossy(&output.stderr).into_owned()));
            }
        }
        Ok(json!({"operation": "staged", "name": work.name}))
    }

    async fn work(&self, id: &str, work: &Work) -> Result<Output, Error> {
        let inner = self.stage(id, work).await?;
        let (mut answer, mut operation) = (Vec::new(), "launch");
        loop {
            let mut request = json!({
                "operation": operation,
                "name": work.name,
                "waitMs": config::COMPUTE_COMMAND.as_secs() * 1_000,
                "offset": answer.len(),
                "limit": config::COMPUTE_PIECE_BYTES,
            });
            if operation == "launch" {
                request["request"] = inner.clone();
            }
            operation = "collect";
            let output = self.command(id, &work.name, &request).await?;
            match serde_json::from_slice(&output.stdout) {
                Ok(Collected::Piece { piece, total }) => {
                    answer.extend_from_slice(piece.as_bytes());
                    if total > work.answer_bytes {
                        return Err(Error::Unavailable("it wrote more than its limit".to_owned()));
                    }
                    if answer.len() >= total {
                        return Ok(Output { stdout: answer, stderr: vec![], code: Some(0) });
                    }
                }
                Ok(Collected::Pending { pending: true }) => {}
                // A failure of the supervisor itself, which whoever asked can read.
                Ok(Collected::Pending { .. }) | Err(_) => return Ok(output),
            }
        }
    }
}

#[async_trait]
impl Exec for Fly {
    fn workspace(&self) -> &str {
        &self.settings.workspace
    }

    async fn exec(&self, handle: &Handle, work: &Work) -> Result<Output, Error> {
        let late = |_| Error::Unavailable("Fly did not answer in time".to_owned());
        // Pieces come about one a second.
        let pieces = (work.request.len() + work.answer_bytes) / config::COMPUTE_PIECE_BYTES;
        let deadline =
            work.deadline + config::COMPUTE_THROTTLED_REST * u32::try_from(pieces).unwrap_or(u32::MAX);
        timeout(deadline, self.work(Named::of(handle).name, work)).await.map_err(late)?
    }
}

#[async_trait]
impl Compute for Fly {
    async fn create(&self, sandbox: &New) -> Result<Handle, Error> {
        if sandbox.browser {
            return Err(Error::Unsupported("a Fly machine has no browser".to_owned()));
        }
        let settings = &self.settings;
        let mut body = json!({
            "config": {
                "image": settings.image,
                "guest": {
                    "cpu_kind": "shared",
                    "cpus": settings.cpus,
                    "memory_mb": settings.memory_mb,
                    "persist_rootfs": "always",
                },
                "init": {"exec": ["python3", "-I", "-c", FIRST_PROCESS]},
                "restart": {"policy": "no"},
                "auto_destroy": false,
                "metadata": {
                    "theazo_owner": settings.owner,
                    "theazo_agent": sandbox.agent_id.to_string(),
                    "theazo_session": sandbox.session_id.to_string(),
                },
            },
        });
        if let Some(region) = &settings.region {
            body["region"] = json!(region);
        }
        let manner = Manner::ONCE.within(config::COMPUTE_CREATE_DEADLINE);
        let call = self.call(Method::POST, &[], &[], Some(&body))?;
        let machine: Machine = match self.ask(manner, call).await {
            Err(Error::Gone) => return Err(Error::Refused("Fly knows no such app".to_owned())),
            answer => answer?.json()?,
        };
        let handle = Handle(machine.id.clone());
        let ready = async {
            self.wait(&machine, "started").await?;
            inside::perform(self, &handle, "prepare").await
        };
        if let Err(error) = ready.await {
            // Nothing is to be left behind; where that fails too, it is found by its metadata.
            let _ = self.terminate(&handle).await;
            return Err(error);
        }
        Ok(handle)
    }

    async fn run(&self, handle: &Handle, program: &Program) -> Result<Finished, Error> {
        inside::run(self, handle, program).await
    }

    async fn write_file(&self, handle: &Handle, path: &str, content: &[u8]) -> Result<(), Error> {
        inside::write_file(self, handle, path, content).await
    }

    async fn read_file(&self, handle: &Handle, path: &str, limit: usize) -> Result<FileContent, Error> {
        inside::read_file(self, handle, path, limit).await
    }

    async fn list_files(&self, handle: &Handle, path: &str, limit: usize) -> Result<Vec<FileEntry>, Error> {
        inside::list_files(self, handle, path, limit).await
    }

    async fn pause(&self, handle: &Handle) -> Result<Paused, Error> {
        let named = Named::of(handle);
        if let Some(stored_bytes) = named.paused_bytes {
            return Ok(Paused { handle: handle.clone(), stored_bytes });
        }
        // A pause whose answer was lost may have taken place: what has stopped cannot be measured.
        self.start(named.name).await?;
        let stored_bytes = inside::measure(self, handle).await?;
        let body = json!({"signal": "SIGTERM"});
        let order = self.call(Method::POST, &[named.name, "stop"], &[], Some(&body))?;
        self.bring(named.name, ("stopped", "stopping"), &order).await?;
        Ok(Paused { handle: named.paused(stored_bytes), stored_bytes })
    }

    async fn resume(&self, handle: &Handle, _: &New) -> Result<Handle, Error> {
        let named = Named::of(handle);
        self.start(named.name).await?;
        Ok(named.ready())
    }

    async fn terminate(&self, handle: &Handle) -> Result<(), Error> {
        let id = Named::of(handle).name;
        let call = self.call(Method::DELETE, &[id], &[("force", "true")], None)?;
        match self.ask(Manner::REPEATABLE, call).await {
            Ok(_) | Err(Error::Gone) => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn list(&self) -> Result<Vec<(AgentId, Handle)>, Error> {
        let query = [("metadata.theazo_owner", self.settings.owner.as_str())];
        let call = self.call(Method::GET, &[], &query, None)?;
        let machines: Vec<Machine> = self.ask(Manner::REPEATABLE, call).await?.json()?;
        let ours = |machine: Machine| {
            let metadata = machine.config.or(machine.incomplete_config)?.metadata?;
            let is_there = !matches!(machine.state.as_str(), "destroyed" | "destroying");
            let is_ours = metadata.get("theazo_owner") == Some(&self.settings.owner);
            let agent = metadata.get("theazo_agent")?.parse().ok()?;
            (is_there && is_ours).then_some((agent, Handle(machine.id)))
        };
        Ok(machines.into_iter().filter_map(ours).collect())
    }

    async fn stored_bytes(&self, handle: &Handle) -> Result<u64, Error> {
        match Named::of(handle).paused_bytes {
            Some(bytes) => Ok(bytes),
            None => inside::measure(self, handle).await,
        }
    }
}
