//! `/v1/events`: the log itself.

use std::collections::BTreeMap;
use std::str::FromStr;

use axum::Json;
use axum::extract::State;
use axum::response::Response;
use serde::Serialize;
use serde_json::Value;
use serde_json::value::RawValue;
use theazo_domain::Subject;
use theazo_domain::id::{ContentId, EventId};
use theazo_domain::time::Timestamp;
use utoipa::ToSchema;

use crate::database::{self, Scope};
use crate::http::Edge;
use crate::http::auth::Inspector;
use crate::http::error::Error;
use crate::http::page::{Listing, Page};
use crate::http::query::{Id, Query};
use crate::http::sse::{self, Frame, LastSeen, Show};
use crate::log::{Stored, read};

/// Something that has happened.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Event)]
pub(crate) struct Shown {
    /// Its place in the log: 1, 2, 3 … in the order of commits.
    position: i64,
    #[schema(value_type = String, examples("evt_01ARZ3NDEKTSV4RRFFQ69G50AV"))]
    id: EventId,
    /// What kind of thing happened.
    #[serde(rename = "type")]
    #[schema(examples("session.created"))]
    kind: String,
    /// The format of `data`.
    version: i16,
    /// The ids that it is about.
    subjects: Vec<String>,
    /// The very bytes that are hashed.
    #[schema(value_type = Object)]
    data: Box<RawValue>,
    /// Who asked, in which request.
    #[schema(value_type = Object)]
    metadata: Box<RawValue>,
    #[schema(value_type = String, format = DateTime)]
    at: Timestamp,
    /// SHA-256 of the event's canonical bytes as a leaf of the log's tree, in hex.
    leaf_hash: String,
    /// Shown for a single event: the content that `data` refers to, by its id; null where it was erased.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Object, required = false)]
    content: Option<BTreeMap<String, Option<Box<RawValue>>>>,
}

/// Lists events, newest first.
#[utoipa::path(get, operation_id = "listEvents", path = "/v1/events", tag = "events",
    params(
        ("after" = Option<String>, Query, description = "After this position, or from this time or date on"),
        ("until" = Option<String>, Query,
            description = "Up to this position, before this time, or to the end of this date"),
        ("type" = Option<String>, Query, description = "Of this type, such as `session.created`"),
        ("subject" = Option<String>, Query, description = "About this id"),
        ("limit" = Option<i64>, Query, description = "Default: 25", minimum = 1, maximum = 100),
        ("cursor" = Option<String>, Query, description = "`nextCursor` of the page before"),
    ),
    responses((status = 200, body = Page<Shown>)))]
pub(crate) async fn list(
    State(edge): State<Edge>,
    inspector: Inspector,
    mut query: Query,
) -> Result<Json<Page<Shown>>, Error> {
    let (after, until) = (query.parsed("after", BOUND), query.parsed("until", BOUND));
    let (kind, subject) = filter(&mut query);
    if out_of_order(after, until) {
        query.wrong("until", "order", "must not be before `after`");
    }
    let tenant = inspector.tenant.id;
    let listing = Listing::read(&edge.app.keys.cursors, tenant, "/v1/events", &mut query);
    query.finish()?;
    let scope = edge.app.log.scope(tenant);
    let after = bound(scope, after, Side::After).await?;
    let until = bound(scope, until, Side::Until).await?;
    let filter = read::Filter { after, until, kind, subject };
    let rows = read::newest(scope, &filter, listing.below, listing.rows()).await?;
    let page = listing.page(rows, |row| row.position, shown);
    let data = page.data.into_iter().collect::<Result<_, _>>()?;
    Ok(Json(Page { data, has_more: page.has_more, next_cursor: page.next_cursor }))
}

/// An event, with the personal content that it refers to.
#[utoipa::path(get, operation_id = "getEvent", path = "/v1/events/{position}", tag = "events",
    params(("position" = i64, Path, description = "Its place in the log", minimum = 1)),
    responses((status = 200, body = Shown)))]
pub(crate) async fn get(
    State(edge): State<Edge>,
    inspector: Inspector,
    Id(Position(position)): Id<Position>,
) -> Result<Json<Shown>, Error> {
    let scope = edge.app.log.scope(inspector.tenant.id);
    let stored = read::at(scope, position).await?.ok_or_else(Error::nothing_here)?;
    let kept: BTreeMap<_, _> = read::contents(scope, position).await?.into_iter().collect();
    let referred = references(&stored.data)?;
    let open = |id: String| {
        let body = kept.get(&id).map(|body| opened(body));
        (id, body)
    };
    let content = referred.into_iter().map(open).collect();
    Ok(Json(Shown { content: Some(content), ..shown(stored)? }))
}

