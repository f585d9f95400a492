//! Who asks the servers: over a connection and by random choices of its own, and by the account that it keeps.

use std::sync::atomic::Ordering;

use anyhow::{Context, bail, ensure};
use serde_json::Value;
use tokio::time::Instant;

use super::Load;
use super::account::{Entry, Operation, Outcome};
use super::again::Decided;
use super::effect::Effect;
use crate::client::{Answer, Ask, Caller};

pub(crate) struct Customer<'a> {
    pub(crate) load: &'a Load<'a>,
    caller: Caller,
    /// Its idempotency keys begin so.
    pub(crate) name: String,
    /// Which of those that live together it is.
    pub(crate) number: usize,
    /// Operations that were begun.
    pub(crate) asked: u64,
    pub(crate) random: fastrand::Rng,
    /// The server that is asked first; any, where there is none.
    pub(crate) server: Option<usize>,
    /// How often something was sent again because it was not decided, or because nobody knows.
    pub(crate) again: u64,
}

impl<'a> Customer<'a> {
    pub(super) fn new(load: &'a Load<'a>, key: &str, name: String, random: fastrand::Rng) -> Self {
        let caller = Caller::new(key);
        Self { load, caller, name, number: 0, asked: 0, random, server: None, again: 0 }
    }

    /// Has something done once, under a key of its own, however often it has to be asked for.
    ///
    /// # Errors
    /// Where it comes to what it must not.
    pub(crate) async fn write(&mut self, ask: Ask, what: impl Operation) -> anyhow::Result<Answer> {
        ensure!(!self.name.is_empty(), "somebody without a name would use another's keys");
        self.asked += 1;
        let key = format!("{}.{}", self.name, self.asked);
        self.send(&ask.once(key), what).await
    }

    /// The same of what a POST to this path makes happen.
    ///
    /// # Errors
    /// Where it is not done.
    pub(crate) async fn post(&mut self, path: &str, body: Value) -> anyhow::Result<Value> {
        Ok(self.write(Ask::post(path, Some(body)), Effect::of_path(path)).await?.json())
    }

    /// Asks for something as it is, until it is decided. A write stands in the account before and after.
    ///
    /// # Errors
    /// Where it comes to what it must not.
    pub(crate) async fn send(&mut self, ask: &Ask, what: impl Operation) -> anyhow::Result<Answer> {
        let (load, is_write) = (self.load, ask.method != "GET");
        let mut entry = Entry::intended(ask, what);
        if is_write {
            load.account.write(&entry)?;
        }
        let Decided { answer, sent, undecided } = self.ask(ask).await?;
        let Some(outcome) = entry.what.decided(&answer) else {
            let again = if sent > 1 { "a retry was decided anew" } else { "the first request" };
            bail!("{again}: {} {}: {} {}", ask.method, ask.path, answer.status, answer.text);
        };
        if is_write {
            load.account.write(&Entry { outcome, sent, asked: None, ..entry })?;
            load.unknown.fetch_add(u64::from(sent > 1), Ordering::Relaxed);
            load.undecided.fetch_add(undecided, Ordering::Relaxed);
            load.acknowledged.fetch_add(u64::from(outcome == Outcome::Ok), Ordering::Relaxed);
            load.refused.fetch_add(u64::from(outcome == Outcome::Refused), Ordering::Relaxed);
        }
        Ok(answer)
    }

    /// Looks at something.
    ///
    /// # Errors
    /// Where it is not shown.
    pub(crate) async fn look(&mut self, path: impl Into<String>) -> anyhow::Result<Value> {
        self.load.looks.fetch_add(1, Ordering::Relaxed);
        let ask = Ask::get(path);
        let answer = self.ask(&ask).await?.answer;
        if !answer.is_success() {
            bail!("GET {}: {} {}", ask.path, answer.status, answer.text);
        }
        Ok(answer.json())
    }

    /// All rows of a list, page by page.
    pub(crate) async fn all(&mut self, path: &str, limit: usize) -> anyhow::Result<Vec<Value>> {
        let (mut rows, mut cursor) = (vec![], String::new());
        let more = if path.contains('?') { '&' } else { '?' };
        loop {
            let mut page = self.look(format!("{path}{more}limit={limit}{cursor}")).await?;
            rows.append(page["data"].as_array_mut().context("a list")?);
            let Some(next) = page["nextCursor"].as_str() else { return Ok(rows) };
            cursor = format!("&cursor={next}");
        }
    }

    async fn ask(&mut self, ask: &Ask) -> anyhow::Result<Decided> {
        let (load, began) = (self.load, Instant::now());
        load.keep_pace().await?;
        // What is chosen next does not depend on how often this has to be asked.
        let mut random = self.random.fork();
        let first = self.server.unwrap_or_else(|| random.usize(..usize::from(u8::MAX)));
        let address = |turn| load.place.address(first.wrapping_add(turn));
        let decided = load.again.ask((&mut self.caller, &mut random), address, ask, &load.gate).await?;
        self.again += u64::from(decided.sent - 1);
        load.asked_again.fetch_add(u64::from(decided.sent - 1), Ordering::Relaxed);
        load.slowest_s.fetch_max(began.elapsed().as_secs(), Ordering::Relaxed);
        Ok(decided)
    }
}
