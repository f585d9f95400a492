//! What may happen to an agent.

use rust_decimal::Decimal;

use super::work::{Answer, Opening};
use super::{
    Cause, Created, DefinitionVersion, Existing, LimitReached, ModelCost, ModelRates, Pause, Readied,
    Released, Sandbox, State, Status, Suspended, Tokens,
};
use crate::account::Need;
use crate::agent_config::{AgentConfig, ProviderName};
use crate::charge::{Booking, Place, Rate};
use crate::content::ContentRef;
use crate::definition::Status as DefinitionStatus;
use crate::id::{AgentId, CallId, ExecId, TaskId, ToolCallId};
use crate::rates::ComputeRates;
use crate::session::Standing;
use crate::{Aggregate, Event, Facts, Refusal, Stock, Subject};

/// An agent to be made; its session decides whether it may be.
#[derive(Debug, Clone)]
pub struct NewAgent {
    /// Its id.
    pub agent_id: AgentId,
    /// The definition that it is made from.
    pub definition: Option<DefinitionVersion>,
    /// How it is set up: the definition's parts with its own over them.
    pub config: AgentConfig,
    /// Who is to run its sandbox; where nobody is named, the organization's default.
    pub provider: Option<ProviderName>,
    /// Whether providers are mocks, of which none has to be configured: in test mode.
    pub mocked: bool,
    /// Whether it has a headless browser.
    pub browser: bool,
    /// Seconds of running time after which a run fails.
    pub timeout_s: i64,
    /// What a millisecond of its sandbox costs.
    pub compute: ComputeRates,
    /// What a gigabyte that it keeps costs an hour.
    pub storage: ComputeRates,
}

/// Who runs an agent's sandbox, and at which prices.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hosting {
    /// Who runs it.
    pub provider: ProviderName,
    /// What a millisecond of it costs.
    pub compute: Rate,
    /// What a gigabyte that it keeps costs an hour.
    pub storage: Rate,
}

impl NewAgent {
    /// Who runs its sandbox, of what there is to make it from.
    ///
    /// # Errors
    /// [`Refusal::Unconfigured`] where its provider is not configured, [`Refusal::Conflict`] where its definition is
    /// archived.
    pub fn hosting(&self, stock: &Stock) -> Result<Hosting, Refusal> {
        if let (Some(made_from), Some(DefinitionStatus::Archived)) = (self.definition, stock.definition) {
            return Err(Refusal::Conflict(format!("{} is archived", made_from.definition_id)));
        }
        let provider = self.provider.unwrap_or(stock.providers.default);
        if !self.mocked && !stock.providers.has(provider) {
            return Err(Refusal::Unconfigured(provider));
        }
        // Minutes on credentials of the organization's own count, at price 0.
        let own_credentials = provider != ProviderName::Local && !self.mocked;
        let (compute, storage) = (self.compute.of(own_credentials), self.storage.of(own_credentials));
        Ok(Hosting { provider, compute, storage })
    }

    /// That it was created in a session, with so many milliseconds of compute held ahead.
    #[must_use]
    pub fn created(&self, place: Place, hosting: Hosting, (slice_ms, booking): (i64, Booking)) -> Event {
        let Hosting { provider, compute, storage } = hosting;
        Event::AgentCreated(Created {
            place,
            definition: self.definition,
            config: self.config.clone(),
            provider,
            browser: self.browser,
            timeout_s: self.timeout_s,
            compute,
            storage: Some(storage),
            slice_ms,
            booking,
        })
    }
}

