//! Building read models anew from the log: beside the live ones, compared by digest, then switched.

use std::sync::Arc;

use serde::Serialize;
use theazo_projections::{ALL, Column, EPOCH, Kind, Projection};
use tokio::time::Instant;

use super::codec::{Codec, Unreadable};
use super::project::{self, Build};
use super::{Failure, Log, Recorded, Tenant, TenantId, append, open};
use crate::config;
use crate::database::{Client, Error, Pipeline, Scope, name_tenant};

/// A build of a read model.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BuildInfo {
    /// The projection.
    pub projection: String,
    /// Its number.
    pub build: i32,
    /// The version of the fold that made it.
    pub version: i32,
    /// `live`, `beside` or `building`.
    pub state: String,
}

/// What came of a rebuild or a comparison.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// The projection.
    pub projection: String,
    /// How many events were folded.
    pub events: i64,
    /// How many rows that gave.
    pub rows: i64,
    /// Whether the live read model had exactly those rows.
    pub equal: bool,
    /// Keys of rows in which the two differ, some of them.
    pub differing: Vec<String>,
    /// Whether the new build is served now.
    pub switched: bool,
    /// How long it took.
    pub seconds: f64,
}

/// How many differing keys a report names.
const NAMED_DIFFERENCES: i64 = 10;
/// The build number of a comparison, which exists inside its transaction only.
const COMPARED_BUILD: i32 = -1;
/// Events that are left to be folded under the lock of the head, at most.
const LAST_EVENTS: i64 = 500;

/// The builds of a tenant's read models.
///
/// # Errors
/// [`Error`] when the database is away.
pub async fn list(scope: Scope<'_>) -> Result<Vec<BuildInfo>, Error> {
    let sql = "select projection, build, version, state from projection_builds
               where tenant_id = $1 order by projection, build";
    let rows = scope.query(sql, &[]).await?;
    let info = |row: &tokio_postgres::Row| BuildInfo {
        projection: row.get(0),
        build: row.get(1),
        version: row.get(2),
        state: row.get(3),
    };
    Ok(rows.iter().map(info).collect())
}

/// Folds the whole log again and compares the outcome with what is served, all in one snapshot of the database,
/// so that it stands in nobody's way and leaves nothing behind.
///
/// # Errors
/// [`Failure`] when the database is away, or the log cannot be read.
pub async fn compare(
    log: &Arc<Log>,
    tenant: Tenant,
    projection: &'static dyn Projection,
) -> Result<Report, Failure> {
    log.open(tenant).await?;
    timed(log, async |client, codec| compare_on(client, codec, tenant.id, projection).await).await
}

/// Runs work on a connection that is closed behind it: with it go its advisory locks and whatever transaction was open.
async fn on_own_connection<T>(
    log: &Log,
    work: impl AsyncFnOnce(&Client, Codec) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let client = log.parts.database.appending().await?;
    let outcome = work(&client, log.parts.codec).await;
    drop(deadpool_postgres::Object::take(client));
    outcome
}

/// The same, and notes in its report how long it took.
async fn timed(
    log: &Log,
    work: impl AsyncFnOnce(&Client, Codec) -> Result<Report, Failure>,
) -> Result<Report, Failure> {
    let began = Instant::now();
    let report = on_own_connection(log, work).await?;
    Ok(Report { seconds: began.elapsed().as_secs_f64(), ..report })
}

async fn compare_on(
    client: &Client,
    codec: Codec,
    tenant: TenantId,
    projection: &'static dyn Projection,
) -> Result<Report, Failure> {
    begin_snapshot(client, tenant).await?;
    let events = position(client, tenant).await?;
    let build = Build { projection, number: COMPARED_BUILD };
    fold_range(client, codec, tenant, &[build], (0, events)).await?;
    let live = live_build(client, tenant, projection).await?;
    report(client, tenant, build, live, events).await
}

/// Builds a read model anew beside the live one, compares them by digest, and serves the new one from then on.
///
/// # Errors
/// [`Failure`] when the database is away, the log cannot be read, or another rebuild of it is under way.
pub async fn rebuild(
    log: &Arc<Log>,
    tenant: Tenant,
    projection: &'static dyn Projection,
) -> Result<Report, Failure> {
    log.open(tenant).await?;
    timed(log, async |client, codec| rebuild_on(client, codec, tenant.id, projection).await).await
}

