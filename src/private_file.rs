//! Files that only the server's user may read, written so that a crash leaves the old one or the new one.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::random;

/// Writes a file whole, with mode 0600: beside its place first, then moved into it, and both made durable.
///
/// # Errors
/// Whatever the file system says. The place holds what it held before, then.
pub fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let (dir, beside) = (parent(path), beside(path));
    let written = write_new(&beside, bytes).and_then(|()| std::fs::rename(&beside, path));
    if written.is_err() {
        let _absent = std::fs::remove_file(&beside);
    }
    written?;
    // The new name is durable once its directory is.
    File::open(dir)?.sync_all()
}

/// Writes a file whole, as [`write`] does, where there is none; false where there is one, which stays as it is.
///
/// # Errors
/// Whatever the file system says.
pub fn create(path: &Path, bytes: &[u8]) -> io::Result<bool> {
    let beside = beside(path);
    // Unlike a move, a second name is never given over a file that is there.
    let named = write_new(&beside, bytes).and_then(|()| std::fs::hard_link(&beside, path));
    let _absent = std::fs::remove_file(&beside);
    match named {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(false),
        named => named?,
    }
    File::open(parent(path))?.sync_all()?;
    Ok(true)
}

/// The lock of a directory, held until this is dropped or the process is gone, however it went.
#[derive(Debug)]
pub struct DirLock(File);

impl Drop for DirLock {
    fn drop(&mut self) {
        // Not left to the closing of the file, of which a process that is being forked has a copy.
        let _gone_with_the_file_then = self.0.unlock();
    }
}

/// Takes the lock of a directory; `None` where somebody has it.
///
/// # Errors
/// Whatever the file system says.
pub fn lock_dir(dir: &Path) -> io::Result<Option<DirLock>> {
    let file = File::open(dir)?;
    match file.try_lock() {
        Ok(()) => Ok(Some(DirLock(file))),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// Moves a file to another name in its directory, over what is there, and makes that durable.
///
/// # Errors
/// Whatever the file system says.
pub fn rename(from: &Path, to: &Path) -> io::Result<()> {
    std::fs::rename(from, to)?;
    File::open(parent(to))?.sync_all()
}

/// Makes a directory, and those above it, that only its owner may look into.
///
/// # Errors
/// Whatever the file system says.
pub fn make_dir(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// A name in the same directory that nothing has.
fn beside(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    parent(path).join(format!(".{name}.{}", hex::encode(random::bytes::<6>())))
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_private_file_is_replaced_whole_and_nobody_else_may_read_it() {
        let dir = std::env::temp_dir().join(format!("theazo-private-{}", std::process::id()));
        make_dir(&dir).unwrap();
        let path = dir.join("secret");
        write(&path, b"a longer first text").unwrap();
        write(&path, b"second").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"second");
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert!(!create(&path, b"third").unwrap() && create(&dir.join("other"), b"third").unwrap());
        assert_eq!(std::fs::read(&path).unwrap(), b"second", "what is there is not made anew");
        assert_eq!(dir.read_dir().unwrap().count(), 2, "nothing is left beside them");
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
