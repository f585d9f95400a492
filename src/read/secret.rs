//! Secrets: which there are, and, for what runs in a session, what they say.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use theazo_domain::id::SessionId;
use theazo_domain::secret::{Name, Scope as Confided, taken};
use theazo_domain::time::Timestamp;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use super::{sealed, typed};
use crate::database::{Error, Scope, millis};
use crate::vault::{self, Address, Masters, Plaintext};

/// A secret, without its value.
#[derive(Debug)]
pub struct Secret {
    /// Its name.
    pub name: Name,
    /// Who can use it.
    pub scope: Confided,
    /// Of the event that set it first.
    pub position: i64,
    /// When it was set first.
    pub created_at: Timestamp,
}

/// What the secrets that a session sees say, by their names.
pub type Visible = BTreeMap<Name, Plaintext>;

const SELECT: &str = "select s.name, s.scope, s.position, s.created_at from secrets s
    where s.tenant_id = $1 and s.build = live_build($1, 'secrets')";

/// A secret; `None` where none of this name is set in this scope.
///
/// # Errors
/// [`Error`] when the database is away.
pub async fn get(scope: Scope<'_>, confided: Confided, name: &Name) -> Result<Option<Secret>, Error> {
    let sql = format!("{SELECT} and s.scope = $2 and s.name = $3");
    let row = scope.query_optional(&sql, &[&confided.to_string(), &name.as_str()]).await?;
    row.as_ref().map(secret).transpose()
}

/// Secrets, newest first, from below a position on: of one scope, or of all of the tenant.
///
/// # Errors
/// [`Error`] when the database is away.
pub async fn list(
    scope: Scope<'_>,
    confided: Option<Confided>,
    below: Option<i64>,
    limit: i64,
) -> Result<Vec<Secret>, Error> {
    let confided = confided.map(|confided| confided.to_string());
    let mut sql = SELECT.to_owned();
    let mut parameters: Vec<&(dyn ToSql + Sync)> = vec![&limit];
    if let Some(confided) = &confided {
        parameters.push(confided);
        let _ = write!(sql, " and s.scope = ${}", parameters.len() + 1);
    }
    if let Some(below) = &below {
        parameters.push(below);
        let _ = write!(sql, " and s.position < ${}", parameters.len() + 1);
    }
    sql.push_str(" and s.position > 0 order by s.position desc limit $2");
    scope.query(&sql, &parameters).await?.iter().map(secret).collect()
}

/// All secrets that what runs in a session sees, opened: the organization's and the session's own, which hide those
/// of the same name.
///
/// # Errors
/// [`vault::Error`] when one does not open, since it was changed or the master key is gone, and when the database is
/// away.
pub async fn visible(
    scope: Scope<'_>,
    masters: &Masters,
    session_id: SessionId,
) -> Result<Visible, vault::Error> {
    let rows = opened(scope, masters, session_id, None).await?;
    Ok(rows.into_iter().collect())
}

/// Which values the secrets of the organization and of a session have at present: where these are the same as before,
/// so are the values.
///
/// # Errors
/// [`Error`] when the database is away.
pub async fn versions(scope: Scope<'_>, session_id: SessionId) -> Result<Vec<String>, Error> {
    let sql = "select s.version from secrets s
        where s.tenant_id = $1 and s.build = live_build($1, 'secrets') and s.scope in ('org', $2)
        order by s.scope, s.name";
    let rows = scope.query(sql, &[&session_id.to_string()]).await?;
    rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
}

/// The same as [`visible`] of one name.
///
/// # Errors
/// As [`visible`].
pub async fn visible_one(
    scope: Scope<'_>,
    masters: &Masters,
    session_id: SessionId,
    name: &Name,
) -> Result<Option<Plaintext>, vault::Error> {
    let rows = opened(scope, masters, session_id, Some(name)).await?;
    Ok(rows.into_iter().next().map(|(_, value)| value))
}

