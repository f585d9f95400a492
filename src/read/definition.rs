//! Agent definitions and their versions.

use serde_json::value::RawValue;
use theazo_domain::agent_config::AgentConfig;
use theazo_domain::definition::Status;
use theazo_domain::id::DefinitionId;
use theazo_domain::time::Timestamp;
use tokio_postgres::Row;

use super::{typed, word};
use crate::database::{Error, Scope, millis};

/// A definition, as one of its versions says.
#[derive(Debug)]
pub struct Definition {
    /// Its id.
    pub id: DefinitionId,
    /// Which version this is.
    pub version: i64,
    /// What people call it.
    pub name: String,
    /// How agents of this version are set up.
    pub config: AgentConfig,
    /// The text that `config.instructions` refers to; `None` also where it was erased.
    pub instructions: Option<String>,
    /// The caller's own key-value pairs, as they were sent.
    pub metadata: Option<Box<RawValue>>,
    /// Where the definition stands, whichever version this is.
    pub status: Status,
    /// Of the event that created the definition.
    pub position: i64,
    /// When the definition was created.
    pub created_at: Timestamp,
    /// When the definition last changed.
    pub updated_at: Timestamp,
    /// When this version was made.
    pub versioned_at: Timestamp,
}

/// The tables are named apart from their conditions, so that each form of the query has the index that it needs.
const SELECT: &str = "select d.definition_id, v.version, v.name, v.config::text, i.body, m.body, d.status,
        d.position, d.created_at, d.updated_at, v.created_at
    from definitions d
    join definition_versions v on v.tenant_id = d.tenant_id and v.build = live_build($1, 'definition_versions')
      and v.definition_id = d.definition_id
    left join lateral (
      select body from content where tenant_id = $1 and content_id = v.instructions_content_id offset 0) i on true
    left join lateral (
      select body from content where tenant_id = $1 and content_id = v.metadata_content_id offset 0) m on true
    where d.tenant_id = $1 and d.build = live_build($1, 'definitions')";

/// A definition as its latest version says; `None` where this tenant has none of this id.
///
/// # Errors
/// [`Error`] when the database is away.
pub async fn get(scope: Scope<'_>, id: DefinitionId) -> Result<Option<Definition>, Error> {
    let sql = format!("{SELECT} and d.definition_id = $2 and v.version = d.version");
    let row = scope.query_optional(&sql, &[&id.to_string()]).await?;
    row.as_ref().map(definition).transpose()
}

/// A definition as this version of it says; `None` where this tenant has no such definition or version.
///
/// # Errors
/// [`Error`] when the database is away.
pub async fn version(scope: Scope<'_>, id: DefinitionId, version: i64) -> Result<Option<Definition>, Error> {
    let sql = format!("{SELECT} and d.definition_id = $2 and v.version = $3");
    let row = scope.query_optional(&sql, &[&id.to_string(), &version]).await?;
    row.as_ref().map(definition).transpose()
}

/// The versions of a definition, newest first, from below one on.
///
/// # Errors
/// [`Error`] when the database is away.
pub async fn versions(
    scope: Scope<'_>,
    id: DefinitionId,
    below: Option<i64>,
    limit: i64,
) -> Result<Vec<Definition>, Error> {
    let below = below.unwrap_or(i64::MAX);
    let sql =
        format!("{SELECT} and d.definition_id = $2 and v.version < $3 order by v.version desc limit $4");
    let rows = scope.query(&sql, &[&id.to_string(), &below, &limit]).await?;
    rows.iter().map(definition).collect()
}

/// Definitions as their latest versions say, newest first, from below a position on.
///
/// # Errors
/// [`Error`] when the database is away.
pub async fn list(
    scope: Scope<'_>,
    archived_too: bool,
    below: Option<i64>,
    limit: i64,
) -> Result<Vec<Definition>, Error> {
    let status = if archived_too { "" } else { "and d.status = 'active'" };
    let below = below.unwrap_or(i64::MAX);
    // The listing indexes are for whoever states their condition.
    let sql = format!(
        "{SELECT} and v.version = d.version {status} and d.position > 0 and d.position < $2
         order by d.position desc limit $3"
    );
    scope.query(&sql, &[&below, &limit]).await?.iter().map(definition).collect()
}

fn definition(row: &Row) -> Result<Definition, Error> {
    let wrong = |what: &str, error| Error::Row(format!("{what}: {error}"));
    let metadata: Option<String> = row.try_get(5)?;
    let metadata = metadata.map(RawValue::from_string).transpose();
    Ok(Definition {
        id: typed(row.try_get(0)?)?,
        version: row.try_get(1)?,
        name: row.try_get(2)?,
        config: serde_json::from_str(row.try_get(3)?).map_err(|error| wrong("configuration", error))?,
        instructions: row.try_get(4)?,
        metadata: metadata.map_err(|error| wrong("metadata", error))?,
        status: word(row.try_get(6)?)?,
        position: row.try_get(7)?,
        created_at: millis(row.try_get(8)?),
        updated_at: millis(row.try_get(9)?),
        versioned_at: millis(row.try_get(10)?),
    })
}
