//! Servers and the database are killed, as what is charged goes on.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use nix::sys::signal::Signal;
use theazo::clock::{Clock, SystemClock};
use tokio::time::{Instant, sleep};

use super::answers::Vendor;
use super::{GIVE_UP, SERVERS};
use crate::place::Place;

/// One kill in so many is the database's.
const DATABASE_IN: u64 = 4;
/// What a killed server was about to do is done by another this long after at the latest: the lease of it runs out after
/// ten seconds, and work is looked for twice a second.
const TAKEN_UP_MS: i64 = 11_000;
/// What is due is done within so much, where nothing is dead: kills that are farther apart delay different pieces.
const ENOUGH_MS: i64 = 1_000;
/// A piece of compute is measured when it is 45 seconds old, and is a minute long at most: so much later it is lost.
const SPARE_MS: i64 = 15_000;

/// When something was dead, by the client's clock.
#[derive(Default)]
pub(crate) struct Outages(Mutex<Vec<(i64, i64)>>);

impl Outages {
    /// Something was dead from the first of these moments until the second.
    pub(crate) fn note(&self, outage: (i64, i64)) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(outage);
    }

    /// Milliseconds between these moments that nobody may have measured in time, and that are not charged then.
    pub(crate) fn unmeasured_ms(&self, (from, until): (i64, i64)) -> i64 {
        let outages = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut grown: Vec<(i64, i64)> = vec![];
        for (killed, up) in outages.iter().copied() {
            match grown.last_mut() {
                Some((_, end)) if killed <= *end + ENOUGH_MS => *end = up.max(*end),
                _ => grown.push((killed, up)),
            }
        }
        let within = grown.iter().map(|(start, end)| (end + TAKEN_UP_MS).min(until) - (*start).max(from));
        within.map(|ms| (ms - SPARE_MS).max(0)).sum()
    }
}

/// Kills something this often while so many charges are made, in as many equal parts of them one kill each; one of four
/// is the database's. Ends early where nothing is charged any more.
pub(super) async fn kill(
    (place, vendor, outages): (&Place, &Vendor, &Outages),
    (from, until, kills): (u64, u64, u64),
    mut random: fastrand::Rng,
    over: &AtomicBool,
) -> anyhow::Result<(u64, u64)> {
    let of_database = random.u64(..DATABASE_IN.min(kills.max(1)));
    let mut killed = (0, 0);
    for turn in 0..kills {
        let part = (until - from) / kills;
        let aim = from + turn * part + random.u64(..part.max(1));
        while vendor.charges() < aim {
            if over.load(Ordering::Relaxed) {
                return Ok(killed);
            }
            // A kill comes at any moment of what the agents do, which nothing tells.
            sleep(Duration::from_millis(random.u64(1..10))).await;
        }
        let began = SystemClock.now().millis();
        if turn % DATABASE_IN == of_database {
            place.kill_database().await?;
            let until = Instant::now() + GIVE_UP;
            while let Err(error) = place.superuser().await {
                anyhow::ensure!(Instant::now() < until, "the database does not come back: {error:#}");
                sleep(Duration::from_millis(20)).await;
            }
            killed.1 += 1;
        } else {
            let server = random.usize(..SERVERS);
            place.end_server(server, Signal::SIGKILL).await?;
            place.start(server).await?;
            killed.0 += 1;
        }
        outages.note((began, SystemClock.now().millis()));
    }
    Ok(killed)
}
