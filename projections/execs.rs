//! Callers' programs that were run in sandboxes.

use theazo_domain::Event;
use theazo_domain::agent::ExecOutcome;

use crate::table::{optional, text};
use crate::{Changes, Column, Happened, Projection, Table, Value};

/// A row a run; what is answered is named by its content beside the log.
pub(crate) struct Execs;

static TABLE: Table = Table {
    name: "execs",
    key: &[Column::text("exec_id")],
    columns: &[
        Column::text("agent_id"),
        // running, finished, timed_out, provider_error or interrupted
        Column::text("status"),
        Column::text("result_content_id"),
        Column::integer("duration_ms"),
        Column::integer("position"),
        Column::time("created_at"),
    ],
};

impl Projection for Execs {
    fn table(&self) -> &'static Table {
        &TABLE
    }

    fn version(&self) -> i32 {
        1
    }

    fn fold(&self, happened: &Happened<'_>, changes: &mut Changes) {
        match happened.event {
            Event::ExecStarted(started) => {
                let values = vec![
                    text(started.place.agent_id),
                    text("running"),
                    Value::Null,
                    Value::Null,
                    Value::Integer(happened.position),
                    Value::Time(happened.at),
                ];
                changes.put(&TABLE, vec![text(started.exec_id)], values);
            }
            Event::ExecFinished(finished) => {
                let duration = i64::try_from(finished.duration_ms).unwrap_or(i64::MAX);
                let values = [
                    ("status", text(status(finished.outcome))),
                    (
                        "result_content_id",
                        optional(finished.result.as_ref().map(|result| text(result.content_id))),
                    ),
                    ("duration_ms", Value::Integer(duration)),
                ];
                changes.set(&TABLE, vec![text(finished.exec_id)], values);
            }
            _ => {}
        }
    }
}

const fn status(outcome: ExecOutcome) -> &'static str {
    match outcome {
        ExecOutcome::Finished => "finished",
        ExecOutcome::TimedOut => "timed_out",
        ExecOutcome::ProviderError => "provider_error",
        ExecOutcome::Interrupted => "interrupted",
    }
}
