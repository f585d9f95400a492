//! Sandboxes at E2B: its API for their lives (`spec/openapi.yml` of github.com/e2b-dev/infra), and envd, which runs in each
//! of them, for programs (`packages/envd/spec/process/process.proto`, over the Connect protocol with JSON) and files
//! (`packages/envd/spec/envd.yaml`).
//!
//! A sandbox lives for a time that is named; it is asked for anew before a program that would outlast it, and E2B pauses
//! what outlives it instead of ending it (`autoPause`), so that no workspace is lost. envd writes wherever it is told to;
//! that a path stays in the workspace is held by the supervisor inside (see `inside`), whose request is put there
//! through envd's `/files`. A pause keeps memory and files, as E2B has no other. It was tested against the strict server
//! in `tests/it/support/vendors/e2b.rs`, not against E2B.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::sync::Mutex;
use std::time::Duration;

use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use lru::LruCache;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Method, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};
use theazo_domain::id::AgentId;
use tokio::time::Instant;
use url::Url;
use zeroize::Zeroizing;

use super::api::{Answer, Api, Manner};
use super::connect::Envelopes;
use super::inside::{self, Exec, Named, Output, Work};
use super::{Compute, Error, FileContent, FileEntry, Finished, Handle, New, Paused, Program};
use crate::config;
use crate::providers::client::{Call, Client};

/// Where E2B's errors say why.
const REASON: &str = "/message";
/// The port on which envd listens in every sandbox.
const ENVD_PORT: &str = "49983";
/// The user that programs run as.
const USER: &str = "user";

/// How sandboxes are made, and where.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Whose they are: what is of another owner in the same E2B team is never listed.
    pub owner: String,
    /// The API, as in `E2B_API_URL`.
    pub api_url: Url,
    /// The domain of sandboxes, as in `E2B_DOMAIN`.
    pub domain: String,
    /// Where envd of every sandbox is reached, where that is not a name below the domain, as in `E2B_SANDBOX_URL`.
    pub sandbox_url: Option<Url>,
    /// The template; it must hold `python3`, `node` and `bash`.
    pub template: String,
    /// Where the workspace is in a sandbox.
    pub workspace: String,
    /// The longest time to live that is asked for at once. E2B's plans have limits of their own.
    pub time_to_live: Duration,
    /// Whether programs may reach the internet.
    pub internet: bool,
}

impl Settings {
    /// E2B itself, with its base template.
    ///
    /// # Panics
    /// Never: the address is a constant.
    #[must_use]
    pub fn of(owner: String) -> Self {
        Self {
            owner,
            api_url: Url::parse("https://api.e2b.app").expect("it is a URL"),
            domain: "e2b.app".to_owned(),
            sandbox_url: None,
            template: "base".to_owned(),
            workspace: "/home/user/workspace".to_owned(),
            time_to_live: Duration::from_secs(3_600),
            internet: false,
        }
    }
}

/// Compute at E2B.
pub struct E2b {
    api: Api,
    settings: Settings,
    /// How sandboxes are reached. It holds their tokens, so it is never written down.
    reached: Mutex<LruCache<String, Access>>,
}

/// How a sandbox is reached.
#[derive(Clone)]
struct Access {
    token: Option<Zeroizing<String>>,
    traffic_token: Option<Zeroizing<String>>,
    domain: Option<String>,
    until: Instant,
}

/// A sandbox, as E2B tells of one that was made or connected to.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Sandbox {
    #[serde(rename = "sandboxID")]
    id: String,
    envd_access_token: Option<Zeroizing<String>>,
    traffic_access_token: Option<Zeroizing<String>>,
    domain: Option<String>,
}

#[derive(Deserialize)]
struct Listed {
    #[serde(rename = "sandboxID")]
    id: String,
    #[serde(default)]
    metadata: BTreeMap<String, String>,
}

impl E2b {
    /// Compute of the team whose key this is.
    #[must_use]
    pub fn new(client: Client, api_key: Zeroizing<String>, settings: Settings) -> Self {
        let kept = NonZeroUsize::new(config::COMPUTE_REACHED).expect("it is more than none");
        Self { api: Api::new(client, api_key), settings, reached: Mutex::new(LruCache::new(kept)) }
    }

