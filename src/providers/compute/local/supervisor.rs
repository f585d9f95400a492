//! The first process of a run, outside of the sandbox: it becomes the sandbox's user, makes the namespaces and the file
//! system, and starts the init in them. Then it waits: for the init, or for the server to let go.

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitCode, Stdio};

use nix::sched::{CloneFlags, unshare};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{
    DumpableBehavior, Pid, PidfdFlags, Resource, Rlimit, Signal, WaitOptions, kill_process, pidfd_open,
    set_dumpable_behavior, setrlimit, setsid, waitpid,
};
use rustix::thread::{
    CapabilitySet, CapabilitySets, Gid, Uid, capabilities, configure_capability_in_ambient_set,
    set_capabilities, set_thread_groups, set_thread_res_gid, set_thread_res_uid,
};

use super::message::{Failed, Layer, Outside, read_frame, report_failed};
use super::root::{HOST_ROOT, Held, build};
use super::{AGENT_ID, INIT};
use crate::planted;

/// What the init can do, in its own namespaces alone, until it has made itself at home.
const OF_INIT: [CapabilitySet; 6] = [
    CapabilitySet::SYS_ADMIN,
    CapabilitySet::SETPCAP,
    CapabilitySet::NET_ADMIN,
    CapabilitySet::DAC_READ_SEARCH,
    CapabilitySet::SYS_PTRACE,
    CapabilitySet::KILL,
];

pub(super) fn run() -> ExitCode {
    match prepare() {
        Ok(init) => watch(&init),
        Err(failed) => {
            report_failed(&failed);
            ExitCode::FAILURE
        }
    }
}

fn prepare() -> Result<Child, Failed> {
    close_inherited().layer("open files")?;
    // Away from the server's terminal, if it has one.
    setsid().layer("session")?;
    let outside: Outside = read_frame().layer("message")?;
    // When the machine runs out of memory, what runs in sandboxes goes first.
    let _ = fs::write("/proc/self/oom_score_adj", "1000");
    let held = match outside.host_id {
        // Whose path only root may walk is opened by root.
        Some(id) => {
            let held = Held::open(&outside).layer("workspace")?;
            let processes = Some(outside.processes);
            setrlimit(Resource::Nproc, Rlimit { current: processes, maximum: processes })
                .layer("process limit")?;
            become_user(id).layer("host user")?;
            Some(held)
        }
        None => None,
    };
    let (user, group) = (rustix::process::geteuid(), rustix::process::getegid());
    enter_namespaces(outside.network)?;
    set_dumpable_behavior(DumpableBehavior::Dumpable).layer("user namespace")?;
    fs::write("/proc/self/setgroups", "deny").layer("user namespace")?;
    fs::write("/proc/self/uid_map", format!("{AGENT_ID} {user} 1")).layer("user namespace")?;
    fs::write("/proc/self/gid_map", format!("{AGENT_ID} {group} 1")).layer("user namespace")?;
    let held = match held {
        Some(held) => held,
        None => Held::open(&outside).layer("workspace")?,
    };
    build(&outside, held).layer("file system")?;
    keep_capabilities().layer("capabilities")?;
    start_init().layer("init")
}

/// Closes what the server itself had inherited; its own files close by themselves.
fn close_inherited() -> io::Result<()> {
    let number = |entry: fs::DirEntry| entry.file_name().to_str()?.parse::<i32>().ok();
    let open: Vec<i32> = fs::read_dir("/proc/self/fd")?.flatten().filter_map(number).collect();
    for number in open.into_iter().filter(|number| *number > 2) {
        // One of them was the folder that was read, and is closed already.
        let _ = nix::unistd::close(number);
    }
    Ok(())
}

/// This process has one thread, which is what these calls are about.
fn become_user(id: u32) -> io::Result<()> {
    set_thread_groups(&[])?;
    let (user, group) = (Uid::from_raw(id), Gid::from_raw(id));
    set_thread_res_gid(group, group, group)?;
    set_thread_res_uid(user, user, user)?;
    // Only then are its own files in /proc its own.
    set_dumpable_behavior(DumpableBehavior::Dumpable)?;
    Ok(())
}

fn enter_namespaces(network: bool) -> Result<(), Failed> {
    unshare(CloneFlags::CLONE_NEWUSER).layer("user namespace")?;
    unshare(CloneFlags::CLONE_NEWNS).layer("mount namespace")?;
    if !planted::is("no-process-namespace") {
        unshare(CloneFlags::CLONE_NEWPID).layer("process namespace")?;
    }
    unshare(CloneFlags::CLONE_NEWIPC).layer("IPC namespace")?;
    unshare(CloneFlags::CLONE_NEWUTS).layer("host name namespace")?;
    unshare(CloneFlags::CLONE_NEWCGROUP).layer("cgroup namespace")?;
    if !network && !planted::is("no-network-namespace") {
        unshare(CloneFlags::CLONE_NEWNET).layer("network namespace")?;
    }
    Ok(())
}

/// The init is not the root of its namespace, so what it may do has to be kept for it.
fn keep_capabilities() -> io::Result<()> {
    let now = capabilities(None)?;
    set_capabilities(None, CapabilitySets { inheritable: now.permitted, ..now })?;
    for capability in OF_INIT {
        configure_capability_in_ambient_set(capability, true)?;
    }
    Ok(())
}

fn start_init() -> io::Result<Child> {
    let mut init = Command::new(format!("{HOST_ROOT}/proc/self/exe"));
    init.arg0("theazo").arg(INIT).env_clear().envs(planted::environment()).current_dir("/");
    init.stdin(Stdio::inherit()).stdout(Stdio::inherit()).stderr(Stdio::inherit());
    init.spawn()
}

/// Waits for the end of the init, with which everything in its process namespace has ended; the server ends it by
/// letting go of the socket, also by dying.
fn watch(init: &Child) -> ExitCode {
    let pid = i32::try_from(init.id()).ok().and_then(Pid::from_raw).expect("a child has a process id");
    // As long as it is not waited for, its number is its own.
    let Ok(ended) = pidfd_open(pid, PidfdFlags::empty()) else {
        let _ = kill_process(pid, Signal::KILL);
        let _ = waitpid(Some(pid), WaitOptions::empty());
        return ExitCode::FAILURE;
    };
    let stdin = rustix::stdio::stdin();
    loop {
        let mut watched = [
            PollFd::from_borrowed_fd(ended.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(stdin, PollFlags::RDHUP),
        ];
        let polled = poll(&mut watched, None);
        if !watched[1].revents().is_empty() || polled.is_err_and(|error| error != rustix::io::Errno::INTR) {
            let _ = kill_process(pid, Signal::KILL);
        }
        if !watched[0].revents().is_empty() || !watched[1].revents().is_empty() {
            let _ = waitpid(Some(pid), WaitOptions::empty());
            return ExitCode::SUCCESS;
        }
    }
}
