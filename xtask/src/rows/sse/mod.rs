//! Many clients follow a log, cut their connections, stall and go to another server; servers are swapped. What each was
//! given is held against the log, event by event.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::join_all;
use nix::sys::signal::Signal;
use serde_json::json;
use tokio::time::{Instant, sleep, timeout};

use crate::client::Ask;
use crate::load::{Account, Again, BUSY, Customer, Effect, Load};
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
    load: &'a Load<'a>,
    /// Sessions whose creation has to be acknowledged.
    events: u64,
    seen: Seen,
    /// Somebody was given what is wrong.
    wrong: AtomicBool,
    /// The last position, once the writers have ended; 0 before.
    end: AtomicU64,
}

async fn prove(run: Run) -> anyhow::Result<Findings> {
    let place = Place::new(&run, 2, &[]).await?;
    let mut findings = run.findings();
    run.doing.now("the log is followed");
    follow(&place, &run, &mut findings).await?;
    if !findings.is_red() {
        run.doing.now("two logs are followed");
        beside::prove(&place, &run, &mut findings).await?;
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
    let account = Account::new(run, "sse")?;
    let load = Load::new(run, place, &account, Again::KILLED);
    let scene = Scene {
        place,
        tenant: &tenant,
        reconnected: AtomicU64::new(0),
        aim: if run.planted.is_some() { 800 } else { run.amount(8_000, 100_000) },
        load: &load,
        events: run.amount(600, 6_000),
        seen: Seen::default(),
        wrong: AtomicBool::new(false),
        end: AtomicU64::new(0),
    };
    let clients = if run.planted.is_some() { CLIENTS / 10 } else { CLIENTS };
    let reading = join_all((0..clients).map(|client| scene.client(client, run.random(client as u64 + 9))));
    let (violations, appended, swapped) = tokio::join!(reading, scene.append(), scene.swap(run.random(5)));
    for violation in violations {
        if let Some(violation) = violation? {
            findings.violation(violation);
        }
    }
    appended?;
    findings.done = scene.reconnected.load(Ordering::Relaxed);
    findings.did("reconnects that were given something", findings.done);
    findings.did("servers swapped", swapped?);
    let acknowledged = load.acknowledged.load(Ordering::Relaxed);
    findings.did("events acknowledged while clients followed", acknowledged);
    if !findings.is_red() {
        let client = place.superuser().await?;
        let log = (tenant.organization.as_str(), "live");
        for wrong in scene.seen.against_the_log(&client, log, account.about()?).await? {
            findings.violation(wrong);
        }
    }
    account.close(findings);
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

/// Appends an event.
async fn create_session(writer: &mut Customer<'_>) -> anyhow::Result<()> {
    let body = json!({ "userId": format!("user_{}_{}", writer.number, writer.asked) });
    let created = Effect::of("session.created", &[]).telling("id");
    writer.write(Ask::post("/v1/sessions", Some(body)), created).await.map(drop)
}

impl Scene<'_> {
    /// Appends at a measured pace until the clients have come back often enough and enough has happened.
    async fn append(&self) -> anyhow::Result<()> {
        let writers = self.load.customers([&*self.tenant.key; WRITERS], "append", 100_000);
        let writing = self.load.live(writers, |writer| self.write(writer));
        let wrote = writing.await.into_iter().collect::<anyhow::Result<Vec<()>>>();
        self.load.end();
        // Also where a writer has failed: the clients read until the end of the log.
        let sql = "select h.position from heads h join tenants t using (tenant_id)
                   where t.organization_id = $1 and t.mode = 'live'";
        let head: i64 =
            self.place.superuser().await?.query_one(sql, &[&self.tenant.organization]).await?.get(0);
        self.end.store(u64::try_from(head)?, Ordering::Relaxed);
        wrote.map(drop)
    }

    async fn write(&self, mut writer: Customer<'_>) -> anyhow::Result<()> {
        let acknowledged = &self.load.acknowledged;
        let is_enough = || {
            self.reconnected.load(Ordering::Relaxed) >= self.aim
                && acknowledged.load(Ordering::Relaxed) >= self.events
        };
        while !is_enough() && !self.wrong.load(Ordering::Relaxed) && !self.load.is_over() {
            create_session(&mut writer).await?;
            // The pace: the log is to go on for as long as clients come back.
            sleep(Duration::from_millis(15)).await;
        }
        Ok(())
    }

    /// Ends one server after the other, with notice and without, and starts it again.
    async fn swap(&self, mut random: fastrand::Rng) -> anyhow::Result<u64> {
        let mut swapped = 0;
        while !self.load.is_over() {
            let server = random.usize(..2);
            let signal = if random.bool() { Signal::SIGKILL } else { Signal::SIGTERM };
            self.place.end_server(server, signal).await?;
            self.place.start(server).await?;
            swapped += 1;
            let until = Instant::now() + Duration::from_secs(3);
            while !self.load.is_over() && Instant::now() < until {
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
