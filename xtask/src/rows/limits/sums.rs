//! What was spent and is held, by plain sums and a calendar of the proof's own.

use std::collections::BTreeMap;

use rust_decimal::Decimal;

const DAY_MS: i64 = 86_400_000;

/// Over which period a limit counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Period {
    Session,
    Day,
    Month,
}

/// A limit of cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Limit {
    pub(super) allowed: Decimal,
    pub(super) period: Period,
}

/// A charge, as far as sums go.
#[derive(Debug, Clone)]
pub(super) struct Charge {
    pub(super) at: i64,
    pub(super) cost: Decimal,
}

/// The sums of a session, an end user or the organization, and the limit that they are held against.
#[derive(Debug, Clone, Default)]
pub(super) struct Purse {
    pub(super) limit: Option<Limit>,
    total: Decimal,
    days: BTreeMap<i64, Decimal>,
    months: BTreeMap<i64, Decimal>,
    pub(super) reserved: Decimal,
}

impl Period {
    pub(super) fn of(name: &str) -> Option<Self> {
        match name {
            "session" => Some(Self::Session),
            "day" => Some(Self::Day),
            "month" => Some(Self::Month),
            _ => None,
        }
    }

    /// When the period that a moment lies in ends.
    pub(super) fn end(self, at: i64) -> Option<i64> {
        match self {
            Self::Session => None,
            Self::Day => Some(next_day(at)),
            Self::Month => Some(next_month(at)),
        }
    }

    /// Whether both lie in the same.
    pub(super) fn has_both(self, one: i64, other: i64) -> bool {
        self.end(one) == self.end(other)
    }
}

impl Purse {
    pub(super) fn charge(&mut self, charge: &Charge) {
        self.total += charge.cost;
        *self.days.entry(charge.at.div_euclid(DAY_MS)).or_default() += charge.cost;
        *self.months.entry(month(charge.at)).or_default() += charge.cost;
    }

    /// Something that may have been spent was not.
    pub(super) fn withdraw(&mut self, charge: &Charge) {
        self.charge(&Charge { at: charge.at, cost: -charge.cost });
    }

    pub(super) fn spent(&self, period: Period, now: i64) -> Decimal {
        let sum = match period {
            Period::Session => Some(&self.total),
            Period::Day => self.days.get(&now.div_euclid(DAY_MS)),
            Period::Month => self.months.get(&month(now)),
        };
        sum.copied().unwrap_or_default()
    }

    /// What is spent and held of a limit.
    pub(super) fn taken(&self, limit: Limit, now: i64) -> Decimal {
        self.spent(limit.period, now) + self.reserved
    }

    /// The same if the limit's period had never ended.
    pub(super) fn taken_ever(&self) -> Decimal {
        self.total + self.reserved
    }

    /// Whether its limit is past.
    pub(super) fn is_past(&self, now: i64) -> bool {
        self.limit.is_some_and(|limit| self.taken(limit, now) > limit.allowed)
    }
}

/// The next midnight in UTC.
pub(super) fn next_day(at: i64) -> i64 {
    (at.div_euclid(DAY_MS) + 1) * DAY_MS
}

/// The start of the next month in UTC: its first midnight.
pub(super) fn next_month(at: i64) -> i64 {
    let mut day = next_day(at);
    while month(day) == month(at) {
        day += DAY_MS;
    }
    day
}

/// Months since the year 0, by the rule of leap years.
pub(super) fn month(at: i64) -> i64 {
    let mut days = at.div_euclid(DAY_MS);
    let mut year = 1970;
    let is_leap = |year: i64| (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
    let year_days = |year| if is_leap(year) { 366 } else { 365 };
    while days >= year_days(year) {
        days -= year_days(year);
        year += 1;
    }
    let february = if is_leap(year) { 29 } else { 28 };
    let lengths = [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut index = 0;
    for length in lengths {
        if days < length {
            break;
        }
        days -= length;
        index += 1;
    }
    year * 12 + index
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn months_end_where_the_calendar_says() {
        let at = |text: &str| theazo_domain::time::Timestamp::parse(text).unwrap().millis();
        let next = |text: &str| next_month(at(text));
        assert_eq!(next("2026-11-29T12:00:00.000Z"), at("2026-12-01T00:00:00.000Z"));
        assert_eq!(next("2026-12-31T23:59:59.999Z"), at("2027-01-01T00:00:00.000Z"));
        assert_eq!(next("2028-02-01T00:00:00.000Z"), at("2028-03-01T00:00:00.000Z"));
        assert_eq!(next("2028-02-29T00:00:00.000Z"), at("2028-03-01T00:00:00.000Z"));
    }
}
