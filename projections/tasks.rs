//! The listing of tasks.

use rust_decimal::Decimal;
use theazo_domain::Event;
use theazo_domain::agent::TaskEnded;
use theazo_domain::id::TaskId;

use crate::table::{optional, text};
use crate::{Changes, Column, Happened, Projection, Table, Value};

/// A row a task, as the API shows it; what it says and what came of it is named by its content beside the log.
pub(crate) struct Tasks;

static TABLE: Table = Table {
    name: "tasks",
    key: &[Column::text("task_id")],
    columns: &[
        Column::text("agent_id"),
        Column::text("session_id"),
        Column::text("user_id"),
        Column::text("status"),
        Column::text("task_content_id"),
        Column::text("output_content_id"),
        Column::text("error_code"),
        Column::text("error_message"),
        // In units of the currency: the sum of the charges that name the task.
        Column::decimal("cost"),
        Column::integer("tool_calls"),
        Column::integer("position"),
        Column::time("created_at"),
        Column::time("started_at"),
        Column::time("completed_at"),
    ],
};

impl Projection for Tasks {
    fn table(&self) -> &'static Table {
        &TABLE
    }

    fn version(&self) -> i32 {
        1
    }

    fn fold(&self, happened: &Happened<'_>, changes: &mut Changes) {
        let key = |task_id: TaskId| vec![text(task_id)];
        match happened.event {
            Event::TaskCreated(created) => {
                let place = created.place;
                let values = vec![
                    text(place.agent_id),
                    text(place.session_id),
                    text(place.user_id),
                    text("queued"),
                    text(created.task.content_id),
                    Value::Null,
                    Value::Null,
                    Value::Null,
                    Value::Decimal(Decimal::ZERO),
                    Value::Integer(0),
                    Value::Integer(happened.position),
                    Value::Time(happened.at),
                    Value::Null,
                    Value::Null,
                ];
                changes.put(&TABLE, key(created.task_id), values);
            }
            Event::TaskClaimed(claimed) if claimed.epoch == 1 => {
                let started = [("status", text("running")), ("started_at", Value::Time(happened.at))];
                changes.set(&TABLE, key(claimed.task_id), started);
            }
            Event::TaskCompleted(ended) => end("completed", ended, happened, changes),
            Event::TaskFailed(ended) => end("failed", ended, happened, changes),
            Event::TaskCancelled(ended) => end("cancelled", ended, happened, changes),
            Event::CallSettled(settled) => {
                let cost = settled.booking.cost();
                if !cost.is_zero() {
                    changes.add(&TABLE, key(settled.task_id), [("cost", Value::Decimal(cost))]);
                }
            }
            Event::ToolStarted(started) => {
                changes.add(&TABLE, key(started.task_id), [("tool_calls", Value::Integer(1))]);
            }
            _ => {}
        }
    }
}

fn end(status: &str, ended: &TaskEnded, happened: &Happened<'_>, changes: &mut Changes) {
    let failure = ended.failure.as_ref();
    let values = [
        ("status", text(status)),
        ("output_content_id", optional(ended.output.as_ref().map(|output| text(output.content_id)))),
        ("error_code", optional(failure.map(|failure| text(&failure.code)))),
        ("error_message", optional(failure.map(|failure| text(&failure.message)))),
        ("completed_at", Value::Time(happened.at)),
    ];
    changes.set(&TABLE, vec![text(ended.task_id)], values);
}
