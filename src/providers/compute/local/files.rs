//! Files of a workspace, from outside: every path is resolved beneath it by the kernel, links included.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{
    AtFlags, Dir, FileType, Gid, Mode, OFlags, ResolveFlags, Uid, fchown, fstat, mkdirat, openat2, statat,
};
use rustix::io::Errno;

use super::root::WORKSPACE;
use crate::config;
use crate::providers::compute::{Error, FileContent, FileEntry};

/// Neither out of the workspace, nor over a mount, nor by way of `/proc`.
const BENEATH: ResolveFlags =
    ResolveFlags::BENEATH.union(ResolveFlags::NO_MAGICLINKS).union(ResolveFlags::NO_XDEV);

/// The blocks that file systems have: most of them, and others have smaller ones.
const BLOCK_BYTES: u64 = 4_096;

/// What a file takes.
pub(super) struct Needs {
    /// Bytes on disk.
    pub(super) bytes: u64,
    /// Those of the file whose place it takes.
    pub(super) replaced: u64,
    /// Files and folders that are not there yet.
    pub(super) files: u64,
    /// Folders that it is in.
    pub(super) depth: usize,
}

/// A path as agents write it, relative to the workspace.
fn relative(path: &str) -> Result<PathBuf, Error> {
    let bad = |why: &str| Err(Error::Path(format!("{path:?} {why}")));
    if path.len() > config::SANDBOX_PATH_BYTES || path.contains('\0') {
        return Err(Error::Path("the path is too long or has a zero byte".to_owned()));
    }
    let given = Path::new(path);
    let inner = given.strip_prefix(WORKSPACE).unwrap_or(given);
    let mut clean = PathBuf::new();
    for component in inner.components() {
        match component {
            Component::Normal(name) => clean.push(name),
            Component::CurDir => {}
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => {
                return bad("leads out of the workspace");
            }
        }
    }
    if clean.as_os_str().is_empty() {
        clean.push(".");
    }
    Ok(clean)
}

/// What an error of the kernel says about a path.
fn refused(path: &str, error: Errno) -> Error {
    let why = match error {
        Errno::XDEV | Errno::LOOP => "leads out of the workspace",
        Errno::NOENT => "does not exist",
        Errno::NOTDIR => "is not in a folder",
        Errno::ISDIR => "is a folder",
        Errno::ACCESS | Errno::PERM => "may not be opened",
        Errno::NXIO | Errno::NODEV => "is not a file",
        Errno::NAMETOOLONG => "is too long",
        Errno::NOSPC | Errno::DQUOT => return Error::Refused("the disk is full".to_owned()),
        other => return Error::Unavailable(format!("{path:?}: {other}")),
    };
    Error::Path(format!("{path:?} {why}"))
}

fn open(workspace: impl AsFd, path: &Path, flags: OFlags, mode: Mode) -> rustix::io::Result<OwnedFd> {
    // What is no file must not keep us waiting.
    let flags = flags | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    // The kernel asks to try again when something was moved meanwhile.
    for _ in 0..16 {
        match openat2(workspace.as_fd(), path, flags, mode, BENEATH) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            opened => return opened,
        }
    }
    Err(Errno::XDEV)
}

/// Only a regular file is read or written: a pipe or a socket could keep us waiting.
fn regular(path: &str, file: OwnedFd) -> Result<File, Error> {
    let stat = fstat(&file).map_err(|error| refused(path, error))?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => Ok(file.into()),
        FileType::Directory => Err(Error::Path(format!("{path:?} is a folder"))),
        _ => Err(Error::Path(format!("{path:?} is not a file"))),
    }
}

