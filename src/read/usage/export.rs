//! Charges for an export: page by page, oldest first, and a day's charges in groups.

use rust_decimal::Decimal;
use theazo_domain::charge::{Category, Price};
use theazo_domain::time::{Day, Timestamp};
use tokio_postgres::Row;

use super::entries::{COLUMNS, OF_USER, entry};
use super::{Entry, IS_ENTRY, Period, Pin, Place};
use crate::config;
use crate::database::{Error, Scope, system_time};
use crate::read::word;

/// Which of the two parts of an export: what counts at the time of its event, and what counts before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// By far most charges.
    Timely,
    /// Compute before a midnight that its event is past.
    Late,
}

impl Part {
    /// The lines of the part that lie in the period `$2` to `$3`, up to the position `$4`.
    fn lines(self) -> String {
        let within = match self {
            Self::Timely => {
                "l.late = 0 and l.position > position_before($1, $2) and l.position <= position_before($1, $3)"
            }
            Self::Late => "l.late = 1 and l.at >= $2 and l.at < $3",
        };
        format!(
            "l.tenant_id = $1 and l.build = (select live_build($1, 'ledger')) and {within} and l.position <= $4 and {IS_ENTRY}"
        )
    }
}

/// The next entries of a period, oldest first, behind a place, as the log stood at a position.
///
/// # Errors
/// [`Error`] when the database is away.
pub async fn entries_after(
    scope: Scope<'_>,
    part: Part,
    period: Period,
    pin: Pin,
    after: Place,
) -> Result<Vec<Entry>, Error> {
    let sql = format!(
        "select {}, u.external_id from (
           select {COLUMNS} from ledger l where {} and (l.position, l.entry) > ($5, $6)
           order by l.position, l.entry limit $7
         ) l {OF_USER} order by l.position, l.entry",
        COLUMNS.replace("l.user_id, ", ""),
        part.lines(),
    );
    let (from, until) = (system_time(period.from), system_time(period.until));
    let parameters: [&(dyn tokio_postgres::types::ToSql + Sync); 6] =
        [&from, &until, &pin.position, &after.position, &after.entry, &config::EXPORT_PAGE];
    scope.query(&sql, &parameters).await?.iter().map(entry).collect()
}

/// Charges of a day that are alike in all but their time and quantity.
#[derive(Debug)]
pub struct Group {
    /// The user as the caller knows them; `None` once the person was erased.
    pub external_id: Option<String>,
    /// The session.
    pub session_id: String,
    /// The agent, where it is one's.
    pub agent_id: Option<String>,
    /// usage, rating or adjustment.
    pub line: String,
    /// What kind of thing was used.
    pub category: Category,
    /// The model, where it is of one.
    pub model: Option<String>,
    /// What the quantity counts.
    pub unit: String,
    /// The price; none where there was none.
    pub price: Option<Price>,
    /// The version of the rate card.
    pub rate_card: String,
    /// Whether it is below nothing: a credit.
    pub is_credit: bool,
    /// Whether it corrects or rates what counted in an earlier month.
    pub of_earlier_month: bool,
    /// How much was used.
    pub quantity: Decimal,
    /// In units of the currency, exact.
    pub cost: Decimal,
}

/// The charges of the part of a period that lies in a day, in groups.
///
/// # Errors
/// [`Error`] when the database is away.
pub async fn groups(scope: Scope<'_>, period: Period, pin: Pin, day: Day) -> Result<Vec<Group>, Error> {
    let month = |time: &str| format!("date_trunc('month', {time}, 'UTC')");
    let sql = format!(
        "with lines as (select * from ledger l where {} union all select * from ledger l where {})
         select u.external_id, g.* from (
           select l.user_id, l.session_id, l.agent_id, l.line, l.category, l.model, l.unit, l.price_amount,
             l.price_per, l.rate_card, l.cost < 0,
             coalesce(l.used_at, c.at) is not null and {} < {} as earlier, sum(l.quantity), sum(l.cost)
           from lines l
           left join ledger c on c.tenant_id = $1 and c.build = l.build and c.position = l.corrects_position
             and c.entry = l.corrects_entry
           group by 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12
         ) g left join lateral (
           select external_id from end_users where tenant_id = $1 and user_id = g.user_id offset 0) u on true
         order by g.session_id, g.agent_id, g.category, g.model, g.unit, g.line, g.rate_card",
        Part::Timely.lines(),
        Part::Late.lines(),
        month("coalesce(l.used_at, c.at)"),
        month("l.at"),
    );
    let from = system_time(period.from.max(day.start()));
    let until = system_time(period.until.min(day.next().start()));
    scope.query(&sql, &[&from, &until, &pin.position]).await?.iter().map(group).collect()
}

fn group(row: &Row) -> Result<Group, Error> {
    let price = row.try_get::<_, Option<Decimal>>(8)?.zip(row.try_get::<_, Option<i64>>(9)?);
    Ok(Group {
        external_id: row.try_get(0)?,
        session_id: row.try_get(2)?,
        agent_id: row.try_get(3)?,
        line: row.try_get(4)?,
        category: word(row.try_get(5)?)?,
        model: row.try_get(6)?,
        unit: row.try_get(7)?,
        price: price.map(|(amount, per)| Price { amount, per }),
        rate_card: row.try_get(10)?,
        is_credit: row.try_get(11)?,
        of_earlier_month: row.try_get(12)?,
        quantity: row.try_get(13)?,
        cost: row.try_get(14)?,
    })
}

/// How the organization is called.
///
/// # Errors
/// [`Error`] when the database is away.
pub async fn account_name(scope: Scope<'_>) -> Result<Option<String>, Error> {
    let sql = "select o.name from organization o where o.tenant_id = $1 and o.build = live_build($1, 'organization')";
    Ok(scope.query_optional(sql, &[]).await?.map(|row| row.get(0)))
}

/// When the first event of a log happened: no charge is earlier than its day.
///
/// # Errors
/// [`Error`] when the database is away.
pub async fn begun(scope: Scope<'_>) -> Result<Timestamp, Error> {
    let sql = "select e.at from events e where e.tenant_id = $1 and e.position = 1";
    let found = scope.query_optional(sql, &[]).await?;
    Ok(found.map_or_else(Timestamp::default, |row| crate::database::millis(row.get(0))))
}
