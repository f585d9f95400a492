//! What a sandbox may take on disk, and what becomes of what is past that when a program has ended: it goes again. First
//! what was made since the program began, then what was changed, of each the largest; so nothing that was there before is
//! touched as long as there is something else.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, Mode, StatxFlags, StatxTimestamp, fchmod, unlinkat};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::message::Limits;
use super::tree::{self, Kind, Met, Size};
use crate::config;

/// What a sandbox may take on disk: its limits; or what was there while nothing ran, where that is more, so that it may be
/// made smaller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Room {
    pub(super) bytes: u64,
    pub(super) files: u64,
}

impl Room {
    pub(super) fn new(limits: &Limits, there: Size) -> Self {
        Self { bytes: there.bytes.max(limits.disk_bytes), files: there.files.max(limits.files) }
    }

    /// The limit that is passed, if one is.
    pub(super) fn passed(self, limits: &Limits, size: Size) -> Option<String> {
        if size.bytes > self.bytes {
            return Some(format!("{} MiB of disk", limits.disk_bytes >> 20));
        }
        if size.files > self.files {
            return Some(format!("{} files", limits.files));
        }
        size.deeper.then(|| format!("{} folders in each other", config::SANDBOX_FOLDER_DEPTH))
    }

    const fn fits(self, bytes: u64, files: u64) -> bool {
        bytes <= self.bytes && files <= self.files
    }
}

/// A moment by the clock of a file system: seconds and nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Moment(pub(super) i64, pub(super) u32);

impl From<StatxTimestamp> for Moment {
    fn from(stamp: StatxTimestamp) -> Self {
        Self(stamp.tv_sec, stamp.tv_nsec)
    }
}

/// What was past a limit, and is gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Trimmed {
    /// The limit.
    pub(super) limit: String,
    /// What there is less of now.
    pub(super) bytes: u64,
    /// Files and folders of which there are fewer.
    pub(super) files: u64,
}

/// Deletes what is past the room of a sandbox and was made or changed since a moment. Folders that are too deep go
/// whatever is in them.
///
/// # Errors
/// When the folders cannot be read.
pub(super) fn trim(
    tops: &[OwnedFd],
    since: Moment,
    room: Room,
    limits: &Limits,
) -> io::Result<Option<Trimmed>> {
    let mut found = Found::look(tops, since)?;
    let Some(limit) = room.passed(limits, found.size) else { return Ok(None) };
    let first = found.size;
    // Again where a folder was not empty, or where others write meanwhile.
    for _ in 0..config::SANDBOX_TRIMS {
        let before = found.size;
        let chosen = found.choose(room);
        for top in tops {
            tree::walk(top, |met| remove(met, &chosen))?;
        }
        found = Found::look(tops, since)?;
        if room.passed(limits, found.size).is_none() || found.size == before {
            break;
        }
    }
    let bytes = first.bytes.saturating_sub(found.size.bytes);
    Ok(Some(Trimmed { limit, bytes, files: first.files.saturating_sub(found.size.files) }))
}

/// What is there, and what of it was made or changed.
#[derive(Default)]
struct Found {
    size: Size,
    changed: Vec<Changed>,
}

struct Changed {
    inode: u64,
    bytes: u64,
    names: u64,
    is_made: bool,
    is_folder: bool,
}

impl Found {
    fn look(tops: &[OwnedFd], since: Moment) -> io::Result<Self> {
        let mut found = Self::default();
        let mut linked = HashSet::new();
        let mut places = HashMap::new();
        for top in tops {
            tree::walk(top, |met| {
                found.size.add(met, &mut linked);
                if met.is_linked()
                    && let Some(place) = places.get(&met.stat.stx_ino)
                {
                    let known: &mut Changed = &mut found.changed[*place];
                    known.names += 1;
                } else if let Some(changed) = Changed::of(met, since) {
                    places.insert(changed.inode, found.changed.len());
                    found.changed.push(changed);
                }
            })?;
        }
        Ok(found)
    }

    /// What has to go for the rest to fit, by inode.
    fn choose(&mut self, room: Room) -> HashSet<u64> {
        // Folders go last, and as they were met: after what is in them.
        let size = |changed: &Changed| if changed.is_folder { 0 } else { changed.bytes };
        self.changed.sort_by_key(|changed| (changed.is_folder, !changed.is_made, Reverse(size(changed))));
        let (mut bytes, mut files) = (self.size.bytes, self.size.files);
        let mut chosen = HashSet::new();
        for changed in &self.changed {
            if room.fits(bytes, files) {
                break;
            }
            chosen.insert(changed.inode);
            bytes = bytes.saturating_sub(changed.bytes);
            files = files.saturating_sub(changed.names);
        }
        chosen
    }
}

