//! Compute: sandboxes in which agents' code runs, here and at vendors.

/// Calls of vendors' HTTP APIs.
mod api;
/// The streams of programs at E2B.
mod connect;
/// Containers at a Docker host.
pub mod docker;
/// Sandboxes at E2B.
pub mod e2b;
/// Machines at Fly.io.
pub mod fly;
/// Work inside the sandboxes of vendors that can start a program and no more.
mod inside;
/// On the server's own machine.
pub mod local;
/// No sandbox at all, for test mode.
pub mod mock;
/// Compute of the customer's own, over a small protocol of ours.
pub mod webhook;

use std::time::Duration;

use async_trait::async_trait;
use theazo_domain::id::{AgentId, SessionId};
use zeroize::Zeroizing;

use crate::{database, vault};

/// A kind of compute.
///
/// Every call has a deadline of its own and answers [`Error::Unavailable`] past it. None of them is repeated by the
/// caller unless it says so; all but `create` and `run` may be repeated without harm.
#[async_trait]
pub trait Compute: Send + Sync {
    /// Makes a sandbox with an empty workspace, and answers when code can run in it.
    ///
    /// # Errors
    /// [`Error`]; nothing is left behind then, or [`Self::list`] finds it.
    async fn create(&self, sandbox: &New) -> Result<Handle, Error>;

    /// Runs a program in the workspace, to its end or to its deadline, past which its whole process group is gone.
    ///
    /// # Errors
    /// [`Error`] when it could not be run; a program that fails is a [`Finished`].
    async fn run(&self, handle: &Handle, program: &Program) -> Result<Finished, Error>;

    /// Writes a file of the workspace, and the folders above it.
    ///
    /// # Errors
    /// [`Error::Path`] when the path leads out of the workspace, also by way of a symbolic link.
    async fn write_file(&self, handle: &Handle, path: &str, content: &[u8]) -> Result<(), Error>;

    /// Reads a file of the workspace, at most `limit` bytes of it.
    ///
    /// # Errors
    /// [`Error::Path`] when the path leads out of the workspace or to nothing that can be read.
    async fn read_file(&self, handle: &Handle, path: &str, limit: usize) -> Result<FileContent, Error>;

    /// Lists a folder of the workspace, in the order of names, at most `limit` entries.
    ///
    /// # Errors
    /// [`Error::Path`] as for reading.
    async fn list_files(&self, handle: &Handle, path: &str, limit: usize) -> Result<Vec<FileEntry>, Error>;

    /// Ends all that runs and keeps the workspace, at as little cost as the vendor has. The handle that it gives is
    /// the one to resume by.
    ///
    /// # Errors
    /// [`Error`].
    async fn pause(&self, handle: &Handle) -> Result<Paused, Error>;

    /// Makes a paused sandbox ready again, with the files that it had.
    ///
    /// # Errors
    /// [`Error`].
    async fn resume(&self, handle: &Handle, sandbox: &New) -> Result<Handle, Error>;

    /// Ends all that runs and deletes the workspace and every snapshot. Nothing being there any more is a success.
    ///
    /// # Errors
    /// [`Error`].
    async fn terminate(&self, handle: &Handle) -> Result<(), Error>;

    /// Every sandbox that this provider holds for us, with the agent that it was made for: what a crash left behind
    /// is found so.
    ///
    /// # Errors
    /// [`Error`].
    async fn list(&self) -> Result<Vec<(AgentId, Handle)>, Error>;

    /// Bytes that the workspace and its snapshot take, for billing storage.
    ///
    /// # Errors
    /// [`Error`].
    async fn stored_bytes(&self, handle: &Handle) -> Result<u64, Error>;
}

/// A sandbox to make.
pub struct New {
    /// For which agent: also the sandbox's name or tag at the vendor's, so that it can be found again.
    pub agent_id: AgentId,
    /// In which session.
    pub session_id: SessionId,
    /// Whether a headless browser is wanted.
    pub browser: bool,
    /// Longest life that is needed, for vendors that end sandboxes by themselves.
    pub lifetime: Duration,
}

/// How a provider finds a sandbox again: its own words, opaque to everyone else. It is written in the log, so it holds
/// no secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Handle(pub String);

/// A language that a program can be in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Language {
    /// Python 3.
    Python,
    /// TypeScript, whose types have been stripped by the time that a provider sees it: it is run by Node.
    TypeScript,
    /// Bash.
    Bash,
}

impl Language {
    /// Every language there is.
    pub const ALL: [Self; 3] = [Self::Python, Self::TypeScript, Self::Bash];

    /// Its name, as callers and models write it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Python => "python",
            Self::TypeScript => "typescript",
            Self::Bash => "bash",
        }
    }

    /// The language of this name; `None` where there is none.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|language| language.as_str() == name)
    }
}

