//! Packs the sums of periods that have ended into a row each.

use rust_decimal::Decimal;
use theazo_domain::time::Timestamp;
use theazo_projections::grain::Grain;
use theazo_projections::ledger::usage::{AGENT_GRAINS, USER_GRAINS};
use tokio_postgres::Row;
use tokio_postgres::types::{FromSql, Type};

use super::kept::Used;
use super::packed::{Id, Packed, packed_until, parcel};
use super::{Pin, ulid};
use crate::config;
use crate::database::{Error, Scope, millis, system_time};

/// Packs what has ended by the log's own time, as far as it is not packed yet, and looks at so many periods at most. Gives at
/// how many it has looked. Packing by others at the same time harms nothing.
///
/// # Errors
/// [`Error`] when the database is away, or takes none of several periods behind each other.
pub async fn pack(scope: Scope<'_>, pin: Pin, most: usize) -> Result<usize, Error> {
    let of_users = USER_GRAINS.map(|grain| (Table::Users, grain));
    let of_agents = AGENT_GRAINS.map(|grain| (Table::Agents, grain));
    let mut looked_at = 0;
    for (table, grain) in of_users.into_iter().chain(of_agents) {
        let packing = Packing { scope, table, grain, until: parcel(grain).floor(packed_until(pin)) };
        packing.pack(&mut looked_at, most).await?;
    }
    Ok(looked_at)
}

/// The read model that is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Table {
    Users,
    Agents,
}

impl Table {
    const fn name(self) -> &'static str {
        match self {
            Self::Users => "usage_by_user",
            Self::Agents => "usage_by_agent",
        }
    }
}

/// One grain of a read model that is packed.
struct Packing<'a> {
    scope: Scope<'a>,
    table: Table,
    grain: Grain,
    /// What begins before it has ended.
    until: Timestamp,
}

