//! Storage, metered: the snapshots and workspaces that agents keep, by the gigabyte and hour.

#[cfg(test)]
mod tests;

use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};

use super::life::Life;
use crate::Event;
use crate::charge::{Booking, Category, Charge, Place, Price, Rate, Unit, rounded};
use crate::rates::ComputeRates;
use crate::time::{DAY_MS, Timestamp};

/// Bytes of a gigabyte times milliseconds of an hour.
const GB_HOUR: i64 = 1_000_000_000 * 3_600_000;

/// A piece of storage was used: until its size changed, the day ended, or nothing was kept any more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StorageMetered {
    /// Whose it is.
    pub place: Place,
    /// From when.
    pub from: Timestamp,
    /// Until when.
    pub to: Timestamp,
    /// Bytes that were kept all the while.
    pub bytes: u64,
    /// Bytes that are kept from then on.
    pub kept_bytes: u64,
    /// When to measure next; none where nothing is kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub due: Option<Timestamp>,
    /// What a gigabyte kept from then on costs an hour, where that has changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<Rate>,
    /// Charges the piece.
    pub booking: Booking,
}

/// Storage that is being used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// What was used before this is charged.
    pub from: Timestamp,
    /// Bytes; never none.
    pub bytes: u64,
}

impl Kept {
    /// What is kept once this has happened.
    pub(super) fn after(metered: &StorageMetered) -> Option<Self> {
        (metered.kept_bytes > 0).then_some(Self { from: metered.to, bytes: metered.kept_bytes })
    }
}

impl Life {
    /// From now on so many bytes are kept: what was used before is charged. Nothing happens where it is so already.
    #[must_use]
    pub fn keep(&self, bytes: u64, now: Timestamp) -> Option<Event> {
        let (from, before) = self.kept.as_ref().map_or((now, 0), |kept| (kept.from, kept.bytes));
        (bytes != before).then(|| self.metered((from, before), (bytes, None), now))
    }

    /// What was used until now is charged, and the same bytes are kept, once the day is over that it began in: from then on
    /// at the rate that is in force. What costs nothing goes on costing nothing.
    #[must_use]
    pub fn meter_storage(&self, rates: &ComputeRates, now: Timestamp) -> Option<Event> {
        let kept = self.kept.as_ref().filter(|kept| kept.from.day() < now.day())?;
        let rate = rates.of(self.storage.price == Some(Price::FREE));
        let rate = (rate != self.storage).then_some(rate);
        Some(self.metered((kept.from, kept.bytes), (kept.bytes, rate), now))
    }

    fn metered(
        &self,
        (from, bytes): (Timestamp, u64),
        (kept_bytes, rate): (u64, Option<Rate>),
        now: Timestamp,
    ) -> Event {
        let charges = charges(&self.storage, bytes, (from, now));
        Event::StorageMetered(StorageMetered {
            place: self.place,
            from,
            to: now,
            bytes,
            kept_bytes,
            due: (kept_bytes > 0).then(|| now.day().next().start()),
            rate,
            booking: Booking { charges, ..Booking::default() },
        })
    }
}

/// The charges of bytes that were kept for a time, a charge a day: what is kept is kept whether or not a server watches.
fn charges(rate: &Rate, bytes: u64, (from, to): (Timestamp, Timestamp)) -> Vec<Charge> {
    let mut charges = vec![];
    let mut start = from;
    while start < to && bytes > 0 {
        let midnight = start.day().start().millis().saturating_add(DAY_MS);
        let end = Timestamp::from_millis(midnight.min(to.millis()));
        if end <= start {
            break;
        }
        // What ends with the day counts in it: at its last moment.
        let at = if end.millis() == midnight { Timestamp::from_millis(midnight - 1) } else { end };
        let used = gb_hours(bytes, end.millis() - start.millis());
        charges.push(Charge::new(at, Category::Storage, (used, Unit::GbHour), rate));
        start = end;
    }
    charges
}

/// Gigabytes times hours, rounded half-even to twelve places.
#[must_use]
pub fn gb_hours(bytes: u64, kept_ms: i64) -> Decimal {
    rounded(Decimal::from(bytes) * Decimal::from(kept_ms) / Decimal::from(GB_HOUR))
}
