//! What may happen to a session.

use super::{Changed, Created, Existing, LimitRefused, Limits, LimitsChanged, LimitsPatch, State, Status};
use crate::agent::NewAgent;
use crate::command::Person;
use crate::content::ContentRef;
use crate::id::{AgentId, SessionId};
use crate::rates::ComputeRates;
use crate::{Aggregate, Event, Facts, Refusal, Subject, secret};

/// What a session can be asked to do.
#[derive(Debug, Clone)]
pub enum Command {
    /// Begin, for an end user.
    Create(Opening),
    /// Let no work start. A paused session stays as it is.
    Pause,
    /// Let work start again. Only a paused session can. Compute is held at these rates, which are in force.
    Resume(ComputeRates),
    /// End, for good. Asking twice changes nothing.
    Terminate,
    /// Change some limits.
    ChangeLimits(LimitsPatch),
    /// Do something to its secrets. When it has ended they can only be deleted.
    Secret(secret::Command),
    /// Make an agent in it.
    AddAgent(Box<NewAgent>),
    /// Measure the compute that one of its agents has used, and hold the next piece at these rates, which are in force.
    TickCompute(AgentId, ComputeRates),
}

/// What a new session begins with.
#[derive(Debug, Clone)]
pub struct Opening {
    /// Whose it is.
    pub person: Person,
    /// Its limits.
    pub limits: Limits,
    /// The caller's own key-value pairs.
    pub metadata: Option<ContentRef>,
}

impl Aggregate for State {
    type Command = Command;

    fn decide(&self, command: &Command, facts: &Facts) -> Result<Vec<Event>, Refusal> {
        let Subject::Session(session_id) = facts.subject else {
            return Err(Refusal::NotFound(facts.subject));
        };
        match (&self.0, command) {
            (None, Command::Create(opening)) => {
                let user_id = facts.user.unwrap_or(opening.person.new_id);
                let (limits, metadata) = (opening.limits.clone(), opening.metadata.clone());
                Ok(vec![Event::SessionCreated(Created { session_id, user_id, limits, metadata })])
            }
            (Some(_), Command::Create(_)) => Err(Refusal::Existing(facts.subject)),
            (None, _) => Err(Refusal::NotFound(facts.subject)),
            (Some(session), command) => session.decide(command, session_id, facts),
        }
    }

    fn evolve(&mut self, event: &Event) {
        self.fold(event);
    }
}

impl Existing {
    fn decide(&self, command: &Command, session_id: SessionId, facts: &Facts) -> Result<Vec<Event>, Refusal> {
        let changed = Changed { session_id, user_id: self.user_id };
        let now = facts.now;
        match (self.standing.status, command) {
            (_, Command::TickCompute(agent_id, rates)) => self.tick(session_id, (*agent_id, rates), facts),
            (_, Command::AddAgent(agent)) => self.add_agent(session_id, agent, facts),
            (Status::Active, Command::Pause) => {
                Ok([vec![Event::SessionPaused(changed)], self.pause_agents(now)].concat())
            }
            (Status::Paused, Command::Pause) | (Status::Terminated, Command::Terminate) => Ok(vec![]),
            (Status::Paused, Command::Resume(rates)) => {
                if let Some(excess) = self.standing.compute_used_up() {
                    let (user_id, organization_id) = (self.user_id, facts.organization_id);
                    let (agent_id, work) = (None, "resume".to_owned());
                    return Ok(vec![Event::LimitRefused(LimitRefused {
                        session_id,
                        user_id,
                        organization_id,
                        agent_id,
                        work,
                        excess,
                    })]);
                }
                Ok([vec![Event::SessionResumed(changed)], self.resume_agents(rates, facts)].concat())
            }
            (Status::Active, Command::Resume(_)) => Err(Refusal::Conflict(format!(
                "{session_id} is active; only a paused session can be resumed"
            ))),
            (Status::Active | Status::Paused, Command::Terminate) => {
                Ok([self.terminate_agents(now), vec![Event::SessionTerminated(changed)]].concat())
            }
            (Status::Active | Status::Paused, Command::ChangeLimits(patch)) => {
                let limits = self.standing.limits.patched(patch);
                if limits == self.standing.limits {
                    return Ok(vec![]);
                }
                let user_id = self.user_id;
                Ok(vec![Event::SessionLimitsChanged(LimitsChanged { session_id, user_id, limits })])
            }
            (Status::Active | Status::Paused, Command::Secret(command))
            | (Status::Terminated, Command::Secret(command @ secret::Command::Delete { .. })) => {
                let user_id = self.user_id;
                self.secrets.decide(command, secret::Holder::Session { session_id, user_id })
            }
            (Status::Terminated, _) => Err(Refusal::Conflict(format!("{session_id} is terminated"))),
            (_, Command::Create(_)) => Err(Refusal::Existing(Subject::Session(session_id))),
        }
    }
}
