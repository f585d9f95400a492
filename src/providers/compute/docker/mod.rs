//! Containers, through the Docker Engine API (<https://docs.docker.com/reference/api/engine/>), one for each agent.
//!
//! A container has no network, no capability, no way to gain privileges, a root file system that cannot be written, and
//! limits on memory, processes and processors. Files are read and written by the supervisor inside (see `inside`), not
//! through the archive API: that one works as the daemon, outside the container's user and limits, and what it checks is
//! not what it uses.
//!
//! A pause ends all that runs, since that is what a pause means to an agent. Where the workspace is a volume the
//! container is stopped and costs disk only; where it is in memory, stopping would lose it, so the empty container is
//! frozen (`docker pause`) and keeps the memory of its workspace. It was tested against the strict server in
//! `tests/it/support/vendors/docker.rs`, not against Docker.

/// What a container is made of.
mod container;

use std::collections::HashMap;
use std::time::Duration;

use self::container::{AGENT_LABEL, OWNER_LABEL, USER, WORKSPACE};
pub use self::container::{DEFAULT_IMAGE, Settings, Workspace};
use async_trait::async_trait;
use bollard::container::LogOutput;
use bollard::exec::{StartExecOptions, StartExecResults};
use bollard::models::{ContainerState, ExecConfig};
use bollard::query_parameters::{
    CreateContainerOptions, InspectContainerOptions, ListContainersOptions, ListVolumesOptions,
    RemoveContainerOptions, RemoveVolumeOptions, StartContainerOptions, StopContainerOptions,
};
use futures_util::StreamExt;
use theazo_domain::id::AgentId;
use tokio::io::AsyncWriteExt;
use tokio::sync::OnceCell;
use tokio::time::timeout;
use url::Url;

use super::api::repeatedly;
use super::inside::{self, Exec, Named, Output, Work};
use super::{Compute, Error, FileContent, FileEntry, Finished, Handle, New, Paused, Program};
use crate::config;
use crate::providers::client::Client;

/// Who named a Docker host.
pub enum NamedBy {
    /// The operator: any host will do.
    Operator,
    /// A customer: only `tcp://` to an address that this client may call.
    Customer(Client),
}

/// Compute at a Docker host.
pub struct Docker {
    host: String,
    named_by: NamedBy,
    settings: Settings,
    connection: OnceCell<bollard::Docker>,
}

impl Docker {
    /// Compute at this host: `unix:///run/docker.sock` or `tcp://host:2375`, as in `DOCKER_HOST`. It is connected to
    /// when it is first needed.
    ///
    /// # Errors
    /// [`Error::Unsupported`] where a host is neither.
    pub fn new(host: &str, named_by: NamedBy, settings: Settings) -> Result<Self, Error> {
        let unix = host.starts_with("unix:///") && matches!(named_by, NamedBy::Operator);
        if !unix && !host.starts_with("tcp://") {
            let allowed = if matches!(named_by, NamedBy::Operator) { "unix:// or tcp://" } else { "tcp://" };
            return Err(Error::Unsupported(format!("a Docker host must begin with {allowed}")));
        }
        Ok(Self { host: host.to_owned(), named_by, settings, connection: OnceCell::new() })
    }

    async fn docker(&self) -> Result<&bollard::Docker, Error> {
        self.connection.get_or_try_init(|| within(config::COMPUTE_DEADLINE, self.connect())).await
    }

    async fn connect(&self) -> Result<bollard::Docker, Error> {
        // Every call has a shorter deadline of its own.
        let longest_s = config::COMPUTE_CREATE_DEADLINE.as_secs();
        let version = bollard::API_DEFAULT_VERSION;
        let docker = if self.host.starts_with("unix://") {
            bollard::Docker::connect_with_unix(&self.host, longest_s, version)
        } else {
            bollard::Docker::connect_with_http(&self.address().await?, longest_s, version)
        };
        let docker = docker.map_err(|error| explain(&error))?;
        docker.negotiate_version().await.map_err(|error| explain(&error))
    }

