//! Agents, their tasks and what callers had run in them.

use std::collections::HashMap;
use std::fmt::Write as _;

use rust_decimal::Decimal;
use serde::Deserialize;
use theazo_domain::agent::{DefinitionVersion, Status};
use theazo_domain::agent_config::{AgentConfig, ProviderName};
use theazo_domain::id::{AgentId, ExecId, SessionId, TaskId};
use theazo_domain::time::Timestamp;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use super::{typed, word};
use crate::database::{Error, Scope, millis};

/// An agent.
#[derive(Debug)]
pub struct Agent {
    /// Its id.
    pub id: AgentId,
    /// Its session.
    pub session_id: SessionId,
    /// Where it stands.
    pub status: Status,
    /// The version of the definition that it was made from.
    pub definition: Option<DefinitionVersion>,
    /// How it is set up.
    pub config: AgentConfig,
    /// Its instructions, unless they were erased.
    pub instructions: Option<String>,
    /// Who runs its sandbox.
    pub provider: ProviderName,
    /// Whether it has a headless browser.
    pub browser: bool,
    /// Seconds of running time after which a run fails.
    pub timeout_s: i64,
    /// How the provider finds its sandbox, while there is one.
    pub sandbox: Option<String>,
    /// Whether the sandbox was ready at some time.
    pub ready: bool,
    /// Why it failed: the code and the message.
    pub error: Option<(String, String)>,
    /// The newest of its tasks.
    pub newest_task: Option<TaskId>,
    /// Of the event that created it.
    pub position: i64,
    /// When it was created.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
}

/// Which agents to list.
#[derive(Debug, Default)]
pub struct Filter {
    /// Of this session.
    pub session_id: Option<SessionId>,
    /// That stand there.
    pub status: Option<Status>,
}

/// The instructions are looked up for the agent: a join on what is within its JSON could use no index behind the wall
/// between tenants, since its operators may tell what they are given, and would read all of the tenant's content.
const SELECT: &str =
    "select a.agent_id, a.session_id, a.status, a.definition_id, a.definition_version, a.config::text,
        c.body, a.provider, a.browser, a.timeout_s, a.sandbox, a.ready, a.error_code, a.error_message,
        a.newest_task_id, a.position, a.created_at, a.updated_at
    from agents a
    left join lateral (
      select body from content
      where tenant_id = $1 and content_id = a.config->'instructions'->>'contentId' offset 0) c on true
    where a.tenant_id = $1 and a.build = live_build($1, 'agents')";

/// An agent; `None` where this tenant has none of this id.
///
/// # Errors
/// [`Error`] when the database is away.
pub async fn get(scope: Scope<'_>, id: AgentId) -> Result<Option<Agent>, Error> {
    let sql = format!("{SELECT} and a.agent_id = $2");
    let row = scope.query_optional(&sql, &[&id.to_string()]).await?;
    row.as_ref().map(agent).transpose()
}

/// Which of these agents this tenant has, and whether they have ended.
///
/// # Errors
/// [`Error`] when the database is away.
pub async fn ended(scope: Scope<'_>, ids: &[String]) -> Result<Vec<(AgentId, bool)>, Error> {
    let sql = "select a.agent_id, a.ending is not null from unnest($2::text[]) as asked(agent_id) cross join lateral (
        select * from agents where tenant_id = $1 and build = live_build($1, 'agents')
          and agent_id = asked.agent_id offset 0) a";
    let rows = scope.query(sql, &[&ids]).await?;
    rows.iter().map(|row| Ok((typed(row.get(0))?, row.get(1)))).collect()
}

/// Agents, newest first, from below a position on.
///
/// # Errors
/// [`Error`] when the database is away.
pub async fn list(
    scope: Scope<'_>,
    filter: &Filter,
    below: Option<i64>,
    limit: i64,
) -> Result<Vec<Agent>, Error> {
    let session_id = filter.session_id.map(|id| id.to_string());
    let status = filter.status.map(Status::as_str);
    let mut sql = SELECT.to_owned();
    let mut parameters: Vec<&(dyn ToSql + Sync)> = vec![&limit];
    // Each filter adds its condition only where it is used, so that each form has the index that it needs.
    let mut narrow = |condition: &str, parameter| {
        parameters.push(parameter);
        let _ = write!(sql, " and {condition} ${}", parameters.len() + 1);
    };
    if let Some(session_id) = &session_id {
        narrow("a.session_id =", session_id);
    }
    if let Some(status) = &status {
        narrow("a.status =", status);
    }
    if let Some(below) = &below {
        narrow("a.position <", below);
    }
    sql.push_str(" and a.position > 0 order by a.position desc limit $2");
    scope.query(&sql, &parameters).await?.iter().map(agent).collect()
}

