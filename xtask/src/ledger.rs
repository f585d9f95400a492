//! The client's own account of what it asked and what came of it, kept outside of every server.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use serde::Serialize;

/// What came of an operation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Outcome {
    /// It was acknowledged.
    Ok,
    /// The rules said no: nothing happened.
    Refused,
    /// Nobody said. It is settled by a retry with the same idempotency key.
    Unknown,
}

/// An operation.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Entry {
    /// Its idempotency key.
    pub(crate) key: String,
    /// The type of the event that it makes happen.
    pub(crate) event: String,
    pub(crate) outcome: Outcome,
    /// Whether it was unknown at first.
    pub(crate) retried: bool,
}

/// All operations, in memory and in a file.
pub(crate) struct Ledger {
    inner: Mutex<Inner>,
}

struct Inner {
    file: BufWriter<File>,
    entries: BTreeMap<String, Entry>,
}

impl Ledger {
    pub(crate) fn new(path: &Path) -> anyhow::Result<Self> {
        let inner = Inner { file: BufWriter::new(File::create(path)?), entries: BTreeMap::new() };
        Ok(Self { inner: Mutex::new(inner) })
    }

    /// Writes down what is known of an operation now; what was known before stays in the file.
    pub(crate) fn write(&self, entry: Entry) -> anyhow::Result<()> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        serde_json::to_writer(&mut inner.file, &entry)?;
        inner.file.write_all(b"\n")?;
        inner.entries.insert(entry.key.clone(), entry);
        Ok(())
    }

    /// Everything, by idempotency key. The ledger is empty after.
    pub(crate) fn take(&self) -> BTreeMap<String, Entry> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut inner.entries)
    }
}
