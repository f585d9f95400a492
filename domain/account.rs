//! What has been spent and is held, of one session, user or organization: what limits are kept against.

use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};

use crate::charge::{Booking, Charge};
use crate::session::{CostLimit, CostPeriod};
use crate::time::{Day, Timestamp};

/// A running account. Of days and months it remembers the sums of the newest two: limits ask for the present one, and
/// what is booked just past midnight may count in the one before.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Account {
    /// Settled and unconfirmed charges since it began.
    #[serde(default)]
    total: Decimal,
    /// Newest first.
    #[serde(default)]
    days: Vec<(Day, Decimal)>,
    /// By the first day of the month, newest first.
    #[serde(default)]
    months: Vec<(Day, Decimal)>,
    /// The worst case of the work that is under way.
    #[serde(default)]
    reserved: Decimal,
}

/// Why something does not fit a limit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Excess {
    /// The limit, by its name on the wire.
    pub limit: LimitName,
    /// The period that it counts over, for a limit of cost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub period: Option<CostPeriod>,
    /// The limit: units of the currency, minutes or agents.
    #[serde(with = "rust_decimal::serde::str")]
    pub allowed: Decimal,
    /// What counts as spent.
    #[serde(with = "rust_decimal::serde::str")]
    pub spent: Decimal,
    /// What is held for work under way.
    #[serde(with = "rust_decimal::serde::str")]
    pub reserved: Decimal,
    /// What was asked for.
    #[serde(with = "rust_decimal::serde::str")]
    pub requested: Decimal,
    /// When the period ends; none where it never does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resets_at: Option<Timestamp>,
}

/// The limits that there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum LimitName {
    /// What a session may cost.
    MaxCost,
    /// How many agents a session may have at a time.
    MaxAgents,
    /// How many minutes of compute a session may use.
    MaxComputeMinutes,
    /// What all sessions of an end user may cost.
    UserBudget,
    /// What the whole organization may cost.
    OrganizationBudget,
}

impl LimitName {
    /// The name on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::MaxCost => "maxCost",
            Self::MaxAgents => "maxAgents",
            Self::MaxComputeMinutes => "maxComputeMinutes",
            Self::UserBudget => "userBudget",
            Self::OrganizationBudget => "organizationBudget",
        }
    }
}

/// What work asks of a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// So much at most. What costs nothing fits a limit that is used up, but not one that is past.
    AtMost(Decimal),
    /// Something, of which each piece says how much when it begins: a limit that is used up has no room for it.
    Something,
}

impl Need {
    /// What is asked for already.
    const fn requested(self) -> Decimal {
        match self {
            Self::AtMost(requested) => requested,
            Self::Something => Decimal::ZERO,
        }
    }
}

impl Account {
    /// Takes in what an event books.
    pub fn book(&mut self, booking: &Booking) {
        self.hold(booking);
        booking.charges.iter().chain(&booking.unconfirmed).for_each(|charge| self.charge(charge));
        booking.withdrawn.iter().for_each(|charge| self.withdraw(charge));
    }

    /// Takes in what a booking holds and no longer holds, without its charges.
    pub fn hold(&mut self, booking: &Booking) {
        self.reserved += booking.reserved - booking.released;
    }

    /// Takes in a charge, settled or unconfirmed.
    pub fn charge(&mut self, charge: &Charge) {
        self.count(charge.at, charge.cost);
    }

    /// Takes out an unconfirmed charge.
    pub fn withdraw(&mut self, charge: &Charge) {
        self.count(charge.at, -charge.cost);
    }

    fn count(&mut self, at: Timestamp, cost: Decimal) {
        self.total += cost;
        let day = at.day();
        count_in(&mut self.days, day, cost);
        count_in(&mut self.months, day.month_start(), cost);
    }

    /// What counts as spent in the period that `now` lies in: settled and unconfirmed. Never below nothing: where more
    /// was given back in a period than was spent in it, because a credit corrects an earlier charge, nothing is spent.
    #[must_use]
    pub fn spent(&self, period: CostPeriod, now: Timestamp) -> Decimal {
        let today = now.day();
        let of = |kept: &[(Day, Decimal)], wanted: Day| {
            kept.iter().find(|(day, _)| *day == wanted).map_or(Decimal::ZERO, |(_, sum)| *sum)
        };
        let sum = match period {
            CostPeriod::Session => self.total,
            CostPeriod::Day => of(&self.days, today),
            CostPeriod::Month => of(&self.months, today.month_start()),
        };
        sum.max(Decimal::ZERO)
    }

    /// The worst case of the work that is under way.
    #[must_use]
    pub const fn reserved(&self) -> Decimal {
        self.reserved
    }

    /// Why this does not fit; nothing where it does.
    #[must_use]
    pub fn excess(
        &self,
        (name, limit): (LimitName, &CostLimit),
        need: Need,
        now: Timestamp,
    ) -> Option<Excess> {
        let excess = self.against(name, limit, need.requested(), now);
        let taken = excess.spent + excess.reserved;
        let fits = match need {
            Need::AtMost(requested) => taken + requested <= excess.allowed,
            Need::Something => taken < excess.allowed,
        };
        (!fits).then_some(excess)
    }

    /// By how much a limit is past; nothing where it is not.
    #[must_use]
    pub fn past(&self, (name, limit): (LimitName, &CostLimit), now: Timestamp) -> Option<Excess> {
        let excess = self.against(name, limit, Decimal::ZERO, now);
        (excess.spent + excess.reserved > excess.allowed).then_some(excess)
    }

