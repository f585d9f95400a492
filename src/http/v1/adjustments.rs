//! `/v1/billing/adjustments`: corrections of charges.

use std::collections::HashMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use theazo_domain::billing::{self, Adjusted, Adjusting};
use theazo_domain::charge::{Category, ChargeId};
use theazo_domain::content::ContentRef;
use theazo_domain::id::{AgentId, SessionId, TaskId};
use theazo_domain::time::Timestamp;
use theazo_domain::{Command, Event};
use utoipa::ToSchema;
use utoipa::openapi::schema::{Object, ObjectBuilder, Type};

use super::money::{Amount, usd};
use crate::database;
use crate::http::Edge;
use crate::http::auth::{Administrator, Inspector};
use crate::http::body::{Input, Submitted, optional_whole};
use crate::http::error::{Error, Field};
use crate::http::idempotency::{act, refused, success};
use crate::http::page::{Listing, Page};
use crate::http::query::Query;
use crate::log::read::{self as events, Filter};
use crate::log::{Answering, Submission, TenantId};
use crate::read;

/// A correction of a charge. It is a charge itself, which counts when it was made.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Adjustment {
    /// The id of its own entry among the charges.
    #[schema(examples("57.0"))]
    id: String,
    /// The charge that it corrects.
    #[schema(examples("12.0"))]
    charge_id: String,
    #[schema(schema_with = categories)]
    category: Category,
    /// What it adds; a credit is negative.
    amount: Amount,
    /// Why; left out once it was erased.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, required = false)]
    reason: Option<String>,
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
    /// Your own identifier of the user whose work was charged; left out once the person was erased.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, required = false)]
    user_id: Option<String>,
    #[schema(value_type = String)]
    session_id: SessionId,
    #[schema(value_type = String)]
    agent_id: AgentId,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, required = false)]
    task_id: Option<TaskId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, required = false)]
    model: Option<String>,
}

/// A correction to be made, of `amount` or of `exact`.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct NewAdjustment {
    /// The charge to correct: the `id` of an entry.
    #[schema(examples("12.0"))]
    charge_id: String,
    /// What to add, in cents: not 0; a credit is negative.
    #[serde(default, deserialize_with = "optional_whole")]
    #[schema(minimum = -1_000_000_000_000_000_i64, maximum = 1_000_000_000_000_000_i64)]
    amount: Option<i64>,
    /// The same in units of the currency, as a decimal with at most 12 places.
    #[schema(pattern = r"^-?[0-9]{1,13}(\.[0-9]{1,12})?$", examples("-0.119875"))]
    exact: Option<String>,
    /// Why.
    #[schema(min_length = 1, max_length = 256)]
    reason: String,
}

impl Input for NewAdjustment {
    fn check(value: &Value, fields: &mut Vec<Field>) {
        let given = |name| value.get(name).filter(|given| !given.is_null());
        if given("amount").is_some() == given("exact").is_some() {
            fields.push(Field::new("amount", "oneOf", "must be given, or else `exact`, and not both"));
        }
        if given("amount").and_then(Value::as_f64).is_some_and(|amount| amount == 0.0) {
            fields.push(Field::new("amount", "not", "must not be 0"));
        }
        let exact = given("exact").and_then(|exact| exact.as_str()?.parse::<Decimal>().ok());
        if exact.is_some_and(|exact| exact.is_zero()) {
            fields.push(Field::new("exact", "not", "must not be 0"));
        }
    }
}

impl NewAdjustment {
    fn amount(&self) -> Option<Decimal> {
        let cents = self.amount.map(|cents| Decimal::new(cents, 2));
        cents.or_else(|| self.exact.as_ref()?.parse().ok())
    }
}

/// Corrects a charge: a credit, or what it lacked. The charge stays as it is; the correction counts from now.
#[utoipa::path(post, operation_id = "createAdjustment", path = "/v1/billing/adjustments", tag = "billing",
    request_body = NewAdjustment, responses((status = 201, body = Adjustment), (status = 404, body = Object)))]