async fn rebuild_on(
    client: &Client,
    codec: Codec,
    tenant: TenantId,
    projection: &'static dyn Projection,
) -> Result<Report, Failure> {
    claim(client, tenant, projection).await?;
    let build = begin_build(client, tenant, projection).await?;
    let reached = fold_almost(client, codec, tenant, build).await?;
    let events = open::locked(client, tenant, async |client| {
        let head = position(client, tenant).await?;
        fold_range(client, codec, tenant, &[build], (reached, head)).await.map_err(unfoldable)?;
        set_state(client, tenant, build, "beside").await?;
        Ok(head)
    })
    .await?;
    // From here on both are kept up inside the append, so in any one snapshot they stand at the same position.
    begin_snapshot(client, tenant).await?;
    let live = live_build(client, tenant, projection).await?;
    let mut report = report(client, tenant, build, live, events).await?;
    client.batch_execute("commit").await.map_err(Error::from)?;
    open::locked(client, tenant, async |client| switch(client, tenant, build, live).await).await?;
    report.switched = true;
    delete_rows(client, tenant, Build { number: live, projection }).await?;
    Ok(report)
}

/// Brings all read models of a tenant to this program's versions, and the log to its epoch. Until it is done, older
/// servers append; from then on they do not.
pub(super) async fn upgrade(log: &Arc<Log>, tenant: Tenant) -> Result<(), Failure> {
    on_own_connection(log, async |client, codec| upgrade_on(client, codec, tenant.id).await).await
}

async fn upgrade_on(client: &Client, codec: Codec, tenant: TenantId) -> Result<(), Failure> {
    let mut builds: Vec<(Build, i64)> = vec![];
    for info in ALL {
        claim(client, tenant, info).await?;
        begin_transaction(client, tenant).await?;
        let sql = "select version from projection_builds
                   where tenant_id = $1 and projection = $2 and state = 'live'";
        let live = client.query_opt(sql, &[&tenant, &info.table().name]).await.map_err(Error::from)?;
        client.batch_execute("commit").await.map_err(Error::from)?;
        if live.is_some_and(|row| row.get::<_, i32>(0) == info.version()) {
            continue;
        }
        let build = begin_build(client, tenant, info).await?;
        builds.push((build, fold_almost(client, codec, tenant, build).await?));
    }
    open::locked(client, tenant, async |client| {
        let head = position(client, tenant).await?;
        for (build, reached) in &builds {
            fold_range(client, codec, tenant, &[*build], (*reached, head)).await.map_err(unfoldable)?;
            let sql = "delete from projection_builds
                       where tenant_id = $1 and projection = $2 and state = 'live'";
            client.execute(sql, &[&tenant, &build.projection.table().name]).await?;
            set_state(client, tenant, *build, "live").await?;
        }
        let sql = "update heads set projection_epoch = $2, builds_revision = builds_revision + 1
                   where tenant_id = $1 and projection_epoch < $2";
        client.execute(sql, &[&tenant, &EPOCH]).await?;
        Ok(())
    })
    .await?;
    for (build, _) in builds {
        delete_other_rows(client, tenant, build).await?;
    }
    Ok(())
}

fn unfoldable(failure: Failure) -> Error {
    Error::Row(failure.to_string())
}

async fn begin_transaction(client: &Client, tenant: TenantId) -> Result<(), Error> {
    Ok(client.batch_execute(&format!("begin; {}", name_tenant(tenant))).await?)
}

/// A transaction that sees one moment of the database throughout, however long it takes.
async fn begin_snapshot(client: &Client, tenant: TenantId) -> Result<(), Error> {
    let begin = "begin isolation level repeatable read; set local statement_timeout = 0;
                 set local enable_hashjoin = on; set local enable_seqscan = on; set local enable_bitmapscan = on";
    Ok(client.batch_execute(&format!("{begin}; {}", name_tenant(tenant))).await?)
}

/// Takes the right to rebuild, which this connection holds until it is closed.
async fn claim(client: &Client, tenant: TenantId, projection: &dyn Projection) -> Result<(), Failure> {
    let name = format!("rebuild {} {}", tenant.0, projection.table().name);
    let row = client.query_one("select pg_try_advisory_lock(hashtextextended($1, 7432))", &[&name]).await;
    if row.map_err(Error::from)?.get(0) { Ok(()) } else { Err(Failure::Rebuilding) }
}

