//! The listing of agents.

use theazo_domain::Event;
use theazo_domain::agent::{Created, Readied};
use theazo_domain::charge::Place;

use crate::table::{optional, text};
use crate::{Changes, Column, Happened, Projection, Table, Value};

/// A row an agent. Its status follows from the columns `ready`, `pause`, `ending` and `task_id`: the table has it as a
/// generated column.
pub(crate) struct Agents;

static TABLE: Table = Table {
    name: "agents",
    key: &[Column::text("agent_id")],
    columns: &[
        Column::text("session_id"),
        Column::text("user_id"),
        Column::text("definition_id"),
        Column::integer("definition_version"),
        Column::json("config"),
        Column::text("provider"),
        Column::integer("browser"),
        Column::integer("timeout_s"),
        // How the provider finds the sandbox, once there is one.
        Column::text("sandbox"),
        Column::integer("ready"),
        // requested or paused; none where it does not pause
        Column::text("pause"),
        // terminated or failed
        Column::text("ending"),
        Column::text("error_code"),
        Column::text("error_message"),
        // The task that is not finished.
        Column::text("task_id"),
        Column::text("newest_task_id"),
        Column::integer("stored_bytes"),
        Column::integer("position"),
        Column::time("created_at"),
        Column::time("updated_at"),
    ],
};

impl Projection for Agents {
    fn table(&self) -> &'static Table {
        &TABLE
    }

    fn version(&self) -> i32 {
        1
    }

    fn fold(&self, happened: &Happened<'_>, changes: &mut Changes) {
        let mut set = |place: Place, values: Vec<(&'static str, Value)>| {
            let at = [("updated_at", Value::Time(happened.at))];
            changes.set(&TABLE, vec![text(place.agent_id)], values.into_iter().chain(at));
        };
        match happened.event {
            Event::AgentCreated(created) => {
                let key = vec![text(created.place.agent_id)];
                changes.put(&TABLE, key, begun(created, happened));
            }
            Event::AgentProvisioned(Readied { place, sandbox, .. })
            | Event::AgentWoken(Readied { place, sandbox, .. }) => {
                set(*place, vec![("sandbox", text(sandbox)), ("ready", Value::Integer(1))]);
            }
            Event::AgentSuspended(event) => {
                let stored = i64::try_from(event.stored_bytes).unwrap_or(i64::MAX);
                set(
                    event.place,
                    vec![("sandbox", text(&event.sandbox)), ("stored_bytes", Value::Integer(stored))],
                );
            }
            Event::AgentPauseRequested(event) => set(event.place, vec![("pause", text("requested"))]),
            Event::AgentPaused(event) => set(event.place, vec![("pause", text("paused"))]),
            Event::AgentResumed(event) => set(event.place, vec![("pause", Value::Null)]),
            Event::AgentTerminated(event) => {
                set(event.place, vec![("ending", text("terminated")), ("task_id", Value::Null)]);
            }
            Event::AgentFailed(event) => {
                let (code, message) = (text(&event.code), text(&event.message));
                let ended = vec![
                    ("ending", text("failed")),
                    ("error_code", code),
                    ("error_message", message),
                    ("task_id", Value::Null),
                ];
                set(event.place, ended);
            }
            Event::AgentReleased(event) => {
                set(event.place, vec![("sandbox", Value::Null), ("stored_bytes", Value::Null)]);
            }
            Event::TaskCreated(event) => {
                let id = text(event.task_id);
                set(event.place, vec![("task_id", id.clone()), ("newest_task_id", id)]);
            }
            Event::TaskCompleted(event) | Event::TaskFailed(event) | Event::TaskCancelled(event) => {
                set(event.place, vec![("task_id", Value::Null)]);
            }
            _ => {}
        }
    }
}

fn begun(created: &Created, happened: &Happened<'_>) -> Vec<Value> {
    let config = serde_json::to_string(&created.config).expect("a configuration is plain data");
    vec![
        text(created.place.session_id),
        text(created.place.user_id),
        optional(created.definition.map(|definition| text(definition.definition_id))),
        optional(created.definition.map(|definition| Value::Integer(definition.version))),
        Value::Json(config),
        text(created.provider.as_str()),
        Value::Integer(i64::from(created.browser)),
        Value::Integer(created.timeout_s),
        Value::Null,
        Value::Integer(0),
        Value::Null,
        Value::Null,
        Value::Null,
        Value::Null,
        Value::Null,
        Value::Null,
        Value::Null,
        Value::Integer(happened.position),
        Value::Time(happened.at),
        Value::Time(happened.at),
    ]
}
