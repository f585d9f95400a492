//! One run of PostgreSQL, below a shell that ends it when we are gone.
//!
//! Why the shell (`supervisor.sh`): a child outlives a parent that is killed, and the signal that Linux can send then
//! takes `unsafe` code to ask for. A pipe needs nothing: it closes with its last holder. So a server that was killed
//! leaves no PostgreSQL running for ever, and what it leaves was shut down cleanly. It costs two idle shells. Should
//! the shell be killed as well, the next start ends the orphan (`pid_file`).

use std::ffi::OsString;
use std::io::{PipeWriter, Write};
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

use tokio::process::Child;
use tokio::time::{Instant, timeout};

use super::account::Account;
use super::binaries::Binaries;
use super::log_file::{self, Tail};
use super::{Endpoint, Error, memory, pid_file};

const SUPERVISOR: &str = include_str!("supervisor.sh");

/// How long PostgreSQL may take until it takes connections: replaying the log after a crash can take minutes.
const START_DEADLINE: Duration = Duration::from_secs(300);

/// How long backends of a killed postmaster may keep a new one from starting.
const OLD_BACKENDS_DEADLINE: Duration = Duration::from_secs(30);

/// The pause between two attempts while old backends end.
const OLD_BACKENDS_PAUSE: Duration = Duration::from_millis(200);

/// How long a fast shutdown (which writes a checkpoint) may take before the immediate one.
const FAST_STOP_DEADLINE: Duration = Duration::from_secs(15);

/// How long the immediate shutdown may take.
const IMMEDIATE_STOP_DEADLINE: Duration = Duration::from_secs(5);

/// How long the last output of an ended PostgreSQL is waited for.
const OUTPUT_DEADLINE: Duration = Duration::from_secs(1);

/// Everything that a start needs.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub(super) account: Account,
    pub(super) binaries: Binaries,
    pub(super) cluster: PathBuf,
    pub(super) endpoint: Endpoint,
    pub(super) log_path: PathBuf,
    pub(super) max_connections: u16,
    pub(super) durable: bool,
}

/// A running PostgreSQL. Dropped, it is stopped (fast) by its shell.
#[derive(Debug)]
pub(super) struct Postmaster {
    pub(super) pid: u32,
    shell: Child,
    orders: PipeWriter,
}

impl Postmaster {
    /// Starts PostgreSQL and waits until it takes connections.
    pub(super) async fn start(plan: &Plan) -> Result<Postmaster, Error> {
        let deadline = Instant::now() + OLD_BACKENDS_DEADLINE;
        loop {
            let recycled_pid = pid_file::clear_the_way(&plan.cluster).await?;
            match start_once(plan, recycled_pid).await {
                // Backends notice within moments that their postmaster was killed, and until then PostgreSQL rightly
                // refuses to start another. (Its messages are in English: the cluster's locale is C.)
                Err(Error::Start { tail, .. })
                    if tail.contains("shared memory block") && Instant::now() < deadline =>
                {
                    tokio::time::sleep(OLD_BACKENDS_PAUSE).await;
                }
                result => return result,
            }
        }
    }

    /// Waits until it ends.
    pub(super) async fn wait(&mut self) -> std::io::Result<ExitStatus> {
        self.shell.wait().await
    }

    /// Stops it: connections are cut, open transactions rolled back, a checkpoint written. What does not end so within
    /// the deadline is stopped without the checkpoint, and the next start replays the log.
    pub(super) async fn stop(mut self) {
        for (order, deadline) in [("fast\n", FAST_STOP_DEADLINE), ("immediate\n", IMMEDIATE_STOP_DEADLINE)] {
            // It fails only when the shell is gone.
            let _gone = self.orders.write_all(order.as_bytes());
            if timeout(deadline, self.shell.wait()).await.is_ok() {
                return;
            }
            tracing::warn!(pid = self.pid, "PostgreSQL does not stop within {deadline:?}");
        }
    }
}

