//! The program itself, serving over the database of a bench, and a client of a few lines that costs little beside it.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::world::World;

/// Far longer than a start or an answer takes.
const DEADLINE: Duration = Duration::from_secs(60);
const MASTER_KEY: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
/// Requests a minute that no run reaches: the limit is counted for every request, and turns none away.
const RATE_LIMIT: &str = "2000000000";

/// A server, in a process of its own. Dropped, it is killed.
pub(crate) struct Served {
    child: Child,
    address: String,
    authorization: String,
}

impl Served {
    /// Starts the program over the bench's database, with an organization of the plan for enterprises and a key.
    pub(crate) async fn start(world: &World) -> anyhow::Result<Self> {
        Self::start_with(world, &[]).await
    }

    /// The same, with more in its environment.
    pub(crate) async fn start_with(world: &World, environment: &[(&str, String)]) -> anyhow::Result<Self> {
        let mut serving = program(world, &["serve", "--listen", "127.0.0.1:0"]);
        serving.envs(environment.iter().map(|(name, value)| (name, value)));
        // Its log is written as ever, and thrown away.
        let mut child = serving.stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
        let mut lines = BufReader::new(child.stdout.take().context("it is piped")?).lines();
        let listening = async {
            while let Some(line) = lines.next_line().await? {
                if let Some(address) = line.strip_prefix("listening on http://") {
                    return Ok(address.to_owned());
                }
            }
            bail!("the server ended before it listened")
        };
        let address = timeout(DEADLINE, listening).await.context("the server did not come up")??;
        let create = ["org", "create", "Bench", "--plan", "enterprise", "--rate-limit", RATE_LIMIT];
        let organization = json(world, &create).await?;
        let organization = organization["id"].as_str().context("an id")?;
        let create = ["key", "create", "--org", organization, "--mode", "live", "--role", "admin"];
        let key = json(world, &create).await?;
        let authorization = format!("Bearer {}", key["key"].as_str().context("a key")?);
        Ok(Self { child, address, authorization })
    }

    /// The process, for a profiler and for its memory.
    pub(crate) fn process_id(&self) -> anyhow::Result<u32> {
        self.child.id().context("the server has ended")
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// A connection of a caller.
    pub(crate) async fn connect(&self) -> anyhow::Result<Connection> {
        let stream = TcpStream::connect(&self.address).await?;
        stream.set_nodelay(true)?;
        Ok(Connection { stream, received: vec![] })
    }

    /// The bytes of a request with the caller's key.
    pub(crate) fn request(&self, method: &str, path: &str, body: &str) -> String {
        format!(
            "{method} {path} HTTP/1.1\r\nhost: {}\r\nauthorization: {}\r\ncontent-type: application/json\r\n\
             content-length: {}\r\n\r\n{body}",
            self.address,
            self.authorization,
            body.len()
        )
    }
}

/// A connection that stays open.
pub(crate) struct Connection {
    stream: TcpStream,
    pub(crate) received: Vec<u8>,
}

impl Connection {
    /// Sends a request.
    pub(crate) async fn send(&mut self, request: &str) -> anyhow::Result<()> {
        Ok(self.stream.write_all(request.as_bytes()).await?)
    }

    /// The head of an answer, which must be of this status. What follows it stays to be read.
    pub(crate) async fn head(&mut self, status: &str) -> anyhow::Result<String> {
        let end = loop {
            match self.received.windows(4).position(|window| window == b"\r\n\r\n") {
                Some(end) => break end + 4,
                None => self.receive().await?,
            }
        };
        let rest = self.received.split_off(end);
        let head = String::from_utf8(std::mem::replace(&mut self.received, rest))?;
        if !head.starts_with(&format!("HTTP/1.1 {status} ")) {
            bail!("{head}{}", String::from_utf8_lossy(&self.received));
        }
        Ok(head)
    }

    /// Waits for more.
    pub(crate) async fn receive(&mut self) -> anyhow::Result<()> {
        let received = timeout(DEADLINE, self.stream.read_buf(&mut self.received)).await;
        match received.context("no answer came")?? {
            0 => bail!("the server closed the connection"),
            _ => Ok(()),
        }
    }
}

fn program(world: &World, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_theazo"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("THEAZO_") {
            command.env_remove(name);
        }
    }
    let endpoint = &world.endpoint;
    let url = format!(
        "postgres://{}:{}@/theazo?host={}&port={}",
        endpoint.user,
        endpoint.password(&endpoint.user),
        endpoint.socket_dir.display(),
        endpoint.port
    );
    command.env("THEAZO_MASTER_KEY", MASTER_KEY).env("THEAZO_DATABASE_URL", url).args(arguments);
    let data_dir: &Path = &world.directory.join("server");
    command.arg("--data-dir").arg(data_dir).stdin(Stdio::null()).kill_on_drop(true);
    command
}

/// Runs a command of the program and reads its answer.
async fn json(world: &World, arguments: &[&str]) -> anyhow::Result<Value> {
    let output = timeout(DEADLINE, program(world, &[arguments, &["--json"]].concat()).output()).await??;
    if !output.status.success() {
        bail!("{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}
