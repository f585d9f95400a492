//! What the server and the processes of a sandbox tell each other, over the socket that is their standard input: two
//! frames to them, for the supervisor and for the init, and lines of JSON from them.

use std::fmt;
use std::io::{self, Write};
use std::path::PathBuf;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::vault;

use super::tree::Size;
use super::trim::Room;

/// The largest frame: a program, its environment with every secret, and some.
const FRAME_BYTES: usize = 64 << 20;
/// What comes before the JSON of a frame.
const LENGTH_BYTES: usize = 4;

/// What one sandbox may use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Memory of all its processes, in bytes.
    pub memory_bytes: u64,
    /// Its processes and threads.
    pub processes: u64,
    /// What its workspace and its `/tmp` take, in bytes.
    pub disk_bytes: u64,
    /// Files and folders in the two.
    pub files: u64,
    /// Files that a process has open.
    pub open_files: u64,
    /// Processor time of one process.
    pub processor_time: Duration,
}

/// For the supervisor: everything outside of the process that runs.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Outside {
    /// The user and group of the host that the sandbox is, where the server is root.
    pub(super) host_id: Option<u32>,
    /// The folder of the host that is `/workspace`.
    pub(super) workspace: PathBuf,
    /// The folder of the host that is `/tmp`.
    pub(super) temporary: PathBuf,
    /// Folders of the host that are shown, read-only, beside `/usr`.
    pub(super) read_only: Vec<PathBuf>,
    /// Whether it shares the network of the host.
    pub(super) network: bool,
    /// Processes of the host's user, where it has one.
    pub(super) processes: u64,
    /// The program, by the name of its file in [`super::root::PROGRAM_DIR`].
    pub(super) program: (String, String),
}

/// For the init: the process that runs, and its limits.
#[derive(Serialize, Deserialize)]
pub(super) struct Inside {
    pub(super) arguments: Vec<String>,
    /// Whether the program is read from the standard input.
    pub(super) from_input: bool,
    /// Secrets are in it.
    pub(super) environment: Vec<(String, Zeroizing<String>)>,
    pub(super) limits: Limits,
    /// What it may take on disk.
    pub(super) room: Room,
    /// What it takes there as it begins.
    pub(super) there: Size,
    /// Whether it has a network of its own, of which the loopback is all.
    pub(super) own_network: bool,
    /// Whether a cgroup holds the totals of memory and processes.
    pub(super) grouped: bool,
}

/// From the processes of a sandbox.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Report {
    /// It cannot run: this layer of its isolation is missing, for this reason.
    Failed { layer: String, reason: String },
    /// The program has been started.
    Started,
    /// What all its processes use now.
    Usage { memory_bytes: u64, processes: u64 },
    /// It went past this limit, and its processes were killed.
    Over { limit: String },
    /// The program has ended with this code.
    Code { code: i32 },
    /// The program has been ended by this signal.
    Signal { signal: i32 },
}

/// A layer of isolation that could not be laid.
#[derive(Debug)]
pub(super) struct Failed {
    pub(super) layer: &'static str,
    pub(super) reason: String,
}

/// Names the layer that a failure is about.
pub(super) trait Layer<T> {
    fn layer(self, layer: &'static str) -> Result<T, Failed>;
}

impl<T, E: fmt::Display> Layer<T> for Result<T, E> {
    fn layer(self, layer: &'static str) -> Result<T, Failed> {
        self.map_err(|error| Failed { layer, reason: error.to_string() })
    }
}

/// A frame: its length in four bytes, and its JSON.
pub(super) fn frame(message: &impl Serialize) -> io::Result<Zeroizing<Vec<u8>>> {
    let mut frame = vault::json(LENGTH_BYTES, message)?;
    let length = u32::try_from(frame.len() - LENGTH_BYTES).map_err(io::Error::other)?;
    frame[..LENGTH_BYTES].copy_from_slice(&length.to_be_bytes());
    Ok(frame)
}

/// Reads one frame from the standard input, and not a byte more.
pub(super) fn read_frame<T: DeserializeOwned>() -> io::Result<T> {
    let mut length = [0; LENGTH_BYTES];
    read_exact(&mut length)?;
    let length = usize::try_from(u32::from_be_bytes(length)).map_err(io::Error::other)?;
    if length > FRAME_BYTES {
        return Err(io::Error::other("the message is too long"));
    }
    let mut json = Zeroizing::new(vec![0; length]);
    read_exact(&mut json)?;
    Ok(serde_json::from_slice(&json)?)
}

fn read_exact(mut wanted: &mut [u8]) -> io::Result<()> {
    while !wanted.is_empty() {
        match rustix::io::read(rustix::stdio::stdin(), &mut *wanted) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(read) => wanted = &mut wanted[read..],
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Tells the server. It may be gone, and then there is nobody to tell.
pub(super) fn report(report: &Report) {
    let mut line = serde_json::to_vec(report).unwrap_or_default();
    line.push(b'\n');
    let mut rest = &line[..];
    while !rest.is_empty() {
        match rustix::io::write(rustix::stdio::stdin(), rest) {
            Ok(written) => rest = &rest[written..],
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => return,
        }
    }
}

/// Tells the server that a layer is missing; on a terminal there is none to tell.
pub(super) fn report_failed(failed: &Failed) {
    report(&Report::Failed { layer: failed.layer.to_owned(), reason: failed.reason.clone() });
    let _ = io::stderr().flush();
}
