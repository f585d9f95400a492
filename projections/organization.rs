//! The organization of a tenant: what its keys may ask for, and how often.

use theazo_domain::Event;

use crate::table::text;
use crate::{Changes, Column, Happened, Projection, Table, Value};

/// One row a tenant.
pub(crate) struct Organization;

static TABLE: Table = Table {
    name: "organization",
    key: &[Column::text("organization_id")],
    columns: &[
        Column::text("name"),
        Column::text("mode"),
        Column::text("plan"),
        // Requests a minute for each key.
        Column::integer("rate_limit"),
        Column::time("created_at"),
    ],
};

impl Projection for Organization {
    fn table(&self) -> &'static Table {
        &TABLE
    }

    fn version(&self) -> i32 {
        1
    }

    fn fold(&self, happened: &Happened<'_>, changes: &mut Changes) {
        if let Event::OrganizationCreated(created) = happened.event {
            let plan = serde_json::to_value(created.plan).expect("a plan is plain data");
            let rate_limit = created.rate_limit.unwrap_or(created.plan.requests_per_minute());
            let values = vec![
                text(&created.name),
                text(created.mode.as_str()),
                text(plan.as_str().expect("a plan is written as its name")),
                Value::Integer(i64::from(rate_limit)),
                Value::Time(happened.at),
            ];
            changes.put(&TABLE, vec![text(created.organization_id)], values);
        }
    }
}
