//! Readers that stall until more has happened behind their backs than a feed keeps in memory, so that the server has to
//! read the log for them, and then read on while still more happens.

use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::Context;
use futures_util::future::join_all;
use theazo::config::FEED_EVENTS;
use tokio::time::{Instant, sleep, timeout};

use super::create_session;
use super::frames::{Asked, Piece, Seen, Stream};
use crate::load::{Account, Again, Customer, Load};
use crate::place::{Place, Tenant};
use crate::prove::{Findings, Run};

const READERS: usize = 6;
const WRITERS: usize = 64;
/// How long a stalled reader waits at most until it is far enough behind.
const STALL: Duration = Duration::from_secs(80);
/// How often it takes a little meanwhile: a server lets go of one that takes nothing for long, so that it would not read on
/// but come back.
const SIP: Duration = Duration::from_secs(5);
/// How often a reader that was let go of, because its sips were too small to be noticed, begins a stall anew.
const TRIES: usize = 3;
/// Events of a sip: more than its own end of the connection holds, so that the server gets rid of some.
const SIPPED: u64 = 100;
/// How long a reader may take to read what it has missed.
const CATCH_UP: Duration = Duration::from_secs(60);
/// What a server's program holds ready for one connection at most, beside what the system does, in bytes: what is being
/// sent, and a page of events behind it.
const HELD_BY_THE_PROGRAM: u64 = 700_000;

struct Scene<'a> {
    place: &'a Place,
    tenant: &'a Tenant,
    load: &'a Load<'a>,
    seen: Seen,
}

/// Lets readers fall behind so many times each, and holds what they were given against the log.
pub(super) async fn prove(place: &Place, run: &Run, findings: &mut Findings) -> anyhow::Result<()> {
    let tenant = place.organization("live").await?;
    let account = Account::new(run, "sse-overrun")?;
    let load = Load::new(run, place, &account, Again::KILLED);
    let scene = Scene { place, tenant: &tenant, load: &load, seen: Seen::default() };
    let rounds = run.amount(1, 10);
    let reading = async {
        let read = join_all((0..READERS).map(|reader| scene.read(reader, rounds))).await;
        load.end();
        read
    };
    let writers = load.customers([&*tenant.key; WRITERS], "overrun", 300_000);
    let (read, wrote) = tokio::join!(reading, load.live(writers, write));
    wrote.into_iter().collect::<anyhow::Result<Vec<()>>>()?;
    let mut overrun = 0;
    for outcome in read {
        match outcome? {
            Ok(stalls) => {
                overrun += stalls.behind;
                findings.did("times that a stalled reader was let go of", stalls.let_go);
            }
            Err(wrong) => findings.violation(wrong),
        }
    }
    if run.planted.is_none() {
        let enough = READERS as u64 * rounds / 2;
        findings.claim(overrun >= enough, || {
            format!("readers fell behind what is in memory {overrun} times, {enough} would show something")
        });
    }
    findings.did("times that a reader was behind what is in memory", overrun);
    findings.did("events while readers stalled", scene.appended());
    let client = place.superuser().await?;
    if !findings.is_red() {
        // What was written after the last of them had read on.
        if let Err(wrong) = scene.read_all(&client).await? {
            findings.violation(format!("a reader of all: {wrong}"));
        }
        let log = (tenant.organization.as_str(), "live");
        for wrong in scene.seen.against_the_log(&client, log, account.about()?).await? {
            findings.violation(wrong);
        }
    }
    account.close(findings);
    Ok(())
}

/// Appends, all at one server, which takes more then; the other is told. Only what the first is too busy for it is asked.
async fn write(mut writer: Customer<'_>) -> anyhow::Result<()> {
    writer.server = Some(0);
    while !writer.load.is_over() {
        create_session(&mut writer).await?;
    }
    Ok(())
}

