//! What each user, session or agent used in a period.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use rust_decimal::Decimal;
use theazo_domain::time::Timestamp;
use theazo_projections::grain::{Grain, Piece, cover};
use theazo_projections::ledger::usage::{AGENT_GRAINS, USER_GRAINS};
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use super::kept::{Book, KeptSums, Name, Pages, Part, Sums, Unit, Used, Whose};
use super::packed::{BUILDS as BUILDS_READ, is_packed, packed_until, unpack};
use super::{IS_ENTRY, LINES, Period, Pieces, Pin, SOURCES, created_in, created_in_all};
use crate::config;
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
    /// Which one: the user (`usr_…`), or the session (`ses_…`).
    pub id: Arc<str>,
    /// Of an agent its id, and `None` for what is no agent's.
    pub agent: Option<Arc<str>>,
    /// In units of the currency.
    pub cost: Decimal,
    /// Sessions that were created.
    pub sessions: i64,
    /// Agents that were created.
    pub agents: i64,
}

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

    /// The statement: what is kept of users by month, ten days and day, and the rest by agent. Its first column says of
    /// which piece a row is, and so how it counts.
    fn sql(self) -> String {
        let ids = |row: &str| match self {
            Self::User => format!("{row}.user_id, null"),
            Self::Session | Self::Agent => format!("{row}.session_id, nullif({row}.agent_id, '')"),
        };
        let (coarse, fine) = ("'month', 'ten_days', 'day'", format!("'hour', 'minute', '{LINES}'"));
        let (of_users, by_agent, created) = match self {
            Self::User => {
                let kept = Self::kept("usage_by_user", "t.user_id, null", &format!("p.grain in ({coarse})"));
                (kept, coarse, created_in(&fine))
            }
            Self::Session => (String::new(), "''", created_in_all(WHOLE, ("$10", "$11"))),
            Self::Agent => (String::new(), "''", String::new()),
        };
        let of_agents =
            Self::kept("usage_by_agent", &ids("t"), &format!("p.grain not in ('{LINES}', {by_agent})"));
        let of_created =
            |id| format!("union all select c.n, c.created_at, null, c.{id}, null, 1, 0, 1, 0 from created c");
        let of_created = match self {
            Self::User => of_created("user_id"),
            Self::Session => of_created("session_id"),
            // A session that was created is no agent's share.
            Self::Agent => String::new(),
        };
        let line = format!(
            "{}, 0, case when l.line = 'agent' then 1 else 0 end, 1, case when {IS_ENTRY} then l.cost else 0 end",
            ids("l")
        );
        format!(
            "{SOURCES} {created}
            select {BUILDS} as n, null::timestamptz as at, null::bigint as position,
              {BUILDS_READ} as id,
              null::text as agent, 0::bigint as sessions, 0::bigint as agents, 0::bigint as counted, 0::numeric as cost
            {of_users} {of_agents}
            union all
            select l.n, l.at, null, {line} from lines l where {IS_ENTRY} or l.line = 'agent'
            union all
            select {LATE}, l.at, l.position, {line} from ledger l
              where l.tenant_id = $1 and l.build = live_build($1, 'ledger') and l.late = 1 and l.entry >= 0
                and l.position > $9 and l.position <= $6 and ({IS_ENTRY} or l.line = 'agent')
            {of_created}"
        )
    }

    fn kept(table: &str, ids: &str, pieces: &str) -> String {
        let sessions = if table == "usage_by_user" { "t.sessions" } else { "0" };
        format!(
            "union all
             select p.n, null, null, {ids}, {sessions}, t.agents, t.entries + t.agents + {sessions}, t.cost
             from pieces p cross join lateral (
                select * from {table} t where t.tenant_id = $1 and t.build = live_build($1, '{table}')
                  and t.grain = p.grain and t.start >= p.since and t.start < p.until
                offset 0) t
              where {pieces}"
        )
    }
}

/// Of the row that says which builds were read.
const BUILDS: i64 = -2;
/// Of late lines behind what is kept.
const LATE: i64 = -1;
/// Of what came after the pin; pieces count from 1.
const AFTER: i64 = 0;
/// Of what is of the whole period.
const WHOLE: i64 = -3;

/// How the sums of a period are had.
struct Plan {
    /// Pieces that are read.
    asked: Vec<Asked>,
    /// Periods whose sums are kept.
    found: Vec<Found>,
}

/// A piece that is read.
struct Asked {
    piece: Piece,
    /// The period that it is, where that has ended: its sums are kept from now on.
    unit: Option<Unit>,
}

