//! What has to happen next, and when: the work that runs agents, looks after their sandboxes and measures them.

use theazo_domain::Event;
use theazo_domain::charge::Place;
use theazo_domain::id::TaskId;
use theazo_domain::time::Timestamp;

use crate::table::{optional, text};
use crate::{Changes, Column, Happened, Projection, Table, Value};

/// A row a piece of work that waits or is being done. Who does it stands in a table of leases, which is no read model.
pub(crate) struct Work;

/// The kinds of work.
pub mod kind {
    /// Make the sandbox of a new agent.
    pub const PROVISION: &str = "provision";
    /// Run the task of an agent.
    pub const RUN: &str = "run";
    /// Suspend the sandbox of a paused agent.
    pub const SUSPEND: &str = "suspend";
    /// Wake the sandbox of an agent that goes on.
    pub const WAKE: &str = "wake";
    /// Remove the sandbox of an agent that has ended.
    pub const RELEASE: &str = "release";
    /// Measure the compute that an agent uses.
    pub const METER: &str = "meter";
    /// Charge what an agent keeps: a day is over.
    pub const STORE: &str = "store";
    /// Close a call to a model that outlived its agent.
    pub const CLOSE_CALL: &str = "close_call";
    /// Close a caller's program that nobody watches any more.
    pub const CLOSE_EXEC: &str = "close_exec";
}

/// How long after its agent's end a call to a model is closed that was not settled by then. A reservation may outlive its
/// work by a minute: a server may be silent for ten seconds before the agent's end is known, and so may two that were to
/// close the call, one after the other.
const CALL_GRACE_MS: i64 = 20_000;
/// How long after its start a caller's program is closed that was not told to have ended and that no server says it is
/// at: as long as a server may be silent.
const EXEC_GRACE_MS: i64 = 10_000;

/// The name of the projection.
pub const NAME: &str = "work";

static TABLE: Table = Table {
    name: NAME,
    key: &[Column::text("kind"), Column::text("subject")],
    columns: &[
        Column::text("agent_id"),
        Column::text("session_id"),
        // Of a run: its task.
        Column::text("task_id"),
        Column::time("due_at"),
    ],
};

impl Projection for Work {
    fn table(&self) -> &'static Table {
        &TABLE
    }

    fn version(&self) -> i32 {
        4
    }

    fn fold(&self, happened: &Happened<'_>, changes: &mut Changes) {
        let now = happened.at;
        let later = |ms: i64| Timestamp::from_millis(now.millis() + ms);
        let mut todo = Todo { changes };
        match happened.event {
            Event::AgentCreated(event) => todo.put(kind::PROVISION, event.place, None, now),
            Event::AgentProvisioned(event) => {
                todo.done(kind::PROVISION, event.place);
                todo.run(event.place, event.task_id, now);
            }
            Event::TaskCreated(event) if !event.waits => {
                todo.put(kind::RUN, event.place, Some(text(event.task_id)), now)
            }
            Event::TaskCompleted(event) | Event::TaskFailed(event) | Event::TaskCancelled(event) => {
                todo.done(kind::RUN, event.place);
            }
            Event::AgentPaused(event) => {
                todo.done(kind::RUN, event.place);
                todo.put(kind::SUSPEND, event.place, None, now);
            }
            // Whatever the sandbox is on its way to goes on, and the task when it is ready.
            Event::AgentResumed(event) if event.waits => {}
            Event::AgentResumed(event) => {
                todo.done(kind::SUSPEND, event.place);
                if event.asleep {
                    todo.put(kind::WAKE, event.place, None, now);
                } else {
                    todo.run(event.place, event.task_id, now);
                }
            }
            Event::AgentSuspended(event) => {
                todo.done(kind::SUSPEND, event.place);
                if event.late {
                    todo.done(kind::RUN, event.place);
                    todo.put(kind::WAKE, event.place, None, now);
                }
            }
            Event::AgentWoken(event) => {
                todo.done(kind::WAKE, event.place);
                todo.run(event.place, event.task_id, now);
            }
            Event::AgentTerminated(event) => {
                todo.end(event.place, event.open_call.then(|| later(CALL_GRACE_MS)), now)
            }
            Event::AgentFailed(event) => {
                todo.end(event.place, event.open_call.then(|| later(CALL_GRACE_MS)), now)
            }
            Event::AgentReleased(event) => todo.done(kind::RELEASE, event.place),
            Event::ComputeStarted(event) => todo.put(kind::METER, event.place, None, event.due),
            Event::ComputeTicked(event) => todo.put(kind::METER, event.place, None, event.due),
            Event::ComputeStopped(event) => todo.done(kind::METER, event.place),
            Event::StorageMetered(event) => match event.due {
                Some(due) => todo.put(kind::STORE, event.place, None, due),
                None => todo.done(kind::STORE, event.place),
            },
            Event::CallSettled(event) if event.late => todo.done(kind::CLOSE_CALL, event.place),
            Event::CallReleased(event) if event.late => todo.done(kind::CLOSE_CALL, event.place),
            Event::CallLost(event) if event.late => todo.done(kind::CLOSE_CALL, event.place),
            Event::ExecStarted(event) => {
                let key = vec![text(kind::CLOSE_EXEC), text(event.exec_id)];
                todo.changes.put(&TABLE, key, row(event.place, None, later(EXEC_GRACE_MS)));
            }
            Event::ExecFinished(event) => {
                todo.changes.delete(&TABLE, vec![text(kind::CLOSE_EXEC), text(event.exec_id)]);
            }
            _ => {}
        }
    }
}

struct Todo<'a> {
    changes: &'a mut Changes,
}

impl Todo<'_> {
    fn put(&mut self, kind: &str, place: Place, task_id: Option<Value>, due: Timestamp) {
        self.changes.put(&TABLE, vec![text(kind), text(place.agent_id)], row(place, task_id, due));
    }

    fn run(&mut self, place: Place, task_id: Option<TaskId>, now: Timestamp) {
        if let Some(task_id) = task_id {
            self.put(kind::RUN, place, Some(text(task_id)), now);
        }
    }

    fn done(&mut self, kind: &str, place: Place) {
        self.changes.delete(&TABLE, vec![text(kind), text(place.agent_id)]);
    }

    /// Of an agent that has ended only the sandbox is left to remove, and a call to a model to close.
    fn end(&mut self, place: Place, open_call: Option<Timestamp>, now: Timestamp) {
        for kind in [kind::PROVISION, kind::SUSPEND, kind::WAKE] {
            self.done(kind, place);
        }
        self.put(kind::RELEASE, place, None, now);
        if let Some(due) = open_call {
            self.put(kind::CLOSE_CALL, place, None, due);
        }
    }
}

fn row(place: Place, task_id: Option<Value>, due: Timestamp) -> Vec<Value> {
    vec![text(place.agent_id), text(place.session_id), optional(task_id), Value::Time(due)]
}
