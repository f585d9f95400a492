//! What is done to the appends: they are held up after they have written and before they commit, and cut there, so that
//! what they have written is rolled back; and beside them somebody else's transaction stays open.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context;
use tokio::time::{Instant, sleep};

use super::{READERS, Scene};
use crate::place::Tenant;
use crate::prove::{Findings, Run};

/// How long somebody else's transaction stays open.
const OPEN: Duration = Duration::from_secs(5);
/// How long before that it is open already: what was on its way to a reader when it was opened has come by then, and shows
/// nothing.
const SETTLED: Duration = Duration::from_secs(1);
/// How long it is waited for an append that can be held up.
const CAUGHT: Duration = Duration::from_secs(2);
/// The backends of servers that have written to the log, and wait to keep the answers: the last that they do before they
/// commit.
const HELD_UP: &str = "
    select w.pid from pg_locks w join pg_locks e on e.pid = w.pid and e.relation = 'events'::regclass
      and e.mode = 'RowExclusiveLock' and e.granted
    join pg_stat_activity a on a.pid = w.pid and a.application_name = 'theazo'
    where w.relation = 'idempotency'::regclass and w.mode = 'RowExclusiveLock' and not w.granted";
/// Cuts some connection that is in the middle of something.
const CUT: &str = "
    select count(pg_terminate_backend(pid)) from (
      select pid from pg_stat_activity where datname = current_database() and state = 'active'
        and pid <> pg_backend_pid() and application_name = 'theazo' limit 1) a";

/// What was done, and how much of it has to be.
#[derive(Default)]
pub(super) struct Disturbed {
    least: (u64, u64, u64),
    slow: AtomicU64,
    rolled_back: AtomicU64,
    cut: AtomicU64,
    beside: AtomicU64,
}

impl Disturbed {
    pub(super) fn to_be(run: &Run) -> Self {
        Self { least: (run.amount(20, 1_000), run.amount(10, 500), run.amount(3, 100)), ..Self::default() }
    }

    fn counts(&self) -> (u64, u64, u64) {
        let count = |count: &AtomicU64| count.load(Ordering::Relaxed);
        (count(&self.slow), count(&self.rolled_back), count(&self.beside))
    }

    pub(super) fn is_enough(&self) -> bool {
        let (slow, rolled_back, beside) = self.counts();
        slow >= self.least.0 && rolled_back >= self.least.1 && beside >= self.least.2
    }

    /// Tells what was done.
    pub(super) fn told(&self, findings: &mut Findings, planted: bool) {
        let (slow, rolled_back, beside) = self.counts();
        findings
            .claim(planted || self.is_enough(), || format!("only {:?} of {:?}", self.counts(), self.least));
        findings.did("appends held up after they had written", slow);
        findings.did("appends rolled back after they had written", rolled_back);
        findings.did("connections cut elsewhere", self.cut.load(Ordering::Relaxed));
        findings.did("others' transactions open for 5 s", beside);
    }
}

impl Scene<'_> {
    /// Holds appends up, rolls them back, and cuts connections in the middle of what they do.
    pub(super) async fn disturb(&self, run: &Run) -> anyhow::Result<()> {
        let mut random = run.random(3);
        let mut client = self.place.superuser().await?;
        let other = self.place.superuser().await?;
        // The last writers are left alone: nobody else has anything to do by then.
        while !self.is_enough() {
            let appended = self.load.acknowledged.load(Ordering::Relaxed);
            run.doing.now(format!("{appended} appended, disturbed {:?}", self.disturbed.counts()));
            if random.u8(..4) == 0 {
                let cut: i64 = client.query_one(CUT, &[]).await?.get(0);
                self.disturbed.cut.fetch_add(u64::try_from(cut)?, Ordering::Relaxed);
            }
            let transaction = client.transaction().await?;
            // Whoever appends comes here last of all.
            transaction.batch_execute("lock table idempotency in share mode").await?;
            let until = Instant::now() + CAUGHT;
            let caught = loop {
                let caught = other.query(HELD_UP, &[]).await?;
                if !caught.is_empty() || Instant::now() > until || self.is_enough() {
                    break caught;
                }
                sleep(Duration::from_millis(2)).await;
            };
            sleep(Duration::from_millis(random.u64(10..200))).await;
            if random.u8(..3) == 0 {
                for row in &caught {
                    let pid: i32 = row.get(0);
                    // It cannot have committed: it still waits.
                    let sql =
                        format!("select count(pg_terminate_backend(pid)) from ({HELD_UP} and w.pid = $1) h");
                    let cut: i64 = other.query_one(&sql, &[&pid]).await?.get(0);
                    self.disturbed.rolled_back.fetch_add(u64::try_from(cut)?, Ordering::Relaxed);
                }
            } else {
                self.disturbed.slow.fetch_add(caught.len() as u64, Ordering::Relaxed);
            }
            transaction.rollback().await?;
            sleep(Duration::from_millis(random.u64(1..400))).await;
        }
        Ok(())
    }

    /// Keeps a transaction of another tenant open that has written to its log. Writers and readers of this one must go on
    /// meanwhile, until there is enough: who does not is told. From then on writers stop one after the other, and one of
    /// them may be at its last write for long while nobody else moves.
    pub(super) async fn hold_another_open(&self, other: &Tenant) -> anyhow::Result<Vec<String>> {
        let mut client = self.place.superuser().await?;
        let mut stalled = vec![];
        while !self.is_enough() {
            let transaction = client.transaction().await?;
            let sql = "update heads h set position = position + 1 from tenants t
                       where t.tenant_id = h.tenant_id and t.organization_id = $1 and t.mode = 'live'
                       returning h.tenant_id, h.position";
            let row = transaction.query_opt(sql, &[&other.organization]).await?.context("it has a log")?;
            let (tenant, position): (i64, i64) = (row.get(0), row.get(1));
            let sql = "insert into events select tenant_id, $2::bigint, event_id, type, version, subjects, data, metadata, at, leaf_hash
                       from events where tenant_id = $1 and position = $2::bigint - 1";
            transaction.execute(sql, &[&tenant, &position]).await?;
            // It has a number of the database's own by now, as whoever waits for the oldest of them would know.
            self.go_on(SETTLED).await;
            let began = self.standing();
            self.go_on(OPEN).await;
            let now = self.standing();
            // Looked at behind the others: if there is not enough yet, there was not before.
            if !self.is_enough() {
                stalled.extend(stood_still(&began, &now));
                self.disturbed.beside.fetch_add(1, Ordering::Relaxed);
            }
            transaction.rollback().await?;
            sleep(Duration::from_millis(200)).await;
        }
        Ok(stalled)
    }

    /// Lets the others go on for so long, unless there is enough before.
    async fn go_on(&self, long: Duration) {
        let until = Instant::now() + long;
        while Instant::now() < until && !self.is_enough() {
            // Nobody tells when there is enough: it is looked at, and the window closes with it.
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// How many events the readers have been given and, last, the writers have appended.
    fn standing(&self) -> Vec<u64> {
        let all = self.given.iter().chain([&self.load.acknowledged]);
        all.map(|events| events.load(Ordering::Relaxed)).collect()
    }
}

/// Who got no further between two looks.
fn stood_still(began: &[u64], now: &[u64]) -> Vec<String> {
    let mut stalled = vec![];
    for (number, (before, now)) in began.iter().zip(now).enumerate() {
        let who = READERS.get(number).map_or("the writers".to_owned(), |reader| format!("{reader:?}"));
        if now <= before {
            let what = format!("no further than {before} events");
            stalled.push(format!("{who}: {what} while another tenant's transaction was open"));
        }
    }
    stalled
}
