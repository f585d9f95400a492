//! Many clients follow a log, cut their connections, stall and go to another server; servers are swapped. What each was
//! given is held against the log, event by event.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use futures_util::FutureExt;
use futures_util::future::join_all;
use nix::sys::signal::Signal;
use serde_json::json;
use tokio::time::{Instant, sleep, timeout};

use crate::again::{ANSWERED, BUSY};
use crate::client::{Ask, Caller};
use crate::place::{Place, Tenant};
use crate::prove::{Findings, Row, Run};

mod agents;
mod beside;
pub(super) mod frames;
mod overrun;

use frames::{Asked, Piece, Seen, Stream};

pub(crate) const ROW: Row = Row {
    name: "sse",
    claim: "a stream is exactly the log: nothing missing, nothing twice, over cuts, stalls and a server's end",
    floor: (1_000, 100_000),
    bugs: &["skipped-event", "repeated-frame", "shared-frames", "lost-behind"],
    run: |run| prove(run).boxed(),
};

const CLIENTS: usize = 1_000;
const WRITERS: usize = 4;
/// How long a client may take to read what was appended before the writers ended.
const CATCH_UP: Duration = Duration::from_secs(60);

struct Scene<'a> {
    place: &'a Place,
    tenant: &'a Tenant,
    /// Times that a client came back, and was given something.
    reconnected: AtomicU64,
    aim: u64,
    /// Sessions whose creation was acknowledged, and how many there have to be.
    ids: Mutex<BTreeSet<String>>,
    events: u64,
    seen: Seen,
    /// Somebody was given what is wrong.
    wrong: AtomicBool,
    /// The last position, once the writers have ended; 0 before.
    end: AtomicU64,
    over: AtomicBool,
}

async fn prove(run: Run) -> anyhow::Result<Findings> {
    let place = Place::new(&run, 2, &[]).await?;
    let mut findings = run.findings();
    run.doing.now("the log is followed");
    follow(&place, &run, &mut findings).await?;
    if !findings.is_red() {
        run.doing.now("two logs are followed");
        beside::prove(&place, &mut findings).await?;
    }
    if !findings.is_red() {
        run.doing.now("agents are followed");
        agents::prove(&place, &run, &mut findings).await?;
    }
    if !findings.is_red() {
        run.doing.now("readers fall behind");
        overrun::prove(&place, &run, &mut findings).await?;
    }
    place.stop().await?;
    Ok(findings)
}

/// A thousand clients follow one log while servers are swapped.
async fn follow(place: &Place, run: &Run, findings: &mut Findings) -> anyhow::Result<()> {
    let tenant = place.organization("live").await?;
    let scene = Scene {
        place,
        tenant: &tenant,
        reconnected: AtomicU64::new(0),
        aim: if run.planted.is_some() { 800 } else { run.amount(8_000, 100_000) },
        ids: Mutex::default(),
        events: run.amount(600, 6_000),
        seen: Seen::default(),
        wrong: AtomicBool::new(false),
        end: AtomicU64::new(0),
        over: AtomicBool::new(false),
    };
    let clients = if run.planted.is_some() { CLIENTS / 10 } else { CLIENTS };
    let reading = join_all((0..clients).map(|client| scene.client(client, run.random(client as u64 + 9))));
    let (violations, appended, swapped) = tokio::join!(reading, scene.append(), scene.swap(run.random(5)));
    appended?;
    for violation in violations {
        if let Some(violation) = violation? {
            findings.violation(violation);
        }
    }
    findings.done = scene.reconnected.load(Ordering::Relaxed);
    findings.did("reconnects that were given something", findings.done);
    findings.did("servers swapped", swapped?);
    let ids = scene.ids.into_inner().unwrap_or_else(PoisonError::into_inner);
    findings.did("events acknowledged while clients followed", ids.len() as u64);
    if !findings.is_red() {
        let client = place.superuser().await?;
        let log = (tenant.organization.as_str(), "live");
        for wrong in scene.seen.against_the_log(&client, log, ids).await? {
            findings.violation(wrong);
        }
    }
    Ok(())
}

/// Two ways to say what one has: in the query, or in the header that a browser sends, whose address stays what it was.
fn way(last: u64, random: &mut fastrand::Rng) -> (String, Option<u64>) {
    match random.u8(..4) {
        0 | 1 => (format!("?after={last}"), None),
        2 => (String::new(), Some(last)),
        _ => (format!("?after={}", random.u64(..=last)), Some(last)),
    }
}

