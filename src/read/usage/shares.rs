//! What each user, session or agent used in a period.

use std::collections::HashMap;

use rust_decimal::Decimal;
use theazo_projections::grain::Grain;
use theazo_projections::ledger::usage::{AGENT_GRAINS, USER_GRAINS};

use super::{IS_ENTRY, Period, Pieces, Pin, SOURCES};
use crate::database::{Error, Scope};

/// What a period is broken down by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// End users.
    User,
    /// Sessions.
    Session,
    /// Agents; what is no agent's is a share of its session.
    Agent,
}

/// What one of them used.
#[derive(Debug, Clone)]
pub struct Share {
    /// The user as the caller knows them; `None` once the person was erased.
    pub external_id: Option<String>,
    /// The user: `usr_…`.
    pub user_id: String,
    /// The session; empty where users are told apart.
    pub session_id: String,
    /// The agent; empty where it is none's, or sessions or users are told apart.
    pub agent_id: String,
    /// In units of the currency.
    pub cost: Decimal,
    /// Sessions that were created.
    pub sessions: i64,
    /// Agents that were created.
    pub agents: i64,
}

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
            Self::User => "null, null, s.sign * s.sessions, s.sign * s.agents",
            Self::Session => "s.session_id, null, null::bigint, s.sign * s.agents",
            Self::Agent => "s.session_id, s.agent_id, null::bigint, null::bigint",
        };
        let coarse = "'month', 'ten_days', 'day'";
        let (of_users, by_agent) = match self {
            Self::User => (Self::kept("usage_by_user", &format!("p.grain in ({coarse})")), coarse),
            Self::Session | Self::Agent => (String::new(), "''"),
        };
        let of_agents = Self::kept("usage_by_agent", &format!("p.grain not in ('lines', {by_agent})"));
        format!(
            "{SOURCES}, shares as (
                {of_users} {of_agents}
                select l.sign, l.user_id, l.session_id, coalesce(l.agent_id, '') as agent_id,
                  case when {IS_ENTRY} then l.cost else 0 end as cost, case when {IS_ENTRY} then 1 else 0 end as entries,
                  case when l.line = 'session' then 1 else 0 end as sessions,
                  case when l.line = 'agent' then 1 else 0 end as agents
                from lines l
            ) select u.external_id, s.user_id, {told_apart},
                s.sign * (s.entries + s.sessions + s.agents), case when s.sign < 0 then -s.cost else s.cost end
              from shares s left join end_users u on u.tenant_id = $1 and u.user_id = s.user_id
              where s.entries <> 0 or s.agents <> 0 or s.sessions <> 0 {}",
            // A session that was created is no agent's share.
            if self == Self::Agent { "and (s.agent_id <> '' or s.entries <> 0)" } else { "" },
        )
    }

    fn kept(table: &str, pieces: &str) -> String {
        let ids = if table == "usage_by_user" { "'', ''" } else { "t.session_id, t.agent_id" };
        format!(
            "select p.sign, t.user_id, {ids}, t.cost, t.entries, t.sessions, t.agents
             from pieces p cross join lateral (
                select * from {table} t where t.tenant_id = $1 and t.build = live_build($1, '{table}')
                  and t.grain = p.grain and t.start >= p.since and t.start < p.until
                offset 0) t
              where {pieces}
             union all"
        )
    }
}

/// What each used in a period, as it stood at a position of the log, in no order.
///
/// # Errors
/// [`Error`] when the database is away.
pub async fn shares(scope: Scope<'_>, by: By, period: Period, pin: Pin) -> Result<Vec<Share>, Error> {
    let pieces = Pieces::of(period, pin, &by.grains());
    let rows = scope.query_by_index(&by.sql(), &pieces.parameters()).await?;
    // Added up here: the database takes twice as long to sort, group and add the same rows.
    // Beside each share its entries, and sessions and agents that were created: where there are none, there is no share.
    let mut shares: HashMap<[&str; 3], (i64, Share)> = HashMap::with_capacity(rows.len());
    for row in &rows {
        let part = |at: usize| Ok::<_, Error>(row.try_get::<_, Option<&str>>(at)?.unwrap_or_default());
        let count = |at: usize| Ok::<_, Error>(row.try_get::<_, Option<i64>>(at)?.unwrap_or_default());
        let external_id: Option<&str> = row.try_get(0)?;
        let key = [part(1)?, part(2)?, part(3)?];
        let (counted, share) = shares.entry(key).or_insert_with(|| {
            let [user_id, session_id, agent_id] = key.map(str::to_owned);
            let external_id = external_id.map(str::to_owned);
            let (cost, sessions, agents) = (Decimal::ZERO, 0, 0);
            (0, Share { external_id, user_id, session_id, agent_id, cost, sessions, agents })
        });
        share.sessions += count(4)?;
        share.agents += count(5)?;
        *counted += count(6)?;
        share.cost += row.try_get::<_, Decimal>(7)?;
    }
    // What came after the position may have taken all of a share away again.
    Ok(shares.into_values().filter(|(counted, _)| *counted != 0).map(|(_, share)| share).collect())
}
