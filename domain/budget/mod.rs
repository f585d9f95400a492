//! Budgets: what all work of an end user, or of the whole organization, may cost in each day or month.
//!
//! A budget is kept by its [`Purse`], beside the account that it is held against. The purses of a user and of the
//! organization are parts of their states, and the decisions about agents and sessions stand on both of them.

mod payers;
#[cfg(test)]
mod tests;

use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};

pub use payers::{Payers, consequences};

use crate::Event;
use crate::account::{Account, Excess, LimitName, Need};
use crate::charge::{Booking, Charge, Place};
use crate::id::{OrganizationId, UserId};
use crate::session::{CostLimit, CostPeriod};
use crate::time::{Day, Timestamp};

/// Whose work a budget is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// All of the organization's.
    Organization,
    /// All of one end user's.
    User,
}

impl Scope {
    /// The scope as it is written on the wire and in the database.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Organization => "organization",
            Self::User => "user",
        }
    }

    /// The limit that a budget of this scope is.
    #[must_use]
    pub const fn limit_name(self) -> LimitName {
        match self {
            Self::Organization => LimitName::OrganizationBudget,
            Self::User => LimitName::UserBudget,
        }
    }
}

/// What happens when a budget is used up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// No work starts that does not fit it.
    #[default]
    Block,
    /// Nothing but that it is told.
    Notify,
}

impl Action {
    /// The action as it is written on the wire and in the database.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Block => "block",
            Self::Notify => "notify",
        }
    }
}

/// A budget.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Budget {
    /// How much, in each day or month.
    pub limit: CostLimit,
    /// Shares of it, in percent and in rising order; crossing one is told.
    pub thresholds: Vec<u16>,
    /// What happens when it is used up.
    #[serde(default)]
    pub action: Action,
}

impl Budget {
    /// The budget in units of the currency.
    #[must_use]
    pub fn amount(&self) -> Decimal {
        Decimal::new(self.limit.amount, 2)
    }

    /// Whether so much reaches a share of it.
    fn reaches(&self, spent: Decimal, threshold: u16) -> bool {
        !spent.is_zero() && spent * Decimal::ONE_HUNDRED >= self.amount() * Decimal::from(threshold)
    }
}

/// A budget was set, or replaced.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Set {
    /// The organization.
    pub organization_id: OrganizationId,
    /// The end user whose it is; none for the organization's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_id: Option<UserId>,
    /// The budget from now on.
    pub budget: Budget,
    /// From when on.
    pub at: Timestamp,
}

/// A budget was removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Removed {
    /// The organization.
    pub organization_id: OrganizationId,
    /// The end user whose it was; none for the organization's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_id: Option<UserId>,
}

/// What was spent has reached a share of a budget, for the first time in a period.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ThresholdCrossed {
    /// Whose budget it is.
    pub scope: Scope,
    /// The organization.
    pub organization_id: OrganizationId,
    /// The end user, where it is theirs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_id: Option<UserId>,
    /// Over which the budget counts.
    pub period: CostPeriod,
    /// When the period began that it was crossed in.
    pub period_start: Timestamp,
    /// The share, in percent.
    pub threshold: u16,
    /// Settled and unconfirmed charges of the period, in units of the currency.
    #[serde(with = "rust_decimal::serde::str")]
    pub spent: Decimal,
    /// The budget, in units of the currency.
    #[serde(with = "rust_decimal::serde::str")]
    pub limit: Decimal,
}

/// Something was dearer than its worst case or was learned later, and a budget is past.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Overrun {
    /// Whose work it was.
    pub place: Place,
    /// Which budget, and by how much.
    pub excess: Excess,
}

/// An account, and the budget that it is held against.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Purse {
    /// What was spent and is held.
    pub account: Account,
    /// The budget, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    budget: Option<Budget>,
    /// The thresholds that were crossed, by the first day of their period: of the newest two periods.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    crossed: Vec<(Day, u16)>,
}

impl Purse {
    /// The budget, where there is one.
    #[must_use]
    pub const fn budget(&self) -> Option<&Budget> {
        self.budget.as_ref()
    }

    /// Setting a budget, or removing it: what happens, nothing where it is so already. The thresholds that a new budget
    /// has reached as it begins are told with it.
    #[must_use]
    pub fn replace(
        &self,
        owner @ (organization_id, user_id): (OrganizationId, Option<UserId>),
        budget: Option<&Budget>,
        at: Timestamp,
    ) -> Vec<Event> {
        match budget {
            budget if budget == self.budget.as_ref() => vec![],
            Some(budget) => {
                let set = Event::BudgetSet(Set { organization_id, user_id, budget: budget.clone(), at });
                let mut after = self.clone();
                after.fold(&set);
                let reached = after.reach(at);
                std::iter::once(set).chain(reached.iter().map(|crossing| crossing.told(owner))).collect()
            }
            None => vec![Event::BudgetRemoved(Removed { organization_id, user_id })],
        }
    }