impl Scene<'_> {
    /// Appends at a measured pace until the clients have come back often enough and enough has happened.
    async fn append(&self) -> anyhow::Result<()> {
        let writing = join_all((0..WRITERS).map(async |writer| {
            let mut caller = Caller::new(&self.tenant.key);
            for number in 0_usize.. {
                let acknowledged = self.ids.lock().unwrap_or_else(PoisonError::into_inner).len() as u64;
                let enough =
                    self.reconnected.load(Ordering::Relaxed) >= self.aim && acknowledged >= self.events;
                if enough || self.wrong.load(Ordering::Relaxed) {
                    break;
                }
                let body = json!({ "userId": format!("user_{writer}_{number}") });
                let ask = Ask::post("/v1/sessions", Some(body)).once(format!("append-{writer}-{number}"));
                let made = self.place.carry_out(&mut caller, writer + number, &ask, ANSWERED).await?;
                let id = made["id"].as_str().context("a session has an id")?;
                self.ids.lock().unwrap_or_else(PoisonError::into_inner).insert(id.to_owned());
                sleep(Duration::from_millis(15)).await;
            }
            Ok(())
        }));
        let wrote = writing.await.into_iter().collect::<anyhow::Result<Vec<()>>>();
        self.over.store(true, Ordering::Relaxed);
        wrote?;
        let sql = "select h.position from heads h join tenants t using (tenant_id)
                   where t.organization_id = $1 and t.mode = 'live'";
        let head: i64 =
            self.place.superuser().await?.query_one(sql, &[&self.tenant.organization]).await?.get(0);
        self.end.store(u64::try_from(head)?, Ordering::Relaxed);
        Ok(())
    }

    /// Ends one server after the other, with notice and without, and starts it again.
    async fn swap(&self, mut random: fastrand::Rng) -> anyhow::Result<u64> {
        let mut swapped = 0;
        while !self.over.load(Ordering::Relaxed) {
            let server = random.usize(..2);
            let signal = if random.bool() { Signal::SIGKILL } else { Signal::SIGTERM };
            self.place.end_server(server, signal).await?;
            self.place.start(server).await?;
            swapped += 1;
            let until = Instant::now() + Duration::from_secs(3);
            while !self.over.load(Ordering::Relaxed) && Instant::now() < until {
                sleep(Duration::from_millis(50)).await;
            }
        }
        Ok(swapped)
    }

    /// Reads until the end of the log has come; what is wrong with what was read, if anything.
    async fn client(&self, client: usize, mut random: fastrand::Rng) -> anyhow::Result<Option<String>> {
        let (mut last, mut comings) = (0_u64, 0_u64);
        let mut until = None;
        loop {
            let end = self.end.load(Ordering::Relaxed);
            if end > 0 {
                let until = *until.get_or_insert_with(|| Instant::now() + CATCH_UP);
                if last >= end {
                    return Ok(
                        (last > end).then(|| format!("client {client}: {last} came, the log ends at {end}"))
                    );
                }
                if Instant::now() > until {
                    return Ok(Some(format!("client {client}: nothing after {last}, the log ends at {end}")));
                }
            }
            let for_at_most = Duration::from_millis(random.u64(100..3_000));
            let mut came = false;
            let read = self.read(client, &mut last, &mut came, &mut random);
            let outcome = timeout(for_at_most, read).await;
            // Dropped in the middle of whatever it was at: a cut.
            if came {
                self.reconnected.fetch_add(u64::from(comings > 0), Ordering::Relaxed);
                comings += 1;
            }
            if let Ok(Some(violation)) = outcome {
                // It comes back no more, so the others would have to wait for its share.
                self.wrong.store(true, Ordering::Relaxed);
                return Ok(Some(format!("client {client}: {violation}")));
            }
            sleep(Duration::from_millis(random.u64(..20))).await;
        }
    }

    /// Reads one connection's frames until it ends; notes whether it was given anything.
    async fn read(
        &self,
        client: usize,
        last: &mut u64,
        came: &mut bool,
        random: &mut fastrand::Rng,
    ) -> Option<String> {
        let address = self.place.address(client + random.usize(..2))?;
        let (query, last_event_id) = way(*last, random);
        let asked = Asked {
            key: &self.tenant.key,
            path: &format!("/v1/events/stream{query}"),
            last_event_id,
            small_buffer: client.is_multiple_of(2),
        };
        let mut stream = Stream::open(&address, &asked).await.ok()?;
        if stream.status != 200 {
            // A server that ends says 503; anything else is none of what it may say.
            return (stream.status != BUSY)
                .then(|| format!("asked for, it was answered with {}", stream.status));
        }
        while let Some(piece) = stream.next().await {
            *came = true;
            match piece {
                Piece::Comment => {}
                Piece::Wrong(wrong) => return Some(wrong),
                Piece::Frame(frame) if frame.id != *last + 1 => {
                    return Some(format!("{} behind {last}", frame.id));
                }
                Piece::Frame(frame) => {
                    *last = frame.id;
                    if let Err(wrong) = self.seen.meets(frame) {
                        return Some(wrong);
                    }
                }
            }
            if random.u8(..20) == 0 {
                sleep(Duration::from_millis(random.u64(..500))).await;
            }
        }
        None
    }
}
