//! What each user, session or agent used in a period.

use std::collections::{BTreeSet, HashMap};

use rust_decimal::Decimal;
use theazo_projections::grain::Grain;
use theazo_projections::ledger::usage::{AGENT_GRAINS, USER_GRAINS};
use tokio_postgres::Row;

use super::{IS_ENTRY, LINES, Period, Pieces, Pin, SOURCES, created_in, created_in_all};
use crate::database::{Error, Scope};

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
#[derive(Debug, Clone, Copy)]
pub struct Share<'a> {
    /// Which one: the user (`usr_…`), or the session (`ses_…`).
    pub id: &'a str,
    /// Of a user, what callers call them, and `None` once the person was erased; of an agent its id, and `None` for what
    /// is no agent's.
    pub besides: Option<&'a str>,
    /// In units of the currency.
    pub cost: Decimal,
    /// Sessions that were created.
    pub sessions: i64,
    /// Agents that were created.
    pub agents: i64,
}

/// The rows of which shares are sums.
#[derive(Debug)]
pub struct Parts(Vec<Row>);

impl By {
    fn grains(self) -> Vec<Grain> {
        match self {
            Self::User => USER_GRAINS.into_iter().chain([Grain::Hour, Grain::Minute]).collect(),
            Self::Session | Self::Agent => AGENT_GRAINS.to_vec(),
        }
    }

    /// The statement: what is kept of users by month, ten days and day, and the rest by agent.
    fn sql(self) -> String {
        // A null costs less than a value that nobody looks at.
        let told_apart = match self {
            Self::User => "s.user_id, u.external_id, s.sign * s.sessions, s.sign * s.agents",
            Self::Session => "s.session_id, null, null::bigint, s.sign * s.agents",
            Self::Agent => "s.session_id, nullif(s.agent_id, ''), null::bigint, null::bigint",
        };
        let names = match self {
            Self::User => "left join end_users u on u.tenant_id = $1 and u.user_id = s.user_id",
            Self::Session | Self::Agent => "",
        };
        let (coarse, fine) = ("'month', 'ten_days', 'day'", format!("'hour', 'minute', '{LINES}'"));
        let (of_users, by_agent, created) = match self {
            Self::User => {
                (Self::kept("usage_by_user", &format!("p.grain in ({coarse})")), coarse, created_in(&fine))
            }
            Self::Session => (String::new(), "''", created_in_all()),
            Self::Agent => (String::new(), "''", String::new()),
        };
        let of_agents = Self::kept("usage_by_agent", &format!("p.grain not in ('{LINES}', {by_agent})"));
        // A session that was created is no agent's share.
        let of_created = match self {
            Self::User | Self::Session => {
                "union all select c.sign, c.user_id, c.session_id, '', 0, 0, 1, 0 from created c"
            }
            Self::Agent => "",
        };
        format!(
            "{SOURCES} {created}, shares as (
                {of_users} {of_agents}
                select l.sign, l.user_id, l.session_id, coalesce(l.agent_id, '') as agent_id,
                  case when {IS_ENTRY} then l.cost else 0 end as cost, case when {IS_ENTRY} then 1 else 0 end as entries,
                  0 as sessions, case when l.line = 'agent' then 1 else 0 end as agents
                from lines l {of_created}
            ) select {told_apart},
                s.sign * (s.entries + s.sessions + s.agents), case when s.sign < 0 then -s.cost else s.cost end
              from shares s {names}
              where s.entries <> 0 or s.agents <> 0 or s.sessions <> 0"
        )
    }

    fn kept(table: &str, pieces: &str) -> String {
        let (ids, sessions) = if table == "usage_by_user" {
            ("'', ''", "t.sessions")
        } else {
            ("t.session_id, t.agent_id", "0")
        };
        format!(
            "select p.sign, t.user_id, {ids}, t.cost, t.entries, {sessions} as sessions, t.agents
             from pieces p cross join lateral (
                select * from {table} t where t.tenant_id = $1 and t.build = live_build($1, '{table}')
                  and t.grain = p.grain and t.start >= p.since and t.start < p.until
                offset 0) t
              where {pieces}
             union all"
        )
    }
}

/// What was used in a period, as it stood at a position of the log.
///
/// # Errors
/// [`Error`] when the database is away.
pub async fn parts(scope: Scope<'_>, by: By, period: Period, pin: Pin) -> Result<Parts, Error> {
    let pieces = Pieces::of(period, pin, &by.grains());
    scope.query_by_index(&by.sql(), &pieces.parameters()).await.map(Parts)
}

impl Parts {
    /// What each used, in no order. Added up here: the database takes twice as long to sort, group and add the same rows.
    ///
    /// # Errors
    /// [`Error`] when a row is not what was asked for.
    pub fn shares(&self) -> Result<Vec<Share<'_>>, Error> {
        // Beside each share its entries, and sessions and agents that were created: where there are none, there is no share.
        let mut shares: Vec<(i64, Share<'_>)> = Vec::with_capacity(self.0.len());
        let mut places: HashMap<(&str, Option<&str>), usize> = HashMap::with_capacity(self.0.len());
        for row in &self.0 {
            let count = |at: usize| Ok::<_, Error>(row.try_get::<_, Option<i64>>(at)?.unwrap_or_default());
            let key @ (id, besides) = (row.try_get(0)?, row.try_get(1)?);
            let place = *places.entry(key).or_insert_with(|| {
                shares.push((0, Share { id, besides, cost: Decimal::ZERO, sessions: 0, agents: 0 }));
                shares.len() - 1
            });
            let (counted, share) = &mut shares[place];
            share.sessions += count(2)?;
            share.agents += count(3)?;
            *counted += count(4)?;
            share.cost += row.try_get::<_, Decimal>(5)?;
        }
        // What came after the position may have taken all of a share away again.
        Ok(shares.into_iter().filter(|(counted, _)| *counted != 0).map(|(_, share)| share).collect())
    }
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
