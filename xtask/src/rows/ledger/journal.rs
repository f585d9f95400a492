//! What the client writes down as it goes: each operation before it is asked for, and what came of it after.

use std::collections::BTreeMap;

use anyhow::Context;
use serde_json::{Value, json};

use super::Desk;
use crate::client::Ask;
use crate::ledger::Account;
use crate::prove::{Findings, Run};

/// Its lines, each of which is written when it becomes known.
pub(super) struct Journal(Account);

impl Journal {
    /// Of the round of this number.
    pub(super) fn new(run: &Run, number: u64) -> anyhow::Result<Self> {
        Ok(Self(Account::new(run, &format!("ledger-{number}"))?))
    }

    pub(super) fn write(&self, line: &Value) -> anyhow::Result<()> {
        self.0.write(line)
    }

    /// Everything was as it says.
    pub(super) fn discard(&self) {
        self.0.discard();
    }

    /// This is about to be asked for. Nobody knows what comes of it.
    pub(super) fn intends(&self, ask: &Ask) -> anyhow::Result<()> {
        self.write(&json!({ "intent": ask.idempotency_key, "path": ask.path, "body": ask.body }))
    }

    /// That came of it.
    pub(super) fn has_come(&self, ask: &Ask, came: &anyhow::Result<Value>) -> anyhow::Result<()> {
        let key = &ask.idempotency_key;
        match came {
            Ok(answer) => self.write(&json!({ "acknowledged": key, "answer": answer })),
            Err(error) => self.write(&json!({ "failed": key, "error": format!("{error:#}") })),
        }
    }

    /// Every operation was acknowledged, and has happened once; and nothing has happened that nobody asked for.
    pub(super) async fn hold_against_log(
        &self,
        desk: Desk<'_>,
        findings: &mut Findings,
    ) -> anyhow::Result<()> {
        let written = written(self.0.lines()?)?;
        let sql = "select e.metadata->>'idempotencyKey', e.type, count(*)
                   from events e join tenants t using (tenant_id)
                   where t.organization_id = $1 and e.metadata->>'idempotencyKey' is not null group by 1, 2";
        let mut happened: BTreeMap<String, BTreeMap<String, i64>> = BTreeMap::new();
        for row in desk.place.superuser().await?.query(sql, &[&desk.tenant.organization]).await? {
            happened.entry(row.get(0)).or_default().insert(row.get(1), row.get(2));
        }
        findings.did("operations", written.len() as u64);
        for (key, (path, acknowledged)) in written {
            findings.claim(acknowledged, || format!("{path} ({key}) was not acknowledged"));
            let events = happened.remove(&key).unwrap_or_default();
            let event = makes_happen(&path);
            let times = events.get(event).copied().unwrap_or_default();
            findings.claim(times == 1, || format!("{path} ({key}) made {event} happen {times} times"));
        }
        findings.claim(happened.is_empty(), || format!("nobody asked for {happened:?}"));
        Ok(())
    }
}

/// Each operation of a file, by its idempotency key: its path, and whether it was acknowledged.
fn written(
    lines: impl Iterator<Item = anyhow::Result<Value>>,
) -> anyhow::Result<BTreeMap<String, (String, bool)>> {
    let mut all: BTreeMap<String, (String, bool)> = BTreeMap::new();
    for line in lines {
        let line = line?;
        if let Some(key) = line["intent"].as_str() {
            let path = line["path"].as_str().unwrap_or_default().to_owned();
            let twice = all.insert(key.to_owned(), (path, false));
            anyhow::ensure!(twice.is_none(), "the key {key} was used twice");
        } else if let Some(key) = line["acknowledged"].as_str() {
            all.get_mut(key).with_context(|| format!("{key} was intended"))?.1 = true;
        }
    }
    Ok(all)
}

/// The type of the event that an operation makes happen.
fn makes_happen(path: &str) -> &'static str {
    let last = path.rsplit('/').next().unwrap_or_default();
    match (last, path.starts_with("/v1/sessions/")) {
        ("sessions", _) => "session.created",
        ("secrets", _) => "secret.set",
        ("agents", _) => "agent.created",
        ("run", _) => "task.created",
        ("pause", _) => "agent.paused",
        ("resume", _) => "agent.resumed",
        ("terminate", true) => "session.terminated",
        ("terminate", false) => "agent.terminated",
        _ => "billing.adjusted",
    }
}
