//! Servers and the database are killed, as what is charged goes on.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use nix::sys::signal::Signal;
use theazo::clock::{Clock, SystemClock};
use tokio::time::{Instant, sleep};

use super::answers::Vendor;
use super::{GIVE_UP, SERVERS};
use crate::load::Load;

/// One kill in so many is the database's.
const DATABASE_IN: u64 = 4;
/// What is due is done within so much, where nothing is dead: work is looked for twice a second.
const ENOUGH_MS: i64 = 2_000;
/// What a killed server was about to do is done by another this long after at the latest: its lease runs out ten seconds
/// after it was given or renewed last. What a server could not do because the database was dead rests for five.
const TAKEN_UP_MS: i64 = 10_000 + ENOUGH_MS;
/// A piece of compute is measured when it is 45 seconds old, and is a minute long at most: what is used later than so much
/// after it was due, nobody pays for.
const SPARE_MS: i64 = 15_000;

/// When something was dead, by the client's clock.
#[derive(Default)]
pub(crate) struct Outages(Mutex<Vec<(i64, i64)>>);

impl Outages {
    /// Something was dead from the first of these moments until the second.
    pub(crate) fn note(&self, outage: (i64, i64)) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(outage);
    }

    /// Of the milliseconds between these moments, the end of a piece of compute that was charged and the beginning of the
    /// next: how many may not have been charged for what was dead.
    ///
    /// A server that measures a piece holds it for ten seconds, and is the only one that does. Where it is killed at that,
    /// another takes the piece when the lease has run out; where that one is killed too, a third does, and so on: each kill
    /// that comes before the piece is taken up again may put it off by as much once more. There is no end to that but the
    /// end of the kills, so such kills count as one long outage. One kill alone costs nothing: 12 seconds of the 15 that
    /// there are to spare. Two in a row cost 6, and each further one 10.
    pub(crate) fn unmeasured_ms(&self, (charged, next): (i64, i64)) -> i64 {
        let outages = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut in_a_row: Vec<(i64, i64)> = vec![];
        for (killed, up) in outages.iter().copied() {
            match in_a_row.last_mut() {
                Some((_, end)) if killed <= *end + TAKEN_UP_MS => *end = up.max(*end),
                _ => in_a_row.push((killed, up)),
            }
        }
        // What is charged of a late piece ends so long after it was due.
        let due = charged - SPARE_MS;
        let late = in_a_row.iter().map(|(start, end)| {
            let (from, until) = ((start - ENOUGH_MS).max(due), (end + TAKEN_UP_MS).min(next));
            until - from - SPARE_MS
        });
        late.max().unwrap_or_default().max(0)
    }

    /// Whether something was dead between these moments, or just before.
    pub(crate) fn meet(&self, (from, until): (i64, i64)) -> bool {
        let outages = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        outages.iter().any(|(killed, up)| *killed <= until && *up >= from - ENOUGH_MS)
    }
}

/// Kills something this often while so many charges are made, in as many equal parts of them one kill each; one of four
/// is the database's. Ends early where nothing is charged any more.
pub(super) async fn kill(
    load: &Load<'_>,
    (vendor, outages): (&Vendor, &Outages),
    (from, until, kills): (u64, u64, u64),
    mut random: fastrand::Rng,
) -> anyhow::Result<(u64, u64)> {
    let of_database = random.u64(..DATABASE_IN.min(kills.max(1)));
    let mut killed = (0, 0);
    for turn in 0..kills {
        let part = (until - from) / kills;
        let aim = from + turn * part + random.u64(..part.max(1));
        while vendor.charges() < aim {
            if load.is_over() {
                return Ok(killed);
            }
            // A kill comes at any moment of what the agents do, which nothing tells.
            sleep(Duration::from_millis(random.u64(1..10))).await;
        }
        let began = SystemClock.now().millis();
        if turn % DATABASE_IN == of_database {
            load.place.kill_database_surely().await?;
            let until = Instant::now() + GIVE_UP;
            while let Err(error) = load.place.superuser().await {
                anyhow::ensure!(Instant::now() < until, "the database does not come back: {error:#}");
                sleep(Duration::from_millis(20)).await;
            }
            killed.1 += 1;
        } else {
            let server = random.usize(..SERVERS);
            load.place.end_server(server, Signal::SIGKILL).await?;
            load.place.start(server).await?;
            killed.0 += 1;
        }
        outages.note((began, SystemClock.now().millis()));
    }
    Ok(killed)
}