/// What a file that is to be written takes: in the place of one, and with the folders above it that are missing. What
/// keeps it from being written is seen when it is.
pub(super) fn needs(workspace: &OwnedFd, path: &str, content: &[u8]) -> Result<Needs, Error> {
    let relative = relative(path)?;
    let found = |path: &Path| open(workspace, path, OFlags::RDONLY, Mode::empty());
    let folders: Vec<&Path> =
        relative.ancestors().skip(1).filter(|path| !path.as_os_str().is_empty()).collect();
    let missing = folders.iter().filter(|path| matches!(found(path), Err(Errno::NOENT))).count();
    let length = u64::try_from(content.len()).unwrap_or(u64::MAX);
    let (missing, depth) = (u64::try_from(missing).unwrap_or(u64::MAX), folders.len());
    let bytes = length.div_ceil(BLOCK_BYTES).saturating_add(missing) * BLOCK_BYTES;
    Ok(match found(&relative).and_then(fstat) {
        Ok(there) => Needs {
            bytes,
            replaced: u64::try_from(there.st_blocks).unwrap_or_default() * 512,
            files: missing,
            depth,
        },
        Err(_) => Needs { bytes, replaced: 0, files: missing + 1, depth },
    })
}

/// Writes a file, and the folders above it; they belong to the sandbox' user where it has one of the host's.
pub(super) fn write(
    workspace: &OwnedFd,
    owner: Option<u32>,
    path: &str,
    content: &[u8],
) -> Result<(), Error> {
    let relative = relative(path)?;
    let own = |file: &OwnedFd| match owner {
        Some(id) => fchown(file, Some(Uid::from_raw(id)), Some(Gid::from_raw(id))),
        None => Ok(()),
    };
    let mut above = PathBuf::from(".");
    let mut folder = open(workspace, &above, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())
        .map_err(|error| refused(path, error))?;
    for component in relative.parent().into_iter().flat_map(Path::components) {
        let name = component.as_os_str();
        above.push(name);
        let made = match mkdirat(&folder, name, Mode::from_raw_mode(0o755)) {
            Ok(()) => true,
            Err(Errno::EXIST) => false,
            Err(error) => return Err(refused(path, error)),
        };
        folder = open(workspace, &above, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())
            .map_err(|error| refused(path, error))?;
        if made {
            own(&folder).map_err(|error| refused(path, error))?;
        }
    }
    let flags = OFlags::WRONLY | OFlags::CREATE;
    let file = open(workspace, &relative, flags, Mode::from_raw_mode(0o644));
    let file = file.map_err(|error| refused(path, error))?;
    own(&file).map_err(|error| refused(path, error))?;
    let mut file = regular(path, file)?;
    let written = file.set_len(0).and_then(|()| file.write_all(content));
    written.map_err(|error| refused(path, Errno::from_io_error(&error).unwrap_or(Errno::IO)))
}

/// Reads a file, at most `limit` bytes of it.
pub(super) fn read(workspace: &OwnedFd, path: &str, limit: usize) -> Result<FileContent, Error> {
    let file = open(workspace, &relative(path)?, OFlags::RDONLY, Mode::empty());
    let file = regular(path, file.map_err(|error| refused(path, error))?)?;
    let mut bytes = vec![];
    let most = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
    file.take(most).read_to_end(&mut bytes).map_err(|error| Error::Unavailable(error.to_string()))?;
    let truncated = bytes.len() > limit;
    bytes.truncate(limit);
    Ok(FileContent { bytes, truncated })
}

/// Lists a folder: the first names in order, at most `limit`.
pub(super) fn list(workspace: &OwnedFd, path: &str, limit: usize) -> Result<Vec<FileEntry>, Error> {
    let refused = |error| refused(path, error);
    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
    let folder = open(workspace, &relative(path)?, flags, Mode::empty()).map_err(refused)?;
    // Kept in order while it is read, so that a folder of any size takes no more room than what is asked for.
    let mut first = std::collections::BTreeSet::new();
    for entry in Dir::read_from(&folder).map_err(refused)? {
        let entry = entry.map_err(refused)?;
        let name = entry.file_name().to_owned();
        if name.as_c_str() != c"." && name.as_c_str() != c".." {
            first.insert(name);
        }
        if first.len() > limit {
            first.pop_last();
        }
    }
    let mut entries = vec![];
    for name in first {
        let Ok(stat) = statat(&folder, &name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
        let is_folder = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        let text = name.to_string_lossy().into_owned();
        entries.push(match is_folder {
            true => FileEntry { name: format!("{text}/"), size: 0 },
            false => FileEntry { name: text, size: u64::try_from(stat.st_size).unwrap_or_default() },
        });
    }
    Ok(entries)
}
