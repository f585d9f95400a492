//! Sums of periods that have ended, as they were packed into a row each.

use std::sync::Arc;

use rust_decimal::Decimal;
use theazo_domain::time::Timestamp;
use theazo_projections::grain::Grain;
use theazo_projections::ledger::usage::{AGENT_GRAINS, USER_GRAINS};
use tokio_postgres::Row;
use tokio_postgres::types::{FromSql, Type};

use super::kept::{Book, KeptSums, Pages, Part, Unit, Used};
use super::shares::By;
use super::{IS_ENTRY, OF_SESSIONS, Pin};
use crate::config;
use crate::database::{Error, Scope, millis, system_time};

/// Whether a period's sums are packed once it has ended: in a minute few work.
pub(super) const fn is_packed(grain: Grain) -> bool {
    !matches!(grain, Grain::Minute)
}

/// The moment up to which whole periods are packed.
#[must_use]
pub fn packed_until(pin: Pin) -> Timestamp {
    let after = i64::try_from(config::PACK_AFTER.as_millis()).unwrap_or(i64::MAX);
    Timestamp::from_millis(pin.at.millis().saturating_sub(after).max(0))
}

/// The read model that the sums of a period are in.
fn projection(by: By, grain: Grain) -> &'static str {
    if by == By::User && USER_GRAINS.contains(&grain) { "usage_by_user" } else { "usage_by_agent" }
}

/// Puts into the tenant's book what is packed of these periods, which ended before the pin. Gives the book, which is of the
/// builds that were read.
///
/// # Errors
/// [`Error`] when the database is away.
pub(super) async fn unpack(
    scope: Scope<'_>,
    kept: &KeptSums,
    by: By,
    units: &[Unit],
    pin: Pin,
) -> Result<Arc<Book>, Error> {
    let of =
        |each: fn(Unit, By) -> &'static str| units.iter().map(|unit| each(*unit, by)).collect::<Vec<_>>();
    let (projections, grains) =
        (of(|(grain, _), by| projection(by, grain)), of(|(grain, _), _| grain.as_str()));
    let since: Vec<_> = units.iter().map(|(_, start)| system_time(*start)).collect();
    let until: Vec<_> = units.iter().map(|(grain, start)| system_time(grain.end(*start))).collect();
    let rows =
        scope.query_by_index(&sql(by), &[&projections, &grains, &since, &until, &pin.position]).await?;
    let builds = rows.iter().find(|row| row.get::<_, i64>(0) == 0).map_or("", |row| row.get(1));
    let book = kept.book_of(scope.tenant(), by.whose(), builds);
    let mut read: Vec<Option<Vec<Part>>> = vec![None; units.len()];
    {
        let mut pages = book.pages();
        for row in &rows {
            let number = usize::try_from(row.try_get::<_, i64>(0)? - 1).ok();
            if let Some(parts) = number.and_then(|number| read.get_mut(number)) {
                add(parts.get_or_insert_default(), row, &mut pages)?;
            }
        }
        for (unit, parts) in units.iter().zip(read) {
            if let Some(parts) = parts {
                pages.keep(*unit, pin.position, parts);
            }
        }
        book.weigh(&pages);
    }
    Ok(book)
}

