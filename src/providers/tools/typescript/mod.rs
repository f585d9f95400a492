//! TypeScript to JavaScript: with enums, namespaces and parameter properties, without a network.
//!
//! It is done in a child process, which is this very program: there is code whose reading takes exponential time, whose
//! JavaScript is a thousand times as large, or that is nested deeper than any stack. The child has limits of its own,
//! and when it dies nobody else does.

mod convert;

use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;
use tokio::sync::Semaphore;
use tokio::time::timeout;

pub use convert::{ARGUMENT, Ended, serve};

use crate::config;

/// Why there is no JavaScript.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// It is not TypeScript: where and why, a line each.
    #[error("the TypeScript is not valid:\n{0}")]
    Invalid(String),
    /// Nobody writes such code by hand.
    #[error("the TypeScript is too large, nested too deeply or takes too long to read")]
    TooComplex,
    /// It cannot be done right now.
    #[error("the TypeScript cannot be read: {0}")]
    Unavailable(String),
}

/// Makes JavaScript of TypeScript, a few at a time.
#[derive(Debug, Clone)]
pub struct Converter {
    program: PathBuf,
    places: Arc<Semaphore>,
}

impl Converter {
    /// By way of this program, which is `theazo`.
    ///
    /// # Errors
    /// When the system does not tell where it lies.
    pub fn own() -> std::io::Result<Self> {
        // The running program, also where its file has been replaced by a newer one since.
        let running = PathBuf::from("/proc/self/exe");
        let program = if cfg!(target_os = "linux") { running } else { std::env::current_exe()? };
        Ok(Self::of(program))
    }

    /// By way of the `theazo` program that lies there.
    #[must_use]
    pub fn of(program: PathBuf) -> Self {
        Self { program, places: Arc::new(Semaphore::new(config::TYPESCRIPT_AT_ONCE)) }
    }

    /// Makes JavaScript of TypeScript. Types are not checked. What is imported and not used is left out.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn javascript(&self, code: &str) -> Result<String, Error> {
        if code.len() > config::TYPESCRIPT_BYTES {
            return Err(Error::TooComplex);
        }
        let waiting = timeout(config::TYPESCRIPT_DEADLINE, self.places.acquire()).await;
        let Ok(Ok(_place)) = waiting else { return Err(Error::Unavailable("others are being read".into())) };
        let converting = timeout(config::TYPESCRIPT_DEADLINE, self.child(code)).await;
        converting.map_err(|_| Error::TooComplex)?.map_err(|error| Error::Unavailable(error.to_string()))?
    }

    /// A child that is dropped is killed.
    async fn child(&self, code: &str) -> std::io::Result<Result<String, Error>> {
        let mut child = Command::new(&self.program)
            .arg(ARGUMENT)
            .env_clear()
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()?;
        let mut input = child.stdin.take().expect("the input is piped");
        // A child that dies early does not read it, which its end tells.
        let _ = input.write_all(code.as_bytes()).await;
        drop(input);
        let output = child.stdout.take().expect("the output is piped");
        let mut said = vec![];
        let most = config::TYPESCRIPT_OUTPUT_BYTES as u64;
        output.take(most + 1).read_to_end(&mut said).await?;
        if said.len() > config::TYPESCRIPT_OUTPUT_BYTES {
            return Ok(Err(Error::TooComplex));
        }
        let status = child.wait().await?;
        let said = String::from_utf8_lossy(&said).into_owned();
        Ok(match status.code().map(Ended::of_code) {
            Some(Some(Ended::Converted)) => Ok(said),
            Some(Some(Ended::Invalid)) => Err(Error::Invalid(said)),
            Some(None) | None => Err(Error::TooComplex),
        })
    }
}
