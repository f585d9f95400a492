//! Sessions, their limits and what they have used.

use std::fmt::Write as _;

use rust_decimal::Decimal;
use serde_json::value::RawValue;
use theazo_domain::id::SessionId;
use theazo_domain::session::{Limits, Status};
use theazo_domain::time::Timestamp;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use super::{typed, word};
use crate::database::{Error, Scope, millis, system_time};

/// A session.
#[derive(Debug)]
pub struct Session {
    /// Its id.
    pub id: SessionId,
    /// Whose it is, as the caller knows them; `None` once the person was erased.
    pub user_id: Option<String>,
    /// Where it stands.
    pub status: Status,
    /// Its limits.
    pub limits: Limits,
    /// The caller's own key-value pairs, as they were sent.
    pub metadata: Option<Box<RawValue>>,
    /// Of the event that created it.
    pub position: i64,
    /// When it was created.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
}

/// Which sessions to list.
#[derive(Debug, Default)]
pub struct Filter {
    /// Of the end user whom the caller knows by this id.
    pub user_id: Option<String>,
    /// That stand there.
    pub status: Option<Status>,
    /// Created after this moment.
    pub created_after: Option<Timestamp>,
}

/// What a session has used.
#[derive(Debug)]
pub struct Usage {
    /// Its limits.
    pub limits: Limits,
    /// Settled charges, in units of the currency.
    pub cost: Decimal,
    /// The worst case of what is under way.
    pub reserved: Decimal,
    /// Charges of lost calls, until they are settled.
    pub unconfirmed: Decimal,
    /// Settled and unconfirmed charges of the present day in UTC; nothing where more was given back in it.
    pub spent_today: Decimal,
    /// The same of the present month.
    pub spent_this_month: Decimal,
    /// Compute, in milliseconds.
    pub compute_ms: i64,
    /// Agents that are neither terminated nor failed.
    pub active_agents: i64,
    /// Agents ever created.
    pub agents_created: i64,
    /// Calls of models.
    pub model_calls: i64,
    /// Of these, those of models that have no price yet.
    pub unrated_calls: i64,
    /// Their tokens of input.
    pub unrated_input_tokens: i64,
    /// Their tokens of output.
    pub unrated_output_tokens: i64,
}

const SELECT: &str = "select s.session_id, u.external_id, s.status, s.limits::text, c.body, s.position,
        s.created_at, s.updated_at
    from sessions s
    left join lateral (
      select external_id from end_users where tenant_id = $1 and user_id = s.user_id offset 0) u on true
    left join lateral (
      select body from content where tenant_id = $1 and content_id = s.metadata_content_id offset 0) c on true
    where s.tenant_id = $1 and s.build = live_build($1, 'sessions')";

/// A session; `None` where this tenant has none of this id.
///
/// # Errors
/// [`Error`] when the database is away.
pub async fn get(scope: Scope<'_>, id: SessionId) -> Result<Option<Session>, Error> {
    let sql = format!("{SELECT} and s.session_id = $2");
    let row = scope.query_optional(&sql, &[&id.to_string()]).await?;
    row.as_ref().map(session).transpose()
}

/// Sessions, newest first, from below a position on.
///
/// # Errors
/// [`Error`] when the database is away.
pub async fn list(
    scope: Scope<'_>,
    filter: &Filter,
    below: Option<i64>,
    limit: i64,
) -> Result<Vec<Session>, Error> {
    let status = filter.status.map(Status::as_str);
    let after = filter.created_after.map(system_time);
    let mut sql = SELECT.to_owned();
    let mut parameters: Vec<&(dyn ToSql + Sync)> = vec![&limit];
    // Each filter adds its condition only where it is used, so that each form has the index that it needs.
    let mut narrow = |condition: &str, parameter| {
        parameters.push(parameter);
        let number = format!("${}", parameters.len() + 1);
        let _ = write!(sql, " and {}", condition.replace('?', &number));
    };
    if let Some(user_id) = &filter.user_id {
        let of_user = "s.user_id = (select user_id from end_users where tenant_id = $1 and external_id = ?)";
        narrow(of_user, user_id);
    }
    match &status {
        // The index of open sessions is for whoever states its condition.
        Some(open) if filter.status != Some(Status::Terminated) => {
            narrow("s.status = ? and s.terminated_at is null", open);
        }
        Some(terminated) => narrow("s.status = ?", terminated),
        None => {}
    }
    if let Some(after) = &after {
        narrow("s.created_at > ?", after);
    }
    if let Some(below) = &below {
        // The time of the event at that position lets the index begin there.
        let at = "(select at from events where tenant_id = $1 and position = ?)";
        narrow(&format!("s.position < ? and s.created_at <= {at}"), below);
    }
    // The listing indexes are for whoever states their condition.
    sql.push_str(" and s.position > 0 order by s.created_at desc, s.position desc limit $2");
    scope.query(&sql, &parameters).await?.iter().map(session).collect()
}

