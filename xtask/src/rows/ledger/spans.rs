//! How long an agent's sandbox was there and what it kept, by the clock of the client: at least and at most.

use rust_decimal::Decimal;
use theazo::clock::{Clock, SystemClock};
use theazo_domain::time::DAY_MS;

use super::harm::Outages;

/// Clients and servers have one clock; that may be put right a little meanwhile.
const CLOCK_MS: i64 = 10;
/// A running sandbox is measured with its compute: not before it is so old, but at the end of a day.
const MEASURED_FROM_MS: i64 = 45_000;
/// How long after a piece of compute what is kept is measured at the latest, where nothing dies.
const STORED_BY_MS: i64 = 15_000;
/// How long after its sandbox was there a file is in it.
const WRITTEN_BY_MS: i64 = 30_000;
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

/// A piece of compute, as it was charged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Piece {
    /// Until when.
    pub(crate) until: i64,
    /// Milliseconds.
    pub(crate) ms: i64,
}

impl Ready {
    /// What lies behind each piece of compute that was charged of it: until when that was, and when the next one began, or
    /// the end was asked for. A piece that was measured in time is followed by the next at once.
    fn gaps(&self, pieces: &[Piece]) -> Vec<(i64, i64)> {
        let own = pieces.iter().filter(|piece| (self.from..=self.ended + CLOCK_MS).contains(&piece.until));
        let mut own: Vec<Piece> = own.copied().collect();
        own.sort_unstable();
        let begin = own.iter().skip(1).map(|piece| piece.until - piece.ms).chain([self.asked]);
        own.iter().map(|piece| piece.until).zip(begin).collect()
    }

    /// When what a file takes was measured at the latest; none where that may not have been before the end. It is measured
    /// with each piece of compute but the last; one that a kill may have met is as good as none.
    fn stored_by(&self, pieces: &[Piece], outages: &Outages) -> Option<i64> {
        let gaps = self.gaps(pieces);
        let ticks = gaps.iter().take(gaps.len().saturating_sub(1)).map(|(_, next)| *next);
        let mut ticks = ticks.filter(|tick| *tick > self.by + WRITTEN_BY_MS);
        ticks.find(|tick| !outages.meet((*tick, tick + STORED_BY_MS))).map(|tick| tick + STORED_BY_MS)
    }
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
    /// Milliseconds of compute that must be charged at least and at most. What lies between the pieces that were charged is
    /// lost where something was dead, and nowhere else.
    pub(crate) fn compute_ms(&self, pieces: &[Piece], outages: &Outages) -> (i64, i64) {
        let least = self.ready.iter().map(|ready| {
            let gaps = ready.gaps(pieces).into_iter();
            let unmeasured: i64 = gaps.map(|gap| outages.unmeasured_ms(gap)).sum();
            (ready.asked - ready.by - unmeasured - CLOCK_MS).max(0)
        });
        let most = self.ready.iter().map(|ready| ready.ended - ready.from + CLOCK_MS);
        (least.sum(), most.sum())
    }

    /// Gigabytes times hours that must be charged at least and at most.
    pub(crate) fn gb_hours(&self, pieces: &[Piece], outages: &Outages) -> (Decimal, Decimal) {
        let (mut least, mut most) = (0, 0);
        if let Some(slept) = &self.slept {
            least += (slept.resumed - slept.suspended_by - CLOCK_MS).max(0);
            most += slept.awake_by - slept.asked + CLOCK_MS;
        }
        for ready in &self.ready {
            let stored_by = ready.stored_by(pieces, outages).unwrap_or(ready.asked);
            least += (ready.asked - stored_by).max(0);
            let day = |ms: i64| ms.div_euclid(DAY_MS);
            let is_one_day = day(ready.from) == day(ready.ended);
            let unmeasured = if is_one_day { MEASURED_FROM_MS } else { 0 };
            most += (ready.ended - ready.from - unmeasured + CLOCK_MS).max(0);
        }
        let gb_hours = |ms: i64| Decimal::from(self.bytes) * Decimal::from(ms) / Decimal::from(GB_HOUR);
        (gb_hours(least), gb_hours(most))
    }
}
