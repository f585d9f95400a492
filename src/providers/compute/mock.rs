//! No sandbox at all: what test keys get. Nothing outside this process is touched, and nothing is remembered.

use std::time::Duration;

use async_trait::async_trait;
use theazo_domain::id::AgentId;

use super::{
    Compute, End, Error, FileContent, FileEntry, Finished, Handle, New, Paused, Program, check_path,
};

/// What every program writes.
pub const OUTPUT: &str = "mock output\n";

/// Compute that answers the same to everyone: programs write [`OUTPUT`], files are taken and forgotten.
#[derive(Debug, Clone, Copy, Default)]
pub struct Mock;

#[async_trait]
impl Compute for Mock {
    async fn create(&self, sandbox: &New) -> Result<Handle, Error> {
        Ok(Handle(format!("mock_{}", sandbox.agent_id)))
    }

    async fn run(&self, _: &Handle, program: &Program) -> Result<Finished, Error> {
        let kept = OUTPUT.len().min(program.output_limit);
        Ok(Finished {
            stdout: OUTPUT[..kept].to_owned(),
            stderr: String::new(),
            end: End::Code(0),
            truncated: kept < OUTPUT.len(),
            duration: Duration::from_millis(1),
        })
    }

    async fn write_file(&self, _: &Handle, path: &str, _: &[u8]) -> Result<(), Error> {
        check_path(path)
    }

    async fn read_file(&self, _: &Handle, path: &str, _: usize) -> Result<FileContent, Error> {
        check_path(path)?;
        Err(Error::Path("the path names nothing".to_owned()))
    }

    async fn list_files(&self, _: &Handle, path: &str, _: usize) -> Result<Vec<FileEntry>, Error> {
        check_path(path)?;
        let is_workspace = path.split('/').all(|part| part.is_empty() || part == ".");
        if is_workspace { Ok(vec![]) } else { Err(Error::Path("the path names nothing".to_owned())) }
    }

    async fn pause(&self, handle: &Handle) -> Result<Paused, Error> {
        Ok(Paused { handle: handle.clone(), stored_bytes: 0 })
    }

    async fn resume(&self, handle: &Handle, _: &New) -> Result<Handle, Error> {
        Ok(handle.clone())
    }

    async fn terminate(&self, _: &Handle) -> Result<(), Error> {
        Ok(())
    }

    async fn list(&self) -> Result<Vec<(AgentId, Handle)>, Error> {
        Ok(vec![])
    }

    async fn stored_bytes(&self, _: &Handle) -> Result<u64, Error> {
        Ok(0)
    }
}
