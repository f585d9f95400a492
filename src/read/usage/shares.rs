//! What each user, session or agent used in a period.

use std::collections::{BTreeSet, HashMap};
use std::sync::LazyLock;

use rust_decimal::Decimal;
use theazo_domain::id::{SessionId, UserId};
use theazo_domain::time::Timestamp;
use theazo_projections::grain::{Grain, cover};
use theazo_projections::ledger::usage::{AGENT_GRAINS, USER_GRAINS};
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;
use ulid::Ulid;

use super::kept::{Book, KeptSums, Name, Pages, Part, Used, Whose};
use super::packed::{Element, Id, elements};
use super::plan::{Asked, Plan};
use super::{IS_ENTRY, LINES, Period, Pin, SOURCES, UNTIL_PIN, created_in, created_in_all, ulid};
use crate::database::{Error, Scope, millis, system_time};

/// What a period is broken down by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// End users.
    User,
    /// Sessions.
    Session,
    /// Agents.
    Agent,
}

/// What one of them used.
#[derive(Debug, Clone)]
pub struct Share {
    /// Which one: the user, or the session.
    pub id: Ulid,
    /// Of an agent its id, and `None` for what is no agent's.
    pub agent: Option<Ulid>,
    /// In units of the currency.
    pub cost: Decimal,
    /// Sessions that were created.
    pub sessions: i64,
    /// Agents that were created.
    pub agents: i64,
}

/// The statements, by what lists are broken down by.
static STATEMENTS: LazyLock<[String; 3]> =
    LazyLock::new(|| [By::User, By::Session, By::Agent].map(By::statement));

impl By {
    pub(super) const fn whose(self) -> Whose {
        match self {
            Self::User => Whose::Users,
            Self::Session | Self::Agent => Whose::Agents,
        }
    }

    fn grains(self) -> Vec<Grain> {
        match self {
            Self::User => USER_GRAINS.into_iter().chain([Grain::Hour, Grain::Minute]).collect(),
            Self::Session | Self::Agent => AGENT_GRAINS.to_vec(),
        }
    }

    /// The statement: what is packed of the pieces, and what late lines have come since; what is kept of users by month, ten
    /// days and day, and the rest by agent, of the other pieces. Its first column says what a row is, and so how it counts.
    fn statement(self) -> String {
        let ids = |row: &str| match self {
            Self::User => format!("{row}.user_id, null"),
            Self::Session | Self::Agent => format!("{row}.session_id, nullif({row}.agent_id, '')"),
        };
        let packed = match self {
            Self::User => "f.user_ids, null::bytea",
            Self::Session | Self::Agent => "f.session_ids, f.agent_ids",
        };
        let (coarse, fine) = ("'month', 'ten_days', 'day'", format!("'hour', 'minute', '{LINES}'"));
        let (of_users, by_agent, created) = match self {
            Self::User => {
                let kept = Self::kept("usage_by_user", "t.user_id, null", &format!("p.grain in ({coarse})"));
                (kept, coarse, created_in(&fine, UNTIL_PIN))
            }
            Self::Session => (String::new(), "''", created_in_all(WHOLE, ("$15", "$16"))),
            Self::Agent => (String::new(), "''", String::new()),
        };
        let of_agents =
            Self::kept("usage_by_agent", &ids("t"), &format!("p.grain not in ('{LINES}', {by_agent})"));
        let of_created = |id| {
            format!(
                "union all select c.n, c.created_at, null, c.{id}, null, 1, 0, 1, 0, {NOT_PACKED} from created c"
            )
        };
        let of_created = match self {
            Self::User => of_created("user_id"),
            Self::Session => of_created("session_id"),
            // A session that was created is no agent's share.
            Self::Agent => String::new(),
        };
        let line = format!(
            "{}, 0, case when l.line = 'agent' then 1 else 0 end, 1, case when {IS_ENTRY} then l.cost else 0 end,
             {NOT_PACKED}",
            ids("l")
        );
        format!(
            "{SOURCES}, found as materialized (
                select w.number, w.since, w.until, k.position, k.user_ids, k.session_ids, k.agent_ids, k.minutes, k.used
                from unnest($11::text[], $12::text[], $13::timestamptz[], $14::timestamptz[]) with ordinality
                  as w(projection, grain, since, until, number)
                cross join lateral (
                  select * from packed_sums k where k.tenant_id = $1 and k.projection = w.projection
                    and k.build = live_build($1, w.projection) and k.grain = w.grain and k.start = w.since
                    and k.position <= $6 offset 0) k
            ), rest as materialized (
                select p.* from pieces p
                where ($10::bigint[])[p.n] <> all (array(select f.number from found f))
            ) {created}
            select {BUILDS} as n, null::timestamptz as at, null::bigint as position,
              concat_ws(' ', live_build($1, 'usage_by_user'), live_build($1, 'usage_by_agent'),
                live_build($1, 'ledger'), live_build($1, 'sessions')) as id,
              null::text as agent, 0::bigint as sessions, 0::bigint as agents, 0::bigint as counted, 0::numeric as cost,
              null::bytea as ids, null::bytea as agent_ids, null::bytea as minutes, null::bytea as used
            union all
            select {PACKED}, null, f.number, null, null, 0, 0, 0, 0, {packed}, f.minutes, f.used from found f
            union all
            select {LATE_OF_PACKED}, l.at, f.number, {line} from found f cross join lateral (
                select * from ledger l where l.tenant_id = $1 and l.build = (select live_build($1, 'ledger')) and l.late = 1
                  and l.at >= f.since and l.at < f.until and l.position > f.position and l.position <= $6 offset 0) l
              where {IS_ENTRY} or l.line = 'agent'
            {of_users} {of_agents}
            union all
            select l.n, l.at, null, {line} from lines l where {IS_ENTRY} or l.line = 'agent'
            union all
            select {LATE}, l.at, l.position, {line} from ledger l
              where l.tenant_id = $1 and l.build = (select live_build($1, 'ledger')) and l.late = 1 and l.entry >= 0
                and l.position > $9 and l.position <= $6 and ({IS_ENTRY} or l.line = 'agent')
            {of_created}"
        )
    }

    fn kept(table: &str, ids: &str, pieces: &str) -> String {
        let sessions = if table == "usage_by_user" { "t.sessions" } else { "0" };
        format!(
            "union all
             select p.n, null, null, {ids}, {sessions}, t.agents, t.entries + t.agents + {sessions}, t.cost, {NOT_PACKED}
             from rest p cross join lateral (
                select * from {table} t where t.tenant_id = $1 and t.build = (select live_build($1, '{table}'))
                  and t.grain = p.grain and t.start >= p.since and t.start < p.until
                offset 0) t
              where {pieces}"
        )
    }

    fn sql(self) -> &'static str {
        match self {
            Self::User => &STATEMENTS[0],
            Self::Session => &STATEMENTS[1],
            Self::Agent => &STATEMENTS[2],
        }
    }
}

