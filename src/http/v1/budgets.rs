//! `/v1/billing/budgets`: what all work of an end user, or of the organization, may cost in each day or month.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use rust_decimal::Decimal;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;
use theazo_domain::account::resets_at;
use theazo_domain::budget::{self, Action, Scope};
use theazo_domain::command::Person;
use theazo_domain::id::UserId;
use theazo_domain::money::Currency;
use theazo_domain::session::{CostLimit, CostPeriod};
use theazo_domain::time::Timestamp;
use theazo_domain::{Command, organization, user};
use utoipa::ToSchema;
use utoipa::openapi::schema::{Object, ObjectBuilder, Type};

use super::limits::percentage;
use super::money::{Amount, currency, usd};
use crate::database;
use crate::http::Edge;
use crate::http::auth::{Inspector, Writer};
use crate::http::body::{Input, Submitted, optional_whole, whole};
use crate::http::error::{Error, Field};
use crate::http::idempotency::{act, judged, success};
use crate::http::page::{Listing, Page};
use crate::http::query::Query;
use crate::log::{Answer, Answering, Submission};
use crate::read;

/// A budget to set, or to remove.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct NewBudget {
    /// Your application's user identifier. Left out, it is the budget of the whole organization.
    #[schema(min_length = 1, max_length = 256)]
    user_id: Option<String>,
    /// In cents; null removes the budget.
    #[serde(default, deserialize_with = "optional_whole")]
    #[schema(required = true, minimum = 0, maximum = 1_000_000_000_000_000_i64)]
    amount: Option<i64>,
    /// Needed where there is an amount.
    #[schema(schema_with = optional_currency)]
    currency: Option<Currency>,
    /// Over which it counts: the calendar day or month in UTC. Needed where there is an amount.
    #[schema(schema_with = optional_period)]
    period: Option<CostPeriod>,
    /// Shares in percent, each once, whose crossing is an event. Default: 50, 80 and 100.
    #[schema(value_type = Option<Vec<i64>>, min_items = 0, max_items = 10)]
    thresholds: Option<Vec<Percent>>,
    /// `block` lets no work start that does not fit; `notify` tells it only. Default: `block`.
    #[schema(schema_with = optional_action)]
    action: Option<Action>,
}

/// A share, from 1 to 1,000 percent: [`NewBudget::check`] sees to it.
#[derive(Debug)]
pub(crate) struct Percent(u16);

/// The shares whose crossing is told where a budget names none.
const THRESHOLDS: [u16; 3] = [50, 80, 100];

/// A budget, and how far it is used in the present period.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Budget {
    #[schema(schema_with = scope)]
    scope: Scope,
    /// Your own identifier of the user, where it is a user's; left out once the person was erased.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, required = false)]
    user_id: Option<String>,
    limit: Amount,
    #[schema(schema_with = period)]
    period: CostPeriod,
    /// Percent, in rising order.
    thresholds: Vec<u16>,
    #[schema(schema_with = action)]
    action: Action,
    /// Settled charges, and unconfirmed ones of lost calls.
    used: Amount,
    /// The worst case of the work that is under way.
    reserved: Amount,
    /// What is neither used nor reserved.
    remaining: Amount,
    /// The used part of the limit, with two places.
    percentage: f64,
    /// When the period ends.
    #[schema(value_type = String, format = DateTime)]
    resets_at: Option<Timestamp>,
    #[schema(value_type = String, format = DateTime)]
    updated_at: Timestamp,
}

/// That there is no such budget any more.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct RemovedBudget {
    #[schema(schema_with = scope)]
    scope: Scope,
    /// Your own identifier of the user, where it was a user's.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, required = false)]
    user_id: Option<String>,
    #[schema(schema_with = nothing)]
    limit: (),
}

/// A budget as it is now.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub(crate) enum BudgetNow {
    Set(Budget),
    Removed(RemovedBudget),
}

impl Input for NewBudget {
    fn check(value: &Value, fields: &mut Vec<Field>) {
        if value.get("amount").is_some_and(|amount| !amount.is_null()) {
            for name in ["currency", "period"] {
                if value.get(name).is_none_or(Value::is_null) {
                    fields.push(Field::new(name, "required", "is required where there is an amount"));
                }
            }
        }
        let thresholds = value.get("thresholds").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        let mut seen = vec![];
        let numbers = thresholds.iter().enumerate().filter(|(_, threshold)| threshold.is_number());
        for (index, threshold) in numbers {
            let path = format!("thresholds.{index}");
            match percent(threshold) {
                None => fields.push(Field::new(path, "range", "must be a whole number from 1 to 1000")),
                Some(percent) if seen.contains(&percent) => {
                    fields.push(Field::new(path, "unique", "must not be given more than once"));
                }
                Some(percent) => seen.push(percent),
            }
        }
    }
}

/// Sets the budget of a user or of the organization, or removes it.
#[utoipa::path(put, operation_id = "setBudget", path = "/v1/billing/budgets", tag = "billing", request_body = NewBudget,
    responses((status = 200, body = BudgetNow)))]
pub(crate) async fn set(
    State(edge): State<Edge>,
    writer: Writer,
    Submitted { body, request }: Submitted<NewBudget>,
) -> Result<Response, Error> {
    let user_id = body.user_id.clone();
    let organization_id = writer.tenant.organization_id;
    let command = match user_id.clone() {
        None => Command::Organization(organization_id, organization::Command::SetBudget(body.into())),
        Some(external_id) => {
            let person = Person { external_id, new_id: UserId::from_ulid(edge.new_ulid()) };
            Command::User(user::Command::SetBudget { person, budget: body.into() })
        }
    };
    let provenance = writer.provenance();
    let submission = Submission { command, provenance, contents: vec![], sealed: vec![] };
    let answering = shown(user_id, writer.request_id, edge.app.clock.now());
    act(&edge, &writer, &request, submission, answering).await
}

