//! The totals of a period, by category and model, and its cost day by day.

use std::fmt::Write as _;
use std::sync::LazyLock;

use rust_decimal::Decimal;
use theazo_domain::charge::Category;
use theazo_domain::time::{Day, Timestamp};
use theazo_projections::grain::Grain;
use theazo_projections::ledger::Measures;
use theazo_projections::ledger::usage::GRAINS;
use tokio_postgres::Row;

use super::{IS_ENTRY, LINES, Period, Pieces, Pin, SOURCES, created_in};
use crate::database::{Error, Scope, millis};
use crate::planted;
use crate::read::word;

/// What was used of a category, and of a model where it has some.
#[derive(Debug)]
pub struct Total {
    /// The category; `None` of what counts sessions and agents.
    pub category: Option<Category>,
    /// The model's id.
    pub model: Option<String>,
    /// The sums.
    pub sums: Measures,
}

/// The columns of sums, in the order in which [`total`] reads them, and what a line of the ledger adds to each: the same
/// as `Line::measures` of the projections says.
const SUMS: [(&str, &str); 16] = [
    ("cost", "case when l.line in ('usage', 'rating', 'adjustment') then l.cost else 0 end"),
    ("unconfirmed", "case l.line when 'unconfirmed' then l.cost when 'withdrawn' then -l.cost else 0 end"),
    ("gb_hours", "case when l.line = 'usage' and l.unit = 'gb_hour' then l.quantity else 0 end"),
    ("entries", "case when l.line in ('usage', 'rating', 'adjustment') then 1 else 0 end"),
    ("calls", "l.calls"),
    ("input_tokens", "case when l.line = 'usage' and l.unit = 'input_token' then l.quantity else 0 end"),
    ("output_tokens", "case when l.line = 'usage' and l.unit = 'output_token' then l.quantity else 0 end"),
    (
        "cache_read_tokens",
        "case when l.line = 'usage' and l.unit = 'cache_read_token' then l.quantity else 0 end",
    ),
    (
        "cache_write_tokens",
        "case when l.line = 'usage' and l.unit = 'cache_write_token' then l.quantity else 0 end",
    ),
    (
        "compute_ms",
        "case when l.line = 'usage' and l.unit = 'millisecond' and l.category = 'compute' then l.quantity else 0 end",
    ),
    (
        "orchestration_ms",
        "case when l.line = 'usage' and l.unit = 'millisecond' and l.category <> 'compute' then l.quantity else 0 end",
    ),
    ("unrated_calls", "l.unrated_calls"),
    (
        "unrated_input_tokens",
        "case when (l.line = 'rated' or l.line = 'usage' and l.category = 'model' and l.price_amount is null)
           and l.unit in ('input_token', 'cache_read_token', 'cache_write_token') then l.quantity else 0 end",
    ),
    (
        "unrated_output_tokens",
        "case when (l.line = 'rated' or l.line = 'usage' and l.category = 'model' and l.price_amount is null)
           and l.unit = 'output_token' then l.quantity else 0 end",
    ),
    // The listing of sessions tells them.
    ("sessions", "0"),
    ("agents", "case when l.line = 'agent' then 1 else 0 end"),
];

/// Sums of columns, as they stand behind others in a select.
struct Columns {
    /// Of what the pieces came to, each by its sign.
    sums: String,
    /// Of the rows of a piece.
    kept: String,
    /// Of a piece.
    of_piece: String,
    /// Of a line.
    of_lines: String,
    /// Of a session that was created.
    of_sessions: String,
}

impl Columns {
    fn of(is_one: impl Fn(&str) -> bool) -> Self {
        let [mut sums, mut kept, mut of_piece, mut of_lines, mut of_sessions] = <[String; 5]>::default();
        for (index, (column, of_line)) in SUMS.iter().enumerate().filter(|(_, (column, _))| is_one(column)) {
            // The first three are decimals, the others whole numbers.
            let kind = if index < 3 { "numeric" } else { "bigint" };
            let _ = write!(sums, ", sum(s.sign * s.{column})::{kind}");
            let _ = write!(kept, ", sum(t.{column})::{kind} as {column}");
            let _ = write!(of_piece, ", t.{column}");
            let _ = write!(of_lines, ", {of_line}");
            let _ = write!(of_sessions, ", {}", i32::from(*column == "sessions"));
        }
        Self { sums, kept, of_piece, of_lines, of_sessions }
    }
}

/// A piece is summed up before it is added or taken away: a product for each of its rows takes longer than the rows.
static TOTALS: LazyLock<String> = LazyLock::new(|| {
    let Columns { sums, kept, of_piece, of_lines, of_sessions } = Columns::of(|_| true);
    let created = created_in(&format!("'{LINES}'"), "");
    format!(
        "{SOURCES} {created} select s.category, s.model{sums} from (
            select p.sign, t.category, t.model{of_piece} from pieces p cross join lateral (
                select t.category, t.model{kept} from usage_totals t
                where t.tenant_id = $1 and t.build = (select live_build($1, 'usage_totals'))
                  and t.grain = p.grain and t.start >= p.since and t.start < p.until
                group by t.category, t.model offset 0) t
              where p.grain <> '{LINES}'
            union all
            select l.sign, coalesce(l.category, ''), coalesce(l.model, ''){of_lines} from lines l
            union all
            select c.sign, '', ''{of_sessions} from created c
          ) s group by s.category, s.model order by s.category, s.model"
    )
});

