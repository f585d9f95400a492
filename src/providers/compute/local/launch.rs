//! Starting a sandbox and waiting for its end, from the server.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StandardStream;
use std::process::Stdio;
use std::time::{Duration, Instant};

use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::cgroup::Group;
use super::message::{Inside, Outside, Report, frame};
use super::{Options, SUPERVISOR};
use crate::providers::compute::{End, Error, Finished};
use crate::{config, planted};

/// One run of a program.
pub(super) struct Run {
    pub(super) outside: Outside,
    pub(super) inside: Inside,
    pub(super) timeout: Duration,
    pub(super) output_limit: usize,
    /// True when it is to end now.
    pub(super) stop: watch::Receiver<bool>,
    /// Told of what it uses: memory in bytes, and processes; answers with the total that has been passed, if one has.
    pub(super) total: Box<dyn Fn(u64, u64) -> Option<String> + Send + Sync>,
}

/// What was learned from the sandbox.
#[derive(Default)]
struct Told {
    failed: Option<(String, String)>,
    over: Option<String>,
    end: Option<End>,
    started: bool,
}

/// Runs a program, and answers when everything of it has ended.
pub(super) async fn run(options: &Options, group: Option<&Group>, run: Run) -> Result<Finished, Error> {
    let unavailable = |error: std::io::Error| Error::Unavailable(format!("the sandbox: {error}"));
    let (ours, theirs) = StandardStream::pair().map_err(unavailable)?;
    ours.set_nonblocking(true).map_err(unavailable)?;
    let mut command = Command::new(&options.init);
    command.arg(SUPERVISOR).env_clear().envs(planted::environment()).current_dir("/");
    command.stdin(OwnedFd::from(theirs)).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(unavailable)?;
    // The command holds the other end of the socket.
    drop(command);
    if let (Some(group), Some(pid)) = (group, child.id()) {
        group.take(pid).map_err(unavailable)?;
    }
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let (reading, mut writing) = UnixStream::from_std(ours).map_err(unavailable)?.into_split();
    let frames = [frame(&run.outside), frame(&run.inside)];
    let started = Instant::now();
    let talk = async {
        for frame in frames {
            // A sandbox that fails early does not read on, and says why.
            if writing.write_all(&frame.map_err(unavailable)?).await.is_err() {
                break;
            }
        }
        attend(&run, reading, writing).await
    };
    let whole = async {
        let told = talk.await;
        end(&mut child).await.map_err(unavailable)?;
        told
    };
    let (told, stdout, stderr) =
        tokio::join!(whole, collect(stdout, run.output_limit), collect(stderr, run.output_limit),);
    finished(told?, stdout, stderr, started.elapsed())
}

/// The supervisor ends when everything in the sandbox has. Should it not, its end takes the init along.
async fn end(supervisor: &mut Child) -> std::io::Result<()> {
    if timeout(config::SANDBOX_END_DEADLINE, supervisor.wait()).await.is_err() {
        supervisor.kill().await?;
    }
    Ok(())
}

fn finished(
    told: Told,
    (stdout, cut_out): (Vec<u8>, bool),
    (mut stderr, cut_err): (Vec<u8>, bool),
    duration: Duration,
) -> Result<Finished, Error> {
    if let Some((layer, reason)) = told.failed {
        let text = format!("programs cannot run in a sandbox on this machine: {layer}: {reason}");
        return Err(Error::Unsupported(text));
    }
    if let Some(limit) = told.over {
        stderr.extend(format!("\nThe sandbox was ended: it went past {limit}.\n").bytes());
    }
    let end = match told.end {
        Some(end) => end,
        // The init itself was killed, for want of memory say.
        None if told.started => End::Signal(9),
        None => {
            let said = String::from_utf8_lossy(&stderr);
            return Err(Error::Unavailable(format!("the sandbox ended before its program began: {said}")));
        }
    };
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Ok(Finished { stdout: text(stdout), stderr: text(stderr), end, truncated: cut_out || cut_err, duration })
}

/// Hears what the sandbox says, and lets go of it at the deadline, past a total, or when it is to stop. That ends it.
async fn attend(run: &Run, reading: OwnedReadHalf, writing: OwnedWriteHalf) -> Result<Told, Error> {
    let mut told = Told::default();
    let mut lines = BufReader::new(reading).lines();
    let mut stop = run.stop.clone();
    let stopped = async move {
        // Whoever could say so has gone.
        let _ = stop.wait_for(|stop| *stop).await;
    };
    tokio::pin!(stopped);
    let mut writing = Some(writing);
    let mut deadline = Box::pin(sleep(config::SANDBOX_START_DEADLINE));
    loop {
        tokio::select! {
            line = lines.next_line() => {
                let Ok(Some(line)) = line else { return Ok(told) };
                let Ok(report) = serde_json::from_str(&line) else { continue };
                if matches!(report, Report::Started) {
                    deadline = Box::pin(sleep(run.timeout));
                }
                if told.hear(report, &run.total) {
                    writing = None;
                }
            }
            () = &mut deadline, if writing.is_some() => {
                if !told.started {
                    return Err(Error::Unavailable("the sandbox did not start in time".to_owned()));
                }
                told.end = told.end.or(Some(End::TimedOut));
                writing = None;
            }
            () = &mut stopped, if writing.is_some() => {
                told.end = told.end.or(Some(End::Signal(9)));
                writing = None;
            }
        }
    }
}

impl Told {
    /// Takes note; true when the sandbox is to be ended.
    fn hear(&mut self, report: Report, total: &(dyn Fn(u64, u64) -> Option<String> + Send + Sync)) -> bool {
        match report {
            Report::Started => self.started = true,
            Report::Failed { layer, reason } => self.failed = Some((layer, reason)),
            Report::Over { limit } => self.over = Some(limit),
            // At the deadline the program is killed, which is no end of its own.
            Report::Code { code } => self.end = self.end.or(Some(End::Code(code))),
            Report::Signal { signal } => self.end = self.end.or(Some(End::Signal(signal))),
            Report::Usage { memory_bytes, processes } => {
                if let Some(over) = total(memory_bytes, processes) {
                    self.over = Some(over);
                    self.end = Some(End::Signal(9));
                    return true;
                }
            }
        }
        false
    }
}

/// Reads to the end and keeps the beginning.
async fn collect(output: Option<impl AsyncRead + Unpin>, limit: usize) -> (Vec<u8>, bool) {
    let mut kept = vec![];
    let mut cut = false;
    let Some(mut output) = output else { return (kept, cut) };
    let mut piece = vec![0; 64 * 1024];
    // An error is an end: there is nobody to write any more.
    while let Ok(read @ 1..) = output.read(&mut piece).await {
        let room = limit - kept.len();
        kept.extend(&piece[..read.min(room)]);
        cut |= read > room;
    }
    (kept, cut)
}