/// What a session has used by now, and its limits; `None` where this tenant has none of this id.
///
/// # Errors
/// [`Error`] when the database is away.
pub async fn usage(scope: Scope<'_>, id: SessionId, now: Timestamp) -> Result<Option<Usage>, Error> {
    let sql =
        "select s.limits::text, coalesce(u.cost, 0), coalesce(u.reserved, 0), coalesce(u.unconfirmed, 0),
            coalesce(u.compute_ms, 0), coalesce(u.active_agents, 0), coalesce(u.agents_created, 0),
            coalesce(u.model_calls, 0), p.today, p.month, coalesce(u.unrated_calls, 0),
            coalesce(u.unrated_input_tokens, 0), coalesce(u.unrated_output_tokens, 0)
        from sessions s
        left join session_usage u on u.tenant_id = s.tenant_id and u.build = live_build($1, 'session_usage')
          and u.session_id = s.session_id
        cross join lateral (
          select coalesce(sum(spent) filter (where day = $3), 0) as today, coalesce(sum(spent), 0) as month
          from spending where tenant_id = $1 and build = live_build($1, 'spending')
            and owner = $2 and day >= $4 and day < $5) p
        where s.tenant_id = $1 and s.build = live_build($1, 'sessions') and s.session_id = $2";
    let month = now.day().month_start();
    let days = [now.day(), month, month.next_month()].map(|day| day.to_string());
    let parameters: [&(dyn ToSql + Sync); 4] = [&id.to_string(), &days[0], &days[1], &days[2]];
    let Some(row) = scope.query_optional(sql, &parameters).await? else { return Ok(None) };
    Ok(Some(Usage {
        limits: limits(row.try_get(0)?)?,
        cost: row.try_get(1)?,
        reserved: row.try_get(2)?,
        unconfirmed: row.try_get(3)?,
        compute_ms: row.try_get(4)?,
        active_agents: row.try_get(5)?,
        agents_created: row.try_get(6)?,
        model_calls: row.try_get(7)?,
        unrated_calls: row.try_get(10)?,
        unrated_input_tokens: row.try_get(11)?,
        unrated_output_tokens: row.try_get(12)?,
        spent_today: row.try_get::<_, Decimal>(8)?.max(Decimal::ZERO),
        spent_this_month: row.try_get::<_, Decimal>(9)?.max(Decimal::ZERO),
    }))
}

fn session(row: &Row) -> Result<Session, Error> {
    let metadata: Option<String> = row.try_get(4)?;
    let metadata = metadata.map(RawValue::from_string).transpose();
    Ok(Session {
        id: typed(row.try_get(0)?)?,
        user_id: row.try_get(1)?,
        status: word(row.try_get(2)?)?,
        limits: limits(row.try_get(3)?)?,
        metadata: metadata.map_err(|error| Error::Row(format!("metadata: {error}")))?,
        position: row.try_get(5)?,
        created_at: millis(row.try_get(6)?),
        updated_at: millis(row.try_get(7)?),
    })
}

fn limits(text: Option<&str>) -> Result<Limits, Error> {
    text.map_or_else(
        || Ok(Limits::default()),
        |text| serde_json::from_str(text).map_err(|error| Error::Row(format!("limits: {error}"))),
    )
}