impl Changed {
    /// None where it was neither made nor changed since, and for a folder that was there.
    fn of(met: &Met<'_>, since: Moment) -> Option<Self> {
        let stat = met.stat;
        let is_changed = Moment::from(stat.stx_ctime) >= since;
        // Where the file system does not say when something was made, all that changed may have been.
        let says = stat.stx_mask & StatxFlags::BTIME.bits() != 0;
        let is_made = is_changed && (!says || Moment::from(stat.stx_btime) >= since);
        let is_folder = met.kind != Kind::File;
        (is_made || is_changed && !is_folder).then(|| Self {
            inode: stat.stx_ino,
            bytes: met.bytes(),
            names: 1,
            is_made,
            is_folder,
        })
    }
}

/// Deletes what was chosen. What cannot be deleted stays, and is counted by the next look.
fn remove(met: &Met<'_>, chosen: &HashSet<u64>) {
    let flags = match met.kind {
        Kind::TooDeep => {
            let _ = tree::remove_in(met.folder, met.name);
            return;
        }
        Kind::Folder => AtFlags::REMOVEDIR,
        Kind::File => AtFlags::empty(),
    };
    if !chosen.contains(&met.stat.stx_ino) {
        return;
    }
    // A folder may be readable and yet closed to changes.
    if unlinkat(met.folder, met.name, flags) == Err(Errno::ACCESS)
        && fchmod(met.folder.as_fd(), Mode::RWXU).is_ok()
    {
        let _ = unlinkat(met.folder, met.name, flags);
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::Duration;

    use rustix::fs::{CWD, statx};

    use super::*;
    use crate::random;

    const MIB: usize = 1 << 20;

    fn changed_at(path: &Path) -> Moment {
        statx(CWD, path, AtFlags::empty(), StatxFlags::CTIME).unwrap().stx_ctime.into()
    }

    fn names(folder: &Path) -> Vec<String> {
        let name = |entry: io::Result<std::fs::DirEntry>| entry.unwrap().file_name().into_string().unwrap();
        let mut names: Vec<_> = std::fs::read_dir(folder).unwrap().map(name).collect();
        names.sort();
        names
    }

    #[test]
    fn what_was_made_goes_the_largest_first_and_what_was_there_is_touched_last() {
        let scratch = std::env::temp_dir().join(format!("theazo-trim-{}", hex::encode(random::bytes::<8>())));
        let folders = ["workspace", "tmp"].map(|name| scratch.join(name));
        folders.iter().for_each(|folder| std::fs::create_dir_all(folder).unwrap());
        let [workspace, temporary] = &folders;
        let (old, marker) = (workspace.join("old"), scratch.join("marker"));
        std::fs::write(&old, vec![0; 12 * MIB]).unwrap();
        // Until the file system's clock has gone on.
        let since = loop {
            std::fs::write(&marker, "").unwrap();
            let now = changed_at(&marker);
            if now > changed_at(&old) {
                break now;
            }
        };
        // The old file is changed too, and larger than what is new.
        std::fs::write(&old, [vec![0; 12 * MIB], b"more\n".to_vec()].concat()).unwrap();
        std::fs::write(workspace.join("small"), vec![0; MIB]).unwrap();
        for folder in &folders {
            std::fs::write(folder.join("new"), vec![0; 7 * MIB]).unwrap();
        }
        let limits = Limits {
            memory_bytes: 0,
            processes: 0,
            disk_bytes: 16 << 20,
            files: 100,
            open_files: 0,
            processor_time: Duration::ZERO,
        };
        let tops = folders.each_ref().map(|folder| tree::open_dir(folder).unwrap());
        let room = Room::new(&limits, Size::default());
        let trimmed = trim(&tops, since, room, &limits).unwrap().unwrap();
        assert_eq!((trimmed.limit.as_str(), trimmed.files), ("16 MiB of disk", 2));
        assert_eq!(
            (names(workspace), names(temporary)),
            (vec!["old".to_owned(), "small".to_owned()], vec![])
        );
        assert!(std::fs::read(&old).unwrap().ends_with(b"more\n"));
        assert_eq!(trim(&tops, since, room, &limits).unwrap(), None, "the rest fits");
        std::fs::remove_dir_all(&scratch).unwrap();
    }
}