impl Packing<'_> {
    async fn pack(&self, looked_at: &mut usize, most: usize) -> Result<(), Error> {
        let (mut behind, mut failures) = (Timestamp::default(), 0);
        while *looked_at < most
            && let Some((build, start)) = self.next(behind).await?
        {
            // One that cannot be packed, since it takes longer than a statement may, does not keep those behind it from
            // being packed. It is read row by row from then on.
            let mut outcome = self.pack_one(build, start).await;
            if outcome.is_err() {
                outcome = self.pack_one(build, start).await;
            }
            failures = if outcome.is_err() { failures + 1 } else { 0 };
            if failures == config::PACK_FAILURES {
                return outcome;
            }
            if let Err(error) = outcome {
                tracing::warn!(%error, table = self.table.name(), grain = self.grain.as_str(), "sums are not packed");
            }
            behind = parcel(self.grain).end(start);
            *looked_at += 1;
        }
        Ok(())
    }

    /// The live build, and when the first period begins that has ended and comes after all that are packed of it and not
    /// before this moment. One before them, which only late lines have made something of, stays as it is.
    async fn next(&self, from: Timestamp) -> Result<Option<(i32, Timestamp)>, Error> {
        let table = self.table.name();
        // Of several periods in one row the next may begin as that one ends.
        let after = if parcel(self.grain) == self.grain {
            "> (select coalesce(k.start, '-infinity'))"
        } else {
            ">= (select coalesce(k.start + interval '1 hour', '-infinity'))"
        };
        let sql = format!(
            "select live_build($1, '{table}'), t.start from (values ($1::bigint)) this(tenant_id)
              left join lateral (select k.start from packed_sums k where k.tenant_id = $1
                  and k.projection = '{table}' and k.build = (select live_build($1, '{table}')) and k.grain = $2
                order by k.start desc limit 1) k on true
              cross join lateral (select t.start from {table} t where t.tenant_id = $1
                  and t.build = (select live_build($1, '{table}')) and t.grain = $2 and t.start {after} and t.start < $3
                  and t.start >= $4
                order by t.start limit 1) t"
        );
        let rows = self
            .scope
            .query_by_index(&sql, &[&self.grain.as_str(), &system_time(self.until), &system_time(from)])
            .await?;
        Ok(rows.first().map(|row| (row.get(0), parcel(self.grain).floor(millis(row.get(1))))))
    }

    /// Packs what begins at this moment, of this build, unless another has.
    async fn pack_one(&self, build: i32, start: Timestamp) -> Result<(), Error> {
        let (table, (since, until)) =
            (self.table.name(), (system_time(start), system_time(parcel(self.grain).end(start))));
        let (sessions, share) = match self.table {
            Table::Users => ("t.sessions", "null::bytea, null::bytea"),
            Table::Agents => {
                ("0::bigint", "array_send(array_agg(t.session_id)), array_send(array_agg(t.agent_id))")
            }
        };
        let minutes = match self.grain {
            Grain::Minute => {
                "array_send(array_agg((date_part('epoch', t.start)::bigint / 60 % 60)::integer))"
            }
            _ => "null::bytea",
        };
        let sql = format!(
            "select h.position, count(*), array_send(array_agg(t.user_id)), {share}, {minutes},
                array_send(array_agg(t.cost)),
                array_send(array_agg({sessions})), array_send(array_agg(t.agents)),
                array_send(array_agg(t.entries + t.agents + {sessions}))
              from heads h cross join lateral (select * from {table} t where t.tenant_id = $1 and t.build = $2
                and t.build = (select live_build($1, '{table}')) and t.grain = $3 and t.start >= $4 and t.start < $5
                limit $6) t
              where h.tenant_id = $1 group by h.position"
        );
        let most = config::PACKED_ROWS + 1;
        let rows =
            self.scope.query_by_index(&sql, &[&build, &self.grain.as_str(), &since, &until, &most]).await?;
        let Some(row) = rows.first() else { return Ok(()) };
        // What is too much is read row by row: no list is of so late a position.
        let packed = if row.get::<_, i64>(1) < most { self.packed(row)? } else { None };
        let position = packed.as_ref().map_or(i64::MAX, |_| row.get(0));
        let Packed { user_ids, session_ids, agent_ids, minutes, used } = packed.unwrap_or_default();
        let of_agents = |column| (self.table == Table::Agents).then_some(column);
        let minutes = (self.grain == Grain::Minute).then_some(minutes);
        let sql = format!(
            "insert into packed_sums (tenant_id, projection, build, grain, start, position, user_ids, session_ids,
                agent_ids, minutes, used)
              select $1, '{table}', $2, $3, $4, $5, $6, $7, $8, $9, $10 where $2 = live_build($1, '{table}')
              on conflict do nothing"
        );
        let (session_ids, agent_ids) = (of_agents(session_ids), of_agents(agent_ids));
        let columns: [&(dyn tokio_postgres::types::ToSql + Sync); 9] = [
            &build,
            &self.grain.as_str(),
            &since,
            &position,
            &user_ids,
            &session_ids,
            &agent_ids,
            &minutes,
            &used,
        ];
        self.scope.tally(&sql, &columns).await.map(drop)
    }

    /// What the arrays of a row hold; nothing where a count is too large.
    fn packed(&self, row: &Row) -> Result<Option<Packed>, Error> {
        let users: Vec<&str> = elements(row, 2, &Type::TEXT_ARRAY)?;
        let sessions: Vec<&str> = elements(row, 3, &Type::TEXT_ARRAY)?;
        let agents: Vec<&str> = elements(row, 4, &Type::TEXT_ARRAY)?;
        let minutes: Vec<i32> = elements(row, 5, &Type::INT4_ARRAY)?;
        let costs: Vec<Decimal> = elements(row, 6, &Type::NUMERIC_ARRAY)?;
        let counts = |column: usize| elements::<i64>(row, column, &Type::INT8_ARRAY);
        let (created, created_agents, counted) = (counts(7)?, counts(8)?, counts(9)?);
        let mut packed = Packed::default();
        for (place, (user, cost)) in users.into_iter().zip(costs).enumerate() {
            let (sessions_created, agents_created, counted) =
                (created[place], created_agents[place], counted[place]);
            let used = Used { cost, sessions: sessions_created, agents: agents_created, counted };
            let user = ulid(user)?;
            let is_packed = match self.table {
                Table::Users => packed.add_user(user, &used),
                Table::Agents => {
                    let (id, agent) = (ulid(sessions[place])?, agents[place]);
                    let agent = if agent.is_empty() { None } else { Some(ulid(agent)?) };
                    let slot = minutes.get(place).map(|minute| u8::try_from(*minute).unwrap_or_default());
                    packed.add_agent(user, Id { id, agent }, slot, &used)
                }
            };
            if !is_packed {
                return Ok(None);
            }
        }
        Ok(Some(packed))
    }
}

/// What a column holds of an array; nothing where it is null.
fn elements<'a, T: FromSql<'a>>(row: &'a Row, column: usize, kind: &Type) -> Result<Vec<T>, Error> {
    let Some(raw) = row.try_get::<_, Option<&[u8]>>(column)? else { return Ok(vec![]) };
    Vec::from_sql(kind, raw).map_err(|error| Error::Row(format!("sums to pack: {error}")))
}
