//! The half of an appending transaction that reads: takes the lock of the head and reads all that the batch needs, in one
//! round trip.

use std::collections::HashMap;

use theazo_domain::id::UserId;
use theazo_domain::time::Timestamp;
use tokio_postgres::Row;

use super::merkle::Frontier;
use super::{Stored, TenantId, read};
use crate::database::{Client, Database, Error, Pipeline, millis, name_tenant};

/// Where the log ends, as the locked row says.
#[derive(Debug, Clone)]
pub(crate) struct Head {
    pub(crate) position: i64,
    pub(crate) last_at: Timestamp,
    pub(crate) frontier: Frontier,
    pub(crate) projection_epoch: i32,
    pub(crate) builds_revision: i64,
}

/// What a batch asks of the database before it can decide.
#[derive(Debug, Default)]
pub(crate) struct Wanted {
    /// End users by the caller's own id.
    pub(crate) people: Vec<String>,
    /// Aggregates whose states are not in memory.
    pub(crate) subjects: Vec<String>,
    /// Which of the people are to be loaded as aggregates too.
    pub(crate) people_as_subjects: Vec<String>,
    /// Digests of idempotency keys.
    pub(crate) keys: Vec<Vec<u8>>,
}

/// What was found.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) head: Head,
    pub(crate) people: HashMap<String, UserId>,
    pub(crate) snapshots: Vec<Snapshot>,
    /// Events of the wanted aggregates past their snapshots: the aggregate's id, type, version and data.
    pub(crate) events: Vec<LoadedEvent>,
    pub(crate) kept: HashMap<Vec<u8>, Kept>,
}

/// A state that was written down.
#[derive(Debug)]
pub(crate) struct Snapshot {
    pub(crate) subject: String,
    pub(crate) position: i64,
    pub(crate) state: String,
}

/// An event that goes into an aggregate's state.
#[derive(Debug)]
pub(crate) struct LoadedEvent {
    pub(crate) subject: String,
    pub(crate) kind: String,
    pub(crate) version: i16,
    pub(crate) data: String,
}

/// The answer to an earlier request with the same idempotency key.
#[derive(Debug, Clone)]
pub(crate) struct Kept {
    pub(crate) fingerprint: Vec<u8>,
    pub(crate) answer: Vec<u8>,
}

const LOCK_HEAD: &str = "select position, last_at, frontier, projection_epoch, builds_revision \
                         from heads where tenant_id = $1 for update";
// Each row is looked up by its whole key, value by value: `offset 0` keeps the planner from joining instead, which it
// would do by reading all rows of the tenant while its statistics are older than the rows.
const FIND_PEOPLE: &str = "
    select u.external_id, u.user_id from unnest($2::text[]) as w(external_id) cross join lateral (
      select external_id, user_id from end_users
      where tenant_id = $1 and external_id = w.external_id offset 0) u";
// A snapshot of another format is as if it were not there.
const FIND_SNAPSHOTS: &str = "
    select n.subject, n.position, n.state::text from (
      select unnest($2::text[]) as subject union all
      select u.user_id from unnest($3::text[]) as p(external_id) cross join lateral (
        select user_id from end_users where tenant_id = $1 and external_id = p.external_id offset 0) u) w
    cross join lateral (
      select subject, position, state from snapshots
      where tenant_id = $1 and subject = w.subject and format = $4 offset 0) n";
const FIND_EVENTS: &str = "
    select w.subject, e.type, e.version, e.data::text from (
      select unnest($2::text[]) as subject union all
      select u.user_id from unnest($3::text[]) as p(external_id) cross join lateral (
        select user_id from end_users where tenant_id = $1 and external_id = p.external_id offset 0) u) w
    cross join lateral (
      select coalesce((select position from snapshots
        where tenant_id = $1 and subject = w.subject and format = $4), 0) as position offset 0) n
    cross join lateral (
      select position from event_subjects
      where tenant_id = $1 and subject = w.subject and position > n.position offset 0) s
    cross join lateral (
      select position, type, version, data from events where tenant_id = $1 and position = s.position offset 0) e
    order by e.position";
const FIND_KEPT: &str = "
    select k.key_digest, k.fingerprint, k.answer from unnest($2::bytea[]) as w(key_digest) cross join lateral (
      select key_digest, fingerprint, answer from idempotency
      where tenant_id = $1 and key_digest = w.key_digest offset 0) k";

