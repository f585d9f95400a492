//! Entries: the charges themselves, newest first.

use std::fmt::Write as _;

use rust_decimal::Decimal;
use theazo_domain::charge::{Category, Price};
use theazo_domain::id::{AgentId, SessionId, TaskId};
use theazo_domain::time::Timestamp;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use super::{IS_ENTRY, Period};
use crate::database::{Error, Scope, millis, system_time};
use crate::read::word;

/// Where an entry stands: the position of its event, and its place among the charges of that.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The position of the event.
    pub position: i64,
    /// Among the event's charges, from 0.
    pub entry: i64,
}

/// A charge.
#[derive(Debug)]
pub struct Entry {
    /// Where it stands.
    pub place: Place,
    /// When it counts.
    pub at: Timestamp,
    /// usage, rating or adjustment.
    pub line: String,
    /// What kind of thing was used.
    pub category: Category,
    /// The user as the caller knows them; `None` once the person was erased.
    pub external_id: Option<String>,
    /// The session.
    pub session_id: String,
    /// The agent, where it is one's.
    pub agent_id: Option<String>,
    /// The task, where it is one's.
    pub task_id: Option<String>,
    /// The model, where it is of one.
    pub model: Option<String>,
    /// How much was used.
    pub quantity: Decimal,
    /// What the quantity counts.
    pub unit: String,
    /// The price; none where there was none.
    pub price: Option<Price>,
    /// The version of the rate card.
    pub rate_card: String,
    /// In units of the currency, exact.
    pub cost: Decimal,
    /// The charge that it corrects.
    pub corrects: Option<Place>,
    /// When that was used whose price this is.
    pub used_at: Option<Timestamp>,
}

/// Which entries to list.
#[derive(Debug, Default)]
pub struct Filter {
    /// Of the end user whom the caller knows by this id.
    pub user_id: Option<String>,
    /// Of this session.
    pub session_id: Option<SessionId>,
    /// Of this agent.
    pub agent_id: Option<AgentId>,
    /// For this task.
    pub task_id: Option<TaskId>,
    /// Of this model.
    pub model: Option<String>,
    /// Of this category.
    pub category: Option<Category>,
}

/// The columns of an entry, in the order in which [`entry`] reads them.
pub(super) const COLUMNS: &str = "l.position, l.entry, l.at, l.line, l.category, l.user_id, l.session_id,
    l.agent_id, l.task_id, l.model, l.quantity, l.unit, l.price_amount, l.price_per, l.rate_card, l.cost,
    l.corrects_position, l.corrects_entry, l.used_at";

/// Who the user of a line is to the caller: found by key for each line, however many users there are.
pub(super) const OF_USER: &str = "left join lateral (
    select external_id from end_users where tenant_id = $1 and user_id = l.user_id offset 0) u on true";

/// Parameters of a statement that is put together, numbered as they come.
struct Parameters<'a>(Vec<&'a (dyn ToSql + Sync)>);

impl<'a> Parameters<'a> {
    fn number(&mut self, parameter: &'a (dyn ToSql + Sync)) -> String {
        self.0.push(parameter);
        format!("${}", self.0.len() + 1)
    }
}

