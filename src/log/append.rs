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
use super::{Content, Recorded, SealedChange, Stored, TenantId, read, sealed};
use crate::database::{Client, Error, Pipeline, millis, name_tenant, system_time};

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

impl Wanted {
    /// Whether nothing has to be read.
    pub(crate) const fn is_nothing(&self) -> bool {
        self.people.is_empty()
            && self.subjects.is_empty()
            && self.people_as_subjects.is_empty()
            && self.keys.is_empty()
    }
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
}

const INSERT_EVENTS: &str = "
    insert into events (tenant_id, position, event_id, type, version, subjects, data, metadata, at, leaf_hash)
    select $1, position, event_id, type, version, subjects::text[], data::json, metadata::json, at, leaf_hash
    from unnest($2::bigint[], $3::text[], $4::text[], $5::smallint[], $6::text[], $7::text[], $8::text[],
                $9::timestamptz[], $10::bytea[])
      as u(position, event_id, type, version, subjects, data, metadata, at, leaf_hash)";
const INSERT_SUBJECTS: &str = "
    insert into event_subjects (tenant_id, subject, position)
    select $1, subject, position from unnest($2::text[], $3::bigint[]) as u(subject, position)";
const INSERT_PEOPLE: &str = "
    insert into end_users (tenant_id, user_id, external_id)
    select $1, user_id, external_id from unnest($2::text[], $3::text[]) as u(user_id, external_id)";
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
const MOVE_HEAD: &str = "
    update heads set position = $2, last_at = $3, frontier = $4, root = $5 where tenant_id = $1";
const KEEP_ANSWERS: &str = "
    insert into idempotency (tenant_id, key_digest, fingerprint, answer, created_at)
    select $1, key_digest, fingerprint, answer, $5
    from unnest($2::bytea[], $3::bytea[], $4::bytea[]) as u(key_digest, fingerprint, answer)";

// As long as the log ends where it is thought to; else error TH001, and nothing of the transaction is done.
const MOVE_HEAD_FROM: &str = "select move_head($1, $2, $3, $4, $5, $6, $7, $8)";

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

/// Sends the move of the head, with the beginning of the transaction where it has not begun.
async fn send_head<'a>(
    pipeline: &mut Pipeline<'a>,
    client: &'a Client,
    tenant: TenantId,
    (start, head): (Start, &Head),
    moves: bool,
) -> Result<(), Error> {
    let (frontier, root) = (head.frontier.to_bytes(), head.frontier.root().to_vec());
    let (position, at) = (head.position, system_time(head.last_at));
    match start {
        Start::Locked if moves => {
            let statement = client.prepare_cached(MOVE_HEAD).await?;
            pipeline
                .send(async move {
                    client.query(&statement, &[&tenant, &position, &at, &frontier, &root]).await
                })
                .await;
        }
        Start::Locked => {}
        Start::From(Head { position: from, projection_epoch: epoch, builds_revision: revision, .. }) => {
            let statement = client.prepare_cached(MOVE_HEAD_FROM).await?;
            let begin = format!("begin; {}", name_tenant(tenant));
            pipeline.send(async move { client.batch_execute(&begin).await.map(|()| vec![]) }).await;
            pipeline
                .send(async move {
                    let parameters: [&(dyn ToSql + Sync); 8] =
                        [&tenant, &from, &epoch, &revision, &position, &at, &frontier, &root];
                    client.query(&statement, &parameters).await
                })
                .await;
        }
    }
    Ok(())
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
    for sql in [MOVE_HEAD, MOVE_HEAD_FROM, INSERT_PEOPLE, INSERT_CONTENTS, UPSERT_SNAPSHOTS] {
        client.prepare_cached(sql).await?;
    }
    let (insert, about) =
        (client.prepare_cached(INSERT_EVENTS).await?, client.prepare_cached(INSERT_SUBJECTS).await?);
    send_head(pipeline, client, tenant, (start, head), !writes.events.is_empty()).await?;
    if !writes.events.is_empty() {
        let (events, subjects) = (events_columns(&writes.events), subjects_columns(&writes.events));
        pipeline.send(async move { events.insert(client, &insert, tenant).await }).await;
        let (names, positions) = subjects;
        pipeline.send(async move { client.query(&about, &[&tenant, &names, &positions]).await }).await;
    }
    send_beside(pipeline, client, tenant, (writes.people, writes.contents)).await?;
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

/// Sends what lies beside the log: new end users and personal content.
async fn send_beside<'a>(
    pipeline: &mut Pipeline<'a>,
    client: &'a Client,
    tenant: TenantId,
    (people, contents): (Vec<(UserId, String)>, Vec<Beside>),
) -> Result<(), Error> {
    if !people.is_empty() {
        let statement = client.prepare_cached(INSERT_PEOPLE).await?;
        let (ids, external): (Vec<String>, Vec<String>) =
            people.into_iter().map(|(id, external)| (id.to_string(), external)).unzip();
        pipeline.send(async move { client.query(&statement, &[&tenant, &ids, &external]).await }).await;
    }
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

/// The columns of events to be inserted.
#[derive(Default)]
struct EventColumns {
    positions: Vec<i64>,
    ids: Vec<String>,
    kinds: Vec<String>,
    versions: Vec<i16>,
    subjects: Vec<String>,
    data: Vec<String>,
    metadata: Vec<String>,
    times: Vec<std::time::SystemTime>,
    hashes: Vec<Vec<u8>>,
}

fn events_columns(events: &[Arc<Recorded>]) -> EventColumns {
    let mut columns = EventColumns::default();
    for event in events {
        let stored = &event.stored;
        columns.positions.push(stored.position);
        columns.ids.push(stored.event_id.to_string());
        columns.kinds.push(stored.kind.clone());
        columns.versions.push(stored.version);
        // Ids have no character that an array literal would need to quote.
        columns.subjects.push(format!("{{{}}}", stored.subjects.join(",")));
        columns.data.push(stored.data.clone());
        columns.metadata.push(stored.metadata.clone());
        columns.times.push(system_time(stored.at));
        columns.hashes.push(stored.leaf_hash.to_vec());
    }
    columns
}

fn subjects_columns(events: &[Arc<Recorded>]) -> (Vec<String>, Vec<i64>) {
    let pairs = events.iter().flat_map(|event| {
        event.stored.subjects.iter().map(|subject| (subject.clone(), event.stored.position))
    });
    pairs.unzip()
}

impl EventColumns {
    async fn insert(
        &self,
        client: &Client,
        statement: &tokio_postgres::Statement,
        tenant: TenantId,
    ) -> Result<Vec<Row>, tokio_postgres::Error> {
        client
            .query(
                statement,
                &[
                    &tenant,
                    &self.positions,
                    &self.ids,
                    &self.kinds,
                    &self.versions,
                    &self.subjects,
                    &self.data,
                    &self.metadata,
                    &self.times,
                    &self.hashes,
                ],
            )
            .await
    }
}