    fn call(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Call, Error> {
        let mut url = self.settings.api_url.clone();
        let base = url.path().trim_end_matches('/').to_owned();
        url.set_path(&format!("{base}{path}"));
        let mut headers = HeaderMap::new();
        headers.insert(HeaderName::from_static("x-api-key"), secret_header(self.api.credential())?);
        let body = body.map_or_else(Vec::new, |body| body.to_string().into_bytes());
        if !body.is_empty() {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        Ok(Call { method, url, headers, body: body.into() })
    }

    async fn ask(
        &self,
        manner: Manner,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Answer, Error> {
        let call = self.call(method, path, body)?;
        let answer = self.api.call(manner, || call.clone()).await?;
        match answer.status {
            status if status.is_success() => Ok(answer),
            StatusCode::NOT_FOUND if path.starts_with("/sandboxes/") => Err(Error::Gone),
            _ => Err(self.api.refusal(&answer, REASON)),
        }
    }

    /// Remembers how a sandbox is reached, and gives its id.
    fn remember(&self, sandbox: Sandbox) -> (String, Access) {
        let access = Access {
            token: sandbox.envd_access_token,
            traffic_token: sandbox.traffic_access_token,
            domain: sandbox.domain,
            until: Instant::now() + self.settings.time_to_live,
        };
        let mut reached = self.reached.lock().expect("nobody panics while holding it");
        reached.put(sandbox.id.clone(), access.clone());
        (sandbox.id, access)
    }

    fn forget(&self, id: &str) {
        self.reached.lock().expect("nobody panics while holding it").pop(id);
    }

    /// How a sandbox is reached that is to live for so long yet. Connecting makes its time longer, never shorter, and
    /// wakes one that E2B has paused: it may be repeated.
    async fn access(&self, id: &str, needed: Duration) -> Result<Access, Error> {
        let known = self.reached.lock().expect("nobody panics while holding it").get(id).cloned();
        if let Some(access) = known.filter(|access| access.until > Instant::now() + needed) {
            return Ok(access);
        }
        let body = json!({"timeout": self.settings.time_to_live.max(needed).as_secs()});
        let manner = Manner::REPEATABLE.within(config::COMPUTE_CREATE_DEADLINE);
        let path = format!("/sandboxes/{id}/connect");
        let answer = self.ask(manner, Method::POST, &path, Some(&body)).await?;
        Ok(self.remember(answer.json()?).1)
    }

    /// A call of a sandbox's envd.
    fn envd(&self, id: &str, access: &Access, path: &str) -> Result<Call, Error> {
        let mut url = match &self.settings.sandbox_url {
            Some(url) => url.clone(),
            None => {
                let domain = access.domain.as_ref().unwrap_or(&self.settings.domain);
                let url = Url::parse(&format!("https://{ENVD_PORT}-{id}.{domain}"));
                url.map_err(|_| {
                    Error::Refused("E2B named a sandbox that no address can be made of".to_owned())
                })?
            }
        };
        url.set_path(path);
        let mut headers = HeaderMap::new();
        // Of envd's users one is named without a password.
        let user = format!("Basic {}", STANDARD.encode(format!("{USER}:")));
        headers.insert(AUTHORIZATION, HeaderValue::from_str(&user).expect("base64 fits in a header"));
        headers.insert(HeaderName::from_static("e2b-sandbox-id"), secret_header(id)?);
        headers.insert(HeaderName::from_static("e2b-sandbox-port"), HeaderValue::from_static(ENVD_PORT));
        if let Some(token) = &access.token {
            headers.insert(HeaderName::from_static("x-access-token"), secret_header(token)?);
        }
        if let Some(token) = &access.traffic_token {
            headers.insert(HeaderName::from_static("e2b-traffic-access-token"), secret_header(token)?);
        }
        Ok(Call { method: Method::POST, url, headers, body: Vec::new().into() })
    }

    /// Puts the supervisor's request into a file of the sandbox. The same file with the same content does no harm.
    async fn upload(&self, id: &str, access: &Access, work: &Work) -> Result<String, Error> {
        let path = format!("/tmp/theazo-{}.json", work.name);
        let mut call = self.envd(id, access, "/files")?;
        call.url.query_pairs_mut().append_pair("path", &path).append_pair("username", USER);
        let boundary = format!("theazo{}", work.name);
        let kind = format!("multipart/form-data; boundary={boundary}");
        call.headers
            .insert(CONTENT_TYPE, HeaderValue::from_str(&kind).expect("hexadecimal fits in a header"));
        let head = format!(
            "--{boundary}\r\nContent-Disposition: form-data; name=\"file\"; filename=\"request\"\r\nContent-Type: \
             application/octet-stream\r\n\r\n"
        );
        call.body =
            [head.as_bytes(), &work.request, format!("\r\n--{boundary}--\r\n").as_bytes()].concat().into();
        let answer = self.api.call(Manner::REPEATABLE, || call.clone()).await?;
        if answer.status.is_success() { Ok(path) } else { Err(self.lost_or_refused(id, &answer)) }
    }

    /// E2B's proxy answers 502 for a sandbox that does not run: it was paused or has ended.
    fn lost_or_refused(&self, id: &str, answer: &Answer) -> Error {
        let is_lost = matches!(answer.status.as_u16(), 404 | 502)
            && String::from_utf8_lossy(&answer.body).contains("sandbox was not found");
        if is_lost {
            self.forget(id);
            return Error::Gone;
        }
        self.api.refusal(answer, REASON)
    }

    async fn start(&self, id: &str, access: &Access, path: &str, work: &Work) -> Result<Output, Error> {
        let [command, arguments @ ..] = work.command();
        let arguments: Vec<&str> = arguments.into_iter().chain([path]).collect();
        let message = json!({"process": {"cmd": command, "args": arguments}, "stdin": false}).to_string();
        let mut call = self.envd(id, access, "/process.Process/Start")?;
        let milliseconds = work.deadline.as_millis().to_string();
        for (name, value) in [
            ("content-type", "application/connect+json"),
            ("connect-protocol-version", "1"),
            ("connect-timeout-ms", milliseconds.as_str()),
            ("keepalive-ping-interval", "50"),
        ] {
            call.headers.insert(HeaderName::from_static(name), secret_header(value)?);
        }
        call.body = Envelopes::wrapped(message.as_bytes()).into();
        let manner =
            Manner { answer_bytes: work.answer_bytes * 2, deadline: work.deadline, repeatable: false };
        let mut reply = self.api.open(manner, call).await?;
        if reply.status() != StatusCode::OK {
            let status = reply.status();
            let headers = reply.headers().clone();
            let body = reply.whole().await.map_err(|error| super::api::failure(&error))?;
            return Err(self.lost_or_refused(id, &Answer { status, headers, body }));
        }
        let mut envelopes = Envelopes::default();
        while let Some(piece) = reply.piece().await.map_err(|error| super::api::failure(&error))? {
            if let Some(output) = envelopes.take(&piece)? {
                return Ok(output);
            }
        }
        Err(Error::Unavailable("the program's stream broke off".to_owned()))
    }

    /// A paused sandbox wakes, and one whose time has run out is asked for again: nothing was done until then.
    async fn exec_once(&self, id: &str, work: &Work) -> Result<Output, Error> {
        let access = self.access(id, work.deadline + config::COMPUTE_RUN_GRACE).await?;
        let path = self.upload(id, &access, work).await?;
        self.start(id, &access, &path, work).await
    }
}

/// A header's value that is not shown in logs.
fn secret_header(value: &str) -> Result<HeaderValue, Error> {
    let mut header = HeaderValue::from_str(value)
        .map_err(|_| Error::Refused("the credential holds characters that no header can".to_owned()))?;
    header.set_sensitive(true);
    Ok(header)
}

#[async_trait]
impl Exec for E2b {
    fn workspace(&self) -> &str {
        &self.settings.workspace
    }

    async fn exec(&self, handle: &Handle, work: &Work) -> Result<Output, Error> {
        let id = Named::of(handle).name;
        let done = async {
            match self.exec_once(id, work).await {
                Err(Error::Gone) => self.exec_once(id, work).await,
                done => done,
            }
        };
        let late = |_| Error::Unavailable("E2B did not answer in time".to_owned());
        tokio::time::timeout(work.deadline, done).await.map_err(late)?
    }
}

#[async_trait]
impl Compute for E2b {
    async fn create(&self, sandbox: &New) -> Result<Handle, Error> {
        if sandbox.browser {
            return Err(Error::Unsupported("an E2B sandbox has no browser".to_owned()));
        }
        let body = json!({
            "templateID": self.settings.template,
            "timeout": self.settings.time_to_live.as_secs(),
            "autoPause": true,
            "secure": true,
            "allow_internet_access": self.settings.internet,
            "metadata": {
                "theazoOwner": self.settings.owner,
                "theazoAgent": sandbox.agent_id.to_string(),
                "theazoSession": sandbox.session_id.to_string(),
            },
        });
        let manner = Manner::ONCE.within(config::COMPUTE_CREATE_DEADLINE);
        let answer = self.ask(manner, Method::POST, "/sandboxes", Some(&body)).await?;
        let handle = Handle(self.remember(answer.json()?).0);
        if let Err(error) = inside::perform(self, &handle, "prepare").await {
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
        let stored_bytes = inside::measure(self, handle).await?;
        let call = self.call(Method::POST, &format!("/sandboxes/{}/pause", named.name), None)?;
        let manner = Manner::REPEATABLE.within(config::COMPUTE_CREATE_DEADLINE);
        let answer = self.api.call(manner, || call.clone()).await?;
        self.forget(named.name);
        match answer.status {
            // 409: it is paused already.
            StatusCode::NO_CONTENT | StatusCode::CONFLICT => {
                Ok(Paused { handle: named.paused(stored_bytes), stored_bytes })
            }
            StatusCode::NOT_FOUND => Err(Error::Gone),
            _ => Err(self.api.refusal(&answer, REASON)),
        }
    }

    async fn resume(&self, handle: &Handle, _: &New) -> Result<Handle, Error> {
        let named = Named::of(handle);
        self.forget(named.name);
        self.access(named.name, Duration::ZERO).await?;
        Ok(named.ready())
    }

    async fn terminate(&self, handle: &Handle) -> Result<(), Error> {
        let id = Named::of(handle).name;
        self.forget(id);
        match self.ask(Manner::REPEATABLE, Method::DELETE, &format!("/sandboxes/{id}"), None).await {
            Ok(_) | Err(Error::Gone) => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn list(&self) -> Result<Vec<(AgentId, Handle)>, Error> {
        let owner = url::form_urlencoded::Serializer::new(String::new())
            .append_pair("theazoOwner", &self.settings.owner)
            .finish();
        let (mut found, mut next) = (vec![], None::<String>);
        for _ in 0..config::COMPUTE_LIST_PAGES {
            let mut call = self.call(Method::GET, "/v2/sandboxes", None)?;
            call.url
                .query_pairs_mut()
                .append_pair("metadata", &owner)
                .append_pair("state", "running,paused")
                .append_pair("limit", "100");
            if let Some(next) = &next {
                call.url.query_pairs_mut().append_pair("nextToken", next);
            }
            let answer = self.api.call(Manner::REPEATABLE, || call.clone()).await?;
            if !answer.status.is_success() {
                return Err(self.api.refusal(&answer, REASON));
            }
            for listed in answer.json::<Vec<Listed>>()? {
                let agent = listed.metadata.get("theazoAgent").and_then(|agent| agent.parse().ok());
                found.extend(agent.map(|agent| (agent, Handle(listed.id))));
            }
            next = answer.headers.get("x-next-token").and_then(|next| next.to_str().ok()).map(str::to_owned);
            if next.as_ref().is_none_or(String::is_empty) {
                return Ok(found);
            }
        }
        Err(Error::Unavailable("E2B lists more than can be taken in".to_owned()))
    }

    async fn stored_bytes(&self, handle: &Handle) -> Result<u64, Error> {
        match Named::of(handle).paused_bytes {
            Some(bytes) => Ok(bytes),
            None => inside::measure(self, handle).await,
        }
    }
}
