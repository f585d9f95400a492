//! The period that a view is asked about.

use serde::{Serialize, Serializer};
use theazo_domain::time::{DAY_MS, Day, Timestamp};
use utoipa::ToSchema;

use crate::http::query::Query;
use crate::read::usage::{self, Pin};

/// The period that an answer is about.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
pub(crate) struct Period {
    /// Its first moment.
    #[serde(serialize_with = "whole_seconds")]
    #[schema(value_type = String, format = DateTime, examples("2025-05-01T00:00:00Z"))]
    from: Timestamp,
    /// The first moment after it.
    #[serde(serialize_with = "whole_seconds")]
    #[schema(value_type = String, format = DateTime, examples("2025-05-06T14:00:00Z"))]
    until: Timestamp,
}

/// What was asked for, to whole seconds: a time with a fraction is taken for the second that it lies in, as a beginning and
/// as an end alike, so that of two periods of which one ends when the other begins none counts what the other does.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asked {
    /// Its first moment, where it was given.
    pub(crate) from: Option<Timestamp>,
    /// Where it ends, where that was given.
    pub(crate) until: Option<End>,
    /// Where it begins otherwise.
    pub(crate) default: Default,
}

/// Where a period ends.
#[derive(Debug, Clone, Copy)]
pub(crate) struct End {
    /// The first moment after it.
    before: Timestamp,
    /// Whether it was given as a day, which then has to lie in it.
    is_day: bool,
}

/// Where a period begins if nobody says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Default {
    /// With the calendar month.
    Month,
    /// With the day thirty days ago.
    ThirtyDays,
}

const SECOND_MS: i64 = 1_000;
/// How a bound is written.
pub(crate) const EXPECTED: &str = "a date such as 2025-05-01 or an RFC 3339 time";

impl Asked {
    /// Reads `from` and `until`, and notes what is wrong with them.
    pub(crate) fn read(query: &mut Query, default: Default, now: Timestamp) -> Self {
        let from = query.filter("from", EXPECTED, beginning);
        let until = query.filter("until", EXPECTED, end);
        let asked = Self { from, until, default };
        let is_read = |name, read: bool| query.plain(name).is_some() == read;
        let all_read = is_read("from", from.is_some()) && is_read("until", until.is_some());
        if all_read && asked.is_reversed(asked.from(now, now)) {
            let (name, message) = match until {
                Some(_) if from.is_some() => ("until", "must not be before `from`"),
                Some(_) => ("until", "must not be before the period's default start"),
                None => ("from", "must not be in the future where `until` is not given"),
            };
            query.wrong(name, "order", message);
        }
        asked
    }

    /// Whether it ends before it begins.
    pub(crate) fn is_reversed(self, period: usage::Period) -> bool {
        let is_day = self.until.is_some_and(|end| end.is_day);
        period.until < period.from || is_day && period.until == period.from
    }

    /// The period, where `now` is the server's clock and `newest` the time of the newest event that counts, which another
    /// server's clock may have put later.
    pub(crate) fn from(self, now: Timestamp, newest: Timestamp) -> usage::Period {
        let now = now.max(newest);
        let default_from = match self.default {
            Default::Month => now.day().month_start().start(),
            Default::ThirtyDays => Timestamp::from_millis(now.day().start().millis() - 30 * DAY_MS),
        };
        let until = self.until.map(|end| end.before);
        let until = until.unwrap_or_else(|| later(floor(now), SECOND_MS));
        usage::Period { from: self.from.unwrap_or(default_from), until }
    }

    /// The same for the next page of a list, whose first page was of this position: by its time it begins and ends.
    pub(crate) fn again(self, pin: Pin) -> usage::Period {
        self.from(pin.at, pin.at)
    }
}

impl From<usage::Period> for Period {
    fn from(period: usage::Period) -> Self {
        Self { from: period.from, until: period.until }
    }
}

/// The first moment of a period that begins with this date, or at this time.
pub(crate) fn beginning(text: &str) -> Option<Timestamp> {
    let date = Day::parse(text).map(Day::start);
    date.or_else(|_| Timestamp::parse_bound(text).map(floor)).ok()
}

/// Where a period ends that ends with this date, or before this time.
pub(crate) fn end(text: &str) -> Option<End> {
    // Times end with the year 9999, short of a whole second.
    let day = Day::parse(text).map(|day| End { before: floor(later(day.start(), DAY_MS)), is_day: true });
    let time = || Timestamp::parse_bound(text).map(|at| End { before: floor(at), is_day: false });
    day.or_else(|_| time()).ok()
}

fn floor(at: Timestamp) -> Timestamp {
    Timestamp::from_millis(at.millis() / SECOND_MS * SECOND_MS)
}

fn later(at: Timestamp, millis: i64) -> Timestamp {
    Timestamp::from_millis(at.millis().saturating_add(millis))
}

fn whole_seconds<S: Serializer>(at: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&seconds(*at))
}

/// A moment without a fraction of a second, as the reference writes periods.
pub(crate) fn seconds(at: Timestamp) -> String {
    at.to_string().replace(".000Z", "Z")
}
