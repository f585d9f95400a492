//! The data directory: who has it (the lock), the cluster's secret, and where the running database is announced.
//!
//! ```text
//! DATA_DIR/lock               held by the living server
//! DATA_DIR/postgres.home      the directory of the cluster
//! DATA_DIR/postgres.secret    every password follows from it
//! DATA_DIR/postgres.json      where the running PostgreSQL listens
//! DATA_DIR/postgres.log       its log, with the part before in postgres.log.1
//! DATA_DIR/postgres/          the cluster, unless another user has to reach it and cannot
//! ```

use std::fs::{DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io::{ErrorKind, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::unistd::Uid;
use serde::{Deserialize, Serialize};

use super::{Endpoint, Error};

/// The name of the secret's file.
const SECRET_FILE: &str = "postgres.secret";

/// A data directory that is ours until this value is dropped.
#[derive(Debug)]
pub(super) struct DataDir {
    pub(super) path: PathBuf,
    _lock: Lock,
}

/// What `postgres.json` says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Announcement {
    socket_dir: PathBuf,
    port: u16,
    pid: u32,
    user: String,
    /// Beside this file.
    secret_file: String,
}

impl DataDir {
    /// Makes the directory if need be and takes its lock.
    pub(super) fn open(path: &Path) -> Result<DataDir, Error> {
        // The user that root drops to has to pass through; what is secret has a mode of its own.
        let mode = if Uid::effective().is_root() { 0o711 } else { 0o700 };
        if !path.is_dir() {
            let made = DirBuilder::new().recursive(true).mode(mode).create(path);
            made.map_err(Error::file("make the data directory", path))?;
        }
        let path = path.canonicalize().map_err(Error::file("find", path))?;
        let lock = lock(&path)?;
        Ok(DataDir { path, _lock: lock })
    }

    /// The file that remembers where the cluster is.
    pub(super) fn home_record(&self) -> PathBuf {
        self.path.join("postgres.home")
    }

    /// Where the postmaster's output goes.
    pub(super) fn log_path(&self) -> PathBuf {
        self.path.join("postgres.log")
    }

    /// The cluster's secret. It is made before the cluster is; a cluster without one is locked for good.
    pub(super) fn secret(&self, cluster: Option<&Path>) -> Result<String, Error> {
        let path = self.path.join(SECRET_FILE);
        match (std::fs::read_to_string(&path), cluster) {
            (Ok(secret), _) if !secret.trim().is_empty() => Ok(secret.trim().to_owned()),
            (Err(error), _) if error.kind() != ErrorKind::NotFound => Err(Error::file("read", &path)(error)),
            (_, Some(cluster)) => Err(Error::SecretMissing { cluster: cluster.to_owned(), secret: path }),
            (_, None) => {
                let secret = random_hex::<32>();
                write_whole(&path, secret.as_bytes())?;
                Ok(secret)
            }
        }
    }

    /// Tells other processes where the running PostgreSQL listens.
    pub(super) fn announce(&self, endpoint: &Endpoint, pid: u32) -> Result<(), Error> {
        let announcement = Announcement {
            socket_dir: endpoint.socket_dir.clone(),
            port: endpoint.port,
            pid,
            user: endpoint.user.clone(),
            secret_file: SECRET_FILE.to_owned(),
        };
        let text = serde_json::to_vec_pretty(&announcement)
            .expect("the path of a socket is chosen to be plain text");
        write_whole(&announcement_path(&self.path), &text)
    }

    /// Takes the announcement back.
    pub(super) fn withdraw(&self) {
        let _gone = std::fs::remove_file(announcement_path(&self.path));
    }
}

/// What is announced in a data directory, if anything: it may be stale.
pub(super) fn announced(data_dir: &Path) -> Result<Option<Endpoint>, Error> {
    let path = announcement_path(data_dir);
    let text = match std::fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::file("read", &path)(error)),
    };
    let said: Announcement =
        serde_json::from_slice(&text).map_err(|error| Error::file("understand", &path)(error.into()))?;
    let secret_path = data_dir.join(&said.secret_file);
    let secret =
        std::fs::read_to_string(&secret_path).map_err(Error::file("read", &secret_path))?.trim().to_owned();
    Ok(Some(Endpoint { socket_dir: said.socket_dir, port: said.port, user: said.user, secret }))
}

/// The lock of a directory, held until this is dropped.
#[derive(Debug)]
pub(super) struct Lock(File);

impl Drop for Lock {
    /// Unlocks, and does not leave it to the closing of the file: a process that is being forked at this moment has a
    /// copy of the descriptor until it becomes another program, and would hold the lock that long.
    fn drop(&mut self) {
        let _gone_with_the_file_then = self.0.unlock();
    }
}

/// Takes the lock of a directory. The kernel lets go of it when the process is gone, however it went.
pub(super) fn lock(dir: &Path) -> Result<Lock, Error> {
    let path = dir.join("lock");
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    let mut file = options.open(&path).map_err(Error::file("open the lock file", &path))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            let _unknown = file.read_to_string(&mut holder);
            let holder = if holder.trim().is_empty() { "unknown" } else { holder.trim() }.to_owned();
            return Err(Error::AlreadyRunning { data_dir: dir.to_owned(), holder });
        }
        Err(TryLockError::Error(error)) => return Err(Error::file("lock", &path)(error)),
    }
    let written = file
        .set_len(0)
        .and_then(|()| file.rewind())
        .and_then(|()| file.write_all(std::process::id().to_string().as_bytes()));
    written.map_err(Error::file("write", &path))?;
    Ok(Lock(file))
}

/// Writes a file of ours alone (mode 0600) so that it is there whole, for good, or not at all.
pub(super) fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let beside = path.with_extension(format!("new-{}", random_hex::<4>()));
    let written =
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside).and_then(|mut file| {
            file.write_all(bytes)?;
            file.sync_all()?;
            std::fs::rename(&beside, path)
        });
    written.map_err(Error::file("write", path))?;
    sync_parent(path)
}

/// Makes a rename into the parent of `path` last.
pub(super) fn sync_parent(path: &Path) -> Result<(), Error> {
    let parent = path.parent().unwrap_or(Path::new("/"));
    File::open(parent).and_then(|dir| dir.sync_all()).map_err(Error::file("sync", parent))
}

/// Makes a directory with exactly this mode, whatever the umask.
pub(super) fn make_dir(path: &Path, mode: u32) -> Result<(), Error> {
    let made = DirBuilder::new().mode(mode).create(path);
    made.and_then(|()| std::fs::set_permissions(path, Permissions::from_mode(mode)))
        .map_err(Error::file("make", path))
}

/// `N` bytes of the system's generator, in hex.
pub(super) fn random_hex<const N: usize>() -> String {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the system has a random generator");
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn announcement_path(data_dir: &Path) -> PathBuf {
    data_dir.join("postgres.json")
}
