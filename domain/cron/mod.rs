//! When a schedule fires: five fields, in UTC, as crontab(5) has them.
//!
//! A field is `*`, or a list of numbers and ranges with commas between them; behind `*` and behind a range a step may
//! stand (`*/15`, `8-18/2`). Months and days of the week have names of three letters, in any case. Sunday is 0 and 7,
//! so `1-5` is Monday to Friday, and `fri-sun` ends with 7. A day has to match the day of month and the day of week
//! where one of the two fields begins with `*`, and either of them where both are restricted. A step that leads beyond
//! the end leaves the first.
//!
//! Where the manual page leaves something open, it is as in the program that it belongs to (cron of Paul Vixie), whose
//! source goes by the first character of a field: `1,*` is not one that begins with `*`, so that `0 0 1,* * 1` fires
//! daily, and `*,1` is one.
//!
//! What other programs have taken up besides is refused, so that nobody is misunderstood: seconds, years, nicknames
//! (`@daily`), `L`, `W`, `#`, `?`, `~`, a step behind a single number, and names written out.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::fmt;

use croner::errors::CronError;
use croner::parser::{CronParser, Seconds, Year};
use croner::time::{CivilDate, CivilDateTime, CivilTime, CronDateTime, Resolution, Weekday};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use time::{Date, Month, OffsetDateTime};

use crate::time::Timestamp;

#[cfg(test)]
mod tests;

/// The most bytes of a cron: every minute, hour, day and month, one by one, has room.
pub const LONGEST: usize = 512;

/// When something fires again and again: at the first moment of minutes. Written as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cron {
    text: String,
    pattern: croner::Cron,
}

impl Cron {
    /// Reads five fields with blanks or tabs between them: minute, hour, day of month, month and day of week.
    ///
    /// # Errors
    /// [`Invalid`] says which field breaks which rule, or that no day will ever match.
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        if text.len() > LONGEST {
            return Err(Invalid::TooLong);
        }
        let parts: Vec<&str> = text.split([' ', '\t']).filter(|part| !part.is_empty()).collect();
        let fields: [&str; 5] = parts.try_into().map_err(|parts: Vec<&str>| Invalid::Fields(parts.len()))?;
        let mut read = Vec::with_capacity(fields.len());
        for (field, text) in Field::ALL.into_iter().zip(fields) {
            read.push(field.read(text).map_err(|rule| Invalid::Field { field, rule })?);
        }
        let [_, _, day_of_month, _, day_of_week] = fields;
        // It is the first character that decides: `*/2` is no restriction in this sense either.
        let both = day_of_month.starts_with('*') || day_of_week.starts_with('*');
        if both && !has_a_day(&read[2], &read[3]) {
            return Err(Invalid::NeverFires);
        }
        let numbers: Vec<String> = read.iter().map(|spans| written(spans)).collect();
        let parser = CronParser::builder().seconds(Seconds::Disallowed).year(Year::Disallowed);
        let pattern = parser.dom_and_dow(both).build().parse(&numbers.join(" "));
        let pattern = pattern.expect("ascending ranges within the bounds of their fields are a pattern");
        Ok(Self { text: text.to_owned(), pattern })
    }

    /// As it was read.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The first slot after this moment. None where it would lie beyond the year 9999.
    ///
    /// The search goes by months and days: the rarest slot, a 29 February on a given day of the week, is at most
    /// forty years away.
    #[must_use]
    pub fn next_after(&self, moment: Timestamp) -> Option<Timestamp> {
        let start = Moment::of(moment);
        self.pattern.find_next_occurrence(&start, false).ok()?.timestamp()
    }

    /// Whether this very moment is a slot, to the millisecond.
    #[must_use]
    pub fn is_due_at(&self, moment: Timestamp) -> bool {
        let is_whole = moment.millis().rem_euclid(1_000) == 0;
        is_whole && self.pattern.is_time_matching(&Moment::of(moment)).unwrap_or(false)
    }

    /// The newest slot after `from` that is not after `until`: what fires, once, after a time without anybody to fire.
    ///
    /// It is searched from `until` backwards, so however many slots were missed, it costs no more than one.
    #[must_use]
    pub fn newest_until(&self, from: Timestamp, until: Timestamp) -> Option<Timestamp> {
        let found = self.pattern.find_previous_occurrence(&Moment::of(until), true).ok()?.timestamp();
        found.filter(|slot| *slot > from)
    }
}

