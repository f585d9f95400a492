//! What each user, session or agent used in a period.

use std::collections::{BTreeSet, HashMap};

use rust_decimal::Decimal;
use theazo_projections::grain::Grain;
use theazo_projections::ledger::usage::{AGENT_GRAINS, USER_GRAINS};
use tokio_postgres::Row;

use super::{IS_ENTRY, LINES, Period, Pieces, Pin, SOURCES, created_in, created_in_all};
use crate::database::{Error, Scope};
use crate::read::person;

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
    /// The user: `usr_…`.
    pub user_id: &'a str,
    /// What callers call the user, where users are told apart; `None` once the person was erased.
    pub external_id: Option<&'a str>,
    /// The session; empty where users are told apart.
    pub session_id: &'a str,
    /// The agent; empty where it is none's, or sessions or users are told apart.
    pub agent_id: &'a str,
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
            Self::User => "null, null, s.sign * s.sessions, s.sign * s.agents, u.external_id",
            Self::Session => "s.session_id, null, null::bigint, s.sign * s.agents, null",
            Self::Agent => "s.session_id, s.agent_id, null::bigint, null::bigint, null",
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
            ) select s.user_id, {told_apart},
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
        let mut places: HashMap<[&str; 3], usize> = HashMap::with_capacity(self.0.len());
        for row in &self.0 {
            let part = |at: usize| Ok::<_, Error>(row.try_get::<_, Option<&str>>(at)?.unwrap_or_default());
            let count = |at: usize| Ok::<_, Error>(row.try_get::<_, Option<i64>>(at)?.unwrap_or_default());
            let key @ [user_id, session_id, agent_id] = [part(0)?, part(1)?, part(2)?];
            let external_id: Option<&str> = row.try_get(5)?;
            let place = *places.entry(key).or_insert_with(|| {
                let (cost, sessions, agents) = (Decimal::ZERO, 0, 0);
                shares
                    .push((0, Share { user_id, external_id, session_id, agent_id, cost, sessions, agents }));
                shares.len() - 1
            });
            let (counted, share) = &mut shares[place];
            share.sessions += count(3)?;
            share.agents += count(4)?;
            *counted += count(6)?;
            share.cost += row.try_get::<_, Decimal>(7)?;
        }
        // What came after the position may have taken all of a share away again.
        Ok(shares.into_iter().filter(|(counted, _)| *counted != 0).map(|(_, share)| share).collect())
    }
}

/// What callers call the users of these shares, by user. A person who was erased is not among them.
///
/// # Errors
/// [`Error`] when the database is away.
pub async fn external_ids<'a>(
    scope: Scope<'_>,
    shares: impl Iterator<Item = &'a Share<'a>>,
) -> Result<HashMap<String, String>, Error> {
    let users: BTreeSet<String> = shares.map(|share| share.user_id.to_owned()).collect();
    person::external_ids(scope, &Vec::from_iter(users)).await
}