/// What the secrets of a scope take but for the one of this name, in bytes, as [`taken`] counts.
///
/// # Errors
/// [`Error`] when the database is away.
pub async fn taken_by_others(scope: Scope<'_>, confided: Confided, name: &Name) -> Result<u64, Error> {
    let sql = "select s.name, octet_length(v.ciphertext)::bigint from secrets s
        cross join lateral (
          select ciphertext from sealed_values
          where tenant_id = $1 and place = 'secret/' || s.scope || '/' || s.name offset 0) v
        where s.tenant_id = $1 and s.build = live_build($1, 'secrets') and s.scope = $2 and s.name <> $3";
    let rows = scope.query(sql, &[&confided.to_string(), &name.as_str()]).await?;
    let by = |row: &Row| {
        let (name, sealed): (&str, i64) = (row.try_get(0)?, row.try_get(1)?);
        let bytes = |number| u64::try_from(number).unwrap_or_default();
        let name = u64::try_from(name.len()).unwrap_or(u64::MAX);
        Ok(taken(name, bytes(sealed - vault::TAG_BYTES)))
    };
    rows.iter().map(by).sum()
}

/// Whether what runs in a session sees a secret of this name.
///
/// # Errors
/// [`Error`] when the database is away.
pub async fn is_visible(scope: Scope<'_>, session_id: SessionId, name: &str) -> Result<bool, Error> {
    let sql = "select 1 from secrets s where s.tenant_id = $1 and s.build = live_build($1, 'secrets')
        and s.scope in ('org', $2) and s.name = $3 limit 1";
    Ok(scope.query_optional(sql, &[&session_id.to_string(), &name]).await?.is_some())
}

async fn opened(
    scope: Scope<'_>,
    masters: &Masters,
    session_id: SessionId,
    name: Option<&Name>,
) -> Result<Vec<(Name, Plaintext)>, vault::Error> {
    let session_id = session_id.to_string();
    let mut parameters: Vec<&(dyn ToSql + Sync)> = vec![&session_id];
    let name = name.map(Name::as_str);
    let mut narrowed = "";
    if let Some(name) = &name {
        parameters.push(name);
        narrowed = "and s.name = $3";
    }
    // The version is the one of the read model: what lies there opens as that one or not at all.
    let sql = format!(
        "select distinct on (s.name) s.name, s.scope, s.version, v.master_key_id, v.data_key, v.nonce, v.ciphertext
         from secrets s
         left join lateral (
           select * from sealed_values
           where tenant_id = $1 and place = 'secret/' || s.scope || '/' || s.name offset 0) v on true
         where s.tenant_id = $1 and s.build = live_build($1, 'secrets') and s.scope in ('org', $2) {narrowed}
         order by s.name, s.scope = 'org'"
    );
    let rows = scope.query(&sql, &parameters).await?;
    rows.iter().map(|row| open(scope, masters, row)).collect()
}

fn open(scope: Scope<'_>, masters: &Masters, row: &Row) -> Result<(Name, Plaintext), vault::Error> {
    let column = |error: tokio_postgres::Error| vault::Error::from(error);
    let name: Name = typed(row.try_get(0).map_err(column)?)?;
    let confided: Confided = typed(row.try_get(1).map_err(column)?)?;
    let version = typed(row.try_get(2).map_err(column)?)?;
    let address = Address { tenant: scope.tenant(), place: confided.place(&name), version };
    let damaged = |master_key_id: &str| vault::Error::Damaged {
        name: address.place.clone(),
        master_key_id: master_key_id.to_owned(),
    };
    let master_key_id: Option<String> = row.try_get(3).map_err(column)?;
    let master_key_id = master_key_id.ok_or_else(|| damaged("none"))?;
    let opened = vault::sealed::open(masters, &address, &sealed::sealed(row, 3)?)?;
    let value = Plaintext::from_opened(&opened).ok_or_else(|| damaged(&master_key_id))?;
    Ok((name, value))
}

fn secret(row: &Row) -> Result<Secret, Error> {
    Ok(Secret {
        name: typed(row.try_get(0)?)?,
        scope: typed(row.try_get(1)?)?,
        position: row.try_get(2)?,
        created_at: millis(row.try_get(3)?),
    })
}
