//! Reading the log back.

use theazo_domain::time::Timestamp;
use tokio_postgres::Row;

use super::Stored;
use crate::database::{Error, Scope, millis};

/// The columns of an event, in the order that [`stored`] reads them.
pub(crate) const COLUMNS: &str = "e.position, e.event_id, e.type, e.version, e.subjects, e.data::text, \
                                  e.metadata::text, e.at, e.leaf_hash";

/// Which events to read.
#[derive(Debug, Clone)]
pub struct Filter {
    /// Only what comes after this position.
    pub after: i64,
    /// Only up to this position, itself included.
    pub until: i64,
    /// Only of this type.
    pub kind: Option<String>,
    /// Only about this subject.
    pub subject: Option<String>,
}

impl Default for Filter {
    fn default() -> Self {
        Self { after: 0, until: i64::MAX, kind: None, subject: None }
    }
}

/// Events, newest first, from below a position on.
///
/// # Errors
/// [`Error`] when the database is away.
pub async fn newest(
    scope: Scope<'_>,
    filter: &Filter,
    below: Option<i64>,
    limit: i64,
) -> Result<Vec<Stored>, Error> {
    let until = below.map_or(filter.until, |below| filter.until.min(below - 1));
    let from = source(filter);
    let sql = format!("select {COLUMNS} from {from} order by e.position desc limit $4");
    let mut newest = rows(scope, &sql, filter, (filter.after, until), limit).await?;
    if !newest.is_empty() && crate::planted::strikes("missing-row", 200) {
        newest.pop();
    }
    Ok(newest)
}

/// Events, oldest first.
///
/// # Errors
/// [`Error`] when the database is away.
pub async fn oldest(scope: Scope<'_>, filter: &Filter, limit: i64) -> Result<Vec<Stored>, Error> {
    let from = source(filter);
    let sql = format!("select {COLUMNS} from {from} order by e.position limit $4");
    rows(scope, &sql, filter, (filter.after, filter.until), limit).await
}

/// The joins and conditions of a filter. Each form has the index that it needs.
fn source(filter: &Filter) -> String {
    let mut from = "events e".to_owned();
    let mut conditions = "e.tenant_id = $1 and e.position > $2 and e.position <= $3".to_owned();
    if filter.subject.is_some() {
        from.push_str(" join event_subjects s on s.tenant_id = $1 and s.position = e.position");
        conditions.push_str(" and s.subject = $6 and s.position > $2 and s.position <= $3");
    }
    if filter.kind.is_some() {
        // The index by type is for whoever states its condition.
        conditions.push_str(" and e.type = $5 and e.position > 0");
    }
    // Both are always bound, so that there is one order of parameters.
    format!("{from} where {conditions} and ($5::text is null or true) and ($6::text is null or true)")
}

async fn rows(
    scope: Scope<'_>,
    sql: &str,
    filter: &Filter,
    (after, until): (i64, i64),
    limit: i64,
) -> Result<Vec<Stored>, Error> {
    let rows = scope.query(sql, &[&after, &until, &limit, &filter.kind, &filter.subject]).await?;
    rows.iter().map(stored).collect()
}

/// Events about a subject and of these types, newest first, from between two positions.
///
/// # Errors
/// [`Error`] when the database is away.
pub(crate) async fn newest_of(
    scope: Scope<'_>,
    (subject, kinds): (&str, &[&str]),
    (above, below): (i64, i64),
    limit: i64,
) -> Result<Vec<Stored>, Error> {
    let sql = format!(
        "select {COLUMNS} from event_subjects s
         join events e on e.tenant_id = $1 and e.position = s.position and e.type = any($5)
         where s.tenant_id = $1 and s.subject = $2 and s.position > $3 and s.position < $4
         order by s.position desc limit $6"
    );
    let rows = scope.query(&sql, &[&subject, &above, &below, &kinds, &limit]).await?;
    rows.iter().map(stored).collect()
}

/// The event at a position.
///
/// # Errors
/// [`Error`] when the database is away.
pub async fn at(scope: Scope<'_>, position: i64) -> Result<Option<Stored>, Error> {
    let sql = format!("select {COLUMNS} from events e where e.tenant_id = $1 and e.position = $2");
    scope.query_optional(&sql, &[&position]).await?.as_ref().map(stored).transpose()
}

/// The personal content that the event at a position refers to and that has not been erased: ids and bodies.
///
/// # Errors
/// [`Error`] when the database is away.
pub async fn contents(scope: Scope<'_>, position: i64) -> Result<Vec<(String, String)>, Error> {
    let sql = "select c.content_id, c.body from (
        select distinct (regexp_matches(data::text, 'cnt_[0-9A-HJKMNP-TV-Z]{26}', 'g'))[1] as content_id from events
        where tenant_id = $1 and position = $2) named cross join lateral (
        select * from content where tenant_id = $1 and content_id = named.content_id offset 0) c";
    let rows = scope.query(sql, &[&position]).await?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

/// The position of the last event; 0 in an empty log.
///
/// # Errors
/// [`Error`] when the database is away.
pub async fn head(scope: Scope<'_>) -> Result<i64, Error> {
    let row = scope.query_optional("select position from heads where tenant_id = $1", &[]).await?;
    Ok(row.map_or(0, |row| row.get(0)))
}

/// The position of the event that ended an agent; 0 where nothing has.
///
/// # Errors
/// [`Error`] when the database is away.
pub async fn ending_of_agent(scope: Scope<'_>, agent: &str) -> Result<i64, Error> {
    let sql = "select coalesce(max(e.position), 0) from event_subjects s
        join events e on e.tenant_id = $1 and e.position = s.position
        where s.tenant_id = $1 and s.subject = $2 and e.type in ('agent.terminated', 'agent.failed')";
    let row = scope.query_optional(sql, &[&agent]).await?;
    Ok(row.map_or(0, |row| row.get(0)))
}

/// The position of the last event before a moment; 0 when there is none.
///
/// # Errors
/// [`Error`] when the database is away.
pub async fn position_before(scope: Scope<'_>, moment: Timestamp) -> Result<i64, Error> {
    let moment = crate::database::system_time(moment);
    let row = scope.query_optional("select position_before($1, $2)", &[&moment]).await?;
    Ok(row.map_or(0, |row| row.get(0)))
}

/// Reads the columns of [`COLUMNS`].
pub(crate) fn stored(row: &Row) -> Result<Stored, Error> {
    let unreadable = |what: &str| Error::Row(format!("events.{what} at position {}", row.get::<_, i64>(0)));
    Ok(Stored {
        position: row.get(0),
        event_id: row.get::<_, &str>(1).parse().map_err(|_| unreadable("event_id"))?,
        kind: row.get(2),
        version: row.get(3),
        subjects: row.get(4),
        data: row.get(5),
        metadata: row.get(6),
        at: millis(row.get(7)),
        leaf_hash: row.get::<_, &[u8]>(8).try_into().map_err(|_| unreadable("leaf_hash"))?,
    })
}
