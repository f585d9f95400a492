//! Whatever was booked, and for whatever period: all views agree with the charges and with each other.

use std::collections::{BTreeMap, BTreeSet};

use rust_decimal::Decimal;
use serde_json::Value;
use theazo_domain::Event;
use theazo_domain::charge::{Category, Charge, Line, Unit};
use theazo_domain::money::{Currency, Money};
use theazo_domain::time::{DAY_MS, Timestamp};

use super::synthetic::{Dice, START_MS, external, random_log, write};
use super::{cents, exact};
use crate::support::api::Api;
use crate::support::site::Site;

/// What the events say of a period, by a rule of its own.
#[derive(Debug, Default)]
pub(super) struct Expected {
    total: Decimal,
    unconfirmed: Decimal,
    by_category: BTreeMap<&'static str, Decimal>,
    pub(super) by_user: BTreeMap<String, Decimal>,
    pub(super) by_session: BTreeMap<String, Decimal>,
    pub(super) by_agent: BTreeMap<String, Decimal>,
    by_model: BTreeMap<Option<String>, Decimal>,
    by_day: BTreeMap<String, Decimal>,
    entries: usize,
    calls: i64,
    pub(super) sessions: BTreeSet<String>,
    /// Their users.
    pub(super) creators: BTreeSet<String>,
    pub(super) agents: u64,
    /// Whose agents were created: users, sessions and agents.
    pub(super) made: [BTreeSet<String>; 3],
    input_tokens: i64,
    output_tokens: i64,
    compute_ms: i64,
    gb_hours: Decimal,
    unrated: (i64, i64, i64),
}

fn is_input(unit: Unit) -> bool {
    matches!(unit, Unit::InputToken | Unit::CacheReadToken | Unit::CacheWriteToken)
}

fn whole(quantity: Decimal) -> i64 {
    quantity.try_into().unwrap()
}

impl Expected {
    pub(super) fn of(events: &[(Timestamp, Event)], inside: impl Fn(Timestamp) -> bool) -> Self {
        let mut expected = Self::default();
        for (at, event) in events {
            if let Event::SessionCreated(created) = event
                && inside(*at)
            {
                expected.sessions.insert(created.session_id.to_string());
                expected.creators.insert(external(created.user_id));
            }
            if let Event::AgentCreated(created) = event
                && inside(*at)
            {
                expected.agents += 1;
                let place = created.place;
                let whose =
                    [external(place.user_id), place.session_id.to_string(), place.agent_id.to_string()];
                expected.made.iter_mut().zip(whose).for_each(|(made, id)| _ = made.insert(id));
            }
            let Some(booked) = event.booked() else { continue };
            if matches!(event, Event::CallSettled(_) | Event::CallLost(_)) {
                // A call counts with its first charge of a model.
                let used = booked.booking.charges.iter().filter(|charge| charge.line == Line::Usage);
                let mut of_models = used.chain(&booked.booking.unconfirmed);
                let first = of_models.find(|charge| charge.category == Category::Model);
                expected.calls += i64::from(inside(first.map_or(*at, |charge| charge.at)));
            }
            for charge in booked.booking.charges.iter().filter(|charge| inside(charge.at)) {
                expected.settled(charge, booked.model);
                let place = booked.place;
                *expected.by_user.entry(external(place.user_id)).or_default() += charge.cost;
                *expected.by_session.entry(place.session_id.to_string()).or_default() += charge.cost;
                *expected.by_agent.entry(place.agent_id.to_string()).or_default() += charge.cost;
            }
            let usage = |charge: &&Charge| charge.line == Line::Usage && charge.category == Category::Model;
            let unrated = |charge: &&Charge| usage(charge) && charge.price.is_none();
            if let Some(first) = booked.booking.charges.iter().find(unrated) {
                expected.unrated.0 += i64::from(inside(first.at));
            }
            for charge in &booked.booking.charges {
                expected.rates(charge, &inside);
            }
            let sum = |charges: &[Charge]| -> Decimal {
                charges.iter().filter(|charge| inside(charge.at)).map(|charge| charge.cost).sum()
            };
            expected.unconfirmed += sum(&booked.booking.unconfirmed) - sum(&booked.booking.withdrawn);
        }
        expected
    }