/// Rows that have usage without a price are few, and found by an index of those alone.
static UNRATED: LazyLock<String> = LazyLock::new(|| {
    let Columns { sums, kept, of_piece, of_lines, .. } = Columns::of(|column| column.starts_with("unrated"));
    format!(
        "{SOURCES} select true{sums} from (
            select p.sign{of_piece} from pieces p cross join lateral (
                select true{kept} from usage_totals t
                where t.tenant_id = $1 and t.build = (select live_build($1, 'usage_totals'))
                  and t.grain = p.grain and t.start >= p.since and t.start < p.until
                  and (t.unrated_calls <> 0 or t.unrated_input_tokens <> 0 or t.unrated_output_tokens <> 0)
                having count(*) > 0 offset 0) t
              where p.grain <> '{LINES}'
            union all
            select l.sign{of_lines} from lines l
          ) s having count(*) > 0"
    )
});

/// Usage of models that has no price.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Unrated {
    /// Calls to models.
    pub calls: i64,
    /// Tokens that they were given, cached ones among them.
    pub input_tokens: i64,
    /// Tokens that they answered with.
    pub output_tokens: i64,
}

/// What has no price in a period, as it stood at a position of the log: what [`totals`] say of it, without reading them.
///
/// # Errors
/// [`Error`] when the database is away.
pub async fn unrated(scope: Scope<'_>, period: Period, pin: Pin) -> Result<Unrated, Error> {
    let pieces = Pieces::of(period, pin, &GRAINS);
    let rows = scope.query_by_index(&UNRATED, &pieces.parameters()).await?;
    let Some(row) = rows.first() else { return Ok(Unrated::default()) };
    Ok(Unrated { calls: row.try_get(1)?, input_tokens: row.try_get(2)?, output_tokens: row.try_get(3)? })
}

/// The totals of a period, as they stood at a position of the log.
///
/// # Errors
/// [`Error`] when the database is away.
pub async fn totals(scope: Scope<'_>, period: Period, pin: Pin) -> Result<Vec<Total>, Error> {
    let mut period = period;
    if planted::is("last-minute") {
        period.until = Timestamp::from_millis(period.until.millis() - 60_000).max(period.from);
    }
    let pieces = Pieces::of(period, pin, &GRAINS);
    let rows = scope.query_by_index(&TOTALS, &pieces.parameters()).await?;
    rows.iter().map(total).collect()
}

fn total(row: &Row) -> Result<Total, Error> {
    let (category, model): (&str, &str) = (row.try_get(0)?, row.try_get(1)?);
    let sums = Measures {
        cost: row.try_get(2)?,
        unconfirmed: row.try_get(3)?,
        gb_hours: row.try_get(4)?,
        entries: row.try_get(5)?,
        calls: row.try_get(6)?,
        input_tokens: row.try_get(7)?,
        output_tokens: row.try_get(8)?,
        cache_read_tokens: row.try_get(9)?,
        cache_write_tokens: row.try_get(10)?,
        compute_ms: row.try_get(11)?,
        orchestration_ms: row.try_get(12)?,
        unrated_calls: row.try_get(13)?,
        unrated_input_tokens: row.try_get(14)?,
        unrated_output_tokens: row.try_get(15)?,
        sessions: row.try_get(16)?,
        agents: row.try_get(17)?,
    };
    let category = (!category.is_empty()).then(|| word(category)).transpose()?;
    Ok(Total { category, model: (!model.is_empty()).then(|| model.to_owned()), sums })
}

/// What the days of a period cost, as it stood at a position of the log, those that cost nothing left out.
///
/// # Errors
/// [`Error`] when the database is away.
pub async fn daily(scope: Scope<'_>, period: Period, pin: Pin) -> Result<Vec<(Day, Decimal)>, Error> {
    let sql = format!(
        "{SOURCES} select date_trunc('day', s.at, 'UTC'), sum(s.sign * s.cost) from (
            select p.sign, t.at, t.cost from pieces p cross join lateral (
                select date_trunc('day', t.start, 'UTC') as at, sum(t.cost) as cost from usage_totals t
                where t.tenant_id = $1 and t.build = (select live_build($1, 'usage_totals'))
                  and t.grain = p.grain and t.start >= p.since and t.start < p.until
                group by 1 offset 0) t
              where p.grain <> '{LINES}'
            union all
            select l.sign, l.at, l.cost from lines l where {IS_ENTRY}
          ) s group by 1 order by 1"
    );
    let pieces = Pieces::of(period, pin, &[Grain::Day, Grain::Hour, Grain::Minute]);
    let rows = scope.query_by_index(&sql, &pieces.parameters()).await?;
    rows.iter().map(|row| Ok((millis(row.try_get(0)?).day(), row.try_get(1)?))).collect()
}
