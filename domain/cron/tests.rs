//! Held against a definition of its own: the manual page, applied to every minute.

use super::*;
use crate::time::DAY_MS;
use proptest::prelude::*;

const MINUTE_MS: i64 = 60_000;

fn cron(text: &str) -> Cron {
    Cron::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn at(text: &str) -> Timestamp {
    Timestamp::parse(text).unwrap()
}

/// The first slots after a moment.
fn slots(text: &str, after: &str, number: usize) -> Vec<String> {
    let cron = cron(text);
    let next = |moment: &Timestamp| cron.next_after(*moment);
    std::iter::successors(next(&at(after)), next).take(number).map(|slot| slot.to_string()).collect()
}

/// Whether a value is in a field, by the text of it.
fn has(field: &str, value: u8, (low, high): (u8, u8)) -> bool {
    field.split(',').any(|item| {
        let (numbers, step) = item.split_once('/').unwrap_or((item, "1"));
        let number = |text: &str| {
            let names = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];
            let months =
                ["", "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
            let lower = text.to_lowercase();
            let named = |names: &[&str]| (0..).zip(names).find(|(_, name)| **name == lower).map(|(at, _)| at);
            named(&names).or_else(|| named(&months)).unwrap_or_else(|| text.parse().unwrap())
        };
        let (from, to) = match numbers.split_once('-') {
            _ if numbers == "*" => (low, high),
            Some((from, to)) if to.eq_ignore_ascii_case("sun") && number(from) > 0 => (number(from), 7),
            Some((from, to)) => (number(from), number(to)),
            None => (number(numbers), number(numbers)),
        };
        (from..=to).contains(&value) && u64::from(value - from).is_multiple_of(step.parse().unwrap())
    })
}

fn day_matches(text: &str, moment: Timestamp) -> bool {
    let fields: Vec<&str> = text.split_whitespace().collect();
    let date = OffsetDateTime::from_unix_timestamp(moment.millis() / 1_000).unwrap();
    let of_month = has(fields[2], date.day(), (1, 31));
    let weekday = date.weekday().number_days_from_sunday();
    let of_week = has(fields[4], weekday, (0, 7)) || weekday == 0 && has(fields[4], 7, (0, 7));
    let restricted = !fields[2].starts_with('*') && !fields[4].starts_with('*');
    let day = if restricted { of_month || of_week } else { of_month && of_week };
    day && has(fields[3], date.month().into(), (1, 12))
}

fn time_matches(text: &str, moment: Timestamp) -> bool {
    let fields: Vec<&str> = text.split_whitespace().collect();
    let date = OffsetDateTime::from_unix_timestamp(moment.millis() / 1_000).unwrap();
    has(fields[0], date.minute(), (0, 59)) && has(fields[1], date.hour(), (0, 23))
}

/// What has to come out: the days one by one, and of the first that matches the minutes one by one.
fn naive_next(text: &str, after: Timestamp) -> Option<Timestamp> {
    let mut moment = after.millis().div_euclid(MINUTE_MS) * MINUTE_MS + MINUTE_MS;
    loop {
        let slot = Timestamp::from_millis(moment);
        if slot.millis() != moment {
            return None;
        }
        if !day_matches(text, slot) {
            moment = (moment.div_euclid(DAY_MS) + 1) * DAY_MS;
        } else if !time_matches(text, slot) {
            moment += MINUTE_MS;
        } else {
            return Some(slot);
        }
    }
}

#[test]
fn the_examples_of_the_manual_page_fire_when_it_says() {
    // crontab(5): five minutes after midnight, every day.
    assert_eq!(slots("5 0 * * *", "2025-12-31T00:05:00Z", 1), ["2026-01-01T00:05:00.000Z"]);
    // At 2:15 pm on the first of every month.
    assert_eq!(slots("15 14 1 * *", "2025-01-31T00:00:00Z", 1), ["2025-02-01T14:15:00.000Z"]);
    // At 10 pm on weekdays; 2025-05-03 is a Saturday.
    let weekdays = ["2025-05-02T22:00:00.000Z", "2025-05-05T22:00:00.000Z"];
    assert_eq!(slots("0 22 * * 1-5", "2025-05-02T00:00:00Z", 2), weekdays);
    // 23 minutes after midnight, 2 am, 4 am …
    let every_other = ["2025-05-01T22:23:00.000Z", "2025-05-02T00:23:00.000Z"];
    assert_eq!(slots("23 0-23/2 * * *", "2025-05-01T20:23:00Z", 2), every_other);
    // At 5 after 4 every Sunday.
    assert_eq!(slots("5 4 * * sun", "2025-05-01T00:00:00Z", 1), ["2025-05-04T04:05:00.000Z"]);
    // At 4:30 on the 1st and 15th of each month, plus every Friday: 2025-08-15 is both.
    let either = ["2025-08-08T04:30:00.000Z", "2025-08-15T04:30:00.000Z", "2025-08-22T04:30:00.000Z"];
    assert_eq!(slots("30 4 1,15 * 5", "2025-08-01T04:30:00Z", 3), either);
}

#[test]
fn a_day_field_that_begins_with_a_star_is_one_that_both_have_to_match() {
    // Odd days that are Mondays, not odd days and Mondays.
    let odd_mondays = ["2025-05-05T00:00:00.000Z", "2025-05-19T00:00:00.000Z", "2025-06-09T00:00:00.000Z"];
    assert_eq!(slots("0 0 */2 * 1", "2025-05-01T00:00:00Z", 3), odd_mondays);
    assert_eq!(slots("0 0 29 2 */7", "2025-01-01T00:00:00Z", 1), ["2032-02-29T00:00:00.000Z"]);
    // Not the first character: every day is named, and either matches.
    assert_eq!(slots("0 0 1,* * 1", "2025-05-01T00:00:00Z", 1), ["2025-05-02T00:00:00.000Z"]);
    assert_eq!(slots("0 0 *,1 * 1", "2025-05-01T00:00:00Z", 1), ["2025-05-05T00:00:00.000Z"]);
}

#[test]
fn a_step_beyond_the_end_leaves_the_first() {
    for (text, plain) in [
        ("0 */24 * * *", "0 0 * * *"),
        ("*/60 * * * *", "0 * * * *"),
        ("0-59/60 * * * *", "0 * * * *"),
        ("7-9/2,30-59/1000 * * * *", "7,9,30 * * * *"),
        ("0 0 */32 * *", "0 0 1 * *"),
        ("0 0 * */13 *", "0 0 * 1 *"),
        ("0 0 * * */8", "0 0 * * 0"),
        ("0 0 * * 5-7/256", "0 0 * * 5"),
        ("*/99999999999999999999999999 * * * *", "0 * * * *"),
        ("5-5/1 4-6/3 * * *", "5 4 * * *"),
    ] {
        assert_eq!(slots(text, "2025-05-01T00:00:00Z", 9), slots(plain, "2025-05-01T00:00:00Z", 9), "{text}");
    }
    assert!(Cron::parse("0 0 31/1 * *").is_err(), "behind a number");
    assert_eq!(Cron::parse("0 0 30-31/9 2 *"), Err(Invalid::NeverFires));
}

#[test]
fn sunday_is_0_and_7_and_a_name() {
    let sundays = slots("0 12 * * 0", "2025-05-01T00:00:00Z", 9);
    for text in ["0 12 * * 7", "0 12 * * SUN", "0 12 * * Sun-sun", "0 12 * * */7", "00 12 * * 7-7"] {
        assert_eq!(slots(text, "2025-05-01T00:00:00Z", 9), sundays, "{text}");
    }
    let long = slots("0 0 * * 5-7", "2025-05-01T00:00:00Z", 9);
    for text in ["0 0 * * FRI-SUN", "0 0 * * fri,sat,sun", "0 0 * * 0,5-6", "0 0 * * 5-sun"] {
        assert_eq!(slots(text, "2025-05-01T00:00:00Z", 9), long, "{text}");
    }
    assert_eq!(slots("0 0 1 jan-MAR,Dec *", "2025-05-01T00:00:00Z", 1), ["2025-12-01T00:00:00.000Z"]);
}

#[test]
fn leap_days_and_the_ends_of_months_are_those_of_the_calendar() {
    assert_eq!(slots("0 0 29 2 *", "2096-02-29T00:00:00Z", 1), ["2104-02-29T00:00:00.000Z"]);
    assert_eq!(slots("0 0 29 2 *", "2396-02-29T00:00:00Z", 1), ["2400-02-29T00:00:00.000Z"]);
    assert_eq!(slots("59 23 31 * *", "2025-03-31T23:59:00Z", 1), ["2025-05-31T23:59:00.000Z"]);
    assert_eq!(slots("0 0 30 2,4 *", "2025-01-01T00:00:00Z", 1), ["2025-04-30T00:00:00.000Z"]);
    // The longest wait there is: a leap day that is a Sunday, across 2100.
    let sunday = cron("0 0 29 2 */7");
    assert_eq!(sunday.next_after(at("2088-02-29T00:00:00Z")), Some(at("2128-02-29T00:00:00Z")));
    let before = sunday.newest_until(at("1970-01-01T00:00:00Z"), at("2128-02-28T00:00:00Z"));
    assert_eq!(before, Some(at("2088-02-29T00:00:00Z")));
}

#[test]
fn slots_are_whole_minutes_and_the_next_is_strictly_after() {
    let each = cron("* * * * *");
    assert_eq!(each.next_after(at("2025-05-01T00:00:00Z")), Some(at("2025-05-01T00:01:00Z")));
    assert_eq!(each.next_after(at("2025-05-01T00:00:00.001Z")), Some(at("2025-05-01T00:01:00Z")));
    assert_eq!(each.next_after(at("2025-04-30T23:59:59.999Z")), Some(at("2025-05-01T00:00:00Z")));
    assert!(each.is_due_at(at("2025-05-01T00:00:00Z")));
    assert!(!each.is_due_at(at("2025-05-01T00:00:00.001Z")) && !each.is_due_at(at("2025-05-01T00:00:01Z")));
    // The ends of what a timestamp can hold.
    assert_eq!(each.next_after(at("9999-12-31T23:59:00Z")), None);
    assert_eq!(each.next_after(at("9999-12-31T23:58:59.999Z")), Some(at("9999-12-31T23:59:00Z")));
    assert_eq!(cron("0 0 1 1 *").next_after(at("9998-12-31T23:59:59Z")), Some(at("9999-01-01T00:00:00Z")));
    assert_eq!(cron("0 0 2 1 *").newest_until(at("1970-01-01T00:00:00Z"), at("1970-01-01T23:59:59Z")), None);
    assert!(each.is_due_at(Timestamp::from_millis(0)));
}

#[test]
fn the_newest_of_many_missed_slots_is_found() {
    let each = cron("*/5 * * * *");
    let (from, until) = (at("1970-01-01T00:00:00Z"), at("9999-12-31T23:59:59.999Z"));
    assert_eq!(each.newest_until(from, until), Some(at("9999-12-31T23:55:00Z")));
    // The first end is excluded, the second included.
    let slot = at("2025-05-01T00:05:00Z");
    assert_eq!(each.newest_until(at("2025-05-01T00:04:59.999Z"), slot), Some(slot));
    assert_eq!(each.newest_until(slot, at("2025-05-01T00:09:59.999Z")), None);
    assert_eq!(each.newest_until(slot, from), None);
}

#[test]
fn what_can_never_fire_is_said_to() {
    for text in ["0 0 31 2 *", "0 0 30 feb *", "* * 31 4,6,9,11 *", "0 0 30-31 2 */2", "0 0 31 2,4 *"] {
        assert_eq!(Cron::parse(text), Err(Invalid::NeverFires), "{text}");
    }
    // Every Monday of February: either is enough.
    assert_eq!(slots("0 0 31 2 1", "2025-02-01T00:00:00Z", 1), ["2025-02-03T00:00:00.000Z"]);
    assert!(Cron::parse("0 0 29 2 *").is_ok() && Cron::parse("0 0 31 */2,3 *").is_ok());
}

#[test]
fn an_error_names_the_field_and_the_rule() {
    let error = |text: &str| Cron::parse(text).map(|_| ()).unwrap_err().to_string();
    assert_eq!(error("60 * * * *"), "minute: 60 is not from 0 to 59");
    assert_eq!(error("* 24 * * *"), "hour: 24 is not from 0 to 23");
    assert_eq!(error("* * 0 * *"), "day of month: 0 is not from 1 to 31");
    assert_eq!(error("* * * 13 *"), "month: 13 is not from 1 to 12");
    assert_eq!(error("* * * * 8"), "day of week: 8 is not from 0 to 7");
    assert_eq!(error("* * * * 1-1000"), "day of week: 1000 is not from 0 to 7");
    assert_eq!(error("30-10 * * * *"), "minute: the range 30-10 runs backwards");
    assert_eq!(error("* * * * sat-fri"), "day of week: the range sat-fri runs backwards");
    assert_eq!(error("*/0 * * * *"), "minute: the step in */0 is not a number from 1 on");
    assert_eq!(error("* 0-5/x * * *"), "hour: the step in 0-5/x is not a number from 1 on");
    assert_eq!(error("* */ * * *"), "hour: the step in */ is not a number from 1 on");
    assert_eq!(error("* */000 * * *"), "hour: the step in */000 is not a number from 1 on");
    assert_eq!(error("5/15 * * * *"), "minute: 5/15: a step stands behind * or a range only");
    assert_eq!(error("* * * mon *"), "month: \"mon\" is no number, name or range, and not *");
    assert_eq!(error("* * * * monday"), "day of week: \"monday\" is no number, name or range, and not *");
    assert!(error("@daily").starts_with("a cron has five fields (minute, hour,"));
    assert!(error("0 * * * * *").ends_with("and this has 6"));
    assert!(error("").ends_with("and this has 0"));
    assert_eq!(error(&format!("{} * * * *", "0,".repeat(300))), "a cron has at most 512 bytes");
    for field in [
        "", ",", "1,", ",1", "1,,2", "1-", "-1", "1-2-3", "*/", "/2", "*/2/2", "+1", "*/+1", "1.5", "٣",
        "**", "*-5", "?", "l", "5l", "L", "LW", "1W", "15w", "1#2", "0~59", "!1", "x", "*/mon", "1\u{a0}",
        "H",
    ] {
        for place in 0..5 {
            let mut fields = ["*"; 5];
            fields[place] = field;
            assert!(Cron::parse(&fields.join(" ")).is_err(), "{field} at {place}");
        }
    }
}

#[test]
fn every_value_of_every_field_listed_one_by_one_has_room() {
    let list = |from: u8, to: u8| (from..=to).map(|value| value.to_string()).collect::<Vec<_>>().join(",");
    let text = [list(0, 59), list(0, 23), list(1, 31), list(1, 12), list(0, 7)].join(" ");
    assert!(text.len() <= LONGEST);
    assert_eq!(slots(&text, "2025-05-01T00:00:00Z", 1), ["2025-05-01T00:01:00.000Z"]);
}

#[test]
fn it_is_written_as_it_was_read_and_checked_when_it_is_read() {
    let text = " 05\t*/2  1,15 JAN-jun  Mon ";
    let json = serde_json::to_string(&cron(text)).unwrap();
    assert_eq!(json, serde_json::to_string(text).unwrap());
    assert_eq!(serde_json::from_str::<Cron>(&json).unwrap(), cron(text));
    assert_eq!(cron(text).to_string(), text);
    let error = serde_json::from_str::<Cron>("\"0 0 31 2 *\"").unwrap_err().to_string();
    assert!(error.starts_with("this can never fire"), "{error}");
}

/// A list of what a field can hold.
fn field(low: u8, high: u8, names: &'static [&'static str]) -> impl Strategy<Value = String> {
    let written = move |value: u8| match names.get(usize::from(value)) {
        Some(name) if !name.is_empty() && value.is_multiple_of(2) => name.to_uppercase(),
        _ => value.to_string(),
    };
    let item = (0..6_u8, low..=high, low..=high, prop_oneof![3 => 1..=u32::from(high), 1 => 1..=300_u32])
        .prop_map(move |(kind, one, other, step)| {
            let (from, to) = (one.min(other), one.max(other));
            match kind {
                0 => "*".to_owned(),
                1 => format!("*/{step}"),
                2 => format!("{}-{to}", written(from)),
                3 => format!("{from}-{to}/{step}"),
                _ => written(one),
            }
        });
    prop_oneof![2 => Just("*".to_owned()), 3 => prop::collection::vec(item, 1..4).prop_map(|items| items.join(","))]
}