/// Begins the transaction, takes the lock of the head and reads what is wanted, in one round trip. All of it is
/// read after the lock was had, so it is what the head says.
pub(crate) async fn begin(
    client: &Client,
    tenant: TenantId,
    wanted: &Wanted,
    format: i32,
) -> Result<Found, Error> {
    let lock = client.prepare_cached(LOCK_HEAD).await?;
    let people = client.prepare_cached(FIND_PEOPLE).await?;
    let snapshots = client.prepare_cached(FIND_SNAPSHOTS).await?;
    let events = client.prepare_cached(FIND_EVENTS).await?;
    let kept = client.prepare_cached(FIND_KEPT).await?;
    let begin = format!("begin; {}", name_tenant(tenant));
    let loads = !wanted.subjects.is_empty() || !wanted.people_as_subjects.is_empty();
    let mut pipeline = Pipeline::default();
    pipeline.send(async { client.batch_execute(&begin).await.map(|()| vec![]) }).await;
    pipeline.send(async { client.query(&lock, &[&tenant]).await }).await;
    if !wanted.people.is_empty() {
        pipeline.send(async { client.query(&people, &[&tenant, &wanted.people]).await }).await;
    }
    if loads {
        let (subjects, people) = (&wanted.subjects, &wanted.people_as_subjects);
        let (snapshots, events, format) = (&snapshots, &events, &format);
        pipeline
            .send(async move { client.query(snapshots, &[&tenant, subjects, people, format]).await })
            .await;
        pipeline.send(async move { client.query(events, &[&tenant, subjects, people, format]).await }).await;
    }
    if !wanted.keys.is_empty() {
        pipeline.send(async { client.query(&kept, &[&tenant, &wanted.keys]).await }).await;
    }
    let mut answers = pipeline.finish().await?.into_iter().skip(1);
    let mut next = |sent: bool| if sent { answers.next().unwrap_or_default() } else { vec![] };
    let head = next(true);
    let head = head.first().ok_or_else(|| Error::Row(format!("tenant {} has no head", tenant.0)))?;
    let position: i64 = head.get(0);
    let frontier = u64::try_from(position).ok().and_then(|leaves| Frontier::from_bytes(leaves, head.get(2)));
    let head = Head {
        position,
        last_at: millis(head.get(1)),
        frontier: frontier
            .ok_or_else(|| Error::Row("heads.frontier does not fit the position".to_owned()))?,
        projection_epoch: head.get(3),
        builds_revision: head.get(4),
    };
    let mut found_people = HashMap::new();
    for row in next(!wanted.people.is_empty()) {
        let id = row.get::<_, &str>(1).parse().map_err(|_| Error::Row("end_users.user_id".to_owned()))?;
        found_people.insert(row.get(0), id);
    }
    let snapshots = next(loads).iter().map(snapshot).collect();
    let events = next(loads).iter().map(loaded_event).collect();
    let kept = next(!wanted.keys.is_empty())
        .iter()
        .map(|row| (row.get(0), Kept { fingerprint: row.get(1), answer: row.get(2) }))
        .collect();
    Ok(Found { head, people: found_people, snapshots, events, kept })
}

const LOOK_FOR_PEOPLE: &str = "select ends_at, external_id, user_id from look_for_people($1, $2)";

/// Where the log ends, and which of these end users it has there.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) position: i64,
    pub(crate) people: HashMap<String, UserId>,
}

/// Looks for end users without the lock of the head, at one moment of the log.
pub(crate) async fn look_for_people(
    database: &Database,
    tenant: TenantId,
    people: &[String],
) -> Result<Seen, Error> {
    let rows = database
        .read(async |client| {
            let statement = client.prepare_cached(LOOK_FOR_PEOPLE).await?;
            Ok(client.query(&statement, &[&tenant, &people]).await?)
        })
        .await?;
    let first = rows.first().ok_or_else(|| Error::Row(format!("tenant {} has no head", tenant.0)))?;
    let mut seen = Seen { position: first.get(0), people: HashMap::new() };
    for row in &rows {
        if let (Some(external_id), Some(user_id)) =
            (row.get::<_, Option<String>>(1), row.get::<_, Option<&str>>(2))
        {
            let user_id = user_id.parse().map_err(|_| Error::Row("end_users.user_id".to_owned()))?;
            seen.people.insert(external_id, user_id);
        }
    }
    Ok(seen)
}

/// Reads more aggregates under the lock that [`begin`] took: those that turned out to be needed besides.
pub(crate) async fn load(
    client: &Client,
    tenant: TenantId,
    subjects: &Vec<String>,
    format: i32,
) -> Result<(Vec<Snapshot>, Vec<LoadedEvent>), Error> {
    let nobody: Vec<String> = vec![];
    let snapshots = client.prepare_cached(FIND_SNAPSHOTS).await?;
    let events = client.prepare_cached(FIND_EVENTS).await?;
    let (nobody, format) = (&nobody, &format);
    let mut pipeline = Pipeline::default();
    pipeline.send(async { client.query(&snapshots, &[&tenant, subjects, nobody, format]).await }).await;
    pipeline.send(async { client.query(&events, &[&tenant, subjects, nobody, format]).await }).await;
    let mut answers = pipeline.finish().await?.into_iter();
    let snapshots = answers.next().unwrap_or_default().iter().map(snapshot).collect();
    let events = answers.next().unwrap_or_default().iter().map(loaded_event).collect();
    Ok((snapshots, events))
}

fn snapshot(row: &Row) -> Snapshot {
    Snapshot { subject: row.get(0), position: row.get(1), state: row.get(2) }
}

fn loaded_event(row: &Row) -> LoadedEvent {
    LoadedEvent { subject: row.get(0), kind: row.get(1), version: row.get(2), data: row.get(3) }
}

/// Reads events inside the transaction, oldest first: what other servers have appended.
pub(crate) async fn events_between(
    client: &Client,
    tenant: TenantId,
    after: i64,
    until: i64,
) -> Result<Vec<Stored>, Error> {
    let sql = format!(
        "select {} from events e where e.tenant_id = $1 and e.position > $2 and e.position <= $3 order by e.position",
        read::COLUMNS
    );
    let statement = client.prepare_cached(&sql).await?;
    client.query(&statement, &[&tenant, &after, &until]).await?.iter().map(read::stored).collect()
}