    /// Folds what has happened to its owner.
    pub fn fold(&mut self, event: &Event) {
        match event {
            Event::BudgetSet(set) => {
                // Another budget tells its thresholds anew, but for those of the old one that it has reached as well.
                let (period, at) = (set.budget.limit.period, set.at);
                let (spent, start) = (self.account.spent(period, at), period_start(period, at));
                let before = self.budget.as_ref().map(|budget| budget.limit.period);
                self.crossed.retain(|(day, threshold)| {
                    before == Some(period) && *day == start && set.budget.reaches(spent, *threshold)
                });
                self.budget = Some(set.budget.clone());
            }
            Event::BudgetRemoved(_) => (self.budget, self.crossed) = (None, vec![]),
            Event::BudgetThresholdCrossed(crossed) => {
                self.crossed.push((crossed.period_start.day(), crossed.threshold));
                let mut periods: Vec<Day> = self.crossed.iter().map(|(day, _)| *day).collect();
                periods.sort_unstable();
                periods.dedup();
                if let Some(oldest) = periods.iter().rev().nth(1) {
                    self.crossed.retain(|(day, _)| day >= oldest);
                }
            }
            event => {
                if let Some(booked) = event.booked() {
                    self.account.book(booked.booking);
                }
            }
        }
    }

    /// Why this does not fit the budget; nothing where it does, or where the budget blocks nothing.
    #[must_use]
    pub fn excess(&self, scope: Scope, need: Need, now: Timestamp) -> Option<Excess> {
        let budget = self.blocking()?;
        self.account.excess((scope.limit_name(), &budget.limit), need, now)
    }

    /// The budget, where work must fit it.
    #[must_use]
    pub fn blocking(&self) -> Option<&Budget> {
        self.budget.as_ref().filter(|budget| budget.action == Action::Block)
    }

    /// Takes in a booking that is about to happen: by how much the budget is past then, where it was not before, and
    /// the thresholds that the charges cross, each in the period that the charge counts in.
    fn take(&mut self, scope: Scope, booking: &Booking, now: Timestamp) -> (Option<Excess>, Vec<Crossing>) {
        let past = |purse: &Self| {
            let budget = purse.blocking()?;
            purse.account.past((scope.limit_name(), &budget.limit), now)
        };
        let before = past(self);
        self.account.hold(booking);
        booking.withdrawn.iter().for_each(|charge| self.account.withdraw(charge));
        let charges = booking.charges.iter().chain(&booking.unconfirmed);
        let crossings = charges.flat_map(|charge| self.take_charge(charge)).collect();
        (past(self).filter(|_| before.is_none()), crossings)
    }

    fn take_charge(&mut self, charge: &Charge) -> Vec<Crossing> {
        self.account.charge(charge);
        self.reach(charge.at)
    }

    /// The thresholds that are reached in the period of a moment and were not before.
    fn reach(&mut self, at: Timestamp) -> Vec<Crossing> {
        let Some(budget) = &self.budget else { return vec![] };
        let period = budget.limit.period;
        let (spent, start) = (self.account.spent(period, at), period_start(period, at));
        let crossed = |threshold: &u16| {
            budget.reaches(spent, *threshold) && !self.crossed.contains(&(start, *threshold))
        };
        let limit = budget.amount();
        let crossing = |threshold| Crossing { period, start, threshold, spent, limit };
        let crossings: Vec<Crossing> =
            budget.thresholds.iter().copied().filter(crossed).map(crossing).collect();
        self.crossed.extend(crossings.iter().map(|crossing| (start, crossing.threshold)));
        crossings
    }
}

/// A threshold that is crossed.
struct Crossing {
    period: CostPeriod,
    start: Day,
    threshold: u16,
    spent: Decimal,
    limit: Decimal,
}

impl Crossing {
    /// The event that tells it, to the end user or, where there is none, to the organization.
    fn told(&self, (organization_id, user_id): (OrganizationId, Option<UserId>)) -> Event {
        Event::BudgetThresholdCrossed(ThresholdCrossed {
            scope: if user_id.is_some() { Scope::User } else { Scope::Organization },
            organization_id,
            user_id,
            period: self.period,
            period_start: self.start.start(),
            threshold: self.threshold,
            spent: self.spent,
            limit: self.limit,
        })
    }
}

/// The first day of the period that a moment lies in.
fn period_start(period: CostPeriod, at: Timestamp) -> Day {
    match period {
        CostPeriod::Month => at.day().month_start(),
        CostPeriod::Day | CostPeriod::Session => at.day(),
    }
}
