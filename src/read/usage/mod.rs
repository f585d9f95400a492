//! Usage and billing: every figure is a sum over lines of the ledger for a period, as they stood at one position of
//! the log. Only the number of sessions that were created comes from the listing of sessions.
//!
//! A period is made of whole months, days, hours and minutes whose sums are kept, and of seconds whose lines are summed
//! up: however much has happened, as many rows are read. What came after the position is taken away again.

mod entries;
mod export;
mod kept;
mod packed;
mod packing;
mod plan;
mod shares;
mod totals;

use std::time::SystemTime;

use theazo_domain::time::Timestamp;
use theazo_projections::grain::{Grain, Piece, cover};
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;
use ulid::Ulid;

pub use entries::{Entry, Filter, Place, entries};
pub use export::{Group, Part, account_name, begun, entries_after, groups};
pub use kept::KeptSums;
pub use packed::packed_until;
pub use packing::pack;
pub use shares::{By, Share, called, shares, users_of};
pub use totals::{Total, Unrated, daily, totals, unrated};

use crate::database::{Error, Scope, millis, system_time};

/// A period of time: from its first moment to before its end, both whole seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Period {
    /// Its first moment.
    pub from: Timestamp,
    /// The first moment after it.
    pub until: Timestamp,
}

/// A position of a log: views show what it was then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pin {
    /// The last event that counts.
    pub position: i64,
    /// When that happened: nothing that counts has a later time.
    pub at: Timestamp,
}

/// The end of a log, or a position of it.
///
/// # Errors
/// [`Error`] when the database is away.
pub async fn pin(scope: Scope<'_>, position: Option<i64>) -> Result<Pin, Error> {
    // The position comes out of a select of its own: the wall between tenants lets no index be used by a `coalesce`.
    let sql = "select e.position, e.at from events e where e.tenant_id = $1 and e.position =
        (select coalesce($2, h.position) from heads h where h.tenant_id = $1)";
    let found = scope.query_optional(sql, &[&position]).await?;
    let pin = |row: Row| Pin { position: row.get(0), at: millis(row.get(1)) };
    Ok(found.map_or(Pin { position: 0, at: Timestamp::default() }, pin))
}

impl Period {
    /// The period in which nothing is asked for that cannot be: nothing has a later time than the pin, so a period that
    /// goes on beyond it may as well end with that month, whose sum is one row.
    fn widened(self, pin: Pin) -> Self {
        if self.until <= pin.at {
            return self;
        }
        let end = Grain::Month.end(Grain::Month.floor(pin.at));
        Self { from: self.from.min(end), until: end }
    }
}

/// The pieces of a period as the statements take them.
struct Pieces {
    grains: Vec<&'static str>,
    since: Vec<SystemTime>,
    until: Vec<SystemTime>,
    signs: Vec<i64>,
    pinned: i64,
    whole: (SystemTime, SystemTime),
}

/// What stands for the lines themselves among the grains.
const LINES: &str = "lines";

impl Pieces {
    fn of(period: Period, pin: Pin, grains: &[Grain]) -> Self {
        let Period { from, until } = period.widened(pin);
        Self::new(&cover(from, until, grains), (from, until), pin)
    }

    /// Of these pieces, and of what came after the pin from one moment to before another.
    fn new(pieces: &[Piece], (from, until): (Timestamp, Timestamp), pin: Pin) -> Self {
        Self {
            grains: pieces.iter().map(|piece| piece.grain.map_or(LINES, Grain::as_str)).collect(),
            since: pieces.iter().map(|piece| system_time(piece.from)).collect(),
            until: pieces.iter().map(|piece| system_time(piece.until)).collect(),
            signs: pieces.iter().map(|piece| piece.sign).collect(),
            pinned: pin.position,
            whole: (system_time(from), system_time(until)),
        }
    }

    /// The parameters `$2` to `$8` of a statement that begins with [`SOURCES`].
    fn parameters(&self) -> [&(dyn ToSql + Sync); 7] {
        [&self.grains, &self.since, &self.until, &self.signs, &self.pinned, &self.whole.0, &self.whole.1]
    }
}

/// The pieces, numbered from 1, and the lines that are summed up themselves: those within pieces that no grain is fine
/// enough for, and, taken away again under the number 0, those of the period that came after the pin. Lines that are not
/// late are found by their positions, since times follow positions.
const SOURCES: &str = "with pieces as materialized (
        select * from unnest($2::text[], $3::timestamptz[], $4::timestamptz[], $5::bigint[])
          with ordinality as p(grain, since, until, sign, n)
    ), lines as (
        select p.n, p.sign, l.* from pieces p cross join lateral (
            select * from ledger l where l.tenant_id = $1 and l.build = (select live_build($1, 'ledger')) and l.late = 0
              and l.position > position_before($1, p.since) and l.position <= position_before($1, p.until)
            offset 0) l
          where p.grain = 'lines'
        union all
        select p.n, p.sign, l.* from pieces p cross join lateral (
            select * from ledger l where l.tenant_id = $1 and l.build = (select live_build($1, 'ledger')) and l.late = 1
              and l.at >= p.since and l.at < p.until
            offset 0) l
          where p.grain = 'lines'
        union all
        select 0, -1, l.* from ledger l
          where l.tenant_id = $1 and l.build = (select live_build($1, 'ledger')) and l.position > $6
            and l.at >= $7 and l.at < $8
    )";

/// The sessions that were created in the pieces of these grains, as far as this condition holds, and under the number 0 those
/// of the whole period that came after the pin, to be taken away where they are counted.
/// An event's time is never before the one ahead of it, so those begin with the time of the pin. The condition on their
/// ids holds for all: it keeps the index by user from being read whole for each piece.
fn created_in(grains: &str, condition: &str) -> String {
    format!(
        ", created as (
        select p.n, p.sign, s.created_at, s.user_id, s.session_id from pieces p cross join lateral (
            select * from sessions s where {OF_SESSIONS} and s.created_at >= p.since and s.created_at < p.until
              and s.session_id <> '' offset 0) s
          where p.grain in ({grains}) {condition}
        union all
        select 0, -1, s.created_at, s.user_id, s.session_id from sessions s
          where {OF_SESSIONS} and s.position > $6 and s.created_at >= $7 and s.created_at < $8
            and s.created_at >= (select e.at from events e where e.tenant_id = $1 and e.position = $6)
    )"
    )
}

/// That a session was created before the pin.
const UNTIL_PIN: &str = "and s.position <= $6";

/// The sessions that were created from one moment to before another, up to the pin, under this number.
fn created_in_all(n: i64, (from, until): (&str, &str)) -> String {
    format!(
        ", created as (
        select {n}::bigint as n, s.created_at, s.user_id, s.session_id from sessions s
          where {OF_SESSIONS} {UNTIL_PIN} and s.created_at >= {from} and s.created_at < {until}
    )"
    )
}

/// The condition is that of the index by time.
const OF_SESSIONS: &str =
    "s.tenant_id = $1 and s.build = (select live_build($1, 'sessions')) and s.position > 0";

/// The lines that are charges and stand on a bill.
const IS_ENTRY: &str = "l.line in ('usage', 'rating', 'adjustment')";

/// The ULID of an id of any kind.
fn ulid(id: &str) -> Result<Ulid, Error> {
    let ulid = id.split_once('_').and_then(|(_, ulid)| Ulid::from_string(ulid).ok());
    ulid.ok_or_else(|| Error::Row(format!("{id:?} is no id")))
}
