//! The work of an agent's task: calls to models and of tools, each told before and after.

use rust_decimal::Decimal;

use super::{
    CallLost, CallOpened, CallReleased, CallSettled, Command, Existing, ModelRates, OpenCall, Pause, Stop,
    Task, TaskClaimed, TaskEnded, Tokens, ToolFinished, ToolStarted,
};
use crate::account::Need;
use crate::charge::Booking;
use crate::content::ContentRef;
use crate::id::{CallId, TaskId};
use crate::{Event, Facts, Refusal, Subject};

/// A call to a model that is to be made.
#[derive(Debug, Clone)]
pub struct Opening {
    /// Which claim asks.
    pub epoch: u64,
    /// The call.
    pub call_id: CallId,
    /// The model's id at its vendor's.
    pub model: String,
    /// Whether it is made with a key of the organization's own.
    pub own_key: bool,
    /// Tokens at most.
    pub worst_case: Tokens,
    /// What they cost.
    pub rates: ModelRates,
}

/// An answer of a model.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The call.
    pub call_id: CallId,
    /// What it used; none where the vendor did not say: then it may have cost up to its worst case.
    pub tokens: Option<Tokens>,
    /// Why it ended.
    pub stop: Stop,
    /// What it said and which tools it called.
    pub reply: ContentRef,
    /// How many tools it called.
    pub tool_calls: u32,
    /// The vendor's id of the call.
    pub vendor_id: Option<String>,
    /// Whether this answer is the task's output, unless a pause comes between.
    pub completes: bool,
}

impl Existing {
    /// What the worker that runs the task tells, and those that run programs.
    pub(super) fn decide_work(&self, command: &Command, facts: &Facts) -> Result<Vec<Event>, Refusal> {
        match command {
            Command::Claim { task_id } => self.claim(*task_id, facts),
            Command::OpenCall(opening) => self.open_call(opening, facts),
            Command::SettleCall(answer) => self.settle(answer, facts),
            Command::ReleaseCall { call_id, reason } => self.release(*call_id, reason, facts),
            Command::LoseCall { call_id, reason, vendor_id, told } => {
                let call = self.call_that_is_open(*call_id)?;
                let mut events = vec![self.lost(call, (reason, vendor_id.clone(), *told), facts)];
                events.extend(self.life.landed(self.life.in_flight.saturating_sub(1), facts.now));
                Ok(events)
            }
            Command::CloseCall => match &self.call {
                Some(call) if self.late(call) => {
                    Ok(vec![self.lost(call, ("its agent ended", None, None), facts)])
                }
                _ => Ok(vec![]),
            },
            Command::StartTool { .. } | Command::FinishTool { .. } => self.decide_tool(command, facts),
            Command::CompleteTask { epoch, output } => {
                let task = self.running(*epoch)?;
                Ok(vec![self.completed(task, output.clone(), self.life.task_cost)])
            }
            Command::FailTask { epoch, code, message } => {
                let task = self.claimed(*epoch)?;
                Ok(vec![self.task_failed(task, code, message)])
            }
            Command::FinishExec { exec_id, outcome, result, duration_ms } => {
                if !self.execs.contains(exec_id) {
                    return Err(Refusal::Conflict(format!("{exec_id} has ended")));
                }
                let mut events = vec![Event::ExecFinished(super::ExecFinished {
                    place: self.life.place,
                    exec_id: *exec_id,
                    outcome: *outcome,
                    result: result.clone(),
                    duration_ms: *duration_ms,
                })];
                events.extend(self.life.landed(self.life.in_flight.saturating_sub(1), facts.now));
                Ok(events)
            }
            _ => Err(self.conflict()),
        }
    }

