//! A moment in UTC, to the millisecond: the resolution of every time in the log and on the wire.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use time::OffsetDateTime;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;

/// Milliseconds since 1970-01-01T00:00:00Z, leap seconds not counted. Written as RFC 3339 with milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Timestamp(i64);

const WRITTEN: &[BorrowedFormatItem<'_>] =
    format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");

/// 9999-12-31T23:59:59.999Z: the last moment that RFC 3339 can write.
const LATEST_MS: i64 = 253_402_300_799_999;

impl Timestamp {
    /// The moment this many milliseconds after the epoch, held between the epoch and the end of the year 9999.
    #[must_use]
    pub fn from_millis(millis: i64) -> Self {
        Self(millis.clamp(0, LATEST_MS))
    }

    /// Milliseconds since the epoch.
    #[must_use]
    pub const fn millis(self) -> i64 {
        self.0
    }

    /// Reads an RFC 3339 time with any offset. What is finer than a millisecond is cut off.
    ///
    /// # Errors
    /// [`NotATime`] when the text is not RFC 3339, or outside the years 1970 to 9999.
    pub fn parse(text: &str) -> Result<Self, NotATime> {
        let millis = read(text)?;
        if (0..=LATEST_MS).contains(&millis) { Ok(Self(millis)) } else { Err(NotATime) }
    }

    /// The same for a bound: a time outside these years is taken for the nearest that is not.
    ///
    /// # Errors
    /// [`NotATime`] when the text is not RFC 3339.
    pub fn parse_bound(text: &str) -> Result<Self, NotATime> {
        read(text).map(Self::from_millis)
    }
}

fn read(text: &str) -> Result<i64, NotATime> {
    let parsed = OffsetDateTime::parse(text, &time::format_description::well_known::Rfc3339);
    let nanos = parsed.map_err(|_| NotATime)?.unix_timestamp_nanos();
    i64::try_from(nanos.div_euclid(1_000_000)).map_err(|_| NotATime)
}

/// A calendar day in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Day(time::Date);

const DAY: &[BorrowedFormatItem<'_>] = format_description!("[year]-[month]-[day]");
/// Milliseconds of a day, leap seconds not counted.
pub const DAY_MS: i64 = 86_400_000;

impl Timestamp {
    /// The day that this moment lies in.
    #[must_use]
    pub fn day(self) -> Day {
        let moment = OffsetDateTime::from_unix_timestamp(self.0.div_euclid(1_000));
        Day(moment.map_or(time::Date::MIN, OffsetDateTime::date))
    }
}

impl Day {
    /// Its first moment.
    #[must_use]
    pub fn start(self) -> Timestamp {
        Timestamp::from_millis(self.0.midnight().assume_utc().unix_timestamp() * 1_000)
    }

    /// The day after it.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.next_day().unwrap_or(self.0))
    }

    /// The first day of its month.
    #[must_use]
    pub fn month_start(self) -> Self {
        Self(self.0.replace_day(1).unwrap_or(self.0))
    }

    /// The first day of the month after its own.
    #[must_use]
    pub fn next_month(self) -> Self {
        let (year, month) = (self.0.year(), self.0.month());
        let year = if month == time::Month::December { year + 1 } else { year };
        Self(time::Date::from_calendar_date(year, month.next(), 1).unwrap_or(self.0))
    }

    /// Reads a date such as `2025-05-01`.
    ///
    /// # Errors
    /// [`NotATime`] when the text is not a date.
    pub fn parse(text: &str) -> Result<Self, NotATime> {
        // A year has no sign.
        let has_digits = text.starts_with(|first: char| first.is_ascii_digit());
        let parsed = time::Date::parse(text, DAY).ok().filter(|_| has_digits);
        parsed.map(Self).ok_or(NotATime)
    }
}

impl fmt::Display for Day {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0.format(DAY).map_err(|_| fmt::Error)?)
    }
}

impl Serialize for Day {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Day {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

/// A text that is not a time of the years 1970 to 9999 in RFC 3339.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected an RFC 3339 time such as 2025-05-01T00:00:00.000Z")]
pub struct NotATime;

impl fmt::Display for Timestamp {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let moment = OffsetDateTime::from_unix_timestamp_nanos(i128::from(self.0) * 1_000_000)
            .map_err(|_| fmt::Error)?;
        formatter.write_str(&moment.format(WRITTEN).map_err(|_| fmt::Error)?)
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn it_is_written_in_utc_with_milliseconds() {
        assert_eq!(Timestamp::from_millis(1_746_057_600_000).to_string(), "2025-05-01T00:00:00.000Z");
        assert_eq!(Timestamp::parse("2025-05-01T02:00:00.0009+02:00"), Ok(Timestamp(1_746_057_600_000)));
        assert_eq!(Timestamp::parse("2025-05-01"), Err(NotATime));
        assert_eq!(Timestamp::parse("1969-12-31T23:59:59Z"), Err(NotATime));
        assert_eq!(Timestamp::parse_bound("1969-12-31T23:59:59Z"), Ok(Timestamp(0)));
        assert_eq!(Timestamp::parse_bound("9999-12-31T23:59:59-01:00"), Ok(Timestamp(LATEST_MS)));
        assert_eq!(Timestamp::parse_bound("9999-12-31"), Err(NotATime));
    }

    #[test]
    fn days_and_months_follow_each_other() {
        let day = |text: &str| Day::parse(text).unwrap();
        assert_eq!(Timestamp::from_millis(1_746_057_599_999).day(), day("2025-04-30"));
        assert_eq!(Timestamp::from_millis(1_746_057_600_000).day(), day("2025-05-01"));
        assert_eq!(day("2024-02-28").next(), day("2024-02-29"));
        assert_eq!(day("2025-12-31").month_start().next_month(), day("2026-01-01"));
        assert_eq!(day("2025-05-17").start().to_string(), "2025-05-17T00:00:00.000Z");
        for wrong in ["-0001-01-01", "+2025-05-17", "2025-5-17", "2025-02-29", "2025-05-17Z", ""] {
            assert_eq!(Day::parse(wrong), Err(NotATime), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(millis in 0..=LATEST_MS) {
            let moment = Timestamp::from_millis(millis);
            prop_assert_eq!(Timestamp::parse(&moment.to_string()), Ok(moment));
        }
    }
}
