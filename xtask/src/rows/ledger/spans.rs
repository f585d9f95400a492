//! How long an agent's sandbox was there and what it kept, by the clock of the client: at least and at most.

use rust_decimal::Decimal;
use theazo::clock::{Clock, SystemClock};
use theazo_domain::time::DAY_MS;

use super::harm::Outages;

/// Clients and servers have one clock; that may be put right a little meanwhile.
const CLOCK_MS: i64 = 10;
/// A running sandbox is measured with its compute: not before it is so old, but at the end of a day.
const MEASURED_FROM_MS: i64 = 45_000;
/// And by then: a piece of compute is a minute at most.
const MEASURED_BY_MS: i64 = 60_000;
/// Bytes of a gigabyte times milliseconds of an hour.
const GB_HOUR: i64 = 1_000_000_000 * 3_600_000;

/// The present moment.
pub(crate) fn now_ms() -> i64 {
    SystemClock.now().millis()
}

/// A time in which a sandbox was ready.
#[derive(Debug, Clone)]
pub(crate) struct Ready {
    /// When it was asked for, and so not there before.
    pub(crate) from: i64,
    /// When it was there at the latest.
    pub(crate) by: i64,
    /// When its end was asked for, and so still there.
    pub(crate) asked: i64,
    /// When that was acknowledged.
    pub(crate) ended: i64,
}

/// A time in which a sandbox was suspended.
#[derive(Debug, Clone)]
pub(crate) struct Slept {
    /// When that was asked for.
    pub(crate) asked: i64,
    /// When it was at the latest.
    pub(crate) suspended_by: i64,
    /// When its end was asked for.
    pub(crate) resumed: i64,
    /// When it had ended at the latest.
    pub(crate) awake_by: i64,
}

/// The life of a sandbox.
#[derive(Debug, Clone, Default)]
pub(crate) struct Spans {
    pub(crate) ready: Vec<Ready>,
    pub(crate) slept: Option<Slept>,
    /// What a file in it takes on the disk, from soon after it was ready for the first time; there is nothing else.
    pub(crate) bytes: u64,
    /// Whether that was gone when it was looked for.
    pub(crate) has_lost_file: bool,
}

impl Spans {
    /// Milliseconds of compute that must be charged at least and at most. Only a life of more than a minute has pieces
    /// that nobody may have measured in time.
    pub(crate) fn compute_ms(&self, outages: &Outages) -> (i64, i64) {
        let least = self.ready.iter().map(|ready| {
            let lived = ready.ended - ready.from;
            let unmeasured =
                if lived > MEASURED_BY_MS { outages.unmeasured_ms((ready.from, ready.ended)) } else { 0 };
            (ready.asked - ready.by - unmeasured - CLOCK_MS).max(0)
        });
        let most = self.ready.iter().map(|ready| ready.ended - ready.from + CLOCK_MS);
        (least.sum(), most.sum())
    }

    /// Gigabytes times hours that must be charged at least and at most.
    pub(crate) fn gb_hours(&self, outages: &Outages) -> (Decimal, Decimal) {
        let (mut least, mut most) = (0, 0);
        if let Some(slept) = &self.slept {
            least += (slept.resumed - slept.suspended_by - CLOCK_MS).max(0);
            most += slept.awake_by - slept.asked + CLOCK_MS;
        }
        for ready in &self.ready {
            // A measurement that a kill meets is not repeated before the next one is due.
            let unmeasured = outages.unmeasured_ms((ready.from, ready.ended));
            let measured_by = ready.by + 2 * MEASURED_BY_MS + unmeasured;
            least += (ready.asked - measured_by).max(0);
            let day = |ms: i64| ms.div_euclid(DAY_MS);
            let is_one_day = day(ready.from) == day(ready.ended);
            let unmeasured = if is_one_day { MEASURED_FROM_MS } else { 0 };
            most += (ready.ended - ready.from - unmeasured + CLOCK_MS).max(0);
        }
        let gb_hours = |ms: i64| Decimal::from(self.bytes) * Decimal::from(ms) / Decimal::from(GB_HOUR);
        (gb_hours(least), gb_hours(most))
    }
}
