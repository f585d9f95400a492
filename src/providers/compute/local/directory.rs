//! The folders of sandboxes: `ROOT/AGENT/{workspace,tmp}`, and beside them the session in `sandbox.json`, written last and
//! deleted first.
//!
//! Servers on one machine may share the root, so that an agent's files are there whichever of them goes on with it. What
//! has to be done by one at a time is done under a lock on a file of the root. The root has a name that was drawn when it
//! was made, by which a server on another machine sees that a sandbox is not one of its own.

use std::collections::HashSet;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, chown};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use nix::unistd::Uid;
use rustix::fs::{AtFlags, CWD, StatxFlags, Timespec, Timestamps, UTIME_NOW, statx, utimensat};
use serde::{Deserialize, Serialize};
use theazo_domain::id::{AgentId, SessionId};

use super::tree::{self, Size};
use super::trim::{self, Moment, Room, Trimmed};
use super::{Limits, Options, registry};
use crate::providers::compute::{Error, Handle, New};
use crate::random;

/// The file whose lock is held while what all servers share is changed; its content is the root's name.
const ROOT_FILE: &str = "root";
/// The file that says that a sandbox is there.
const SANDBOX_FILE: &str = "sandbox.json";

/// What a handle says.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Said {
    directory: AgentId,
    /// The name of the root that it lies in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    root: Option<String>,
}

/// What is written beside the workspace.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Written {
    session_id: SessionId,
}

/// All sandboxes of a machine's servers.
pub(super) struct Directories {
    root: PathBuf,
    name: String,
    /// Users of the host for sandboxes, where the server is root.
    host_ids: Option<Range<u32>>,
    /// Held while a user is chosen.
    choosing: Mutex<()>,
}

/// One sandbox.
#[derive(Clone)]
pub(super) struct Directory {
    pub(super) agent_id: AgentId,
    pub(super) session_id: SessionId,
    /// The user and group of the host that it is, where the server is root.
    pub(super) host_id: Option<u32>,
    path: PathBuf,
}

impl Directories {
    pub(super) fn open(options: &Options) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(&options.root)?;
        // As every process has to find it, whatever its working directory is.
        let root = options.root.canonicalize()?;
        let host_ids = Uid::effective().is_root().then(|| options.host_ids.clone());
        let file = lock(&root)?;
        let mut name = fs::read_to_string(root.join(ROOT_FILE))?;
        if name.is_empty() {
            name = hex::encode(random::bytes::<16>());
            fs::write(root.join(ROOT_FILE), &name)?;
        }
        drop(file);
        Ok(Self { root, name, host_ids, choosing: Mutex::new(()) })
    }

    /// The handle of an agent's sandbox.
    pub(super) fn handle(&self, agent_id: AgentId) -> Handle {
        let said = Said { directory: agent_id, root: Some(self.name.clone()) };
        Handle(serde_json::to_string(&said).expect("two texts are plain data"))
    }

    /// The agent of a handle.
    ///
    /// # Errors
    /// When it is the handle of something else, or of a sandbox on another machine.
    pub(super) fn named(&self, handle: &Handle) -> Result<AgentId, Error> {
        let said: Said = serde_json::from_str(&handle.0)
            .map_err(|_| Error::Refused("that is no handle of a local sandbox".to_owned()))?;
        match said.root {
            Some(root) if root != self.name => Err(Error::Unavailable(
                "the agent's files are on the machine of another server, or in another folder of sandboxes"
                    .to_owned(),
            )),
            _ => Ok(said.directory),
        }
    }

    pub(super) fn path(&self, agent_id: AgentId) -> PathBuf {
        self.root.join(agent_id.to_string())
    }

    /// Makes the folder of an agent anew.
    pub(super) fn make(&self, sandbox: &New) -> Result<Directory, Error> {
        let path = self.path(sandbox.agent_id);
        let failed = |error: io::Error| Error::Unavailable(format!("{}: {error}", path.display()));
        tree::remove(&path).map_err(failed)?;
        let choosing = registry::lock(&self.choosing);
        let file = lock(&self.root).map_err(failed)?;
        let host_id = match &self.host_ids {
            Some(range) => Some(self.free_id(range)?),
            None => None,
        };
        let mut private = DirBuilder::new();
        private.mode(0o700).create(&path).map_err(failed)?;
        for name in ["workspace", "tmp"] {
            private.create(path.join(name)).map_err(failed)?;
            if host_id.is_some() {
                chown(path.join(name), host_id, host_id)
                    .map_err(|error| Error::Unsupported(format!("a user for sandboxes: {error}")))?;
            }
        }
        drop(file);
        drop(choosing);
        let written = serde_json::to_vec(&Written { session_id: sandbox.session_id });
        fs::write(path.join(SANDBOX_FILE), written.map_err(|error| failed(error.into()))?).map_err(failed)?;
        Ok(Directory { agent_id: sandbox.agent_id, session_id: sandbox.session_id, host_id, path })
    }

    /// A user that no sandbox is.
    fn free_id(&self, range: &Range<u32>) -> Result<u32, Error> {
        let agents = self.all().map_err(|error| Error::Unavailable(error.to_string()))?;
        let owner = |agent| Some(fs::metadata(self.path(agent).join("workspace")).ok()?.uid());
        let taken: HashSet<u32> = agents.into_iter().filter_map(owner).collect();
        let mut free = range.clone().filter(|id| !taken.contains(id));
        free.next().ok_or_else(|| {
            Error::Refused("there are as many sandboxes as there are users for them".to_owned())
        })
    }

    /// The sandbox of a handle.
    ///
    /// # Errors
    /// [`Error::Gone`] when there is none.
    pub(super) fn find(&self, handle: &Handle) -> Result<Directory, Error> {
        let agent_id = self.named(handle)?;
        let path = self.path(agent_id);
        let read = fs::read(path.join(SANDBOX_FILE)).map_err(|_| Error::Gone)?;
        let written: Written = serde_json::from_slice(&read).map_err(|_| Error::Gone)?;
        let owner = fs::metadata(path.join("workspace")).map_err(|_| Error::Gone)?.uid();
        let host_id = self.host_ids.as_ref().map(|_| owner);
        if host_id == Some(0) {
            return Err(Error::Unsupported("a sandbox of root's: it was made by something else".to_owned()));
        }
        Ok(Directory { agent_id, session_id: written.session_id, host_id, path })
    }

    /// Every agent that has a folder.
    pub(super) fn all(&self) -> io::Result<Vec<AgentId>> {
        let mut found = vec![];
        for entry in fs::read_dir(&self.root)? {
            found.extend(entry?.file_name().to_str().and_then(|name| name.parse::<AgentId>().ok()));
        }
        Ok(found)
    }
}

