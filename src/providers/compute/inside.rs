//! Work inside the sandboxes of vendors that can start a program and no more: a supervisor of ours, `inside.py`, runs
//! there for each piece of work. It has one answer for how a program ended, with outputs cut and all its processes gone,
//! and opens files so that no link leads out of the workspace, in the same way at every vendor. It needs `python3` in
//! the sandbox; what the sandbox's own programs do to it hurts nobody else.

use std::time::Duration;

use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::time::Instant;
use zeroize::Zeroizing;

use super::api::repeatedly;
use super::{End, Error, FileContent, FileEntry, Finished, Handle, Program, check_path};
use crate::{config, random, vault};

/// The supervisor.
pub(super) const SUPERVISOR: &str = include_str!("inside.py");

/// The first process of a sandbox that has no other: it reaps what others leave behind and ends when it is told to.
pub(super) const FIRST_PROCESS: &str = "\
import os, signal
wanted = {signal.SIGCHLD, signal.SIGTERM, signal.SIGINT}
signal.pthread_sigmask(signal.SIG_BLOCK, wanted)
while signal.sigwait(wanted) == signal.SIGCHLD:
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass
";

/// A piece of work for the supervisor.
pub(super) struct Work {
    /// By which it is known while it is done: letters and digits.
    pub(super) name: String,
    /// The request: a line of JSON.
    pub(super) request: Zeroizing<Vec<u8>>,
    /// How long all of it may take.
    pub(super) deadline: Duration,
    /// Bytes that its answer may have.
    pub(super) answer_bytes: usize,
}

impl Work {
    pub(super) fn new(request: &impl Serialize) -> Self {
        let mut line = vault::json(0, request).expect("the request is JSON");
        line.push(b'\n');
        Self {
            name: hex::encode(random::bytes::<16>()),
            request: line,
            deadline: config::COMPUTE_DEADLINE,
            answer_bytes: config::COMPUTE_ANSWER_BYTES,
        }
    }

    /// How the supervisor is started for it.
    pub(super) fn command(&self) -> [&str; 5] {
        ["python3", "-I", "-c", SUPERVISOR, &self.name]
    }
}

/// What the supervisor wrote.
#[derive(Debug, Default)]
pub(super) struct Output {
    pub(super) stdout: Vec<u8>,
    pub(super) stderr: Vec<u8>,
    /// Its exit code, where the vendor tells one.
    pub(super) code: Option<i64>,
}

/// A vendor that can start the supervisor in a sandbox and feed it its request.
#[async_trait]
pub(super) trait Exec: Sync {
    /// Where the workspace is.
    fn workspace(&self) -> &str;

