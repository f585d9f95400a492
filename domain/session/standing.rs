//! What decisions about an agent need to know of its session: whether work may begin, and what fits its limits.

use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};

use super::{Limits, Status};
use crate::account::{Account, Excess, LimitName, Need};
use crate::agent::compute::{MINUTE_MS, cost_of, in_minutes};
use crate::budget::Payers;
use crate::charge::{Booking, Place, Rate};
use crate::id::{AgentId, OrganizationId, SessionId, UserId};
use crate::time::Timestamp;
use crate::{Event, Refusal};

/// Where a session stands, and what it has used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// Where it stands.
    pub status: Status,
    /// Its limits.
    pub limits: Limits,
    /// What it has spent and holds.
    pub account: Account,
    /// Milliseconds of compute that it has used.
    pub compute_ms: i64,
    /// Milliseconds of compute that are held ahead.
    pub compute_held_ms: i64,
}

/// Work was refused because it does not fit a limit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LimitRefused {
    /// The session.
    pub session_id: SessionId,
    /// Whose it is.
    pub user_id: UserId,
    /// The organization.
    pub organization_id: OrganizationId,
    /// The agent that was asked, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent_id: Option<AgentId>,
    /// What was asked: `agent`, `run`, `exec` or `resume`.
    pub work: String,
    /// Which limit, and by how much.
    pub excess: Excess,
}

/// Something turned out dearer or longer than what was held for it, and the session is past its limit of cost or of
/// compute.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LimitOverrun {
    /// Whose work it was.
    pub place: Place,
    /// Which limit, and by how much.
    pub excess: Excess,
}

impl Standing {
    /// That work may begin in it.
    ///
    /// # Errors
    /// [`Refusal::Conflict`] where it is paused or has ended.
    pub fn active(&self, session_id: SessionId) -> Result<(), Refusal> {
        match self.status {
            Status::Active => Ok(()),
            status => Err(Refusal::Conflict(format!("{session_id} is {}", status.as_str()))),
        }
    }

    /// Whether a limit of cost applies to work in it: its own, or a budget.
    #[must_use]
    pub fn is_cost_limited(&self, payers: &Payers) -> bool {
        self.limits.max_cost.is_some() || payers.limit_cost()
    }

    /// Why this does not fit its cost limit, its user's budget or the organization's; nothing where it does.
    #[must_use]
    pub fn cost_excess(&self, payers: &Payers, need: Need, now: Timestamp) -> Option<Excess> {
        let limit = self.limits.max_cost.as_ref();
        let own = limit.and_then(|limit| self.account.excess((LimitName::MaxCost, limit), need, now));
        own.or_else(|| payers.excess(need, now))
    }

    /// Takes in a booking that is about to happen, after which so many milliseconds of compute are held: by how much the
    /// session is past its limits of cost and of compute then, where it was not before.
    pub(crate) fn overruns(&mut self, booking: &Booking, held_ms: i64, now: Timestamp) -> Vec<Excess> {
        let limit = self.limits.max_cost;
        let past = |standing: &Self| {
            let cost =
                limit.as_ref().and_then(|limit| standing.account.past((LimitName::MaxCost, limit), now));
            [cost, standing.compute_overrun()]
        };
        let before = past(self);
        self.account.book(booking);
        self.compute_ms += booking.compute_ms();
        self.compute_held_ms = held_ms;
        let after = past(self).into_iter().zip(before);
        after.filter_map(|(after, before)| after.filter(|_| before.is_none())).collect()
    }

    /// The next piece of compute that fits: what to hold, and for how many milliseconds.
    ///
    /// # Errors
    /// The [`Excess`] of the limit that nothing more fits.
    pub fn next_piece(&self, payers: &Payers, rate: &Rate, now: Timestamp) -> Result<(Decimal, i64), Excess> {
        let mut slice_ms = MINUTE_MS;
        if let Some(minutes) = self.limits.max_compute_minutes {
            let left_ms = allowed_ms(minutes) - self.compute_ms - self.compute_held_ms;
            if left_ms <= 0 {
                return Err(self.compute_excess(minutes));
            }
            slice_ms = slice_ms.min(left_ms);
        }
        let held = cost_of(rate, MINUTE_MS);
        self.cost_excess(payers, Need::AtMost(held), now).map_or(Ok((held, slice_ms)), Err)
    }

    /// Why no compute will fit its limit of that, whatever is still held being given back; nothing where some will.
    pub(super) fn compute_used_up(&self) -> Option<Excess> {
        let minutes =
            self.limits.max_compute_minutes.filter(|minutes| self.compute_ms >= allowed_ms(*minutes));
        minutes.map(|minutes| self.compute_excess(minutes))
    }

    /// By how much more compute was used than its limit allows; nothing where it was not.
    fn compute_overrun(&self) -> Option<Excess> {
        let minutes =
            self.limits.max_compute_minutes.filter(|minutes| self.compute_ms > allowed_ms(*minutes));
        minutes.map(|minutes| Excess { requested: Decimal::ZERO, ..self.compute_excess(minutes) })
    }

    fn compute_excess(&self, minutes: i64) -> Excess {
        Excess {
            limit: LimitName::MaxComputeMinutes,
            period: None,
            allowed: Decimal::from(minutes),
            spent: in_minutes(self.compute_ms),
            reserved: in_minutes(self.compute_held_ms),
            requested: Decimal::ONE,
            resets_at: None,
        }
    }

    /// That work was refused.
    #[must_use]
    pub fn refused(&self, place: Place, agent_id: Option<AgentId>, work: &str, excess: Excess) -> Event {
        let Place { session_id, user_id, organization_id, .. } = place;
        let work = work.to_owned();
        Event::LimitRefused(LimitRefused { session_id, user_id, organization_id, agent_id, work, excess })
    }
}

const fn allowed_ms(minutes: i64) -> i64 {
    minutes.saturating_mul(MINUTE_MS)
}
