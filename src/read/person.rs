//! End users by the caller's own ids.

use std::collections::HashMap;

use crate::database::{Error, Scope};

/// The caller's own ids of end users who were not erased, by their ids here.
///
/// # Errors
/// [`Error`] when the database is away.
pub async fn external_ids(scope: Scope<'_>, users: &[String]) -> Result<HashMap<String, String>, Error> {
    let sql = "select user_id, external_id from end_users where tenant_id = $1 and user_id = any($2)";
    let rows = scope.query(sql, &[&users]).await?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}
