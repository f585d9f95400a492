//! Who pays for the work of a session besides the session itself: its end user and the organization.

use super::{Overrun, Purse, Scope};
use crate::account::{Excess, Need};
use crate::charge::{Booked, Booking};
use crate::id::AgentId;
use crate::session::{LimitOverrun, Standing};
use crate::time::Timestamp;
use crate::{Event, Facts};

/// The purses of an end user and of the organization, as they are when something is decided.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Payers {
    /// The end user's.
    pub user: Purse,
    /// The organization's.
    pub organization: Purse,
}

impl Payers {
    /// Whether a budget limits what work may cost.
    #[must_use]
    pub fn limit_cost(&self) -> bool {
        self.user.blocking().is_some() || self.organization.blocking().is_some()
    }

    /// Why this does not fit; nothing where it fits both budgets.
    #[must_use]
    pub fn excess(&self, need: Need, now: Timestamp) -> Option<Excess> {
        let of_user = self.user.excess(Scope::User, need, now);
        of_user.or_else(|| self.organization.excess(Scope::Organization, need, now))
    }

    /// Takes in what an event will book.
    pub fn book(&mut self, booking: &Booking) {
        self.user.account.book(booking);
        self.organization.account.book(booking);
    }

    fn purses(&mut self) -> [(Scope, &mut Purse); 2] {
        [(Scope::User, &mut self.user), (Scope::Organization, &mut self.organization)]
    }
}

/// What follows from what is booked by a decision: the limits that are past because of it, and the thresholds of
/// budgets that it crosses. `session` is where the session of the work stood before, and `held_ahead_ms` for how long
/// compute was held for an agent.
#[must_use]
pub fn consequences(
    events: &[Event],
    session: Option<&Standing>,
    held_ahead_ms: impl Fn(AgentId) -> i64,
    facts: &Facts,
) -> Vec<Event> {
    let charges =
        |booked: &Booked<'_>| !(booked.booking.charges.is_empty() && booked.booking.unconfirmed.is_empty());
    if !events.iter().filter_map(Event::booked).any(|booked| charges(&booked)) {
        return vec![];
    }
    let (mut follow, mut session, mut payers) = (vec![], session.cloned(), facts.payers.clone());
    for (event, booked) in events.iter().filter_map(|event| Some((event, event.booked()?))) {
        let (place, booking) = (booked.place, booked.booking);
        if let Some(session) = &mut session {
            let no_longer_held = || held_ahead_ms(place.agent_id);
            let held_ms = match event {
                Event::ComputeTicked(ticked) => ticked.slice_ms - no_longer_held(),
                Event::ComputeStopped(_) => -no_longer_held(),
                _ => 0,
            };
            let excesses = session.overruns(booking, session.compute_held_ms + held_ms, facts.now);
            let told = |excess| Event::SessionLimitOverrun(LimitOverrun { place, excess });
            follow.extend(excesses.into_iter().map(told));
        }
        for (scope, purse) in payers.purses() {
            let (overrun, crossings) = purse.take(scope, booking, facts.now);
            follow.extend(overrun.map(|excess| Event::BudgetOverrun(Overrun { place, excess })));
            let owner = (place.organization_id, (scope == Scope::User).then_some(place.user_id));
            follow.extend(crossings.iter().map(|crossing| crossing.told(owner)));
        }
    }
    follow
}