impl fmt::Display for Cron {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.text)
    }
}

impl Serialize for Cron {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for Cron {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<'de, str>::deserialize(deserializer)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

/// Why a text is not a cron.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// More than [`LONGEST`] bytes.
    #[error("a cron has at most {LONGEST} bytes")]
    TooLong,
    /// Other than five fields.
    #[error("a cron has five fields (minute, hour, day of month, month, day of week), and this has {0}")]
    Fields(usize),
    /// A field is not as it has to be.
    #[error("{field}: {rule}")]
    Field {
        /// Which.
        field: Field,
        /// What it breaks.
        rule: Rule,
    },
    /// No month that is named has a day that is named.
    #[error("this can never fire: no such month has such a day")]
    NeverFires,
}

/// A rule that a field breaks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rule {
    /// A number, a name, a range or `*` was expected.
    #[error("{0:?} is no number, name or range, and not *")]
    Unknown(String),
    /// A number that the field does not have.
    #[error("{value} is not from {low} to {high}")]
    Outside {
        /// As it was written.
        value: String,
        /// The least.
        low: u8,
        /// The greatest.
        high: u8,
    },
    /// A range that ends before it begins.
    #[error("the range {0} runs backwards")]
    Backwards(String),
    /// A step that is not a number from 1 on, by the item of the list.
    #[error("the step in {0} is not a number from 1 on")]
    Step(String),
    /// A step behind a single number.
    #[error("{0}: a step stands behind * or a range only")]
    StepBehindNumber(String),
}

/// The five fields, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Field {
    /// 0 to 59.
    Minute,
    /// 0 to 23.
    Hour,
    /// 1 to 31.
    DayOfMonth,
    /// 1 to 12, or a name.
    Month,
    /// 0 to 7, or a name: 0 and 7 are Sunday.
    DayOfWeek,
}

impl fmt::Display for Field {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Minute => "minute",
            Self::Hour => "hour",
            Self::DayOfMonth => "day of month",
            Self::Month => "month",
            Self::DayOfWeek => "day of week",
        })
    }
}

const MONTHS: [&str; 12] =
    ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const DAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

/// One of a field's list: numbers from here to there by a step.
struct Span {
    from: u8,
    to: u8,
    step: u8,
}

impl Field {
    const ALL: [Self; 5] = [Self::Minute, Self::Hour, Self::DayOfMonth, Self::Month, Self::DayOfWeek];

    const fn bounds(self) -> (u8, u8) {
        match self {
            Self::Minute => (0, 59),
            Self::Hour => (0, 23),
            Self::DayOfMonth => (1, 31),
            Self::Month => (1, 12),
            Self::DayOfWeek => (0, 7),
        }
    }

    const fn names(self) -> &'static [&'static str] {
        match self {
            Self::Month => &MONTHS,
            Self::DayOfWeek => &DAYS,
            Self::Minute | Self::Hour | Self::DayOfMonth => &[],
        }
    }

    fn read(self, text: &str) -> Result<Vec<Span>, Rule> {
        text.split(',').map(|item| self.span(item)).collect()
    }

    fn span(self, text: &str) -> Result<Span, Rule> {
        let (low, high) = self.bounds();
        let (numbers, step) = match text.split_once('/') {
            Some((numbers, step)) => (numbers, Some(step)),
            None => (text, None),
        };
        let (from, to) = if numbers == "*" {
            (low, high)
        } else if let Some((from, to)) = numbers.split_once('-') {
            let from = self.value(from)?;
            // The name is both 0 and 7; behind another day it can only be the latter.
            let is_sunday = self == Self::DayOfWeek && to.eq_ignore_ascii_case(DAYS[0]);
            (from, if is_sunday && from > 0 { high } else { self.value(to)? })
        } else {
            let only = self.value(numbers)?;
            if step.is_some() {
                return Err(Rule::StepBehindNumber(text.to_owned()));
            }
            (only, only)
        };
        if from > to {
            return Err(Rule::Backwards(numbers.to_owned()));
        }
        let step = step.map_or(Some(1), steps).ok_or_else(|| Rule::Step(text.to_owned()))?;
        // croner takes no step that leads out of the field.
        if step > to - from { Ok(Span { from, to: from, step: 1 }) } else { Ok(Span { from, to, step }) }
    }

    fn value(self, text: &str) -> Result<u8, Rule> {
        let (low, high) = self.bounds();
        if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
            let value = digits(text).filter(|value| (low..=high).contains(value));
            return value.ok_or_else(|| Rule::Outside { value: text.to_owned(), low, high });
        }
        let named = (low..=high).zip(self.names()).find(|(_, name)| name.eq_ignore_ascii_case(text));
        named.map(|(value, _)| value).ok_or_else(|| Rule::Unknown(text.to_owned()))
    }
}

