//! All views of random periods, held against the charges that lie in them and against each other.

use std::collections::BTreeMap;

use anyhow::Context;
use rust_decimal::Decimal;
use serde_json::Value;
use theazo_domain::time::{DAY_MS, Timestamp};

use super::account::Account;
use super::books::{Books, Entry, export, rows};
use super::entries::{self, Period};
use super::money::{UNITS, amount, cents};
use super::text;
use crate::load::Customer;
use crate::prove::Findings;

/// What must be said of a period.
#[derive(Default)]
struct Expected {
    total: Decimal,
    by_category: BTreeMap<String, Decimal>,
    by_day: BTreeMap<String, Decimal>,
    by_user: BTreeMap<String, Decimal>,
    by_session: BTreeMap<String, Decimal>,
    by_agent: BTreeMap<String, Decimal>,
    by_model: BTreeMap<String, Decimal>,
    sessions: u64,
    agents: u64,
    input_tokens: Decimal,
    output_tokens: Decimal,
}

impl Expected {
    fn of(books: &Books, account: &Account, (from, until): (i64, i64)) -> Self {
        let inside = |at: Timestamp| (from..until).contains(&at.millis());
        let mut expected = Self::default();
        for entry in books.entries.iter().filter(|entry| inside(entry.at)) {
            expected.take(entry);
        }
        expected.sessions = account.sessions.iter().filter(|(_, at)| inside(*at)).count() as u64;
        expected.agents = account.agents.values().filter(|agent| inside(agent.created_at)).count() as u64;
        expected
    }

    fn take(&mut self, entry: &Entry) {
        self.total += entry.cost;
        *self.by_category.entry(entry.category.clone()).or_default() += entry.cost;
        *self.by_day.entry(entry.at.day().to_string()).or_default() += entry.cost;
        *self.by_user.entry(entry.user.clone()).or_default() += entry.cost;
        *self.by_session.entry(entry.session.clone()).or_default() += entry.cost;
        *self.by_agent.entry(entry.agent.clone()).or_default() += entry.cost;
        if entry.category == "model" {
            *self.by_model.entry(entry.model.clone()).or_default() += entry.cost;
        }
        if entry.line == "usage" && UNITS.contains(&&*entry.unit) {
            let output = entry.unit == "output_token";
            *(if output { &mut self.output_tokens } else { &mut self.input_tokens }) += entry.quantity;
        }
    }
}

/// Asks every view about so many random periods.
pub(super) async fn agree(
    customer: &mut Customer<'_>,
    (books, account): (&Books, &Account),
    periods: u64,
    findings: &mut Findings,
) -> anyhow::Result<()> {
    whole(customer, account, findings).await?;
    for number in 0..usize::try_from(periods)? {
        let (period, bounds) = period(books, number, &mut customer.random);
        let expected = Expected::of(books, account, bounds);
        let exported = customer.random.u8(..4) == 0;
        let views = Views { customer, period: period.clone(), expected, findings };
        views.check(exported).await?;
        let period = Period { query: &period, bounds };
        entries::whole(customer, books, &period, findings).await?;
        entries::filtered(customer, books, (&period, number), findings).await?;
        findings.did("periods", 1);
    }
    Ok(())
}

/// A moment near this one, at an edge of a minute, an hour, a day or a month, or anywhere near.
fn moment(near: Timestamp, random: &mut fastrand::Rng) -> i64 {
    let millis = near.millis();
    match random.u8(..10) {
        0 => millis,
        1 => millis + 1,
        2 => millis / 1_000 * 1_000,
        3 => millis / 1_000 * 1_000 + 1_000,
        4 => (millis / 60_000 + random.i64(0..2)) * 60_000 + random.i64(-1..2),
        5 => (millis / 3_600_000 + random.i64(0..2)) * 3_600_000 + random.i64(-1..2) * 1_000,
        6 => near.day().start().millis(),
        7 => near.day().month_start().start().millis() + random.i64(-1..2),
        8 => millis - random.i64(0..40 * DAY_MS),
        _ => millis + random.i64(-90_000..90_000),
    }
}

/// Two moments between which there are some charges, and not too many to be read one by one.
fn near_together(books: &Books, random: &mut fastrand::Rng) -> (i64, i64) {
    let first = random.usize(..books.entries.len());
    let mut last = (first + random.usize(..entries::READ_ONE_BY_ONE / 3)).min(books.entries.len() - 1);
    let beyond = random.i64(0..2_000);
    loop {
        let [from, until] = [first, last].map(|index| books.entries[index].at.millis());
        let (from, until) = (from, until + beyond);
        let (since, before) = whole_seconds(from, until);
        let inside = |entry: &&Entry| (since..before).contains(&entry.at.millis());
        // On a fast machine much happens within the seconds that a period is rounded to.
        if last == first || books.entries.iter().filter(inside).count() <= entries::READ_ONE_BY_ONE {
            return (from, until);
        }
        last = first + (last - first) / 2;
    }
}

