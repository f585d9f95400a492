//! `/v1/sessions/:id/limits` and `/usage`: what a session may use, and what it has used.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use rust_decimal::prelude::ToPrimitive;
use rust_decimal::{Decimal, RoundingStrategy};
use serde::{Deserialize, Deserializer, Serialize};
use theazo_domain::Command;
use theazo_domain::agent::compute::in_minutes;
use theazo_domain::id::SessionId;
use theazo_domain::money::Currency;
use theazo_domain::session::{self, CostLimit, CostPeriod, LimitsPatch};
use utoipa::ToSchema;
use utoipa::openapi::schema::{Object, ObjectBuilder, Type};

use super::money::{Amount, currency, exact, number, usd};
use super::sessions::missing;
use super::usage::totals::Unrated;
use crate::database;
use crate::http::Edge;
use crate::http::auth::{Inspector, Reader, Writer};
use crate::http::body::{Input, Submitted, given, optional_whole, whole};
use crate::http::error::Error;
use crate::http::idempotency::{act, refused, success};
use crate::http::query::Id;
use crate::log::{Answering, Submission};
use crate::read::{self, session::Usage};

const MINUTE_MS: i64 = 60_000;

/// The most that a session may cost in a period.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct MaxCost {
    /// In cents.
    #[serde(deserialize_with = "whole")]
    #[schema(minimum = 0, maximum = 1_000_000_000_000_000_i64)]
    amount: i64,
    #[schema(schema_with = currency)]
    currency: Currency,
    /// Over which it counts: the session's life, or the calendar day or month in UTC.
    #[schema(schema_with = period)]
    period: CostPeriod,
}

/// The limits of a session. What is left out is not limited.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Limits {
    #[serde(skip_serializing_if = "Option::is_none")]
    max_cost: Option<MaxCost>,
    /// Agents at a time.
    #[serde(default, deserialize_with = "optional_whole", skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 1_000_000)]
    max_agents: Option<i64>,
    /// Minutes of compute before the session is paused.
    #[serde(default, deserialize_with = "optional_whole", skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 1_000_000_000)]
    max_compute_minutes: Option<i64>,
}

/// A change of limits: what is left out stays, null lifts the limit.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct NewLimits {
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<MaxCost>)]
    max_cost: Option<Option<MaxCost>>,
    #[serde(default, deserialize_with = "given_whole")]
    #[schema(value_type = Option<i64>, minimum = 1, maximum = 1_000_000)]
    max_agents: Option<Option<i64>>,
    #[serde(default, deserialize_with = "given_whole")]
    #[schema(value_type = Option<i64>, minimum = 1, maximum = 1_000_000_000)]
    max_compute_minutes: Option<Option<i64>>,
}

impl Input for NewLimits {}

/// The limits of a session that are set, and how far each is used.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct LimitsInUse {
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = CostInUse, required = false)]
    max_cost: Option<CostInUse>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = CountInUse, required = false)]
    max_agents: Option<CountInUse>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = MinutesInUse, required = false)]
    max_compute_minutes: Option<MinutesInUse>,
}

/// A cost limit, and how far it is used.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct CostInUse {
    limit: CostLimitShown,
    used: Amount,
    remaining: Amount,
    /// Of the limit, with two places.
    percentage: f64,
}

/// A cost limit as it is shown.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = CostLimit)]
pub(crate) struct CostLimitShown {
    /// In cents.
    amount: i64,
    #[schema(schema_with = currency)]
    currency: Currency,
    #[schema(schema_with = period)]
    period: CostPeriod,
    /// In units of the currency.
    exact: String,
}

/// A limit of a number, and how far it is used.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct CountInUse {
    limit: i64,
    used: i64,
    remaining: i64,
    /// Of the limit, with two places.
    percentage: f64,
}

/// A limit of minutes, and how far it is used.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct MinutesInUse {
    limit: i64,
    /// With six places.
    #[schema(value_type = f64)]
    used: serde_json::Number,
    /// With six places.
    #[schema(value_type = f64)]
    remaining: serde_json::Number,
    /// Of the limit, with two places.
    percentage: f64,
}