    /// Does a piece of work, within its deadline.
    async fn exec(&self, handle: &Handle, work: &Work) -> Result<Output, Error>;
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Told<T> {
    Failed { error: Failure },
    Done(T),
}

#[derive(Deserialize)]
struct Failure {
    code: String,
    message: String,
}

/// The supervisor's answer.
fn told<T: DeserializeOwned>(output: &Output) -> Result<T, Error> {
    match serde_json::from_slice(&output.stdout) {
        Ok(Told::Done(done)) => Ok(done),
        Ok(Told::Failed { error }) => Err(match error.code.as_str() {
            "path" => Error::Path(error.message),
            "unsupported" => Error::Unsupported(error.message),
            _ => Error::Refused(error.message),
        }),
        Err(_) => {
            let words = if output.stderr.is_empty() { &output.stdout } else { &output.stderr };
            let words = String::from_utf8_lossy(words);
            let words: String = words.trim().chars().take(config::COMPUTE_REASON_CHARACTERS).collect();
            if matches!(output.code, Some(126 | 127)) {
                return Err(Error::Unsupported(format!("python3 cannot be started in the sandbox: {words}")));
            }
            Err(Error::Refused(format!("the supervisor in the sandbox gave no answer: {words}")))
        }
    }
}

/// Has the supervisor do something that has no answer but that it is done.
pub(super) async fn perform(exec: &impl Exec, handle: &Handle, operation: &str) -> Result<(), Error> {
    let request = json!({"operation": operation, "workspace": exec.workspace()});
    let output = exec.exec(handle, &Work::new(&request)).await?;
    told(&output).map(|_: IgnoredAny| ())
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Ran {
    stdout: String,
    stderr: String,
    end: Ended,
    truncated: bool,
    duration_ms: u64,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
enum Ended {
    Code(i32),
    Signal(i32),
    TimedOut(IgnoredAny),
}

/// Written from where its secrets lie.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Run<'a> {
    operation: &'static str,
    workspace: &'a str,
    language: &'static str,
    code: &'a str,
    environment: Vec<(&'a str, &'a str)>,
    timeout_ms: u64,
    output_limit: usize,
}

/// As [`super::Compute::run`].
pub(super) async fn run(exec: &impl Exec, handle: &Handle, program: &Program) -> Result<Finished, Error> {
    let environment: Vec<(&str, &str)> =
        program.environment.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let mut work = Work::new(&Run {
        operation: "run",
        workspace: exec.workspace(),
        language: program.language.as_str(),
        code: &program.code,
        environment,
        timeout_ms: u64::try_from(program.timeout.as_millis()).unwrap_or(u64::MAX),
        output_limit: program.output_limit,
    });
    work.deadline = program.timeout + config::COMPUTE_RUN_GRACE;
    work.answer_bytes += program.output_limit * 3;
    let begun = Instant::now();
    match exec.exec(handle, &work).await {
        Ok(output) => finished(&output, begun.elapsed()),
        Err(Error::Unavailable(reason)) => {
            // Nobody knows what became of it; nothing of it may go on.
            let kill = json!({"operation": "kill", "run": work.name});
            let killed = exec.exec(handle, &Work::new(&kill)).await;
            if killed.is_ok() && begun.elapsed() >= program.timeout {
                return Ok(ended(End::TimedOut, begun.elapsed()));
            }
            Err(Error::Unavailable(reason))
        }
        Err(error) => Err(error),
    }
}

fn finished(output: &Output, took: Duration) -> Result<Finished, Error> {
    // The supervisor is a process of the sandbox: a program can end it, and has then ended its own run.
    if output.stdout.is_empty() && output.code == Some(137) {
        return Ok(ended(End::Signal(9), took));
    }
    let ran: Ran = told(output)?;
    let text = |encoded: &str| {
        let bytes = STANDARD.decode(encoded);
        let unreadable = |_| Error::Refused("the supervisor's answer is not base64".to_owned());
        bytes.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).map_err(unreadable)
    };
    Ok(Finished {
        stdout: text(&ran.stdout)?,
        stderr: text(&ran.stderr)?,
        end: match ran.end {
            Ended::Code(code) => End::Code(code),
            Ended::Signal(signal) => End::Signal(signal),
            Ended::TimedOut(_) => End::TimedOut,
        },
        truncated: ran.truncated,
        duration: Duration::from_millis(ran.duration_ms),
    })
}

const fn ended(end: End, duration: Duration) -> Finished {
    Finished { stdout: String::new(), stderr: String::new(), end, truncated: false, duration }
}

/// As [`super::Compute::write_file`].
pub(super) async fn write_file(
    exec: &impl Exec,
    handle: &Handle,
    path: &str,
    content: &[u8],
) -> Result<(), Error> {
    check_path(path)?;
    let content = STANDARD.encode(content);
    let request =
        json!({"operation": "write", "workspace": exec.workspace(), "path": path, "content": content});
    let output = exec.exec(handle, &Work::new(&request)).await?;
    told(&output).map(|_: IgnoredAny| ())
}

#[derive(Deserialize)]
struct Read {
    content: String,
    truncated: bool,
}

/// As [`super::Compute::read_file`].
pub(super) async fn read_file(
    exec: &impl Exec,
    handle: &Handle,
    path: &str,
    limit: usize,
) -> Result<FileContent, Error> {
    check_path(path)?;
    let request = json!({"operation": "read", "workspace": exec.workspace(), "path": path, "limit": limit});
    let mut work = Work::new(&request);
    work.answer_bytes += limit * 2;
    let read: Read = told(&exec.exec(handle, &work).await?)?;
    let bytes = STANDARD.decode(&read.content);
    let bytes = bytes.map_err(|_| Error::Refused("the supervisor's answer is not base64".to_owned()))?;
    Ok(FileContent { bytes, truncated: read.truncated })
}

#[derive(Deserialize)]
struct Listing {
    entries: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    name: String,
    size: u64,
}

/// As [`super::Compute::list_files`].
pub(super) async fn list_files(
    exec: &impl Exec,
    handle: &Handle,
    path: &str,
    limit: usize,
) -> Result<Vec<FileEntry>, Error> {
    check_path(path)?;
    let request = json!({"operation": "list", "workspace": exec.workspace(), "path": path, "limit": limit});
    let listing: Listing = told(&exec.exec(handle, &Work::new(&request)).await?)?;
    Ok(listing.entries.into_iter().map(|entry| FileEntry { name: entry.name, size: entry.size }).collect())
}

#[derive(Deserialize)]
struct Measured {
    bytes: u64,
}

/// Bytes that the workspace takes. It changes nothing, so it is asked again where it was not answered.
pub(super) async fn measure(exec: &impl Exec, handle: &Handle) -> Result<u64, Error> {
    let request = json!({"operation": "measure", "workspace": exec.workspace()});
    let ask = || {
        let work = Work::new(&request);
        async move { exec.exec(handle, &work).await }
    };
    let output = repeatedly(ask).await?;
    told(&output).map(|measured: Measured| measured.bytes)
}

/// A sandbox's name at its vendor, and, while it is paused, what its workspace took then: nobody can look inside.
pub(super) struct Named<'a> {
    pub(super) name: &'a str,
    pub(super) paused_bytes: Option<u64>,
}

impl<'a> Named<'a> {
    pub(super) fn of(handle: &'a Handle) -> Self {
        let paused = handle.0.strip_prefix("paused ").and_then(|rest| rest.split_once(' '));
        let paused = paused.and_then(|(bytes, name)| Some((bytes.parse().ok()?, name)));
        match paused {
            Some((bytes, name)) => Self { name, paused_bytes: Some(bytes) },
            None => Self { name: &handle.0, paused_bytes: None },
        }
    }

    pub(super) fn paused(&self, bytes: u64) -> Handle {
        Handle(format!("paused {bytes} {}", self.name))
    }

    pub(super) fn ready(&self) -> Handle {
        Handle(self.name.to_owned())
    }
}