/// What an agent can be asked, and told.
#[derive(Debug, Clone)]
pub enum Command {
    /// Its sandbox is ready for the first time.
    Provisioned {
        /// How the provider finds it.
        sandbox: String,
    },
    /// Its sandbox was suspended.
    Suspended {
        /// By which it is woken.
        sandbox: String,
        /// Bytes that it takes.
        stored_bytes: u64,
    },
    /// Its workspace was measured.
    Stored {
        /// Bytes that it takes.
        bytes: u64,
    },
    /// Charge what it has kept: a day is over. What it keeps from then on is charged at these rates, which are in force.
    MeterStorage(ComputeRates),
    /// Its sandbox is ready again.
    Woken {
        /// How the provider finds it.
        sandbox: String,
    },
    /// Its sandbox could not be made, or is gone.
    Fail {
        /// Why, for programs.
        code: String,
        /// Why, in the provider's words.
        message: String,
    },
    /// Its sandbox and snapshots are gone, after its end.
    Released,
    /// Run a task.
    Run {
        /// Its id.
        task_id: TaskId,
        /// What is to be done.
        task: ContentRef,
        /// What calls to its model cost.
        model: ModelCost,
    },
    /// Pause; asking twice changes nothing.
    Pause,
    /// Go on. Only a paused agent can. Compute is held at these rates, which are in force.
    Resume(ComputeRates),
    /// End, for good; asking twice changes nothing.
    Terminate,
    /// A worker takes its task.
    Claim {
        /// The task.
        task_id: TaskId,
    },
    /// A call to a model is to be made.
    OpenCall(Opening),
    /// A call to a model was answered.
    SettleCall(Answer),
    /// A call to a model did not take place.
    ReleaseCall {
        /// The call.
        call_id: CallId,
        /// Why.
        reason: String,
    },
    /// A call to a model was made, and its answer will not come.
    LoseCall {
        /// The call.
        call_id: CallId,
        /// How it was lost.
        reason: String,
        /// The vendor's id of the call.
        vendor_id: Option<String>,
        /// What its vendor had told by then of what it used.
        told: Option<Tokens>,
    },
    /// It became known what a call used whose usage was unconfirmed.
    ReconcileCall {
        /// The call.
        call_id: CallId,
        /// What it used; none where its vendor has not billed it.
        tokens: Option<Tokens>,
    },
    /// A model has a price now: its usage that had none is charged.
    RateUsage {
        /// The model's id at its vendor's.
        model: String,
        /// What it costs.
        rates: ModelRates,
    },
    /// A call to a model has outlived its agent, and nobody waits for it any more.
    CloseCall,
    /// A tool is to be called.
    StartTool {
        /// Which claim asks.
        epoch: u64,
        /// The call to the model whose answer asked for it.
        call_id: CallId,
        /// Its place among the tools that the answer called.
        index: u32,
        /// This call.
        tool_call_id: ToolCallId,
        /// The tool's name, as the model gave it.
        tool: String,
        /// Its input.
        input: ContentRef,
    },
    /// A call of a tool ended.
    FinishTool {
        /// Which claim tells.
        epoch: u64,
        /// The call.
        tool_call_id: ToolCallId,
        /// What came of it.
        result: ContentRef,
        /// Whether it went wrong.
        is_error: bool,
        /// How long it took.
        duration_ms: u64,
    },
    /// The task is done: its output is this answer of the model.
    CompleteTask {
        /// Which claim tells.
        epoch: u64,
        /// The answer.
        output: ContentRef,
    },
    /// The task cannot be done.
    FailTask {
        /// Which claim tells.
        epoch: u64,
        /// Why, for programs.
        code: String,
        /// Why, for people.
        message: String,
    },
    /// A caller's program is to be run.
    StartExec {
        /// This run.
        exec_id: ExecId,
        /// In what language.
        language: String,
        /// The program.
        code: ContentRef,
    },
    /// The run of a caller's program ended.
    FinishExec {
        /// This run.
        exec_id: ExecId,
        /// How.
        outcome: super::ExecOutcome,
        /// What is answered.
        result: Option<ContentRef>,
        /// How long it ran.
        duration_ms: u64,
    },
}

impl Aggregate for State {
    type Command = Command;

