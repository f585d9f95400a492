//! Calls to models whose usage is unconfirmed.

use rust_decimal::Decimal;
use theazo_domain::id::{AgentId, CallId, SessionId, TaskId};
use theazo_domain::time::Timestamp;
use tokio_postgres::Row;

use super::typed;
use crate::database::{Error, Scope, millis};

/// A call to a model whose usage is unconfirmed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unconfirmed {
    /// The call.
    pub call_id: CallId,
    /// Whose it is.
    pub agent_id: AgentId,
    /// The agent's session.
    pub session_id: SessionId,
    /// The caller's own id of the session's user, where that was not erased.
    pub user_id: Option<String>,
    /// For which task it was.
    pub task_id: TaskId,
    /// The model's id at its vendor's.
    pub model: String,
    /// What it may have cost at most, in units of the currency.
    pub cost: Decimal,
    /// Why it is unconfirmed.
    pub reason: String,
    /// The call's id at its vendor's.
    pub vendor_id: Option<String>,
    /// Of the event that ended it.
    pub position: i64,
    /// When it ended.
    pub created_at: Timestamp,
    /// Tokens of input at most, where its model has no price; else 0.
    pub unrated_input_tokens: i64,
    /// The same of output.
    pub unrated_output_tokens: i64,
}

const SELECT: &str = "select c.call_id, c.agent_id, c.session_id, u.external_id, c.task_id, c.model, c.cost,
        c.reason, c.vendor_id, c.position, c.created_at,
        c.unrated_input_tokens, c.unrated_output_tokens
    from unconfirmed_calls c
    left join end_users u on u.tenant_id = c.tenant_id and u.user_id = c.user_id
    where c.tenant_id = $1 and c.build = live_build($1, 'unconfirmed_calls')";

/// A call; none where it is not unconfirmed.
///
/// # Errors
/// [`Error`] when the database is away.
pub async fn get(scope: Scope<'_>, call_id: CallId) -> Result<Option<Unconfirmed>, Error> {
    let sql = format!("{SELECT} and c.call_id = $2");
    let row = scope.query_optional(&sql, &[&call_id.to_string()]).await?;
    row.as_ref().map(unconfirmed).transpose()
}

/// Calls, newest first, from below a position on.
///
/// # Errors
/// [`Error`] when the database is away.
pub async fn list(scope: Scope<'_>, below: Option<i64>, limit: i64) -> Result<Vec<Unconfirmed>, Error> {
    let below = below.unwrap_or(i64::MAX);
    // The index is for whoever states its condition.
    let sql = format!("{SELECT} and c.position > 0 and c.position < $2 order by c.position desc limit $3");
    scope.query(&sql, &[&below, &limit]).await?.iter().map(unconfirmed).collect()
}

fn unconfirmed(row: &Row) -> Result<Unconfirmed, Error> {
    Ok(Unconfirmed {
        call_id: typed(row.try_get(0)?)?,
        agent_id: typed(row.try_get(1)?)?,
        session_id: typed(row.try_get(2)?)?,
        user_id: row.try_get(3)?,
        task_id: typed(row.try_get(4)?)?,
        model: row.try_get(5)?,
        cost: row.try_get(6)?,
        reason: row.try_get(7)?,
        vendor_id: row.try_get(8)?,
        position: row.try_get(9)?,
        created_at: millis(row.try_get(10)?),
        unrated_input_tokens: row.try_get(11)?,
        unrated_output_tokens: row.try_get(12)?,
    })
}