/// A period whose sums are kept.
struct Found {
    unit: Unit,
    until: Timestamp,
    sign: i64,
    sums: Sums,
}

impl Plan {
    fn of(pieces: &[Piece], pin: Pin, book: Option<&Book>) -> Self {
        let mut plan = Self { asked: vec![], found: vec![] };
        for piece in pieces {
            plan.add(*piece, pin, book);
        }
        plan
    }

    fn add(&mut self, piece: Piece, pin: Pin, book: Option<&Book>) {
        let Some(grain) = piece.grain else {
            return self.asked.push(Asked { piece, unit: None });
        };
        // Nothing that is not late has an earlier time than what stands before it in the log, so a period that has ended
        // can change by late lines alone.
        let ended = grain.floor(pin.at).clamp(piece.from, piece.until);
        let mut units = vec![];
        let mut until = ended;
        while until > piece.from && units.len() < config::KEPT_PERIODS_OF_A_PIECE {
            let from = grain.floor(Timestamp::from_millis(until.millis() - 1));
            units.push((from, until));
            until = from;
        }
        for (from, until) in [(piece.from, until), (ended, piece.until)] {
            if from < until {
                self.asked.push(Asked { piece: Piece { from, until, ..piece }, unit: None });
            }
        }
        for (from, until) in units {
            let unit = (grain, from);
            match book.and_then(|book| book.find(unit, pin.position)) {
                Some(sums) => self.found.push(Found { unit, until, sign: piece.sign, sums }),
                None => {
                    self.asked.push(Asked { piece: Piece { from, until, ..piece }, unit: Some(unit) });
                }
            }
        }
    }

    /// The pieces that are read, as the statement takes them.
    fn pieces(&self, pin: Pin) -> Pieces {
        let asked: Vec<Piece> = self.asked.iter().map(|asked| asked.piece).collect();
        // Whatever came after the pin in any of them is taken away.
        let from = asked.iter().map(|piece| piece.from).min().unwrap_or_default();
        let until = asked.iter().map(|piece| piece.until).max().unwrap_or_default();
        Pieces::new(&asked, (from, until), pin)
    }

    /// Those of the periods that are read whose sums may be packed.
    fn packed(&self) -> Vec<Unit> {
        self.asked.iter().filter_map(|asked| asked.unit).filter(|(grain, _)| is_packed(*grain)).collect()
    }

    /// Whether a row is of a period whose sums are packed once it has ended by this moment.
    fn could_be_packed(&self, line: &Line<'_>, packed_until: Timestamp) -> bool {
        let asked = usize::try_from(line.n - 1).ok().and_then(|piece| self.asked.get(piece));
        let of = |asked: &Asked| {
            asked.unit.is_some_and(|(grain, _)| is_packed(grain) && asked.piece.until <= packed_until)
        };
        asked.is_some_and(of)
    }

    /// The position behind which late lines are read.
    fn late_after(&self) -> i64 {
        self.found.iter().map(|found| found.sums.last()).min().unwrap_or(i64::MAX)
    }
}

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
    let (sql, tenant) = (by.sql(), scope.tenant());
    let (from, until) = (system_time(period.from), system_time(period.until));
    let mut book = kept.book(tenant, by.whose());
    let mut plan = Plan::of(&pieces, pin, book.as_deref());
    let packed = plan.packed();
    if !packed.is_empty() {
        book = Some(unpack(scope, kept, by, &packed, pin).await?);
        plan = Plan::of(&pieces, pin, book.as_deref());
    }
    loop {
        let (asked, late_after) = (plan.pieces(pin), plan.late_after());
        let mut parameters: Vec<&(dyn ToSql + Sync)> = asked.parameters().to_vec();
        parameters.push(&late_after);
        if by == By::Session {
            parameters.extend([&from as &(dyn ToSql + Sync), &until]);
        }
        let rows = scope.query_by_index(&sql, &parameters).await?;
        let lines = rows.iter().map(Line::read).collect::<Result<Vec<_>, _>>()?;
        let builds = lines.iter().find(|line| line.n == BUILDS).map_or("", |line| line.id);
        book = book.filter(|book| book.is_of(builds));
        if book.is_none() && !plan.found.is_empty() {
            // The read models were rebuilt: what is kept is of what they were.
            plan = Plan::of(&pieces, pin, None);
            continue;
        }
        // What was found says whose it is by the places of its own book, even where that is kept no more.
        let book = book.unwrap_or_else(|| kept.book_of(tenant, by.whose(), builds));
        let shares = add_up(&book, by, &plan, &lines, pin);
        kept.trim();
        if lines.iter().any(|line| plan.could_be_packed(line, packed_until(pin))) {
            kept.is_unpacked(tenant);
        }
        return Ok(shares);
    }
}

