//! The half of an appending transaction that writes: all that a batch comes to, in one round trip with the commit.
//!
//! What every batch writes, and its read models as far as they are written in ways that were met together before, is one
//! statement. Each statement costs the database as much as some of its rows, and where nothing else is to be written the
//! statement is the whole transaction.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};

use lru::LruCache;
use theazo_domain::id::UserId;
use theazo_domain::time::Timestamp;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use super::append::{Head, Snapshot};
use super::project::{Way, Write};
use super::{Content, Recorded, SealedChange, TenantId, hold, sealed};
use crate::config;
use crate::database::{Client, Error, Pipeline, system_time};

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

// As long as the log ends where it is thought to; else error TH001, and nothing of the transaction is done. All that is
// written is joined to that call, so that nothing is written before it: it names the tenant as well.
const APPEND: &str = "
    with head as materialized (select move_head($1, $2, $3, $4, $5, $6, $7, $8)),
    happened as (
      insert into events (tenant_id, position, event_id, type, version, subjects, data, metadata, at, leaf_hash)
      select $1, $2 + u.number, u.event_id, u.type, u.version, u.about::text[], u.data::json, u.metadata::json, u.at,
             u.leaf_hash
      from head cross join
        unnest($9::text[], $10::text[], $11::smallint[], $12::text[], $13::text[], $14::text[], $15::timestamptz[],
               $16::bytea[]) with ordinality
          as u(event_id, type, version, about, data, metadata, at, leaf_hash, number)),
    about as (
      insert into event_subjects (tenant_id, subject, position)
      select $1, u.subject, u.position
      from head cross join unnest($17::text[], $18::bigint[]) as u(subject, position)),
    met as (
      insert into end_users (tenant_id, user_id, external_id)
      select $1, u.user_id, u.external_id
      from head cross join unnest($19::text[], $20::text[]) as u(user_id, external_id))";
/// Its parameters; those of the rows of read models come behind them.
const APPEND_PARAMETERS: usize = 20;
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

/// The ways of writing that lately came together in a batch, with the statement for those that came more than once.
///
/// There are many, most of them hardly ever: only what comes again is worth a statement of its own.
pub(crate) struct Combinations(Mutex<LruCache<Vec<Way>, Option<Arc<str>>>>);

impl Default for Combinations {
    fn default() -> Self {
        let most = NonZeroUsize::new(config::COMBINATIONS).unwrap_or(NonZeroUsize::MIN);
        Self(Mutex::new(LruCache::new(most)))
    }
}

impl Combinations {
    /// The statement that appends events and writes these; none where they were not met together before.
    fn statement(&self, writes: &[Write]) -> Option<Arc<str>> {
        let mut met = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let ways: Vec<Way> = writes.iter().map(Write::way).collect();
        let again = met.contains(&ways);
        let statement = met.get_or_insert_mut(ways, || None);
        again.then(|| Arc::clone(statement.get_or_insert_with(|| together(writes).into())))
    }
}

/// The statement that appends events and writes these rows of read models.
fn together(writes: &[Write]) -> String {
    let mut sql = APPEND.to_owned();
    let mut parameters = APPEND_PARAMETERS;
    for (index, write) in writes.iter().enumerate() {
        let part = write.behind_head(parameters + 1);
        sql.push_str(&format!(",\n    written_{index} as ({part})"));
        parameters += write.parameters().count();
    }
    sql.push_str("\n    select from head");
    sql
}

/// Sends everything that a batch writes. Gives whether it has to be committed: what is one statement is a transaction by
/// itself.
pub(crate) async fn send<'a>(
    pipeline: &mut Pipeline<'a>,
    client: &'a Client,
    tenant: TenantId,
    (start, head): (Start, &Head),
    (mut writes, format): (Writes, i32),
    combinations: &Combinations,
) -> Result<bool, Error> {
    if client.statement_cache.size() > config::PREPARED_STATEMENTS {
        client.statement_cache.clear();
    }
    let (mut first, mut others): (Vec<Write>, Vec<Write>) =
        std::mem::take(&mut writes.projections).into_iter().partition(Write::stands_alone);
    first.sort_by_cached_key(Write::way);
    let sql = combinations.statement(&first).unwrap_or_else(|| {
        others.splice(0..0, std::mem::take(&mut first));
        together(&first).into()
    });
    // Prepared before the first is sent, so that nothing waits between them, and none is prepared in a transaction that
    // has failed already because the log has moved.
    let append = client.prepare_cached(&sql).await?;
    let mut prepared = Vec::with_capacity(others.len());
    for write in &others {
        prepared.push(write.prepare(client).await?);
    }
    for sql in [INSERT_CONTENTS, UPSERT_SNAPSHOTS] {
        client.prepare_cached(sql).await?;
    }
    let locked = matches!(start, Start::Locked);
    let whole = !locked && others.is_empty() && writes.has_nothing_beside();
    if !locked && !whole {
        pipeline.send(async { client.batch_execute("begin").await.map(|()| vec![]) }).await;
    }
    if !locked || !writes.events.is_empty() {
        let from = match start {
            Start::Locked => Ends { position: head.position - count(&writes.events), ..Ends::of(head) },
            Start::From(head) => Ends::of(&head),
        };
        let (events, people, to) = (writes.events, writes.people, head.clone());
        pipeline
            .send(async move {
                let events = Appending::of(&events, &people);
                events.append(client, &append, tenant, (&from, &to), &first).await
            })
            .await;
    }
    hold::send_lapsed(pipeline, client, tenant, writes.lapsed).await?;
    send_beside(pipeline, client, tenant, writes.contents).await?;
    sealed::send(pipeline, client, tenant, writes.sealed).await?;
    send_snapshots(pipeline, client, tenant, (writes.snapshots, format)).await?;
    for (write, statement) in others.into_iter().zip(prepared) {
        write.send(pipeline, client, statement, tenant).await;
    }
    Ok(!whole)
}

