//! Compute on the server's own machine: sandboxes made of what Linux has, with no service to install.
//!
//! A sandbox is a folder, `ROOT/AGENT`, with the agent's workspace; while a program runs in it there are two more
//! processes of this same program: the [`supervisor`], which makes the namespaces and the file system from the outside,
//! and the [`init`], process 1 on the inside. The end of either, and the end of the server, is the end of all of it.

mod cgroup;
mod directory;
mod files;
mod init;
mod interpreter;
mod launch;
mod layers;
mod message;
mod registry;
mod root;
mod seccomp;
mod supervisor;
mod tree;
mod trim;
mod watch;

use std::ops::Range;
use std::path::PathBuf;
use std::process::ExitCode;

use async_trait::async_trait;
use theazo_domain::id::AgentId;
use tokio::sync::watch as tokio_watch;
use tokio::task::spawn_blocking;
use zeroize::Zeroizing;

pub use layers::{Layer, layers};
pub use message::Limits;

use super::{Compute, End, Error, FileContent, FileEntry, Finished, Handle, New, Paused, Program};
use crate::config;
use cgroup::Group;
use directory::{Directories, Directory};
use launch::Run;
use message::{Inside, Outside};
use registry::Registry;
use tree::Size;
use trim::{Room, Trimmed};

/// The argument by which this program is a supervisor.
const SUPERVISOR: &str = "sandbox-supervisor";
/// The argument by which this program is an init.
const INIT: &str = "sandbox-init";
/// The user and group that programs are, inside.
const AGENT_ID: u32 = 1_000;

/// Carries on as a process of a sandbox, where this process was started as one: to be called first in `main`, while
/// there is a single thread.
#[must_use]
pub fn enter() -> Option<ExitCode> {
    match std::env::args().nth(1)?.as_str() {
        SUPERVISOR => Some(supervisor::run()),
        INIT => Some(init::run()),
        _ => None,
    }
}

/// Where and how sandboxes are made.
#[derive(Debug, Clone)]
pub struct Options {
    /// The folder of all sandboxes. Servers of one machine share it, so that one goes on with what another began.
    pub root: PathBuf,
    /// The program whose `main` calls [`enter`].
    pub init: PathBuf,
    /// Where interpreters are looked for.
    pub search: Vec<PathBuf>,
    /// Folders that programs see, read-only, beside `/usr` and a little of `/etc`.
    pub read_only: Vec<PathBuf>,
    /// Users of the host that sandboxes are, where the server is root.
    pub host_ids: Range<u32>,
    /// Whether programs share the network of the host, all of it.
    pub network: bool,
    /// Cgroups in which the server may make others.
    pub cgroups: Vec<PathBuf>,
    /// What one sandbox may use.
    pub limits: Limits,
}

impl Options {
    /// The defaults, for sandboxes in this folder.
    #[must_use]
    pub fn new(root: impl Into<PathBuf>) -> Self {
        let (first, number) = config::SANDBOX_HOST_IDS;
        Self {
            root: root.into(),
            // Also when the program's file has been replaced by a newer one meanwhile.
            init: "/proc/self/exe".into(),
            search: ["/usr/local/bin", "/usr/bin", "/bin"].map(PathBuf::from).to_vec(),
            read_only: vec![],
            host_ids: first..first + number,
            network: false,
            cgroups: vec![],
            limits: Limits {
                memory_bytes: config::SANDBOX_MEMORY_BYTES,
                processes: config::SANDBOX_PROCESSES,
                disk_bytes: config::SANDBOX_DISK_BYTES,
                files: config::SANDBOX_FILES,
                open_files: config::SANDBOX_OPEN_FILES,
                processor_time: config::SANDBOX_PROCESSOR_TIME,
            },
        }
    }
}

/// Sandboxes on this machine.
pub struct LocalCompute {
    options: Options,
    directories: Directories,
    registry: Registry,
}

impl LocalCompute {
    /// Sandboxes in the folder that the options name, which is made.
    ///
    /// # Errors
    /// When the folder cannot be made or read.
    pub fn new(options: Options) -> std::io::Result<Self> {
        let directories = Directories::open(&options)?;
        Ok(Self { options, directories, registry: Registry::default() })
    }

