//! `/v1/billing/unconfirmed`: calls to models whose usage is not known.

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use theazo_domain::id::{AgentId, CallId, SessionId, TaskId};
use theazo_domain::time::Timestamp;
use utoipa::ToSchema;

use super::money::{Amount, usd};
use super::usage::totals::Unrated;
use crate::http::Edge;
use crate::http::auth::Inspector;
use crate::http::error::Error;
use crate::http::page::{Listing, Page};
use crate::http::query::Query;
use crate::read;

/// A call to a model whose usage is not known. What it may have cost counts against limits until it is reconciled.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct UnconfirmedCall {
    #[schema(value_type = String, examples("call_01ARZ3NDEKTSV4RRFFQ69G50AV"))]
    call_id: CallId,
    /// The call's id at its vendor's, where that was told.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, required = false)]
    vendor_id: Option<String>,
    model: String,
    /// What it may have cost at most: its worst case, or, where its vendor told what the prompt used, that and the longest answer.
    cost: Amount,
    /// The tokens of that, where the model has no price: it is not known what they cost.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Unrated, required = false)]
    unrated: Option<Unrated>,
    /// Why it is not known.
    reason: String,
    /// Your own identifier of the user; left out once the person was erased.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, required = false)]
    user_id: Option<String>,
    #[schema(value_type = String)]
    session_id: SessionId,
    #[schema(value_type = String)]
    agent_id: AgentId,
    #[schema(value_type = String)]
    task_id: TaskId,
    /// When the call ended.
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
}

/// Lists calls to models whose usage is not known, newest first.
#[utoipa::path(get, operation_id = "listUnconfirmedCalls", path = "/v1/billing/unconfirmed", tag = "billing",
    params(
        ("limit" = Option<i64>, Query, description = "Default: 25", minimum = 1, maximum = 100),
        ("cursor" = Option<String>, Query, description = "`nextCursor` of the page before"),
    ),
    responses((status = 200, body = Page<UnconfirmedCall>)))]
pub(crate) async fn list(
    State(edge): State<Edge>,
    inspector: Inspector,
    mut query: Query,
) -> Result<Json<Page<UnconfirmedCall>>, Error> {
    let tenant = inspector.tenant.id;
    let listing = Listing::read(&edge.app.keys.cursors, tenant, "/v1/billing/unconfirmed", &mut query);
    query.finish()?;
    let rows = read::unconfirmed::list(edge.app.log.scope(tenant), listing.below, listing.rows()).await?;
    Ok(Json(listing.page(rows, |row| row.position, UnconfirmedCall::from)))
}

impl From<read::unconfirmed::Unconfirmed> for UnconfirmedCall {
    fn from(row: read::unconfirmed::Unconfirmed) -> Self {
        let (input_tokens, output_tokens) = (row.unrated_input_tokens, row.unrated_output_tokens);
        let has_no_price = input_tokens + output_tokens > 0;
        Self {
            unrated: has_no_price.then_some(Unrated { calls: 1, input_tokens, output_tokens }),
            call_id: row.call_id,
            vendor_id: row.vendor_id,
            model: row.model,
            cost: usd(row.cost),
            reason: row.reason,
            user_id: row.user_id,
            session_id: row.session_id,
            agent_id: row.agent_id,
            task_id: row.task_id,
            created_at: row.created_at,
        }
    }
}
