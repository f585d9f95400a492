//! Crons, held against crontab(5), and against the source of the program it belongs to in what it leaves open: a day
//! has to match both fields where one of them has `*` for its first character.

use theazo_domain::cron::{Cron, LONGEST};
use theazo_domain::time::Timestamp;
use time::{Month, OffsetDateTime};

const MINUTE_MS: i64 = 60_000;
/// How far the minutes are walked one by one: a day and a half.
const WALKED_MS: i64 = 36 * 60 * MINUTE_MS;

/// A cron on the first line and the moment to begin at: it is read where it has to be and refused where it has to be;
/// its next slots are later, whole minutes, the very next by days and minutes one by one, and the same in capitals and
/// with tabs.
pub fn cron(bytes: &[u8]) {
    let Some(text) = super::text(bytes) else { return };
    let (expression, moment) = super::first_line(text);
    let fields = Fields::read(expression).filter(Fields::ever_fire);
    let cron = Cron::parse(expression);
    assert_eq!(cron.is_ok(), fields.is_some(), "{expression}: {cron:?}");
    let (Some(fields), Ok(cron)) = (fields, cron) else { return };
    let json = serde_json::to_string(&cron).expect("it is a string");
    assert_eq!(serde_json::from_str(&json).ok(), Some(cron.clone()), "{json}");
    let loud = Cron::parse(&expression.to_ascii_uppercase().replace(' ', "\t")).expect("it is the same");
    let mut moment = Timestamp::parse_bound(moment.trim()).unwrap_or_default();
    for _ in 0..2 {
        let next = cron.next_after(moment);
        assert_eq!(loud.next_after(moment), next, "{expression}");
        let Some(next) = next else { return };
        assert!(next > moment && next.millis() % MINUTE_MS == 0 && cron.is_due_at(next));
        assert_eq!(cron.newest_until(moment, next), Some(next));
        assert_eq!(cron.newest_until(next, next), None);
        let mut between = (moment.millis() / MINUTE_MS + 1) * MINUTE_MS;
        let walked = next.millis().min(moment.millis() + WALKED_MS);
        while between < walked {
            let slot = Timestamp::from_millis(between);
            assert!(!fields.have(slot), "{expression}: {slot}");
            between += MINUTE_MS;
        }
        assert!(fields.have(next), "{expression}: {next}");
        moment = next;
    }
}

/// From, to, and the step.
type Span = (u8, u8, u64);

/// The five fields, by the manual page.
struct Fields {
    spans: [Vec<Span>; 5],
    /// Whether a day has to match both of its fields.
    both: bool,
}

impl Fields {
    fn read(expression: &str) -> Option<Self> {
        let texts: Vec<&str> = expression.split([' ', '\t']).filter(|text| !text.is_empty()).collect();
        let [minute, hour, day, month, week] =
            texts.try_into().ok().filter(|_| expression.len() <= LONGEST)?;
        let spans = [
            spans(minute, (0, 59), "")?,
            spans(hour, (0, 23), "")?,
            spans(day, (1, 31), "")?,
            spans(month, (1, 12), "janfebmaraprmayjunjulaugsepoctnovdec")?,
            spans(week, (0, 7), "sunmontuewedthufrisat")?,
        ];
        Some(Self { spans, both: day.starts_with('*') || week.starts_with('*') })
    }

    fn has(&self, field: usize, value: u8) -> bool {
        self.spans[field].iter().any(|(from, to, step)| {
            (from..=to).contains(&&value) && u64::from(value - from).is_multiple_of(*step)
        })
    }

    /// Whether any month has any of the days, if it is not enough that it is one of the week.
    fn ever_fire(&self) -> bool {
        let dates = (1..=12_u8).flat_map(|month| (1..=31_u8).map(move |day| (month, day)));
        let mut fire = dates.filter(|(month, day)| {
            let of_leap_year = Month::try_from(*month).map(|month| month.length(2024));
            of_leap_year.is_ok_and(|length| *day <= length) && self.has(2, *day) && self.has(3, *month)
        });
        !self.both || fire.next().is_some()
    }

    /// Whether a whole minute is a slot.
    fn have(&self, moment: Timestamp) -> bool {
        let Ok(date) = OffsetDateTime::from_unix_timestamp(moment.millis() / 1_000) else { return false };
        let weekday = date.weekday().number_days_from_sunday();
        let of_month = self.has(2, date.day());
        let of_week = self.has(4, weekday) || (weekday == 0 && self.has(4, 7));
        let is_day = if self.both { of_month && of_week } else { of_month || of_week };
        is_day && self.has(0, date.minute()) && self.has(1, date.hour()) && self.has(3, date.month().into())
    }
}

/// The list of a field, if it is one: `*`, numbers and names between these ends, ranges that do not run backwards, and
/// behind all but single numbers a step of any size but zero.
fn spans(field: &str, (low, high): (u8, u8), names: &str) -> Option<Vec<Span>> {
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let value = |text: &str| {
        let name = text.to_ascii_lowercase();
        let named = (low..=high).find(|value| {
            let at = usize::from(value - low) * 3;
            names.get(at..at + 3) == Some(&*name)
        });
        let number = is_number(text).then(|| text.parse().ok()).flatten();
        named.or(number.filter(|number| (low..=high).contains(number)))
    };
    let span = |item: &str| {
        let (span, step) = item.split_once('/').map_or((item, None), |(span, step)| (span, Some(step)));
        let (from, to) = match span.split_once('-') {
            _ if span == "*" => (low, high),
            None if step.is_some() => return None,
            None => (value(span)?, value(span)?),
            // Behind another day Sunday is the seventh.
            Some((from, to)) if to.eq_ignore_ascii_case("sun") && value(from)? > 0 => {
                (value(from)?, value(to)?.max(7))
            }
            Some((from, to)) => (value(from)?, value(to)?),
        };
        let step = step.unwrap_or("1");
        let is_step = is_number(step) && step.bytes().any(|byte| byte != b'0');
        (is_step && from <= to).then(|| (from, to, step.parse().unwrap_or(u64::MAX)))
    };
    field.split(',').map(span).collect()
}