    /// Carries out something that touches files, away from the threads that must not wait.
    async fn with<T: Send + 'static>(
        &self,
        handle: &Handle,
        work: impl FnOnce(Directory) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let directory = self.directories.find(handle)?;
        blocking(move || work(directory)).await
    }

    /// What the two processes have to know.
    fn plan(
        &self,
        directory: &Directory,
        program: &Program,
        (room, there): (Room, Size),
    ) -> Result<(Outside, Inside), Error> {
        let start = interpreter::start(&self.options, program.language)?;
        let limits = self.options.limits.clone();
        let outside = Outside {
            host_id: directory.host_id,
            workspace: directory.workspace(),
            temporary: directory.temporary(),
            read_only: self.options.read_only.clone(),
            network: self.options.network,
            // Two more for each of the programs that run at the same time.
            processes: limits.processes + 8,
            program: (start.file, program.code.clone()),
        };
        let mut path: Vec<_> =
            self.options.search.iter().map(|folder| folder.display().to_string()).collect();
        path.dedup();
        let own = [
            ("PATH", path.join(":")),
            ("HOME", "/tmp".to_owned()),
            ("LANG", "C.UTF-8".to_owned()),
            ("PYTHONPATH", root::WORKSPACE.to_owned()),
        ];
        let plain = |(name, value): (&str, String)| (name.to_owned(), Zeroizing::new(value));
        let mut environment: Vec<_> = own.into_iter().map(plain).collect();
        environment.extend(program.environment.iter().cloned());
        environment.push(plain(("THEAZO_AGENT_ID", directory.agent_id.to_string())));
        environment.push(plain(("THEAZO_SESSION_ID", directory.session_id.to_string())));
        let inside = Inside {
            arguments: start.arguments,
            from_input: start.from_input,
            environment,
            limits,
            room,
            there,
            own_network: !self.options.network,
            grouped: cgroup::complete(&self.options.cgroups),
        };
        Ok((outside, inside))
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    spawn_blocking(work).await.map_err(|error| Error::Unavailable(error.to_string()))?
}

/// Refuses a file that would take the sandbox past its limits.
fn fits(needs: &files::Needs, size: Size, limits: &Limits) -> Result<(), Error> {
    let bytes = size.bytes.saturating_sub(needs.replaced).saturating_add(needs.bytes);
    let full = if bytes > limits.disk_bytes {
        format!("{} MiB on disk", limits.disk_bytes >> 20)
    } else if size.files + needs.files > limits.files {
        format!("{} files and folders", limits.files)
    } else if needs.depth >= config::SANDBOX_FOLDER_DEPTH {
        format!("{} folders in each other", config::SANDBOX_FOLDER_DEPTH)
    } else {
        return Ok(());
    };
    Err(Error::Refused(format!(
        "with this file the workspace and /tmp would go past {full}, the most that they may have"
    )))
}

/// Tells a program's caller what became of what was past the limit of the disk. The program ends in the same way whether
/// that was seen while it ran or not.
fn kept_to(mut finished: Finished, trimmed: Option<Trimmed>, past_before: bool) -> Finished {
    let Some(Trimmed { limit, bytes, files }) = trimmed else { return finished };
    let removed =
        format!("{files} files and folders made or changed meanwhile, {} KiB, were removed", bytes >> 10);
    finished.stderr.push_str(&format!("\nThe sandbox went past {limit}: {removed}.\n"));
    if past_before {
        finished
            .stderr
            .push_str("It had gone past before: until it is below, programs can but make it smaller.\n");
    }
    if finished.end != End::TimedOut {
        finished.end = End::Signal(9);
    }
    finished
}

#[async_trait]
impl Compute for LocalCompute {
    async fn create(&self, sandbox: &New) -> Result<Handle, Error> {
        if sandbox.browser {
            return Err(Error::Unsupported("a local sandbox has no browser".to_owned()));
        }
        self.directories.make(sandbox)?;
        self.registry.open(sandbox.agent_id);
        Ok(self.directories.handle(sandbox.agent_id))
    }