/// A row of the statement.
struct Line<'a> {
    n: i64,
    at: Timestamp,
    position: i64,
    id: &'a str,
    agent: Option<&'a str>,
    used: Used,
}

impl<'a> Line<'a> {
    fn read(row: &'a Row) -> Result<Self, Error> {
        let used = Used {
            sessions: row.try_get(5)?,
            agents: row.try_get(6)?,
            counted: row.try_get(7)?,
            cost: row.try_get(8)?,
        };
        Ok(Self {
            n: row.try_get(0)?,
            at: row.try_get::<_, Option<_>>(1)?.map(millis).unwrap_or_default(),
            position: row.try_get::<_, Option<_>>(2)?.unwrap_or_default(),
            id: row.try_get(3)?,
            agent: row.try_get(4)?,
            used,
        })
    }
}

/// Adds up what is kept and what was read, and keeps what was read of periods that have ended. Added up here: the database
/// takes twice as long to sort, group and add the same rows.
fn add_up(book: &Book, by: By, plan: &Plan, lines: &[Line<'_>], pin: Pin) -> Vec<Share> {
    let mut read: Vec<Vec<Part>> = plan.asked.iter().map(|_| vec![]).collect();
    let mut changed = vec![false; plan.found.len()];
    let mut sums = Adding::default();
    let lines: Vec<(&Line<'_>, Part)> = {
        let mut pages = book.pages();
        let part = |line: &Line<'_>, pages: &mut Pages| Part {
            name: pages.place(line.id, line.agent),
            used: line.used,
        };
        let told = lines.iter().filter(|line| line.n != BUILDS);
        told.map(|line| (line, part(line, &mut pages))).collect()
    };
    for (line, part) in lines {
        match line.n {
            LATE => {
                let late = |found: &Found| found.includes(line.at) && found.sums.last() < line.position;
                for (found, changed) in plan.found.iter().zip(&mut changed).filter(|(found, _)| late(found)) {
                    sums.add(part, found.sign);
                    *changed = true;
                }
            }
            AFTER => {
                let undone = Part { used: part.used.times(-1), ..part };
                for (asked, read) in plan.asked.iter().zip(&mut read) {
                    if asked.includes(line.at) {
                        read.push(undone);
                    }
                }
            }
            WHOLE => sums.add(part, 1),
            n => {
                if let Some(read) = usize::try_from(n - 1).ok().and_then(|piece| read.get_mut(piece)) {
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
    book.weigh(&pages);
    sums.shares(by, |place| pages.name(place))
}

impl Asked {
    fn includes(&self, at: Timestamp) -> bool {
        (self.piece.from..self.piece.until).contains(&at)
    }
}

impl Found {
    fn includes(&self, at: Timestamp) -> bool {
        (self.unit.1..self.until).contains(&at)
    }
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
    fn shares<'a>(self, by: By, name: impl Fn(u32) -> &'a Name) -> Vec<Share> {
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
            let Name { id, agent, .. } = name(place).clone();
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
    users: impl Iterator<Item = &str>,
) -> Result<HashMap<String, String>, Error> {
    let users: Vec<&str> = users.collect();
    let sql = "select u.user_id, u.external_id from unnest($2::text[]) as asked(user_id)
        cross join lateral (select * from end_users where tenant_id = $1 and user_id = asked.user_id offset 0) u";
    let rows = scope.query_by_index(sql, &[&users]).await?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

/// What callers call the users of these sessions, by session. A person who was erased is not among them.
///
/// # Errors
/// [`Error`] when the database is away.
pub async fn users_of(
    scope: Scope<'_>,
    sessions: impl Iterator<Item = &str>,
) -> Result<HashMap<String, String>, Error> {
    let sessions: Vec<&str> = BTreeSet::from_iter(sessions).into_iter().collect();
    let sql = "select s.session_id, u.external_id from unnest($2::text[]) as asked(session_id)
        cross join lateral (select * from sessions where tenant_id = $1 and build = live_build($1, 'sessions')
          and session_id = asked.session_id offset 0) s
        cross join lateral (select * from end_users where tenant_id = $1 and user_id = s.user_id offset 0) u";
    let rows = scope.query(sql, &[&sessions]).await?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}
