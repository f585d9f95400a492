//! Process 1 of a sandbox: it finishes the isolation from the inside, starts the program, and watches over the totals
//! until the program has ended; with it everything in its process namespace ends.

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::mount::{MountFlags, UnmountFlags, mount, mount_bind, mount_bind_recursive, unmount};
use rustix::process::{
    DumpableBehavior, Pid, PidfdFlags, Resource, Rlimit, Signal, WaitOptions, WaitStatus, getrlimit,
    pidfd_open, set_dumpable_behavior, set_parent_process_death_signal, setrlimit, setsid, wait,
};
use rustix::thread::{
    CapabilitySet, CapabilitySets, clear_ambient_capability_set, remove_capability_from_bounding_set,
    set_capabilities, set_no_new_privs,
};

use super::message::{Failed, Inside, Layer, Report, read_frame, report, report_failed};
use super::root::{HOST_ROOT, PROGRAM_DIR, WORKSPACE, remount};
use super::seccomp;
use super::watch::Watch;
use crate::{config, planted};

/// What the init keeps, to see what the programs use whatever they do to hide it. The programs have none.
const KEPT: CapabilitySet =
    CapabilitySet::DAC_READ_SEARCH.union(CapabilitySet::SYS_PTRACE).union(CapabilitySet::KILL);
/// Parts of `/proc` that speak of the host.
const COVERED: [&str; 9] = [
    "kcore",
    "key-users",
    "keys",
    "kmsg",
    "latency_stats",
    "sched_debug",
    "sysrq-trigger",
    "timer_list",
    "kallsyms",
];
/// Of rtnetlink(7) and netdevice(7): the message that changes an interface, the flag of a request, that of an interface
/// which is up; and the number of the loopback interface, which is the first.
const RTM_NEWLINK: u16 = 16;
const NLM_F_REQUEST: u16 = 1;
const IFF_UP: u16 = 1;
const LOOPBACK_INDEX: i32 = 1;
/// Parts of `/proc` that settings are written to.
const SETTINGS: [&str; 4] = ["sys", "bus", "fs", "irq"];

pub(super) fn run() -> ExitCode {
    match start() {
        Ok((main, watch)) => attend(main, watch),
        Err(failed) => {
            report_failed(&failed);
            ExitCode::FAILURE
        }
    }
}

fn start() -> Result<(Pid, Watch), Failed> {
    set_parent_process_death_signal(Some(Signal::KILL)).layer("death signal")?;
    // Out of the supervisor's group, to which its programs could send signals.
    setsid().layer("session")?;
    let inside: Inside = read_frame().layer("message")?;
    if std::process::id() != 1 && !planted::is("no-process-namespace") {
        return Err(Failed { layer: "process namespace", reason: "the init is not process 1".to_owned() });
    }
    settle().layer("file system")?;
    rustix::system::sethostname(b"sandbox").layer("host name namespace")?;
    if inside.own_network && !planted::is("no-network-namespace") {
        raise_loopback().layer("network namespace")?;
    }
    // Nobody in here may look into this process.
    set_dumpable_behavior(DumpableBehavior::NotDumpable).layer("init")?;
    let watch = Watch::new(&inside).layer("disk limit")?;
    if !planted::is("no-process-limits") {
        limit(&inside).layer("limits")?;
    }
    if !planted::is("kept-capabilities") {
        drop_capabilities().layer("capabilities")?;
    }
    set_no_new_privs(true).layer("no_new_privs")?;
    if !planted::is("no-seccomp") {
        for filter in [seccomp::of_file_systems(), seccomp::program()] {
            seccompiler::apply_filter(&filter.layer("seccomp")?).layer("seccomp")?;
        }
    }
    let main = start_program(&inside).layer("program")?;
    report(&Report::Started);
    Ok((main, watch))
}

/// A `/proc` of its own, and the host's root gone.
fn settle() -> io::Result<()> {
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    if planted::is("no-process-namespace") {
        mount_bind_recursive(format!("{HOST_ROOT}/proc"), "/proc")?;
    } else {
        mount("proc", "/proc", "proc", flags, None)?;
    }
    if !planted::is("host-root-stays") {
        unmount(HOST_ROOT, UnmountFlags::DETACH)?;
        fs::remove_dir(HOST_ROOT)?;
    }
    for name in COVERED {
        let path = Path::new("/proc").join(name);
        if path.exists() {
            mount_bind("/dev/null", &path)?;
        }
    }
    for name in SETTINGS {
        let path = Path::new("/proc").join(name);
        if path.exists() {
            mount_bind(&path, &path)?;
            remount(&path, flags | MountFlags::RDONLY)?;
        }
    }
    if planted::is("writable-root") {
        return Ok(());
    }
    Ok(remount(Path::new("/"), MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV)?)
}