/// What stands in the columns of what is packed.
const NOT_PACKED: &str = "null, null, null, null";

/// Of what is packed.
const PACKED: i64 = -5;
/// Of late lines behind what is packed.
const LATE_OF_PACKED: i64 = -4;
/// Of what is of the whole period.
const WHOLE: i64 = -3;
/// Of the row that says which builds were read.
const BUILDS: i64 = -2;
/// Of late lines behind what is kept.
const LATE: i64 = -1;
/// Of what came after the pin; pieces count from 1.
const AFTER: i64 = 0;

/// What each used in a period, as it stood at a position of the log, in no order. What has ended is read once, and kept.
///
/// # Errors
/// [`Error`] when the database is away.
pub async fn shares(
    scope: Scope<'_>,
    kept: &KeptSums,
    by: By,
    period: Period,
    pin: Pin,
) -> Result<Vec<Share>, Error> {
    let period = period.widened(pin);
    let pieces = cover(period.from, period.until, &by.grains());
    let tenant = scope.tenant();
    let (from, until) = (system_time(period.from), system_time(period.until));
    let mut book = kept.book(tenant, by.whose());
    let mut plan = Plan::of(&pieces, pin, book.as_deref());
    loop {
        let (asked, late_after) = (plan.pieces(pin), plan.late_after());
        let numbers = plan.parcels_of_pieces();
        let parcels = &plan.parcels;
        let projections: Vec<_> = parcels.iter().map(|parcel| parcel.projection(by)).collect();
        let grains: Vec<_> = parcels.iter().map(|parcel| parcel.grain.as_str()).collect();
        let begin: Vec<_> = parcels.iter().map(|parcel| system_time(parcel.from)).collect();
        let end: Vec<_> = parcels.iter().map(|parcel| system_time(parcel.until())).collect();
        let mut parameters: Vec<&(dyn ToSql + Sync)> = asked.parameters().to_vec();
        parameters.extend([
            &late_after as &(dyn ToSql + Sync),
            &numbers,
            &projections,
            &grains,
            &begin,
            &end,
        ]);
        if by == By::Session {
            parameters.extend([&from as &(dyn ToSql + Sync), &until]);
        }
        let rows = scope.query_by_index(by.sql(), &parameters).await?;
        let read = Read::of(&rows)?;
        book = book.filter(|book| book.is_of(read.builds));
        if book.is_none() && !plan.found.is_empty() {
            // The read models were rebuilt: what is kept is of what they were.
            plan = Plan::of(&pieces, pin, None);
            continue;
        }
        // What was found says whose it is by the places of its own book, even where that is kept no more.
        let book = book.unwrap_or_else(|| kept.book_of(tenant, by.whose(), read.builds));
        let shares = add_up(&book, by, &plan, &read, pin)?;
        kept.trim();
        if read.lines.iter().any(|line| plan.could_be_packed(line)) {
            kept.is_unpacked(tenant);
        }
        return Ok(shares);
    }
}

