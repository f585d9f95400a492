//! Readers tail a log while many append to it, transactions are slow or rolled back and connections are cut.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context;
use futures_util::FutureExt;
use futures_util::future::join_all;
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tokio::time::{Instant, timeout};

use crate::client::{Ask, Caller};
use crate::place::{Place, Tenant};
use crate::prove::{Findings, Row, Run};

pub(crate) const ROW: Row = Row {
    name: "order",
    claim: "a tailing reader misses nothing: positions are dense, in order, and each comes once",
    floor: (10_000, 1_000_000),
    bugs: &["skipped-event", "missing-row"],
    run: |run| prove(run).boxed(),
};

const WRITERS: usize = 64;
/// How long a reader may take to read what was appended before the writers ended.
const CATCH_UP: Duration = Duration::from_secs(60);

/// What writers and readers share.
struct Scene<'a> {
    place: &'a Place,
    tenant: &'a Tenant,
    appended: AtomicU64,
    aim: u64,
    over: AtomicBool,
}

async fn prove(run: Run) -> anyhow::Result<Findings> {
    let place = Place::new(&run, 2, &[]).await?;
    let tenant = place.organization("live").await?;
    let scene = Scene {
        place: &place,
        tenant: &tenant,
        appended: AtomicU64::new(0),
        aim: run.amount(15_000, 1_000_000),
        over: AtomicBool::new(false),
    };
    let mut findings = Findings::default();
    let writing = async {
        let wrote = join_all((0..WRITERS).map(|writer| scene.write(writer))).await;
        scene.over.store(true, Ordering::Relaxed);
        wrote
    };
    let readers = [(0, Way::Stream), (1, Way::Stream), (0, Way::Pages), (1, Way::Pages)];
    let reading = join_all(readers.map(|(server, way)| scene.read(server, way)));
    let (wrote, read, disturbed) = tokio::join!(writing, reading, scene.disturb(run.random(3)));
    for outcome in wrote {
        outcome?;
    }
    findings.did("transactions rolled back", disturbed?);
    let sql = "select h.position from heads h join tenants t using (tenant_id)
               where t.organization_id = $1 and t.mode = 'live'";
    let head: i64 = place.superuser().await?.query_one(sql, &[&tenant.organization]).await?.get(0);
    for ((server, way), positions) in readers.into_iter().zip(read) {
        let positions = positions?;
        findings.did("events read", positions.len() as u64);
        let who = || format!("a reader of {way:?} at server {server}");
        let out_of_place = (1..).zip(&positions).find(|(expected, position)| expected != *position);
        if let Some((expected, position)) = out_of_place {
            findings.violation(format!("{}: {position} where {expected} had to come", who()));
        } else {
            findings.claim(positions.last() == Some(&head), || {
                format!("{}: ends at {:?} of {head}", who(), positions.last())
            });
        }
    }
    findings.done = scene.appended.load(Ordering::Relaxed);
    findings.did("events appended", findings.done);
    place.stop().await?;
    Ok(findings)
}

/// How a reader follows the log.
#[derive(Debug, Clone, Copy)]
enum Way {
    /// `GET /v1/events/stream`, from the start.
    Stream,
    /// `GET /v1/events?after=…`, again and again.
    Pages,
}