    /// The address to connect to. A customer's is looked up here and then kept, so that its name cannot come to mean
    /// another address between the check and the use.
    async fn address(&self) -> Result<String, Error> {
        let NamedBy::Customer(client) = &self.named_by else { return Ok(self.host.clone()) };
        let name = self.host.trim_start_matches("tcp://").trim_end_matches('/');
        let addresses = tokio::net::lookup_host(name).await;
        let addresses = addresses
            .map_err(|error| Error::Unavailable(format!("the Docker host does not resolve: {error}")))?;
        for address in addresses {
            let url = Url::parse(&format!("http://{address}/")).expect("an address makes a URL");
            if client.check_literal(&url).is_ok() {
                return Ok(format!("tcp://{address}"));
            }
        }
        Err(Error::Refused("the Docker host must have a public address".to_owned()))
    }

    fn name_of(agent: AgentId) -> String {
        format!("theazo-{agent}")
    }

    async fn make(&self, sandbox: &New, name: &str) -> Result<(), bollard::errors::Error> {
        let docker = self.connection.get().expect("it was connected to");
        let options =
            CreateContainerOptions { name: Some(name.to_owned()), ..CreateContainerOptions::default() };
        docker.create_container(Some(options), self.settings.body(sandbox, name)).await?;
        docker.start_container(name, None::<StartContainerOptions>).await
    }

    async fn remove(&self, name: &str) -> Result<(), Error> {
        let docker = self.docker().await?;
        let options = RemoveContainerOptions { v: true, force: true, ..RemoveContainerOptions::default() };
        absent_is_fine(docker.remove_container(name, Some(options)).await)?;
        if self.settings.in_volume() {
            absent_is_fine(docker.remove_volume(name, None::<RemoveVolumeOptions>).await)?;
        }
        Ok(())
    }

    async fn state(&self, name: &str) -> Result<ContainerState, Error> {
        let docker = self.docker().await?;
        let container = docker.inspect_container(name, None::<InspectContainerOptions>).await;
        let container = container.map_err(|error| explain(&error))?;
        Ok(container.state.unwrap_or_default())
    }

    /// Has a container's processes go on. It is looked at before each attempt, so that nothing is done twice.
    async fn awaken(&self, name: &str) -> Result<(), Error> {
        let awaken = || async move {
            let state = self.state(name).await?;
            let docker = self.docker().await?;
            let awoken = if state.paused == Some(true) {
                docker.unpause_container(name).await
            } else if state.running == Some(true) {
                Ok(())
            } else if self.settings.in_volume() {
                docker.start_container(name, None::<StartContainerOptions>).await
            } else {
                // The host or its daemon was restarted, and the workspace with it.
                return Err(Error::Gone);
            };
            awoken.map_err(|error| explain(&error))
        };
        repeatedly(awaken).await
    }

    /// Has nothing of a container go on, at as little cost as its workspace allows; in the same way.
    async fn suspend(&self, name: &str) -> Result<(), Error> {
        let suspend = || async move {
            let state = self.state(name).await?;
            let docker = self.docker().await?;
            let suspended = if state.paused == Some(true) || state.running != Some(true) {
                Ok(())
            } else if self.settings.in_volume() {
                let options = StopContainerOptions { t: Some(1), ..StopContainerOptions::default() };
                docker.stop_container(name, Some(options)).await
            } else {
                docker.pause_container(name).await
            };
            suspended.map_err(|error| explain(&error))
        };
        repeatedly(suspend).await
    }

    async fn exec_as(&self, user: &str, name: &str, work: &Work) -> Result<Output, Error> {
        let docker = self.docker().await?;
        let exec = ExecConfig {
            attach_stdin: Some(true),
            attach_stdout: Some(true),
            attach_stderr: Some(true),
            user: Some(user.to_owned()),
            working_dir: Some(WORKSPACE.to_owned()),
            cmd: Some(work.command().map(str::to_owned).to_vec()),
            ..ExecConfig::default()
        };
        let created = docker.create_exec(name, exec).await.map_err(|error| explain(&error))?;
        let started = docker.start_exec(&created.id, None::<StartExecOptions>).await;
        let StartExecResults::Attached { output, input } = started.map_err(|error| explain(&error))? else {
            return Err(Error::Unavailable("Docker did not attach to the program".to_owned()));
        };
        let mut written = converse(output, input, work).await?;
        let ended = docker.inspect_exec(&created.id).await.map_err(|error| explain(&error))?;
        written.code = ended.exit_code;
        Ok(written)
    }