/// A number of digits alone: the standard library would take a plus as well.
fn digits(text: &str) -> Option<u8> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

/// A step, which may be any number from 1 on. Beyond what a field holds, all are alike.
fn steps(text: &str) -> Option<u8> {
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit()) && text.bytes().any(|byte| byte != b'0');
    is_number.then(|| text.parse().unwrap_or(u8::MAX))
}

impl Span {
    fn values(&self) -> impl Iterator<Item = u8> + use<> {
        (self.from..=self.to).step_by(usize::from(self.step))
    }
}

/// Whether any of these months has any of these days, in a leap year at least.
///
/// No more needs to be known: in the 400 years after which the calendar begins anew, every day of the year has been
/// every day of the week, 29 February too.
fn has_a_day(days: &[Span], months: &[Span]) -> bool {
    let longest = months.iter().flat_map(Span::values).map(|month| match month {
        2 => 29,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    });
    let first = days.iter().map(|span| span.from).min();
    first <= longest.max()
}

/// A field in numbers alone, as croner reads it without any of what it takes besides.
fn written(spans: &[Span]) -> String {
    let items = spans.iter().map(|Span { from, to, step }| format!("{from}-{to}/{step}"));
    items.collect::<Vec<_>>().join(",")
}

/// Seconds of the 400 years after which the Gregorian calendar begins anew, days of the week included.
const CYCLE_S: i64 = 146_097 * 86_400;

/// A moment as croner searches it: moved by whole cycles to between 400 and 800 years after the epoch, since croner
/// gives up at the year 5000. Days of the week, months and leap years are the same there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Moment {
    seconds: i64,
    moved_s: i64,
}

impl Moment {
    /// Parts of a second are cut off.
    fn of(moment: Timestamp) -> Self {
        let seconds = moment.millis().div_euclid(1_000);
        let moved_s = CYCLE_S - seconds.div_euclid(CYCLE_S) * CYCLE_S;
        Self { seconds: seconds + moved_s, moved_s }
    }

    /// Where it truly lies, if a timestamp can hold that.
    fn timestamp(self) -> Option<Timestamp> {
        let millis = (self.seconds - self.moved_s) * 1_000;
        let held = Timestamp::from_millis(millis);
        (held.millis() == millis).then_some(held)
    }

    fn date_time(self) -> OffsetDateTime {
        OffsetDateTime::from_unix_timestamp(self.seconds)
            .expect("no search leads out of the years 1970 to 5000")
    }
}

impl CronDateTime for Moment {
    fn to_civil(&self) -> CivilDateTime {
        let (date, (hour, minute, second)) = (self.date_time().date(), self.date_time().to_hms());
        CivilDateTime::new(
            CivilDate::from_parts_unchecked(date.year(), u8::from(date.month()).into(), date.day().into()),
            CivilTime::from_parts_unchecked(hour.into(), minute.into(), second.into()),
        )
    }

    fn civil_weekday(&self) -> Weekday {
        Weekday::from_days_from_sunday(self.date_time().weekday().number_days_from_sunday().into())
    }

    fn resolve_civil(&self, civil: CivilDateTime) -> Result<Resolution<Self>, CronError> {
        let part = |number: u32| u8::try_from(number).map_err(|_| CronError::InvalidDate);
        let month = Month::try_from(part(civil.month())?).map_err(|_| CronError::InvalidDate)?;
        let date = Date::from_calendar_date(civil.year(), month, part(civil.day())?);
        let time = date.map_err(|_| CronError::InvalidDate)?.with_hms(
            part(civil.hour())?,
            part(civil.minute())?,
            part(civil.second())?,
        );
        let seconds = time.map_err(|_| CronError::InvalidTime)?.assume_utc().unix_timestamp();
        Ok(Resolution::Single(Self { seconds, ..*self }))
    }

    fn checked_add_seconds(&self, seconds: i64) -> Option<Self> {
        Some(Self { seconds: self.seconds.checked_add(seconds)?, ..*self })
    }

    fn cmp_instant(&self, other: &Self) -> Ordering {
        self.seconds.cmp(&other.seconds)
    }
}
