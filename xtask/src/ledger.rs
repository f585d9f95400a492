//! The client's own account of what it asked and what came of it: a file outside of every server and of the database.
//!
//! What is to be asked stands in it before it is sent, and whoever checks a log reads the file. It is kept where a claim
//! did not hold: it is the evidence.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use anyhow::Context;
use serde::{Deserialize, Serialize};

use crate::eprint;
use crate::prove::Run;

/// What came of an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Outcome {
    /// It was acknowledged.
    Ok,
    /// The rules said no: nothing happened.
    Refused,
    /// Nobody has said. It is settled by a retry with the same idempotency key.
    Unknown,
}

/// An operation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Entry {
    /// Its idempotency key.
    pub(crate) key: String,
    /// The type of the event that it makes happen; none where the rules have to refuse it.
    pub(crate) event: Option<String>,
    /// Ids and names of what that event is about. What only its answer tells is there once there is one.
    pub(crate) about: Vec<String>,
    pub(crate) outcome: Outcome,
    /// How often it was sent until it was decided.
    pub(crate) sent: u32,
}

/// An account of one row's run, or of a part of it.
pub(crate) struct Ledger {
    path: PathBuf,
    file: Mutex<File>,
    is_kept: bool,
}

impl Ledger {
    /// A new one. With a bug planted it is of no use to anybody afterwards.
    pub(crate) fn new(run: &Run, name: &str) -> anyhow::Result<Self> {
        let process = std::process::id();
        let path = std::env::temp_dir().join(format!("theazo-account-{name}-{}-{process}.jsonl", run.seed));
        let file = File::create(&path).with_context(|| path.display().to_string())?;
        Ok(Self { path, file: Mutex::new(file), is_kept: run.planted.is_none() })
    }

    /// Writes down what is known of an operation now; what was known before stays in the file. The kernel has it when
    /// this returns, so whatever happens to this process, it is there.
    pub(crate) fn write(&self, entry: &Entry) -> anyhow::Result<()> {
        let mut line = serde_json::to_vec(entry)?;
        line.push(b'\n');
        self.file.lock().unwrap_or_else(PoisonError::into_inner).write_all(&line)?;
        Ok(())
    }

    /// What the file says of each operation in the end, by its idempotency key.
    pub(crate) fn read(&self) -> anyhow::Result<BTreeMap<String, Entry>> {
        let mut entries = BTreeMap::new();
        for line in BufReader::new(File::open(&self.path)?).lines() {
            let entry: Entry = serde_json::from_str(&line?)?;
            entries.insert(entry.key.clone(), entry);
        }
        Ok(entries)
    }

    /// Everything was as it says, so nobody needs it any more.
    pub(crate) fn discard(mut self) {
        self.is_kept = false;
    }
}

impl Drop for Ledger {
    fn drop(&mut self) {
        if self.is_kept {
            eprint(&format!("the client's account is kept in {}", self.path.display()));
        } else {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}
