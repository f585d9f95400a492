//! The file system of a sandbox: what interpreters need of the host's, read-only; a workspace and a `/tmp`; nothing else.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, StatVfsMountFlags, statvfs};
use rustix::io::Errno;
use rustix::mount::{
    MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, mount, mount_change, mount_remount,
    move_mount, open_tree,
};
use rustix::process::pivot_root;

use super::message::Outside;

/// Where the program's file is.
pub(super) const PROGRAM_DIR: &str = "/run/program";
/// Where the host's root is until the init has started.
pub(super) const HOST_ROOT: &str = "/.host";
/// The workspace.
pub(super) const WORKSPACE: &str = "/workspace";
/// Where the root is put together, in a mount namespace of its own: any folder that every host has.
const SCAFFOLD: &str = "/tmp";
/// The root itself: a few folders, links and files, and the program.
const ROOT_OPTIONS: &std::ffi::CStr = c"mode=755,size=16m,nr_inodes=1024";
/// Memory that programs share by files; it counts as memory.
const SHARED_OPTIONS: &std::ffi::CStr = c"mode=1777,size=64m,nr_inodes=4096";
/// Folders of the host that are shown, or links where they are links.
const SYSTEM: [&str; 7] = ["usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32"];
/// What is shown of the host's `/etc`.
const SETTINGS: [&str; 13] = [
    "alternatives",
    "ca-certificates",
    "ca-certificates.conf",
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "localtime",
    "mime.types",
    "pki/ca-trust",
    "pki/tls/certs",
    "ssl/certs",
    "ssl/openssl.cnf",
    "timezone",
];
/// What is shown besides where the host's network is shared.
const NETWORK_SETTINGS: [&str; 4] = ["hosts", "resolv.conf", "services", "protocols"];
const DEVICES: [&str; 5] = ["null", "zero", "full", "random", "urandom"];

/// The two writable folders, opened while their paths could be walked.
pub(super) struct Held {
    workspace: OwnedFd,
    temporary: OwnedFd,
}

impl Held {
    pub(super) fn open(outside: &Outside) -> io::Result<Self> {
        Ok(Self { workspace: clone(&outside.workspace)?, temporary: clone(&outside.temporary)? })
    }
}

/// How a mount may be used.
#[derive(Clone, Copy)]
enum Access {
    Read,
    Write,
    Device,
}

/// The name of a link in the root, and what it says.
type Link = (String, PathBuf);

struct Mount {
    tree: OwnedFd,
    target: PathBuf,
    is_dir: bool,
    access: Access,
}

