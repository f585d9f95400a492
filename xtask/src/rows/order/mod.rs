//! Readers tail a log while many append to it, appends are slow or rolled back, others' transactions stay open for long and
//! connections are cut. What each reader was given is held against what the writers know, position by position.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, ensure};
use futures_util::FutureExt;
use futures_util::future::join_all;
use serde_json::json;

use crate::again::Again;
use crate::client::{Ask, Caller, DEADLINE};
use crate::ledger::{Entry, Ledger, Outcome};
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
/// How a write is repeated that was not decided.
const AGAIN: Again =
    Again { each: DEADLINE, all: Duration::from_secs(90), rest: Duration::from_millis(20), unanswered: true };
/// The event that each write makes happen.
const CREATED: &str = "session.created";
/// Who reads how, at which server.
const READERS: [(usize, Way); 4] = [(0, Way::Stream), (1, Way::Stream), (0, Way::Pages), (1, Way::Pages)];

/// What writers and readers share.
struct Scene<'a> {
    place: &'a Place,
    tenant: &'a Tenant,
    ledger: &'a Ledger,
    appended: AtomicU64,
    unknown: AtomicU64,
    aim: u64,
    /// How many events each reader has been given so far. Those of pages count as they come, also where a cut makes the
    /// reader ask for them again.
    given: [AtomicU64; READERS.len()],
    disturbed: Disturbed,
    over: AtomicBool,
}

async fn prove(run: Run) -> anyhow::Result<Findings> {
    let place = Place::new(&run, 2, &[]).await?;
    let (tenant, other) = (place.organization("live").await?, place.organization("live").await?);
    let ledger = Ledger::new(&run, "order")?;
    let scene = Scene {
        place: &place,
        tenant: &tenant,
        ledger: &ledger,
        appended: AtomicU64::new(0),
        unknown: AtomicU64::new(0),
        aim: run.amount(10_500, 1_000_000),
        given: Default::default(),
        disturbed: Disturbed::to_be(&run),
        over: AtomicBool::new(false),
    };
    let mut findings = run.findings();
    let writing = async {
        let writers = (0..WRITERS).map(async |writer| scene.or_over(scene.write(writer).await));
        let wrote = join_all(writers).await;
        scene.over.store(true, Ordering::Relaxed);
        wrote
    };
    let reading = join_all((0..READERS.len()).map(|reader| scene.read(reader)));
    let disturbing = async { scene.or_over(scene.disturb(&run).await) };
    let holding = async { scene.or_over(scene.hold_another_open(&other).await) };
    let (wrote, read, disturbed, stalled) = tokio::join!(writing, reading, disturbing, holding);
    run.doing.now("what was read is compared");
    let mut acknowledged = BTreeMap::new();
    for wrote in wrote {
        acknowledged.extend(wrote?);
    }
    disturbed?;
    stalled?.into_iter().for_each(|stalled| findings.violation(stalled));
    scene.hold_the_log_against(&acknowledged, read, &mut findings).await?;
    scene.disturbed.told(&mut findings, run.planted.is_some());
    findings.done = scene.appended.load(Ordering::Relaxed);
    findings.did("events appended", findings.done);
    findings.did("unknown, settled by a retry", scene.unknown.load(Ordering::Relaxed));
    if !findings.is_red() {
        ledger.discard();
    }
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
    /// Ends the run where a part of it cannot go on, which the others would wait for.
    fn or_over<T>(&self, outcome: anyhow::Result<T>) -> anyhow::Result<T> {
        if outcome.is_err() {
            self.over.store(true, Ordering::Relaxed);
        }
        outcome
    }

    /// Whether writers stop: from here on it stays so.
    fn is_enough(&self) -> bool {
        self.over.load(Ordering::Relaxed)
            || self.appended.load(Ordering::Relaxed) >= self.aim && self.disturbed.is_enough()
    }

    /// Writes, and asks again with the same key until it is known what came of it. Gives the writes, and the key of each.
    async fn write(&self, writer: usize) -> anyhow::Result<BTreeMap<u64, String>> {
        let mut caller = Caller::new(&self.tenant.key);
        let mut acknowledged = BTreeMap::new();
        for number in 0_usize.. {
            if self.is_enough() {
                break;
            }
            let key = format!("order-{writer}-{number}");
            let body = json!({ "userId": format!("user_{writer}_{number}") });
            let ask = Ask::post("/v1/sessions", Some(body)).once(&key);
            let entry = |outcome, about, sent| {
                let (key, event) = (key.clone(), Some(CREATED.to_owned()));
                self.ledger.write(&Entry { key, event, about, outcome, sent })
            };
            entry(Outcome::Unknown, vec![], 0)?;
            // Nobody says what came of it where a connection of the database was cut.
            let address = |in_vain: usize| self.place.address(writer + number + in_vain.min(1));
            let (answer, in_vain) = AGAIN.ask(&mut caller, address, &ask).await?;
            ensure!(answer.status == 201, "{key}: {} {}", answer.status, answer.text);
            let id = answer.json()["id"].as_str().context("an id")?.to_owned();
            self.unknown.fetch_add(u64::from(in_vain > 0), Ordering::Relaxed);
            entry(Outcome::Ok, vec![id.clone()], u32::try_from(in_vain)? + 1)?;
            acknowledged.insert(write_of(&key, &id), key);
            self.appended.fetch_add(1, Ordering::Relaxed);
        }
        Ok(acknowledged)
    }

    /// Each write is in the log once, and each reader was given the log.
    async fn hold_the_log_against(
        &self,
        acknowledged: &BTreeMap<u64, String>,
        read: Vec<anyhow::Result<Read>>,
        findings: &mut Findings,
    ) -> anyhow::Result<()> {
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
        let mut left = acknowledged.clone();
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
