//! Who asks the servers: with a connection, with choices of its own, and with a journal of what it has asked for.

use anyhow::Context;
use serde_json::Value;

use super::{Desk, GIVE_UP, SERVERS};
use crate::client::{Ask, Caller};

pub(super) struct Customer<'a> {
    pub(super) desk: Desk<'a>,
    caller: Caller,
    pub(super) name: String,
    pub(super) asked: u64,
    pub(super) random: fastrand::Rng,
}

impl<'a> Customer<'a> {
    /// One whose idempotency keys begin with this name, which nobody else has.
    pub(super) fn new(desk: Desk<'a>, name: String, random: fastrand::Rng) -> Self {
        Self { desk, caller: Caller::new(&desk.tenant.key), name, asked: 0, random }
    }

    /// Asks on one server after the other, from any of them on, until it is decided.
    async fn ask(&mut self, ask: &Ask) -> anyhow::Result<Value> {
        let first = self.random.usize(..SERVERS);
        self.desk.place.carry_out(&mut self.caller, first, ask, GIVE_UP).await
    }

    /// Has something done, once, however often it has to be asked for.
    pub(super) async fn write(&mut self, path: &str, body: Value) -> anyhow::Result<Value> {
        self.asked += 1;
        let ask = Ask::post(path, Some(body)).once(format!("{}.{}", self.name, self.asked));
        self.desk.journal.intends(&ask)?;
        let came = self.ask(&ask).await;
        self.desk.journal.has_come(&ask, &came)?;
        came
    }

    pub(super) async fn get(&mut self, path: &str) -> anyhow::Result<Value> {
        self.ask(&Ask::get(path)).await
    }

    /// All rows of a list, page by page.
    pub(super) async fn all(&mut self, path: &str, limit: usize) -> anyhow::Result<Vec<Value>> {
        let (mut rows, mut cursor) = (vec![], String::new());
        let more = if path.contains('?') { '&' } else { '?' };
        loop {
            let mut page = self.get(&format!("{path}{more}limit={limit}{cursor}")).await?;
            rows.append(page["data"].as_array_mut().context("a list")?);
            let Some(next) = page["nextCursor"].as_str() else { return Ok(rows) };
            cursor = format!("&cursor={next}");
        }
    }
}
