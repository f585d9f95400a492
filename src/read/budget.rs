//! Budgets, and what is held against them.

use rust_decimal::Decimal;
use theazo_domain::budget::{Action, Scope as Owned};
use theazo_domain::session::CostPeriod;
use theazo_domain::time::Timestamp;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use super::word;
use crate::database::{Error, Scope, millis};

/// A budget, and how far it is used.
#[derive(Debug)]
pub struct Budget {
    /// Whose it is.
    pub scope: Owned,
    /// The end user as the caller knows them; `None` for the organization's, and once the person was erased.
    pub user_id: Option<String>,
    /// In cents.
    pub amount: i64,
    /// Over which it counts.
    pub period: CostPeriod,
    /// Percent, in rising order.
    pub thresholds: Vec<u16>,
    /// What happens when it is used up.
    pub action: Action,
    /// Settled and unconfirmed charges of the present period, in units of the currency; nothing where more was given
    /// back in it.
    pub spent: Decimal,
    /// The worst case of what is under way.
    pub reserved: Decimal,
    /// What listings are ordered by.
    pub rank: i64,
    /// When it was set.
    pub updated_at: Timestamp,
}

const SELECT: &str =
    "select b.scope, u.external_id, b.amount, b.period, b.thresholds::text, b.action, b.rank,
        b.updated_at, case b.period when 'day' then p.today else p.month end, p.reserved
    from budgets b
    left join end_users u on u.tenant_id = b.tenant_id and u.user_id = b.user_id
    cross join lateral (
      select coalesce(sum(spent) filter (where day = $2), 0) as today, coalesce(sum(spent), 0) as month,
        coalesce(sum(reserved), 0) as reserved
      from spending where tenant_id = $1 and build = live_build($1, 'spending') and owner = b.owner
        and (day = '' or day >= $3 and day < $4)) p
    where b.tenant_id = $1 and b.build = live_build($1, 'budgets')";

/// The budget of an owner, as its text in the log is; `None` where none is set.
///
/// # Errors
/// [`Error`] when the database is away.
pub async fn get(scope: Scope<'_>, owner: &str, now: Timestamp) -> Result<Option<Budget>, Error> {
    let sql = format!("{SELECT} and b.owner = $5");
    let [today, month, next] = days(now);
    let row = scope.query_optional(&sql, &[&today, &month, &next, &owner]).await?;
    row.as_ref().map(read).transpose()
}

/// Budgets, the organization's first and then users', those set last first, from below a rank on.
///
/// # Errors
/// [`Error`] when the database is away.
pub async fn list(
    scope: Scope<'_>,
    below: Option<i64>,
    limit: i64,
    now: Timestamp,
) -> Result<Vec<Budget>, Error> {
    let [today, month, next] = days(now);
    let mut parameters: Vec<&(dyn ToSql + Sync)> = vec![&today, &month, &next, &limit];
    let mut sql = SELECT.to_owned();
    if let Some(below) = &below {
        parameters.push(below);
        sql.push_str(" and b.rank < $6");
    }
    // The index is for whoever states its condition.
    sql.push_str(" and b.rank > 0 order by b.rank desc limit $5");
    scope.query(&sql, &parameters).await?.iter().map(read).collect()
}

fn days(now: Timestamp) -> [String; 3] {
    let month = now.day().month_start();
    [now.day(), month, month.next_month()].map(|day| day.to_string())
}

fn read(row: &Row) -> Result<Budget, Error> {
    let thresholds = serde_json::from_str(row.try_get(4)?);
    Ok(Budget {
        scope: word(row.try_get(0)?)?,
        user_id: row.try_get(1)?,
        amount: row.try_get(2)?,
        period: word(row.try_get(3)?)?,
        thresholds: thresholds.map_err(|error| Error::Row(format!("budgets.thresholds: {error}")))?,
        action: word(row.try_get(5)?)?,
        rank: row.try_get(6)?,
        updated_at: millis(row.try_get(7)?),
        spent: row.try_get::<_, Decimal>(8)?.max(Decimal::ZERO),
        reserved: row.try_get(9)?,
    })
}