    /// A worker takes the task. What an earlier one has left open is closed: a call to a model as lost, a call of a
    /// tool as interrupted; nobody knows what came of them.
    fn claim(&self, task_id: TaskId, facts: &Facts) -> Result<Vec<Event>, Refusal> {
        let place = self.life.place;
        let mut events = vec![];
        if let Some(call) = self.call.as_ref().filter(|call| call.task_id == task_id) {
            events.push(self.lost(call, ("its worker ended", None, None), facts));
        }
        let Some(task) = self.task.as_ref().filter(|task| task.id == task_id) else {
            return if events.is_empty() {
                Err(Refusal::NotFound(Subject::Task(task_id)))
            } else {
                Ok(events)
            };
        };
        events.extend(task.tools.iter().map(|tool| {
            Event::ToolFinished(ToolFinished {
                place,
                task_id,
                tool_call_id: tool.id,
                tool: tool.name.clone(),
                result: None,
                is_error: true,
                duration_ms: 0,
            })
        }));
        let closed = u32::try_from(events.len()).unwrap_or(u32::MAX);
        match self.life.pause {
            Pause::Paused(_) => Err(self.conflict()),
            Pause::Requested(_) => {
                events.extend(self.life.landed(self.life.in_flight.saturating_sub(closed), facts.now));
                Ok(events)
            }
            // It is claimed when the sandbox is ready.
            Pause::No if !self.life.is_ready() && events.is_empty() => Err(self.unready()),
            Pause::No if !self.life.is_ready() => Ok(events),
            Pause::No => {
                let epoch = task.epoch + 1;
                events.push(Event::TaskClaimed(TaskClaimed { place, task_id, epoch, at: facts.now }));
                Ok(events)
            }
        }
    }

    fn open_call(&self, opening: &Opening, facts: &Facts) -> Result<Vec<Event>, Refusal> {
        let task = self.running(opening.epoch)?;
        let session = self.active_session(facts)?;
        if self.call.is_some() || !task.tools.is_empty() {
            return Err(Refusal::Conflict(format!("{} has a call under way", task.id)));
        }
        if opening.rates.prices.is_none() && session.is_cost_limited(&facts.payers) {
            let message = "A limit of cost applies, and the model has no price.";
            return Ok(vec![self.task_failed(task, "conflict", message)]);
        }
        let reserved = opening.rates.worst(opening.worst_case);
        if let Some(excess) = session.cost_excess(&facts.payers, Need::AtMost(reserved), facts.now) {
            return Ok(self.limited(excess, facts));
        }
        Ok(vec![Event::CallOpened(CallOpened {
            place: self.life.place,
            task_id: task.id,
            call_id: opening.call_id,
            model: opening.model.clone(),
            own_key: opening.own_key,
            worst_case: opening.worst_case,
            rates: opening.rates.clone(),
            booking: Booking::reserving(reserved),
        })])
    }

    fn settle(&self, answer: &Answer, facts: &Facts) -> Result<Vec<Event>, Refusal> {
        let call = match (self.call_that_is_open(answer.call_id), answer.tokens) {
            (Ok(call), _) => call,
            // It was given up for lost before its answer came: what it used is known after all.
            (Err(refusal), Some(tokens)) => {
                return self.reconcile(answer.call_id, Some(tokens), facts).map_err(|_| refusal);
            }
            (Err(refusal), None) => return Err(refusal),
        };
        let (charges, unconfirmed) = match answer.tokens {
            Some(tokens) => (call.rates.charges(tokens, facts.now), vec![]),
            None => (vec![], call.rates.charges_at_worst(call.worst_case, facts.now)),
        };
        let booking = Booking { released: call.reserved, charges, unconfirmed, ..Booking::default() };
        let cost = booking.cost();
        let (place, late) = (self.life.place, self.late(call));
        let mut events = vec![Event::CallSettled(CallSettled {
            place,
            task_id: call.task_id,
            call_id: call.id,
            model: call.model.clone(),
            tokens: answer.tokens.unwrap_or_default(),
            stop: answer.stop,
            reply: answer.reply.clone(),
            tool_calls: answer.tool_calls,
            vendor_id: answer.vendor_id.clone(),
            late,
            booking,
        })];
        events.extend(self.life.landed(self.life.in_flight.saturating_sub(1), facts.now));
        if let (Some(task), true, false, Pause::No) = (&self.task, answer.completes, late, self.life.pause) {
            events.push(self.completed(task, answer.reply.clone(), self.life.task_cost + cost));
        }
        Ok(events)
    }

    fn release(&self, call_id: CallId, reason: &str, facts: &Facts) -> Result<Vec<Event>, Refusal> {
        let call = self.call_that_is_open(call_id)?;
        let mut events = vec![Event::CallReleased(CallReleased {
            place: self.life.place,
            task_id: call.task_id,
            call_id,
            model: call.model.clone(),
            reason: reason.to_owned(),
            late: self.late(call),
            booking: Booking::releasing(call.reserved),
        })];
        events.extend(self.life.landed(self.life.in_flight.saturating_sub(1), facts.now));
        Ok(events)
    }