pub(crate) async fn create(
    State(edge): State<Edge>,
    administrator: Administrator,
    Submitted { body, request }: Submitted<NewAdjustment>,
) -> Result<Response, Error> {
    let amount = body.amount().ok_or_else(|| Error::field("exact", "pattern", "is no decimal"))?;
    let (content, reason) = edge.content(body.reason.clone());
    let found = find(&edge, administrator.tenant.id, &body.charge_id, amount, reason).await?;
    let command = Command::Billing(match found {
        Some(adjusting) => billing::Command::Adjust(Box::new(adjusting)),
        None => billing::Command::AdjustUnknown { charge_id: body.charge_id.clone() },
    });
    let (provenance, contents) = (administrator.provenance(), vec![content]);
    let submission = Submission { command, provenance, contents, sealed: vec![] };
    let (request_id, text) = (administrator.request_id, Arc::new(body.reason));
    let answering: Answering = Box::new(move |scope, verdict| {
        let text = Arc::clone(&text);
        Box::pin(async move {
            let accepted = match verdict {
                Ok(accepted) => accepted,
                Err(refusal) => return Ok(refused(refusal, request_id)),
            };
            let made = accepted.events.iter().find_map(|recorded| match &recorded.event {
                Event::BillingAdjusted(adjusted) => {
                    Some((adjusted, recorded.stored.position, recorded.stored.at))
                }
                _ => None,
            });
            let made =
                made.ok_or_else(|| database::Error::Row("a correction without an event".to_owned()))?;
            let users = read::person::external_ids(scope, &[made.0.place.user_id.to_string()]).await?;
            Ok(success(StatusCode::CREATED, &Adjustment::new(made, Some((*text).clone()), &users)))
        })
    });
    act(&edge, &administrator, &request, submission, answering).await
}

/// What is to be corrected, as it stands in the log; none where there is no such charge.
async fn find(
    edge: &Edge,
    tenant: TenantId,
    charge_id: &str,
    amount: Decimal,
    reason: ContentRef,
) -> Result<Option<Adjusting>, Error> {
    let Ok(id) = charge_id.parse::<ChargeId>() else { return Ok(None) };
    let Some(stored) = events::at(edge.app.log.scope(tenant), id.position).await? else { return Ok(None) };
    let event = edge.app.log.decode(&stored)?;
    let index = usize::try_from(id.index).unwrap_or(usize::MAX);
    Ok(event.booked().and_then(|booked| {
        let charge = booked.booking.charges.get(index)?.clone();
        let (place, task_id, model) = (booked.place, booked.task_id, booked.model.map(str::to_owned));
        Some(Adjusting { charge_id: id, charge, place, task_id, model, amount, reason })
    }))
}

/// Lists corrections, newest first.
#[utoipa::path(get, operation_id = "listAdjustments", path = "/v1/billing/adjustments", tag = "billing",
    params(
        ("limit" = Option<i64>, Query, description = "Default: 25", minimum = 1, maximum = 100),
        ("cursor" = Option<String>, Query, description = "`nextCursor` of the page before"),
    ),
    responses((status = 200, body = Page<Adjustment>)))]
pub(crate) async fn list(
    State(edge): State<Edge>,
    inspector: Inspector,
    mut query: Query,
) -> Result<Json<Page<Adjustment>>, Error> {
    let tenant = inspector.tenant.id;
    let listing = Listing::read(&edge.app.keys.cursors, tenant, "/v1/billing/adjustments", &mut query);
    query.finish()?;
    let scope = edge.app.log.scope(tenant);
    let filter = Filter { kind: Some("billing.adjusted".to_owned()), ..Filter::default() };
    let mut rows = vec![];
    for stored in events::newest(scope, &filter, listing.below, listing.rows()).await? {
        if let Event::BillingAdjusted(adjusted) = edge.app.log.decode(&stored)? {
            rows.push((adjusted, stored.position, stored.at));
        }
    }
    let reasons: Vec<_> = rows.iter().map(|(made, ..)| made.reason.content_id.to_string()).collect();
    let reasons = read::agent::bodies(scope, &reasons).await?;
    let users: Vec<_> = rows.iter().map(|(made, ..)| made.place.user_id.to_string()).collect();
    let users = read::person::external_ids(scope, &users).await?;
    Ok(Json(listing.page(
        rows,
        |(_, position, _)| *position,
        |(made, position, at)| {
            let reason = reasons.get(&made.reason.content_id.to_string()).cloned();
            Adjustment::new((&made, position, at), reason, &users)
        },
    )))
}

impl Adjustment {
    fn new(
        (made, position, created_at): (&Adjusted, i64, Timestamp),
        reason: Option<String>,
        users: &HashMap<String, String>,
    ) -> Self {
        let correction = made.correction();
        Self {
            id: ChargeId { position, index: 0 }.to_string(),
            charge_id: correction.map(|(corrects, _)| corrects.to_string()).unwrap_or_default(),
            category: made.category,
            amount: usd(made.booking.cost()),
            reason,
            created_at,
            user_id: users.get(&made.place.user_id.to_string()).cloned(),
            session_id: made.place.session_id,
            agent_id: made.place.agent_id,
            task_id: made.task_id,
            model: made.model.clone(),
        }
    }
}

fn categories() -> Object {
    let words = Category::ALL.map(Category::as_str);
    ObjectBuilder::new().schema_type(Type::String).enum_values(Some(words)).build()
}