    async fn run(&self, handle: &Handle, program: &Program) -> Result<Finished, Error> {
        let directory = self.directories.find(handle)?;
        let entry = self.registry.enter(directory.agent_id).ok_or(Error::Gone)?;
        let measured = directory.clone();
        let (there, began) = blocking(move || Ok((measured.size()?, measured.now()?))).await?;
        let room = entry.room(Room::new(&self.options.limits, there));
        let (outside, inside) = self.plan(&directory, program, (room, there))?;
        let group = match self.options.cgroups.is_empty() {
            true => None,
            false => {
                let name = directory.agent_id.to_string();
                let made = Group::make(&self.options.cgroups, &name, &self.options.limits);
                Some(made.map_err(|error| Error::Unsupported(format!("cgroup: {error}")))?)
            }
        };
        // Whoever waits may go away; the sandbox is ended then, by a task that stays until it has.
        let (waiting, gone) = tokio_watch::channel(false);
        let stop = entry.stop(gone, directory.marker());
        let limits = inside.limits.clone();
        let run = Run {
            outside,
            inside,
            timeout: program.timeout,
            output_limit: program.output_limit,
            stop,
            total: entry.total(limits.clone()),
        };
        let options = self.options.clone();
        let task = tokio::spawn(async move {
            let finished = launch::run(&options, group.as_ref(), run).await;
            let past = Room::new(&limits, Size::default()) != room;
            let trimmed = blocking(move || directory.trim(began, room, &limits)).await;
            drop(entry);
            Ok(kept_to(finished?, trimmed?, past))
        });
        let finished = task.await.map_err(|error| Error::Unavailable(error.to_string()))?;
        drop(waiting);
        finished
    }

    async fn write_file(&self, handle: &Handle, path: &str, content: &[u8]) -> Result<(), Error> {
        let (path, content, limits) = (path.to_owned(), content.to_vec(), self.options.limits.clone());
        self.with(handle, move |directory| {
            let workspace = directory.open()?;
            let needs = files::needs(&workspace, &path, &content)?;
            fits(&needs, directory.size()?, &limits)?;
            files::write(&workspace, directory.host_id, &path, &content)
        })
        .await
    }

    async fn read_file(&self, handle: &Handle, path: &str, limit: usize) -> Result<FileContent, Error> {
        let path = path.to_owned();
        self.with(handle, move |directory| files::read(&directory.open()?, &path, limit)).await
    }

    async fn list_files(&self, handle: &Handle, path: &str, limit: usize) -> Result<Vec<FileEntry>, Error> {
        let path = path.to_owned();
        self.with(handle, move |directory| files::list(&directory.open()?, &path, limit)).await
    }

    async fn pause(&self, handle: &Handle) -> Result<Paused, Error> {
        let directory = self.directories.find(handle)?;
        self.registry.end(directory.agent_id, false).await;
        let stored_bytes = blocking(move || {
            directory.clear_temporary()?;
            Ok(directory.size()?.bytes)
        });
        Ok(Paused { handle: handle.clone(), stored_bytes: stored_bytes.await? })
    }

    async fn resume(&self, handle: &Handle, _sandbox: &New) -> Result<Handle, Error> {
        let directory = self.directories.find(handle)?;
        self.registry.open(directory.agent_id);
        Ok(handle.clone())
    }

    async fn terminate(&self, handle: &Handle) -> Result<(), Error> {
        let agent_id = self.directories.named(handle)?;
        self.registry.end(agent_id, true).await;
        let path = self.directories.path(agent_id);
        let (cgroups, name) = (self.options.cgroups.clone(), agent_id.to_string());
        blocking(move || {
            let failed = |error| Error::Unavailable(format!("the sandbox cannot be deleted: {error}"));
            Directory::forsake(&path).map_err(failed)?;
            tree::remove(&path).map_err(failed)?;
            Group::remove(&cgroups, &name).map_err(failed)
        })
        .await?;
        self.registry.forget(agent_id);
        Ok(())
    }

    async fn list(&self) -> Result<Vec<(AgentId, Handle)>, Error> {
        let found = self.directories.all().map_err(|error| Error::Unavailable(error.to_string()))?;
        Ok(found.into_iter().map(|agent_id| (agent_id, self.directories.handle(agent_id))).collect())
    }

    async fn stored_bytes(&self, handle: &Handle) -> Result<u64, Error> {
        self.with(handle, |directory| Ok(directory.size()?.bytes)).await
    }
}