/// From when until when a period is that is asked for in fractions of seconds: they are cut off.
const fn whole_seconds(from: i64, until: i64) -> (i64, i64) {
    (from.div_euclid(1_000) * 1_000, until.div_euclid(1_000) * 1_000)
}

/// The days from the one of a moment to the one of another: dates, the last of which is included.
fn days(from: i64, until: i64) -> (String, (i64, i64)) {
    let [first, last] = [from, until].map(|millis| Timestamp::from_millis(millis).day());
    let bounds = (first.start().millis(), last.next().start().millis());
    (format!("from={first}&until={last}"), bounds)
}

/// The period of this number as it is asked for, and from when until when that is.
fn period(books: &Books, number: usize, random: &mut fastrand::Rng) -> (String, (i64, i64)) {
    if let (0, Some(first), Some(last)) = (number, books.entries.first(), books.entries.last()) {
        // What happened within some seconds lies inside few random periods, so one has all.
        return days(first.at.millis(), last.at.millis());
    }
    let narrow = number.is_multiple_of(3);
    let mut moment = || moment(books.entries[random.usize(..books.entries.len())].at, random);
    let (mut from, mut until) = (moment(), moment());
    if narrow {
        (from, until) = near_together(books, random);
    }
    if from > until {
        (from, until) = (until, from);
    }
    if !narrow && random.u8(..8) == 0 {
        return days(from, until);
    }
    let [first, last] = [from, until].map(Timestamp::from_millis);
    (format!("from={first}&until={last}"), whole_seconds(from, until))
}

/// All that there is: what the client knows besides.
async fn whole(
    customer: &mut Customer<'_>,
    account: &Account,
    findings: &mut Findings,
) -> anyhow::Result<()> {
    let usage = customer.look("/v1/billing/usage?from=2020-01-01").await?;
    let calls = account.calls + account.lost.len() as u64;
    findings.claim(usage["modelCalls"] == calls, || {
        format!("{} calls of models are counted, and {calls} were made", usage["modelCalls"])
    });
    findings.claim(usage["unrated"]["calls"] == 0, || format!("all is rated by now: {}", usage["unrated"]));
    let mut left = 0;
    for call in customer.all("/v1/billing/unconfirmed", 100).await? {
        left += 1;
        let cost = amount(&call["cost"])?.0;
        let known = account.lost.get(&text(&call, "callId")?);
        let right = known.is_some_and(|lost| lost.told.is_none() && lost.cost == cost);
        findings.claim(right, || format!("it is unconfirmed, and must be {known:?}: {call}"));
    }
    let expected: Vec<Decimal> =
        account.lost.values().filter(|lost| lost.told.is_none()).map(|lost| lost.cost).collect();
    findings.claim(left == expected.len(), || {
        format!("{left} calls are unconfirmed, and {} were left", expected.len())
    });
    // That each of them is the worst case of its call, the log and the vendor have shown.
    let (shown, unconfirmed) = (amount(&usage["unconfirmed"])?.0, expected.into_iter().sum::<Decimal>());
    findings.claim(shown == unconfirmed, || format!("{shown} is unconfirmed, and calls of {unconfirmed}"));
    Ok(())
}

struct Views<'a, 'b> {
    customer: &'a mut Customer<'b>,
    period: String,
    expected: Expected,
    findings: &'a mut Findings,
}

impl Views<'_, '_> {
    async fn get(&mut self, view: &str) -> anyhow::Result<Value> {
        self.customer.look(format!("/v1/{view}?{}", self.period)).await
    }

    fn same<T: PartialEq + std::fmt::Debug>(&mut self, what: &str, shown: T, expected: T) {
        let period = &self.period;
        self.findings.claim(shown == expected, || {
            format!("{period}: {what} says {shown:?}, and it must be {expected:?}")
        });
    }

