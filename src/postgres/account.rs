//! The operating system's user that PostgreSQL runs as, and commands run as that user.

use std::ffi::OsStr;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Stdio;

use nix::unistd::{Gid, Uid, User};
use tokio::process::Command;

use super::Error;

/// Tried in this order when root has to run PostgreSQL as somebody else. `postgres` is the packages' own user (and
/// `_postgres` that of macOS), `theazo` one that an operator made for us. `nobody` comes last: whatever else runs as
/// nobody on the machine could read the files.
const ACCOUNTS_FOR_ROOT: [&str; 4] = ["postgres", "_postgres", "theazo", "nobody"];

/// Kept of our own environment. The rest holds the server's secrets, which are none of the database's business, and
/// settings of PostgreSQL (`PGDATA` …) that are meant for another.
const ENVIRONMENT_KEPT: [&str; 4] = ["PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "TMPDIR"];

/// The user that PostgreSQL runs as.
#[derive(Debug, Clone)]
pub(super) struct Account {
    pub(super) name: String,
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// Whether we are root and have to drop to this user.
    pub(super) dropped: bool,
}

impl Account {
    /// Ourselves; as root, which PostgreSQL refuses, the owner of the existing `cluster`, else the best user there is.
    pub(super) fn choose(cluster: Option<&Path>) -> Result<Account, Error> {
        let (uid, gid) = (Uid::effective(), Gid::effective());
        if !uid.is_root() {
            let name = User::from_uid(uid).ok().flatten().map_or_else(|| uid.to_string(), |user| user.name);
            return Ok(Account { name, uid: uid.as_raw(), gid: gid.as_raw(), dropped: false });
        }
        let owner = match cluster {
            Some(path) => {
                Some(path.metadata().map_err(Error::file("look at", path))?.uid()).filter(|uid| *uid != 0)
            }
            None => None,
        };
        let user = match owner {
            Some(uid) => User::from_uid(Uid::from_raw(uid)).ok().flatten(),
            None => ACCOUNTS_FOR_ROOT.iter().find_map(|name| User::from_name(name).ok().flatten()),
        };
        let user = user.ok_or_else(|| Error::NoUser {
            tried: owner.map_or_else(|| ACCOUNTS_FOR_ROOT.join(", "), |uid| format!("with id {uid}")),
        })?;
        if user.name == "nobody" {
            tracing::warn!(
                "PostgreSQL runs as `nobody`, whose files other services may read: make a user `theazo`"
            );
        }
        Ok(Account { name: user.name, uid: user.uid.as_raw(), gid: user.gid.as_raw(), dropped: true })
    }

    /// A command that will run as this user, in `/` and with next to nothing in its environment. (The standard
    /// library also gives up root's supplementary groups when it changes the user.)
    pub(super) fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command.env_clear().env("LC_ALL", "C").env("TZ", "UTC").current_dir("/").stdin(Stdio::null());
        for name in ENVIRONMENT_KEPT {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        if self.dropped {
            command.uid(self.uid).gid(self.gid);
        }
        command
    }

    /// Whether this user can reach `dir`, by trying: every parent has to let it through, and the kernel knows best
    /// (modes, access lists, mount options).
    pub(super) async fn can_enter(&self, dir: &Path) -> bool {
        let mut command = self.command("/bin/sh");
        command.args(["-c", "cd -- \"$1\"", "sh"]).arg(dir).stdout(Stdio::null()).stderr(Stdio::null());
        command.status().await.is_ok_and(|status| status.success())
    }

    /// Gives `path` to this user, if we are another.
    pub(super) fn own(&self, path: &Path) -> Result<(), Error> {
        if !self.dropped {
            return Ok(());
        }
        std::os::unix::fs::lchown(path, Some(self.uid), Some(self.gid))
            .map_err(Error::file("change the owner of", path))
    }
}
