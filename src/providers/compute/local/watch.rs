//! The totals of a sandbox where no cgroup holds them: what its processes use together, seen from inside its process
//! namespace, where there are no others.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

use rustix::fs::{StatVfs, statvfs};
use rustix::process::Pid;

use super::message::{Inside, Limits, Report, report};
use super::root::WORKSPACE;
use super::tree::{self, Size};
use super::trim::Room;
use crate::{config, planted};

/// What a sandbox uses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Use {
    memory_bytes: u64,
    processes: u64,
}

pub(super) struct Watch {
    limits: Limits,
    room: Room,
    grouped: bool,
    page_bytes: u64,
    /// What has been told to the server.
    told: Use,
    /// What the disk held at the last look at every file, and when that was.
    disk: Size,
    free: Free,
    looked: Instant,
    cost: Duration,
}

impl Watch {
    pub(super) fn new(inside: &Inside) -> io::Result<Self> {
        Ok(Self {
            limits: inside.limits.clone(),
            room: inside.room,
            grouped: inside.grouped,
            page_bytes: u64::try_from(rustix::param::page_size()).unwrap_or(4096),
            told: Use::default(),
            disk: inside.there,
            free: Free::of(&statvfs(WORKSPACE)?),
            looked: Instant::now(),
            cost: Duration::ZERO,
        })
    }

    /// How long may pass until the next look.
    pub(super) fn pause(&self) -> Duration {
        config::SANDBOX_WATCH_INTERVAL
    }

    /// Looks at everything that has a total; past one of them every process is killed.
    pub(super) fn look(&mut self) {
        // Without a namespace of their own the processes of the whole machine would be counted.
        if planted::is("no-watch") || planted::is("no-process-namespace") {
            return;
        }
        let over = self.memory_and_processes().or_else(|| self.disk().unwrap_or(None));
        if let Some(limit) = over {
            report(&Report::Over { limit });
            // From process 1 this is every other process in here.
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(-1), nix::sys::signal::Signal::SIGKILL);
        }
    }

    fn memory_and_processes(&mut self) -> Option<String> {
        if self.grouped {
            return None;
        }
        let processes = processes();
        let mut using = Use::default();
        for pid in &processes {
            let (threads, pages) = stat(*pid).unwrap_or_default();
            using.processes += threads;
            using.memory_bytes += pages * self.page_bytes;
        }
        using.memory_bytes += shared_files();
        if using.memory_bytes > self.limits.memory_bytes {
            // Pages that processes share were counted once for each: count exactly.
            using.memory_bytes = processes.iter().map(|pid| own_memory(*pid)).sum::<u64>() + shared_files();
        }
        self.tell(using);
        if using.memory_bytes > self.limits.memory_bytes {
            return Some(format!("{} MiB of memory", self.limits.memory_bytes >> 20));
        }
        if using.processes > self.limits.processes {
            return Some(format!("{} processes", self.limits.processes));
        }
        machine_is_short().then(|| "the machine's memory".to_owned())
    }

    /// Tells the server what is used, where that has changed: it adds up what an agent's programs use together.
    fn tell(&mut self, using: Use) {
        let step = self.limits.memory_bytes / 64;
        let changed = using.memory_bytes.abs_diff(self.told.memory_bytes) > step;
        if changed || using.processes != self.told.processes {
            self.told = using;
            report(&Report::Usage { memory_bytes: using.memory_bytes, processes: using.processes });
        }
    }

    /// Looks at every file only when the disk as a whole has lost as much as would matter, or now and then.
    fn disk(&mut self) -> io::Result<Option<String>> {
        let whole = statvfs(WORKSPACE)?;
        let free = Free::of(&whole);
        let lost = self.free.lost(free);
        if self.looked.elapsed() <= pause_after(self.cost, self.matters(lost)) {
            return Ok(None);
        }
        let started = Instant::now();
        self.disk = counted()?;
        (self.looked, self.cost, self.free) = (Instant::now(), started.elapsed(), free);
        if self.room.passed(&self.limits, self.disk).is_some() {
            // A file that is just being written out, moved or deleted may be counted twice, so nothing ends by one count.
            self.disk = counted()?;
            if let Some(limit) = self.room.passed(&self.limits, self.disk) {
                return Ok(Some(limit));
            }
        }
        let short = whole.f_blocks * whole.f_frsize / 100 * config::SANDBOX_DISK_RESERVE_PERCENT;
        Ok((lost.bytes > 0 && free.bytes < short).then(|| "the machine's disk".to_owned()))
    }

    /// Whether a sandbox that has taken all that the file system lost would have come half of the way that was left to
    /// one of its limits.
    fn matters(&self, lost: Free) -> bool {
        let bytes_left = self.room.bytes.saturating_sub(self.disk.bytes);
        let files_left = self.room.files.saturating_sub(self.disk.files);
        lost.bytes >= bytes_left / 2 || lost.files > files_left / 2
    }
}

/// However many files there are, looking at them takes a twentieth of the time, unless the machine is so slow about it that
/// a program would have its way in between; and a fifth where a limit may be near.
fn pause_after(cost: Duration, matters: bool) -> Duration {
    if matters {
        return cost * 4;
    }
    (cost * 20).clamp(config::SANDBOX_DISK_INTERVAL, config::SANDBOX_DISK_INTERVAL_MAX)
}