impl Scene<'_> {
    async fn write(&self, writer: usize) -> anyhow::Result<()> {
        let mut caller = Caller::new(&self.tenant.key);
        for number in 0_u64.. {
            if self.appended.load(Ordering::Relaxed) >= self.aim {
                break;
            }
            let body = json!({ "userId": format!("user_{writer}_{number}") });
            let server = writer + usize::try_from(number)?;
            let address = self.place.address(server).context("a server runs")?;
            // A cut connection of the database is answered with 503, and may have appended: either is fine here.
            let answer = caller.ask(&address, &Ask::post("/v1/sessions", Some(body))).await?;
            if answer.status == 201 {
                self.appended.fetch_add(1, Ordering::Relaxed);
            }
        }
        Ok(())
    }

    /// Holds the log's lock for a while and rolls back, and cuts connections in the middle of what they do.
    async fn disturb(&self, mut random: fastrand::Rng) -> anyhow::Result<u64> {
        let mut client = self.place.superuser().await?;
        let mut rolled_back = 0;
        while !self.over.load(Ordering::Relaxed) {
            if random.u8(..3) == 0 {
                let cut = "select count(pg_terminate_backend(pid)) from (
                             select pid from pg_stat_activity where datname = current_database() and state = 'active'
                               and pid <> pg_backend_pid() and application_name = 'theazo' limit 1) a";
                client.query(cut, &[]).await?;
            }
            let transaction = client.transaction().await?;
            transaction.batch_execute("select 1 from heads for update").await?;
            tokio::time::sleep(Duration::from_millis(random.u64(1..40))).await;
            transaction.rollback().await?;
            rolled_back += 1;
            tokio::time::sleep(Duration::from_millis(random.u64(1..150))).await;
        }
        Ok(rolled_back)
    }

    /// The positions that a reader is given, until it has all that was appended.
    async fn read(&self, server: usize, way: Way) -> anyhow::Result<Vec<i64>> {
        let mut positions = vec![];
        let mut until = None;
        loop {
            let end = if self.over.load(Ordering::Relaxed) { Some(self.head().await?) } else { None };
            if let Some(end) = end {
                let until = *until.get_or_insert_with(|| Instant::now() + CATCH_UP);
                if positions.last().is_some_and(|last| *last >= end) || Instant::now() > until {
                    return Ok(positions);
                }
            }
            let after = positions.last().copied().unwrap_or_default();
            match way {
                Way::Stream => self.stream(server, after, &mut positions).await?,
                Way::Pages => self.page(server, after, &mut positions).await?,
            }
        }
    }

    async fn head(&self) -> anyhow::Result<i64> {
        let mut caller = Caller::new(&self.tenant.key);
        let address = self.place.address(0).context("a server runs")?;
        let newest = caller.ask(&address, &Ask::get("/v1/events?limit=1")).await?.json();
        newest["data"][0]["position"].as_i64().context("an event has a position")
    }

    /// Reads a stream until it is quiet or cut.
    async fn stream(&self, server: usize, after: i64, positions: &mut Vec<i64>) -> anyhow::Result<()> {
        let mut caller = Caller::new(&self.tenant.key);
        let address = self.place.address(server).context("a server runs")?;
        let Ok(response) = caller.open(&address, &Ask::get(format!("/v1/events/stream?after={after}"))).await
        else {
            return Ok(());
        };
        let mut body = response.into_body();
        let mut rest = String::new();
        while let Ok(Some(Ok(frame))) = timeout(Duration::from_secs(1), body.frame()).await {
            let Some(bytes) = frame.data_ref() else { continue };
            rest.push_str(&String::from_utf8_lossy(bytes));
            while let Some((line, behind)) = rest.split_once('\n') {
                if let Some(id) = line.strip_prefix("id:") {
                    positions.push(id.trim().parse()?);
                }
                rest = behind.to_owned();
            }
        }
        Ok(())
    }

    /// Reads all that is after a position and there now: pages are given newest first.
    async fn page(&self, server: usize, after: i64, positions: &mut Vec<i64>) -> anyhow::Result<()> {
        let mut caller = Caller::new(&self.tenant.key);
        let address = self.place.address(server).context("a server runs")?;
        let mut found = vec![];
        let mut cursor = String::new();
        loop {
            let path = format!("/v1/events?limit=100&after={after}{cursor}");
            let answer = caller.ask(&address, &Ask::get(path)).await?;
            if answer.status != 200 {
                // The connection of the database was cut; nothing is known of the rest, so all of it is asked again.
                return Ok(());
            }
            let page = answer.json();
            found.extend(
                page["data"].as_array().into_iter().flatten().filter_map(|event| event["position"].as_i64()),
            );
            match &page["nextCursor"] {
                Value::String(next) => cursor = format!("&cursor={next}"),
                _ => break,
            }
        }
        positions.extend(found.into_iter().rev());
        if after == positions.last().copied().unwrap_or_default() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }
}
