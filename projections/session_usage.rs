//! What each session has used: the sums that its limits are held against.

use rust_decimal::Decimal;
use theazo_domain::Event;

use crate::table::text;
use crate::{Changes, Column, Happened, Projection, Table, Value};

/// A row a session, from its first moment on.
pub(crate) struct SessionUsage;

static TABLE: Table = Table {
    name: "session_usage",
    key: &[Column::text("session_id")],
    columns: &[
        // In units of the currency (US dollars), exact.
        Column::decimal("cost"),
        Column::decimal("reserved"),
        Column::decimal("unconfirmed"),
        Column::integer("compute_ms"),
        Column::integer("active_agents"),
        Column::integer("agents_created"),
        Column::integer("model_calls"),
    ],
};

impl Projection for SessionUsage {
    fn table(&self) -> &'static Table {
        &TABLE
    }

    fn version(&self) -> i32 {
        1
    }

    fn fold(&self, happened: &Happened<'_>, changes: &mut Changes) {
        if let Event::SessionCreated(created) = happened.event {
            let money = || Value::Decimal(Decimal::ZERO);
            let count = || Value::Integer(0);
            let values = vec![money(), money(), money(), count(), count(), count(), count()];
            changes.put(&TABLE, vec![text(created.session_id)], values);
        }
    }
}
