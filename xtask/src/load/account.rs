//! The client's own account of what it asked and what came of it: a file outside of every server and of the database.
//!
//! What is to be asked stands in it before it is sent, and whoever checks a log reads the file. It is kept where a claim
//! did not hold: it is the evidence.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use anyhow::Context;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::effect::Effect;
use crate::client::{Answer, Ask};
use crate::eprint;
use crate::prove::{Findings, Run};

/// How the line of an operation begins, and no other.
const OPERATION: &str = r#"{"key":"#;

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

/// What a row knows of an operation, and what it must come to.
pub(crate) trait Operation: Serialize {
    /// Takes in what the answer tells that has decided it, and says what it was; none where it must not come to that.
    fn decided(&mut self, answer: &Answer) -> Option<Outcome>;
}

/// An operation in the account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Entry<T> {
    /// Its idempotency key.
    pub(crate) key: String,
    pub(crate) outcome: Outcome,
    /// How often it was sent until it was decided.
    pub(crate) sent: u32,
    pub(crate) what: T,
    /// Method, path and body, in the line that is written before it is sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) asked: Option<String>,
    /// The line that it was read from: what was decided later stands behind.
    #[serde(skip)]
    pub(crate) line: usize,
}

impl<T> Entry<T> {
    /// One that is about to be sent.
    pub(crate) fn intended(ask: &Ask, what: T) -> Self {
        let body = ask.body.as_ref().map(|body| format!(" {body}")).unwrap_or_default();
        Self {
            key: ask.idempotency_key.clone().unwrap_or_default(),
            outcome: Outcome::Unknown,
            sent: 0,
            what,
            asked: Some(format!("{} {}{body}", ask.method, ask.path)),
            line: 0,
        }
    }
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

    /// What the file says of each operation in the end, by its idempotency key. What was written down besides is left out.
    pub(crate) fn operations<T: DeserializeOwned>(&self) -> anyhow::Result<BTreeMap<String, Entry<T>>> {
        let mut operations = BTreeMap::new();
        for (number, line) in BufReader::new(File::open(&self.path)?).lines().enumerate() {
            let line = line?;
            if line.starts_with(OPERATION) {
                let entry = Entry { line: number, ..serde_json::from_str::<Entry<T>>(&line)? };
                operations.insert(entry.key.clone(), entry);
            }
        }
        Ok(operations)
    }

    /// All that acknowledged operations were about.
    pub(crate) fn about(&self) -> anyhow::Result<BTreeSet<String>> {
        let done = self.operations::<Effect>()?.into_values().filter(|entry| entry.outcome == Outcome::Ok);
        Ok(done.flat_map(|entry| entry.what.about).collect())
    }

    /// Nobody needs it any more where everything was as it says.
    pub(crate) fn close(&self, findings: &Findings) {
        self.is_kept.fetch_and(findings.is_red(), Ordering::Relaxed);
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_account_that_is_let_go_of_late_takes_no_other_with_it() -> anyhow::Result<()> {
        let run = Run::planted("lost-batch");
        let [before, after] = [Account::new(&run, "late")?, Account::new(&run, "late")?];
        after.write(&Entry::intended(&Ask::post("/v1/sessions", None).once("one"), 7))?;
        drop(before);
        assert_eq!(after.operations::<u8>()?["one"].what, 7);
        Ok(())
    }

    #[test]
    fn what_is_written_last_of_an_operation_stands_and_other_lines_are_none() -> anyhow::Result<()> {
        let account = Account::new(&Run::planted("lost-batch"), "last")?;
        let intended = |key: &str| Entry::intended(&Ask::post("/v1/sessions", None).once(key), ());
        account.write(&intended("one"))?;
        account.write(&intended("two"))?;
        account.write(&json!({ "imported": "a card" }))?;
        account.write(&Entry { outcome: Outcome::Ok, sent: 2, asked: None, ..intended("one") })?;
        let known = account.operations::<()>()?;
        let outcomes: Vec<_> = known.values().map(|entry| (&*entry.key, entry.outcome)).collect();
        assert_eq!(outcomes, [("one", Outcome::Ok), ("two", Outcome::Unknown)]);
        assert!(known["one"].line > known["two"].line);
        Ok(())
    }
}
