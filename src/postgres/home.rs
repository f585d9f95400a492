//! Where the cluster and its socket are.
//!
//! Below the data directory, if the user that PostgreSQL runs as can reach it. (Below `/root` it cannot.) Else in a
//! directory of the system with a random name, which the data directory remembers: a name made from the data
//! directory's path would, after that was deleted, bring an old database back to life.

use std::ffi::OsStr;
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::account::Account;
use super::data_dir::{self, DataDir};
use super::{Error, endpoint};

/// Other places for the cluster, each followed by a random name. Neither is emptied when the machine starts.
const OTHER_PLACES: [&str; 2] = ["/var/lib/theazo", "/var/tmp"];

/// The longest path of a socket that every system takes (Linux has 107 bytes, macOS 103).
const SOCKET_PATH_BYTES_MAX: usize = 103;

/// The directory that holds the cluster.
#[derive(Debug)]
pub(super) struct Home {
    pub(super) path: PathBuf,
    /// The lock of a home outside the data directory: a copied data directory remembers the same one.
    _lock: Option<data_dir::Lock>,
}

/// The home that the data directory remembers; without a record, the one below it if that has a cluster.
pub(super) fn remembered(data_dir: &DataDir) -> Result<Option<PathBuf>, Error> {
    let record = data_dir.home_record();
    match std::fs::read(&record) {
        Ok(bytes) => {
            // Below the data directory the path is kept relative, so that the whole can be moved.
            let home = data_dir.path.join(OsStr::from_bytes(bytes.trim_ascii()));
            if home.is_dir() { Ok(Some(home)) } else { Err(Error::HomeMissing { record, home }) }
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {
            Ok(Some(inside(data_dir)).filter(|home| cluster_in(home).exists()))
        }
        Err(error) => Err(Error::file("read", &record)(error)),
    }
}

impl Home {
    /// The home remembered, else the first place that `account` can reach, from now on remembered.
    pub(super) async fn choose(
        remembered: Option<PathBuf>,
        data_dir: &DataDir,
        account: &Account,
    ) -> Result<Home, Error> {
        let mut tried = Vec::new();
        let remembers = remembered.is_some();
        let places = remembered.map_or_else(|| places(data_dir), |home| vec![home]);
        for path in places {
            if make_reachable(&path, account).await {
                let outside = !path.starts_with(&data_dir.path);
                let lock = if outside { Some(data_dir::lock(&path)?) } else { None };
                if !remembers {
                    let kept = path.strip_prefix(&data_dir.path).unwrap_or(&path);
                    data_dir::write_whole(&data_dir.home_record(), kept.as_os_str().as_encoded_bytes())?;
                }
                return Ok(Home { path, _lock: lock });
            }
            tried.push(path.display().to_string());
        }
        Err(Error::NoHome { user: account.name.clone(), tried: tried.join(", ") })
    }

    /// The cluster itself.
    pub(super) fn cluster(&self) -> PathBuf {
        cluster_in(&self.path)
    }

    /// The cluster's major version, if there is a cluster.
    pub(super) fn cluster_major(&self) -> Option<u32> {
        let version = std::fs::read_to_string(self.cluster().join("PG_VERSION")).ok()?;
        version.trim().parse().ok()
    }

    /// The directory of the socket, made if need be: open to the account alone, since whoever can reach a socket can
    /// try to log in. A long path does not fit into a socket's address, so a short one stands in, under a name that the
    /// home's path decides.
    pub(super) fn socket_dir(&self, account: &Account) -> Result<PathBuf, Error> {
        let inside = self.path.join("run");
        let path = if fits(&inside) { inside } else { short_socket_dir(&self.path) };
        match data_dir::make_dir(&path, 0o700) {
            Ok(()) => account.own(&path)?,
            Err(Error::File { source, .. }) if source.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
        let found = path.symlink_metadata().map_err(Error::file("look at", &path))?;
        if !found.is_dir() || found.uid() != account.uid || found.permissions().mode() & 0o077 != 0 {
            return Err(Error::SocketDir { path, uid: account.uid });
        }
        Ok(path)
    }
}

/// The cluster's directory in a home.
pub(super) fn cluster_in(home: &Path) -> PathBuf {
    home.join("data")
}

/// The home below the data directory.
fn inside(data_dir: &DataDir) -> PathBuf {
    data_dir.path.join("postgres")
}

/// The places for a new home, best first.
fn places(data_dir: &DataDir) -> Vec<PathBuf> {
    let name = format!("theazo-{}", data_dir::random_hex::<8>());
    let others = OTHER_PLACES.iter().map(|place| Path::new(place).join(&name));
    [inside(data_dir)].into_iter().chain(others).collect()
}

/// Makes the directory, if it is missing, and says whether `account` can reach it. A new one that it cannot reach is
/// removed again. The home stays our own: the account writes below its cluster and its socket's directory only.
async fn make_reachable(path: &Path, account: &Account) -> bool {
    let is_new = !path.exists();
    if is_new {
        if let Some(parent) = path.parent().filter(|parent| !parent.exists()) {
            let _made = data_dir::make_dir(parent, 0o755);
        }
        if data_dir::make_dir(path, 0o755).is_err() {
            return false;
        }
    }
    let reachable = account.can_enter(path).await;
    if is_new && !reachable {
        let _removed = std::fs::remove_dir(path);
    }
    reachable
}

/// Whether PostgreSQL takes this directory for its socket: short enough, and free of what its list syntax gives a meaning.
fn fits(dir: &Path) -> bool {
    let Some(text) = dir.to_str() else { return false };
    let socket_name = format!("/.s.PGSQL.{}", endpoint::PORT);
    let plain = text.chars().all(|c| c.is_ascii_alphanumeric() || "/_.-+@".contains(c));
    plain && text.len() + socket_name.len() <= SOCKET_PATH_BYTES_MAX
}

/// A short directory for the socket of this home.
fn short_socket_dir(home: &Path) -> PathBuf {
    let digest = Sha256::digest(home.as_os_str().as_encoded_bytes());
    let name: String = digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    Path::new("/tmp").join(format!("theazo-{name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_directory_is_short_and_plain() {
        assert!(fits(Path::new("/srv/theazo/.theazo/postgres/run")));
        assert!(!fits(Path::new(&format!("/srv/{}/run", "x".repeat(100)))));
        assert!(!fits(Path::new("/srv/the azo/run")));
        assert!(!fits(Path::new("/srv/a,b/run")));
        assert!(fits(&short_socket_dir(Path::new(&format!("/srv/{}", "x".repeat(100))))));
    }
}
