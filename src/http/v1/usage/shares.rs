//! `/v1/billing/usage/users`, `/sessions` and `/agents`: who used how much, the dearest first.

use std::borrow::Cow;
use std::collections::HashMap;
use std::ops::Range;

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use theazo_domain::allotment::allot;
use theazo_domain::id::{AgentId, SessionId, UserId};
use ulid::Ulid;
use utoipa::ToSchema;

use super::period::{Asked, Default, Period};
use super::totals::{Unrated, sum_in_cents};
use crate::config;
use crate::http::Edge;
use crate::http::auth::Inspector;
use crate::http::error::Error;
use crate::http::page::{Listing, Page};
use crate::http::query::Query;
use crate::http::v1::money::{Amount, allotted};
use crate::read::usage::{self, By, Share, users_of};

/// What a user cost.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct UserCost {
    /// Your own identifier of the user; left out once the person was erased.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, required = false)]
    user_id: Option<String>,
    cost: Amount,
    /// Sessions that were created in the period.
    sessions: i64,
    /// Agents that were created in the period.
    agents: i64,
}

/// What a session cost.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct SessionCost {
    session_id: String,
    /// Your own identifier of the user; left out once the person was erased.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, required = false)]
    user_id: Option<String>,
    cost: Amount,
    /// Agents that were created in the period.
    agents: i64,
}

/// What an agent cost.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct AgentCost {
    /// Left out of what is no agent's.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, required = false)]
    agent_id: Option<String>,
    session_id: String,
    /// Your own identifier of the user; left out once the person was erased.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, required = false)]
    user_id: Option<String>,
    cost: Amount,
}

/// A page of costs, and what they are the costs of.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Costs<T> {
    /// The rows.
    data: Vec<T>,
    /// Whether there are more.
    has_more: bool,
    /// Leads to the next page; left out on the last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, required = false, examples("cur_01ARZ3NDEKTSV4RRFFQ69G50AV"))]
    next_cursor: Option<String>,
    period: Period,
    /// Of all rows of all pages.
    unrated: Unrated,
}

/// What each user cost in a period, the dearest first.
#[utoipa::path(get, operation_id = "listUserCosts", path = "/v1/billing/usage/users", tag = "billing",
    params(
        ("from" = Option<String>, Query, description = "A date, or a time. Default: the start of the calendar month (UTC)"),
        ("until" = Option<String>, Query, description = "A date, which it includes, or a time, before which it ends. Default: now"),
        ("limit" = Option<i64>, Query, description = "Default: 50", minimum = 1, maximum = 1000),
        ("cursor" = Option<String>, Query, description = "`nextCursor` of the page before: the list stays as it was then"),
    ),
    responses((status = 200, body = Costs<UserCost>)))]
pub(crate) async fn users(
    State(edge): State<Edge>,
    inspector: Inspector,
    query: Query,
) -> Result<Json<Costs<UserCost>>, Error> {
    let show = |share: &Share, user_id, cost| {
        let (sessions, agents) = (share.sessions, share.agents);
        UserCost { user_id, cost, sessions, agents }
    };
    list(&edge, &inspector, query, By::User, show).await
}

/// What each session cost in a period, the dearest first.
#[utoipa::path(get, operation_id = "listSessionCosts", path = "/v1/billing/usage/sessions", tag = "billing",
    params(
        ("from" = Option<String>, Query, description = "A date, or a time. Default: the start of the calendar month (UTC)"),
        ("until" = Option<String>, Query, description = "A date, which it includes, or a time, before which it ends. Default: now"),
        ("limit" = Option<i64>, Query, description = "Default: 25", minimum = 1, maximum = 100),
        ("cursor" = Option<String>, Query, description = "`nextCursor` of the page before: the list stays as it was then"),
    ),
    responses((status = 200, body = Costs<SessionCost>)))]
pub(crate) async fn sessions(
    State(edge): State<Edge>,
    inspector: Inspector,
    query: Query,
) -> Result<Json<Costs<SessionCost>>, Error> {
    let show = |share: &Share, user_id, cost| {
        let session_id = SessionId::from_ulid(share.id).to_string();
        SessionCost { session_id, user_id, cost, agents: share.agents }
    };
    list(&edge, &inspector, query, By::Session, show).await
}

/// What each agent cost in a period, the dearest first.
#[utoipa::path(get, operation_id = "listAgentCosts", path = "/v1/billing/usage/agents", tag = "billing",
    params(
        ("from" = Option<String>, Query, description = "A date, or a time. Default: the start of the calendar month (UTC)"),
        ("until" = Option<String>, Query, description = "A date, which it includes, or a time, before which it ends. Default: now"),
        ("limit" = Option<i64>, Query, description = "Default: 25", minimum = 1, maximum = 100),
        ("cursor" = Option<String>, Query, description = "`nextCursor` of the page before: the list stays as it was then"),
    ),
    responses((status = 200, body = Costs<AgentCost>)))]
pub(crate) async fn agents(
    State(edge): State<Edge>,
    inspector: Inspector,
    query: Query,
) -> Result<Json<Costs<AgentCost>>, Error> {
    let show = |share: &Share, user_id, cost| {
        let agent_id = share.agent.map(|agent| AgentId::from_ulid(agent).to_string());
        AgentCost { agent_id, session_id: SessionId::from_ulid(share.id).to_string(), user_id, cost }
    };
    list(&edge, &inspector, query, By::Agent, show).await
}

