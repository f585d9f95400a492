//! What a session decides about its agents: whether one more may be made, and what all of them do.

use rust_decimal::Decimal;

use super::{Changed, Existing};
use crate::account::{Excess, LimitName};
use crate::agent::{Cause, Life, LimitReached, NewAgent, Pause};
use crate::charge::{Booking, Place};
use crate::id::{AgentId, SessionId};
use crate::rates::ComputeRates;
use crate::time::Timestamp;
use crate::{Event, Facts, Refusal, Subject};

impl Existing {
    /// One more agent, if the session's limits have room for it and for its first piece of compute.
    pub(super) fn add_agent(
        &self,
        session_id: SessionId,
        agent: &NewAgent,
        facts: &Facts,
    ) -> Result<Vec<Event>, Refusal> {
        self.standing.active(session_id)?;
        let (agent_id, user_id) = (agent.agent_id, self.user_id);
        let place = Place { agent_id, session_id, user_id, organization_id: facts.organization_id };
        let hosting = agent.hosting(&facts.stock)?;
        let next = || self.standing.next_piece(&facts.payers, &hosting.compute, facts.now);
        let room = self.room_for_an_agent().and_then(|()| next());
        Ok(vec![match room {
            Ok((held, slice_ms)) => agent.created(place, hosting, (slice_ms, Booking::reserving(held))),
            Err(excess) => self.standing.refused(place, None, "agent", excess),
        }])
    }

    fn room_for_an_agent(&self) -> Result<(), Excess> {
        let live = i64::try_from(self.agents.len()).unwrap_or(i64::MAX);
        match self.standing.limits.max_agents {
            Some(allowed) if live >= allowed => Err(Excess {
                limit: LimitName::MaxAgents,
                period: None,
                allowed: Decimal::from(allowed),
                spent: Decimal::from(live),
                reserved: Decimal::ZERO,
                requested: Decimal::ONE,
                resets_at: None,
            }),
            _ => Ok(()),
        }
    }

    /// Pauses every agent that does not pause yet.
    pub(super) fn pause_agents(&self, now: Timestamp) -> Vec<Event> {
        self.agents.values().flat_map(|life| life.pause(Cause::Session, now)).collect()
    }

    /// Resumes the agents that the session has paused, as many as the limits have room for.
    pub(super) fn resume_agents(&self, rates: &ComputeRates, facts: &Facts) -> Vec<Event> {
        let (mut standing, mut payers, now) = (self.standing.clone(), facts.payers.clone(), facts.now);
        let mut events = vec![];
        for life in self.agents.values() {
            let rate = life.rate_of(rates);
            match life.pause {
                Pause::Requested(Cause::Session) => events.extend(life.unpause(now)),
                Pause::Paused(Cause::Session) => match standing.next_piece(&payers, &rate, now) {
                    Ok((held, slice_ms)) => {
                        standing.account.book(&Booking::reserving(held));
                        payers.book(&Booking::reserving(held));
                        standing.compute_held_ms += slice_ms;
                        events.extend(life.resume((held, slice_ms), &rate, now));
                    }
                    Err(excess) => events.push(limit_reached(life, excess)),
                },
                _ => {}
            }
        }
        events
    }

    /// Ends every agent.
    pub(super) fn terminate_agents(&self, now: Timestamp) -> Vec<Event> {
        self.agents.values().flat_map(|life| life.terminate(Cause::Session, now)).collect()
    }

    /// Measures the compute that an agent has used, and holds the next piece. Where no more fits, the agent pauses,
    /// and at the limit of compute the session.
    pub(super) fn tick(
        &self,
        session_id: SessionId,
        (agent_id, rates): (AgentId, &ComputeRates),
        facts: &Facts,
    ) -> Result<Vec<Event>, Refusal> {
        let now = facts.now;
        let life = self.agents.get(&agent_id).ok_or(Refusal::NotFound(Subject::Agent(agent_id)))?;
        let rate = life.rate_of(rates);
        let (Some(lease), Some(Event::ComputeTicked(used))) =
            (&life.lease, life.tick_compute((Decimal::ZERO, 0), &rate, now))
        else {
            return Ok(vec![]);
        };
        // Where the session will stand once the piece is booked, with nothing held for this agent.
        let (mut standing, mut payers) = (self.standing.clone(), facts.payers.clone());
        standing.account.book(&used.booking);
        payers.book(&used.booking);
        standing.compute_ms += used.booking.compute_ms();
        standing.compute_held_ms -= lease.slice_ms;
        match standing.next_piece(&payers, &rate, now) {
            Ok(piece) => Ok(life.tick_compute(piece, &rate, now).into_iter().collect()),
            // It is to pause already, and waits for what is in flight.
            Err(_) if life.pause != Pause::No => Ok(vec![Event::ComputeTicked(used)]),
            Err(excess) => Ok(self.at_the_limit(session_id, (life, used), excess, now)),
        }
    }

    fn at_the_limit(
        &self,
        session_id: SessionId,
        (life, used): (&Life, crate::agent::ComputeTicked),
        excess: Excess,
        now: Timestamp,
    ) -> Vec<Event> {
        let whole_session = excess.limit == LimitName::MaxComputeMinutes;
        let mut events = vec![limit_reached(life, excess)];
        if life.in_flight > 0 {
            events.push(Event::ComputeTicked(used));
        }
        if whole_session {
            events.push(Event::SessionPaused(Changed { session_id, user_id: self.user_id }));
            events.extend(self.pause_agents(now));
        } else {
            events.extend(life.pause(Cause::Limit, now));
        }
        events
    }
}

fn limit_reached(life: &Life, excess: Excess) -> Event {
    Event::AgentLimitReached(LimitReached { place: life.place, task_id: life.task, excess })
}
