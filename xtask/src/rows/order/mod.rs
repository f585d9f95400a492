//! Readers tail a log while many append to it, appends are slow or rolled back, others' transactions stay open for long and
//! connections are cut. What each reader was given is held against what the writers know, position by position.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, ensure};
use futures_util::FutureExt;
use futures_util::future::join_all;
use serde_json::json;

use crate::client::{Ask, DEADLINE};
use crate::load::{Account, Again, Customer, Effect, Load};
use crate::place::{Place, Tenant};
use crate::prove::{Findings, Row, Run};

mod disturb;
mod read;

use disturb::Disturbed;
use read::Way;

pub(crate) const ROW: Row = Row {
    name: "order",
    claim: "a tailing reader misses nothing: positions are dense, in order, and each comes once, with what was written",
    floor: (10_000, 1_000_000),
    bugs: &["skipped-event", "missing-row", "published-early"],
    run: |run| prove(run).boxed(),
};

const WRITERS: usize = 64;
/// How a write is repeated that was not decided: nobody says what came of it where a connection of the database was cut.
const AGAIN: Again =
    Again { each: DEADLINE, all: Duration::from_secs(90), rest_ms: 20..=20, ..Again::KILLED };
/// The event that each write makes happen.
const CREATED: &str = "session.created";
/// Who reads how, at which server.
const READERS: [(usize, Way); 4] = [(0, Way::Stream), (1, Way::Stream), (0, Way::Pages), (1, Way::Pages)];

/// What writers and readers share.
struct Scene<'a> {
    place: &'a Place,
    tenant: &'a Tenant,
    load: &'a Load<'a>,
    aim: u64,
    /// How many events each reader has been given so far. Those of pages count as they come, also where a cut makes the
    /// reader ask for them again.
    given: [AtomicU64; READERS.len()],
    disturbed: Disturbed,
}

async fn prove(run: Run) -> anyhow::Result<Findings> {
    let place = Place::new(&run, 2, &[]).await?;
    let (tenant, other) = (place.organization("live").await?, place.organization("live").await?);
    let account = Account::new(&run, "order")?;
    let load = Load::new(&run, &place, &account, AGAIN);
    let scene = Scene {
        place: &place,
        tenant: &tenant,
        load: &load,
        aim: run.amount(10_500, 1_000_000),
        given: Default::default(),
        disturbed: Disturbed::to_be(&run),
    };
    let mut findings = run.findings();
    let writing = async {
        let writers = load.customers([&*tenant.key; WRITERS], "order", 100);
        let wrote = load.live(writers, |writer| scene.write(writer)).await;
        load.end();
        wrote
    };
    let reading = join_all((0..READERS.len()).map(|reader| scene.read(reader)));
    let disturbing = async { load.or_over(scene.disturb(&run).await) };
    let holding = async { load.or_over(scene.hold_another_open(&other).await) };
    let (wrote, read, disturbed, stalled) = tokio::join!(writing, reading, disturbing, holding);
    run.doing.now("what was read is compared");
    wrote.into_iter().collect::<anyhow::Result<Vec<()>>>()?;
    disturbed?;
    stalled?.into_iter().for_each(|stalled| findings.violation(stalled));
    scene.hold_the_log_against(read, &mut findings).await?;
    scene.disturbed.told(&mut findings, run.planted.is_some());
    findings.done = load.acknowledged.load(Ordering::Relaxed);
    findings.did("events appended", findings.done);
    findings.did("unknown, settled by a retry", load.unknown.load(Ordering::Relaxed));
    account.close(&findings);
    place.stop().await?;
    Ok(findings)
}

/// Stands for a write and what came of it: its idempotency key, and the id of what it has created.
fn write_of(key: &str, id: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    (key, id).hash(&mut hasher);
    hasher.finish()
}

/// What a reader was given: of each position, the write that it is of.
type Read = Vec<(i64, u64)>;

impl Scene<'_> {
    /// Whether writers stop: from here on it stays so.
    fn is_enough(&self) -> bool {
        self.load.is_over()
            || self.load.acknowledged.load(Ordering::Relaxed) >= self.aim && self.disturbed.is_enough()
    }

    /// Writes one session after the other.
    async fn write(&self, mut writer: Customer<'_>) -> anyhow::Result<()> {
        while !self.is_enough() {
            let body = json!({ "userId": format!("user_{}_{}", writer.number, writer.asked) });
            let ask = Ask::post("/v1/sessions", Some(body));
            let answer = writer.write(ask, Effect::of(CREATED, &[]).telling("id")).await?;
            ensure!(answer.status == 201, "a write: {} {}", answer.status, answer.text);
        }
        Ok(())
    }

    /// Each write is in the log once, and each reader was given the log.
    async fn hold_the_log_against(
        &self,
        read: Vec<anyhow::Result<Read>>,
        findings: &mut Findings,
    ) -> anyhow::Result<()> {
        let mut left = BTreeMap::new();
        for (key, entry) in self.load.account.operations::<Effect>()? {
            let id = entry.what.about.first().with_context(|| format!("{key} was acknowledged"))?;
            left.insert(write_of(&key, id), key);
        }
        let sql = "select e.position, e.type, e.metadata->>'idempotencyKey', (
                     select subject from unnest(e.subjects) as s(subject) where subject like 'ses\\_%' limit 1)
                   from events e join tenants t using (tenant_id)
                   where t.organization_id = $1 and t.mode = 'live' order by e.position";
        let rows = self.place.superuser().await?.query(sql, &[&self.tenant.organization]).await?;
        let mut log: Read = vec![];
        for row in &rows {
            let (kind, key, id): (&str, Option<&str>, Option<&str>) = (row.get(1), row.get(2), row.get(3));
            let write = match (kind, key, id) {
                (CREATED, Some(key), Some(id)) => write_of(key, id),
                _ => 0,
            };
            log.push((row.get(0), write));
        }
        let dense = (1..).zip(&log).find(|(expected, (position, _))| expected != position);
        findings.claim(dense.is_none(), || format!("the log has {dense:?}"));
        for (position, write) in log.iter().filter(|(_, write)| *write != 0) {
            let known = left.remove(write).is_some();
            findings.claim(known, || {
                format!("at {position} is what nobody has written, or what was there before")
            });
        }
        let lost: Vec<_> = left.values().take(3).collect();
        findings.claim(lost.is_empty(), || {
            format!("{} were acknowledged and are not there: {lost:?}", left.len())
        });
        for ((server, way), read) in READERS.into_iter().zip(read) {
            let read = read?;
            findings.did("events read", read.len() as u64);
            let who = || format!("a reader of {way:?} at server {server}");
            let differs = read.iter().zip(&log).find(|(given, event)| given != event);
            if let Some(((given, _), (position, _))) = differs {
                let what = if given == position { "something else" } else { "another position" };
                findings
                    .violation(format!("where {position} had to come, {what} ({given}) came to {}", who()));
            } else {
                let (given, last) = (read.len(), log.len());
                findings.claim(given == last, || format!("{}: ends at {given} of {last}", who()));
            }
        }
        Ok(())
    }
}