    async fn as_root(&self, name: &str, operation: &str) -> Result<(), Error> {
        struct AsRoot<'a>(&'a Docker);
        #[async_trait]
        impl Exec for AsRoot<'_> {
            fn workspace(&self) -> &str {
                WORKSPACE
            }

            async fn exec(&self, handle: &Handle, work: &Work) -> Result<Output, Error> {
                within(work.deadline, self.0.exec_as("0:0", &handle.0, work)).await
            }
        }
        inside::perform(&AsRoot(self), &Handle(name.to_owned()), operation).await
    }
}

/// Writes the request, and reads both outputs to their end.
async fn converse(
    mut output: std::pin::Pin<
        Box<dyn futures_util::Stream<Item = Result<LogOutput, bollard::errors::Error>> + Send>,
    >,
    mut input: std::pin::Pin<Box<dyn tokio::io::AsyncWrite + Send>>,
    work: &Work,
) -> Result<Output, Error> {
    // Whether it was read is seen by the answer: a supervisor that could not be started reads nothing.
    let write = async {
        if input.write_all(&work.request).await.is_ok() {
            let _ = input.flush().await;
        }
        input
    };
    let read = async {
        let mut written = Output::default();
        while let Some(piece) = output.next().await {
            let (target, bytes) = match piece.map_err(|error| explain(&error))? {
                LogOutput::StdErr { message } => (&mut written.stderr, message),
                LogOutput::StdOut { message } | LogOutput::Console { message } => {
                    (&mut written.stdout, message)
                }
                LogOutput::StdIn { .. } => continue,
            };
            if target.len() + bytes.len() > work.answer_bytes {
                return Err(Error::Unavailable("it wrote more than its limit".to_owned()));
            }
            target.extend_from_slice(&bytes);
        }
        Ok(written)
    };
    // The input stays open until the end: closing it would close the whole connection at some hosts.
    let (_input, written) = futures_util::join!(write, read);
    written
}

async fn within<T>(deadline: Duration, call: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    let late = |_| Error::Unavailable(format!("Docker did not answer within {} s", deadline.as_secs()));
    timeout(deadline, call).await.map_err(late)?
}

/// What Docker's refusals and failures mean.
fn explain(error: &bollard::errors::Error) -> Error {
    use bollard::errors::Error as Docker;
    match error {
        Docker::DockerResponseServerError { status_code: 404, message }
            if message.contains("No such container") =>
        {
            Error::Gone
        }
        Docker::DockerResponseServerError { status_code: 409, message }
            if message.contains("is not running") =>
        {
            Error::Gone
        }
        Docker::DockerResponseServerError { status_code: 502..=504, message } => {
            Error::Unavailable(message.clone())
        }
        Docker::DockerResponseServerError { message, .. } => {
            Error::Refused(message.chars().take(config::COMPUTE_REASON_CHARACTERS).collect())
        }
        _ => Error::Unavailable(error.to_string()),
    }
}

fn has_status(error: &bollard::errors::Error, status: u16) -> bool {
    matches!(error, bollard::errors::Error::DockerResponseServerError { status_code, .. } if *status_code == status)
}

/// Something that is not there, or that is being removed already, needs no removal.
fn absent_is_fine(removed: Result<(), bollard::errors::Error>) -> Result<(), Error> {
    match removed {
        Err(error) if has_status(&error, 404) => Ok(()),
        Err(bollard::errors::Error::DockerResponseServerError { status_code: 409, message })
            if message.contains("already in progress") =>
        {
            Ok(())
        }
        Err(error) => Err(explain(&error)),
        Ok(()) => Ok(()),
    }
}

#[async_trait]
impl Exec for Docker {
    fn workspace(&self) -> &str {
        WORKSPACE
    }

    async fn exec(&self, handle: &Handle, work: &Work) -> Result<Output, Error> {
        within(work.deadline, self.exec_as(USER, Named::of(handle).name, work)).await
    }
}