    /// Who is in a list: whoever cost something, or created something, and nobody else; and what they created.
    #[track_caller]
    pub(super) fn lists(&self, by: &str, rows: &[Value], name: &str) {
        let listed: BTreeSet<&str> = rows.iter().map(|row| row[name].as_str().unwrap()).collect();
        let none = BTreeSet::new();
        let (charged, created, made) = match by {
            "users" => (&self.by_user, &self.creators, &self.made[0]),
            "sessions" => (&self.by_session, &self.sessions, &self.made[1]),
            _ => (&self.by_agent, &none, &self.made[2]),
        };
        let all = charged.keys().chain(created).chain(made).map(String::as_str);
        assert_eq!(listed, all.collect::<BTreeSet<&str>>(), "{by}");
        let count = |name: &str| -> Option<u64> { rows.iter().map(|row| row[name].as_u64()).sum() };
        if by == "users" {
            assert_eq!(count("sessions"), Some(self.sessions.len() as u64));
        }
        if by != "agents" {
            assert_eq!(count("agents"), Some(self.agents), "{by}");
        }
    }

    fn settled(&mut self, charge: &Charge, model: Option<&str>) {
        self.entries += 1;
        self.total += charge.cost;
        *self.by_category.entry(charge.category.as_str()).or_default() += charge.cost;
        *self.by_day.entry(charge.at.day().to_string()).or_default() += charge.cost;
        if charge.category == Category::Model {
            *self.by_model.entry(model.map(str::to_owned)).or_default() += charge.cost;
        }
        if charge.line == Line::Usage {
            match charge.unit {
                unit if is_input(unit) => self.input_tokens += whole(charge.quantity),
                Unit::OutputToken => self.output_tokens += whole(charge.quantity),
                Unit::Millisecond if charge.category == Category::Compute => {
                    self.compute_ms += whole(charge.quantity);
                }
                Unit::GbHour => self.gb_hours += charge.quantity,
                _ => {}
            }
        }
    }

    /// What a charge adds to the unrated figures, or takes off them.
    fn rates(&mut self, charge: &Charge, inside: &impl Fn(Timestamp) -> bool) {
        let unrated = charge.price.is_none() && charge.category == Category::Model;
        let (at, sign) = match charge.line {
            Line::Usage if unrated => (charge.at, 1),
            Line::Rating { used_at, calls } => {
                self.unrated.0 -= if inside(used_at) { i64::from(calls) } else { 0 };
                (used_at, -1)
            }
            _ => return,
        };
        if !inside(at) {
            return;
        }
        let tokens = sign * whole(charge.quantity);
        if is_input(charge.unit) {
            self.unrated.1 += tokens;
        } else if charge.unit == Unit::OutputToken {
            self.unrated.2 += tokens;
        }
    }
}

fn round(exact: Decimal) -> i64 {
    Money { exact, currency: Currency::Usd }.cents()
}

/// All rows of a list that is paged, in pages of this size.
pub(super) async fn all(api: &Api, path: &str, limit: usize) -> Vec<Value> {
    behind(api, path, limit, None).await
}

/// The rows of such a list behind a cursor; all of them without one.
pub(super) async fn behind(api: &Api, path: &str, limit: usize, cursor: Option<&str>) -> Vec<Value> {
    behind_of(async |path| api.get(&path).await.expect(200), path, limit, cursor).await
}

/// The same of pages that are got in some way.
pub(super) async fn behind_of(
    get: impl AsyncFn(String) -> Value,
    path: &str,
    limit: usize,
    cursor: Option<&str>,
) -> Vec<Value> {
    let parameter = |cursor: &str| format!("&cursor={cursor}");
    let mut rows: Vec<Value> = vec![];
    let mut cursor = cursor.map(parameter).unwrap_or_default();
    loop {
        let page = get(format!("{path}&limit={limit}{cursor}")).await;
        rows.extend(page["data"].as_array().unwrap().iter().cloned());
        let Some(next) = page["nextCursor"].as_str() else { return rows };
        cursor = parameter(next);
    }
}

/// A breakdown by something has these exact parts, each within a cent, and adds up to the cents of its whole.
#[track_caller]
fn breaks_down<K: Ord + std::fmt::Debug + Clone>(
    rows: &[Value],
    key: impl Fn(&Value) -> K,
    expected: &BTreeMap<K, Decimal>,
    total: i64,
) {
    let shown: BTreeMap<K, Decimal> = rows.iter().map(|row| (key(row), exact(&row["cost"]))).collect();
    assert_eq!(shown.len(), rows.len(), "each is shown once");
    for (key, cost) in &shown {
        assert_eq!(*cost, expected.get(key).copied().unwrap_or_default(), "{key:?}");
    }
    assert!(expected.keys().all(|key| shown.contains_key(key)), "{shown:?} {expected:?}");
    assert_eq!(rows.iter().map(|row| cents(&row["cost"])).sum::<i64>(), total);
    for row in rows {
        let difference = exact(&row["cost"]) - Decimal::new(cents(&row["cost"]), 2);
        assert!(difference.abs() < Decimal::new(1, 2), "{row}");
    }
}

