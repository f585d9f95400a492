//! `/v1/billing/entries`: the charges themselves. A figure of any view is the sum of its entries.

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use serde_json::value::RawValue;
use theazo_domain::charge::{Category, Price};
use theazo_domain::money::Currency;
use theazo_domain::time::Timestamp;
use utoipa::ToSchema;
use utoipa::openapi::schema::{Object, ObjectBuilder, Type};

use super::period::{Asked, Default, Period};
use crate::http::Edge;
use crate::http::auth::Inspector;
use crate::http::error::Error;
use crate::http::page::{Listing, Page};
use crate::http::query::Query;
use crate::http::v1::money::{Amount, currency, exact, usd};
use crate::read::usage::{self, Filter, Place};

/// A charge.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Entry)]
pub(crate) struct Entry {
    /// The position of its event, and its place among the charges of that.
    #[schema(examples("1842.0"))]
    id: String,
    /// The position of its event: see `/v1/events/{position}`.
    position: i64,
    /// When it counts.
    #[schema(value_type = String, format = DateTime)]
    at: Timestamp,
    /// `usage`: something that was used. `rating`: the price of something that had none when it was used.
    /// `adjustment`: a credit or a correction.
    #[schema(schema_with = line)]
    line: String,
    #[schema(schema_with = category)]
    category: Category,
    /// Your own identifier of the user; left out once the person was erased.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, required = false)]
    user_id: Option<String>,
    session_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, required = false)]
    agent_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, required = false)]
    task_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, required = false)]
    model: Option<String>,
    /// How much, in its unit, exactly.
    #[schema(value_type = f64)]
    quantity: Box<RawValue>,
    /// What the quantity counts.
    #[schema(examples("input_token"))]
    unit: String,
    /// Left out where there was none: the usage is unrated.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = UnitPrice, required = false)]
    unit_price: Option<UnitPrice>,
    rate_card_version: String,
    cost: Amount,
    /// The entry that it corrects.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, required = false)]
    corrects: Option<String>,
    /// When that was used whose price it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, format = DateTime, required = false)]
    used_at: Option<Timestamp>,
}

/// A price of so many units.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct UnitPrice {
    /// In cents, rounded half-even.
    amount: i64,
    #[schema(schema_with = currency)]
    currency: Currency,
    /// In units of the currency, as a decimal that is not rounded.
    #[schema(examples("3.30"))]
    exact: String,
    /// For this many units.
    per: i64,
}

/// A page of charges, and the period that they are of.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Entries {
    /// The rows.
    data: Vec<Entry>,
    /// Whether there are more.
    has_more: bool,
    /// Leads to the next page; left out on the last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, required = false, examples("cur_01ARZ3NDEKTSV4RRFFQ69G50AV"))]
    next_cursor: Option<String>,
    period: Period,
}

/// Lists charges, newest first by the position of their event. Their exact costs add up to every figure of the views.
#[utoipa::path(get, operation_id = "listBillingEntries", path = "/v1/billing/entries", tag = "billing",
    params(
        ("from" = Option<String>, Query, description = "A date, or a time. Default: the start of the calendar month (UTC)"),
        ("until" = Option<String>, Query, description = "A date, which it includes, or a time, before which it ends. Default: now"),
        ("userId" = Option<String>, Query, description = "Of this user", min_length = 1, max_length = 256),
        ("sessionId" = Option<String>, Query, description = "Of this session"),
        ("agentId" = Option<String>, Query, description = "Of this agent"),
        ("taskId" = Option<String>, Query, description = "For this task"),
        ("model" = Option<String>, Query, description = "Of this model", min_length = 1, max_length = 256),
        ("category" = Option<String>, Query, description = "`model`, `compute`, `storage` or `orchestration`"),
        ("limit" = Option<i64>, Query, description = "Default: 25", minimum = 1, maximum = 100),
        ("cursor" = Option<String>, Query, description = "`nextCursor` of the page before"),
    ),
    responses((status = 200, body = Entries)))]
pub(crate) async fn list(
    State(edge): State<Edge>,
    inspector: Inspector,
    mut query: Query,
) -> Result<Json<Entries>, Error> {
    let now = edge.app.clock.now();
    let asked = Asked::read(&mut query, Default::Month, now);
    let filter = filter(&mut query);
    let tenant = inspector.tenant.id;
    let listing = Listing::read(&edge.app.keys.cursors, tenant, "/v1/billing/entries", &mut query);
    query.finish()?;
    let scope = edge.app.log.scope(tenant);
    let below = listing.below.map(unpack);
    let pin = usage::pin(scope, below.map(|place| place.position)).await?;
    let period = if below.is_some() { asked.again(pin) } else { asked.from(now, pin.at) };
    let rows = usage::entries(scope, &filter, period, below, listing.rows()).await?;
    let Page { data, has_more, next_cursor } = listing.page(rows, |row| pack(row.place), Entry::from);
    Ok(Json(Entries { data, has_more, next_cursor, period: period.into() }))
}

fn filter(query: &mut Query) -> Filter {
    Filter {
        user_id: query.text("userId"),
        session_id: query.parsed("sessionId", "an id such as ses_01ARZ3NDEKTSV4RRFFQ69G50AV"),
        agent_id: query.parsed("agentId", "an id such as agt_01ARZ3NDEKTSV4RRFFQ69G50AV"),
        task_id: query.parsed("taskId", "an id such as task_01ARZ3NDEKTSV4RRFFQ69G50AV"),
        model: query.text("model"),
        category: query.word("category", "model, compute, storage or orchestration"),
    }
}

/// Bits of a cursor's number for the place among an event's charges: a million.
const ENTRY_BITS: u32 = 20;

const fn pack(place: Place) -> i64 {
    (place.position << ENTRY_BITS) | place.entry
}

const fn unpack(packed: i64) -> Place {
    Place { position: packed >> ENTRY_BITS, entry: packed & ((1 << ENTRY_BITS) - 1) }
}

/// How an entry is named.
pub(crate) fn name(place: Place) -> String {
    format!("{}.{}", place.position, place.entry)
}

impl From<usage::Entry> for Entry {
    fn from(row: usage::Entry) -> Self {
        let quantity = RawValue::from_string(row.quantity.normalize().to_string());
        Self {
            id: name(row.place),
            position: row.place.position,
            at: row.at,
            line: row.line,
            category: row.category,
            user_id: row.external_id,
            session_id: row.session_id,
            agent_id: row.agent_id,
            task_id: row.task_id,
            model: row.model,
            quantity: quantity.expect("a decimal is written as a JSON number"),
            unit: row.unit,
            unit_price: row.price.map(UnitPrice::from),
            rate_card_version: row.rate_card,
            cost: usd(row.cost),
            corrects: row.corrects.map(name),
            used_at: row.used_at,
        }
    }
}

impl From<Price> for UnitPrice {
    fn from(Price { amount, per }: Price) -> Self {
        let money = theazo_domain::money::Money { exact: amount, currency: Currency::Usd };
        Self { amount: money.cents(), currency: Currency::Usd, exact: exact(amount), per }
    }
}

fn line() -> Object {
    let words = ["usage", "rating", "adjustment"];
    ObjectBuilder::new().schema_type(Type::String).enum_values(Some(words)).build()
}

fn category() -> Object {
    ObjectBuilder::new()
        .schema_type(Type::String)
        .enum_values(Some(Category::ALL.map(Category::as_str)))
        .build()
}
