//! The operator's words about sandboxes on this machine, for every command that makes some.

use std::path::{Path, PathBuf};

use super::Error;
use crate::config;
use crate::providers::compute::local::Options;

#[derive(Debug, Default, clap::Args)]
pub(super) struct SandboxArguments {
    /// The folder of local sandboxes, which all servers of a machine over one database share [default: DATA_DIR/sandboxes]
    #[arg(long, value_name = "DIR", env = "THEAZO_SANDBOX_DIR")]
    sandbox_dir: Option<PathBuf>,
    /// Memory of all processes of a local sandbox [default: 512]
    #[arg(long, value_name = "MIB", env = "THEAZO_SANDBOX_MEMORY_MIB")]
    sandbox_memory_mib: Option<String>,
    /// Processes and threads of a local sandbox [default: 64]
    #[arg(long, value_name = "NUMBER", env = "THEAZO_SANDBOX_PROCESSES")]
    sandbox_processes: Option<String>,
    /// Disk of a local sandbox: its workspace and its /tmp [default: 1024]
    #[arg(long, value_name = "MIB", env = "THEAZO_SANDBOX_DISK_MIB")]
    sandbox_disk_mib: Option<String>,
    /// Where interpreters for local sandboxes are looked for [default: /usr/local/bin:/usr/bin:/bin]
    #[arg(long, value_name = "DIRS", env = "THEAZO_SANDBOX_PATH")]
    sandbox_path: Option<String>,
    /// Folders that programs in local sandboxes see beside /usr, read-only
    #[arg(long, value_name = "DIRS", env = "THEAZO_SANDBOX_READ_ONLY")]
    sandbox_read_only: Option<String>,
    /// User ids of the host for local sandboxes, where the server is root [default: 1879048192:65536]
    #[arg(long, value_name = "FIRST:NUMBER", env = "THEAZO_SANDBOX_USERS")]
    sandbox_users: Option<String>,
    /// Cgroups in which the server may make others
    #[arg(long, value_name = "DIRS", env = "THEAZO_SANDBOX_CGROUPS")]
    sandbox_cgroups: Option<String>,
    /// Let programs in local sandboxes share the host's network, its loopback included
    #[arg(long, env = "THEAZO_SANDBOX_NETWORK", value_parser = clap::builder::FalseyValueParser::new())]
    sandbox_network: bool,
}

impl SandboxArguments {
    /// How sandboxes are made. An empty text counts as none.
    pub(super) fn options(&self, data_dir: &Path) -> Result<Options, Error> {
        let named = self.sandbox_dir.clone().filter(|folder| !folder.as_os_str().is_empty());
        let mut options = Options::new(named.unwrap_or_else(|| data_dir.join(config::SANDBOX_FOLDER)));
        let limits = &mut options.limits;
        if let Some(mebibytes) = number(&self.sandbox_memory_mib, "--sandbox-memory-mib", 32)? {
            limits.memory_bytes = mebibytes << 20;
        }
        if let Some(processes) = number(&self.sandbox_processes, "--sandbox-processes", 1)? {
            limits.processes = processes;
        }
        if let Some(mebibytes) = number(&self.sandbox_disk_mib, "--sandbox-disk-mib", 1)? {
            limits.disk_bytes = mebibytes << 20;
        }
        if let Some(search) = folders(&self.sandbox_path, "--sandbox-path")? {
            options.search = search;
        }
        options.read_only = folders(&self.sandbox_read_only, "--sandbox-read-only")?.unwrap_or_default();
        options.cgroups = folders(&self.sandbox_cgroups, "--sandbox-cgroups")?.unwrap_or_default();
        options.network = self.sandbox_network;
        if let Some(text) = given(&self.sandbox_users) {
            let parts = text.split_once(':').and_then(|(first, number)| {
                let (first, number): (u32, u32) = (first.parse().ok()?, number.parse().ok()?);
                let end = first.checked_add(number)?;
                (first > 0 && number > 0 && end < u32::MAX).then_some(first..end)
            });
            options.host_ids = parts.ok_or_else(|| {
                Error::Usage(format!("--sandbox-users: {text:?} is not FIRST:NUMBER of user ids above 0"))
            })?;
        }
        Ok(options)
    }
}

fn given(text: &Option<String>) -> Option<&str> {
    text.as_deref().filter(|text| !text.is_empty())
}

fn number(text: &Option<String>, flag: &str, least: u64) -> Result<Option<u64>, Error> {
    let Some(text) = given(text) else { return Ok(None) };
    let number = text.parse::<u64>().ok().filter(|number| (least..1 << 32).contains(number));
    let wrong = || Error::Usage(format!("{flag}: {text:?} is no number of {least} or more"));
    number.map(Some).ok_or_else(wrong)
}

fn folders(text: &Option<String>, flag: &str) -> Result<Option<Vec<PathBuf>>, Error> {
    let Some(text) = given(text) else { return Ok(None) };
    let folders: Vec<PathBuf> = text.split(':').map(PathBuf::from).collect();
    match folders.iter().find(|folder| !folder.is_absolute()) {
        Some(folder) => Err(Error::Usage(format!("{flag}: {} is no absolute path", folder.display()))),
        None => Ok(Some(folders)),
    }
}
