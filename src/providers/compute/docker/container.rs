//! What a container of an agent is made of, and what it may use.

use std::collections::HashMap;

use bollard::models::{
    ContainerCreateBody, HostConfig, HostConfigLogConfig, Mount, MountType, MountVolumeOptions,
    MountVolumeOptionsDriverConfig, ResourcesUlimits,
};

use crate::config;
use crate::providers::compute::New;
use crate::providers::compute::inside::FIRST_PROCESS;

/// Where the workspace is in a container.
pub(super) const WORKSPACE: &str = "/workspace";
/// The user that everything runs as.
pub(super) const USER: &str = "1000:1000";
/// The labels that say whose a container is.
pub(super) const OWNER_LABEL: &str = "theazo.owner";
pub(super) const AGENT_LABEL: &str = "theazo.agent";
const SESSION_LABEL: &str = "theazo.session";
/// The image where the operator names none: it holds Python 3, Node and Bash.
pub const DEFAULT_IMAGE: &str = "nikolaik/python-nodejs:python3.13-nodejs22-slim";

/// Where an agent's files lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Workspace {
    /// In memory, strictly limited in size. Lost when the Docker host or its daemon restarts.
    Memory,
    /// In a volume that the daemon limits in size; it must be able to (XFS with project quotas).
    Quota,
    /// In a volume without a limit but the one on a single file.
    Volume,
}

/// How containers are made.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Whose they are: what is of another owner at the same host is never listed.
    pub owner: String,
    /// The image; it must hold `python3`, `node` and `bash`.
    pub image: String,
    /// Bytes of memory, the workspace aside.
    pub memory_bytes: i64,
    /// Processes and threads.
    pub processes: i64,
    /// Billionths of a processor.
    pub nano_cpus: i64,
    /// Bytes of the workspace.
    pub disk_bytes: i64,
    /// Where the workspace lies.
    pub workspace: Workspace,
    /// The Docker network that containers join; without one they have none.
    pub network: Option<String>,
}

impl Settings {
    /// What containers have unless the operator says otherwise.
    #[must_use]
    pub fn of(owner: String) -> Self {
        Self {
            owner,
            image: DEFAULT_IMAGE.to_owned(),
            memory_bytes: 512 * 1024 * 1024,
            processes: 64,
            nano_cpus: 1_000_000_000,
            disk_bytes: 1024 * 1024 * 1024,
            workspace: Workspace::Memory,
            network: None,
        }
    }

    pub(super) fn in_volume(&self) -> bool {
        self.workspace != Workspace::Memory
    }

    /// The container of an agent.
    pub(super) fn body(&self, sandbox: &New, name: &str) -> ContainerCreateBody {
        let text = |words: &[&str]| Some(words.iter().map(|&word| word.to_owned()).collect());
        ContainerCreateBody {
            image: Some(self.image.clone()),
            user: Some(USER.to_owned()),
            working_dir: Some(WORKSPACE.to_owned()),
            entrypoint: text(&["python3", "-I", "-c", FIRST_PROCESS]),
            cmd: text(&[]),
            labels: Some(self.labels(sandbox)),
            host_config: Some(self.host_config(sandbox, name)),
            ..ContainerCreateBody::default()
        }
    }

    fn labels(&self, sandbox: &New) -> HashMap<String, String> {
        let label = |name: &str, value: String| (name.to_owned(), value);
        HashMap::from([
            label(OWNER_LABEL, self.owner.clone()),
            label(AGENT_LABEL, sandbox.agent_id.to_string()),
            label(SESSION_LABEL, sandbox.session_id.to_string()),
        ])
    }

    fn host_config(&self, sandbox: &New, name: &str) -> HostConfig {
        let tmpfs = |bytes: i64| format!("rw,exec,nosuid,nodev,size={bytes},mode=1777");
        let mut in_memory = HashMap::from([("/tmp".to_owned(), tmpfs(config::COMPUTE_SCRATCH_BYTES))]);
        // What lies in memory counts as memory of the container.
        let mut memory = self.memory_bytes + config::COMPUTE_SCRATCH_BYTES;
        if !self.in_volume() {
            in_memory.insert(WORKSPACE.to_owned(), tmpfs(self.disk_bytes));
            memory += self.disk_bytes;
        }
        let limit = |name: &str, value| ResourcesUlimits {
            name: Some(name.to_owned()),
            soft: Some(value),
            hard: Some(value),
        };
        HostConfig {
            memory: Some(memory),
            memory_swap: Some(memory),
            pids_limit: Some(self.processes),
            nano_cpus: Some(self.nano_cpus),
            ulimits: Some(vec![limit("core", 0), limit("fsize", self.disk_bytes), limit("nofile", 1_024)]),
            cap_drop: Some(vec!["ALL".to_owned()]),
            security_opt: Some(vec!["no-new-privileges".to_owned()]),
            readonly_rootfs: Some(true),
            network_mode: Some(self.network.clone().unwrap_or_else(|| "none".to_owned())),
            ipc_mode: Some("private".to_owned()),
            log_config: Some(HostConfigLogConfig { typ: Some("none".to_owned()), config: None }),
            tmpfs: Some(in_memory),
            mounts: self.in_volume().then(|| vec![self.volume(sandbox, name)]),
            ..HostConfig::default()
        }
    }

    fn volume(&self, sandbox: &New, name: &str) -> Mount {
        let limited = self.workspace == Workspace::Quota;
        let driver_config = limited.then(|| MountVolumeOptionsDriverConfig {
            name: Some("local".to_owned()),
            options: Some(HashMap::from([("size".to_owned(), self.disk_bytes.to_string())])),
        });
        Mount {
            target: Some(WORKSPACE.to_owned()),
            source: Some(name.to_owned()),
            typ: Some(MountType::VOLUME),
            volume_options: Some(MountVolumeOptions {
                no_copy: Some(true),
                labels: Some(self.labels(sandbox)),
                driver_config,
                ..MountVolumeOptions::default()
            }),
            ..Mount::default()
        }
    }
}