/// The statement: a row for each period that is packed, and one for each late line since; as its first the builds.
fn sql(by: By) -> String {
    let (ids, late, created) = match by {
        By::User => (
            "f.user_ids, null::bytea",
            "array_send(array[l.user_id]), null",
            // Of what is packed of agents, sessions that were created are no part.
            format!(
                "union all
                 select f.n, null, array_send(array[s.user_id]), null, array_send(array[0::numeric]),
                   array_send(array[1]), array_send(array[1]), array_send(array[0])
                 from found f cross join lateral (
                   select * from sessions s
                   where {OF_SESSIONS} and s.created_at >= f.since and s.created_at < f.until
                     and s.session_id <> '' offset 0) s
                 where f.session_ids is not null"
            ),
        ),
        By::Session | By::Agent => (
            "f.session_ids, f.agent_ids",
            "array_send(array[l.session_id]), array_send(array[coalesce(l.agent_id, '')])",
            String::new(),
        ),
    };
    format!(
        "with asked as materialized (
            select * from unnest($2::text[], $3::text[], $4::timestamptz[], $5::timestamptz[]) with ordinality
              as a(projection, grain, since, until, n)
        ), found as materialized (
            select a.n, a.since, a.until, k.* from asked a cross join lateral (
              select * from packed_sums k where k.tenant_id = $1 and k.projection = a.projection
                and k.build = live_build($1, a.projection) and k.grain = a.grain and k.start = a.since
                and k.position <= $6 offset 0) k
        )
        select 0::bigint as n, {BUILDS} as builds, null::bytea as ids, null::bytea as agents, null::bytea as costs,
          null::bytea as counted, null::bytea as sessions, null::bytea as created
        union all
        select f.n, null, {ids}, f.costs, f.counted, f.sessions, f.agents from found f
        union all
        select f.n, null, {late}, array_send(array[case when {IS_ENTRY} then l.cost else 0 end]),
          array_send(array[1]), null, array_send(array[case when l.line = 'agent' then 1 else 0 end])
        from found f cross join lateral (
          select * from ledger l where l.tenant_id = $1 and l.build = live_build($1, 'ledger') and l.late = 1
            and l.at >= f.since and l.at < f.until and l.position > f.position and l.position <= $6 offset 0) l
        where {IS_ENTRY} or l.line = 'agent'
        {created}"
    )
}

/// The builds of all that lists of shares are read from.
pub(super) const BUILDS: &str =
    "concat_ws(' ', live_build($1, 'usage_by_user'), live_build($1, 'usage_by_agent'),
    live_build($1, 'ledger'), live_build($1, 'sessions'))";

/// Adds what a row says, each element of it, to the parts of its period.
fn add(parts: &mut Vec<Part>, row: &Row, pages: &mut Pages) -> Result<(), Error> {
    let (ids, costs): (Vec<&str>, Vec<Decimal>) =
        (elements(row, 2, &Type::TEXT_ARRAY)?, elements(row, 4, &Type::NUMERIC_ARRAY)?);
    let agent_ids: Vec<&str> = elements(row, 3, &Type::TEXT_ARRAY)?;
    let counts = |column: usize| elements::<i32>(row, column, &Type::INT4_ARRAY);
    let (counted, sessions, agents) = (counts(5)?, counts(6)?, counts(7)?);
    let count = |counts: &[i32], place: usize| counts.get(place).copied().map_or(0, i64::from);
    parts.reserve(ids.len());
    for (place, (id, cost)) in ids.into_iter().zip(costs).enumerate() {
        let agent = agent_ids.get(place).copied().filter(|id| !id.is_empty());
        let [counted, sessions, agents] = [&counted, &sessions, &agents].map(|counts| count(counts, place));
        parts.push(Part { name: pages.place(id, agent), used: Used { cost, sessions, agents, counted } });
    }
    Ok(())
}

/// What a column holds of an array; nothing where it is null.
fn elements<'a, T: FromSql<'a>>(row: &'a Row, column: usize, kind: &Type) -> Result<Vec<T>, Error> {
    let Some(raw) = row.try_get::<_, Option<&[u8]>>(column)? else { return Ok(vec![]) };
    Vec::from_sql(kind, raw).map_err(|error| Error::Row(format!("a packed array: {error}")))
}