/// Lists the budgets: the organization's first, then users', those set last first.
#[utoipa::path(get, operation_id = "listBudgets", path = "/v1/billing/budgets", tag = "billing",
    params(
        ("limit" = Option<i64>, Query, description = "Default: 25", minimum = 1, maximum = 100),
        ("cursor" = Option<String>, Query, description = "`nextCursor` of the page before"),
    ),
    responses((status = 200, body = Page<Budget>)))]
pub(crate) async fn list(
    State(edge): State<Edge>,
    inspector: Inspector,
    mut query: Query,
) -> Result<Json<Page<Budget>>, Error> {
    let (tenant, now) = (inspector.tenant.id, edge.app.clock.now());
    let listing = Listing::read(&edge.app.keys.cursors, tenant, "/v1/billing/budgets", &mut query);
    query.finish()?;
    let scope = edge.app.log.scope(tenant);
    let rows = read::budget::list(scope, listing.below, listing.rows(), now).await?;
    Ok(Json(listing.page(rows, |row| row.rank, |row| Budget::used_by(row, now))))
}

/// The answer to a change: the budget as it stands.
fn shown(user_id: Option<String>, request_id: theazo_domain::id::RequestId, now: Timestamp) -> Answering {
    let user_id = std::sync::Arc::new(user_id);
    Box::new(move |scope, verdict| {
        let user_id = std::sync::Arc::clone(&user_id);
        Box::pin(async move {
            if let Some(answer) = judged(verdict, request_id) {
                return Ok(answer);
            }
            let owner = verdict.as_ref().map(|accepted| accepted.subject.to_string()).unwrap_or_default();
            let found = read::budget::get(scope, &owner, now).await?;
            answer(found, (*user_id).clone(), now)
        })
    })
}

fn answer(
    found: Option<read::budget::Budget>,
    user_id: Option<String>,
    now: Timestamp,
) -> Result<Answer, database::Error> {
    let scope = if user_id.is_some() { Scope::User } else { Scope::Organization };
    let removed = BudgetNow::Removed(RemovedBudget { scope, user_id, limit: () });
    let budget = found.map_or(removed, |row| BudgetNow::Set(Budget::used_by(row, now)));
    Ok(success(StatusCode::OK, &budget))
}

impl Budget {
    fn used_by(row: read::budget::Budget, now: Timestamp) -> Self {
        let limit = Decimal::new(row.amount, 2);
        Self {
            scope: row.scope,
            user_id: row.user_id,
            limit: usd(limit),
            period: row.period,
            thresholds: row.thresholds,
            action: row.action,
            used: usd(row.spent),
            reserved: usd(row.reserved),
            remaining: usd((limit - row.spent - row.reserved).max(Decimal::ZERO)),
            percentage: percentage(row.spent, limit),
            resets_at: resets_at(row.period, now),
            updated_at: row.updated_at,
        }
    }
}

impl From<NewBudget> for Option<budget::Budget> {
    fn from(new: NewBudget) -> Self {
        let amount = new.amount?;
        let currency = new.currency.unwrap_or(Currency::Usd);
        let limit = CostLimit { amount, currency, period: new.period.unwrap_or(CostPeriod::Month) };
        let named =
            new.thresholds.map(|thresholds| thresholds.into_iter().map(|Percent(share)| share).collect());
        let mut thresholds: Vec<u16> = named.unwrap_or_else(|| THRESHOLDS.to_vec());
        thresholds.sort_unstable();
        Some(budget::Budget { limit, thresholds, action: new.action.unwrap_or_default() })
    }
}

impl<'de> Deserialize<'de> for Percent {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let share = u16::try_from(whole(deserializer)?);
        share.map(Self).map_err(|_| serde::de::Error::custom("expected a percentage"))
    }
}

/// A share in percent, however JSON writes the number.
fn percent(value: &Value) -> Option<i64> {
    whole(value).ok().filter(|percent| (1..=1_000).contains(percent))
}

/// The schema of a budget's period.
fn period() -> Object {
    ObjectBuilder::new().schema_type(Type::String).enum_values(Some(["day", "month"])).build()
}

/// The schema of an action.
fn action() -> Object {
    let words = [Action::Block, Action::Notify].map(Action::as_str);
    ObjectBuilder::new().schema_type(Type::String).enum_values(Some(words)).build()
}

/// The schema of a budget's currency as it is set: null is as good as left out.
fn optional_currency() -> Object {
    or_null(currency())
}

/// The schema of a budget's period as it is set.
fn optional_period() -> Object {
    or_null(period())
}

/// The schema of an action as it is set.
fn optional_action() -> Object {
    or_null(action())
}

/// The schema of words, and of null.
fn or_null(mut words: Object) -> Object {
    words.schema_type = [Type::String, Type::Null].into_iter().collect();
    words.enum_values.get_or_insert_default().push(Value::Null);
    words
}

/// The schema of null.
fn nothing() -> Object {
    ObjectBuilder::new().schema_type(Type::Null).build()
}

/// The schema of a scope.
fn scope() -> Object {
    let words = [Scope::Organization, Scope::User].map(Scope::as_str);
    ObjectBuilder::new().schema_type(Type::String).enum_values(Some(words)).build()
}
