//! `/v1/billing/export`, and `theazo billing export`: the charges of a period, as a table for other programs.
//!
//! It is written page by page while it is read, so it takes the same memory however much there is, and it is of one
//! position of the log, so its lines add up to what the views of that position show.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::header::{CONTENT_DISPOSITION, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use futures_util::stream::{Stream, try_unfold};
use serde::Deserialize;
use theazo_domain::time::{Day, Timestamp};

use super::entries::{Entry, name};
use super::focus;
use super::period::{Asked, Default};
use crate::database::Error as Failed;
use crate::http::Edge;
use crate::http::auth::Inspector;
use crate::http::error::Error;
use crate::http::query::Query;
use crate::http::v1::money::exact;
use crate::log::{Log, Tenant};
use crate::read::usage::{self, Part, Period, Pin, Place};

/// How an export is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Format {
    /// The entries as comma-separated values (RFC 4180), with a head.
    Csv,
    /// The entries as `GET /v1/billing/entries` shows them.
    Json,
    /// The columns of the `FinOps` Open Cost and Usage Specification, 1.2, as comma-separated values: a row for each
    /// group of charges.
    Focus,
}

/// What is exported.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Export {
    /// Whose charges.
    pub(crate) tenant: Tenant,
    /// How they are written.
    pub(crate) format: Format,
    /// Of which period.
    pub(crate) period: Period,
    /// As the log stood then.
    pub(crate) pin: Pin,
}

/// The charges of a period as a table: entries as CSV or JSON, or groups of them with FOCUS 1.2 columns.
#[utoipa::path(get, operation_id = "exportBilling", path = "/v1/billing/export", tag = "billing",
    params(
        ("format" = Option<String>, Query, description = "`csv` (default), `json` or `focus`: FinOps FOCUS 1.2 as CSV"),
        ("from" = Option<String>, Query, description = "A date, or a time. Default: the start of the calendar month (UTC)"),
        ("until" = Option<String>, Query, description = "A date, which it includes, or a time, before which it ends. Default: now"),
    ),
    responses((status = 200, content((String = "text/csv"), (Object = "application/json")))))]
pub(crate) async fn export(
    State(edge): State<Edge>,
    inspector: Inspector,
    mut query: Query,
) -> Result<Response, Error> {
    let now = edge.app.clock.now();
    let asked = Asked::read(&mut query, Default::Month, now);
    let format = query.word("format", "csv, json or focus").unwrap_or(Format::Csv);
    query.finish()?;
    let tenant = inspector.tenant;
    let pin = usage::pin(edge.app.log.scope(tenant.id), None).await?;
    let export = Export { tenant, format, period: asked.from(now, pin.at), pin };
    let body = Body::from_stream(written(Arc::clone(&edge.app.log), export));
    let headers = [(CONTENT_TYPE, format.media_type()), (CONTENT_DISPOSITION, format.attachment())];
    Ok((headers, body).into_response())
}

impl Format {
    const fn media_type(self) -> &'static str {
        match self {
            Self::Csv | Self::Focus => "text/csv; charset=utf-8; header=present",
            Self::Json => "application/json",
        }
    }

    const fn attachment(self) -> &'static str {
        match self {
            Self::Csv => "attachment; filename=\"billing.csv\"",
            Self::Json => "attachment; filename=\"billing.json\"",
            Self::Focus => "attachment; filename=\"billing-focus.csv\"",
        }
    }
}

/// What is to be written next.
#[derive(Debug, Clone, Copy)]
enum Next {
    Head,
    Entries(Part, Place),
    Day(Day),
    Tail,
    Nothing,
}

/// The text of an export, piece by piece.
pub(crate) fn written(log: Arc<Log>, export: Export) -> impl Stream<Item = Result<String, Failed>> + Send {
    try_unfold((log, Next::Head, true), move |(log, mut next, mut first)| async move {
        let mut piece = String::new();
        while piece.is_empty() {
            next = match next {
                Next::Head => export.head(&log, &mut piece).await?,
                Next::Entries(part, after) => {
                    export.entries(&log, (part, after), &mut first, &mut piece).await?
                }
                Next::Day(day) => export.day(&log, day, &mut piece).await?,
                Next::Tail => {
                    piece.push_str(if export.format == Format::Json { "\n]}\n" } else { "" });
                    Next::Nothing
                }
                Next::Nothing => return Ok(None),
            };
        }
        Ok(Some((piece, (log, next, first))))
    })
}

const START: Place = Place { position: 0, entry: 0 };

impl Export {
    async fn head(&self, log: &Log, piece: &mut String) -> Result<Next, Failed> {
        match self.format {
            Format::Csv => row(piece, &COLUMNS.map(|column| Some(column.to_owned()))),
            Format::Json => piece.push_str("{\"data\":["),
            Format::Focus => {
                row(piece, &focus::COLUMNS.map(|column| Some(column.to_owned())));
                let begun = usage::begun(log.scope(self.tenant.id)).await?;
                return Ok(Next::Day(self.period.from.max(begun).day()));
            }
        }
        Ok(Next::Entries(Part::Timely, START))
    }