    fn decide(&self, command: &Command, facts: &Facts) -> Result<Vec<Event>, Refusal> {
        let agent = self.0.as_ref().ok_or(Refusal::NotFound(facts.subject))?;
        match command {
            Command::Provisioned { .. }
            | Command::Suspended { .. }
            | Command::Woken { .. }
            | Command::Stored { .. }
            | Command::MeterStorage(_)
            | Command::Fail { .. }
            | Command::Released => agent.decide_sandbox(command, facts),
            Command::Run { .. }
            | Command::Pause
            | Command::Resume(_)
            | Command::Terminate
            | Command::StartExec { .. } => agent.decide_asked(command, facts),
            Command::ReconcileCall { call_id, tokens } => agent.reconcile(*call_id, *tokens, facts),
            Command::RateUsage { model, rates } => agent.rate_usage(model, rates, facts),
            _ => agent.decide_work(command, facts),
        }
    }

    fn evolve(&mut self, event: &Event) {
        self.fold(event);
    }
}

impl Existing {
    /// What the workers that look after the sandbox tell.
    fn decide_sandbox(&self, command: &Command, facts: &Facts) -> Result<Vec<Event>, Refusal> {
        let (life, place, now) = (&self.life, self.life.place, facts.now);
        let task_id = life.task.filter(|_| life.pause == Pause::No);
        match command {
            Command::Provisioned { sandbox } if life.ending.is_none() && life.sandbox == Sandbox::Unmade => {
                let readied = Readied { place, sandbox: sandbox.clone(), task_id };
                let mut events = vec![Event::AgentProvisioned(readied)];
                events.push(life.start_compute(life.held_ms, now));
                if let Pause::Requested(cause) = life.pause {
                    // Paid for from ready to paused, which is the same moment.
                    events.push(Event::AgentPaused(super::Paused { place, cause, at: now }));
                    events.push(life.stopped_at_once(now));
                }
                Ok(events)
            }
            Command::Suspended { sandbox, stored_bytes }
                if matches!(life.sandbox, Sandbox::Ready(_) | Sandbox::Suspending(_)) =>
            {
                let late = life.ending.is_none() && !matches!(life.pause, Pause::Paused(_));
                let (sandbox, stored_bytes) = (sandbox.clone(), *stored_bytes);
                let mut events =
                    vec![Event::AgentSuspended(Suspended { place, sandbox, stored_bytes, late })];
                events.extend(life.ending.is_none().then(|| life.keep(stored_bytes, now)).flatten());
                Ok(events)
            }
            Command::Woken { sandbox } if matches!(life.sandbox, Sandbox::Asleep(_)) => {
                let mut events =
                    vec![Event::AgentWoken(Readied { place, sandbox: sandbox.clone(), task_id })];
                // Nothing is stored but by what is measured from here on.
                events.extend(life.keep(0, now));
                match life.pause {
                    _ if life.ending.is_some() || life.lease.is_some() => {}
                    Pause::No => events.push(life.start_compute(life.held_ms, now)),
                    Pause::Requested(cause) | Pause::Paused(cause) => events.extend(life.paused(cause, now)),
                }
                Ok(events)
            }
            Command::Stored { bytes } => {
                let measured = life.ending.is_none() && life.is_ready();
                Ok(measured.then(|| life.keep(*bytes, now)).flatten().into_iter().collect())
            }
            Command::MeterStorage(rates) => Ok(life.meter_storage(rates, now).into_iter().collect()),
            Command::Fail { code, message } if life.ending.is_none() => Ok(life.fail(code, message, now)),
            Command::Released if life.ending.is_some() && life.sandbox != Sandbox::Gone => {
                Ok(vec![Event::AgentReleased(Released { place })])
            }
            _ => Err(Refusal::Conflict(format!("{} is past that", place.agent_id))),
        }
    }