/// A program to run.
pub struct Program {
    /// In what language.
    pub language: Language,
    /// The program.
    pub code: String,
    /// What its environment holds besides what every sandbox has; secrets among it.
    pub environment: Vec<(String, Zeroizing<String>)>,
    /// How long it may run.
    pub timeout: Duration,
    /// Bytes of each of its two outputs that are kept; what is beyond is read and thrown away.
    pub output_limit: usize,
}

/// How a program ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finished {
    /// What it wrote, in UTF-8 (other bytes are replaced).
    pub stdout: String,
    /// What it wrote as errors.
    pub stderr: String,
    /// How it ended.
    pub end: End,
    /// Whether an output was cut at the limit.
    pub truncated: bool,
    /// How long it ran.
    pub duration: Duration,
}

/// The end of a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// It ended by itself, with this code.
    Code(i32),
    /// It was ended by this signal.
    Signal(i32),
    /// It ran past its timeout and was ended, with all its processes.
    TimedOut,
}

/// What is in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileContent {
    /// Its bytes, as many as were asked for.
    pub bytes: Vec<u8>,
    /// Whether there are more.
    pub truncated: bool,
}

/// An entry of a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileEntry {
    /// Its name, with a `/` behind it where it is a folder.
    pub name: String,
    /// Its size in bytes; 0 for a folder.
    pub size: u64,
}

/// A sandbox that is paused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paused {
    /// By which it is resumed, or terminated.
    pub handle: Handle,
    /// Bytes that it takes while it is paused.
    pub stored_bytes: u64,
}

/// What went wrong with a sandbox.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The provider refused, for this reason, in its own words.
    #[error("the compute provider refused: {0}")]
    Refused(String),
    /// The provider cannot be reached or does not answer in time. What was asked may have been done.
    #[error("the compute provider is not available: {0}")]
    Unavailable(String),
    /// The sandbox is gone.
    #[error("the sandbox is gone")]
    Gone,
    /// This machine or provider cannot do it: a missing interpreter, a browser, an isolation layer.
    #[error("{0}")]
    Unsupported(String),
    /// The path leads out of the workspace, or to nothing fitting.
    #[error("{0}")]
    Path(String),
    /// The database is not available: no fault of the provider's, and it passes.
    #[error("the database is not available")]
    Database,
    /// Something that should not happen did, on this side; what, is in the log only.
    #[error("an unexpected error occurred")]
    Internal,
}

impl Error {
    /// Something that should not happen did: logged here, once, and never shown.
    pub(crate) fn internal(what: impl std::fmt::Display) -> Self {
        tracing::error!(error = %what, "internal error");
        Self::Internal
    }

    /// Whether it is none of the provider's, so that trying again later may help.
    pub(crate) const fn is_ours(&self) -> bool {
        matches!(self, Self::Database | Self::Internal)
    }

    /// What is written down of it where it is the end of an agent or a task: for programs, and for people.
    pub(crate) fn recorded(&self) -> (String, String) {
        match self {
            Self::Internal => ("internal_error".to_owned(), "An unexpected error occurred.".to_owned()),
            error => ("provider_error".to_owned(), error.to_string()),
        }
    }
}

impl From<database::Error> for Error {
    fn from(error: database::Error) -> Self {
        if error.is_unavailable() {
            tracing::warn!(%error, "the database is not available");
            Self::Database
        } else {
            Self::internal(error)
        }
    }
}

impl From<vault::Error> for Error {
    fn from(error: vault::Error) -> Self {
        match error {
            vault::Error::Database(error) => error.into(),
            error => Self::internal(error),
        }
    }
}

impl Error {
    /// The same, with the words of whoever told it put otherwise.
    #[must_use]
    pub fn reworded(self, put: impl FnOnce(&str) -> String) -> Self {
        match self {
            Self::Refused(words) => Self::Refused(put(&words)),
            Self::Unavailable(words) => Self::Unavailable(put(&words)),
            Self::Gone => Self::Gone,
            Self::Unsupported(words) => Self::Unsupported(put(&words)),
            Self::Path(words) => Self::Path(put(&words)),
            ours @ (Self::Internal | Self::Database) => ours,
        }
    }
}

/// Refuses a path that leads out of the workspace by what it says itself; where links lead is seen in the sandbox only.
/// The empty path is the workspace.
///
/// # Errors
/// [`Error::Path`].
pub fn check_path(path: &str) -> Result<(), Error> {
    let rule = if path.starts_with('/') {
        "must be relative to the workspace"
    } else if path.split('/').any(|part| part == "..") {
        "must not contain .."
    } else if path.contains('\0') {
        "must not contain a zero byte"
    } else {
        return Ok(());
    };
    Err(Error::Path(format!("the path {rule}")))
}
