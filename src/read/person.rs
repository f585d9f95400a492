//! End users by the caller's own ids.

use std::collections::HashMap;

use crate::database::{Error, Scope};

/// The caller's own ids of end users who were not erased, by their ids here.
///
/// # Errors
/// [`Error`] when the database is away.
pub async fn external_ids(scope: Scope<'_>, users: &[String]) -> Result<HashMap<String, String>, Error> {
    let sql = "select u.user_id, u.external_id from unnest($2::text[]) as asked(user_id) cross join lateral (
        select * from end_users where tenant_id = $1 and user_id = asked.user_id offset 0) u";
    let rows = scope.query(sql, &[&users]).await?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}
