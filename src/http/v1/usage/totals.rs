//! `/v1/usage/summary`, `/v1/billing/usage`, `/v1/billing/usage/daily` and `/v1/billing/usage/models`.

use std::collections::HashMap;

use axum::Json;
use axum::extract::State;
use rust_decimal::Decimal;
use rust_decimal::prelude::ToPrimitive;
use serde::Serialize;
use theazo_domain::allotment::allot;
use theazo_domain::charge::Category;
use theazo_domain::time::{DAY_MS, Day};
use theazo_projections::ledger::Measures;
use utoipa::ToSchema;

use super::period::{Asked, Default, Period};
use crate::config;
use crate::http::Edge;
use crate::http::auth::Inspector;
use crate::http::error::Error;
use crate::http::query::Query;
use crate::http::v1::limits::minutes;
use crate::http::v1::money::{Amount, allotted, usd};
use crate::read::usage::{self, Total};

/// What was used in a period, and what it costs.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct UsageSummary {
    period: Period,
    compute: Minutes,
    models: Tokens,
    storage: Storage,
    orchestration: Minutes,
    /// The sum of the four.
    total: Amount,
    unrated: Unrated,
    /// Charges of calls whose answer was lost: beside the total, until they are settled.
    unconfirmed: Amount,
}

/// Time that was used.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Minutes {
    /// Whole minutes, rounded half-even.
    minutes: i64,
    cost: Amount,
}

/// What models used.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Tokens {
    /// Those that were read from or written to a cache too.
    input_tokens: i64,
    output_tokens: i64,
    /// Of the input, those that were read from a cache.
    cache_read_tokens: i64,
    /// Of the input, those that were written to a cache.
    cache_write_tokens: i64,
    cost: Amount,
}

/// What was kept.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Storage {
    /// 10^9 bytes, on average over the period.
    gb: f64,
    cost: Amount,
}

/// What models used that have no price yet: it costs nothing so far, and will.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Unrated {
    pub(crate) calls: i64,
    /// Those that were read from or written to a cache too.
    pub(crate) input_tokens: i64,
    pub(crate) output_tokens: i64,
}

/// What was used in a period, for a bill.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct BillingUsage {
    period: Period,
    total_cost: Amount,
    /// Whole minutes, rounded half-even.
    compute_minutes: i64,
    model_calls: i64,
    /// Sessions that were created in the period.
    sessions: i64,
    /// Agents that were created in the period.
    agents: i64,
    storage: Storage,
    unrated: Unrated,
    /// Charges of calls whose answer was lost: beside the total, until they are settled.
    unconfirmed: Amount,
}

/// A list that is not paged.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct All<T> {
    data: Vec<T>,
    period: Period,
    unrated: Unrated,
}

/// What a day costs.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct DailyCost {
    /// The day, in UTC.
    #[schema(value_type = String, format = Date, examples("2025-05-01"))]
    date: Day,
    cost: Amount,
}

/// What a model used.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ModelCost {
    /// Its id at its vendor's; left out of adjustments that name none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, required = false)]
    model: Option<String>,
    calls: i64,
    /// Those that were read from or written to a cache too.
    input_tokens: i64,
    output_tokens: i64,
    /// Of the input, those that were read from a cache.
    cache_read_tokens: i64,
    /// Of the input, those that were written to a cache.
    cache_write_tokens: i64,
    cost: Amount,
    /// What of all that has no price yet.
    unrated: Unrated,
}

/// What was used in a period, by category, and what it costs.
#[utoipa::path(get, operation_id = "getUsageSummary", path = "/v1/usage/summary", tag = "usage",
    params(
        ("from" = Option<String>, Query, description = "A date, or a time. Default: the start of the calendar month (UTC)"),
        ("until" = Option<String>, Query, description = "A date, which it includes, or a time, before which it ends. Default: now"),
    ),
    responses((status = 200, body = UsageSummary)))]
