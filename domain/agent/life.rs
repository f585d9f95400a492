//! An agent's life: from provisioning to its end, with its pauses and the compute that it pays for.
//!
//! The agent's own state has it, and so has the session's, for each of its agents that live: what concerns one agent
//! is decided on the one, what concerns all of a session's on the other, by the same rules.

use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};

use super::compute::Lease;
use super::events::{
    Cause, Created, Failed, Failure, PauseRequested, Paused, Resumed, TaskEnded, Terminated,
};
use super::storage::Kept;
use crate::charge::{Booking, Place, Price, Rate};
use crate::id::TaskId;
use crate::time::Timestamp;
use crate::{Event, Refusal};

/// Where an agent stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Its sandbox is being made.
    Provisioning,
    /// It waits for a task.
    Idle,
    /// It runs a task.
    Running,
    /// It pauses as soon as what is in flight has ended.
    Pausing,
    /// Nothing runs until it is resumed.
    Paused,
    /// It has ended, for good.
    Terminated,
    /// Its sandbox could not be made, or is gone.
    Failed,
}

impl Status {
    /// Every status, in the order of a life.
    pub const ALL: [Self; 7] = [
        Self::Provisioning,
        Self::Idle,
        Self::Running,
        Self::Pausing,
        Self::Paused,
        Self::Terminated,
        Self::Failed,
    ];

    /// The status as it is written on the wire and in the database.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Provisioning => "provisioning",
            Self::Idle => "idle",
            Self::Running => "running",
            Self::Pausing => "pausing",
            Self::Paused => "paused",
            Self::Terminated => "terminated",
            Self::Failed => "failed",
        }
    }
}

/// Where the sandbox stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sandbox {
    /// It is being made.
    Unmade,
    /// Code can run in it.
    Ready(String),
    /// It is being suspended: nothing begins in it any more until it was woken.
    Suspending(String),
    /// It was suspended.
    Asleep(String),
    /// It and all that it held is gone.
    Gone,
}

/// Whether the agent pauses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pause {
    /// It does not.
    No,
    /// As soon as what is in flight has ended.
    Requested(Cause),
    /// It is paused.
    Paused(Cause),
}

/// How an agent ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ending {
    /// It was asked to.
    Terminated,
    /// Its sandbox failed.
    Failed,
}

/// The life of one agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Life {
    /// Whose it is.
    pub place: Place,
    /// Its sandbox.
    pub sandbox: Sandbox,
    /// Whether it pauses.
    pub pause: Pause,
    /// Whether it has ended.
    pub ending: Option<Ending>,
    /// The task that it has not finished.
    pub task: Option<TaskId>,
    /// What that task has cost so far.
    pub task_cost: Decimal,
    /// Calls to models, calls of tools and callers' programs that are under way.
    pub in_flight: u32,
    /// Whether one of them is a call to a model.
    pub open_call: bool,
    /// What a millisecond of its sandbox costs.
    pub compute: Rate,
    /// What is held for compute that has not begun.
    pub held: Decimal,
    /// Milliseconds that it is held for.
    pub held_ms: i64,
    /// The compute that it uses, while its sandbox is ready.
    pub lease: Option<Lease>,
    /// What a gigabyte that it keeps costs an hour.
    pub storage: Rate,
    /// What it keeps.
    pub kept: Option<Kept>,
}

impl Life {
    /// The life that begins with this event.
    #[must_use]
    pub fn begin(created: &Created) -> Self {
        // An agent of the time before storage was metered keeps what it keeps for nothing.
        let free = || Rate { price: Some(Price::FREE), rate_card: created.compute.rate_card.clone() };
        Self {
            place: created.place,
            sandbox: Sandbox::Unmade,
            pause: Pause::No,
            ending: None,
            task: None,
            task_cost: Decimal::ZERO,
            in_flight: 0,
            open_call: false,
            compute: created.compute.clone(),
            held: created.booking.reserved,
            held_ms: created.slice_ms,
            lease: None,
            storage: created.storage.clone().unwrap_or_else(free),
            kept: None,
        }
    }

    /// Where the agent stands.
    #[must_use]
    pub fn status(&self) -> Status {
        match (self.ending, self.pause, &self.sandbox) {
            (Some(Ending::Terminated), ..) => Status::Terminated,
            (Some(Ending::Failed), ..) => Status::Failed,
            (None, Pause::Paused(_), _) => Status::Paused,
            (None, Pause::Requested(_), _) => Status::Pausing,
            (None, Pause::No, Sandbox::Unmade) => Status::Provisioning,
            (None, Pause::No, _) if self.task.is_some() => Status::Running,
            (None, Pause::No, _) => Status::Idle,
        }
    }

    /// Whether code can run in the sandbox.
    #[must_use]
    pub const fn is_ready(&self) -> bool {
        matches!(self.sandbox, Sandbox::Ready(_))
    }

