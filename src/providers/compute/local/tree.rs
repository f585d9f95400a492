//! Folders whose content somebody hostile made: measured and deleted by descriptors, never by paths, with no recursion
//! and following no link.

use std::collections::{HashSet, VecDeque};
use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Mode, OFlags, RenameFlags, Statx, StatxFlags, chmod, fchmod, fstat, open,
    openat, renameat_with, statx, unlinkat,
};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::{config, random};

/// What a folder takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
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

    /// Adds something to it; `linked` are the files of several names that are in it already.
    pub(super) fn add(&mut self, met: &Met<'_>, linked: &mut HashSet<u64>) {
        self.files += 1;
        self.deeper |= met.kind == Kind::TooDeep;
        if !met.is_linked() || linked.insert(met.stat.stx_ino) {
            self.bytes += met.bytes();
        }
    }
}

/// A folder, by a path that is ours; made readable to its owner where an agent has shut it.
pub(super) fn open_dir(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match openat(CWD, path, flags, Mode::empty()) {
        Err(Errno::ACCESS) => {
            chmod(path, Mode::RWXU)?;
            Ok(openat(CWD, path, flags, Mode::empty())?)
        }
        opened => Ok(opened?),
    }
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

/// Something in a folder, as a walk meets it.
pub(super) struct Met<'a> {
    /// The folder that it is in.
    pub(super) folder: BorrowedFd<'a>,
    pub(super) name: &'a CStr,
    pub(super) stat: &'a Statx,
    pub(super) kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    Folder,
    /// A folder at whose depth the walk turns back.
    TooDeep,
}

impl Met<'_> {
    /// What it takes on disk, by this name and its others.
    pub(super) const fn bytes(&self) -> u64 {
        self.stat.stx_blocks * 512
    }

    /// Whether this is a file by one name of several.
    pub(super) fn is_linked(&self) -> bool {
        self.kind == Kind::File && self.stat.stx_nlink > 1
    }
}

/// Goes through a folder and shows everything in it, folders after what is in them. What goes away meanwhile is left out,
/// and so is what is in folders that cannot be entered.
///
/// # Errors
/// When the folder itself cannot be read.
pub(super) fn walk(top: &OwnedFd, mut meet: impl FnMut(&Met<'_>)) -> io::Result<()> {
    let mut above: Vec<(Dir, CString, Statx)> = vec![];
    let mut folder = match Dir::read_from(top) {
        // It may be readable, so that it could be opened, and yet closed to whoever enters it.
        Err(Errno::ACCESS) => {
            fchmod(top, Mode::RWXU)?;
            Dir::read_from(top)?
        }
        opened => opened?,
    };
    loop {
        let Some(entry) = folder.read() else {
            let Some((parent, name, stat)) = above.pop() else { return Ok(()) };
            if let Ok(parent) = parent.fd() {
                meet(&Met { folder: parent, name: &name, stat: &stat, kind: Kind::Folder });
            }
            folder = parent;
            continue;
        };
        let Ok(entry) = entry else { continue };
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        let Ok(parent) = folder.fd() else { continue };
        let wanted = StatxFlags::BASIC_STATS.union(StatxFlags::BTIME);
        let look = || statx(parent, name, AtFlags::SYMLINK_NOFOLLOW, wanted);
        let stat = match look() {
            // A folder may be readable and yet closed to whoever asks what is in it.
            Err(Errno::ACCESS) => fchmod(parent, Mode::RWXU).and_then(|()| look()),
            stat => stat,
        };
        let Ok(stat) = stat else { continue };
        let kind = match FileType::from_raw_mode(stat.stx_mode.into()) {
            FileType::Directory if above.len() + 1 >= config::SANDBOX_FOLDER_DEPTH => Kind::TooDeep,
            FileType::Directory => Kind::Folder,
            _ => Kind::File,
        };
        let inner =
            (kind == Kind::Folder).then(|| enter(parent, name).and_then(|inner| Ok(Dir::new(inner)?)));
        match inner {
            Some(Ok(inner)) => above.push((std::mem::replace(&mut folder, inner), name.to_owned(), stat)),
            _ => meet(&Met { folder: parent, name, stat: &stat, kind }),
        }
    }
}

/// What is in a folder.
///
/// # Errors
/// When the folder itself cannot be read.
pub(super) fn size(top: &OwnedFd) -> io::Result<Size> {
    let mut size = Size::default();
    let mut linked = HashSet::new();
    walk(top, |met| size.add(met, &mut linked))?;
    Ok(size)
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
    remove_in(&parent, &name)
}

/// Deletes a folder of a folder, as [`remove`].
///
/// # Errors
/// As [`remove`].
pub(super) fn remove_in(parent: impl AsFd, name: &CStr) -> io::Result<()> {
    let top = match enter(parent.as_fd(), name) {
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
    Ok(unlinkat(parent, name, AtFlags::REMOVEDIR)?)
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