    async fn check(mut self, exported: bool) -> anyhow::Result<()> {
        let total = (self.expected.total, cents(self.expected.total));
        let summary = self.get("usage/summary").await?;
        self.same("summary", amount(&summary["total"])?, total);
        let mut sum = 0;
        for (name, category) in [
            ("models", "model"),
            ("compute", "compute"),
            ("storage", "storage"),
            ("orchestration", "orchestration"),
        ] {
            let (exact, cents) = amount(&summary[name]["cost"])?;
            let expected = self.expected.by_category.get(category).copied().unwrap_or_default();
            self.same(name, exact, expected);
            sum += cents;
        }
        self.same("the sum of the summary's cents", sum, total.1);
        let tokens = [self.expected.input_tokens, self.expected.output_tokens].map(u64::try_from);
        let [input, output] = tokens.map(Result::unwrap_or_default);
        self.same("summary of input", summary["models"]["inputTokens"].as_u64(), Some(input));
        self.same("summary of output", summary["models"]["outputTokens"].as_u64(), Some(output));
        let usage = self.get("billing/usage").await?;
        self.same("usage", amount(&usage["totalCost"])?, total);
        let (sessions, agents) = (self.expected.sessions, self.expected.agents);
        self.same("sessions of usage", usage["sessions"].as_u64(), Some(sessions));
        self.same("agents of usage", usage["agents"].as_u64(), Some(agents));
        let daily = self.get("billing/usage/daily").await?;
        let by_day = std::mem::take(&mut self.expected.by_day);
        self.breaks_down("daily", ("date", &daily["data"]), &by_day, total.1)?;
        let models = self.get("billing/usage/models").await?;
        let by_model = std::mem::take(&mut self.expected.by_model);
        let of_models = amount(&summary["models"]["cost"])?.1;
        self.breaks_down("models", ("model", &models["data"]), &by_model, of_models)?;
        for (view, key) in [("users", "userId"), ("sessions", "sessionId"), ("agents", "agentId")] {
            let path = format!("/v1/billing/usage/{view}?{}", self.period);
            let limit = if view == "users" { 472 } else { 93 };
            let rows = Value::from(self.customer.all(&path, limit).await?);
            let expected = match view {
                "users" => std::mem::take(&mut self.expected.by_user),
                "sessions" => std::mem::take(&mut self.expected.by_session),
                _ => std::mem::take(&mut self.expected.by_agent),
            };
            self.breaks_down(view, (key, &rows), &expected, total.1)?;
        }
        if exported { self.exports(total.0).await } else { Ok(()) }
    }

    /// A list has these exact parts, each within a cent, which add up to so many cents.
    fn breaks_down(
        &mut self,
        view: &str,
        (key, rows): (&str, &Value),
        expected: &BTreeMap<String, Decimal>,
        total: i64,
    ) -> anyhow::Result<()> {
        let mut shown = BTreeMap::new();
        let mut sum = 0;
        for row in rows.as_array().context("a list")? {
            let (exact, cents) = amount(&row["cost"])?;
            sum += cents;
            let difference = (exact - Decimal::new(cents, 2)).abs();
            self.same(&format!("{view}: {row} within a cent"), difference < Decimal::new(1, 2), true);
            let name = row[key].as_str().unwrap_or_default().to_owned();
            let twice = shown.insert(name, exact).is_some();
            self.same(&format!("{view}: {row} twice"), twice, false);
        }
        self.same(&format!("the cents of {view}"), sum, total);
        // What cost nothing may be shown, or not.
        shown.retain(|name, exact| !exact.is_zero() || expected.contains_key(name));
        let absent = expected.iter().filter(|(name, cost)| cost.is_zero() && !shown.contains_key(*name));
        let absent: Vec<String> = absent.map(|(name, _)| name.clone()).collect();
        shown.extend(absent.into_iter().map(|name| (name, Decimal::ZERO)));
        for (name, cost) in expected {
            self.same(&format!("{view} of {name}"), shown.remove(name), Some(*cost));
        }
        self.same(&format!("{view} of others"), shown, BTreeMap::new());
        Ok(())
    }

    async fn exports(&mut self, total: Decimal) -> anyhow::Result<()> {
        for (format, column) in [("csv", "cost"), ("focus", "BilledCost")] {
            let text = export(self.customer, &format!("format={format}&{}", self.period)).await?;
            let mut sum = Decimal::ZERO;
            for cost in costs(&text, column)? {
                sum += cost;
            }
            self.same(&format!("the export as {format}"), sum, total);
        }
        self.findings.did("periods that were exported", 1);
        Ok(())
    }
}

/// The amounts in a column. The quoted cells of FOCUS (`Tags`) come behind it.
fn costs(csv: &str, column: &str) -> anyhow::Result<Vec<Decimal>> {
    if !csv.contains('"') {
        let row = |row: &BTreeMap<&str, &str>| Ok(row.get(column).context("a cost")?.parse()?);
        return rows(csv)?.iter().map(row).collect();
    }
    let mut lines = csv.split_terminator("\r\n");
    let place = lines.next().context("a head")?.split(',').position(|name| name == column);
    let place = place.context("a column of costs")?;
    lines.map(|line| Ok(line.split(',').nth(place).context("a cost")?.parse()?)).collect()
}