async fn agree(api: &Api, events: &[(Timestamp, Event)], period: &str, expected: &Expected) {
    let get = async |path: &str| api.get(&format!("{path}?{period}")).await.expect(200);
    let summary = get("/v1/usage/summary").await;
    let total = round(expected.total);
    assert_eq!((exact(&summary["total"]), cents(&summary["total"])), (expected.total, total), "{period}");
    assert_eq!(exact(&summary["unconfirmed"]), expected.unconfirmed);
    let shown = ["models", "compute", "storage", "orchestration"].map(|name| &summary[name]["cost"]);
    for (category, cost) in ["model", "compute", "storage", "orchestration"].iter().zip(shown) {
        assert_eq!(
            exact(cost),
            expected.by_category.get(category).copied().unwrap_or_default(),
            "{category}"
        );
    }
    assert_eq!(shown.iter().map(|cost| cents(cost)).sum::<i64>(), total);
    assert_eq!(summary["models"]["inputTokens"], expected.input_tokens);
    assert_eq!(summary["models"]["outputTokens"], expected.output_tokens);
    assert_eq!(
        summary["compute"]["minutes"],
        whole((Decimal::from(expected.compute_ms) / Decimal::from(60_000)).round())
    );
    let unrated = &summary["unrated"];
    let shown = [&unrated["calls"], &unrated["inputTokens"], &unrated["outputTokens"]];
    assert_eq!(shown.map(|number| number.as_i64().unwrap()), <[i64; 3]>::from(expected.unrated), "{period}");
    say_what_they_are_of(api, period, &summary).await;
    let usage = get("/v1/billing/usage").await;
    assert_eq!((exact(&usage["totalCost"]), cents(&usage["totalCost"])), (expected.total, total));
    assert_eq!((&usage["storage"], &usage["unrated"]), (&summary["storage"], unrated));
    assert_eq!((&usage["period"], &usage["unconfirmed"]), (&summary["period"], &summary["unconfirmed"]));
    let sessions = expected.sessions.len();
    assert_eq!((&usage["modelCalls"], &usage["sessions"]), (&expected.calls.into(), &sessions.into()));
    let models = get("/v1/billing/usage/models").await;
    let models = models["data"].as_array().unwrap();
    let of_models = cents(&summary["models"]["cost"]);
    breaks_down(models, |row| row["model"].as_str().map(str::to_owned), &expected.by_model, of_models);
    let calls = |row: &Value| row["calls"].as_i64().unwrap();
    assert_eq!(models.iter().map(calls).sum::<i64>(), expected.calls);
    let without_price = ["calls", "inputTokens", "outputTokens"]
        .map(|name| models.iter().map(|row| row["unrated"][name].as_i64().unwrap()).sum::<i64>());
    assert_eq!(without_price, <[i64; 3]>::from(expected.unrated), "{period}");
    let daily = get("/v1/billing/usage/daily").await;
    let daily = daily["data"].as_array().unwrap();
    breaks_down(daily, |row| row["date"].as_str().unwrap().to_owned(), &expected.by_day, total);
    for (by, name, of_each) in [
        ("users", "userId", &expected.by_user),
        ("sessions", "sessionId", &expected.by_session),
        ("agents", "agentId", &expected.by_agent),
    ] {
        let rows = all(api, &format!("/v1/billing/usage/{by}?{period}"), 7).await;
        assert!(rows.is_sorted_by(|one, other| exact(&one["cost"]) >= exact(&other["cost"])), "{by}");
        breaks_down(&rows, |row| row[name].as_str().unwrap().to_owned(), of_each, total);
        expected.lists(by, &rows, name);
    }
    let entries = all(api, &format!("/v1/billing/entries?{period}"), 100).await;
    assert_eq!(entries.len(), expected.entries);
    assert_eq!(entries.iter().map(|entry| exact(&entry["cost"])).sum::<Decimal>(), expected.total);
    for entry in &entries {
        opens_to_its_event(api, events, entry).await;
    }
}

/// Every view says which period it took, and what in it has no price.
async fn say_what_they_are_of(api: &Api, period: &str, summary: &Value) {
    for view in ["daily", "users", "sessions", "agents", "models"] {
        let view = api.get(&format!("/v1/billing/usage/{view}?{period}")).await.expect(200);
        assert_eq!(
            (&view["period"], &view["unrated"]),
            (&summary["period"], &summary["unrated"]),
            "{period}"
        );
    }
    let entries = api.get(&format!("/v1/billing/entries?{period}")).await.expect(200);
    assert_eq!(entries["period"], summary["period"]);
}