impl Writes {
    /// Whether nothing lies beside the events and the read models.
    fn has_nothing_beside(&self) -> bool {
        self.contents.is_empty()
            && self.sealed.is_empty()
            && self.snapshots.is_empty()
            && self.lapsed.is_empty()
    }
}

/// Sends states that are written down.
async fn send_snapshots<'a>(
    pipeline: &mut Pipeline<'a>,
    client: &'a Client,
    tenant: TenantId,
    (snapshots, format): (Vec<Snapshot>, i32),
) -> Result<(), Error> {
    if snapshots.is_empty() {
        return Ok(());
    }
    let statement = client.prepare_cached(UPSERT_SNAPSHOTS).await?;
    let subjects: Vec<String> = snapshots.iter().map(|snapshot| snapshot.subject.clone()).collect();
    let positions: Vec<i64> = snapshots.iter().map(|snapshot| snapshot.position).collect();
    let states: Vec<String> = snapshots.into_iter().map(|snapshot| snapshot.state).collect();
    pipeline
        .send(
            async move { client.query(&statement, &[&tenant, &subjects, &positions, &states, &format]).await },
        )
        .await;
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
struct Appending<'a> {
    ids: Vec<String>,
    kinds: Vec<&'a str>,
    versions: Vec<i16>,
    about: Vec<String>,
    data: Vec<&'a str>,
    metadata: Vec<&'a str>,
    times: Vec<std::time::SystemTime>,
    hashes: Vec<&'a [u8]>,
    subjects: Vec<&'a str>,
    positions: Vec<i64>,
    user_ids: Vec<String>,
    external_ids: Vec<&'a str>,
}

impl<'a> Appending<'a> {
    fn of(events: &'a [Arc<Recorded>], people: &'a [(UserId, String)]) -> Self {
        let mut columns = Self::default();
        for (user_id, external_id) in people {
            columns.user_ids.push(user_id.to_string());
            columns.external_ids.push(external_id);
        }
        for event in events {
            let stored = &event.stored;
            columns.ids.push(stored.event_id.to_string());
            columns.kinds.push(&stored.kind);
            columns.versions.push(stored.version);
            // Ids have no character that an array literal would need to quote.
            columns.about.push(format!("{{{}}}", stored.subjects.join(",")));
            columns.data.push(&stored.data);
            columns.metadata.push(&stored.metadata);
            columns.times.push(system_time(stored.at));
            columns.hashes.push(&stored.leaf_hash);
            for subject in &stored.subjects {
                columns.subjects.push(subject);
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
        rows: &[Write],
    ) -> Result<Vec<Row>, tokio_postgres::Error> {
        let (at, frontier, root) =
            (system_time(to.last_at), to.frontier.to_bytes(), to.frontier.root().to_vec());
        let mut parameters: Vec<&(dyn ToSql + Sync)> = vec![
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
        parameters.extend(rows.iter().flat_map(|write| write.parameters()));
        client.query(statement, &parameters).await
    }
}

#[cfg(test)]
mod tests {
    use theazo_projections::{Changes, Column, Happened, Projection, Table, Value};

    use super::super::project::{self, Build};
    use super::*;

    static TABLE: Table =
        Table { name: "tallies", key: &[Column::text("name")], columns: &[Column::integer("count")] };

    struct Tallies;

    impl Projection for Tallies {
        fn table(&self) -> &'static Table {
            &TABLE
        }

        fn version(&self) -> i32 {
            1
        }

        fn fold(&self, _: &Happened<'_>, _: &mut Changes) {}
    }

    fn writes_of(changes: Changes) -> Vec<Write> {
        project::writes(changes, &[Build { projection: &Tallies, number: 1 }])
    }

    fn key(name: &str) -> Vec<Value> {
        vec![Value::Text(name.to_owned())]
    }

    #[test]
    fn what_depends_on_what_was_written_before_does_not_stand_alone() {
        let mut changes = Changes::default();
        changes.put(&TABLE, key("c"), vec![Value::Integer(1)]);
        changes.delete(&TABLE, key("b"));
        changes.delete(&TABLE, key("a"));
        changes.add(&TABLE, key("a"), [("count", Value::Integer(1))]);
        let alone: Vec<bool> = writes_of(changes).iter().map(Write::stands_alone).collect();
        // What is put, what is deleted, and what is added behind that.
        assert_eq!(alone, [true, false, false]);
    }

    #[test]
    fn what_is_met_together_again_is_one_statement() {
        let combinations = Combinations::default();
        let mut changes = Changes::default();
        changes.add(&TABLE, key("a"), [("count", Value::Integer(1))]);
        changes.put(&TABLE, key("b"), vec![Value::Integer(1)]);
        let writes = writes_of(changes);
        assert!(combinations.statement(&writes).is_none());
        let sql = combinations.statement(&writes).unwrap();
        let first = "select $1, $21, u.name, u.count from head cross join unnest($22::text[], $23::bigint[])";
        let second =
            "select $1, $24, u.name, u.count from head cross join unnest($25::text[], $26::bigint[])";
        assert!(sql.contains(first) && sql.contains(second), "{sql}");
        assert!(combinations.statement(&writes[..1]).is_none());
    }
}
