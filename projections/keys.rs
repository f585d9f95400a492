//! The API keys that open a tenant.

use theazo_domain::Event;

use crate::table::text;
use crate::{Changes, Column, Happened, Projection, Table, Value};

/// A row a key, revoked ones included.
pub(crate) struct Keys;

static TABLE: Table = Table {
    name: "api_keys",
    key: &[Column::text("key_id")],
    columns: &[
        Column::text("digest"),
        Column::text("role"),
        Column::text("last_four"),
        Column::integer("position"),
        Column::time("created_at"),
        Column::time("revoked_at"),
    ],
};

impl Projection for Keys {
    fn table(&self) -> &'static Table {
        &TABLE
    }

    fn version(&self) -> i32 {
        1
    }

    fn fold(&self, happened: &Happened<'_>, changes: &mut Changes) {
        match happened.event {
            Event::KeyCreated(created) => {
                let values = vec![
                    text(&created.digest),
                    text(created.role.as_str()),
                    text(&created.last_four),
                    Value::Integer(happened.position),
                    Value::Time(happened.at),
                    Value::Null,
                ];
                changes.put(&TABLE, vec![text(created.key_id)], values);
            }
            Event::KeyRevoked(revoked) => {
                let values = [("revoked_at", Value::Time(happened.at))];
                changes.set(&TABLE, vec![text(revoked.key_id)], values);
            }
            _ => {}
        }
    }
}