/// What a session has used since it began.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct SessionUsage {
    /// Settled charges.
    cost: Amount,
    /// The worst case of the work that is under way.
    reserved: Amount,
    /// Whole minutes, rounded half-even.
    compute_minutes: i64,
    /// Agents that are neither terminated nor failed.
    active_agents: i64,
    total_agents_created: i64,
    model_calls: i64,
    /// Charges of lost calls, which count against the limits until they are settled.
    unconfirmed: Amount,
    /// What was used of models that have no price yet; left out where there is nothing of that.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Unrated, required = false)]
    unrated: Option<Unrated>,
}

/// The limits of a session, and how far each is used.
#[utoipa::path(get, operation_id = "getSessionLimits", path = "/v1/sessions/{id}/limits", tag = "sessions",
    params(("id" = String, Path, description = "The session")),
    responses((status = 200, body = LimitsInUse)))]
pub(crate) async fn get(
    State(edge): State<Edge>,
    reader: Reader,
    Id(id): Id<SessionId>,
) -> Result<Json<LimitsInUse>, Error> {
    let found = read::session::usage(edge.app.log.scope(reader.tenant.id), id, edge.app.clock.now()).await?;
    found.map(|usage| Json((&usage).into())).ok_or_else(|| missing(id))
}

/// Changes limits of a session: what is left out stays, null lifts the limit.
#[utoipa::path(patch, operation_id = "changeSessionLimits", path = "/v1/sessions/{id}/limits", tag = "sessions", request_body = NewLimits,
    params(("id" = String, Path, description = "The session")),
    responses((status = 200, body = LimitsInUse)))]
pub(crate) async fn change(
    State(edge): State<Edge>,
    writer: Writer,
    Id(id): Id<SessionId>,
    Submitted { body, request }: Submitted<NewLimits>,
) -> Result<Response, Error> {
    let command = Command::Session(id, session::Command::ChangeLimits(body.into()));
    let submission =
        Submission { command, provenance: writer.provenance(), contents: vec![], sealed: vec![] };
    let (request_id, now) = (writer.request_id, edge.app.clock.now());
    let answering: Answering = Box::new(move |scope, verdict| {
        Box::pin(async move {
            if let Err(refusal) = verdict {
                return Ok(refused(refusal, request_id));
            }
            let usage = read::session::usage(scope, id, now).await?;
            let usage = usage.ok_or_else(|| database::Error::Row(format!("{id} has no usage")))?;
            Ok(success(StatusCode::OK, &LimitsInUse::from(&usage)))
        })
    });
    act(&edge, &writer, &request, submission, answering).await
}

/// What a session has used since it began.
#[utoipa::path(get, operation_id = "getSessionUsage", path = "/v1/sessions/{id}/usage", tag = "sessions",
    params(("id" = String, Path, description = "The session")),
    responses((status = 200, body = SessionUsage)))]
pub(crate) async fn usage(
    State(edge): State<Edge>,
    inspector: Inspector,
    Id(id): Id<SessionId>,
) -> Result<Json<SessionUsage>, Error> {
    let found =
        read::session::usage(edge.app.log.scope(inspector.tenant.id), id, edge.app.clock.now()).await?;
    found.map(|usage| Json((&usage).into())).ok_or_else(|| missing(id))
}

