//! The transaction that appends: what is read under the lock of the head, and what is written before the commit.
//!
//! Both halves are pipelined: one round trip to take the lock and read all that the batch needs, one to write all
//! of it and commit.

use std::collections::HashMap;
use std::sync::Arc;

use theazo_domain::id::UserId;
use theazo_domain::time::Timestamp;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use super::merkle::Frontier;
use super::project::Write;
use super::{Content, Recorded, SealedChange, Stored, TenantId, hold, read, sealed};
use crate::database::{Client, Database, Error, Pipeline, millis, name_tenant, system_time};

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

/// Content that lies beside the log, the position of its event, and whose it is.
pub(crate) type Beside = (Content, i64, Option<UserId>);

/// All that a batch writes.
#[derive(Default)]
pub(crate) struct Writes {
    pub(crate) events: Vec<Arc<Recorded>>,
    /// New end users: their id and the caller's own.
    pub(crate) people: Vec<(UserId, String)>,
    pub(crate) contents: Vec<Beside>,
    pub(crate) sealed: Vec<SealedChange>,
    pub(crate) snapshots: Vec<Snapshot>,
    pub(crate) projections: Vec<Write>,
    /// Digests of idempotency keys that were held, and are not from here on.
    pub(crate) lapsed: Vec<Vec<u8>>,
}

// As long as the log ends where it is thought to; else error TH001, and nothing of the transaction is done.
const APPEND_EVENTS: &str = "
    select append_events($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20)";
const INSERT_CONTENTS: &str = "
    insert into content (tenant_id, content_id, position, user_id, salt, body)
    select $1, content_id, position, user_id, salt, body
    from unnest($2::text[], $3::bigint[], $4::text[], $5::bytea[], $6::text[])
      as u(content_id, position, user_id, salt, body)";
const UPSERT_SNAPSHOTS: &str = "
    insert into snapshots (tenant_id, subject, position, format, state)
    select $1, subject, position, $5, state::json
    from unnest($2::text[], $3::bigint[], $4::text[]) as u(subject, position, state)
    on conflict (tenant_id, subject) do update
      set position = excluded.position, format = excluded.format, state = excluded.state";
const KEEP_ANSWERS: &str = "
    insert into idempotency (tenant_id, key_digest, fingerprint, answer, created_at)
    select $1, key_digest, fingerprint, answer, $5
    from unnest($2::bytea[], $3::bytea[], $4::bytea[]) as u(key_digest, fingerprint, answer)";

/// Whether it was refused because the log does not end where a transaction thought it did.
pub(crate) fn has_moved(error: &Error) -> bool {
    matches!(error, Error::Postgres(error) if error.code().is_some_and(|code| code.code() == "TH001"))
}

/// How the transaction stands to the head of the log when its writes are sent.
pub(crate) enum Start {
    /// It has begun, and holds the lock.
    Locked,
    /// It begins with the writes, and is carried out if this is still the head.
    From(Head),
}

/// Sends everything that a batch writes, but not the commit.
pub(crate) async fn send<'a>(
    pipeline: &mut Pipeline<'a>,
    client: &'a Client,
    tenant: TenantId,
    (start, head): (Start, &Head),
    writes: Writes,
    format: i32,
) -> Result<(), Error> {
    // Prepared before the first is sent, so that nothing waits between them, and none is prepared in a transaction that
    // has failed already because the log has moved.
    let mut prepared = Vec::with_capacity(writes.projections.len());
    for write in &writes.projections {
        prepared.push(write.prepare(client).await?);
    }
    for sql in [INSERT_CONTENTS, UPSERT_SNAPSHOTS] {
        client.prepare_cached(sql).await?;
    }
    let append = client.prepare_cached(APPEND_EVENTS).await?;
    let locked = matches!(start, Start::Locked);
    if !locked {
        pipeline.send(async { client.batch_execute("begin").await.map(|()| vec![]) }).await;
    }
    if !locked || !writes.events.is_empty() {
        let from = match start {
            Start::Locked => Ends { position: head.position - count(&writes.events), ..Ends::of(head) },
            Start::From(head) => Ends::of(&head),
        };
        let (events, to) = (Appending::of(&writes.events, writes.people), head.clone());
        pipeline.send(async move { events.append(client, &append, tenant, (&from, &to)).await }).await;
    }
    hold::send_lapsed(pipeline, client, tenant, writes.lapsed).await?;
    send_beside(pipeline, client, tenant, writes.contents).await?;
    sealed::send(pipeline, client, tenant, writes.sealed).await?;
    if !writes.snapshots.is_empty() {
        let statement = client.prepare_cached(UPSERT_SNAPSHOTS).await?;
        let subjects: Vec<String> =
            writes.snapshots.iter().map(|snapshot| snapshot.subject.clone()).collect();
        let positions: Vec<i64> = writes.snapshots.iter().map(|snapshot| snapshot.position).collect();
        let states: Vec<String> = writes.snapshots.into_iter().map(|snapshot| snapshot.state).collect();
        pipeline
            .send(async move {
                client.query(&statement, &[&tenant, &subjects, &positions, &states, &format]).await
            })
            .await;
    }
    for (write, statement) in writes.projections.into_iter().zip(prepared) {
        write.send(pipeline, client, statement, tenant).await;
    }
    Ok(())
}

