//! The listing of sessions.

use theazo_domain::Event;
use theazo_domain::id::SessionId;
use theazo_domain::session::{Limits, Status};

use crate::table::{optional, text};
use crate::{Changes, Column, Happened, Projection, Table, Value};

/// A row a session, as the API shows it; `metadata` names its content beside the log.
pub(crate) struct Sessions;

static TABLE: Table = Table {
    name: "sessions",
    key: &[Column::text("session_id")],
    columns: &[
        Column::text("user_id"),
        Column::text("status"),
        Column::json("limits"),
        Column::text("metadata_content_id"),
        Column::integer("position"),
        Column::time("created_at"),
        Column::time("updated_at"),
        Column::time("terminated_at"),
    ],
};

impl Projection for Sessions {
    fn table(&self) -> &'static Table {
        &TABLE
    }

    fn version(&self) -> i32 {
        1
    }

    fn fold(&self, happened: &Happened<'_>, changes: &mut Changes) {
        match happened.event {
            Event::SessionCreated(created) => {
                let values = vec![
                    text(created.user_id),
                    text(Status::Active.as_str()),
                    limits(&created.limits),
                    optional(created.metadata.as_ref().map(|metadata| text(metadata.content_id))),
                    Value::Integer(happened.position),
                    Value::Time(happened.at),
                    Value::Time(happened.at),
                    Value::Null,
                ];
                changes.put(&TABLE, key(created.session_id), values);
            }
            Event::SessionPaused(event) => stands(event.session_id, Status::Paused, happened, changes),
            Event::SessionResumed(event) => stands(event.session_id, Status::Active, happened, changes),
            Event::SessionTerminated(event) => {
                stands(event.session_id, Status::Terminated, happened, changes)
            }
            Event::SessionLimitsChanged(event) => {
                let values = [("limits", limits(&event.limits)), ("updated_at", Value::Time(happened.at))];
                changes.set(&TABLE, key(event.session_id), values);
            }
            _ => {}
        }
    }
}

fn key(session_id: SessionId) -> Vec<Value> {
    vec![text(session_id)]
}

fn stands(session_id: SessionId, status: Status, happened: &Happened<'_>, changes: &mut Changes) {
    let at = Value::Time(happened.at);
    let ended = if status == Status::Terminated { at.clone() } else { Value::Null };
    let values = [("status", text(status.as_str())), ("updated_at", at), ("terminated_at", ended)];
    changes.set(&TABLE, key(session_id), values);
}

/// The limits as JSON; no value where nothing is limited.
fn limits(limits: &Limits) -> Value {
    let written = || serde_json::to_string(limits).expect("limits are plain data");
    optional((!limits.is_empty()).then(|| Value::Json(written())))
}