/// Waits for the lock on what servers of this machine share, and holds it until the file is closed.
fn lock(root: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    let file = options.read(true).append(true).create(true).mode(0o600).open(root.join(ROOT_FILE))?;
    file.lock()?;
    Ok(file)
}

impl Directory {
    /// Says that the sandbox is gone: programs that other servers run in it are ended by them when they see so.
    pub(super) fn forsake(path: &Path) -> io::Result<()> {
        match fs::remove_file(path.join(SANDBOX_FILE)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// The file that says that the sandbox is there.
    pub(super) fn marker(&self) -> PathBuf {
        self.path.join(SANDBOX_FILE)
    }

    pub(super) fn workspace(&self) -> PathBuf {
        self.path.join("workspace")
    }

    pub(super) fn temporary(&self) -> PathBuf {
        self.path.join("tmp")
    }

    /// The workspace, opened.
    pub(super) fn open(&self) -> Result<OwnedFd, Error> {
        opened(&self.workspace())
    }

    /// The two writable folders, opened.
    fn tops(&self) -> Result<[OwnedFd; 2], Error> {
        Ok([opened(&self.workspace())?, opened(&self.temporary())?])
    }

    /// What the workspace and the `/tmp` take.
    pub(super) fn size(&self) -> Result<Size, Error> {
        let [workspace, temporary] =
            self.tops()?.map(|top| tree::size(&top).map_err(|error| Error::Unavailable(error.to_string())));
        Ok(workspace?.and(temporary?))
    }

    /// The present moment, by the clock that stamps the files.
    pub(super) fn now(&self) -> Result<Moment, Error> {
        let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
        let marker = self.marker();
        utimensat(CWD, &marker, &Timestamps { last_access: now, last_modification: now }, AtFlags::empty())
            .and_then(|()| statx(CWD, &marker, AtFlags::empty(), StatxFlags::CTIME))
            .map(|stat| stat.stx_ctime.into())
            .map_err(|_| Error::Gone)
    }

    /// Deletes what is past the limits of the disk, as [`trim::trim`]. Of a sandbox that is gone there is nothing.
    pub(super) fn trim(&self, since: Moment, room: Room, limits: &Limits) -> Result<Option<Trimmed>, Error> {
        let Ok(tops) = self.tops() else { return Ok(None) };
        trim::trim(&tops, since, room, limits)
            .map_err(|error| Error::Unavailable(format!("the sandbox' disk cannot be looked at: {error}")))
    }

    /// Deletes what is in `/tmp`. Nothing may run.
    pub(super) fn clear_temporary(&self) -> Result<(), Error> {
        let failed = |error: io::Error| Error::Unavailable(error.to_string());
        let path = self.temporary();
        tree::remove(&path).map_err(failed)?;
        DirBuilder::new().mode(0o700).create(&path).map_err(failed)?;
        chown(&path, self.host_id, self.host_id).map_err(failed)
    }
}

fn opened(path: &Path) -> Result<OwnedFd, Error> {
    tree::open_dir(path).map_err(|_| Error::Gone)
}