    /// The worst case of a lost call is no longer held, but what it may have used is booked as unconfirmed: of its prompt
    /// what its vendor has told, where it has, and of its output the most.
    fn lost(
        &self,
        call: &OpenCall,
        (reason, vendor_id, told): (&str, Option<String>, Option<Tokens>),
        facts: &Facts,
    ) -> Event {
        let worst = call.worst_case;
        let unconfirmed = match told.filter(|told| told.prompt() > 0) {
            Some(told) => {
                let most = Tokens { output: told.output.max(worst.output), ..told };
                call.rates.charges(most, facts.now)
            }
            // Whoever tells nothing of the prompt but a zero has not told it: there is always some.
            None => call.rates.charges_at_worst(worst, facts.now),
        };
        Event::CallLost(CallLost {
            place: self.life.place,
            task_id: call.task_id,
            call_id: call.id,
            model: call.model.clone(),
            reason: reason.to_owned(),
            vendor_id,
            told,
            late: self.late(call),
            booking: Booking { released: call.reserved, unconfirmed, ..Booking::default() },
        })
    }

    fn late(&self, call: &OpenCall) -> bool {
        self.task.as_ref().is_none_or(|task| task.id != call.task_id)
    }

    fn decide_tool(&self, command: &Command, facts: &Facts) -> Result<Vec<Event>, Refusal> {
        let place = self.life.place;
        match command {
            Command::StartTool { epoch, call_id, index, tool_call_id, tool, input } => {
                let task = self.running(*epoch)?;
                self.active_session(facts)?;
                Ok(vec![Event::ToolStarted(ToolStarted {
                    place,
                    task_id: task.id,
                    call_id: *call_id,
                    index: *index,
                    tool_call_id: *tool_call_id,
                    tool: tool.clone(),
                    input: input.clone(),
                })])
            }
            Command::FinishTool { epoch, tool_call_id, result, is_error, duration_ms } => {
                let task = self.claimed(*epoch)?;
                let Some(tool) = task.tools.iter().find(|open| open.id == *tool_call_id) else {
                    return Err(Refusal::Conflict(format!("{tool_call_id} has ended")));
                };
                let mut events = vec![Event::ToolFinished(ToolFinished {
                    place,
                    task_id: task.id,
                    tool_call_id: *tool_call_id,
                    tool: tool.name.clone(),
                    result: Some(result.clone()),
                    is_error: *is_error,
                    duration_ms: *duration_ms,
                })];
                events.extend(self.life.landed(self.life.in_flight.saturating_sub(1), facts.now));
                Ok(events)
            }
            _ => Err(self.conflict()),
        }
    }

    fn completed(&self, task: &Task, output: ContentRef, cost: Decimal) -> Event {
        Event::TaskCompleted(TaskEnded { output: Some(output), cost, ..self.life.task_ended(task.id) })
    }

    fn task_failed(&self, task: &Task, code: &str, message: &str) -> Event {
        Event::TaskFailed(self.life.task_failed(task.id, code, message))
    }

    fn call_that_is_open(&self, call_id: CallId) -> Result<&OpenCall, Refusal> {
        let open = self.call.as_ref().filter(|open| open.id == call_id);
        open.ok_or_else(|| Refusal::Conflict(format!("{call_id} is not open")))
    }

    /// The task, if this claim of it is the newest.
    fn claimed(&self, epoch: u64) -> Result<&Task, Refusal> {
        let task = self.task.as_ref().filter(|task| task.epoch == epoch && epoch > 0);
        task.ok_or_else(|| {
            Refusal::Conflict(format!("{} runs no task under this claim", self.life.place.agent_id))
        })
    }

    /// The same, if the agent does not pause and has not paused since: whoever goes on then claims the task anew, and finds
    /// the sandbox where it is by then.
    fn running(&self, epoch: u64) -> Result<&Task, Refusal> {
        let task = self.claimed(epoch)?;
        match (self.life.pause, task.running_since) {
            (Pause::No, Some(_)) => Ok(task),
            _ => Err(self.conflict()),
        }
    }
}
