//! The folders of sandboxes: `ROOT/AGENT/{workspace,tmp}`, and beside them the session in `sandbox.json`, written last.

use std::collections::HashSet;
use std::fs::{self, DirBuilder};
use std::io;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, chown};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use nix::unistd::Uid;
use serde::{Deserialize, Serialize};
use theazo_domain::id::{AgentId, SessionId};

use super::tree::{self, Size};
use super::{Options, registry};
use crate::providers::compute::{Error, Handle, New};

/// What a handle says.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Said {
    directory: AgentId,
}

/// What is written beside the workspace.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Written {
    session_id: SessionId,
}

/// The handle of an agent's sandbox.
pub(super) fn handle(agent_id: AgentId) -> Handle {
    Handle(serde_json::json!({ "directory": agent_id }).to_string())
}

/// The agent of a handle.
pub(super) fn named(handle: &Handle) -> Result<AgentId, Error> {
    let said: Said = serde_json::from_str(&handle.0)
        .map_err(|_| Error::Refused("that is no handle of a local sandbox".to_owned()))?;
    Ok(said.directory)
}

/// All sandboxes of a server.
pub(super) struct Directories {
    root: PathBuf,
    /// Users of the host for sandboxes, where the server is root.
    host_ids: Option<Range<u32>>,
    /// Held while a user is chosen.
    choosing: Mutex<()>,
}

/// One sandbox.
pub(super) struct Directory {
    pub(super) agent_id: AgentId,
    pub(super) session_id: SessionId,
    /// The user and group of the host that it is, where the server is root.
    pub(super) host_id: Option<u32>,
    path: PathBuf,
}

impl From<&Directory> for Handle {
    fn from(directory: &Directory) -> Self {
        handle(directory.agent_id)
    }
}

impl Directories {
    pub(super) fn open(options: &Options) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(&options.root)?;
        // As every process has to find it, whatever its working directory is.
        let root = options.root.canonicalize()?;
        let host_ids = Uid::effective().is_root().then(|| options.host_ids.clone());
        Ok(Self { root, host_ids, choosing: Mutex::new(()) })
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
        drop(choosing);
        let written = serde_json::to_vec(&Written { session_id: sandbox.session_id });
        fs::write(path.join("sandbox.json"), written.map_err(|error| failed(error.into()))?)
            .map_err(failed)?;
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
        let agent_id = named(handle)?;
        let path = self.path(agent_id);
        let read = fs::read(path.join("sandbox.json")).map_err(|_| Error::Gone)?;
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

impl Directory {
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

    /// What the workspace and the `/tmp` take.
    pub(super) fn size(&self) -> Result<Size, Error> {
        let sizes = [self.workspace(), self.temporary()]
            .map(|path| tree::size(&opened(&path)?).map_err(|error| Error::Unavailable(error.to_string())));
        let [workspace, temporary] = sizes;
        Ok(workspace?.and(temporary?))
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
