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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const LIMITS: Limits = Limits {
        memory_bytes: 1_000,
        processes: 64,
        disk_bytes: 0,
        files: 0,
        open_files: 0,
        processor_time: Duration::ZERO,
    };

    /// A folder with files of these names, as the kernel makes them with the folder of a group.
    fn folder(path: &Path, files: &[(&str, &str)]) {
        fs::create_dir_all(path).expect("a folder is made");
        for (name, text) in files {
            fs::write(path.join(name), text).expect("a file is written");
        }
    }

    fn scratch(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("theazo-cgroup-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        path
    }

    #[test]
    fn one_group_of_version_2_holds_both_totals() {
        let parent = scratch("second");
        folder(&parent, &[("cgroup.subtree_control", "cpu memory pids\n")]);
        let files = ["memory.max", "memory.swap.max", "memory.oom.group", "pids.max", "cgroup.procs"];
        folder(&parent.join("agt"), &files.map(|name| (name, "")));
        let parents = [parent.clone()];
        assert!(complete(&parents));
        Group::make(&parents, "agt", &LIMITS).and_then(|group| group.take(7)).expect("the group is made");
        let written = files.map(|name| fs::read_to_string(parent.join("agt").join(name)).unwrap_or_default());
        assert_eq!(written, ["1000", "0", "1", "72", "7"]);
        folder(&parent, &[("cgroup.subtree_control", "cpu pids\n")]);
        assert_eq!((controllers(&parent), complete(&parents)), (vec!["pids"], false));
        let _ = fs::remove_dir_all(parent);
    }

    #[test]
    fn version_1_needs_a_group_of_each_controller() {
        let root = scratch("first");
        let (memory, pids) = (root.join("memory/ours"), root.join("pids/ours"));
        folder(&memory, &[("memory.limit_in_bytes", ""), ("cgroup.clone_children", "")]);
        folder(&pids, &[("cgroup.clone_children", "")]);
        folder(&memory.join("agt"), &[("memory.limit_in_bytes", ""), ("cgroup.procs", "")]);
        folder(&pids.join("agt"), &[("pids.max", ""), ("cgroup.procs", "")]);
        assert_eq!((controllers(&memory), controllers(&pids)), (vec!["memory"], vec!["pids"]));
        assert!(complete(&[memory.clone(), pids.clone()]) && !complete(std::slice::from_ref(&memory)));
        Group::make(&[memory.clone(), pids.clone()], "agt", &LIMITS).expect("the groups are made");
        let limit = fs::read_to_string(memory.join("agt/memory.limit_in_bytes")).unwrap_or_default();
        let processes = fs::read_to_string(pids.join("agt/pids.max")).unwrap_or_default();
        assert_eq!((&*limit, &*processes), ("1000", "72"));
        let _ = fs::remove_dir_all(root);
    }
}