    /// What callers ask.
    fn decide_asked(&self, command: &Command, facts: &Facts) -> Result<Vec<Event>, Refusal> {
        let (life, place) = (&self.life, self.life.place);
        match command {
            Command::Pause => match life.ending {
                None => Ok(life.pause(Cause::Caller, facts.now)),
                Some(_) => Err(self.conflict()),
            },
            Command::Resume(rates) => self.resume(rates, facts),
            Command::Terminate => Ok(life.terminate(Cause::Caller, facts.now)),
            Command::Run { task_id, task, model } => {
                let session = self.may_begin(facts)?;
                if life.task.is_some() {
                    return Err(self.conflict());
                }
                if *model == ModelCost::Unpriced && session.is_cost_limited(&facts.payers) {
                    let message = "a limit of cost applies, and the model has no price";
                    return Err(Refusal::Conflict(message.to_owned()));
                }
                let need = need(*model == ModelCost::Free);
                if let Some(excess) = session.cost_excess(&facts.payers, need, facts.now) {
                    return Ok(vec![session.refused(place, Some(place.agent_id), "run", excess)]);
                }
                let (task_id, task) = (*task_id, task.clone());
                let waits = !life.is_ready();
                Ok(vec![Event::TaskCreated(super::TaskCreated { place, task_id, task, waits })])
            }
            Command::StartExec { exec_id, language, code } => {
                let session = self.may_begin(facts)?;
                if !life.is_ready() {
                    return Err(self.unready());
                }
                let need = need(life.computes_for_nothing());
                if let Some(excess) = session.cost_excess(&facts.payers, need, facts.now) {
                    return Ok(vec![session.refused(place, Some(place.agent_id), "exec", excess)]);
                }
                let (exec_id, language, code) = (*exec_id, language.clone(), code.clone());
                Ok(vec![Event::ExecStarted(super::ExecStarted { place, exec_id, language, code })])
            }
            _ => Err(self.conflict()),
        }
    }

    fn resume(&self, rates: &ComputeRates, facts: &Facts) -> Result<Vec<Event>, Refusal> {
        let (life, place) = (&self.life, self.life.place);
        if life.status() != Status::Paused {
            return Err(self.conflict());
        }
        let session = self.active_session(facts)?;
        let rate = life.rate_of(rates);
        match session.next_piece(&facts.payers, &rate, facts.now) {
            Ok(piece) => Ok(life.resume(piece, &rate, facts.now)),
            Err(excess) => Ok(vec![session.refused(place, Some(place.agent_id), "resume", excess)]),
        }
    }

    /// That new work may begin: the agent takes it, and its session is active.
    fn may_begin<'a>(&self, facts: &'a Facts) -> Result<&'a Standing, Refusal> {
        self.life.admits_work()?;
        self.active_session(facts)
    }

    pub(super) fn active_session<'a>(&self, facts: &'a Facts) -> Result<&'a Standing, Refusal> {
        let session =
            facts.session.as_ref().ok_or(Refusal::NotFound(Subject::Session(self.life.place.session_id)))?;
        session.active(self.life.place.session_id)?;
        Ok(session)
    }

    /// That the command does not fit where the agent stands.
    pub(super) fn conflict(&self) -> Refusal {
        let status = self.life.status().as_str();
        Refusal::Conflict(format!("{} is {status}", self.life.place.agent_id))
    }

    /// That nothing can begin, since the sandbox is being made, suspended or woken.
    pub(super) const fn unready(&self) -> Refusal {
        Refusal::Unready(self.life.place.agent_id)
    }

    /// The next piece of work does not fit: the agent pauses as soon as what is in flight has ended.
    pub(super) fn limited(&self, excess: crate::account::Excess, facts: &Facts) -> Vec<Event> {
        let (place, task_id) = (self.life.place, self.life.task);
        let mut events = vec![Event::AgentLimitReached(LimitReached { place, task_id, excess })];
        events.extend(self.life.pause(Cause::Limit, facts.now));
        events
    }
}

/// What work asks of a limit whose pieces are held one by one as they begin.
const fn need(costs_nothing: bool) -> Need {
    if costs_nothing { Need::AtMost(Decimal::ZERO) } else { Need::Something }
}