/// Registers a new build, and clears away what an interrupted rebuild has left.
async fn begin_build(
    client: &Client,
    tenant: TenantId,
    projection: &'static dyn Projection,
) -> Result<Build, Error> {
    let name = projection.table().name;
    let (number, left) = open::locked(client, tenant, async |client| {
        let sql = "delete from projection_builds where tenant_id = $1 and projection = $2 and state <> 'live'
                   returning build";
        let left: Vec<i32> =
            client.query(sql, &[&tenant, &name]).await?.iter().map(|row| row.get(0)).collect();
        // Above whatever number has been used, so that no row of an old build can come to life.
        let sql = format!(
            "select 1 + greatest((select coalesce(max(build), 0) from projection_builds
                                  where tenant_id = $1 and projection = $2),
                                 (select coalesce(max(build), 0) from {name} where tenant_id = $1))"
        );
        let number: i32 = client.query_one(&sql, &[&tenant, &name]).await?.get(0);
        let sql = "insert into projection_builds (tenant_id, projection, build, version, state)
                   values ($1, $2, $3, $4, 'building')";
        client.execute(sql, &[&tenant, &name, &number, &projection.version()]).await?;
        raise_revision(client, tenant).await?;
        Ok((number, left))
    })
    .await?;
    for number in left {
        delete_rows(client, tenant, Build { projection, number }).await?;
    }
    Ok(Build { projection, number })
}

/// Folds the log into a build, page by page, until little is left. Gives the position that it reached.
async fn fold_almost(client: &Client, codec: Codec, tenant: TenantId, build: Build) -> Result<i64, Failure> {
    let mut reached = 0;
    loop {
        begin_transaction(client, tenant).await?;
        let head = position(client, tenant).await?;
        let until = head.min(reached + config::LOG_PAGE);
        if head - reached > LAST_EVENTS {
            fold_range(client, codec, tenant, &[build], (reached, until)).await?;
            reached = until;
        }
        client.batch_execute("commit").await.map_err(Error::from)?;
        if head - reached <= LAST_EVENTS {
            return Ok(reached);
        }
    }
}

/// Folds a range of the log (after, until) into builds, inside the open transaction. The next page is on its way
/// while one is folded and written.
async fn fold_range(
    client: &Client,
    codec: Codec,
    tenant: TenantId,
    builds: &[Build],
    (mut after, until): (i64, i64),
) -> Result<(), Failure> {
    let mut page = vec![];
    while after < until {
        if page.is_empty() {
            page = append::events_between(client, tenant, after, until.min(after + config::LOG_PAGE)).await?;
        }
        let Some(last) = page.last() else {
            return Err(Failure::Internal(format!("the log has no event after {after} of {until}")));
        };
        after = last.position;
        // The page is asked for first, so that its rows travel while the present one is folded. They are taken in
        // meanwhile too: behind rows that nobody takes, the answers to what the fold writes would never come.
        let next = append::events_between(client, tenant, after, until.min(after + config::LOG_PAGE));
        let fold = write_page(client, codec, tenant, builds, std::mem::take(&mut page));
        let (next, folded) = futures_util::future::join(next, fold).await;
        folded?;
        page = next?;
    }
    Ok(())
}

async fn write_page(
    client: &Client,
    codec: Codec,
    tenant: TenantId,
    builds: &[Build],
    page: Vec<super::Stored>,
) -> Result<(), Failure> {
    let mut recorded = Vec::with_capacity(page.len());
    for stored in page {
        let event = codec.read(&stored.kind, stored.version, &stored.data).map_err(|error| match error {
            Unreadable::Newer(newer) => Failure::Newer(newer.to_string()),
            Unreadable::Broken { .. } => Failure::Internal(format!("position {}: {error}", stored.position)),
        })?;
        recorded.push(Recorded { stored: Arc::new(stored), event });
    }
    let writes = project::writes(project::fold(builds, recorded.iter()), builds);
    let mut pipeline = Pipeline::default();
    for write in writes {
        let statement = write.prepare(client).await?;
        write.send(&mut pipeline, client, statement, tenant).await;
    }
    pipeline.finish().await?;
    Ok(())
}

async fn position(client: &Client, tenant: TenantId) -> Result<i64, Error> {
    Ok(client.query_one("select position from heads where tenant_id = $1", &[&tenant]).await?.get(0))
}

async fn live_build(client: &Client, tenant: TenantId, projection: &dyn Projection) -> Result<i32, Error> {
    let row = client.query_one("select live_build($1, $2)", &[&tenant, &projection.table().name]).await?;
    row.try_get(0).map_err(|_| Error::Row(format!("{} has no live build", projection.table().name)))
}

async fn raise_revision(client: &Client, tenant: TenantId) -> Result<(), Error> {
    let sql = "update heads set builds_revision = builds_revision + 1 where tenant_id = $1";
    client.execute(sql, &[&tenant]).await?;
    Ok(())
}