#[async_trait]
impl Compute for Docker {
    async fn create(&self, sandbox: &New) -> Result<Handle, Error> {
        if sandbox.browser {
            return Err(Error::Unsupported("a Docker sandbox has no browser".to_owned()));
        }
        let name = Self::name_of(sandbox.agent_id);
        let make = async {
            self.docker().await?;
            let mut made = self.make(sandbox, &name).await;
            // What an interrupted attempt left behind has the name; the agent is to have an empty workspace.
            if made.as_ref().is_err_and(|error| has_status(error, 409)) {
                self.remove(&name).await?;
                made = self.make(sandbox, &name).await;
            }
            made.map_err(|error| explain(&error))?;
            if self.settings.in_volume() { self.as_root(&name, "open_to_all").await } else { Ok(()) }
        };
        let made = within(config::COMPUTE_CREATE_DEADLINE, make).await;
        if let Err(error) = made {
            // Nothing is to be left behind; where that fails too, it is found by its label.
            let _ = within(config::COMPUTE_DEADLINE, self.remove(&name)).await;
            return Err(error);
        }
        Ok(Handle(name))
    }

    async fn run(&self, handle: &Handle, program: &Program) -> Result<Finished, Error> {
        inside::run(self, handle, program).await
    }

    async fn write_file(&self, handle: &Handle, path: &str, content: &[u8]) -> Result<(), Error> {
        inside::write_file(self, handle, path, content).await
    }

    async fn read_file(&self, handle: &Handle, path: &str, limit: usize) -> Result<FileContent, Error> {
        inside::read_file(self, handle, path, limit).await
    }

    async fn list_files(&self, handle: &Handle, path: &str, limit: usize) -> Result<Vec<FileEntry>, Error> {
        inside::list_files(self, handle, path, limit).await
    }

    async fn pause(&self, handle: &Handle) -> Result<Paused, Error> {
        let named = Named::of(handle);
        if let Some(stored_bytes) = named.paused_bytes {
            return Ok(Paused { handle: handle.clone(), stored_bytes });
        }
        // A pause whose answer was lost may have taken place: what sleeps cannot be measured.
        within(config::COMPUTE_DEADLINE, self.awaken(named.name)).await?;
        let stored_bytes = inside::measure(self, handle).await?;
        if !self.settings.in_volume() {
            repeatedly(|| inside::perform(self, handle, "end_everything")).await?;
        }
        within(config::COMPUTE_DEADLINE, self.suspend(named.name)).await?;
        Ok(Paused { handle: named.paused(stored_bytes), stored_bytes })
    }

    async fn resume(&self, handle: &Handle, _: &New) -> Result<Handle, Error> {
        let named = Named::of(handle);
        within(config::COMPUTE_CREATE_DEADLINE, self.awaken(named.name)).await?;
        Ok(named.ready())
    }

    async fn terminate(&self, handle: &Handle) -> Result<(), Error> {
        within(config::COMPUTE_DEADLINE, self.remove(Named::of(handle).name)).await
    }

    async fn list(&self) -> Result<Vec<(AgentId, Handle)>, Error> {
        let ours = format!("{OWNER_LABEL}={}", self.settings.owner);
        let filters = Some(HashMap::from([("label".to_owned(), vec![ours])]));
        let list = async {
            let docker = self.docker().await?;
            let options = ListContainersOptions {
                all: true,
                filters: filters.clone(),
                ..ListContainersOptions::default()
            };
            let containers = docker.list_containers(Some(options)).await.map_err(|error| explain(&error))?;
            let mut labels: Vec<_> =
                containers.into_iter().filter_map(|container| container.labels).collect();
            if self.settings.in_volume() {
                // A volume outlives a removal that was interrupted.
                let volumes = docker.list_volumes(Some(ListVolumesOptions { filters })).await;
                let volumes = volumes.map_err(|error| explain(&error))?.volumes.unwrap_or_default();
                labels.extend(volumes.into_iter().map(|volume| volume.labels));
            }
            let agent = |labels: HashMap<String, String>| labels.get(AGENT_LABEL)?.parse().ok();
            let mut agents: Vec<AgentId> = labels.into_iter().filter_map(agent).collect();
            agents.sort();
            agents.dedup();
            Ok(agents.into_iter().map(|agent| (agent, Handle(Self::name_of(agent)))).collect())
        };
        within(config::COMPUTE_DEADLINE, list).await
    }

    async fn stored_bytes(&self, handle: &Handle) -> Result<u64, Error> {
        match Named::of(handle).paused_bytes {
            Some(bytes) => Ok(bytes),
            None => inside::measure(self, handle).await,
        }
    }
}
