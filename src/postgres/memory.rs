//! How much memory PostgreSQL may share between its backends.

use std::path::Path;

const MIB: u64 = 1024 * 1024;

/// The least, which is PostgreSQL's own default.
const LEAST_MIB: u64 = 128;

/// The most: what is beyond it stands in the system's cache, and is read from there.
const MOST_MIB: u64 = 1024;

/// Where the limits of a container stand, by the second and by the first version of control groups. Those of a group that is
/// entered without a container of its own are not looked for.
const LIMITS: [&str; 2] = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"];

/// In MiB: an eighth of the memory that there is. It is touched page by page, so an idle database takes a fraction of it.
pub(super) fn shared_buffers_mib() -> u64 {
    let read = |path: &str| std::fs::read_to_string(Path::new(path)).ok();
    let limits = LIMITS.iter().filter_map(|path| read(path)?.trim().parse().ok());
    let machine = read("/proc/meminfo").as_deref().and_then(total);
    an_eighth(machine.into_iter().chain(limits).min())
}

fn an_eighth(bytes: Option<u64>) -> u64 {
    bytes.map_or(LEAST_MIB, |bytes| (bytes / 8 / MIB).clamp(LEAST_MIB, MOST_MIB))
}

/// The bytes of memory that `/proc/meminfo` tells.
fn total(meminfo: &str) -> Option<u64> {
    let kib = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB"))?;
    kib.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_an_eighth_of_what_there_is_within_bounds() {
        let gib = |gib: u64| an_eighth(Some(gib * 1024 * MIB));
        assert_eq!([gib(1), gib(4), gib(8), gib(64)], [128, 512, 1024, 1024]);
        // Without a limit a control group of the first version tells almost all that a number holds.
        assert_eq!([an_eighth(None), an_eighth(Some(0)), an_eighth(Some(u64::MAX))], [128, 128, 1024]);
    }

    #[test]
    fn the_memory_of_the_machine_is_read() {
        assert_eq!(total("MemFree: 1 kB\nMemTotal:       16384 kB\n"), Some(16 * MIB));
        assert_eq!(total("MemTotal: many kB"), None);
        assert_eq!(total(""), None);
    }
}