async fn set_state(client: &Client, tenant: TenantId, build: Build, state: &str) -> Result<(), Error> {
    let sql =
        "update projection_builds set state = $4 where tenant_id = $1 and projection = $2 and build = $3";
    let name = build.projection.table().name;
    client.execute(sql, &[&tenant, &name, &build.number, &state]).await?;
    raise_revision(client, tenant).await
}

/// Serves a build that stands beside the live one.
async fn switch(client: &Client, tenant: TenantId, build: Build, live: i32) -> Result<(), Error> {
    let sql = "delete from projection_builds where tenant_id = $1 and projection = $2 and build = $3";
    client.execute(sql, &[&tenant, &build.projection.table().name, &live]).await?;
    set_state(client, tenant, build, "live").await
}

/// Deletes the rows of a build that is not served any more.
async fn delete_rows(client: &Client, tenant: TenantId, build: Build) -> Result<(), Error> {
    delete(client, tenant, build, "=").await
}

/// Deletes the rows of all builds but this one.
async fn delete_other_rows(client: &Client, tenant: TenantId, build: Build) -> Result<(), Error> {
    delete(client, tenant, build, "<>").await
}

/// Deletes the rows of builds whose numbers compare so with this one's, and whatever was packed of builds that are not live.
async fn delete(client: &Client, tenant: TenantId, build: Build, which: &str) -> Result<(), Error> {
    let name = build.projection.table().name;
    begin_snapshot(client, tenant).await?;
    let sql = format!("delete from {name} where tenant_id = $1 and build {which} $2");
    client.execute(&sql, &[&tenant, &build.number]).await?;
    let sql =
        "delete from packed_sums where tenant_id = $1 and projection = $2 and build <> live_build($1, $2)";
    client.execute(sql, &[&tenant, &name]).await?;
    Ok(client.batch_execute("commit").await?)
}

/// Compares two builds in the open snapshot.
async fn report(
    client: &Client,
    tenant: TenantId,
    build: Build,
    live: i32,
    events: i64,
) -> Result<Report, Failure> {
    let (rows, new) = digest(client, tenant, build).await?;
    let (_, served) = digest(client, tenant, Build { number: live, ..build }).await?;
    let equal = new == served;
    let differing = if equal { vec![] } else { differences(client, tenant, build, live).await? };
    let projection = build.projection.table().name.to_owned();
    Ok(Report { projection, events, rows, equal, differing, switched: false, seconds: 0.0 })
}

/// The number of a build's rows, and a digest that does not depend on their order: two sums of keyed hashes.
async fn digest(client: &Client, tenant: TenantId, build: Build) -> Result<(i64, String), Error> {
    let sql = format!(
        "select count(*), format('%s %s %s', count(*), sum(hashtextextended(r, 0)::numeric),
                                 sum(hashtextextended(r, 1)::numeric))
         from (select row({})::text as r from {} where tenant_id = $1 and build = $2) rows",
        columns(build),
        build.projection.table().name,
    );
    let row = client.query_one(&sql, &[&tenant, &build.number]).await?;
    Ok((row.get(0), row.get(1)))
}

/// The keys of some rows in which two builds differ.
async fn differences(
    client: &Client,
    tenant: TenantId,
    build: Build,
    live: i32,
) -> Result<Vec<String>, Error> {
    let table = build.projection.table();
    let keys: Vec<String> = table.key.iter().map(|column| format!("{}::text", column.name)).collect();
    let rows = |parameter| {
        format!(
            "select concat_ws(' ', {}) as k, row({})::text as r from {} where tenant_id = $1 and build = {parameter}",
            keys.join(", "),
            columns(build),
            table.name
        )
    };
    let (new, served) = (rows("$2"), rows("$3"));
    let sql = format!(
        "select distinct k from (({new} except {served}) union all ({served} except {new})) d order by k limit $4"
    );
    let rows = client.query(&sql, &[&tenant, &build.number, &live, &NAMED_DIFFERENCES]).await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// What of each row is compared. How many zeros end a sum depends on which changes were coalesced before they were
/// added, and says nothing.
fn columns(build: Build) -> String {
    let table = build.projection.table();
    let compared = |column: &Column| match column.kind {
        Kind::Decimal => format!("trim_scale({})", column.name),
        _ => column.name.to_owned(),
    };
    table.key.iter().chain(table.columns).map(compared).collect::<Vec<_>>().join(", ")
}
