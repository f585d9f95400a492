//! Periods of UTC that usage is summed up by, and how any period is made of them.

use theazo_domain::time::{DAY_MS, Timestamp};

const HOUR_MS: i64 = 3_600_000;
const MINUTE_MS: i64 = 60_000;

/// How long a period of a sum is. All begin and end in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Grain {
    /// A calendar month.
    Month,
    /// A month's days 1 to 10, 11 to 20 or 21 to its last.
    TenDays,
    /// A day.
    Day,
    /// An hour.
    Hour,
    /// A minute.
    Minute,
}

impl Grain {
    /// The grain as it is written in keys.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Month => "month",
            Self::TenDays => "ten_days",
            Self::Day => "day",
            Self::Hour => "hour",
            Self::Minute => "minute",
        }
    }

    /// When the period that a moment lies in begins.
    #[must_use]
    pub fn floor(self, at: Timestamp) -> Timestamp {
        let within = |length: i64| Timestamp::from_millis(at.millis() / length * length);
        match self {
            Self::Month => at.day().month_start().start(),
            Self::TenDays => {
                let month = at.day().month_start().start().millis();
                let third = ((at.millis() - month) / (10 * DAY_MS)).min(2);
                Timestamp::from_millis(month + third * 10 * DAY_MS)
            }
            Self::Day => within(DAY_MS),
            Self::Hour => within(HOUR_MS),
            Self::Minute => within(MINUTE_MS),
        }
    }

    /// When the period that begins at this moment ends.
    #[must_use]
    pub fn end(self, start: Timestamp) -> Timestamp {
        let after = |length: i64| Timestamp::from_millis(start.millis() + length);
        let next_month = || start.day().next_month().start();
        match self {
            Self::Month => next_month(),
            Self::TenDays => {
                let month = start.day().month_start().start().millis();
                if start.millis() - month >= 20 * DAY_MS { next_month() } else { after(10 * DAY_MS) }
            }
            Self::Day => after(DAY_MS),
            Self::Hour => after(HOUR_MS),
            Self::Minute => after(MINUTE_MS),
        }
    }

    fn ceil(self, at: Timestamp) -> Timestamp {
        let floor = self.floor(at);
        if floor == at { at } else { self.end(floor) }
    }
}

/// Periods of one grain, one behind the other, that are added or taken away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// How long each is; `None` where no grain is fine enough, and the lines themselves are to be summed up.
    pub grain: Option<Grain>,
    /// When the first begins.
    pub from: Timestamp,
    /// When the last ends.
    pub until: Timestamp,
    /// 1 where they are added, -1 where they are taken away.
    pub sign: i64,
}

/// The pieces that make up a period, from its first moment to before its end: as few and as short ones as can be,
/// since half an hour less is as good as half an hour more. `grains` are given from the coarsest to the finest.
#[must_use]
pub fn cover(from: Timestamp, until: Timestamp, grains: &[Grain]) -> Vec<Piece> {
    let mut pieces = vec![];
    add(&mut pieces, (from, until), grains, 1);
    pieces
}

fn add(pieces: &mut Vec<Piece>, (from, until): (Timestamp, Timestamp), grains: &[Grain], sign: i64) {
    if from >= until {
        return;
    }
    let Some((grain, finer)) = grains.split_first() else {
        pieces.push(Piece { grain: None, from, until, sign });
        return;
    };
    let (before, first) = (grain.floor(from), grain.ceil(from));
    let (last, after) = (grain.floor(until), grain.ceil(until));
    let length = |from: Timestamp, until: Timestamp| until.millis() - from.millis();
    if first > last {
        // All of it lies within one period of this grain.
        if length(from, until) <= length(before, from) + length(until, after) {
            return add(pieces, (from, until), finer, sign);
        }
        pieces.push(Piece { grain: Some(*grain), from: before, until: after, sign });
        add(pieces, (before, from), finer, -sign);
        return add(pieces, (until, after), finer, -sign);
    }
    let (from_before, until_after) =
        (length(before, from) < length(from, first), length(until, after) < length(last, until));
    let begin = if from_before { before } else { first };
    let end = if until_after { after } else { last };
    if begin < end {
        pieces.push(Piece { grain: Some(*grain), from: begin, until: end, sign });
    }
    let left = if from_before { ((before, from), -sign) } else { ((from, first), sign) };
    let right = if until_after { ((until, after), -sign) } else { ((last, until), sign) };
    for (range, sign) in [left, right] {
        add(pieces, range, finer, sign);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ALL: [Grain; 5] = [Grain::Month, Grain::TenDays, Grain::Day, Grain::Hour, Grain::Minute];

    fn at(text: &str) -> Timestamp {
        Timestamp::parse(text).unwrap()
    }

    #[test]
    fn a_month_is_one_piece_and_ten_days_end_with_their_month() {
        let pieces = cover(at("2025-05-01T00:00:00Z"), at("2025-08-01T00:00:00Z"), &ALL);
        assert_eq!(pieces.len(), 1);
        let last = Grain::TenDays.floor(at("2024-02-29T12:00:00Z"));
        assert_eq!(
            (last, Grain::TenDays.end(last)),
            (at("2024-02-21T00:00:00Z"), at("2024-03-01T00:00:00Z"))
        );
    }

    #[test]
    fn what_is_missing_of_a_period_is_taken_away_where_that_is_less() {
        let pieces = cover(at("2025-05-01T00:00:00Z"), at("2025-05-31T23:59:00Z"), &ALL);
        let expected = [
            (Some(Grain::Month), "2025-05-01T00:00:00Z", "2025-06-01T00:00:00Z", 1),
            (Some(Grain::Minute), "2025-05-31T23:59:00Z", "2025-06-01T00:00:00Z", -1),
        ];
        let expected = expected.map(|(grain, from, until, sign)| {
            let (from, until) = (at(from), at(until));
            Piece { grain, from, until, sign }
        });
        assert_eq!(pieces, expected);
    }

    proptest! {
        #[test]
        fn every_moment_of_a_period_is_covered_once_and_no_other(
            from in 0..4_000_000_000_i64, seconds in 0..100_000_000_i64, looks in prop::collection::vec(any::<u64>(), 20),
            skipped in 0..5_usize,
        ) {
            let (from, until) = (from * 1_000, (from + seconds) * 1_000);
            let moment = Timestamp::from_millis;
            let pieces = cover(moment(from), moment(until), &ALL[skipped..]);
            prop_assert!(pieces.len() <= 30, "{} pieces", pieces.len());
            for piece in &pieces {
                if let Some(grain) = piece.grain {
                    prop_assert_eq!(grain.floor(piece.from), piece.from);
                    prop_assert_eq!(grain.floor(piece.until), piece.until);
                }
            }
            let edges = pieces.iter().flat_map(|piece| [piece.from, piece.until]).map(Timestamp::millis);
            let near = edges.flat_map(|edge| [edge - 1, edge]);
            let wide = i128::from(until - from) * 2 + 86_400_000;
            let anywhere = looks.iter().map(|look| from - 43_200_000 + (i128::from(*look) % wide) as i64);
            for look in near.chain(anywhere).chain([from, until, from - 1, until - 1]).filter(|look| *look >= 0) {
                let inside = |piece: &&Piece| (piece.from.millis()..piece.until.millis()).contains(&look);
                let times: i64 = pieces.iter().filter(inside).map(|piece| piece.sign).sum();
                prop_assert_eq!(times, i64::from((from..until).contains(&look)), "at {}", look);
            }
        }
    }
}