/// What the statement gave.
struct Read<'a> {
    builds: &'a str,
    lines: Vec<Line>,
    /// Rows of what is packed, each with the place of its parcel.
    packed: Vec<(usize, &'a Row)>,
}

/// A row that is of one share.
struct Line {
    n: i64,
    at: Timestamp,
    /// Of late lines; the parcel's number of those behind what is packed.
    position: i64,
    id: Id,
    used: Used,
}

impl<'a> Read<'a> {
    fn of(rows: &'a [Row]) -> Result<Self, Error> {
        let mut read = Self { builds: "", lines: Vec::with_capacity(rows.len()), packed: vec![] };
        for row in rows {
            match row.try_get(0)? {
                BUILDS => read.builds = row.try_get(3)?,
                PACKED => read.packed.push((place_of(row.try_get(2)?), row)),
                n => read.lines.push(Line::read(n, row)?),
            }
        }
        Ok(read)
    }
}

impl Line {
    fn read(n: i64, row: &Row) -> Result<Self, Error> {
        let used = Used {
            sessions: row.try_get(5)?,
            agents: row.try_get(6)?,
            counted: row.try_get(7)?,
            cost: row.try_get(8)?,
        };
        let agent = row.try_get::<_, Option<&str>>(4)?.map(ulid).transpose()?;
        Ok(Self {
            n,
            at: row.try_get::<_, Option<_>>(1)?.map(millis).unwrap_or_default(),
            position: row.try_get::<_, Option<_>>(2)?.unwrap_or_default(),
            id: Id { id: ulid(row.try_get(3)?)?, agent },
            used,
        })
    }
}

/// The place of what has a number from 1.
fn place_of(number: i64) -> usize {
    usize::try_from(number - 1).unwrap_or(usize::MAX)
}

impl Plan {
    /// Whether a row is of sums that could be packed and are not: sessions that were created in fine pieces are read anyway.
    fn could_be_packed(&self, line: &Line) -> bool {
        let asked = if line.n > 0 { self.asked.get(place_of(line.n)) } else { None };
        let is_sum = |asked: &&Asked| line.used.sessions == 0 || asked.has_sessions();
        asked.filter(is_sum).is_some_and(|asked| asked.parcel.is_some())
    }
}

/// Puts what is packed into what was read of each piece. Gives which of the parcels are packed.
fn unpack(
    plan: &Plan,
    told: &Read<'_>,
    pages: &mut Pages,
    read: &mut [Vec<Part>],
) -> Result<Vec<bool>, Error> {
    let mut is_packed = vec![false; plan.parcels.len()];
    for (place, row) in &told.packed {
        let Some((parcel, is_packed)) = plan.parcels.get(*place).zip(is_packed.get_mut(*place)) else {
            continue;
        };
        *is_packed = true;
        for Element { id, slot, used } in elements(row, 9)? {
            if let Some(asked) = parcel.asked(slot) {
                read[asked].push(Part { name: pages.place(id), used });
            }
        }
    }
    Ok(is_packed)
}