fn expression() -> impl Strategy<Value = String> {
    let days = &["sun", "mon", "tue", "wed", "thu", "fri", "sat"];
    let months = &["", "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
    let fields =
        (field(0, 59, &[]), field(0, 23, &[]), field(1, 31, &[]), field(1, 12, months), field(0, 7, days));
    fields.prop_map(|(minute, hour, day, month, week)| format!("{minute} {hour} {day} {month} {week}"))
}

fn moment() -> impl Strategy<Value = Timestamp> {
    let near = |text: &'static str| (-3 * DAY_MS..3 * DAY_MS).prop_map(move |off| at(text).millis() + off);
    let latest = Timestamp::from_millis(i64::MAX).millis();
    prop_oneof![
        4 => 0..latest,
        1 => near("2024-02-29T00:00:00Z"),
        1 => near("2100-02-28T12:00:00Z"),
        1 => near("2025-12-31T12:00:00Z"),
        1 => near("5000-01-01T00:00:00Z"),
        1 => latest - 30 * DAY_MS..=latest,
    ]
    .prop_map(Timestamp::from_millis)
}

proptest! {
    #[test]
    fn slots_are_those_of_the_manual_page(text in expression(), from in moment()) {
        match Cron::parse(&text) {
            Ok(cron) => {
                let next = cron.next_after(from);
                prop_assert_eq!(next, naive_next(&text, from));
                if let Some(next) = next {
                    prop_assert!(next > from && cron.is_due_at(next));
                    prop_assert_eq!(cron.newest_until(from, next), Some(next));
                    prop_assert_eq!(cron.newest_until(from, Timestamp::from_millis(next.millis() - 1)), None);
                    let later = cron.next_after(next).unwrap_or(next);
                    prop_assert_eq!(cron.newest_until(from, later), Some(later));
                }
                let whole = Timestamp::from_millis(from.millis() / MINUTE_MS * MINUTE_MS);
                prop_assert_eq!(cron.is_due_at(whole), day_matches(&text, whole) && time_matches(&text, whole));
            }
            Err(error) => {
                prop_assert_eq!(error, Invalid::NeverFires);
                // A whole cycle of the calendar, at noon of each day.
                let days = (0..146_097).map(|day| Timestamp::from_millis(day * DAY_MS + DAY_MS / 2));
                prop_assert!(!days.into_iter().any(|day| day_matches(&text, day)), "{} fires", text);
            }
        }
    }

    #[test]
    fn rare_days_are_found(days in prop::collection::vec(28..=31_u8, 1..3), week in field(0, 7, &[]), from in moment()) {
        let days: Vec<String> = days.iter().map(u8::to_string).collect();
        let text = format!("7 3 {} 2 */7,{week}", days.join(","));
        if let Ok(cron) = Cron::parse(&text) {
            prop_assert_eq!(cron.next_after(from), naive_next(&text, from));
        }
    }

    #[test]
    fn no_text_makes_it_panic(text in "[0-9a-zA-Z*/,@#?~ \\t-]{0,40}") {
        if let Ok(cron) = Cron::parse(&text) {
            prop_assert_eq!(Cron::parse(cron.as_str()), Ok(cron));
        }
    }
}
