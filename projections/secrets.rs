//! The listing of secrets: their names and scopes, never their values.

use theazo_domain::Event;
use theazo_domain::secret::{Holder, Name};

use crate::table::text;
use crate::{Changes, Column, Happened, Projection, Table, Value};

/// A row a secret; `version` names the present one of its values, which lies sealed beside the log.
pub(crate) struct Secrets;

static TABLE: Table = Table {
    name: "secrets",
    key: &[Column::text("scope"), Column::text("name")],
    columns: &[Column::text("version"), Column::integer("position"), Column::time("created_at")],
};

impl Projection for Secrets {
    fn table(&self) -> &'static Table {
        &TABLE
    }

    fn version(&self) -> i32 {
        1
    }

    fn fold(&self, happened: &Happened<'_>, changes: &mut Changes) {
        match happened.event {
            // A new value leaves a secret where it is in the listing, so that pages stay as they are.
            Event::SecretSet(set) if set.replaces.is_some() => {
                changes.set(&TABLE, key(set.holder, &set.name), [("version", text(set.version))]);
            }
            Event::SecretSet(set) => {
                let values =
                    vec![text(set.version), Value::Integer(happened.position), Value::Time(happened.at)];
                changes.put(&TABLE, key(set.holder, &set.name), values);
            }
            Event::SecretDeleted(deleted) => changes.delete(&TABLE, key(deleted.holder, &deleted.name)),
            _ => {}
        }
    }
}

fn key(holder: Holder, name: &Name) -> Vec<Value> {
    vec![text(holder.scope()), text(name)]
}