/// Puts the root together and goes there; the host's stays at [`HOST_ROOT`] until the init has what it needs of it.
pub(super) fn build(outside: &Outside, held: Held) -> io::Result<()> {
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    let (mounts, links) = gather(outside, held)?;
    mount("tmpfs", SCAFFOLD, "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, ROOT_OPTIONS)?;
    let within = |path: &str| PathBuf::from(format!("{SCAFFOLD}{path}"));
    for (name, target) in links {
        std::os::unix::fs::symlink(target, within(&format!("/{name}")))?;
    }
    for folder in ["/dev/shm", "/etc", "/proc", PROGRAM_DIR, HOST_ROOT] {
        fs::create_dir_all(within(folder))?;
    }
    for mounted in &mounts {
        attach(mounted)?;
    }
    for (name, target) in [
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
    ] {
        std::os::unix::fs::symlink(target, within(&format!("/dev/{name}")))?;
    }
    write_settings(outside.network)?;
    fs::write(within(&format!("{PROGRAM_DIR}/{}", outside.program.0)), &outside.program.1)?;
    restrict(&mounts)?;
    let shared = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount("tmpfs", within("/dev/shm"), "tmpfs", shared, SHARED_OPTIONS)?;
    pivot_root(SCAFFOLD, within(HOST_ROOT))?;
    rustix::process::chdir("/")?;
    Ok(())
}

fn clone(path: &Path) -> io::Result<OwnedFd> {
    let flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
    open_tree(CWD, path, flags).map_err(|error| {
        io::Error::new(io::Error::from(error).kind(), format!("{}: {error}", path.display()))
    })
}

/// Opens everything that is shown before anything of the host's is covered, with the links that are made instead.
fn gather(outside: &Outside, held: Held) -> io::Result<(Vec<Mount>, Vec<Link>)> {
    let mut mounts = vec![];
    let mut links = vec![];
    let mut show = |source: PathBuf, access: Access| -> io::Result<()> {
        // What this host does not have is not shown.
        let Ok(metadata) = fs::metadata(&source) else { return Ok(()) };
        let tree = clone(&source)?;
        mounts.push(Mount { tree, target: source, is_dir: metadata.is_dir(), access });
        Ok(())
    };
    for name in SYSTEM {
        let path = Path::new("/").join(name);
        match fs::read_link(&path) {
            Ok(target) => links.push((name.to_owned(), target)),
            Err(_) => show(path, Access::Read)?,
        }
    }
    let network = NETWORK_SETTINGS.iter().filter(|_| outside.network);
    for name in SETTINGS.iter().chain(network) {
        show(Path::new("/etc").join(name), Access::Read)?;
    }
    for name in DEVICES {
        show(Path::new("/dev").join(name), Access::Device)?;
    }
    for folder in &outside.read_only {
        show(folder.clone(), Access::Read)?;
    }
    let writable =
        |tree, target: &str| Mount { tree, target: target.into(), is_dir: true, access: Access::Write };
    mounts.push(writable(held.workspace, WORKSPACE));
    mounts.push(writable(held.temporary, "/tmp"));
    Ok((mounts, links))
}

/// Where something of the sandbox is while it is put together.
fn scaffold(target: &Path) -> PathBuf {
    Path::new(SCAFFOLD).join(target.strip_prefix("/").unwrap_or(target))
}

fn attach(mounted: &Mount) -> io::Result<()> {
    let target = scaffold(&mounted.target);
    if mounted.is_dir {
        fs::create_dir_all(&target)?;
    } else {
        fs::create_dir_all(target.parent().unwrap_or(Path::new(SCAFFOLD)))?;
        fs::write(&target, "")?;
    }
    Ok(move_mount(&mounted.tree, "", CWD, &target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?)
}

/// The settings that are the sandbox's own.
fn write_settings(network: bool) -> io::Result<()> {
    let mut settings = vec![
        ("passwd", "root:x:0:0:root:/:/usr/sbin/nologin\nagent:x:1000:1000:agent:/tmp:/bin/bash\n"),
        ("group", "root:x:0:\nagent:x:1000:\n"),
        ("nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\n"),
        ("hostname", "sandbox\n"),
    ];
    if !network {
        settings.push(("hosts", "127.0.0.1 localhost sandbox\n::1 localhost\n"));
    }
    for (name, text) in settings {
        fs::write(format!("{SCAFFOLD}/etc/{name}"), text)?;
    }
    Ok(())
}

/// Restricts every mount below the new root, also those that came along inside of others.
fn restrict(mounts: &[Mount]) -> io::Result<()> {
    let below = format!("{SCAFFOLD}/");
    for point in mount_points()? {
        if !point.starts_with(&below) {
            continue;
        }
        let path = Path::new(&point);
        let of = mounts.iter().filter(|mounted| path.starts_with(scaffold(&mounted.target)));
        let access = of.max_by_key(|mounted| mounted.target.as_os_str().len()).map(|mounted| mounted.access);
        let wanted = MountFlags::NOSUID
            | match access {
                Some(Access::Write) => MountFlags::NODEV,
                Some(Access::Device) => MountFlags::RDONLY | MountFlags::NOEXEC,
                _ => MountFlags::RDONLY | MountFlags::NODEV,
            };
        match remount(path, wanted) {
            // A mount that this user cannot even look at is none that programs could use.
            Ok(()) | Err(Errno::ACCESS) => {}
            Err(error) => return Err(io::Error::other(format!("{point}: {error}"))),
        }
    }
    Ok(())
}

/// Restricts a mount further. What already restricts it has to be named again, or it is refused.
pub(super) fn remount(path: &Path, wanted: MountFlags) -> rustix::io::Result<()> {
    let has = statvfs(path)?.f_flag;
    let named = [
        (StatVfsMountFlags::RDONLY, MountFlags::RDONLY),
        (StatVfsMountFlags::NOSUID, MountFlags::NOSUID),
        (StatVfsMountFlags::NODEV, MountFlags::NODEV),
        (StatVfsMountFlags::NOEXEC, MountFlags::NOEXEC),
        (StatVfsMountFlags::NOATIME, MountFlags::NOATIME),
        (StatVfsMountFlags::NODIRATIME, MountFlags::NODIRATIME),
        (StatVfsMountFlags::RELATIME, MountFlags::RELATIME),
    ];
    let kept = named.iter().filter(|(flag, _)| has.contains(*flag)).map(|(_, flag)| *flag);
    let flags = kept.fold(wanted | MountFlags::BIND, |all, flag| all | flag);
    mount_remount(path, flags, "")
}

/// Where something is mounted, in the order of mounting.
fn mount_points() -> io::Result<Vec<String>> {
    let table = fs::read_to_string("/proc/self/mountinfo")?;
    let point = |line: &str| line.split(' ').nth(4).map(unescape);
    Ok(table.lines().filter_map(point).collect())
}

/// The kernel writes blanks, tabs, newlines and backslashes of paths as three octal digits.
fn unescape(text: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .iter()
        .fold(text.to_owned(), |text, (code, character)| text.replace(code, character))
}