impl Limits {
    /// Whether nothing is limited.
    pub(crate) fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl From<Limits> for session::Limits {
    fn from(limits: Limits) -> Self {
        let Limits { max_cost, max_agents, max_compute_minutes } = limits;
        Self { max_cost: max_cost.map(Into::into), max_agents, max_compute_minutes }
    }
}

impl From<session::Limits> for Limits {
    fn from(limits: session::Limits) -> Self {
        let session::Limits { max_cost, max_agents, max_compute_minutes } = limits;
        let shown = |CostLimit { amount, currency, period }| MaxCost { amount, currency, period };
        Self { max_cost: max_cost.map(shown), max_agents, max_compute_minutes }
    }
}

impl From<MaxCost> for CostLimit {
    fn from(MaxCost { amount, currency, period }: MaxCost) -> Self {
        Self { amount, currency, period }
    }
}

impl From<NewLimits> for LimitsPatch {
    fn from(limits: NewLimits) -> Self {
        Self {
            max_cost: limits.max_cost.map(|limit| limit.map(Into::into)),
            max_agents: limits.max_agents,
            max_compute_minutes: limits.max_compute_minutes,
        }
    }
}

impl From<&Usage> for LimitsInUse {
    fn from(usage: &Usage) -> Self {
        let limits = &usage.limits;
        Self {
            max_cost: limits.max_cost.map(|limit| cost_in_use(limit, usage)),
            max_agents: limits.max_agents.map(|limit| count_in_use(limit, usage.active_agents)),
            max_compute_minutes: limits
                .max_compute_minutes
                .map(|limit| minutes_in_use(limit, usage.compute_ms)),
        }
    }
}

impl From<&Usage> for SessionUsage {
    fn from(usage: &Usage) -> Self {
        let unrated = Unrated {
            calls: usage.unrated_calls,
            input_tokens: usage.unrated_input_tokens,
            output_tokens: usage.unrated_output_tokens,
        };
        Self {
            unrated: (unrated.calls > 0).then_some(unrated),
            cost: usd(usage.cost),
            reserved: usd(usage.reserved),
            compute_minutes: minutes(usage.compute_ms),
            active_agents: usage.active_agents,
            total_agents_created: usage.agents_created,
            model_calls: usage.model_calls,
            unconfirmed: usd(usage.unconfirmed),
        }
    }
}

/// What counts against the limit: settled and unconfirmed charges of its period, and what is reserved for work under
/// way, which counts in every period that it touches.
fn cost_in_use(CostLimit { amount, currency, period }: CostLimit, usage: &Usage) -> CostInUse {
    let limit = Decimal::new(amount, 2);
    let spent = match period {
        CostPeriod::Session => usage.cost + usage.unconfirmed,
        CostPeriod::Day => usage.spent_today,
        CostPeriod::Month => usage.spent_this_month,
    };
    let used = spent + usage.reserved;
    CostInUse {
        limit: CostLimitShown { amount, currency, period, exact: exact(limit) },
        used: usd(used),
        remaining: usd((limit - used).max(Decimal::ZERO)),
        percentage: percentage(used, limit),
    }
}

fn count_in_use(limit: i64, used: i64) -> CountInUse {
    let percentage = percentage(used.into(), limit.into());
    CountInUse { limit, used, remaining: limit.saturating_sub(used).max(0), percentage }
}

/// Minutes of compute, and how much of the limit that is to the millisecond.
fn minutes_in_use(limit: i64, compute_ms: i64) -> MinutesInUse {
    let exact = Decimal::from(compute_ms) / Decimal::from(MINUTE_MS);
    let used = in_minutes(compute_ms);
    let remaining = (Decimal::from(limit) - used).max(Decimal::ZERO);
    let percentage = percentage(exact, limit.into());
    MinutesInUse { limit, used: number(used), remaining: number(remaining), percentage }
}

/// How much of a limit is used. A limit of nothing is used up from the start.
pub(super) fn percentage(used: Decimal, limit: Decimal) -> f64 {
    let hundred = Decimal::ONE_HUNDRED;
    let share = used.checked_mul(hundred).and_then(|used| used.checked_div(limit)).unwrap_or(hundred);
    share.round_dp_with_strategy(2, RoundingStrategy::MidpointNearestEven).to_f64().unwrap_or(100.0)
}

/// Whole minutes, rounded half-even.
pub(crate) fn minutes(millis: i64) -> i64 {
    (Decimal::from(millis) / Decimal::from(MINUTE_MS)).round().to_i64().unwrap_or(i64::MAX)
}

fn given_whole<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Option<i64>>, D::Error> {
    optional_whole(from).map(Some)
}

/// The schema of a period.
fn period() -> Object {
    ObjectBuilder::new().schema_type(Type::String).enum_values(Some(["session", "day", "month"])).build()
}
