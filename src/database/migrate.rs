//! Bringing the schema up to what this program needs, as a login that owns it.

use refinery::{Migration, Runner};
use tokio_postgres::{Client, Config};

use super::{Error, Tls};

/// Two servers that start at once migrate one after the other: the key of an advisory lock.
const LOCK: &str = "select pg_advisory_lock(7432816001)";

/// Every function that looks over the wall between tenants, before a tenant is known. They return a tenant and an
/// id; a test holds this list against the database.
pub const DEFINER_FUNCTIONS: [&str; 9] = [
    "claim_due_work",
    "claim_work",
    "find_key",
    "find_tenants",
    "hold_work",
    "release_lease",
    "release_leases",
    "renew_held_leases",
    "renew_leases",
];

fn migrations() -> Result<Vec<Migration>, refinery::Error> {
    [
        ("V1__event_log", include_str!("../../migrations/0001_event_log.sql")),
        ("V2__organizations", include_str!("../../migrations/0002_organizations.sql")),
        ("V3__sessions", include_str!("../../migrations/0003_sessions.sql")),
        ("V4__sealed", include_str!("../../migrations/0004_sealed.sql")),
        ("V5__secrets", include_str!("../../migrations/0005_secrets.sql")),
        ("V6__definitions", include_str!("../../migrations/0006_definitions.sql")),
        ("V7__providers", include_str!("../../migrations/0007_providers.sql")),
        ("V8__agents", include_str!("../../migrations/0008_agents.sql")),
        ("V9__rates", include_str!("../../migrations/0009_rates.sql")),
        ("V10__budgets", include_str!("../../migrations/0010_budgets.sql")),
        ("V11__usage", include_str!("../../migrations/0011_usage.sql")),
        ("V12__append", include_str!("../../migrations/0012_append.sql")),
        ("V13__hold_work", include_str!("../../migrations/0013_hold_work.sql")),
        ("V14__quick_reads", include_str!("../../migrations/0014_quick_reads.sql")),
        ("V15__created_sessions", include_str!("../../migrations/0015_created_sessions.sql")),
        ("V16__places_for_keeping_count", include_str!("../../migrations/0016_places_for_keeping_count.sql")),
        ("V17__renew_what_is_done", include_str!("../../migrations/0017_renew_what_is_done.sql")),
        ("V18__unrated_lost_calls", include_str!("../../migrations/0018_unrated_lost_calls.sql")),
        ("V19__unrated_in_sessions", include_str!("../../migrations/0019_unrated_in_sessions.sql")),
        ("V20__late_lines", include_str!("../../migrations/0020_late_lines.sql")),
        ("V21__packed_sums", include_str!("../../migrations/0021_packed_sums.sql")),
        ("V22__move_head", include_str!("../../migrations/0022_move_head.sql")),
        ("V23__unrated_totals", include_str!("../../migrations/0023_unrated_totals.sql")),
        ("V24__position_before", include_str!("../../migrations/0024_position_before.sql")),
    ]
    .into_iter()
    .map(|(name, sql)| Migration::unapplied(name, sql))
    .collect()
}

/// How far the schema of a database is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Schema {
    /// The version of the last migration that was applied; 0 in an empty database.
    pub applied: i32,
    /// The version of the last migration that this program knows.
    pub known: i32,
}

/// Looks how far the schema is.
///
/// # Errors
/// [`Error`] when the database is away or the login may not look.
pub async fn schema(client: &Client) -> Result<Schema, Error> {
    let known = migrations()?.iter().map(Migration::version).max().unwrap_or(0);
    let table = client.query_one("select to_regclass('refinery_schema_history') is not null", &[]).await?;
    let applied = if table.get(0) {
        client.query_one("select coalesce(max(version), 0) from refinery_schema_history", &[]).await?.get(0)
    } else {
        0
    };
    Ok(Schema { applied, known })
}

/// Applies the migrations that this database has not seen, each in a transaction of its own.
///
/// # Errors
/// [`Error`] when the login may not change the schema, a migration fails, or one that was applied has since been
/// changed.
pub async fn migrate(owner: &Config, tls: Tls) -> Result<(), Error> {
    let (mut client, connection) = owner.connect(tls).await?;
    let driver = tokio::spawn(connection);
    client.batch_execute(LOCK).await?;
    let outcome = Runner::new(&migrations()?).run_async(&mut client).await;
    // Closing the connection gives the lock back, whatever happened.
    drop(client);
    let _ = driver.await;
    outcome?;
    Ok(())
}
