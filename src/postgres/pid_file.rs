//! `postmaster.pid`: who runs, or ran, on a cluster; and how to end a postmaster that outlived its server.
//!
//! The file's lines: process id, data directory, start time, port, socket directory, address, shared memory, status
//! (PostgreSQL's `src/include/utils/pidfile.h`).

use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::time::Instant;

use super::Error;

/// How often a state is looked at that nothing tells of.
pub(super) const POLL: Duration = Duration::from_millis(20);

/// How an orphan is asked to end, and for how long it may take: fast shutdown, immediate shutdown, death. (After the
/// last two the next start replays the log.)
const ENDING: [(Signal, Duration); 3] = [
    (Signal::SIGINT, Duration::from_secs(30)),
    (Signal::SIGQUIT, Duration::from_secs(10)),
    (Signal::SIGKILL, Duration::from_secs(10)),
];

/// What the file says of a postmaster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) pid: u32,
    /// Whether it takes connections.
    pub(super) ready: bool,
}

/// The postmaster that runs on `cluster`.
pub(super) fn running(cluster: &Path) -> Option<Record> {
    read(cluster).filter(|record| is_postmaster(record.pid, cluster))
}

/// Makes sure that no postmaster runs on `cluster`, which is ours by the lock of the data directory: one that still does
/// belonged to a server that was killed, and is stopped. (Its settings are of then and its output goes nowhere, so
/// it is not taken over.)
///
/// Returns a process id that PostgreSQL has to ignore: a stale file whose number belongs to some other process by now
/// would keep it from starting. The file itself must stay, since it leads to the shared memory by which
/// PostgreSQL sees that no old backend writes any more.
pub(super) async fn clear_the_way(cluster: &Path) -> Result<Option<u32>, Error> {
    let path = cluster.join("postmaster.pid");
    let Some(record) = read(cluster) else {
        // A file that says nothing was being written when the machine stopped. PostgreSQL would give up on it.
        if path.exists() {
            std::fs::remove_file(&path).map_err(Error::file("remove", &path))?;
        }
        return Ok(None);
    };
    if !is_postmaster(record.pid, cluster) {
        let recycled = !matches!(signal(record.pid, None), Err(Errno::ESRCH));
        return Ok(recycled.then_some(record.pid));
    }
    tracing::warn!(pid = record.pid, "stopping a PostgreSQL that outlived its server");
    for (ending, patience) in ENDING {
        if let Err(error) = signal(record.pid, Some(ending))
            && error != Errno::ESRCH
        {
            return Err(Error::Orphan {
                pid: record.pid,
                cluster: cluster.to_owned(),
                why: error.to_string(),
            });
        }
        let deadline = Instant::now() + patience;
        while Instant::now() < deadline {
            if !is_postmaster(record.pid, cluster) {
                return Ok(None);
            }
            tokio::time::sleep(POLL).await;
        }
    }
    Err(Error::Orphan { pid: record.pid, cluster: cluster.to_owned(), why: "it survived SIGKILL".to_owned() })
}

fn read(cluster: &Path) -> Option<Record> {
    let text = std::fs::read_to_string(cluster.join("postmaster.pid")).ok()?;
    parse(&text)
}

fn parse(text: &str) -> Option<Record> {
    let pid = text.lines().next()?.trim().parse().ok().filter(|pid| *pid > 1)?;
    let ready = text.lines().nth(7).is_some_and(|status| status.trim() == "ready");
    Some(Record { pid, ready })
}

/// Whether this process is a postmaster of `cluster`: a `postgres` with this directory among its arguments. (Its
/// backends have other titles, our supervising shell is no `postgres`, and what is dead has no arguments.)
fn is_postmaster(pid: u32, cluster: &Path) -> bool {
    let arguments = arguments(pid);
    let program = arguments.first().and_then(|program| program.rsplit(|byte| *byte == b'/').next());
    program == Some(b"postgres")
        && arguments.iter().any(|argument| argument == cluster.as_os_str().as_bytes())
}

/// The arguments of a process; none, if there is no such process.
#[cfg(target_os = "linux")]
fn arguments(pid: u32) -> Vec<Vec<u8>> {
    let text = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    text.split(|byte| *byte == 0).map(<[u8]>::to_vec).collect()
}

/// The arguments of a process; none, if there is no such process. (A path with spaces in it is not seen whole.)
#[cfg(not(target_os = "linux"))]
fn arguments(pid: u32) -> Vec<Vec<u8>> {
    let said = std::process::Command::new("ps").args(["-o", "command=", "-p", &pid.to_string()]).output();
    let text = said.map(|output| output.stdout).unwrap_or_default();
    text.split(u8::is_ascii_whitespace).map(<[u8]>::to_vec).collect()
}

/// Sends a signal, or only asks whether one could be sent.
fn signal(pid: u32, signal: Option<Signal>) -> Result<(), Errno> {
    let pid = i32::try_from(pid).map_err(|_| Errno::ESRCH)?;
    kill(Pid::from_raw(pid), signal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_ready_only_when_its_eighth_line_says_so() {
        let lines = "4711\n/srv/data\n1700000000\n5432\n/srv/run\n\n  123 456\n";
        assert_eq!(parse(&format!("{lines}ready   \n")), Some(Record { pid: 4711, ready: true }));
        assert_eq!(parse(&format!("{lines}starting\n")), Some(Record { pid: 4711, ready: false }));
        assert_eq!(parse(lines), Some(Record { pid: 4711, ready: false }));
    }

    #[test]
    fn a_torn_record_is_none() {
        assert_eq!(parse(""), None);
        assert_eq!(parse("\0\0\0"), None);
        assert_eq!(parse("-4\n"), None);
        assert_eq!(parse("1\n"), None);
    }

    #[test]
    fn this_process_is_no_postmaster() {
        assert!(!is_postmaster(std::process::id(), Path::new("/srv/data")));
    }
}