    /// Whether the sandbox is being made or woken. A pause waits for that: what is half awake cannot be suspended.
    const fn is_coming(&self) -> bool {
        match self.sandbox {
            Sandbox::Unmade => true,
            // Only in logs of the time before resumed agents waited is one suspended whose compute is paid for.
            Sandbox::Asleep(_) => self.lease.is_none(),
            _ => false,
        }
    }

    /// Milliseconds of compute that are held ahead: of what has not begun, or of what is being used.
    #[must_use]
    pub fn held_ahead_ms(&self) -> i64 {
        self.held_ms + self.lease.as_ref().map_or(0, |lease| lease.slice_ms)
    }

    /// Folds what has happened to the agent.
    pub fn fold(&mut self, event: &Event) {
        self.fold_lease(event);
        match event {
            Event::AgentProvisioned(readied) | Event::AgentWoken(readied) => {
                self.sandbox = Sandbox::Ready(readied.sandbox.clone());
                self.lull();
            }
            Event::AgentSuspended(suspended) => self.sandbox = Sandbox::Asleep(suspended.sandbox.clone()),
            Event::AgentFailed(_) => self.end(Ending::Failed),
            Event::AgentTerminated(_) => self.end(Ending::Terminated),
            Event::StorageMetered(metered) => {
                self.kept = Kept::after(metered);
                self.storage = metered.rate.clone().unwrap_or_else(|| self.storage.clone());
            }
            Event::AgentReleased(_) => self.sandbox = Sandbox::Gone,
            Event::AgentPauseRequested(requested) => self.pause = Pause::Requested(requested.cause),
            Event::AgentPaused(paused) => {
                self.pause = Pause::Paused(paused.cause);
                self.lull();
            }
            Event::AgentResumed(resumed) => {
                self.pause = Pause::No;
                // Logs of the time before resumed agents waited have some that went on in such a sandbox.
                if let (Sandbox::Suspending(sandbox), false) = (&self.sandbox, resumed.waits) {
                    self.sandbox = Sandbox::Ready(sandbox.clone());
                }
            }
            Event::TaskCreated(created) => {
                self.task = Some(created.task_id);
                self.task_cost = Decimal::ZERO;
            }
            Event::TaskCompleted(_) | Event::TaskFailed(_) | Event::TaskCancelled(_) => self.task = None,
            Event::CallOpened(_) => {
                self.in_flight += 1;
                self.open_call = true;
            }
            Event::CallSettled(_) | Event::CallReleased(_) | Event::CallLost(_) => {
                if let Event::CallSettled(settled) = event
                    && self.task == Some(settled.task_id)
                {
                    self.task_cost += settled.booking.cost();
                }
                self.in_flight = self.in_flight.saturating_sub(1);
                self.open_call = false;
            }
            Event::ToolStarted(_) | Event::ExecStarted(_) => self.in_flight += 1,
            Event::ToolFinished(_) | Event::ExecFinished(_) => {
                self.in_flight = self.in_flight.saturating_sub(1);
            }
            _ => {}
        }
    }

    /// The sandbox of a paused agent is suspended next.
    fn lull(&mut self) {
        if let (Sandbox::Ready(sandbox), Pause::Paused(_)) = (&self.sandbox, self.pause) {
            self.sandbox = Sandbox::Suspending(sandbox.clone());
        }
    }

    fn end(&mut self, ending: Ending) {
        self.ending = Some(ending);
        self.task = None;
        (self.held, self.held_ms) = (Decimal::ZERO, 0);
    }

    fn fold_lease(&mut self, event: &Event) {
        match event {
            Event::AgentResumed(resumed) => {
                // A pause that is taken back before the sandbox is made leaves what is held for it.
                self.held += resumed.booking.reserved;
                self.held_ms += resumed.slice_ms;
                self.compute = resumed.rate.clone().unwrap_or_else(|| self.compute.clone());
            }
            Event::ComputeStarted(started) => {
                self.lease = Some(Lease::begin(started, self.held));
                (self.held, self.held_ms) = (Decimal::ZERO, 0);
            }
            Event::ComputeTicked(ticked) => {
                self.compute = ticked.rate.clone().unwrap_or_else(|| self.compute.clone());
                if let Some(lease) = &mut self.lease {
                    lease.tick(ticked);
                }
            }
            Event::ComputeStopped(_) => {
                self.lease = None;
                (self.held, self.held_ms) = (Decimal::ZERO, 0);
            }
            _ => {}
        }
    }

    /// Asks for a pause: at once where nothing is in flight, else as soon as that has ended.
    #[must_use]
    pub fn pause(&self, cause: Cause, now: Timestamp) -> Vec<Event> {
        match (self.ending, self.pause) {
            (Some(_), _) | (_, Pause::Requested(_) | Pause::Paused(_)) => vec![],
            _ if self.in_flight > 0 || self.is_coming() => {
                vec![Event::AgentPauseRequested(PauseRequested { place: self.place, cause })]
            }
            _ => self.paused(cause, now),
        }
    }

