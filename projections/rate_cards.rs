//! The rate cards that were imported: which one is in force follows from their dates.

use theazo_domain::Event;

use crate::table::text;
use crate::{Changes, Column, Happened, Projection, Table, Value};

/// A row a card, for ever.
pub(crate) struct RateCards;

static TABLE: Table = Table {
    name: "rate_cards",
    key: &[Column::text("version")],
    columns: &[
        Column::time("effective_from"),
        Column::text("sha256"),
        Column::json("card"),
        Column::integer("position"),
        Column::time("imported_at"),
    ],
};

impl Projection for RateCards {
    fn table(&self) -> &'static Table {
        &TABLE
    }

    fn version(&self) -> i32 {
        1
    }

    fn fold(&self, happened: &Happened<'_>, changes: &mut Changes) {
        if let Event::RatesImported(imported) = happened.event {
            let card = serde_json::to_string(&imported.card).expect("a card is plain data");
            let values = vec![
                Value::Time(imported.effective_from),
                text(&imported.sha256),
                Value::Json(card),
                Value::Integer(happened.position),
                Value::Time(happened.at),
            ];
            changes.put(&TABLE, vec![text(&imported.card.version)], values);
        }
    }
}