/// An entry is the charge that its name says of the event at its position.
async fn opens_to_its_event(api: &Api, events: &[(Timestamp, Event)], entry: &Value) {
    let (position, index) = entry["id"].as_str().unwrap().split_once('.').unwrap();
    let first = api.head().await - events.len() as i64 + 1;
    let (_, event) = &events[(position.parse::<i64>().unwrap() - first) as usize];
    let booked = event.booked().unwrap();
    let charge = &booked.booking.charges[index.parse::<usize>().unwrap()];
    assert_eq!(exact(&entry["cost"]), charge.cost);
    assert_eq!(entry["at"], charge.at.to_string());
    assert_eq!(entry["unit"], charge.unit.as_str());
    assert_eq!(entry["agentId"], booked.place.agent_id.to_string());
}

/// A moment near something that happened, or anywhere.
pub(super) fn moment(dice: &mut Dice, events: &[(Timestamp, Event)]) -> Timestamp {
    let near = events[dice.below(events.len() as u64) as usize].0.millis();
    let millis = match dice.below(4) {
        0 => near / 1_000 * 1_000,
        1 => near / 1_000 * 1_000 + 1_000,
        2 => near / DAY_MS * DAY_MS,
        _ => START_MS + dice.below(150 * 86_400) as i64 * 1_000,
    };
    Timestamp::from_millis(millis)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_views_agree_for_any_period_over_any_bookings() {
    for seed in 1..=4 {
        let mut dice = Dice::new(seed);
        let site = Site::new().await;
        let api = site.admin().await;
        let events = random_log(&mut dice, 150);
        write(&api, &events).await;
        let last = events.last().unwrap().0;
        for _ in 0..7 {
            let mut bounds = [moment(&mut dice, &events), moment(&mut dice, &events)];
            bounds.sort();
            let [from, until] = bounds;
            let expected = Expected::of(&events, |at| (from..until).contains(&at));
            agree(&api, &events, &format!("from={from}&until={until}"), &expected).await;
        }
        // Dates, the last of which is included; and all that there is.
        let (from, until) = (events[40].0.day(), events[100].0.day());
        let expected = Expected::of(&events, |at| (from.start()..until.next().start()).contains(&at));
        agree(&api, &events, &format!("from={from}&until={until}"), &expected).await;
        let expected = Expected::of(&events, |at| at <= last);
        agree(&api, &events, "from=2025-03-01&until=2025-12-31", &expected).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn entries_are_found_by_whose_they_are_and_what_was_used() {
    let mut dice = Dice::new(11);
    let api = Site::new().await.admin().await;
    let events = random_log(&mut dice, 200);
    write(&api, &events).await;
    let every = all(&api, "/v1/billing/entries?from=2025-03-01", 100).await;
    assert!(every.is_sorted_by(|one, other| {
        let place = |entry: &Value| {
            let (position, index) = entry["id"].as_str().unwrap().split_once('.').unwrap();
            (position.parse::<i64>().unwrap(), index.parse::<i64>().unwrap())
        };
        place(one) > place(other)
    }));
    for name in ["userId", "sessionId", "agentId", "taskId", "model", "category"] {
        for entry in every.iter().step_by(60) {
            let Some(wanted) = entry[name].as_str() else { continue };
            let encoded = wanted.replace(' ', "%20");
            let found = all(&api, &format!("/v1/billing/entries?from=2025-03-01&{name}={encoded}"), 9).await;
            let expected: Vec<_> = every.iter().filter(|entry| entry[name] == wanted).cloned().collect();
            assert_eq!(found, expected, "{name}={wanted}");
        }
    }
    // Two filters at once.
    let agent = every[0]["agentId"].as_str().unwrap();
    let path = format!("/v1/billing/entries?from=2025-03-01&agentId={agent}&category=compute");
    let found = all(&api, &path, 2).await;
    let both = |entry: &&Value| entry["agentId"] == agent && entry["category"] == "compute";
    assert_eq!(found, every.iter().filter(both).cloned().collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn periods_that_meet_add_up_wherever_they_meet() {
    let mut dice = Dice::new(5);
    let api = Site::new().await.admin().await;
    let events = random_log(&mut dice, 100);
    write(&api, &events).await;
    let total = async |period: String| {
        let summary = api.get(&format!("/v1/usage/summary?{period}")).await.expect(200);
        exact(&summary["total"])
    };
    let (from, until) = ("2025-03-01", "2025-12-31");
    let whole = total(format!("from={from}&until={until}")).await;
    assert!(!whole.is_zero());
    for _ in 0..40 {
        // Within a second in which something happened.
        let near = events[dice.below(events.len() as u64) as usize].0.millis();
        let meeting = Timestamp::from_millis(near / 1_000 * 1_000 + dice.below(1_000) as i64);
        let before = total(format!("from={from}&until={meeting}")).await;
        let after = total(format!("from={meeting}&until={until}")).await;
        assert_eq!(before + after, whole, "{meeting}");
    }
}
