//! What can happen to an agent and its work.

use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};

use super::prices::{ModelRates, Tokens};
use crate::account::Excess;
use crate::agent_config::{AgentConfig, ProviderName};
use crate::charge::{Booking, Place, Rate};
use crate::content::ContentRef;
use crate::id::{CallId, DefinitionId, ExecId, TaskId, ToolCallId};
use crate::time::Timestamp;

/// An agent was created, and its sandbox is to be made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Created {
    /// Whose it is.
    pub place: Place,
    /// The definition, and its version, that it was made from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub definition: Option<DefinitionVersion>,
    /// How it is set up: the definition's parts with its own over them.
    pub config: AgentConfig,
    /// Who runs its sandbox.
    pub provider: ProviderName,
    /// Whether it has a headless browser.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub browser: bool,
    /// Seconds of running time after which a run fails.
    pub timeout_s: i64,
    /// What a millisecond of its sandbox costs.
    pub compute: Rate,
    /// What a gigabyte that it keeps costs an hour; nothing where it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage: Option<Rate>,
    /// Milliseconds of compute that are held ahead.
    pub slice_ms: i64,
    /// Holds the first piece of compute.
    #[serde(default)]
    pub booking: Booking,
}

/// A version of a definition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DefinitionVersion {
    /// The definition.
    pub definition_id: DefinitionId,
    /// Which of its versions.
    pub version: i64,
}

/// The sandbox is ready for the first time, or again after a pause.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Readied {
    /// Whose it is.
    pub place: Place,
    /// How the provider finds it.
    pub sandbox: String,
    /// The task that waited for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task_id: Option<TaskId>,
}

/// The sandbox could not be made or came to an end: the agent is of no more use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Failed {
    /// Whose it is.
    pub place: Place,
    /// Why, for programs.
    pub code: String,
    /// Why, in the provider's words.
    pub message: String,
    /// Whether a call to a model is still open, which is to be settled or closed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub open_call: bool,
    /// Releases what was held for compute.
    #[serde(default)]
    pub booking: Booking,
}

/// Who asked for a pause or an end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// The caller, of this agent.
    Caller,
    /// Its session was paused or ended.
    Session,
    /// A limit.
    Limit,
}

/// The agent is to pause as soon as what is in flight has ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PauseRequested {
    /// Whose it is.
    pub place: Place,
    /// Who asked.
    pub cause: Cause,
}

/// The agent is paused: nothing runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Paused {
    /// Whose it is.
    pub place: Place,
    /// Who asked.
    pub cause: Cause,
    /// When: the running time of its task stands from here on.
    pub at: Timestamp,
}

/// A paused agent goes on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Resumed {
    /// Whose it is.
    pub place: Place,
    /// When: the running time of its task goes on from here.
    pub at: Timestamp,
    /// The task that goes on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task_id: Option<TaskId>,
    /// Whether the sandbox has to be woken.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub asleep: bool,
    /// Whether the sandbox is on its way to somewhere: it is still being suspended, to be woken then, or being made or
    /// woken already. The task goes on when it is ready.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub waits: bool,
    /// Milliseconds of compute that are held ahead.
    #[serde(default)]
    pub slice_ms: i64,
    /// What a millisecond of its sandbox costs from now on, where that is not what it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<Rate>,
    /// Holds the next piece of compute.
    #[serde(default)]
    pub booking: Booking,
}

/// The sandbox of a paused agent was suspended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Suspended {
    /// Whose it is.
    pub place: Place,
    /// By which it is woken.
    pub sandbox: String,
    /// Bytes that it takes.
    pub stored_bytes: u64,
    /// Whether the agent had been resumed by then, so that the sandbox is to be woken at once.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub late: bool,
}

/// The agent ended, for good.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Terminated {
    /// Whose it is.
    pub place: Place,
    /// Who asked.
    pub cause: Cause,
    /// Whether a call to a model is still open, which is to be settled or closed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub open_call: bool,
    /// Releases what was held for compute that never began.
    #[serde(default)]
    pub booking: Booking,
}

/// The sandbox and its snapshots are gone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Released {
    /// Whose it was.
    pub place: Place,
}

/// The next piece of the agent's work does not fit a limit, so it pauses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LimitReached {
    /// Whose work it is.
    pub place: Place,
    /// Of which task.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task_id: Option<TaskId>,
    /// Which limit, and by how much.
    pub excess: Excess,
}

/// A task was given to the agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TaskCreated {
    /// Whose it is.
    pub place: Place,
    /// The task.
    pub task_id: TaskId,
    /// What is to be done, beside the log.
    pub task: ContentRef,
    /// Whether it waits for the sandbox to be ready.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub waits: bool,
}

/// A worker took the task: the first one starts it, a later one goes on after a crash.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TaskClaimed {
    /// Whose it is.
    pub place: Place,
    /// The task.
    pub task_id: TaskId,
    /// Goes up with every claim; what an earlier worker still sends is refused.
    pub epoch: u64,
    /// When.
    pub at: Timestamp,
}