/// Adds up what is kept and what was read, and keeps what was read of periods that have ended. Added up here: the database
/// takes twice as long to sort, group and add the same rows.
fn add_up(book: &Book, by: By, plan: &Plan, told: &Read<'_>, pin: Pin) -> Result<Vec<Share>, Error> {
    let mut read: Vec<Vec<Part>> = plan.asked.iter().map(|_| vec![]).collect();
    let mut changed = vec![false; plan.found.len()];
    let mut sums = Adding::default();
    // Nobody waits for the book while they are added up.
    let (is_packed, names) = {
        let mut pages = book.pages();
        let is_packed = unpack(plan, told, &mut pages, &mut read)?;
        (is_packed, told.lines.iter().map(|line| pages.place(line.id)).collect::<Vec<_>>())
    };
    for (line, name) in told.lines.iter().zip(names) {
        let part = Part { name, used: line.used };
        match line.n {
            LATE_OF_PACKED => {
                let parcel = plan.parcels.get(place_of(line.position));
                if let Some(asked) = parcel.and_then(|parcel| parcel.asked_at(line.at)) {
                    read[asked].push(part);
                }
            }
            LATE => {
                for (found, changed) in plan.found.iter().zip(&mut changed) {
                    if found.includes(line.at) && found.sums.last() < line.position {
                        sums.add(part, found.sign);
                        *changed = true;
                    }
                }
            }
            AFTER => {
                let undone = Part { used: part.used.times(-1), ..part };
                let is_session = part.used.sessions > 0;
                for (asked, read) in plan.asked.iter().zip(&mut read) {
                    // What is packed was so before, and so were the sessions of fine pieces.
                    let has_it = asked.parcel.is_none_or(|parcel| !is_packed[parcel])
                        && (!is_session || asked.has_sessions());
                    if has_it && asked.includes(line.at) {
                        read.push(undone);
                    }
                }
            }
            WHOLE => sums.add(part, 1),
            n => {
                if let Some(read) = read.get_mut(place_of(n)) {
                    read.push(part);
                }
            }
        }
    }
    for (asked, read) in plan.asked.iter().zip(&read) {
        read.iter().for_each(|part| sums.add(*part, asked.piece.sign));
    }
    for found in &plan.found {
        found.sums.parts().iter().for_each(|part| sums.add(*part, found.sign));
    }
    let mut pages = book.pages();
    for (asked, read) in plan.asked.iter().zip(read) {
        if let Some(unit) = asked.unit {
            pages.keep(unit, pin.position, read);
        }
    }
    for (found, changed) in plan.found.iter().zip(changed) {
        if changed {
            pages.forget(found.unit);
        } else {
            pages.confirm(found.unit, &found.sums, pin.position);
        }
    }
    book.weigh(&mut pages);
    Ok(sums.shares(by, |place| pages.name(place)))
}

/// Sums that are being added up.
#[derive(Default)]
struct Adding {
    /// Where the sum of a name stands, plus one; 0 where it has none yet.
    places: Vec<u32>,
    sums: Vec<(u32, Used)>,
}

impl Adding {
    fn add(&mut self, part: Part, sign: i64) {
        let name = part.name as usize;
        if name >= self.places.len() {
            self.places.resize(name + 1, 0);
        }
        if self.places[name] == 0 {
            self.sums.push((part.name, Used::default()));
            self.places[name] = u32::try_from(self.sums.len()).unwrap_or(u32::MAX);
        }
        self.sums[self.places[name] as usize - 1].1.add(&part.used, sign);
    }

    /// The shares, those left out that have nothing: what came after the pin may have been all that there was.
    fn shares(self, by: By, name: impl Fn(u32) -> Name) -> Vec<Share> {
        let sums = match by {
            By::User | By::Agent => self.sums,
            By::Session => {
                let mut sessions = Self::default();
                for (place, used) in self.sums {
                    sessions.add(Part { name: name(place).whole, used }, 1);
                }
                sessions.sums
            }
        };
        let share = |(place, used): (u32, Used)| {
            let Id { id, agent } = name(place).id;
            Share { id, agent, cost: used.cost, sessions: used.sessions, agents: used.agents }
        };
        sums.into_iter().filter(|(_, used)| used.counted != 0).map(share).collect()
    }
}

/// What callers call these users. A person who was erased is not among them.
///
/// # Errors
/// [`Error`] when the database is away.
pub async fn called(
    scope: Scope<'_>,
    users: impl Iterator<Item = Ulid>,
) -> Result<HashMap<Ulid, String>, Error> {
    let users: Vec<String> = users.map(|user| UserId::from_ulid(user).to_string()).collect();
    let sql = "select u.user_id, u.external_id from unnest($2::text[]) as asked(user_id)
        cross join lateral (select * from end_users where tenant_id = $1 and user_id = asked.user_id offset 0) u";
    let rows = scope.query_by_index(sql, &[&users]).await?;
    rows.iter().map(|row| Ok((ulid(row.try_get(0)?)?, row.try_get(1)?))).collect()
}

/// What callers call the users of these sessions, by session. A person who was erased is not among them.
///
/// # Errors
/// [`Error`] when the database is away.
pub async fn users_of(
    scope: Scope<'_>,
    sessions: impl Iterator<Item = Ulid>,
) -> Result<HashMap<Ulid, String>, Error> {
    let sessions: BTreeSet<Ulid> = sessions.collect();
    let sessions: Vec<String> =
        sessions.into_iter().map(|session| SessionId::from_ulid(session).to_string()).collect();
    let sql = "select s.session_id, u.external_id from unnest($2::text[]) as asked(session_id)
        cross join lateral (select * from sessions where tenant_id = $1
          and build = (select live_build($1, 'sessions')) and session_id = asked.session_id offset 0) s
        cross join lateral (select * from end_users where tenant_id = $1 and user_id = s.user_id offset 0) u";
    let rows = scope.query(sql, &[&sessions]).await?;
    rows.iter().map(|row| Ok((ulid(row.try_get(0)?)?, row.try_get(1)?))).collect()
}
