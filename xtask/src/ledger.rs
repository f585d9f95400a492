//! The client's own account of what it asked and what came of it: a file outside of every server and of the database.
//!
//! What is to be asked stands in it before it is sent, and whoever checks a log reads the file. It is kept where a claim
//! did not hold: it is the evidence.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use anyhow::Context;
use serde::de::DeserializeOwned;
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

/// A file of one row's run, or of a part of it: a line for each thing that becomes known.
pub(crate) struct Account {
    path: PathBuf,
    file: Mutex<File>,
    is_kept: AtomicBool,
}

impl Account {
    /// A new one. With a bug planted it is of no use to anybody afterwards.
    ///
    /// Its file is no other's: whoever answers for a model may hold the account of one run still when the next begins.
    pub(crate) fn new(run: &Run, name: &str) -> anyhow::Result<Self> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let (process, number) = (std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let file = format!("theazo-account-{name}-{}-{process}-{number}.jsonl", run.seed);
        let path = std::env::temp_dir().join(file);
        let file = File::create(&path).with_context(|| path.display().to_string())?;
        Ok(Self { path, file: Mutex::new(file), is_kept: AtomicBool::new(run.planted.is_none()) })
    }

    /// Writes down what is known now; what was known before stays in the file. The kernel has it when this returns, so
    /// whatever happens to this process, it is there.
    pub(crate) fn write(&self, known: &impl Serialize) -> anyhow::Result<()> {
        let mut line = serde_json::to_vec(known)?;
        line.push(b'\n');
        self.file.lock().unwrap_or_else(PoisonError::into_inner).write_all(&line)?;
        Ok(())
    }

    /// What was written, line by line.
    pub(crate) fn lines<T: DeserializeOwned>(
        &self,
    ) -> anyhow::Result<impl Iterator<Item = anyhow::Result<T>>> {
        let lines = BufReader::new(File::open(&self.path)?).lines();
        Ok(lines.map(|line| Ok(serde_json::from_str(&line?)?)))
    }

    /// Everything was as it says, so nobody needs it any more.
    pub(crate) fn discard(&self) {
        self.is_kept.store(false, Ordering::Relaxed);
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        if self.is_kept.load(Ordering::Relaxed) {
            eprint(&format!("the client's account is kept in {}", self.path.display()));
        } else {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// An account of operations.
pub(crate) struct Ledger(Account);

impl Ledger {
    /// A new one.
    pub(crate) fn new(run: &Run, name: &str) -> anyhow::Result<Self> {
        Ok(Self(Account::new(run, name)?))
    }

    /// Writes down what is known of an operation now.
    pub(crate) fn write(&self, entry: &Entry) -> anyhow::Result<()> {
        self.0.write(entry)
    }

    /// What the file says of each operation in the end, by its idempotency key.
    pub(crate) fn read(&self) -> anyhow::Result<BTreeMap<String, Entry>> {
        let entries = self.0.lines::<Entry>()?;
        entries.map(|entry| entry.map(|entry| (entry.key.clone(), entry))).collect()
    }

    /// Everything was as it says.
    pub(crate) fn discard(&self) {
        self.0.discard();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_that_is_let_go_of_late_takes_no_other_with_it() -> anyhow::Result<()> {
        let run = Run::planted("lost-batch");
        let [before, after] = [Account::new(&run, "late")?, Account::new(&run, "late")?];
        after.write(&7)?;
        drop(before);
        let lines: Vec<u32> = after.lines()?.collect::<anyhow::Result<_>>()?;
        assert_eq!(lines, [7]);
        Ok(())
    }
}