    /// What follows when something in flight has ended, `left` of it being left: the pause that was asked for.
    #[must_use]
    pub fn landed(&self, left: u32, now: Timestamp) -> Vec<Event> {
        match (self.ending, self.pause) {
            (None, Pause::Requested(cause)) if left == 0 && !self.is_coming() => self.paused(cause, now),
            _ => vec![],
        }
    }

    /// The pause itself: what was used of compute is charged, and nothing of it is held any more.
    #[must_use]
    pub fn paused(&self, cause: Cause, now: Timestamp) -> Vec<Event> {
        let mut events = vec![Event::AgentPaused(Paused { place: self.place, cause, at: now })];
        events.extend(self.stop_compute(now));
        if self.lease.is_none() && self.held_ms > 0 {
            // It was to be woken, and was not yet.
            events.push(self.stopped_at_once(now));
        }
        events
    }

    /// Lets a paused agent go on, with this much held for compute and so many milliseconds of it, at this rate. Where its
    /// sandbox is still being suspended it waits until that is done and it was woken.
    #[must_use]
    pub fn resume(&self, (held, slice_ms): (Decimal, i64), rate: &Rate, now: Timestamp) -> Vec<Event> {
        let asleep = matches!(self.sandbox, Sandbox::Asleep(_));
        let waits = matches!(self.sandbox, Sandbox::Suspending(_));
        let booking = Booking::reserving(held);
        let (place, task_id) = (self.place, self.task);
        let rate = self.new_rate(rate);
        let resumed = Resumed { place, at: now, task_id, asleep, waits, slice_ms, rate, booking };
        let mut events = vec![Event::AgentResumed(resumed)];
        if self.is_ready() {
            events.push(self.start_compute(slice_ms, now));
        }
        events
    }

    /// Takes back a pause that has not come about. What waited for the sandbox still does.
    #[must_use]
    pub fn unpause(&self, now: Timestamp) -> Vec<Event> {
        let (place, task_id, booking) = (self.place, self.task, Booking::default());
        let (asleep, waits) = (false, !self.is_ready());
        let resumed = Resumed { place, at: now, task_id, asleep, waits, slice_ms: 0, rate: None, booking };
        vec![Event::AgentResumed(resumed)]
    }

    /// Ends the agent. Its task is cancelled; what was used of compute is charged.
    #[must_use]
    pub fn terminate(&self, cause: Cause, now: Timestamp) -> Vec<Event> {
        if self.ending.is_some() {
            return vec![];
        }
        let cancelled = self
            .task
            .map(|task_id| Event::TaskCancelled(TaskEnded { failure: None, ..self.task_ended(task_id) }));
        let mut events: Vec<Event> = cancelled.into_iter().chain(self.stop_compute(now)).collect();
        events.extend(self.keep(0, now));
        events.push(Event::AgentTerminated(Terminated {
            place: self.place,
            cause,
            open_call: self.open_call,
            booking: Booking::releasing(self.held),
        }));
        events
    }

    /// The sandbox could not be made, or is gone: the agent is of no more use.
    #[must_use]
    pub fn fail(&self, code: &str, message: &str, now: Timestamp) -> Vec<Event> {
        let failed = self.task.map(|task_id| Event::TaskFailed(self.task_failed(task_id, code, message)));
        let mut events: Vec<Event> = failed.into_iter().chain(self.stop_compute(now)).collect();
        events.extend(self.keep(0, now));
        events.push(Event::AgentFailed(Failed {
            place: self.place,
            code: code.to_owned(),
            message: message.to_owned(),
            open_call: self.open_call,
            booking: Booking::releasing(self.held),
        }));
        events
    }

    /// The end of its task, at what it has cost.
    pub(super) fn task_ended(&self, task_id: TaskId) -> TaskEnded {
        TaskEnded { place: self.place, task_id, output: None, failure: None, cost: self.task_cost }
    }

    /// The failure of its task.
    pub(super) fn task_failed(&self, task_id: TaskId, code: &str, message: &str) -> TaskEnded {
        let failure = Failure { code: code.to_owned(), message: message.to_owned() };
        TaskEnded { failure: Some(failure), ..self.task_ended(task_id) }
    }

    /// That work may begin.
    ///
    /// # Errors
    /// [`Refusal::Conflict`] where the agent pauses or has ended.
    pub fn admits_work(&self) -> Result<(), Refusal> {
        match self.status() {
            Status::Provisioning | Status::Idle | Status::Running => Ok(()),
            status => Err(Refusal::Conflict(format!("{} is {}", self.place.agent_id, status.as_str()))),
        }
    }
}
