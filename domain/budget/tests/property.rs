//! Whatever many callers do at once, no limit is passed by work that begins, and none is refused that fits.

use proptest::prelude::*;

use super::*;

/// A step of many callers at once.
#[derive(Debug, Clone)]
enum Step {
    Wait(i64),
    Budget(Option<u64>, i64, CostPeriod, Action),
    NoBudget(Option<u64>),
    Limit(u64, i64, CostPeriod),
    AddAgent(u64),
    Run(u64),
    Open(u64),
    Settle(u64, u64),
    Lose(u64),
    Tick(u64),
    Tell(u64, agent::Command),
    Session(u64, session::Command),
}

fn step() -> impl Strategy<Value = Step> {
    let agent = || 0..6_u64;
    let period = || prop_oneof![Just(CostPeriod::Day), Just(CostPeriod::Month)];
    let owner = || prop_oneof![Just(None), Just(Some(0)), Just(Some(2))];
    let action = prop_oneof![4 => Just(Action::Block), 1 => Just(Action::Notify)];
    prop_oneof![
        2 => (0..70_000_i64).prop_map(Step::Wait),
        1 => (0..90_000_000_i64).prop_map(Step::Wait),
        1 => (owner(), 0..300_i64, period(), action).prop_map(|(of, cents, period, action)| Step::Budget(of, cents, period, action)),
        1 => owner().prop_map(Step::NoBudget),
        1 => (0..3_u64, 0..200_i64, period()).prop_map(|(number, cents, period)| Step::Limit(number, cents, period)),
        2 => agent().prop_map(Step::AddAgent),
        3 => agent().prop_map(Step::Run),
        5 => agent().prop_map(Step::Open),
        4 => (agent(), 0..30_u64).prop_map(|(agent, cents)| Step::Settle(agent, cents)),
        1 => agent().prop_map(Step::Lose),
        3 => agent().prop_map(Step::Tick),
        1 => agent().prop_map(|agent| Step::Tell(agent, agent::Command::Pause)),
        2 => agent().prop_map(|agent| Step::Tell(agent, agent::Command::Resume(rates()))),
        2 => agent().prop_map(|agent| Step::Tell(agent, agent::Command::Provisioned { sandbox: "here".into() })),
        1 => agent().prop_map(|agent| Step::Tell(agent, agent::Command::Terminate)),
        1 => agent().prop_map(|agent| Step::Tell(agent, agent::Command::Suspended { sandbox: "asleep".into(), stored_bytes: 1_000_000_000 })),
        1 => agent().prop_map(|agent| Step::Tell(agent, agent::Command::Woken { sandbox: "here".into() })),
        1 => (0..3_u64).prop_map(|number| Step::Session(number, session::Command::Pause)),
        1 => (0..3_u64).prop_map(|number| Step::Session(number, session::Command::Resume(rates()))),
    ]
}

impl World {
    /// Takes a step, which the rules may refuse, and holds what it led to against the log.
    fn take(&mut self, step: Step, open: &mut BTreeMap<u64, u64>) {
        let before = self.log.len();
        let _ = match step {
            Step::Wait(ms) => {
                self.now_ms += ms;
                Ok(vec![])
            }
            Step::Budget(of, cents, period, action) => {
                Ok(self.budget(of, Some(Budget { action, ..budget(cents, period) })))
            }
            Step::NoBudget(of) => Ok(self.budget(of, None)),
            Step::Limit(number, amount, period) => {
                let limit = CostLimit { amount, currency: Currency::Usd, period };
                let patch = LimitsPatch { max_cost: Some(Some(limit)), ..LimitsPatch::default() };
                self.session(number, session::Command::ChangeLimits(patch))
            }
            Step::AddAgent(number) if self.states.contains_key(&Subject::Agent(agent_id(number))) => {
                Ok(vec![])
            }
            Step::AddAgent(number) => self.add_agent(number),
            Step::Run(number) => {
                let claim = agent::Command::Claim { task_id: task_id(number) };
                self.run(number).or_else(|_| self.tell(number, claim))
            }
            Step::Open(number) => {
                let epoch = self.log.iter().rev().find_map(|(_, event)| match event {
                    Event::TaskClaimed(claimed) if claimed.place.agent_id == agent_id(number) => {
                        Some(claimed.epoch)
                    }
                    _ => None,
                });
                let opened = self.open(number, epoch.unwrap_or_default());
                if opened.as_ref().is_ok_and(|events| matches!(events[0], Event::CallOpened(_))) {
                    open.insert(number, self.calls);
                }
                opened
            }
            Step::Settle(number, cents) => match open.get(&number) {
                Some(call) => self.settle(number, *call, cents),
                None => Ok(vec![]),
            },
            Step::Lose(number) => match open.get(&number) {
                Some(call) => {
                    let call_id = CallId::from_ulid(ulid(*call));
                    self.tell(
                        number,
                        agent::Command::LoseCall { call_id, reason: "r".into(), vendor_id: None, told: None },
                    )
                }
                None => Ok(vec![]),
            },
            Step::Tick(number) => {
                self.session(number % 3, session::Command::TickCompute(agent_id(number), rates()))
            }
            Step::Tell(number, command) => self.tell(number, command),
            Step::Session(number, command) => self.session(number, command),
        };
        self.check(before);
    }

