//! Compute, metered: from ready until pause, termination or failure, in pieces of a minute at most.

use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};

use super::life::Life;
use crate::Event;
use crate::charge::{Booking, Category, Charge, Place, Price, Rate, Unit};
use crate::rates::ComputeRates;
use crate::time::Timestamp;

/// The longest piece of compute that is held and charged at a time.
pub const MINUTE_MS: i64 = 60_000;
/// How long after a piece has begun it is measured: short of its end, so that it is charged before it is used up.
pub const TICK_MS: i64 = 45_000;

/// Milliseconds of compute in minutes, with six places.
#[must_use]
pub fn in_minutes(ms: i64) -> Decimal {
    (Decimal::from(ms) / Decimal::from(MINUTE_MS)).round_dp(6).normalize()
}

/// The sandbox is ready, and is paid for from here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ComputeStarted {
    /// Whose it is.
    pub place: Place,
    /// From when.
    pub at: Timestamp,
    /// Milliseconds that are held ahead.
    pub slice_ms: i64,
    /// When to measure next.
    pub due: Timestamp,
}

/// A piece of compute was used, and the next one is held.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ComputeTicked {
    /// Whose it is.
    pub place: Place,
    /// From when.
    pub from: Timestamp,
    /// Until when.
    pub to: Timestamp,
    /// Milliseconds at the end of it in which no server watched the sandbox; they are not charged.
    #[serde(default)]
    pub unwatched_ms: i64,
    /// Milliseconds that are held ahead.
    pub slice_ms: i64,
    /// When to measure next.
    pub due: Timestamp,
    /// What a millisecond of the sandbox costs from now on, where that is not what it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<Rate>,
    /// Charges the piece, releases what was held for it and holds the next one.
    pub booking: Booking,
}

/// The sandbox is no longer ready: the last piece of compute was used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ComputeStopped {
    /// Whose it is.
    pub place: Place,
    /// From when.
    pub from: Timestamp,
    /// Until when.
    pub to: Timestamp,
    /// Milliseconds at the end of it in which no server watched the sandbox; they are not charged.
    #[serde(default)]
    pub unwatched_ms: i64,
    /// Charges the piece and releases what was held for it.
    pub booking: Booking,
}

/// Compute that is being used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// What was used before this is charged.
    pub from: Timestamp,
    /// What is held for what is being used.
    pub held: Decimal,
    /// Milliseconds that it is held for.
    pub slice_ms: i64,
}

impl Lease {
    pub(super) fn begin(started: &ComputeStarted, held: Decimal) -> Self {
        Self { from: started.at, held, slice_ms: started.slice_ms }
    }

    pub(super) fn tick(&mut self, ticked: &ComputeTicked) {
        self.from = ticked.to;
        self.held = ticked.booking.reserved;
        self.slice_ms = ticked.slice_ms;
    }

    /// Milliseconds until `now` that are charged, and those after them in which no server can have watched.
    #[must_use]
    pub fn used_ms(&self, now: Timestamp) -> (i64, i64) {
        let elapsed = (now.millis() - self.from.millis()).max(0);
        let charged = elapsed.min(MINUTE_MS);
        (charged, elapsed - charged)
    }
}

/// What a piece of compute costs at most.
#[must_use]
pub fn cost_of(rate: &Rate, slice_ms: i64) -> Decimal {
    rate.price.map_or(Decimal::ZERO, |price| price.of(Decimal::from(slice_ms)))
}

impl Life {
    /// Compute begins to be paid for, so many milliseconds of it being held.
    #[must_use]
    pub fn start_compute(&self, slice_ms: i64, now: Timestamp) -> Event {
        Event::ComputeStarted(ComputeStarted {
            place: self.place,
            at: now,
            slice_ms,
            due: due(slice_ms, now),
        })
    }

    /// What a millisecond of the sandbox costs from now on. What is held already is charged at the price that it was
    /// held at: a piece is never dearer than its worst case.
    #[must_use]
    pub fn rate_of(&self, rates: &ComputeRates) -> Rate {
        rates.of(self.computes_for_nothing())
    }

    /// Whether the sandbox is on credentials of the organization's own.
    #[must_use]
    pub fn computes_for_nothing(&self) -> bool {
        self.compute.price == Some(Price::FREE)
    }

    /// The rate, where it is not what it was.
    pub(super) fn new_rate(&self, rate: &Rate) -> Option<Rate> {
        (*rate != self.compute).then(|| rate.clone())
    }

    /// Whether it uses compute for which nothing is held: it was to pause when the last piece ended, and none fitted.
    #[must_use]
    pub fn has_nothing_ahead(&self) -> bool {
        self.lease.as_ref().is_some_and(|lease| lease.slice_ms == 0)
    }

    /// The piece that was used is charged, and the next one held, at this rate.
    #[must_use]
    pub fn tick_compute(
        &self,
        (held, slice_ms): (Decimal, i64),
        rate: &Rate,
        now: Timestamp,
    ) -> Option<Event> {
        let lease = self.lease.as_ref()?;
        let (_, unwatched_ms) = lease.used_ms(now);
        let mut booking = self.piece(lease, now);
        booking.reserved = held;
        Some(Event::ComputeTicked(ComputeTicked {
            place: self.place,
            from: lease.from,
            to: now,
            unwatched_ms,
            slice_ms,
            due: due(slice_ms, now),
            rate: self.new_rate(rate),
            booking,
        }))
    }

    /// Compute is no longer used: the last piece is charged.
    #[must_use]
    pub fn stop_compute(&self, now: Timestamp) -> Option<Event> {
        let lease = self.lease.as_ref()?;
        let (_, unwatched_ms) = lease.used_ms(now);
        let booking = self.piece(lease, now);
        Some(Event::ComputeStopped(ComputeStopped {
            place: self.place,
            from: lease.from,
            to: now,
            unwatched_ms,
            booking,
        }))
    }

    /// Compute that began at this very moment is not used after all.
    pub(super) fn stopped_at_once(&self, now: Timestamp) -> Event {
        let booking = Booking::releasing(self.held);
        let (from, to) = (now, now);
        Event::ComputeStopped(ComputeStopped { place: self.place, from, to, unwatched_ms: 0, booking })
    }

    /// The charges of the piece that was used until now, split at midnight.
    fn piece(&self, lease: &Lease, now: Timestamp) -> Booking {
        let (used_ms, _) = lease.used_ms(now);
        let end = Timestamp::from_millis(lease.from.millis() + used_ms);
        let midnight = end.day().start();
        let mut charges = vec![];
        let mut charge = |ms: i64, at: Timestamp| {
            if ms > 0 {
                let used = (Decimal::from(ms), Unit::Millisecond);
                charges.push(Charge::new(at, Category::Compute, used, &self.compute));
            }
        };
        if midnight > lease.from {
            // The last moment of the day before.
            let at = Timestamp::from_millis(midnight.millis() - 1);
            charge(midnight.millis() - lease.from.millis(), at);
            charge(end.millis() - midnight.millis(), end);
        } else {
            charge(used_ms, end);
        }
        Booking { released: lease.held, charges, ..Booking::default() }
    }
}

/// When a piece is measured.
fn due(slice_ms: i64, now: Timestamp) -> Timestamp {
    // Where nothing is held ahead any more, work in flight is still measured.
    let tick = if slice_ms > 0 { slice_ms.min(TICK_MS) } else { TICK_MS };
    let midnight = now.day().next().start();
    Timestamp::from_millis(now.millis() + tick).min(midnight)
}
