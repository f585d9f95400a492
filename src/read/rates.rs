//! Rate cards that were imported, and usage that no card has given a price yet.

use serde::Serialize;
use theazo_domain::id::AgentId;
use theazo_domain::rates::Card;
use theazo_domain::time::Timestamp;
use tokio_postgres::Row;

use super::typed;
use crate::database::{Error, Scope, millis, system_time};

/// A card that was imported, without its prices.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Imported {
    /// Its version.
    pub version: String,
    /// From when on it applies.
    pub effective_from: Timestamp,
    /// Of the event that holds it.
    pub position: i64,
    /// SHA-256 of the card as it was given, in lower-case hex.
    pub sha256: String,
    /// When it was imported.
    pub imported_at: Timestamp,
}

const SELECT: &str = "select version, effective_from, position, sha256, imported_at from rate_cards
    where tenant_id = $1 and build = live_build($1, 'rate_cards')";

/// The card in force at a moment; none where that is the one that the program comes with.
///
/// # Errors
/// [`Error`] when the database is away.
pub async fn in_force(scope: Scope<'_>, at: Timestamp) -> Result<Option<Imported>, Error> {
    let sql =
        format!("{SELECT} and effective_from <= $2 order by effective_from desc, position desc limit 1");
    Ok(scope.query_optional(&sql, &[&system_time(at)]).await?.as_ref().map(Imported::from))
}

/// All cards that were imported, the one that applies last first.
///
/// # Errors
/// [`Error`] when the database is away.
pub async fn all(scope: Scope<'_>) -> Result<Vec<Imported>, Error> {
    let sql = format!("{SELECT} order by effective_from desc, position desc");
    Ok(scope.query(&sql, &[]).await?.iter().map(Imported::from).collect())
}

impl From<&Row> for Imported {
    fn from(row: &Row) -> Self {
        Self {
            version: row.get(0),
            effective_from: millis(row.get(1)),
            position: row.get(2),
            sha256: row.get(3),
            imported_at: millis(row.get(4)),
        }
    }
}

/// The card of a version; none where none was imported.
///
/// # Errors
/// [`Error`] when the database is away.
pub async fn card(scope: Scope<'_>, version: &str) -> Result<Option<Card>, Error> {
    let sql = "select card::text from rate_cards
        where tenant_id = $1 and build = live_build($1, 'rate_cards') and version = $2";
    let Some(row) = scope.query_optional(sql, &[&version]).await? else { return Ok(None) };
    let card = serde_json::from_str(row.get(0));
    card.map(Some).map_err(|error| Error::Row(format!("rate card {version}: {error}")))
}

/// The models that were used without a price.
///
/// # Errors
/// [`Error`] when the database is away.
pub async fn unrated_models(scope: Scope<'_>) -> Result<Vec<String>, Error> {
    let sql = "select distinct model from unrated_usage
        where tenant_id = $1 and build = live_build($1, 'unrated_usage') order by model";
    Ok(scope.query(sql, &[]).await?.iter().map(|row| row.get(0)).collect())
}

/// Agents that have used a model without a price, in the order of their ids from after one on.
///
/// # Errors
/// [`Error`] when the database is away.
pub async fn unrated_agents(
    scope: Scope<'_>,
    model: &str,
    after: &str,
    limit: i64,
) -> Result<Vec<AgentId>, Error> {
    let sql = "select agent_id from unrated_usage
        where tenant_id = $1 and build = live_build($1, 'unrated_usage') and model = $2 and agent_id > $3
        order by agent_id limit $4";
    let rows = scope.query(sql, &[&model, &after, &limit]).await?;
    rows.iter().map(|row| typed(row.get(0))).collect()
}