/// Entries of a period, newest first by position, from below a place on.
///
/// # Errors
/// [`Error`] when the database is away.
pub async fn entries(
    scope: Scope<'_>,
    filter: &Filter,
    period: Period,
    below: Option<Place>,
    limit: i64,
) -> Result<Vec<Entry>, Error> {
    let (from, until) = (system_time(period.from), system_time(period.until));
    let text = |id: Option<String>| id;
    let task = text(filter.task_id.map(|id| id.to_string()));
    let agent = text(filter.agent_id.map(|id| id.to_string()));
    let session = text(filter.session_id.map(|id| id.to_string()));
    let category = filter.category.map(Category::as_str);
    let mut parameters = Parameters(vec![]);
    let [from, until, limit] =
        [parameters.number(&from), parameters.number(&until), parameters.number(&limit)];
    // The narrowest of those that an event names as its subjects is what its entries are found by.
    let mut subject = None;
    let mut narrow = String::new();
    for (column, id) in [("task_id", &task), ("agent_id", &agent), ("session_id", &session)] {
        if let Some(id) = id {
            let number = parameters.number(id);
            let _ = write!(narrow, " and l.{column} = {number}");
            subject = subject.or(Some(number));
        }
    }
    if let Some(user_id) = &filter.user_id {
        let number = parameters.number(user_id);
        let user = format!("(select user_id from end_users where tenant_id = $1 and external_id = {number})");
        let _ = write!(narrow, " and l.user_id = {user}");
        subject = subject.or(Some(user));
    }
    if let Some(model) = &filter.model {
        let _ = write!(narrow, " and l.model = {}", parameters.number(model));
    }
    if let Some(category) = &category {
        let _ = write!(narrow, " and l.category = {}", parameters.number(category));
    }
    if let Some(Place { position, entry }) = &below {
        let place = [parameters.number(position), parameters.number(entry)].join(", ");
        let _ = write!(narrow, " and (l.position, l.entry) < ({place})");
    }
    let sql = statement(&narrow, subject.as_deref(), [&from, &until, &limit]);
    scope.query_by_index(&sql, &parameters.0).await?.iter().map(entry).collect()
}

/// Entries that are not late are found by their positions, which follow the time; those that are by their time, and none
/// of them is looked up that would come behind a page that is full without it.
fn statement(narrow: &str, subject: Option<&str>, [from, until, limit]: [&str; 3]) -> String {
    let of_build = "l.tenant_id = $1 and l.build = (select live_build($1, 'ledger')) and l.position > 0";
    let order = format!("order by l.position desc, l.entry desc limit {limit}");
    let between = |position: &str| {
        format!("{position} > position_before($1, {from}) and {position} <= position_before($1, {until})")
    };
    let timely = match subject {
        None => format!(
            "select {COLUMNS} from ledger l where {of_build} and l.late = 0 and {IS_ENTRY} and {} {narrow} {order}",
            between("l.position")
        ),
        Some(subject) => format!(
            "select {COLUMNS} from event_subjects s cross join lateral (
               select * from ledger l where {of_build} and l.late = 0 and {IS_ENTRY} and l.position = s.position {narrow}
               offset 0) l
             where s.tenant_id = $1 and s.subject = {subject} and {}
             order by s.position desc, l.entry desc limit {limit}",
            between("s.position")
        ),
    };
    format!(
        "with timely as materialized ({timely})
         select {}, u.external_id from (
           select * from timely
           union all
           (select {COLUMNS} from ledger l
            where {of_build} and l.late = 1 and l.at >= {from} and l.at < {until} and {IS_ENTRY} {narrow}
              and l.position >= (select case when count(*) < {limit} then 0 else min(t.position) end from timely t)
            {order})
         ) l {OF_USER} {order}",
        COLUMNS.replace("l.user_id, ", ""),
    )
}

pub(super) fn entry(row: &Row) -> Result<Entry, Error> {
    let place = |position: Option<i64>, entry: Option<i64>| {
        position.zip(entry).map(|(position, entry)| Place { position, entry })
    };
    let price = row.try_get::<_, Option<Decimal>>(11)?.zip(row.try_get::<_, Option<i64>>(12)?);
    Ok(Entry {
        place: Place { position: row.try_get(0)?, entry: row.try_get(1)? },
        at: millis(row.try_get(2)?),
        line: row.try_get(3)?,
        category: word(row.try_get(4)?)?,
        session_id: row.try_get(5)?,
        agent_id: row.try_get(6)?,
        task_id: row.try_get(7)?,
        model: row.try_get(8)?,
        quantity: row.try_get(9)?,
        unit: row.try_get(10)?,
        price: price.map(|(amount, per)| Price { amount, per }),
        rate_card: row.try_get(13)?,
        cost: row.try_get(14)?,
        corrects: place(row.try_get(15)?, row.try_get(16)?),
        used_at: row.try_get::<_, Option<_>>(17)?.map(millis),
        external_id: row.try_get(18)?,
    })
}
