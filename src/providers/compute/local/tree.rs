//! Folders whose content somebody hostile made: measured and deleted by descriptors, never by paths, with no recursion
//! and following no link.

use std::collections::{HashSet, VecDeque};
use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Mode, OFlags, RenameFlags, chmod, fstat, open, openat, renameat_with,
    statat, unlinkat,
};
use rustix::io::Errno;

use crate::{config, random};

/// What a folder takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Size {
    /// Bytes on disk.
    pub(super) bytes: u64,
    /// Files and folders.
    pub(super) files: u64,
    /// Whether there are folders deeper than was looked.
    pub(super) deeper: bool,
}

impl Size {
    pub(super) fn and(self, other: Self) -> Self {
        Self {
            bytes: self.bytes + other.bytes,
            files: self.files + other.files,
            deeper: self.deeper || other.deeper,
        }
    }
}

/// A folder, by a path that is ours.
pub(super) fn open_dir(path: &Path) -> io::Result<OwnedFd> {
    Ok(openat(
        CWD,
        path,
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
    )?)
}

/// A folder in a folder, made readable to its owner where it is not. The mode is changed through the descriptor, so that
/// it is that of the folder which was looked at, whatever has its name by then.
fn enter(parent: impl AsFd, name: &CStr) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match openat(parent.as_fd(), name, flags, Mode::empty()) {
        Err(Errno::ACCESS) => {
            unlock(parent.as_fd(), name)?;
            Ok(openat(parent.as_fd(), name, flags, Mode::empty())?)
        }
        opened => Ok(opened?),
    }
}

fn unlock(parent: impl AsFd, name: &CStr) -> io::Result<()> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let folder = openat(parent, name, flags, Mode::empty())?;
    Ok(chmod(format!("/proc/self/fd/{}", folder.as_raw_fd()), Mode::RWXU)?)
}

/// What is in a folder. What goes away meanwhile is not counted, and neither is what cannot be looked at.
///
/// # Errors
/// When the folder itself cannot be read.
pub(super) fn size(top: &OwnedFd) -> io::Result<Size> {
    let mut size = Size::default();
    let mut linked = HashSet::new();
    let mut stack = vec![Dir::read_from(top)?];
    loop {
        let depth = stack.len();
        let Some(folder) = stack.last_mut() else { return Ok(size) };
        let Some(entry) = folder.read() else {
            stack.pop();
            continue;
        };
        let Ok(entry) = entry else { continue };
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        let Ok(parent) = folder.fd() else { continue };
        let Ok(stat) = statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
        size.files += 1;
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            size.bytes += blocks(stat.st_blocks);
            if depth >= config::SANDBOX_FOLDER_DEPTH {
                size.deeper = true;
            } else if let Ok(inner) = enter(parent, name).and_then(|inner| Ok(Dir::new(inner)?)) {
                stack.push(inner);
            }
        } else if stat.st_nlink < 2 || linked.insert(stat.st_ino) {
            size.bytes += blocks(stat.st_blocks);
        }
    }
}

fn blocks(number: i64) -> u64 {
    u64::try_from(number).unwrap_or_default() * 512
}

/// Deletes a folder and all that is in it. Folders in it are first moved to its top, so that it does not matter how deep
/// they are.
///
/// # Errors
/// When something cannot be deleted, or new files keep appearing.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let parent = open(parent, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let name = CString::new(name.as_bytes())?;
    let top = match enter(&parent, &name) {
        Ok(top) => top,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    let mut removal =
        Removal { top, prefix: hex::encode(random::bytes::<8>()), moved: 0, waiting: VecDeque::new() };
    removal.empty(None)?;
    while let Some(name) = removal.waiting.pop_front() {
        let folder = enter(&removal.top, &name)?;
        removal.empty(Some(&folder))?;
        unlinkat(&removal.top, &name, AtFlags::REMOVEDIR)?;
    }
    Ok(unlinkat(&parent, &name, AtFlags::REMOVEDIR)?)
}

struct Removal {
    top: OwnedFd,
    /// Of the names of moved folders: nothing that an agent made is named so.
    prefix: String,
    moved: u64,
    waiting: VecDeque<CString>,
}

impl Removal {
    /// Deletes the files of a folder, the top one without another, and moves its folders to the top.
    fn empty(&mut self, folder: Option<&OwnedFd>) -> io::Result<()> {
        let folder = folder.unwrap_or(&self.top).try_clone()?;
        // A folder may be readable and yet closed to changes.
        if fstat(&folder)?.st_mode & 0o700 != 0o700 {
            chmod(format!("/proc/self/fd/{}", folder.as_raw_fd()), Mode::RWXU)?;
        }
        for entry in Dir::read_from(&folder)? {
            let entry = entry?;
            let name = entry.file_name();
            if name == c"." || name == c".." || name.to_bytes().starts_with(self.prefix.as_bytes()) {
                continue;
            }
            match unlinkat(&folder, name, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(Errno::ISDIR | Errno::PERM) => self.raise(&folder, name)?,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn raise(&mut self, folder: &OwnedFd, name: &CStr) -> io::Result<()> {
        // Moving a folder changes its `..`, for which it has to be writable.
        unlock(folder, name)?;
        let new = CString::new(format!("{}-{:x}", self.prefix, self.moved))?;
        self.moved += 1;
        renameat_with(folder, name, &self.top, &new, RenameFlags::NOREPLACE)?;
        self.waiting.push_back(new);
        Ok(())
    }
}