fn agent(row: &Row) -> Result<Agent, Error> {
    let definition = match (row.get::<_, Option<&str>>(3), row.get::<_, Option<i64>>(4)) {
        (Some(id), Some(version)) => Some(DefinitionVersion { definition_id: typed(id)?, version }),
        _ => None,
    };
    let config =
        serde_json::from_str(row.get(5)).map_err(|error| Error::Row(format!("agents.config: {error}")))?;
    let error = row.get::<_, Option<String>>(12).zip(row.get::<_, Option<String>>(13));
    Ok(Agent {
        id: typed(row.get(0))?,
        session_id: typed(row.get(1))?,
        status: word(row.get(2))?,
        definition,
        config,
        instructions: row.get(6),
        provider: word(row.get(7))?,
        browser: row.get::<_, i64>(8) != 0,
        timeout_s: row.get(9),
        sandbox: row.get(10),
        ready: row.get::<_, i64>(11) != 0,
        error,
        newest_task: row.get::<_, Option<&str>>(14).map(typed).transpose()?,
        position: row.get(15),
        created_at: millis(row.get(16)),
        updated_at: millis(row.get(17)),
    })
}

/// A task of an agent.
#[derive(Debug)]
pub struct Task {
    /// Its id.
    pub id: TaskId,
    /// Whose it is.
    pub agent_id: AgentId,
    /// In which session.
    pub session_id: SessionId,
    /// `queued`, `running`, `completed`, `failed` or `cancelled`.
    pub status: String,
    /// What is to be done, unless it was erased.
    pub task: Option<String>,
    /// What came of it.
    pub output: Option<String>,
    /// Why it failed: the code and the message.
    pub error: Option<(String, String)>,
    /// What it has cost so far, in units of the currency.
    pub cost: Decimal,
    /// Calls of tools so far.
    pub tool_calls: i64,
    /// Of the event that created it.
    pub position: i64,
    /// When it was created.
    pub created_at: Timestamp,
    /// When it was started.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub completed_at: Option<Timestamp>,
}

const SELECT_TASK: &str =
    "select t.task_id, t.agent_id, t.session_id, t.status, c.body, o.body, t.error_code,
        t.error_message, t.cost, t.tool_calls, t.position, t.created_at, t.started_at, t.completed_at
    from tasks t
    left join lateral (
      select body from content where tenant_id = $1 and content_id = t.task_content_id offset 0) c on true
    left join lateral (
      select body from content where tenant_id = $1 and content_id = t.output_content_id offset 0) o on true
    where t.tenant_id = $1 and t.build = live_build($1, 'tasks')";

/// A task; `None` where this tenant has none of this id.
///
/// # Errors
/// [`Error`] when the database is away.
pub async fn task(scope: Scope<'_>, id: TaskId) -> Result<Option<Task>, Error> {
    let sql = format!("{SELECT_TASK} and t.task_id = $2");
    scope.query_optional(&sql, &[&id.to_string()]).await?.as_ref().map(read_task).transpose()
}

/// The tasks of an agent, newest first, from below a position on.
///
/// # Errors
/// [`Error`] when the database is away.
pub async fn tasks(
    scope: Scope<'_>,
    agent_id: AgentId,
    below: Option<i64>,
    limit: i64,
) -> Result<Vec<Task>, Error> {
    let below = below.unwrap_or(i64::MAX);
    let sql = format!(
        "{SELECT_TASK} and t.agent_id = $2 and t.position < $3 and t.position > 0
         order by t.position desc limit $4"
    );
    scope.query(&sql, &[&agent_id.to_string(), &below, &limit]).await?.iter().map(read_task).collect()
}

/// What a model answered, as it lies beside the log; of its members an output shows the text.
#[derive(Deserialize)]
struct Reply {
    text: String,
}

fn read_task(row: &Row) -> Result<Task, Error> {
    let reply = row.get::<_, Option<&str>>(5).map(serde_json::from_str::<Reply>).transpose();
    let reply = reply.map_err(|error| Error::Row(format!("the output of a task: {error}")))?;
    Ok(Task {
        id: typed(row.get(0))?,
        agent_id: typed(row.get(1))?,
        session_id: typed(row.get(2))?,
        status: row.get(3),
        task: row.get(4),
        output: reply.map(|reply| reply.text),
        error: row.get::<_, Option<String>>(6).zip(row.get::<_, Option<String>>(7)),
        cost: row.get(8),
        tool_calls: row.get(9),
        position: row.get(10),
        created_at: millis(row.get(11)),
        started_at: row.get::<_, Option<_>>(12).map(millis),
        completed_at: row.get::<_, Option<_>>(13).map(millis),
    })
}