async fn start_once(plan: &Plan, recycled_pid: Option<u32>) -> Result<Postmaster, Error> {
    let shell_path = PathBuf::from("/bin/sh");
    let piped = |error| Error::file("make a pipe for", &shell_path)(error);
    let (orders_end, orders) = std::io::pipe().map_err(piped)?;
    let (output, output_end) = std::io::pipe().map_err(piped)?;
    let output_end_too = output_end.try_clone().map_err(piped)?;

    let mut command = plan.account.command(&shell_path);
    command.args(["-c", SUPERVISOR, "theazo-postgres"]).arg(FAST_STOP_DEADLINE.as_secs().to_string());
    command.arg(plan.binaries.dir.join("postgres")).args(arguments(plan));
    command.stdin(orders_end).stdout(output_end).stderr(output_end_too);
    // A group of its own, or Ctrl-C in a terminal would stop the database before the server has finished with it.
    command.process_group(0);
    if let Some(pid) = recycled_pid {
        // Made for `pg_ctl`, which may have inherited the number of the postmaster that ran before: this process is
        // not to be taken for that one (`CreateLockFile` in PostgreSQL's miscinit.c).
        command.env("PG_GRANDPARENT_PID", pid.to_string());
    }
    let tail = Tail::default();
    let mut output_end = log_file::follow(output, &plan.log_path, tail.clone())?;
    let mut shell = command.spawn().map_err(Error::file("run", &shell_path))?;
    // The command holds our copies of the pipes' other ends, and we would wait for ourselves.
    drop(command);

    let failed = |why: String| Error::Start {
        cluster: plan.cluster.clone(),
        why,
        log: plan.log_path.clone(),
        tail: tail.text(),
    };
    let deadline = Instant::now() + START_DEADLINE;
    loop {
        if let Some(record) = pid_file::running(&plan.cluster).filter(|record| record.ready) {
            return Ok(Postmaster { pid: record.pid, shell, orders });
        }
        if Instant::now() > deadline {
            Postmaster { pid: 0, shell, orders }.stop().await;
            return Err(failed(format!("it was not ready within {START_DEADLINE:?}")));
        }
        if let Ok(status) = timeout(pid_file::POLL, shell.wait()).await {
            let _late = timeout(OUTPUT_DEADLINE, &mut output_end).await;
            return Err(failed(status.map_or_else(|error| error.to_string(), |status| status.to_string())));
        }
    }
}

/// The arguments of `postgres`. Settings given here are stronger than any in the cluster's files.
fn arguments(plan: &Plan) -> Vec<OsString> {
    let mut settings = vec![
        // Only the socket, in a directory that only the account can enter.
        "listen_addresses=".to_owned(),
        format!("port={}", plan.endpoint.port),
        format!("unix_socket_directories={}", plan.endpoint.socket_dir.display()),
        "unix_socket_permissions=0700".to_owned(),
        "password_encryption=scram-sha-256".to_owned(),
        format!("max_connections={}", plan.max_connections),
        format!("shared_buffers={}MB", memory::shared_buffers_mib()),
        // Checkpoints by time and not by a burst of appends; compression, since full pages are most of the log.
        "max_wal_size=2GB".to_owned(),
        "wal_compression=on".to_owned(),
        // Our queries are short: compiling one takes longer than running it.
        "jit=off".to_owned(),
        "timezone=UTC".to_owned(),
        "log_timezone=UTC".to_owned(),
        "log_destination=stderr".to_owned(),
        "logging_collector=off".to_owned(),
        "log_line_prefix=%m [%p] %u@%d ".to_owned(),
    ];
    let durability = if plan.durable { "on" } else { "off" };
    for name in ["fsync", "synchronous_commit", "full_page_writes"] {
        settings.push(format!("{name}={durability}"));
    }
    let mut arguments = vec![OsString::from("-D"), plan.cluster.clone().into_os_string()];
    for setting in settings {
        arguments.push("-c".into());
        arguments.push(setting.into());
    }
    arguments
}
