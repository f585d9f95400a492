//! Servers that have runs are killed, and the database under them.

use std::sync::PoisonError;

use anyhow::Context;
use nix::sys::signal::Signal;
use tokio::time::{Duration, Instant, sleep};

use super::super::ledger::spans::now_ms;
use super::{GIVE_UP, Round, SERVERS, lock};

/// One kill in so many is the database's.
const DATABASE_IN: u64 = 4;
/// How long a server is waited for that is to have runs: how fast they are taken up is for other tests to say.
const UNTIL_BUSY: Duration = GIVE_UP;

impl Round<'_> {
    /// Kills servers that have runs, and one time in four the database, at random moments, and starts them again.
    pub(super) async fn kill_around(&self, random: &mut fastrand::Rng, kills: u64) -> anyhow::Result<()> {
        let mut killed = 0;
        let of_database = random.u64(..DATABASE_IN);
        while killed < kills && !lock(self.findings).is_red() && !self.load.is_over() {
            let Some(victim) = self.busy(random.usize(..SERVERS)).await? else { return Ok(()) };
            sleep(Duration::from_millis(random.u64(..1_500))).await;
            let is_database = killed % DATABASE_IN == of_database;
            let mut held = 0;
            for number in (0..SERVERS).filter(|number| is_database || *number == victim) {
                held += self.holds(number).await?;
            }
            let began = now_ms();
            if is_database {
                self.scene.place.kill_database_surely().await?;
                self.query("select 1", &[]).await?;
            } else {
                self.scene.place.end_server(victim, Signal::SIGKILL).await?;
                self.scene.place.start(victim).await?;
            }
            self.outages.note((began, now_ms()));
            *self.killed.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
            if held > 0 {
                killed += 1;
                let mut findings = lock(self.findings);
                findings.done += 1;
                findings.did("runs that a kill met", held);
                let whose = if is_database {
                    "kills of the database under runs"
                } else {
                    "kills of servers that ran agents"
                };
                findings.did(whose, 1);
            }
        }
        Ok(())
    }

    /// The next server from this one on that has runs, once one has; none where there is no use in waiting for it.
    async fn busy(&self, first: usize) -> anyhow::Result<Option<usize>> {
        let until = Instant::now() + UNTIL_BUSY;
        loop {
            for number in (0..SERVERS).map(|turn| (first + turn) % SERVERS) {
                if self.holds(number).await? > 0 {
                    return Ok(Some(number));
                }
            }
            if lock(self.findings).is_red() || self.load.is_over() {
                return Ok(None);
            }
            anyhow::ensure!(Instant::now() < until, "no server takes up the runs");
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// How many runs a server has: by the name under which it holds work, which stands in its log.
    async fn holds(&self, number: usize) -> anyhow::Result<u64> {
        let log = std::fs::read_to_string(self.scene.place.folder(number).with_extension("log"))?;
        let worker = log.rsplit_once(r#""worker":""#).and_then(|(_, rest)| rest.split_once('"'));
        let Some((worker, _)) = worker else { return Ok(0) };
        let sql = "select count(*) from leases where kind = 'run' and worker = $1 and expires_at > now()";
        let held: i64 = self.query(sql, &[&worker]).await?.first().context("a count")?.get(0);
        Ok(u64::try_from(held)?)
    }
}
