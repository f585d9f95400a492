//! What a session decides about its agents: whether one more may be made, and what all of them do.

use rust_decimal::Decimal;

use super::{Changed, Existing, Standing};
use crate::account::{Excess, LimitName};
use crate::agent::{Cause, ComputeTicked, Life, LimitReached, NewAgent, Pause};
use crate::budget::Payers;
use crate::charge::{Booking, Place, Rate};
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
        let (mut room, now) = (Room::of(&self.standing, facts), facts.now);
        let mut events = vec![];
        for life in self.agents.values() {
            let rate = life.rate_of(rates);
            match life.pause {
                // While it was to pause nothing was held for it any more: it goes on with its next piece.
                Pause::Requested(Cause::Session) if life.has_nothing_ahead() => {
                    match room.piece_after(life, &rate, now) {
                        Some((_, Ok(piece))) => {
                            events.extend(life.unpause(now));
                            events.extend(life.tick_compute(piece, &rate, now));
                        }
                        Some((used, Err(excess))) => {
                            events.extend([limit_reached(life, excess), Event::ComputeTicked(used)]);
                        }
                        None => {}
                    }
                }
                Pause::Requested(Cause::Session) => events.extend(life.unpause(now)),
                Pause::Paused(Cause::Session) => match room.piece(&rate, now) {
                    Ok(piece) => events.extend(life.resume(piece, &rate, now)),
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
        let mut room = Room::of(&self.standing, facts);
        let Some((used, next)) = room.piece_after(life, &rate, now) else { return Ok(vec![]) };
        match next {
            Ok(piece) => Ok(life.tick_compute(piece, &rate, now).into_iter().collect()),
            // It is to pause already, and waits for what is in flight.
            Err(_) if life.pause != Pause::No => Ok(vec![Event::ComputeTicked(used)]),
            Err(excess) => Ok(self.at_the_limit(session_id, (life, used), excess, now)),
        }
    }

    fn at_the_limit(
        &self,
        session_id: SessionId,
        (life, used): (&Life, ComputeTicked),
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

/// A piece of compute: what is held for it, and for how many milliseconds; or the limit that it does not fit.
type Piece = Result<(Decimal, i64), Excess>;

/// What is left within the limits, while a decision takes of it.
struct Room {
    standing: Standing,
    payers: Payers,
}

impl Room {
    fn of(standing: &Standing, facts: &Facts) -> Self {
        Self { standing: standing.clone(), payers: facts.payers.clone() }
    }

    /// Takes the next piece of compute at this rate, if it fits.
    fn piece(&mut self, rate: &Rate, now: Timestamp) -> Piece {
        let (held, slice_ms) = self.standing.next_piece(&self.payers, rate, now)?;
        self.standing.account.book(&Booking::reserving(held));
        self.payers.book(&Booking::reserving(held));
        self.standing.compute_held_ms += slice_ms;
        Ok((held, slice_ms))
    }

    /// Charges the piece that an agent has used, with nothing held after it, and takes the next one. `None` where it uses
    /// no compute.
    fn piece_after(&mut self, life: &Life, rate: &Rate, now: Timestamp) -> Option<(ComputeTicked, Piece)> {
        let lease = life.lease.as_ref()?;
        let Some(Event::ComputeTicked(used)) = life.tick_compute((Decimal::ZERO, 0), rate, now) else {
            return None;
        };
        self.standing.account.book(&used.booking);
        self.payers.book(&used.booking);
        self.standing.compute_ms += used.booking.compute_ms();
        self.standing.compute_held_ms -= lease.slice_ms;
        let next = self.piece(rate, now);
        Some((used, next))
    }
}

fn limit_reached(life: &Life, excess: Excess) -> Event {
    Event::AgentLimitReached(LimitReached { place: life.place, task_id: life.task, excess })
}