pub(crate) async fn summary(
    State(edge): State<Edge>,
    inspector: Inspector,
    query: Query,
) -> Result<Json<UsageSummary>, Error> {
    let (period, bill) = bill(&edge, &inspector, query).await?;
    let all = bill.all();
    Ok(Json(UsageSummary {
        period: period.into(),
        compute: Minutes { minutes: minutes(all.compute_ms), cost: bill.cost(Category::Compute) },
        models: Tokens {
            input_tokens: input(&all),
            output_tokens: all.output_tokens,
            cache_read_tokens: all.cache_read_tokens,
            cache_write_tokens: all.cache_write_tokens,
            cost: bill.cost(Category::Model),
        },
        storage: bill.storage(period),
        orchestration: Minutes {
            minutes: minutes(all.orchestration_ms),
            cost: bill.cost(Category::Orchestration),
        },
        total: usd(all.cost),
        unrated: unrated(&all),
        unconfirmed: usd(all.unconfirmed),
    }))
}

/// What was used in a period, for a bill: costs, minutes, calls, and what was created.
#[utoipa::path(get, operation_id = "getBillingUsage", path = "/v1/billing/usage", tag = "billing",
    params(
        ("from" = Option<String>, Query, description = "A date, or a time. Default: the start of the calendar month (UTC)"),
        ("until" = Option<String>, Query, description = "A date, which it includes, or a time, before which it ends. Default: now"),
    ),
    responses((status = 200, body = BillingUsage)))]
pub(crate) async fn billing(
    State(edge): State<Edge>,
    inspector: Inspector,
    query: Query,
) -> Result<Json<BillingUsage>, Error> {
    let (period, bill) = bill(&edge, &inspector, query).await?;
    let all = bill.all();
    Ok(Json(BillingUsage {
        period: period.into(),
        total_cost: usd(all.cost),
        compute_minutes: minutes(all.compute_ms),
        model_calls: all.calls,
        sessions: all.sessions,
        agents: all.agents,
        storage: bill.storage(period),
        unrated: unrated(&all),
        unconfirmed: usd(all.unconfirmed),
    }))
}

/// What each day of a period costs, from the first to the last, those that cost nothing too.
#[utoipa::path(get, operation_id = "listDailyCosts", path = "/v1/billing/usage/daily", tag = "billing",
    params(
        ("from" = Option<String>, Query, description = "A date, or a time. Default: the day 30 days ago (UTC)"),
        ("until" = Option<String>, Query, description = "A date, which it includes, or a time, before which it ends. Default: now"),
    ),
    responses((status = 200, body = All<DailyCost>)))]
pub(crate) async fn daily(
    State(edge): State<Edge>,
    inspector: Inspector,
    mut query: Query,
) -> Result<Json<All<DailyCost>>, Error> {
    let now = edge.app.clock.now();
    let asked = Asked::read(&mut query, Default::ThirtyDays, now);
    let number = days(asked.from(now, now)).len();
    if number > config::DAYS_LISTED {
        let message = format!("the period must not have more than {} days", config::DAYS_LISTED);
        query.wrong("from", "range", &message);
    }
    query.finish()?;
    let scope = edge.app.log.scope(inspector.tenant.id);
    let pin = usage::pin(scope, None).await?;
    let period = asked.from(now, pin.at);
    let (daily, unrated) =
        tokio::try_join!(usage::daily(scope, period, pin), usage::unrated(scope, period, pin))?;
    let costs: HashMap<Day, Decimal> = daily.into_iter().collect();
    let cost = |day: Day| (day, costs.get(&day).copied().unwrap_or_default());
    let parts: Vec<(Day, Decimal)> = days(period).into_iter().map(cost).collect();
    let shown = |(date, cost)| DailyCost { date, cost };
    let data = with_cents(sum_in_cents(&parts), parts).into_iter().map(shown).collect();
    Ok(Json(All { data, period: period.into(), unrated: unrated.into() }))
}

/// What each model used in a period, the dearest first. Together they cost what the summary says of models.
#[utoipa::path(get, operation_id = "listModelCosts", path = "/v1/billing/usage/models", tag = "billing",
    params(
        ("from" = Option<String>, Query, description = "A date, or a time. Default: the start of the calendar month (UTC)"),
        ("until" = Option<String>, Query, description = "A date, which it includes, or a time, before which it ends. Default: now"),
    ),
    responses((status = 200, body = All<ModelCost>)))]
