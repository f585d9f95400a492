//! The ledger: a line for each charge and for whatever else usage and billing are summed up from.
//!
//! Every figure of every view is a sum over these lines, but for the number of sessions that were created, which the
//! listing of sessions tells. The tables of sums ([`usage`]) are folded from the same lines, and the lines tell what lies
//! between them, so the two cannot disagree.

mod line;
/// Sums of the lines by periods of time.
pub mod usage;

pub use line::{Line, LineKind, Measures, lines};

use rust_decimal::Decimal;
use theazo_domain::charge;

use crate::table::{optional, text};
use crate::{Changes, Column, Happened, Projection, Table, Value};

/// A row a line.
pub(crate) struct Ledger;

static TABLE: Table = Table {
    name: "ledger",
    // Entries are the settled charges of an event, from 0; its other lines follow them.
    key: &[Column::integer("position"), Column::integer("entry")],
    columns: &[
        Column::time("at"),
        // 1 where it counts before the time of its event.
        Column::integer("late"),
        Column::text("line"),
        Column::text("category"),
        Column::text("user_id"),
        Column::text("session_id"),
        Column::text("agent_id"),
        Column::text("task_id"),
        Column::text("model"),
        Column::decimal("quantity"),
        Column::text("unit"),
        Column::decimal("price_amount"),
        Column::integer("price_per"),
        Column::text("rate_card"),
        // In units of the currency, exact.
        Column::decimal("cost"),
        Column::integer("corrects_position"),
        Column::integer("corrects_entry"),
        Column::time("used_at"),
        Column::integer("calls"),
        Column::integer("unrated_calls"),
    ],
};

impl Projection for Ledger {
    fn table(&self) -> &'static Table {
        &TABLE
    }

    fn version(&self) -> i32 {
        2
    }

    fn fold(&self, happened: &Happened<'_>, changes: &mut Changes) {
        for (entry, line) in (0..).zip(lines(happened)) {
            let key = vec![Value::Integer(happened.position), Value::Integer(entry)];
            changes.put(&TABLE, key, row(&line, happened));
        }
    }
}

fn row(line: &Line<'_>, happened: &Happened<'_>) -> Vec<Value> {
    let corrects = match line.charge.map(|charge| charge.line) {
        Some(charge::Line::Adjustment { corrects }) => Some(corrects),
        _ => None,
    };
    let used_at = match line.charge.map(|charge| charge.line) {
        Some(charge::Line::Rating { used_at, .. }) => Some(used_at),
        _ => None,
    };
    let price = line.charge.and_then(|charge| charge.price);
    vec![
        Value::Time(line.at),
        Value::Integer((line.at != happened.at).into()),
        text(line.kind.as_str()),
        optional(line.category.map(|category| text(category.as_str()))),
        text(line.user_id),
        text(line.session_id),
        optional(line.agent_id.map(text)),
        optional(line.task_id.map(text)),
        optional(line.model.map(text)),
        optional(line.charge.map(|_| Value::Decimal(line.quantity))),
        optional(line.charge.map(|charge| text(charge.unit.as_str()))),
        optional(price.map(|price| Value::Decimal(price.amount))),
        optional(price.map(|price| Value::Integer(price.per))),
        optional(line.charge.map(|charge| text(&charge.rate_card))),
        Value::Decimal(line.charge.map_or(Decimal::ZERO, |_| line.cost)),
        optional(corrects.map(|id| Value::Integer(id.position))),
        optional(corrects.map(|id| Value::Integer(id.index.into()))),
        optional(used_at.map(Value::Time)),
        Value::Integer(line.calls),
        Value::Integer(line.unrated_calls),
    ]
}
