//! Many clients follow a log, cut their connections, stall and go to another server; servers are swapped.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context;
use futures_util::FutureExt;
use futures_util::future::join_all;
use http_body_util::BodyExt;
use nix::sys::signal::Signal;
use serde_json::json;
use tokio::time::{Instant, timeout};

use crate::client::{Ask, Caller};
use crate::place::{Place, Tenant};
use crate::prove::{Findings, Row, Run};

pub(crate) const ROW: Row = Row {
    name: "sse",
    claim: "a stream is exactly the log: nothing missing, nothing twice, over cuts, stalls and a server's end",
    floor: (1_000, 100_000),
    bugs: &["skipped-event", "repeated-frame"],
    run: |run| prove(run).boxed(),
};

const CLIENTS: usize = 1_000;
const WRITERS: usize = 4;
/// How long a client may take to read what was appended before the writers ended.
const CATCH_UP: Duration = Duration::from_secs(60);

struct Scene<'a> {
    place: &'a Place,
    tenant: &'a Tenant,
    /// Times that a client came back.
    reconnected: AtomicU64,
    aim: u64,
    /// The last position, once the writers have ended; 0 before.
    end: AtomicU64,
    over: AtomicBool,
}

async fn prove(run: Run) -> anyhow::Result<Findings> {
    let place = Place::new(&run, 2, &[]).await?;
    let tenant = place.organization("live").await?;
    let scene = Scene {
        place: &place,
        tenant: &tenant,
        reconnected: AtomicU64::new(0),
        aim: run.amount(8_000, 100_000),
        end: AtomicU64::new(0),
        over: AtomicBool::new(false),
    };
    let clients = if run.planted.is_some() { CLIENTS / 10 } else { CLIENTS };
    let reading = join_all((0..clients).map(|client| scene.client(client, run.random(client as u64 + 9))));
    let (violations, appended, swapped) = tokio::join!(reading, scene.append(), scene.swap(run.random(5)));
    let mut findings = Findings::default();
    for violation in violations {
        if let Some(violation) = violation? {
            findings.violation(violation);
        }
    }
    findings.done = scene.reconnected.load(Ordering::Relaxed);
    findings.did("reconnects", findings.done);
    findings.did("events appended", appended?);
    findings.did("servers swapped", swapped?);
    place.stop().await?;
    Ok(findings)
}

impl Scene<'_> {
    /// Appends at a measured pace until the clients have come back often enough.
    async fn append(&self) -> anyhow::Result<u64> {
        let appended = AtomicU64::new(0);
        join_all((0..WRITERS).map(async |writer| {
            let mut caller = Caller::new(&self.tenant.key);
            for number in 0_usize.. {
                if self.reconnected.load(Ordering::Relaxed) >= self.aim {
                    break;
                }
                if let Some(address) = self.place.address(writer + number) {
                    let body = json!({ "userId": format!("user_{writer}_{number}") });
                    if caller.ask(&address, &Ask::post("/v1/sessions", Some(body))).await.is_ok() {
                        appended.fetch_add(1, Ordering::Relaxed);
                    }
                }
                tokio::time::sleep(Duration::from_millis(15)).await;
            }
        }))
        .await;
        self.over.store(true, Ordering::Relaxed);
        let sql = "select h.position from heads h join tenants t using (tenant_id)
                   where t.organization_id = $1 and t.mode = 'live'";
        let head: i64 =
            self.place.superuser().await?.query_one(sql, &[&self.tenant.organization]).await?.get(0);
        self.end.store(u64::try_from(head)?, Ordering::Relaxed);
        Ok(appended.into_inner())
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
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        Ok(swapped)
    }

    /// Reads until the end of the log has come; what is wrong with what was read, if anything.
    async fn client(&self, client: usize, mut random: fastrand::Rng) -> anyhow::Result<Option<String>> {
        let mut last = 0_u64;
        let mut until = None;
        let mut caller = Caller::new(&self.tenant.key);
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
            let read = timeout(
                for_at_most,
                self.read(&mut caller, client + random.usize(..2), &mut last, &mut random),
            );
            if let Ok(outcome) = read.await
                && let Some(violation) = outcome?
            {
                // It comes back no more, so the others would have to wait for its share.
                self.reconnected.fetch_add(self.aim, Ordering::Relaxed);
                return Ok(Some(format!("client {client}: {violation}")));
            }
            // Dropped in the middle of whatever it was at: a cut.
            caller = Caller::new(&self.tenant.key);
            self.reconnected.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Reads one connection's frames until it ends.
    async fn read(
        &self,
        caller: &mut Caller,
        server: usize,
        last: &mut u64,
        random: &mut fastrand::Rng,
    ) -> anyhow::Result<Option<String>> {
        let Some(address) = self.place.address(server) else { return Ok(None) };
        let ask = Ask::get(format!("/v1/events/stream?after={last}"));
        let Ok(response) = caller.open(&address, &ask).await else { return Ok(None) };
        if response.status() != 200 {
            return Ok(None);
        }
        let mut body = response.into_body();
        let mut rest = String::new();
        while let Some(Ok(frame)) = body.frame().await {
            let bytes = frame.into_data().ok().context("a stream has no trailers")?;
            rest.push_str(&String::from_utf8_lossy(&bytes));
            // A frame counts when all of it is there.
            while let Some((event, behind)) = rest.split_once("\n\n") {
                if let Some(id) = event.lines().find_map(|line| line.strip_prefix("id:")) {
                    let id: u64 = id.trim().parse()?;
                    if id != *last + 1 {
                        return Ok(Some(format!("{id} behind {last}")));
                    }
                    *last = id;
                }
                rest = behind.to_owned();
            }
            if random.u8(..20) == 0 {
                tokio::time::sleep(Duration::from_millis(random.u64(..500))).await;
            }
        }
        Ok(None)
    }
}