/// Sends the personal content that lies beside the log.
async fn send_beside<'a>(
    pipeline: &mut Pipeline<'a>,
    client: &'a Client,
    tenant: TenantId,
    contents: Vec<Beside>,
) -> Result<(), Error> {
    if !contents.is_empty() {
        let statement = client.prepare_cached(INSERT_CONTENTS).await?;
        let ids: Vec<String> = contents.iter().map(|(content, ..)| content.content_id.to_string()).collect();
        let positions: Vec<i64> = contents.iter().map(|(_, position, _)| *position).collect();
        let users: Vec<Option<String>> =
            contents.iter().map(|(.., user)| user.map(|user| user.to_string())).collect();
        let salts: Vec<Vec<u8>> = contents.iter().map(|(content, ..)| content.salt.to_vec()).collect();
        let bodies: Vec<String> = contents.into_iter().map(|(content, ..)| content.body).collect();
        pipeline
            .send(async move {
                client.query(&statement, &[&tenant, &ids, &positions, &users, &salts, &bodies]).await
            })
            .await;
    }
    Ok(())
}

/// An answer to be kept: the digest of its key, the request's fingerprint, the encrypted answer.
pub(crate) type Keeping = (Vec<u8>, Vec<u8>, Vec<u8>);

/// Sends the answers that are kept for idempotency keys.
pub(crate) async fn send_kept<'a>(
    pipeline: &mut Pipeline<'a>,
    client: &'a Client,
    tenant: TenantId,
    kept: Vec<Keeping>,
    now: Timestamp,
) -> Result<(), Error> {
    if kept.is_empty() {
        return Ok(());
    }
    let statement = client.prepare_cached(KEEP_ANSWERS).await?;
    let mut columns = (vec![], vec![], vec![]);
    for (key, fingerprint, answer) in kept {
        columns.0.push(key);
        columns.1.push(fingerprint);
        columns.2.push(answer);
    }
    let now = system_time(now);
    pipeline
        .send(async move {
            client.query(&statement, &[&tenant, &columns.0, &columns.1, &columns.2, &now]).await
        })
        .await;
    Ok(())
}

/// Where a log has to end, and what has to be kept up with it, for events to be appended.
struct Ends {
    position: i64,
    epoch: i32,
    revision: i64,
}

impl Ends {
    const fn of(head: &Head) -> Self {
        Self { position: head.position, epoch: head.projection_epoch, revision: head.builds_revision }
    }
}

fn count(events: &[Arc<Recorded>]) -> i64 {
    i64::try_from(events.len()).unwrap_or(i64::MAX)
}

/// The columns of events to be appended, which of them are about whom, and the end users who are new.
#[derive(Default)]
struct Appending {
    ids: Vec<String>,
    kinds: Vec<String>,
    versions: Vec<i16>,
    about: Vec<String>,
    data: Vec<String>,
    metadata: Vec<String>,
    times: Vec<std::time::SystemTime>,
    hashes: Vec<Vec<u8>>,
    subjects: Vec<String>,
    positions: Vec<i64>,
    user_ids: Vec<String>,
    external_ids: Vec<String>,
}

impl Appending {
    fn of(events: &[Arc<Recorded>], people: Vec<(UserId, String)>) -> Self {
        let mut columns = Self::default();
        for (user_id, external_id) in people {
            columns.user_ids.push(user_id.to_string());
            columns.external_ids.push(external_id);
        }
        for event in events {
            let stored = &event.stored;
            columns.ids.push(stored.event_id.to_string());
            columns.kinds.push(stored.kind.clone());
            columns.versions.push(stored.version);
            // Ids have no character that an array literal would need to quote.
            columns.about.push(format!("{{{}}}", stored.subjects.join(",")));
            columns.data.push(stored.data.clone());
            columns.metadata.push(stored.metadata.clone());
            columns.times.push(system_time(stored.at));
            columns.hashes.push(stored.leaf_hash.to_vec());
            for subject in &stored.subjects {
                columns.subjects.push(subject.clone());
                columns.positions.push(stored.position);
            }
        }
        columns
    }

    async fn append(
        &self,
        client: &Client,
        statement: &tokio_postgres::Statement,
        tenant: TenantId,
        (from, to): (&Ends, &Head),
    ) -> Result<Vec<Row>, tokio_postgres::Error> {
        let (at, frontier, root) =
            (system_time(to.last_at), to.frontier.to_bytes(), to.frontier.root().to_vec());
        let parameters: [&(dyn ToSql + Sync); 20] = [
            &tenant,
            &from.position,
            &from.epoch,
            &from.revision,
            &to.position,
            &at,
            &frontier,
            &root,
            &self.ids,
            &self.kinds,
            &self.versions,
            &self.about,
            &self.data,
            &self.metadata,
            &self.times,
            &self.hashes,
            &self.subjects,
            &self.positions,
            &self.user_ids,
            &self.external_ids,
        ];
        client.query(statement, &parameters).await
    }
}
