//! Budgets, as an appender keeps them: several sessions, agents and users over one organization.

mod property;
mod rules;

use std::collections::BTreeMap;

use rust_decimal::Decimal;
use ulid::Ulid;

pub(super) use super::*;
use crate::agent::tests::new_agent;
use crate::agent::{self, Answer, ModelPrices, ModelRates, NewAgent, Opening, Stop, Tokens};
use crate::charge::{Charge, Price, Rate};
use crate::command::Person;
use crate::content::ContentRef;
use crate::id::{AgentId, CallId, ContentId, SessionId, TaskId};
use crate::money::Currency;
use crate::organization::{self, Mode, Plan};
use crate::rates::ComputeRates;
use crate::session::{self, Limits, LimitsPatch};
use crate::{AggregateState, Command, Facts, Refusal, Subject, user};

/// 2025-05-31T23:58:00Z: two minutes before the end of a day and a month.
const START_MS: i64 = 1_748_735_880_000;

fn ulid(number: u64) -> Ulid {
    Ulid::from_parts(number, 0)
}

fn organization_id() -> OrganizationId {
    OrganizationId::from_ulid(ulid(1))
}

fn session_id(number: u64) -> SessionId {
    SessionId::from_ulid(ulid(100 + number))
}

fn agent_id(number: u64) -> AgentId {
    AgentId::from_ulid(ulid(200 + number))
}

fn task_id(number: u64) -> TaskId {
    TaskId::from_ulid(ulid(300 + number))
}

/// The user of a session: the first two sessions are of one.
fn person(number: u64) -> Person {
    let user = number / 2;
    Person { external_id: user.to_string(), new_id: UserId::from_ulid(ulid(400 + user)) }
}

fn content() -> ContentRef {
    ContentRef { content_id: ContentId::from_ulid(ulid(9)), sha256: String::new() }
}

fn budget(cents: i64, period: CostPeriod) -> Budget {
    let limit = CostLimit { amount: cents, currency: Currency::Usd, period };
    Budget { limit, thresholds: vec![50, 80, 100], action: Action::Block }
}

/// What an appender has in memory, and the log.
struct World {
    states: BTreeMap<Subject, AggregateState>,
    now_ms: i64,
    log: Vec<(Timestamp, Event)>,
    calls: u64,
}

/// Ten cents a minute.
fn rates() -> ComputeRates {
    let price = Price { amount: Decimal::new(10, 2), per: 60_000 };
    let managed = Rate { price: Some(price), rate_card: "1".into() };
    ComputeRates { own: managed.clone(), managed }
}

impl World {
    /// An organization with three sessions of two users, and an agent that is ready in each.
    fn new() -> Self {
        let mut world = Self { states: BTreeMap::new(), now_ms: START_MS, log: vec![], calls: 0 };
        let create = organization::Command::Create {
            name: "x".into(),
            mode: Mode::Live,
            plan: Plan::Team,
            rate_limit: None,
        };
        world.ask(Command::Organization(organization_id(), create)).unwrap();
        for number in 0..3 {
            let opening =
                session::Opening { person: person(number), limits: Limits::default(), metadata: None };
            world.ask(Command::Session(session_id(number), session::Command::Create(opening))).unwrap();
            world.add_agent(number).unwrap();
            world.tell(number, agent::Command::Provisioned { sandbox: "here".into() }).unwrap();
        }
        world
    }

    fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.now_ms)
    }

    fn state(&mut self, subject: Subject) -> &AggregateState {
        self.states.entry(subject).or_insert_with(|| AggregateState::empty(subject))
    }

    /// Decides as the appender does.
    fn ask(&mut self, command: Command) -> Result<Vec<Event>, Refusal> {
        let user = command.person().map(|person| person.new_id);
        let subject = command.target().or(user.map(Subject::User)).unwrap();
        let mut facts = Facts { user, ..Facts::new(self.now(), subject, organization_id()) };
        for witness in command.witnesses(self.state(subject), organization_id()) {
            match self.state(witness) {
                AggregateState::Session(session) => facts.session = session.standing().cloned(),
                AggregateState::User(user) => facts.payers.user = user.purse().clone(),
                AggregateState::Organization(organization) => {
                    facts.payers.organization = organization.purse().clone();
                }
                AggregateState::Providers(providers) => facts.stock.providers = providers.offer(),
                other => panic!("{other:?} is no witness"),
            }
        }
        let events = self.state(subject).decide(&command, &facts)?;
        for event in &events {
            for subject in event.subjects() {
                self.state(subject);
                self.states.get_mut(&subject).unwrap().evolve(event);
            }
            self.log.push((facts.now, event.clone()));
        }
        Ok(events)
    }

    fn tell(&mut self, number: u64, command: agent::Command) -> Result<Vec<Event>, Refusal> {
        self.ask(Command::Agent(agent_id(number), command))
    }

    fn session(&mut self, number: u64, command: session::Command) -> Result<Vec<Event>, Refusal> {
        self.ask(Command::Session(session_id(number), command))
    }

    /// An agent whose minute costs ten cents.
    fn add_agent(&mut self, number: u64) -> Result<Vec<Event>, Refusal> {
        let new = NewAgent { compute: rates(), ..new_agent(agent_id(number)) };
        self.session(number % 3, session::Command::AddAgent(Box::new(new)))
    }

    /// Sets the budget of the user of a session, or with none the organization's.
    fn budget(&mut self, of: Option<u64>, budget: Option<Budget>) -> Vec<Event> {
        let command = match of {
            Some(number) => Command::User(user::Command::SetBudget { person: person(number), budget }),
            None => Command::Organization(organization_id(), organization::Command::SetBudget(budget)),
        };
        self.ask(command).unwrap()
    }

    fn run(&mut self, number: u64) -> Result<Vec<Event>, Refusal> {
        let task_id = task_id(number);
        let events = self.tell(
            number,
            agent::Command::Run { task_id, task: content(), model: agent::ModelCost::Priced },
        )?;
        self.tell(number, agent::Command::Claim { task_id })?;
        Ok(events)
    }

    /// A call whose worst case is twenty cents.
    fn open(&mut self, number: u64, epoch: u64) -> Result<Vec<Event>, Refusal> {
        self.calls += 1;
        let cent = Price { amount: Decimal::new(1, 2), per: 1 };
        let prices =
            ModelPrices { input: cent, output: cent, cache_read: cent, cache_write: cent, long: None };
        let opening = Opening {
            epoch,
            call_id: CallId::from_ulid(ulid(self.calls)),
            model: "m".into(),
            own_key: false,
            worst_case: Tokens { input: 10, output: 10, ..Tokens::default() },
            rates: ModelRates { rate_card: "1".into(), prices: Some(prices) },
        };
        self.tell(number, agent::Command::OpenCall(opening))
    }

    fn settle(&mut self, number: u64, call: u64, cents: u64) -> Result<Vec<Event>, Refusal> {
        self.tell(
            number,
            agent::Command::SettleCall(Answer {
                call_id: CallId::from_ulid(ulid(call)),
                tokens: Some(Tokens { input: 0, output: cents, ..Tokens::default() }),
                stop: Stop::Complete,
                reply: content(),
                tool_calls: 0,
                vendor_id: None,
                completes: false,
            }),
        )
    }

    /// What the log says that an owner has spent in the period of a moment, and holds: told anew from the events.
    fn told(&self, owner: Subject, period: CostPeriod, at: Timestamp, until: usize) -> (Decimal, Decimal) {
        let start = match period {
            CostPeriod::Session => Timestamp::default(),
            period => period_start(period, at).start(),
        };
        let (mut spent, mut reserved) = (Decimal::ZERO, Decimal::ZERO);
        for (_, event) in &self.log[..until] {
            let Some(booked) = event.booked().filter(|_| event.subjects().contains(&owner)) else { continue };
            let booking = booked.booking;
            reserved += booking.reserved - booking.released;
            let of_period = |charges: &[Charge]| -> Decimal {
                charges.iter().filter(|charge| charge.at >= start).map(|charge| charge.cost).sum()
            };
            spent += of_period(&booking.charges) + of_period(&booking.unconfirmed);
            spent -= of_period(&booking.withdrawn);
        }
        (spent, reserved)
    }

    /// The limits of cost in force for a session's work at a position of the log.
    fn limits(&self, place: Place, until: usize) -> Vec<(Subject, CostLimit)> {
        let owners = [
            Subject::Session(place.session_id),
            Subject::User(place.user_id),
            Subject::Organization(place.organization_id),
        ];
        let mut limits: BTreeMap<Subject, Option<CostLimit>> = BTreeMap::new();
        for (_, event) in &self.log[..until] {
            let set = match event {
                Event::SessionLimitsChanged(changed) => changed.limits.max_cost,
                Event::BudgetSet(set) => (set.budget.action == Action::Block).then_some(set.budget.limit),
                Event::BudgetRemoved(_) => None,
                _ => continue,
            };
            limits.insert(event.subjects()[0], set);
        }
        owners.into_iter().filter_map(|owner| Some((owner, *limits.get(&owner)?.as_ref()?))).collect()
    }
}

fn kinds(events: &[Event]) -> Vec<String> {
    events.iter().map(|event| event.write().kind).collect()
}
