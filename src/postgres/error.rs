//! What can go wrong with the server's own PostgreSQL, and what to do about each.

use std::io;
use std::path::{Path, PathBuf};

/// Why the server's own PostgreSQL could not be started, reached or kept running.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or directory could not be used.
    #[error("cannot {action} {}: {source}", path.display())]
    File {
        /// What was tried, as in "cannot …".
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },

    /// A living server holds the lock of this data directory.
    #[error(
        "another theazo server (process {holder}) is running on {}: stop it, or give this one another --data-dir",
        data_dir.display()
    )]
    AlreadyRunning {
        /// The data directory.
        data_dir: PathBuf,
        /// The process id that the holder wrote into the lock file, or "unknown".
        holder: String,
    },

    /// There is no PostgreSQL to run.
    #[error(
        "found no PostgreSQL {wanted} to run ({looked}), and could not fetch one ({fetch}). There are three ways on: \
         install PostgreSQL with the package manager (Debian, Ubuntu: apt-get install postgresql; macOS: brew install \
         postgresql); name a running database with --database-url; or allow the download, or put the directory of \
         `initdb` and `postgres` on PATH"
    )]
    NoBinaries {
        /// Which versions would do.
        wanted: String,
        /// What was found, and why it would not do.
        looked: String,
        /// Why the download failed, or was not tried.
        fetch: String,
    },

    /// The server runs as root and knows no other user.
    #[error(
        "PostgreSQL refuses to run as root, and this machine has none of the users {tried}: make one \
         (useradd --system theazo), or run theazo as an ordinary user"
    )]
    NoUser {
        /// The names looked up.
        tried: String,
    },

    /// No directory can be reached by the user that PostgreSQL runs as.
    #[error(
        "the user `{user}`, as whom PostgreSQL has to run, can reach none of {tried}: choose a --data-dir whose parent \
         directories are open to that user (chmod o+x)"
    )]
    NoHome {
        /// The user's name.
        user: String,
        /// The directories tried.
        tried: String,
    },

    /// The data directory remembers a cluster that is not there any more.
    #[error(
        "{} says that the database is in {}, which is gone: restore that directory, or delete the file to begin with an \
         empty database",
        record.display(), home.display()
    )]
    HomeMissing {
        /// The file that remembers.
        record: PathBuf,
        /// The missing directory.
        home: PathBuf,
    },

    /// The cluster's secret is lost.
    #[error("the database in {} needs the secret in {}, which is missing: restore that file", cluster.display(), secret.display())]
    SecretMissing {
        /// The cluster's directory.
        cluster: PathBuf,
        /// The file.
        secret: PathBuf,
    },

    /// The directory for the socket cannot be trusted.
    #[error(
        "the socket directory {} must be a directory of user {uid} alone (mode 0700), and is not: remove it",
        path.display()
    )]
    SocketDir {
        /// The directory.
        path: PathBuf,
        /// The user id that should own it.
        uid: u32,
    },

    /// `initdb` failed.
    #[error("initdb could not make the database in {}: {output}", path.display())]
    Initdb {
        /// The cluster's directory.
        path: PathBuf,
        /// What it said.
        output: String,
    },

    /// A postmaster left by an earlier server does not go away.
    #[error("a PostgreSQL (process {pid}) that is still running on {} cannot be stopped ({why}): end it and try again", cluster.display())]
    Orphan {
        /// Its process id.
        pid: u32,
        /// The cluster's directory.
        cluster: PathBuf,
        /// Why not.
        why: String,
    },

    /// PostgreSQL did not come up.
    #[error("PostgreSQL did not start on {} ({why}); its log is {}, and ends with:\n{tail}", cluster.display(), log.display())]
    Start {
        /// The cluster's directory.
        cluster: PathBuf,
        /// How it failed.
        why: String,
        /// The log file.
        log: PathBuf,
        /// The log's last lines.
        tail: String,
    },

    /// PostgreSQL runs and refuses us, or its socket cannot be reached.
    #[error("cannot connect to PostgreSQL over {}: {why}", socket_dir.display())]
    Connect {
        /// The directory of the socket.
        socket_dir: PathBuf,
        /// What was said.
        why: String,
    },
}

impl Error {
    /// For `map_err`: an I/O error with what was tried on which path.
    pub(super) fn file(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
        move |source| Error::File { action, path: path.to_owned(), source }
    }
}