/// A caller's program that was run.
#[derive(Debug)]
pub struct Exec {
    /// `running`, `finished`, `timed_out`, `provider_error` or `interrupted`.
    pub status: String,
    /// What was answered.
    pub result: Option<String>,
}

/// A caller's program that was run; `None` where there is none of this id.
///
/// # Errors
/// [`Error`] when the database is away.
pub async fn exec(scope: Scope<'_>, id: ExecId) -> Result<Option<Exec>, Error> {
    let sql = "select x.status, c.body from execs x
        left join lateral (
          select body from content where tenant_id = $1 and content_id = x.result_content_id offset 0) c on true
        where x.tenant_id = $1 and x.build = live_build($1, 'execs') and x.exec_id = $2";
    let row = scope.query_optional(sql, &[&id.to_string()]).await?;
    Ok(row.map(|row| Exec { status: row.get(0), result: row.get(1) }))
}

/// A piece of work that has to be done.
#[derive(Debug)]
pub struct Work {
    /// Whose it is.
    pub agent_id: AgentId,
    /// In which session.
    pub session_id: SessionId,
    /// Of a run: its task.
    pub task_id: Option<TaskId>,
}

/// A piece of work; `None` where it is done.
///
/// # Errors
/// [`Error`] when the database is away.
pub async fn work(scope: Scope<'_>, kind: &str, subject: &str) -> Result<Option<Work>, Error> {
    let sql = "select agent_id, session_id, task_id from work
        where tenant_id = $1 and build = live_build($1, 'work') and kind = $2 and subject = $3";
    let Some(row) = scope.query_optional(sql, &[&kind, &subject]).await? else { return Ok(None) };
    let task_id = row.get::<_, Option<&str>>(2).map(typed).transpose()?;
    Ok(Some(Work { agent_id: typed(row.get(0))?, session_id: typed(row.get(1))?, task_id }))
}

/// Whether the sandbox of an agent that goes on is still being suspended or woken, so that no code can run in it yet.
///
/// # Errors
/// [`Error`] when the database is away.
pub async fn is_waking(scope: Scope<'_>, id: AgentId) -> Result<bool, Error> {
    let sql = "select 1 from work where tenant_id = $1 and build = live_build($1, 'work')
        and kind in ('suspend', 'wake') and subject = $2 limit 1";
    Ok(scope.query_optional(sql, &[&id.to_string()]).await?.is_some())
}

/// Whether agents of a provider have ended whose sandboxes are still to be removed.
///
/// # Errors
/// [`Error`] when the database is away.
pub async fn is_to_release(scope: Scope<'_>, provider: ProviderName) -> Result<bool, Error> {
    let sql = "select 1 from work w
        join agents a on a.tenant_id = w.tenant_id and a.build = live_build($1, 'agents') and a.agent_id = w.subject
        where w.tenant_id = $1 and w.build = live_build($1, 'work') and w.kind = 'release'
          and a.provider = $2 and a.sandbox is not null limit 1";
    Ok(scope.query_optional(sql, &[&provider.as_str()]).await?.is_some())
}

/// The agents of a provider that have ended and whose sandboxes are still to be removed.
///
/// # Errors
/// [`Error`] when the database is away.
pub async fn to_release(scope: Scope<'_>, provider: ProviderName) -> Result<Vec<AgentId>, Error> {
    let sql = "select a.agent_id from work w
        join agents a on a.tenant_id = w.tenant_id and a.build = live_build($1, 'agents') and a.agent_id = w.subject
        where w.tenant_id = $1 and w.build = live_build($1, 'work') and w.kind = 'release'
          and a.provider = $2 and a.sandbox is not null order by a.agent_id";
    let rows = scope.query(sql, &[&provider.as_str()]).await?;
    rows.iter().map(|row| typed(row.get(0))).collect()
}

/// The bodies of pieces of content that were not erased, by their ids.
///
/// # Errors
/// [`Error`] when the database is away.
pub async fn bodies(scope: Scope<'_>, ids: &[String]) -> Result<HashMap<String, String>, Error> {
    let sql = "select c.content_id, c.body from unnest($2::text[]) as asked(content_id) cross join lateral (
        select * from content where tenant_id = $1 and content_id = asked.content_id offset 0) c";
    let rows = scope.query(sql, &[&ids]).await?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}