/// Packs what has ended by the log's own time, as far as it is not packed yet, at most so many periods. Gives how many
/// were packed. Packing by others at the same time harms nothing.
///
/// # Errors
/// [`Error`] when the database is away. What could be packed all the same is.
pub async fn pack(scope: Scope<'_>, pin: Pin, most: usize) -> Result<usize, Error> {
    let of_users = USER_GRAINS.map(|grain| ("usage_by_user", grain));
    let of_agents = AGENT_GRAINS.map(|grain| ("usage_by_agent", grain));
    let (mut packed, mut outcome) = (0, Ok(()));
    for (table, grain) in of_users.into_iter().chain(of_agents).filter(|(_, grain)| is_packed(*grain)) {
        let packing = Packing { scope, table, grain, until: grain.floor(packed_until(pin)) };
        // One that is too large for the time that a statement may take does not keep others from being packed.
        if let Err(error) = packing.pack(&mut packed, most).await {
            outcome = Err(error);
        }
    }
    outcome.map(|()| packed)
}

/// One grain of a read model that is packed.
struct Packing<'a> {
    scope: Scope<'a>,
    table: &'static str,
    grain: Grain,
    /// What begins before it has ended.
    until: Timestamp,
}

impl Packing<'_> {
    async fn pack(&self, packed: &mut usize, most: usize) -> Result<(), Error> {
        while *packed < most
            && let Some((build, start)) = self.next().await?
            && self.pack_one(build, start).await?
        {
            *packed += 1;
        }
        Ok(())
    }

    /// The live build, and when the first period begins that has ended and comes after all that are packed of it. One
    /// before them, which only late lines have made something of, stays as it is.
    async fn next(&self) -> Result<Option<(i32, Timestamp)>, Error> {
        let table = self.table;
        let sql = format!(
            "select live_build($1, '{table}'), t.start from (values ($1::bigint)) this(tenant_id)
              left join lateral (select k.start from packed_sums k where k.tenant_id = $1
                  and k.projection = '{table}' and k.build = live_build($1, '{table}') and k.grain = $2
                order by k.start desc limit 1) k on true
              cross join lateral (select t.start from {table} t where t.tenant_id = $1
                  and t.build = live_build($1, '{table}') and t.grain = $2
                  and t.start > (select coalesce(k.start, '-infinity')) and t.start < $3
                order by t.start limit 1) t"
        );
        let rows = self.scope.query_by_index(&sql, &[&self.grain.as_str(), &system_time(self.until)]).await?;
        Ok(rows.first().map(|row| (row.get(0), millis(row.get(1)))))
    }

    /// Packs a period of this build: whether it was done, which is not so where another has.
    async fn pack_one(&self, build: i32, start: Timestamp) -> Result<bool, Error> {
        let table = self.table;
        let (ids, sessions) = match table {
            "usage_by_user" => ("null, null", Some("t.sessions")),
            _ => ("array_send(array_agg(t.session_id)), array_send(array_agg(t.agent_id))", None),
        };
        let counted = format!("t.entries + t.agents + {}", sessions.unwrap_or("0"));
        let of = |count: &str| format!("array_send(array_agg(({count})::integer))");
        let sessions = sessions.map_or_else(|| "null".to_owned(), of);
        let (counted, agents) = (of(&counted), of("t.agents"));
        let sql = format!(
            "insert into packed_sums (tenant_id, projection, build, grain, start, position, user_ids, session_ids,
                agent_ids, costs, counted, sessions, agents)
              select h.tenant_id, '{table}', t.build, t.grain, t.start, h.position, array_send(array_agg(t.user_id)),
                {ids}, array_send(array_agg(t.cost)), {counted}, {sessions}, {agents}
              from heads h cross join lateral (select * from {table} t where t.tenant_id = $1
                and t.build = $4 and t.build = live_build($1, '{table}') and t.grain = $2 and t.start = $3 offset 0) t
              where h.tenant_id = $1 group by h.tenant_id, t.build, t.grain, t.start, h.position
              on conflict do nothing returning true"
        );
        let rows = self.scope.tally(&sql, &[&self.grain.as_str(), &system_time(start), &build]).await?;
        Ok(!rows.is_empty())
    }
}