    async fn entries(
        &self,
        log: &Log,
        (part, after): (Part, Place),
        first: &mut bool,
        piece: &mut String,
    ) -> Result<Next, Failed> {
        let scope = log.scope(self.tenant.id);
        let page = usage::entries_after(scope, part, self.period, self.pin, after).await?;
        let Some(last) = page.last().map(|entry| entry.place) else {
            return Ok(if part == Part::Timely { Next::Entries(Part::Late, START) } else { Next::Tail });
        };
        for entry in page {
            if self.format == Format::Csv {
                row(piece, &cells(entry));
            } else {
                piece.push_str(if std::mem::take(first) { "\n" } else { ",\n" });
                let shown = serde_json::to_string(&Entry::from(entry)).expect("an entry is plain data");
                piece.push_str(&shown);
            }
        }
        Ok(Next::Entries(part, last))
    }

    async fn day(&self, log: &Log, day: Day, piece: &mut String) -> Result<Next, Failed> {
        if day.start() >= self.period.until || day.start() > self.pin.at {
            return Ok(Next::Tail);
        }
        let scope = log.scope(self.tenant.id);
        let groups = usage::groups(scope, self.period, self.pin, day).await?;
        let account = if groups.is_empty() { None } else { usage::account_name(scope).await? };
        for group in &groups {
            row(piece, &focus::cells(self, account.as_deref(), day, group));
        }
        Ok(Next::Day(day.next()))
    }
}

/// The columns of the entries as CSV.
const COLUMNS: [&str; 19] = [
    "id",
    "position",
    "at",
    "line",
    "category",
    "userId",
    "sessionId",
    "agentId",
    "taskId",
    "model",
    "quantity",
    "unit",
    "unitPrice",
    "unitPricePer",
    "rateCardVersion",
    "cost",
    "currency",
    "corrects",
    "usedAt",
];

fn cells(entry: usage::Entry) -> [Option<String>; 19] {
    [
        Some(name(entry.place)),
        Some(entry.place.position.to_string()),
        Some(entry.at.to_string()),
        Some(entry.line),
        Some(entry.category.as_str().to_owned()),
        entry.external_id,
        Some(entry.session_id),
        entry.agent_id,
        entry.task_id,
        entry.model,
        Some(entry.quantity.normalize().to_string()),
        Some(entry.unit),
        entry.price.map(|price| exact(price.amount)),
        entry.price.map(|price| price.per.to_string()),
        Some(entry.rate_card),
        Some(exact(entry.cost)),
        Some("usd".to_owned()),
        entry.corrects.map(name),
        entry.used_at.map(|at: Timestamp| at.to_string()),
    ]
}

/// Writes a row of CSV. A cell without a value is empty.
fn row<const N: usize>(out: &mut String, cells: &[Option<String>; N]) {
    for (index, cell) in cells.iter().enumerate() {
        out.push_str(if index == 0 { "" } else { "," });
        out.push_str(&cell.as_deref().map(written_cell).unwrap_or_default());
    }
    out.push_str("\r\n");
}

/// What a spreadsheet takes for the beginning of a formula, in some languages in full width.
const FORMULA: [char; 11] = ['=', '+', '-', '@', '\t', '\r', '\n', '＝', '＋', '－', '＠'];

/// A cell, quoted where it must be (RFC 4180). A text that a spreadsheet would take for a formula, as a user's id or a
/// model's name may be, is led by an apostrophe; numbers are not. So is one that begins with an apostrophe of its own, or
/// nobody could tell the two apart.
fn written_cell(text: &str) -> String {
    let is_number = text.parse::<rust_decimal::Decimal>().is_ok();
    let is_led = (text.starts_with(FORMULA) || text.starts_with('\'')) && !is_number;
    let text = if is_led { format!("'{text}") } else { text.to_owned() };
    if text.contains([',', '"', '\r', '\n']) || text.starts_with(' ') || text.ends_with(' ') {
        return format!("\"{}\"", text.replace('"', "\"\""));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_is_quoted_where_it_must_be_and_is_no_formula() {
        for (text, expected) in [
            ("plain", "plain"),
            ("a,b", "\"a,b\""),
            ("say \"a\"\n", "\"say \"\"a\"\"\n\""),
            ("=1+1", "'=1+1"),
            ("@SUM(A1,B1)", "\"'@SUM(A1,B1)\""),
            ("-0.25", "-0.25"),
            ("-a", "'-a"),
            ("'-a", "''-a"),
            ("\n=1", "\"'\n=1\""),
            ("＝1+1", "'＝1+1"),
            ("+49", "+49"),
        ] {
            assert_eq!(written_cell(text), expected);
        }
    }
}