/// How a task came to an end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TaskEnded {
    /// Whose it is.
    pub place: Place,
    /// The task.
    pub task_id: TaskId,
    /// What came of it, beside the log, where it was completed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<ContentRef>,
    /// Why it failed, where it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
    /// The sum of the charges that name it, in units of the currency.
    #[serde(with = "rust_decimal::serde::str")]
    pub cost: Decimal,
}

/// Why a task failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// For programs: `timeout`, `provider_error` …
    pub code: String,
    /// For people.
    pub message: String,
}

/// A call to a model is about to be made; its worst case is held.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CallOpened {
    /// Whose it is.
    pub place: Place,
    /// For which task.
    pub task_id: TaskId,
    /// The call.
    pub call_id: CallId,
    /// The model's id at its vendor's.
    pub model: String,
    /// Whether it is made with a key of the organization's own, and so costs nothing here.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub own_key: bool,
    /// Tokens at most: the request's bytes as input, `maxTokens` of output.
    pub worst_case: Tokens,
    /// What they cost.
    pub rates: ModelRates,
    /// Holds the worst case.
    #[serde(default)]
    pub booking: Booking,
}

/// Why a model's answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stop {
    /// It is complete.
    Complete,
    /// Tools are to be called.
    ToolUse,
    /// It reached the most output tokens, or the model's window; a call of a tool may be cut off in it.
    MaxTokens,
    /// The vendor's rules ended it.
    Refusal,
}

/// A call to a model was answered; its usage is charged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CallSettled {
    /// Whose it is.
    pub place: Place,
    /// For which task.
    pub task_id: TaskId,
    /// The call.
    pub call_id: CallId,
    /// The model's id at its vendor's.
    pub model: String,
    /// What it used.
    pub tokens: Tokens,
    /// Why the answer ended.
    pub stop: Stop,
    /// What it said and which tools it called, beside the log.
    pub reply: ContentRef,
    /// How many tools it called.
    #[serde(default)]
    pub tool_calls: u32,
    /// The vendor's id of the call, to reconcile by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vendor_id: Option<String>,
    /// Whether its agent or task had ended by then.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub late: bool,
    /// Releases the worst case and charges the usage.
    pub booking: Booking,
}

/// A call to a model did not take place: it cost nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CallReleased {
    /// Whose it is.
    pub place: Place,
    /// For which task.
    pub task_id: TaskId,
    /// The call.
    pub call_id: CallId,
    /// The model's id at its vendor's.
    pub model: String,
    /// Why, in the vendor's words.
    pub reason: String,
    /// Whether its agent or task had ended by then.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub late: bool,
    /// Releases the worst case.
    pub booking: Booking,
}

/// A call to a model was made and its answer never came: what it may have cost is unconfirmed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CallLost {
    /// Whose it is.
    pub place: Place,
    /// For which task.
    pub task_id: TaskId,
    /// The call.
    pub call_id: CallId,
    /// The model's id at its vendor's.
    pub model: String,
    /// How it was lost.
    pub reason: String,
    /// The vendor's id of the call, to reconcile by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vendor_id: Option<String>,
    /// What its vendor had told by then of what it used: all of its prompt, and of its output a part.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub told: Option<Tokens>,
    /// Whether its agent or task had ended by then.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub late: bool,
    /// Releases the worst case, and books as unconfirmed what it may have used.
    pub booking: Booking,
}

/// A tool is about to be called.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ToolStarted {
    /// Whose it is.
    pub place: Place,
    /// For which task.
    pub task_id: TaskId,
    /// The call to the model whose answer asked for it.
    pub call_id: CallId,
    /// Its place among the tools that the answer called, from 0.
    pub index: u32,
    /// This call of a tool.
    pub tool_call_id: ToolCallId,
    /// The tool's name, as the model gave it.
    pub tool: String,
    /// Its input, beside the log.
    pub input: ContentRef,
}

/// A call of a tool ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ToolFinished {
    /// Whose it is.
    pub place: Place,
    /// For which task.
    pub task_id: TaskId,
    /// This call of a tool.
    pub tool_call_id: ToolCallId,
    /// The tool's name.
    pub tool: String,
    /// What came of it, beside the log; none where nobody knows, because a crash left it open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<ContentRef>,
    /// Whether it went wrong.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_error: bool,
    /// How long it took.
    pub duration_ms: u64,
}

/// A caller's program is about to be run in the sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExecStarted {
    /// Whose it is.
    pub place: Place,
    /// This run.
    pub exec_id: ExecId,
    /// In what language.
    pub language: String,
    /// The program, beside the log.
    pub code: ContentRef,
}

/// How the run of a caller's program ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExecFinished {
    /// Whose it is.
    pub place: Place,
    /// This run.
    pub exec_id: ExecId,
    /// How it ended.
    pub outcome: ExecOutcome,
    /// What is answered, beside the log, where it ran to its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<ContentRef>,
    /// How long it ran.
    pub duration_ms: u64,
}

/// How the run of a caller's program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExecOutcome {
    /// It ran to its end, whatever its exit code.
    Finished,
    /// It was ended at its time limit.
    TimedOut,
    /// The provider could not run it.
    ProviderError,
    /// A crash left it open, or the server failed itself: nobody knows.
    Interrupted,
}