impl Scene<'_> {
    /// Sessions that were acknowledged: each is an event, so the log has as many at least.
    fn appended(&self) -> u64 {
        self.load.acknowledged.load(Ordering::Relaxed)
    }

    /// Reads, stalls and reads on, so many times; what was seen of that, or what is wrong.
    async fn read(&self, reader: usize, rounds: u64) -> anyhow::Result<Result<Stalls, String>> {
        let mut read = Read { last: 0, smallest: u64::MAX };
        let mut stalls = Stalls::default();
        for _ in 0..rounds {
            for _ in 0..TRIES {
                match self.stall(reader, &mut read).await? {
                    Ok(behind) => {
                        stalls.behind += u64::from(behind);
                        break;
                    }
                    // It comes back, from where it was.
                    Err(Wrong::Ended) => stalls.let_go += 1,
                    Err(Wrong::Frames(wrong)) => return Ok(Err(format!("reader {reader}{wrong}"))),
                }
            }
        }
        Ok(Ok(stalls))
    }

    /// Reads, stalls and reads on, once: whether it was further behind then than a feed reaches.
    async fn stall(&self, reader: usize, read: &mut Read) -> anyhow::Result<Result<bool, Wrong>> {
        let address = self.place.address(reader).context("a server runs")?;
        let asked = Asked {
            key: &self.tenant.key,
            path: &format!("/v1/events/stream?after={}", read.last),
            last_event_id: None,
            small_buffer: true,
        };
        let mut stream = Stream::served(&address, &asked).await?;
        anyhow::ensure!(stream.status == 200, "a stream: {}", stream.status);
        // It is up with the log once, so that it stands in the feed.
        let now = self.appended();
        if let Err(wrong) = self.read_to(&mut stream, read, now.max(1)).await {
            return Ok(Err(Wrong::Frames(format!(": {}", wrong.said(read)))));
        }
        let until = Instant::now() + STALL;
        let (mut behind, mut sip) = (false, Instant::now() + SIP);
        while !behind && Instant::now() < until {
            // Nobody tells how far behind a reader is, so it is looked at again, until the deadline.
            sleep(Duration::from_millis(200)).await;
            if Instant::now() > sip {
                sip = Instant::now() + SIP;
                let end = (read.last + SIPPED).min(self.appended());
                if let Err(wrong) = self.read_to(&mut stream, read, end).await {
                    return Ok(Err(wrong.while_it(", stalling: ")));
                }
            }
            let on_its_way = (queued(stream.ports)? + HELD_BY_THE_PROGRAM) / read.smallest.max(1) + 1;
            let reach = read.last + on_its_way + u64::try_from(FEED_EVENTS)?;
            behind = self.appended() > reach;
        }
        let now = self.appended();
        let read_on = self.read_to(&mut stream, read, now.max(1)).await;
        Ok(read_on.map(|()| behind).map_err(|wrong| wrong.while_it(", having stalled: ")))
    }

    /// Reads the whole log, now that nobody writes any more.
    async fn read_all(&self, client: &tokio_postgres::Client) -> anyhow::Result<Result<(), String>> {
        let sql = "select h.position from heads h join tenants t using (tenant_id)
                   where t.organization_id = $1 and t.mode = 'live'";
        let head: i64 = client.query_one(sql, &[&self.tenant.organization]).await?.get(0);
        let address = self.place.address(0).context("a server runs")?;
        let path = "/v1/events/stream?after=0";
        let asked = Asked { key: &self.tenant.key, path, last_event_id: None, small_buffer: false };
        let mut stream = Stream::served(&address, &asked).await?;
        let mut read = Read { last: 0, smallest: u64::MAX };
        let all = self.read_to(&mut stream, &mut read, u64::try_from(head)?).await;
        Ok(all.map_err(|wrong| wrong.said(&read)))
    }

    /// Reads on to a position; what is wrong with what comes.
    async fn read_to(&self, stream: &mut Stream, read: &mut Read, end: u64) -> Result<(), Wrong> {
        let until = Instant::now() + CATCH_UP;
        while read.last < end {
            let last = read.last;
            let frame = match timeout(until - Instant::now(), stream.next()).await {
                Ok(Some(Piece::Frame(frame))) => frame,
                Ok(Some(Piece::Comment)) => continue,
                Ok(Some(Piece::Wrong(wrong))) => return Err(Wrong::Frames(wrong)),
                Ok(None) => return Err(Wrong::Ended),
                Err(_) => return Err(Wrong::Frames(format!("nothing came after {last}, there is {end}"))),
            };
            if frame.id != last + 1 {
                return Err(Wrong::Frames(format!("{} behind {last}", frame.id)));
            }
            read.smallest = read.smallest.min((frame.event.len() + frame.data.len()) as u64);
            read.last = frame.id;
            self.seen.meets(frame).map_err(Wrong::Frames)?;
        }
        Ok(())
    }
}

/// What a reader has read.
struct Read {
    /// Up to here.
    last: u64,
    /// The bytes of the smallest frame.
    smallest: u64,
}

/// What was seen of readers that stall.
#[derive(Default)]
struct Stalls {
    /// Times that one was further behind than a feed reaches.
    behind: u64,
    /// Times that the server let go of one: it may, where its sips were too small to be noticed.
    let_go: u64,
}

/// What came of reading on.
enum Wrong {
    /// The stream ended.
    Ended,
    /// The frames are not those of the log.
    Frames(String),
}

impl Wrong {
    fn said(self, read: &Read) -> String {
        match self {
            Self::Ended => format!("the stream ended after {}", read.last),
            Self::Frames(wrong) => wrong,
        }
    }

    fn while_it(self, did: &str) -> Self {
        match self {
            Self::Ended => Self::Ended,
            Self::Frames(wrong) => Self::Frames(format!("{did}{wrong}")),
        }
    }
}

/// What the system holds of a connection in both directions of its two ends, in bytes: it was sent, and not read.
fn queued((client, server): (u16, u16)) -> anyhow::Result<u64> {
    let mut queued = 0;
    for line in std::fs::read_to_string("/proc/net/tcp")?.lines().skip(1) {
        let mut fields = line.split_whitespace().skip(1);
        let (Some(local), Some(remote), Some(_), Some(queues)) =
            (fields.next(), fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        let port = |end: &str| end.rsplit_once(':').and_then(|(_, port)| u16::from_str_radix(port, 16).ok());
        let ends = (port(local), port(remote));
        if ends == (Some(client), Some(server)) || ends == (Some(server), Some(client)) {
            let (sent, received) = queues.split_once(':').context("two queues")?;
            queued += u64::from_str_radix(sent, 16)? + u64::from_str_radix(received, 16)?;
        }
    }
    Ok(queued)
}
