//! An agent: an isolated environment in a session that runs tasks, one at a time, and callers' programs beside them.

/// Compute, metered.
pub mod compute;
mod decide;
/// What can happen to an agent and its work.
pub mod events;
mod later;
/// An agent's life.
pub mod life;
/// What a model's tokens cost.
pub mod prices;
/// Storage, metered.
pub mod storage;
#[cfg(test)]
pub(crate) mod tests;
mod work;

use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};

pub use compute::{ComputeStarted, ComputeStopped, ComputeTicked};
pub use decide::{Command, Hosting, NewAgent};
pub use events::*;
pub use later::{CallReconciled, RATED_AT_ONCE, UsageRated};
pub use life::{Ending, Life, Pause, Sandbox, Status};
pub use prices::{LongPrices, ModelCost, ModelPrices, ModelRates, Tokens};
pub use storage::StorageMetered;
pub use work::{Answer, Opening};

use crate::Event;
use crate::id::{CallId, ExecId, TaskId, ToolCallId};
use crate::time::Timestamp;

/// What decisions about an agent stand on: nothing before it was created.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State(Option<Existing>);

/// What decisions about an agent that exists stand on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Existing {
    life: Life,
    task: Option<Task>,
    call: Option<OpenCall>,
    execs: Vec<ExecId>,
    later: later::Later,
}

/// A task that is not finished.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Task {
    id: TaskId,
    /// Of the newest claim; 0 before the first.
    epoch: u64,
    /// Running time before the present stretch.
    run_ms: i64,
    /// When the present stretch began; none before the first claim, and from a pause until the next.
    running_since: Option<Timestamp>,
    /// Calls of tools that are open.
    tools: Vec<OpenTool>,
}

/// A call of a tool that is under way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct OpenTool {
    id: ToolCallId,
    name: String,
}

/// A call to a model that is under way. It may outlive its task and its agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct OpenCall {
    id: CallId,
    task_id: TaskId,
    model: String,
    worst_case: Tokens,
    rates: ModelRates,
    reserved: Decimal,
}

/// How long a task has run, for whoever holds it against its timeout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunningTime {
    /// Before the present stretch.
    pub before_ms: i64,
    /// When the present stretch began.
    pub since: Option<Timestamp>,
}

impl State {
    /// The agent's life; none before it was created.
    #[must_use]
    pub fn life(&self) -> Option<&Life> {
        self.0.as_ref().map(|agent| &agent.life)
    }

    fn fold(&mut self, event: &Event) {
        if let Event::AgentCreated(created) = event {
            let life = Life::begin(created);
            let later = later::Later::default();
            self.0 = Some(Existing { life, task: None, call: None, execs: vec![], later });
            return;
        }
        let Some(agent) = &mut self.0 else { return };
        agent.life.fold(event);
        agent.later.fold(event, agent.call.as_ref().map(|call| &call.rates));
        agent.fold_call(event);
        agent.fold_task(event);
        match event {
            Event::ExecStarted(started) => agent.execs.push(started.exec_id),
            Event::ExecFinished(finished) => agent.execs.retain(|open| *open != finished.exec_id),
            _ => {}
        }
    }
}

impl Existing {
    fn fold_call(&mut self, event: &Event) {
        match event {
            Event::CallOpened(opened) => {
                self.call = Some(OpenCall {
                    id: opened.call_id,
                    task_id: opened.task_id,
                    model: opened.model.clone(),
                    worst_case: opened.worst_case,
                    rates: opened.rates.clone(),
                    reserved: opened.booking.reserved,
                });
            }
            Event::CallSettled(CallSettled { call_id, .. })
            | Event::CallReleased(CallReleased { call_id, .. })
            | Event::CallLost(CallLost { call_id, .. })
                if self.call.as_ref().is_some_and(|open| open.id == *call_id) =>
            {
                self.call = None;
            }
            _ => {}
        }
    }

    fn fold_task(&mut self, event: &Event) {
        if let Event::TaskCreated(created) = event {
            self.task =
                Some(Task { id: created.task_id, epoch: 0, run_ms: 0, running_since: None, tools: vec![] });
            return;
        }
        if let Event::TaskCompleted(_)
        | Event::TaskFailed(_)
        | Event::TaskCancelled(_)
        | Event::AgentTerminated(_)
        | Event::AgentFailed(_) = event
        {
            self.task = None;
            return;
        }
        let Some(task) = &mut self.task else { return };
        match event {
            Event::TaskClaimed(claimed) => {
                task.epoch = claimed.epoch;
                task.running_since = task.running_since.or(Some(claimed.at));
            }
            Event::AgentPaused(paused) => {
                if let Some(since) = task.running_since.take() {
                    task.run_ms += (paused.at.millis() - since.millis()).max(0);
                }
            }
            Event::ToolStarted(started) => {
                task.tools.push(OpenTool { id: started.tool_call_id, name: started.tool.clone() });
            }
            Event::ToolFinished(finished) => task.tools.retain(|open| open.id != finished.tool_call_id),
            _ => {}
        }
    }
}