/// Streams events as they happen (Server-Sent Events). `Last-Event-ID`, or else `after`, replays from there first.
#[utoipa::path(get, operation_id = "streamEvents", path = "/v1/events/stream", tag = "events",
    params(
        ("after" = Option<i64>, Query, description = "After this position; 0 for all. Default: from now on",
            minimum = 0),
        ("Last-Event-ID" = Option<i64>, Header, description = "The same, and goes before it", minimum = 0),
        ("type" = Option<String>, Query, description = "Of this type, such as `session.created`"),
        ("subject" = Option<String>, Query, description = "About this id"),
    ),
    responses((status = 200, content_type = "text/event-stream", body = Frame)))]
pub(crate) async fn stream(
    State(edge): State<Edge>,
    inspector: Inspector,
    LastSeen(last): LastSeen,
    mut query: Query,
) -> Result<Response, Error> {
    let (kind, subject) = filter(&mut query);
    query.finish()?;
    let part = move |stored: &Stored| {
        kind.as_ref().is_none_or(|kind| *kind == stored.kind)
            && subject.as_ref().is_none_or(|subject| stored.subjects.contains(subject))
    };
    sse::follow(edge, inspector.into_caller(), last, Show::Events(Box::new(part))).await
}

/// The filters that a listing and a stream share.
fn filter(query: &mut Query) -> (Option<String>, Option<String>) {
    let kind = query.text("type");
    let subject = query.parsed::<Subject>("subject", "an id such as ses_01ARZ3NDEKTSV4RRFFQ69G50AV");
    (kind, subject.map(|subject| subject.to_string()))
}

/// A position in a path.
pub(crate) struct Position(i64);

impl FromStr for Position {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        sse::position(text).map(Self).ok_or(())
    }
}

/// Where a listing begins or ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Bound {
    Position(i64),
    Moment(Timestamp),
    /// From its first moment to its last.
    Date(Timestamp),
}

/// Which end of a listing a bound is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    After,
    Until,
}

const BOUND: &str = "a position, a date such as 2025-05-01 or an RFC 3339 time";
const DAY_MS: i64 = 86_400_000;

impl FromStr for Bound {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        if let Some(position) = sse::position(text) {
            return Ok(Self::Position(position));
        }
        let date = Timestamp::parse(&format!("{text}T00:00:00Z")).map(Self::Date);
        date.or_else(|_| Timestamp::parse(text).map(Self::Moment)).map_err(|_| ())
    }
}

fn out_of_order(after: Option<Bound>, until: Option<Bound>) -> bool {
    match (after, until) {
        (Some(Bound::Position(after)), Some(Bound::Position(until))) => until < after,
        (
            Some(Bound::Moment(after) | Bound::Date(after)),
            Some(Bound::Moment(until) | Bound::Date(until)),
        ) => until < after,
        _ => false,
    }
}

/// The position that a bound stands for. A date as the end includes that day.
async fn bound(scope: Scope<'_>, bound: Option<Bound>, side: Side) -> Result<i64, database::Error> {
    match (bound, side) {
        (None, Side::After) => Ok(0),
        (None, Side::Until) => Ok(i64::MAX),
        (Some(Bound::Position(position)), _) => Ok(position),
        (Some(Bound::Date(day)), Side::Until) => {
            read::position_before(scope, Timestamp::from_millis(day.millis() + DAY_MS)).await
        }
        (Some(Bound::Moment(moment) | Bound::Date(moment)), _) => read::position_before(scope, moment).await,
    }
}

fn shown(stored: Stored) -> Result<Shown, Error> {
    let raw = |text| RawValue::from_string(text).map_err(Error::internal);
    Ok(Shown {
        position: stored.position,
        id: stored.event_id,
        kind: stored.kind,
        version: stored.version,
        subjects: stored.subjects,
        data: raw(stored.data)?,
        metadata: raw(stored.metadata)?,
        at: stored.at,
        leaf_hash: hex::encode(stored.leaf_hash),
        content: None,
    })
}

/// What an event is in a stream; none where what is stored is no JSON.
pub(crate) fn frame(stored: &Stored) -> Option<Frame> {
    let event = shown(stored.clone()).ok()?;
    let data = serde_json::to_string(&event).expect("an event is plain data");
    Some(Frame { event: stored.kind.clone(), data })
}

/// The ids of the content that an event's data refers to.
fn references(data: &str) -> Result<Vec<String>, Error> {
    let mut found = vec![];
    let mut left = vec![serde_json::from_str::<Value>(data).map_err(Error::internal)?];
    while let Some(value) = left.pop() {
        match value {
            Value::Array(items) => left.extend(items),
            Value::Object(members) => left.extend(members.into_values()),
            Value::String(text) if text.parse::<ContentId>().is_ok() => found.push(text),
            _ => {}
        }
    }
    Ok(found)
}

/// Content is JSON or else text.
pub(crate) fn opened(body: &str) -> Box<RawValue> {
    let json = RawValue::from_string(body.to_owned());
    json.or_else(|_| serde_json::value::to_raw_value(body)).expect("a text can be written as JSON")
}