    fn against(&self, limit: LimitName, cost: &CostLimit, requested: Decimal, now: Timestamp) -> Excess {
        Excess {
            limit,
            period: Some(cost.period),
            allowed: Decimal::new(cost.amount, 2),
            spent: self.spent(cost.period, now),
            reserved: self.reserved,
            requested,
            resets_at: resets_at(cost.period, now),
        }
    }
}

/// When the period that `now` lies in ends.
#[must_use]
pub fn resets_at(period: CostPeriod, now: Timestamp) -> Option<Timestamp> {
    match period {
        CostPeriod::Session => None,
        CostPeriod::Day => Some(now.day().next().start()),
        CostPeriod::Month => Some(now.day().month_start().next_month().start()),
    }
}

/// Adds to the sum of a period. What counts in one that has long passed can no longer matter to a limit.
fn count_in(kept: &mut Vec<(Day, Decimal)>, period: Day, cost: Decimal) {
    match kept.iter().position(|(day, _)| *day <= period) {
        Some(index) if kept[index].0 == period => kept[index].1 += cost,
        Some(index) => kept.insert(index, (period, cost)),
        None => kept.push((period, cost)),
    }
    kept.truncate(2);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::charge::{Category, Price, Rate, Unit};
    use crate::money::Currency;

    const NOON: i64 = 1_746_100_800_000; // 2025-05-01T12:00:00Z
    const DAY_MS: i64 = 86_400_000;

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_millis(millis)
    }

    fn charge(millis: i64, cents: i64) -> Booking {
        let rate =
            Rate { price: Some(Price { amount: Decimal::new(cents, 2), per: 1 }), rate_card: "1".into() };
        let charge = Charge::new(at(millis), Category::Compute, (Decimal::ONE, Unit::Millisecond), &rate);
        Booking { charges: vec![charge], ..Booking::default() }
    }

    fn limit(cents: i64, period: CostPeriod) -> CostLimit {
        CostLimit { amount: cents, currency: Currency::Usd, period }
    }

    #[test]
    fn each_period_has_its_own_sum_and_ends_at_midnight_utc() {
        let mut account = Account::default();
        account.book(&charge(NOON, 5));
        account.book(&charge(NOON + DAY_MS, 7));
        let tomorrow = at(NOON + DAY_MS);
        assert_eq!(account.spent(CostPeriod::Session, tomorrow), Decimal::new(12, 2));
        assert_eq!(account.spent(CostPeriod::Month, tomorrow), Decimal::new(12, 2));
        assert_eq!(account.spent(CostPeriod::Day, tomorrow), Decimal::new(7, 2));
        assert_eq!(account.spent(CostPeriod::Day, at(NOON + 2 * DAY_MS)), Decimal::ZERO);
        assert_eq!(account.spent(CostPeriod::Month, at(NOON + 31 * DAY_MS)), Decimal::ZERO);
    }

    #[test]
    fn what_is_spent_and_held_and_asked_for_must_fit_together() {
        let mut account = Account::default();
        account.book(&charge(NOON, 5));
        account.book(&Booking::reserving(Decimal::new(3, 2)));
        let now = at(NOON);
        let fits = |account: &Account, cents| {
            let limit = limit(10, CostPeriod::Day);
            account.excess((LimitName::MaxCost, &limit), Need::AtMost(Decimal::new(cents, 2)), now).is_none()
        };
        assert!(fits(&account, 2) && !fits(&account, 3));
        account.book(&Booking::releasing(Decimal::new(3, 2)));
        assert!(fits(&account, 5) && fits(&account, 0));
        account.book(&charge(NOON, 5));
        let limit = limit(10, CostPeriod::Day);
        let has_room =
            |account: &Account| account.excess((LimitName::MaxCost, &limit), Need::Something, now).is_none();
        assert!(fits(&account, 0), "what costs nothing fits a limit that is used up");
        assert!(!fits(&account, 1) && !has_room(&account), "nothing else does");
        account.book(&charge(NOON, 1));
        assert!(!fits(&account, 0), "a limit that is past admits nothing");
    }

    #[test]
    fn what_is_given_back_on_another_day_makes_no_room_past_the_limit() {
        let mut account = Account::default();
        account.book(&charge(NOON, 5));
        account.book(&charge(NOON + DAY_MS, -5));
        let tomorrow = at(NOON + DAY_MS);
        assert_eq!(account.spent(CostPeriod::Day, tomorrow), Decimal::ZERO);
        assert_eq!(account.spent(CostPeriod::Month, tomorrow), Decimal::ZERO);
        let fits = |account: &Account, cents| {
            let limit = limit(10, CostPeriod::Day);
            account
                .excess((LimitName::MaxCost, &limit), Need::AtMost(Decimal::new(cents, 2)), tomorrow)
                .is_none()
        };
        assert!(fits(&account, 10) && !fits(&account, 11));
        // What is spent then is set off against it: a limit is kept by what the day's bill will say.
        account.book(&charge(NOON + DAY_MS, 7));
        assert_eq!(account.spent(CostPeriod::Day, tomorrow), Decimal::new(2, 2));
    }

    #[test]
    fn an_excess_tells_when_the_period_ends() {
        let account = Account::default();
        let excess = |period| {
            let limit = limit(0, period);
            account.excess((LimitName::MaxCost, &limit), Need::Something, at(NOON)).unwrap().resets_at
        };
        assert_eq!(excess(CostPeriod::Session), None);
        assert_eq!(excess(CostPeriod::Day).unwrap().to_string(), "2025-05-02T00:00:00.000Z");
        assert_eq!(excess(CostPeriod::Month).unwrap().to_string(), "2025-06-01T00:00:00.000Z");
    }
}