/// A page of shares. All of them are allotted the cents of the total, and put in order, before the page is cut.
async fn list<T>(
    edge: &Edge,
    inspector: &Inspector,
    mut query: Query,
    by: By,
    show: impl Fn(&Share, Option<String>, Amount) -> T,
) -> Result<Json<Costs<T>>, Error> {
    let now = edge.app.clock.now();
    let asked = Asked::read(&mut query, Default::Month, now);
    let (page, largest) = match by {
        By::User => (config::USERS_PAGE, config::LARGEST_USERS_PAGE),
        By::Session | By::Agent => (config::PAGE, config::LARGEST_PAGE),
    };
    let limit = query.whole("limit", 1..=largest).unwrap_or(page);
    let tenant = inspector.tenant.id;
    let route = format!("/v1/billing/usage {by:?}");
    let listing = Listing::of(&edge.app.keys.cursors, tenant, &route, &mut query, limit);
    query.finish()?;
    let scope = edge.app.log.scope(tenant);
    let reached = listing.below.map(Reached::unpack);
    let pin = usage::pin(scope, reached.map(|reached| reached.pinned)).await?;
    let period = if reached.is_some() { asked.again(pin) } else { asked.from(now, pin.at) };
    let (shares, unrated) = tokio::try_join!(
        usage::shares(scope, &edge.app.kept_sums, by, period, pin),
        usage::unrated(scope, period, pin)
    )?;
    let shown = reached.map_or(0, |reached| reached.shown as usize);
    let until = shown.saturating_add(usize::try_from(listing.rows()).unwrap_or(usize::MAX));
    // Users are put in order by what callers call them; of sessions and agents only those who are shown are looked up.
    let called = match by {
        By::User => usage::called(scope, shares.iter().map(|share| share.id)).await?,
        By::Session | By::Agent => HashMap::new(),
    };
    let page = dearest(&shares, |share| key(by, share, &called), shown..until);
    let called = match by {
        By::User => called,
        By::Session | By::Agent => users_of(scope, page.iter().map(|(share, _)| share.id)).await?,
    };
    let rows = page.into_iter().zip(reached.map_or(1, |reached| reached.shown + 1)..).collect();
    let place = |(_, shown): &((&Share, Amount), i64)| Reached { pinned: pin.position, shown: *shown }.pack();
    let Page { data, has_more, next_cursor } =
        listing.page(rows, place, |((share, cost), _)| show(share, called.get(&share.id).cloned(), cost));
    Ok(Json(Costs { data, has_more, next_cursor, period: period.into(), unrated: unrated.into() }))
}

/// What tells shares apart, and puts those in order that cost the same: what users are called, the ids of those who were
/// erased among it.
type Key<'a> = (Cow<'a, str>, Ulid, Option<Ulid>);

fn key<'a>(by: By, share: &Share, called: &'a HashMap<Ulid, String>) -> Key<'a> {
    let name = match (by, called.get(&share.id)) {
        (By::User, Some(name)) => Cow::Borrowed(name.as_str()),
        (By::User, None) => Cow::Owned(UserId::from_ulid(share.id).to_string()),
        (By::Session | By::Agent, _) => Cow::Borrowed(""),
    };
    (name, share.id, share.agent)
}

/// These of the shares, the dearest first and those that cost the same by their keys, each with its cents of the total.
fn dearest<'a, 'b>(
    shares: &'a [Share],
    key: impl Fn(&Share) -> Key<'b>,
    range: Range<usize>,
) -> Vec<(&'a Share, Amount)> {
    let parts: Vec<_> = shares.iter().map(|share| (key(share), share.cost)).collect();
    let cents = allot(sum_in_cents(&parts), &parts);
    let mut order: Vec<usize> = (0..parts.len()).collect();
    let dearer = |one: &usize, other: &usize| {
        let ((one, cost), (other, other_cost)) = (&parts[*one], &parts[*other]);
        other_cost.cmp(cost).then_with(|| one.cmp(other))
    };
    // What comes after the page needs no order.
    if range.end < order.len() {
        order.select_nth_unstable_by(range.end, dearer);
        order.truncate(range.end);
    }
    order.sort_unstable_by(dearer);
    let page = order.into_iter().skip(range.start);
    page.map(|at| (&shares[at], allotted(cents[at], shares[at].cost))).collect()
}

/// How far a list was shown, and of which position of the log it is.
#[derive(Debug, Clone, Copy)]
struct Reached {
    pinned: i64,
    shown: i64,
}

/// Bits of a cursor's number for how many were shown: 16 million.
const SHOWN_BITS: u32 = 24;

impl Reached {
    const fn pack(self) -> i64 {
        (self.pinned << SHOWN_BITS) | self.shown
    }

    const fn unpack(packed: i64) -> Self {
        Self { pinned: packed >> SHOWN_BITS, shown: packed & ((1 << SHOWN_BITS) - 1) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_that_cost_the_same_come_by_what_they_are_called_and_those_who_were_erased_by_their_ids() {
        let share = |id: u128| Share { id: Ulid(id), agent: None, cost: 1.into(), sessions: 0, agents: 0 };
        let shares: Vec<Share> = (1..=4).map(share).collect();
        let called = HashMap::from([(Ulid(1), "zoe".to_owned()), (Ulid(4), "amy".to_owned())]);
        let order = |by: By| {
            let all = dearest(&shares, |share| key(by, share, &called), 0..4);
            all.into_iter().map(|(share, _)| share.id.0).collect::<Vec<_>>()
        };
        assert_eq!(order(By::User), [4, 2, 3, 1]);
        assert_eq!(order(By::Session), [1, 2, 3, 4]);
    }
}
