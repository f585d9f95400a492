//! The program itself, run as an operator runs it, and a client of a few lines.

use std::path::Path;
use std::process::{ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::timeout;

/// Far longer than a start or a stop takes.
const DEADLINE: Duration = Duration::from_secs(60);

/// A master key for servers over a database that is not their own.
pub(crate) const MASTER_KEY: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";

/// A running server. Dropped, it is killed.
pub(crate) struct Server {
    child: Child,
    /// Where it listens.
    pub(crate) address: String,
    /// What it said on standard output until it listened.
    pub(crate) said: String,
    /// What it has written to its log.
    pub(crate) logged: Arc<Mutex<Vec<u8>>>,
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) body: Value,
}

/// The program with these arguments and a clean environment.
pub(crate) fn theazo(data_dir: &Path, arguments: &[&str]) -> Command {
    let mut command = clean(Command::new(PROGRAM));
    command.args(arguments).arg("--data-dir").arg(data_dir);
    command
}

/// The same, of a process that may have so many files open.
pub(crate) fn theazo_with_files(files: u32, data_dir: &Path, arguments: &[&str]) -> Command {
    let mut command = clean(Command::new("/bin/sh"));
    command.arg("-c").arg(format!("ulimit -n {files} && exec \"$0\" \"$@\"")).arg(PROGRAM);
    command.args(arguments).arg("--data-dir").arg(data_dir);
    command
}

const PROGRAM: &str = env!("CARGO_BIN_EXE_theazo");

fn clean(mut command: Command) -> Command {
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("THEAZO_") {
            command.env_remove(name);
        }
    }
    command.stdin(Stdio::null()).kill_on_drop(true);
    command
}

/// Runs a command to its end.
pub(crate) async fn run(data_dir: &Path, arguments: &[&str]) -> Output {
    let command = theazo(data_dir, arguments).output();
    timeout(DEADLINE, command).await.expect("it ends in time").expect("the program runs")
}

/// Runs a command that must succeed, and reads its answer.
pub(crate) async fn json(data_dir: &Path, arguments: &[&str]) -> Value {
    answer(&mut theazo(data_dir, &[arguments, &["--json"]].concat())).await
}

/// The same, of a command that answers in JSON.
pub(crate) async fn answer(command: &mut Command) -> Value {
    let output =
        timeout(DEADLINE, command.output()).await.expect("it ends in time").expect("the program runs");
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}: {err}{out}");
    serde_json::from_str(&out).unwrap_or_else(|error| panic!("{command:?}: {error}: {out}"))
}

impl Server {
    /// Starts a server on a data directory and waits until it listens.
    pub(crate) async fn start(data_dir: &Path) -> Server {
        Self::start_with(theazo(data_dir, &["serve", "--listen", "127.0.0.1:0"])).await
    }

    /// Starts a server and waits until it listens.
    pub(crate) async fn start_with(mut command: Command) -> Server {
        let mut child =
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program runs");
        let mut out = BufReader::new(child.stdout.take().expect("it is piped")).lines();
        let mut err = child.stderr.take().expect("it is piped");
        let mut said = String::new();
        let listening = async {
            while let Some(line) = out.next_line().await.expect("it writes text") {
                if let Some(address) = line.strip_prefix("listening on http://") {
                    return Some(address.to_owned());
                }
                said.push_str(&line);
                said.push('\n');
            }
            None
        };
        let listening = timeout(DEADLINE, listening).await;
        let Ok(Some(address)) = listening else {
            let _killed = child.start_kill();
            let mut why = String::new();
            let _closed = err.read_to_string(&mut why).await;
            panic!("the server does not listen ({listening:?}): {why}");
        };
        // Somebody has to read what it says, or it would stand still once the pipe is full.
        let logged = Arc::new(Mutex::new(vec![]));
        let written = Arc::clone(&logged);
        tokio::spawn(async move {
            let mut some = [0; 8_192];
            while let Ok(count @ 1..) = err.read(&mut some).await {
                written.lock().expect("nobody panicked").extend_from_slice(&some[..count]);
            }
        });
        Server { child, address, said, logged }
    }

    /// Sends a request; an error is a connection that broke or was refused.
    pub(crate) async fn request(
        &self,
        method: &str,
        path: &str,
        key: &str,
        body: Option<Value>,
    ) -> std::io::Result<Response> {
        ask(&self.address, Ask { method, path, key, idempotency_key: None, body }).await
    }

    /// Creates a session and gives its id.
    pub(crate) async fn create_session(&self, key: &str, user_id: &str) -> String {
        let body = serde_json::json!({ "userId": user_id });
        let response = self.request("POST", "/v1/sessions", key, Some(body)).await.expect("it answers");
        assert_eq!(response.status, 201, "{response:?}");
        response.body["id"].as_str().expect("a session has an id").to_owned()
    }

    /// The status of a GET; `None` when there was no answer.
    pub(crate) async fn status(&self, path: &str, key: &str) -> Option<u16> {
        self.request("GET", path, key, None).await.ok().map(|response| response.status)
    }

    /// Which process it is.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id().expect("it runs")
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        send(self.pid(), signal);
    }

    /// Waits until it has ended.
    pub(crate) async fn ended(mut self) -> ExitStatus {
        timeout(DEADLINE, self.child.wait()).await.expect("it ends in time").expect("it can be waited for")
    }

    /// Tells it to stop, and waits.
    pub(crate) async fn stop(self) -> ExitStatus {
        self.signal(Signal::SIGTERM);
        self.ended().await
    }
}

/// A request.
pub(crate) struct Ask<'a> {
    pub(crate) method: &'a str,
    pub(crate) path: &'a str,
    pub(crate) key: &'a str,
    pub(crate) idempotency_key: Option<&'a str>,
    pub(crate) body: Option<Value>,
}

/// Sends a request to whoever listens there; an error is a connection that broke or was refused.
pub(crate) async fn ask(address: &str, ask: Ask<'_>) -> std::io::Result<Response> {
    let Ask { method, path, key, idempotency_key, body } = ask;
    let content_type = if body.is_some() { "content-type: application/json\r\n" } else { "" };
    let body = body.map(|body| body.to_string()).unwrap_or_default();
    let once = idempotency_key.map(|key| format!("idempotency-key: {key}\r\n")).unwrap_or_default();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: {address}\r\nauthorization: Bearer {key}\r\nconnection: close\r\n\
         {content_type}{once}content-length: {}\r\n\r\n",
        body.len()
    );
    let answer = exchange(address, &format!("{head}{body}")).await?;
    let broken = || std::io::Error::from(std::io::ErrorKind::UnexpectedEof);
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(broken)?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or_else(broken)?;
    Ok(Response { status, body: serde_json::from_str(body).unwrap_or(Value::Null) })
}

/// Sends bytes over a new connection and reads until the other side closes it.
pub(crate) async fn exchange(address: &str, sent: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(sent.as_bytes()).await?;
    let mut answer = Vec::new();
    timeout(DEADLINE, stream.read_to_end(&mut answer)).await??;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// Sends a signal to a process.
pub(crate) fn send(pid: u32, signal: Signal) {
    kill(Pid::from_raw(i32::try_from(pid).expect("a process id is small")), signal).expect("it is there");
}