/// What the file system has left for everybody. One that makes its inodes as it needs them tells of none, and never loses
/// any.
#[derive(Debug, Clone, Copy)]
struct Free {
    bytes: u64,
    files: u64,
}

impl Free {
    fn of(whole: &StatVfs) -> Self {
        Self { bytes: whole.f_bavail * whole.f_frsize, files: whole.f_ffree }
    }

    /// What there is less of now.
    const fn lost(self, now: Self) -> Self {
        Self { bytes: self.bytes.saturating_sub(now.bytes), files: self.files.saturating_sub(now.files) }
    }
}

/// What the disk holds for this sandbox, with what has no name any more.
fn counted() -> io::Result<Size> {
    let mut size = written()?;
    size.bytes += unlinked();
    Ok(size)
}

/// What is in the two writable folders.
fn written() -> io::Result<Size> {
    let workspace = tree::size(&tree::open_dir(WORKSPACE.as_ref())?)?;
    Ok(workspace.and(tree::size(&tree::open_dir("/tmp".as_ref())?)?))
}

/// The files that have no name any more and are open still.
fn unlinked() -> u64 {
    let mut seen = HashSet::new();
    let mut bytes = 0;
    for pid in processes() {
        let Ok(open) = fs::read_dir(format!("/proc/{}/fd", pid.as_raw_nonzero())) else { continue };
        for file in open.flatten() {
            let Ok(metadata) = fs::metadata(file.path()) else { continue };
            if metadata.nlink() == 0 && metadata.is_file() && seen.insert((metadata.dev(), metadata.ino())) {
                bytes += metadata.blocks() * 512;
            }
        }
    }
    bytes
}

/// Every process in here but this one.
fn processes() -> Vec<Pid> {
    let Ok(entries) = fs::read_dir("/proc") else { return vec![] };
    let numbers = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    numbers.filter(|number| *number != 1).filter_map(Pid::from_raw).collect()
}

/// The threads of a process and its pages in memory: fields 20 and 24 of proc_pid_stat(5).
fn stat(pid: Pid) -> Option<(u64, u64)> {
    let text = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).ok()?;
    let fields: Vec<&str> = text.rsplit_once(") ")?.1.split(' ').collect();
    Some((fields.get(17)?.parse().ok()?, fields.get(21)?.parse().ok()?))
}

/// The memory of a process that is no file's, in bytes, each page divided by the processes that have it.
fn own_memory(pid: Pid) -> u64 {
    let text = fs::read_to_string(format!("/proc/{}/smaps_rollup", pid.as_raw_nonzero())).unwrap_or_default();
    let kilobytes = |line: &str| line.split_whitespace().nth(1)?.parse::<u64>().ok();
    let own = text.lines().filter(|line| line.starts_with("Pss_Anon:") || line.starts_with("Pss_Shmem:"));
    own.filter_map(kilobytes).sum::<u64>() * 1024
}

/// What is in `/dev/shm`, which is memory.
fn shared_files() -> u64 {
    statvfs("/dev/shm").map_or(0, |shared| (shared.f_blocks - shared.f_bfree) * shared.f_frsize)
}

/// Whether the machine is about to run out of memory, whoever it is that uses it: before others are hurt, sandboxes go.
fn machine_is_short() -> bool {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let value = |name: &str| {
        let line = text.lines().find(|line| line.starts_with(name))?;
        line.split_whitespace().nth(1)?.parse::<u64>().ok()
    };
    match (value("MemTotal:"), value("MemAvailable:")) {
        (Some(total), Some(available)) => available < total / 100 * config::SANDBOX_MEMORY_RESERVE_PERCENT,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watch(disk_bytes: u64, files: u64) -> Watch {
        Watch {
            limits: Limits {
                memory_bytes: 1 << 30,
                processes: 64,
                disk_bytes: 1_000_000,
                files: 1_000,
                open_files: 64,
                processor_time: Duration::from_secs(120),
            },
            room: Room { bytes: 1_000_000, files: 1_000 },
            grouped: false,
            page_bytes: 4096,
            told: Use::default(),
            disk: Size { bytes: disk_bytes, files, deeper: false },
            free: Free { bytes: 1 << 40, files: 1 << 20 },
            looked: Instant::now(),
            cost: Duration::ZERO,
        }
    }

    #[test]
    fn files_are_looked_at_once_those_lost_may_be_half_of_what_is_left() {
        let lost = |bytes, files| Free { bytes, files };
        assert!(!watch(0, 0).matters(lost(499_999, 500)));
        assert!(watch(0, 0).matters(lost(500_000, 0)));
        assert!(watch(0, 0).matters(lost(0, 501)));
        // The less is left, the sooner.
        assert!(watch(900_000, 900).matters(lost(0, 51)));
        assert!(!watch(900_000, 900).matters(lost(49_999, 50)));
        // What others give back is no loss.
        assert!(!watch(0, 0).matters(lost(10, 10).lost(lost(20, 20))));
    }

    #[test]
    fn a_look_that_takes_long_does_not_put_the_next_one_off_for_ever() {
        let pause = |millis, matters| pause_after(Duration::from_millis(millis), matters);
        assert_eq!(pause(1, false), config::SANDBOX_DISK_INTERVAL);
        assert_eq!(pause(150, false), Duration::from_secs(3));
        assert_eq!(pause(5_000, false), config::SANDBOX_DISK_INTERVAL_MAX);
        // Nor does one that is called for again and again take all of the time.
        assert_eq!(pause(150, true), Duration::from_millis(600));
    }
}
