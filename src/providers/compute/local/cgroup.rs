//! Totals by cgroup, where the operator names cgroups in which the server may make others: one of version 2, or one each
//! of version 1's controllers `memory` and `pids`.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::message::Limits;

/// The groups of one sandbox.
pub(super) struct Group {
    paths: Vec<PathBuf>,
}

/// What a named cgroup controls: `memory`, `pids` or both.
pub(super) fn controllers(parent: &Path) -> Vec<&'static str> {
    let of_second = fs::read_to_string(parent.join("cgroup.subtree_control")).unwrap_or_default();
    let of_first = [("memory", "memory.limit_in_bytes"), ("pids", "cgroup.clone_children")];
    let has = |name: &str| of_second.split_whitespace().any(|controller| controller == name);
    if parent.join("cgroup.subtree_control").exists() {
        return ["memory", "pids"].into_iter().filter(|name| has(name)).collect();
    }
    // The root of version 1's `pids` has no file of its own name.
    let named = parent.ancestors().any(|above| above.ends_with("pids"));
    let first =
        of_first.into_iter().filter(|(name, file)| parent.join(file).exists() && (*name != "pids" || named));
    first.map(|(name, _)| name).collect()
}

/// Whether the named cgroups hold both totals.
pub(super) fn complete(parents: &[PathBuf]) -> bool {
    let all: Vec<_> = parents.iter().flat_map(|parent| controllers(parent)).collect();
    all.contains(&"memory") && all.contains(&"pids")
}

impl Group {
    /// Makes the groups of a sandbox, or takes those that are there.
    pub(super) fn make(parents: &[PathBuf], name: &str, limits: &Limits) -> io::Result<Self> {
        let mut paths = vec![];
        for parent in parents {
            let path = parent.join(name);
            match fs::create_dir(&path) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
            let settings = [
                ("memory.max", limits.memory_bytes),
                ("memory.swap.max", 0),
                ("memory.oom.group", 1),
                ("memory.limit_in_bytes", limits.memory_bytes),
                // The supervisor and the init of each of a few runs are in it too.
                ("pids.max", limits.processes + 8),
            ];
            for (file, value) in settings {
                let file = path.join(file);
                if file.exists() {
                    fs::write(file, value.to_string())?;
                }
            }
            paths.push(path);
        }
        Ok(Self { paths })
    }

    /// Puts a process in, with all the children that it will have.
    pub(super) fn take(&self, pid: u32) -> io::Result<()> {
        self.paths.iter().try_for_each(|path| fs::write(path.join("cgroup.procs"), pid.to_string()))
    }

    /// Removes the groups, when nothing is in them any more.
    pub(super) fn remove(parents: &[PathBuf], name: &str) -> io::Result<()> {
        for parent in parents {
            match fs::remove_dir(parent.join(name)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }
}