pub(crate) async fn models(
    State(edge): State<Edge>,
    inspector: Inspector,
    query: Query,
) -> Result<Json<All<ModelCost>>, Error> {
    let (period, bill) = bill(&edge, &inspector, query).await?;
    let unrated_in_all = unrated(&bill.all());
    let cents = bill.cents(Category::Model);
    let of_models = bill.totals.into_iter().filter(|total| total.category == Some(Category::Model));
    let mut rows: Vec<Total> = of_models.filter(|total| total.sums != Measures::default()).collect();
    rows.sort_by(|one, other| other.sums.cost.cmp(&one.sums.cost).then_with(|| one.model.cmp(&other.model)));
    let parts: Vec<_> = rows.iter().map(|total| (total.model.clone(), total.sums.cost)).collect();
    let costs = with_cents(cents, parts);
    let shown = |(total, (model, cost)): (Total, _)| ModelCost {
        model,
        calls: total.sums.calls,
        input_tokens: input(&total.sums),
        output_tokens: total.sums.output_tokens,
        cache_read_tokens: total.sums.cache_read_tokens,
        cache_write_tokens: total.sums.cache_write_tokens,
        cost,
        unrated: unrated(&total.sums),
    };
    let data = rows.into_iter().zip(costs).map(shown).collect();
    Ok(Json(All { data, period: period.into(), unrated: unrated_in_all }))
}

/// The totals of a period.
struct Bill {
    totals: Vec<Total>,
}

async fn bill(edge: &Edge, inspector: &Inspector, mut query: Query) -> Result<(usage::Period, Bill), Error> {
    let now = edge.app.clock.now();
    let asked = Asked::read(&mut query, Default::Month, now);
    query.finish()?;
    let scope = edge.app.log.scope(inspector.tenant.id);
    let pin = usage::pin(scope, None).await?;
    let period = asked.from(now, pin.at);
    Ok((period, Bill { totals: usage::totals(scope, period, pin).await? }))
}

impl Bill {
    fn all(&self) -> Measures {
        all(&self.totals)
    }

    fn of(&self, category: Category) -> Decimal {
        let of_it = self.totals.iter().filter(|total| total.category == Some(category));
        of_it.map(|total| total.sums.cost).sum()
    }

    /// The cents of a category: the four add up to the total.
    fn cents(&self, category: Category) -> i64 {
        let parts = Category::ALL.map(|category| (category, self.of(category)));
        let cents = allot(sum_in_cents(&parts), &parts);
        let found = parts.iter().zip(cents).find(|((one, _), _)| *one == category);
        found.map_or(0, |(_, cents)| cents)
    }

    fn cost(&self, category: Category) -> Amount {
        allotted(self.cents(category), self.of(category))
    }

    fn storage(&self, period: usage::Period) -> Storage {
        let hours = Decimal::from(period.until.millis() - period.from.millis()) / Decimal::from(DAY_MS / 24);
        let gb = self.all().gb_hours.checked_div(hours).unwrap_or_default().round_dp(9);
        Storage { gb: gb.to_f64().unwrap_or_default(), cost: self.cost(Category::Storage) }
    }
}

/// The days of a period, one more than may be listed at most.
fn days(period: usage::Period) -> Vec<Day> {
    let mut day = period.from.day();
    let mut days = vec![];
    while period.from < period.until && day.start() < period.until && days.len() <= config::DAYS_LISTED {
        days.push(day);
        let next = day.next();
        if next == day {
            break;
        }
        day = next;
    }
    days
}

pub(super) fn sum_in_cents<K>(parts: &[(K, Decimal)]) -> i64 {
    let exact = parts.iter().map(|(_, cost)| *cost).sum();
    theazo_domain::money::Money { exact, currency: theazo_domain::money::Currency::Usd }.cents()
}

/// The parts of so many cents with theirs.
fn with_cents<K: Ord>(cents: i64, parts: Vec<(K, Decimal)>) -> Vec<(K, Amount)> {
    let shares = allot(cents, &parts);
    parts.into_iter().zip(shares).map(|((key, exact), cents)| (key, allotted(cents, exact))).collect()
}

fn input(sums: &Measures) -> i64 {
    sums.input_tokens + sums.cache_read_tokens + sums.cache_write_tokens
}

fn all(totals: &[Total]) -> Measures {
    totals.iter().fold(Measures::default(), |sum, total| sum.plus(&total.sums))
}

impl From<usage::Unrated> for Unrated {
    fn from(usage::Unrated { calls, input_tokens, output_tokens }: usage::Unrated) -> Self {
        Self { calls, input_tokens, output_tokens }
    }
}

fn unrated(sums: &Measures) -> Unrated {
    Unrated {
        calls: sums.unrated_calls,
        input_tokens: sums.unrated_input_tokens,
        output_tokens: sums.unrated_output_tokens,
    }
}