    fn check(&self, before: usize) {
        let end = self.log.len();
        for index in before..end {
            let (at, event) = &self.log[index];
            let excess = match event {
                Event::LimitRefused(refused) => Some(&refused.excess),
                Event::AgentLimitReached(reached) => Some(&reached.excess),
                _ => None,
            };
            if let Some(excess) = excess {
                self.check_refusal(event, excess, *at, (index, end));
            }
            let Some(booked) = event.booked().filter(|booked| !booked.booking.reserved.is_zero()) else {
                continue;
            };
            // Work begins: with it, what is spent and held fits every limit.
            for (owner, limit) in self.limits(booked.place, index) {
                let (spent, reserved) = self.told(owner, limit.period, *at, index + 1);
                assert!(spent + reserved <= Decimal::new(limit.amount, 2), "{event:?} does not fit {owner}");
            }
        }
    }

    /// What was refused did not fit, by what the log says before it, or after all that was decided with it.
    fn check_refusal(&self, event: &Event, excess: &Excess, at: Timestamp, (index, end): (usize, usize)) {
        let subjects = event.subjects();
        let owner = |of: fn(&Subject) -> bool| *subjects.iter().find(|subject| of(subject)).unwrap();
        let owner = match (excess.limit, event.place()) {
            (LimitName::UserBudget, Some(place)) => Subject::User(place.user_id),
            (LimitName::UserBudget, None) => owner(|subject| matches!(subject, Subject::User(_))),
            (LimitName::OrganizationBudget, _) => Subject::Organization(organization_id()),
            _ => owner(|subject| matches!(subject, Subject::Session(_))),
        };
        let period = excess.period.unwrap();
        let told = [index, end].map(|until| self.told(owner, period, at, until));
        assert!(
            told.contains(&(excess.spent, excess.reserved)),
            "{excess:?} is not what the log says: {told:?}"
        );
        let taken = excess.spent + excess.reserved;
        let used_up = excess.requested.is_zero() && taken >= excess.allowed;
        assert!(used_up || taken + excess.requested > excess.allowed, "{excess:?} fits");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn no_work_begins_that_does_not_fit_and_none_is_refused_that_does(
        steps in prop::collection::vec(step(), 0..100),
    ) {
        let mut world = World::new();
        let mut open = BTreeMap::new();
        for step in steps {
            world.take(step, &mut open);
        }
        for number in 0..3 {
            let _ = world.session(number, session::Command::Terminate);
        }
        for number in 0..6 {
            let _ = world.tell(number, agent::Command::CloseCall);
        }
        // Every purse and every session has what the log says, and nothing is held without work.
        let now = world.now();
        let states = std::mem::take(&mut world.states);
        for (owner, state) in &states {
            let account = match state {
                AggregateState::Session(session) => &session.standing().unwrap().account,
                AggregateState::User(user) => &user.purse().account,
                AggregateState::Organization(organization) => &organization.purse().account,
                _ => continue,
            };
            prop_assert_eq!(account.reserved(), Decimal::ZERO);
            for period in [CostPeriod::Session, CostPeriod::Day, CostPeriod::Month] {
                let told = world.told(*owner, period, now, world.log.len());
                prop_assert_eq!((account.spent(period, now), account.reserved()), told);
            }
        }
    }
}