/// Brings the loopback interface up, by an `RTM_NEWLINK` message of rtnetlink(7): a namespace begins without any.
fn raise_loopback() -> io::Result<()> {
    let kind = rustix::net::SocketType::RAW;
    // Without another protocol it is NETLINK_ROUTE, whose number is 0.
    let socket = rustix::net::socket(rustix::net::AddressFamily::NETLINK, kind, None)?;
    let up = u32::from(IFF_UP).to_ne_bytes();
    let header =
        [&32_u32.to_ne_bytes()[..], &RTM_NEWLINK.to_ne_bytes(), &NLM_F_REQUEST.to_ne_bytes(), &[0; 8]];
    let interface = [&[0; 4][..], &LOOPBACK_INDEX.to_ne_bytes(), &up, &up];
    let message = [header.concat(), interface.concat()].concat();
    let to = rustix::net::netlink::SocketAddrNetlink::new(0, 0);
    // The kernel carries it out before this returns.
    rustix::net::sendto(&socket, &message, rustix::net::SendFlags::empty(), &to)?;
    Ok(())
}

fn limit(inside: &Inside) -> io::Result<()> {
    let limits = &inside.limits;
    let both = |value: u64| Rlimit { current: Some(value), maximum: Some(value) };
    let resources = [
        (Resource::Core, 0),
        (Resource::Cpu, limits.processor_time.as_secs().max(1)),
        // Not the address space, of which V8 reserves far more than it uses.
        (Resource::Data, limits.memory_bytes),
        (Resource::Fsize, limits.disk_bytes),
        (Resource::Nofile, limits.open_files),
        // Within this user namespace, this process included.
        (Resource::Nproc, limits.processes + 1),
        (Resource::Memlock, config::SANDBOX_LOCKED_BYTES),
        (Resource::Msgqueue, 0),
        (Resource::Nice, 0),
        (Resource::Rtprio, 0),
        (Resource::Sigpending, config::SANDBOX_PENDING_SIGNALS),
    ];
    // A quarter of it is what arguments and environment may take, whatever the server's own limit is.
    let most = getrlimit(Resource::Stack).maximum;
    let current =
        Some(most.map_or(config::SANDBOX_STACK_BYTES, |most| most.min(config::SANDBOX_STACK_BYTES)));
    setrlimit(Resource::Stack, Rlimit { current, maximum: most })?;
    for (resource, value) in resources {
        setrlimit(resource, both(value))
            .map_err(|error| io::Error::other(format!("{resource:?}: {error}")))?;
    }
    Ok(())
}

fn drop_capabilities() -> io::Result<()> {
    for number in 0..u64::BITS {
        match remove_capability_from_bounding_set(CapabilitySet::from_bits_retain(1 << number)) {
            Ok(()) => {}
            // This kernel's last one was the one before.
            Err(rustix::io::Errno::INVAL) => break,
            Err(error) => return Err(error.into()),
        }
    }
    clear_ambient_capability_set()?;
    let sets = CapabilitySets { effective: KEPT, permitted: KEPT, inheritable: CapabilitySet::empty() };
    Ok(set_capabilities(None, sets)?)
}

fn start_program(inside: &Inside) -> io::Result<Pid> {
    let (name, arguments) = inside.arguments.split_first().ok_or(io::ErrorKind::InvalidInput)?;
    let mut program = Command::new(name);
    program.args(arguments).current_dir(WORKSPACE).env_clear().process_group(0);
    program.envs(inside.environment.iter().map(|(name, value)| (name, value.as_str())));
    let input = match inside.from_input {
        true => fs::File::open(format!("{PROGRAM_DIR}/main"))?.into(),
        false => Stdio::null(),
    };
    let child = program.stdin(input).stdout(Stdio::inherit()).stderr(Stdio::inherit()).spawn()?;
    Ok(i32::try_from(child.id()).ok().and_then(Pid::from_raw).expect("a child has a process id"))
}

/// Until the program has ended, or the server has let go.
fn attend(main: Pid, mut watch: Watch) -> ExitCode {
    let Ok(ended) = pidfd_open(main, PidfdFlags::empty()) else { return ExitCode::FAILURE };
    loop {
        let mut watched = [
            PollFd::from_borrowed_fd(ended.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(rustix::stdio::stdin(), PollFlags::RDHUP),
        ];
        let pause = Timespec::try_from(watch.pause()).ok();
        let polled = poll(&mut watched, pause.as_ref());
        if polled.is_ok() && !watched[1].revents().is_empty() {
            return ExitCode::FAILURE;
        }
        // Whatever lost its parent is this process' child.
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            if pid == main {
                report(&of(status));
                return ExitCode::SUCCESS;
            }
        }
        watch.look();
    }
}

fn of(status: WaitStatus) -> Report {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => Report::Code { code },
        (None, signal) => Report::Signal { signal: signal.unwrap_or_default() },
    }
}
