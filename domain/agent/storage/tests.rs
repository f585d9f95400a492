use proptest::prelude::*;
use rust_decimal::Decimal;
use ulid::Ulid;

use super::*;
use crate::agent::tests::new_agent;
use crate::agent::{Command, NewAgent, State};
use crate::charge::Price;
use crate::command::Person;
use crate::id::{AgentId, OrganizationId, SessionId, UserId};
use crate::rates::{Card, ComputeRates};
use crate::session::{self, Limits};
use crate::{Aggregate, Facts, Refusal, Subject};

/// 2025-05-01T00:00:00Z.
const START_MS: i64 = 1_746_057_600_000;
const GB: u64 = 1_000_000_000;

fn ulid(number: u64) -> Ulid {
    Ulid::from_parts(number, 0)
}

/// An agent whose sandbox is ready, and its session.
struct World {
    session: session::State,
    agent: State,
    now_ms: i64,
    /// What was charged for storage, and when each piece counts.
    charges: Vec<Charge>,
    due: Option<Timestamp>,
}

impl World {
    fn new() -> Self {
        Self::with(Card::built_in().storage_rates().of(false))
    }

    /// The same, where a gigabyte kept costs this an hour.
    fn with(rate: Rate) -> Self {
        let (session, agent) = (session::State::default(), State::default());
        let mut world = Self { session, agent, now_ms: START_MS, charges: vec![], due: None };
        let free = Rate { price: Some(Price::FREE), rate_card: "1".into() };
        let compute = ComputeRates { own: free.clone(), managed: free };
        let storage = ComputeRates { own: rate.clone(), managed: rate };
        let new = NewAgent { compute, storage, ..new_agent(AgentId::from_ulid(ulid(1))) };
        let person = Person { external_id: "u".into(), new_id: UserId::from_ulid(ulid(3)) };
        let opening = session::Opening { person, limits: Limits::default(), metadata: None };
        world.ask(&session::Command::Create(opening)).unwrap();
        world.ask(&session::Command::AddAgent(Box::new(new))).unwrap();
        world.tell(&Command::Provisioned { sandbox: "here".into() }).unwrap();
        world
    }

    fn facts(&self, subject: Subject) -> Facts {
        let session = self.session.standing().cloned();
        let now = Timestamp::from_millis(self.now_ms);
        Facts { session, ..Facts::new(now, subject, OrganizationId::from_ulid(ulid(4))) }
    }

    fn ask(&mut self, command: &session::Command) -> Result<Vec<Event>, Refusal> {
        let facts = self.facts(Subject::Session(SessionId::from_ulid(ulid(2))));
        self.session.decide(command, &facts).map(|events| self.happen(events))
    }

    fn tell(&mut self, command: &Command) -> Result<Vec<Event>, Refusal> {
        let facts = self.facts(Subject::Agent(AgentId::from_ulid(ulid(1))));
        self.agent.decide(command, &facts).map(|events| self.happen(events))
    }

    fn happen(&mut self, events: Vec<Event>) -> Vec<Event> {
        for event in &events {
            self.session.evolve(event);
            self.agent.evolve(event);
            if let Event::StorageMetered(metered) = event {
                self.charges.extend(metered.booking.charges.clone());
                self.due = metered.due;
            }
        }
        events
    }

    fn sleep(&mut self, bytes: u64) {
        self.tell(&Command::Pause).unwrap();
        self.tell(&Command::Suspended { sandbox: "asleep".into(), stored_bytes: bytes }).unwrap();
    }

    fn charged(&self) -> Vec<(String, Decimal)> {
        self.charges.iter().map(|charge| (charge.at.to_string(), charge.quantity)).collect()
    }
}

#[test]
fn a_snapshot_is_charged_from_sleep_to_waking_and_each_day_by_itself() {
    let mut world = World::new();
    world.now_ms += 82_800_000;
    world.sleep(2 * GB);
    assert_eq!(world.due.unwrap().to_string(), "2025-05-02T00:00:00.000Z");
    // The server that was to measure it at midnight comes an hour late.
    world.now_ms += 7_200_000;
    world.tell(&meter()).unwrap();
    let at = |text: &str, hours: i64| (text.to_owned(), Decimal::from(hours));
    let first = [at("2025-05-01T23:59:59.999Z", 2), at("2025-05-02T01:00:00.000Z", 2)];
    assert_eq!(world.charged(), first);
    assert_eq!(world.due.unwrap().to_string(), "2025-05-03T00:00:00.000Z");
    assert_eq!(world.tell(&meter()), Ok(vec![]), "the day is not over");
    world.now_ms += 3_600_000;
    world.tell(&Command::Resume(rates())).unwrap();
    world.tell(&Command::Woken { sandbox: "here".into() }).unwrap();
    assert_eq!(world.charged()[2..], [at("2025-05-02T02:00:00.000Z", 2)]);
    assert_eq!(world.due, None);
}

#[test]
fn a_gigabyte_kept_for_a_month_costs_ten_cents() {
    let mut world = World::new();
    world.sleep(GB);
    world.now_ms += 730 * 3_600_000;
    world.tell(&Command::Terminate).unwrap();
    let cost: Decimal = world.charges.iter().map(|charge| charge.cost).sum();
    assert!((cost - Decimal::new(1, 1)).abs() < Decimal::new(1, 10), "{cost}");
    assert_eq!(world.charges.len(), 31, "a charge a day");
}

#[test]
fn a_session_that_ends_charges_what_its_agents_keep() {
    let mut world = World::new();
    world.tell(&Command::Stored { bytes: 3 * GB }).unwrap();
    assert_eq!(world.tell(&Command::Stored { bytes: 3 * GB }), Ok(vec![]), "the size is the same");
    world.now_ms += 1_800_000;
    let events = world.ask(&session::Command::Terminate).unwrap();
    let kinds: Vec<String> = events.iter().map(|event| event.write().kind).collect();
    let expected = ["compute.stopped", "storage.metered", "agent.terminated", "session.terminated"];
    assert_eq!(kinds, expected);
    assert_eq!(world.charges[0].quantity, Decimal::new(15, 1));
    assert_eq!(world.tell(&Command::Stored { bytes: 1 }), Ok(vec![]), "what has ended keeps nothing");
}

#[test]
fn a_new_card_is_that_of_what_is_kept_from_the_next_day_on() {
    let mut world = World::new();
    world.sleep(GB);
    world.now_ms += 90_000_000;
    let dearer = Card {
        storage_per_gb_month: Decimal::from(730),
        version: "2".into(),
        ..Card::clone(Card::built_in())
    };
    world.tell(&Command::MeterStorage(dearer.storage_rates())).unwrap();
    world.now_ms += 3_600_000;
    world.tell(&Command::Terminate).unwrap();
    let cards: Vec<_> = world.charges.iter().map(|charge| (&*charge.rate_card, charge.quantity)).collect();
    let built_in = &*Card::built_in().version;
    assert_eq!(cards, [(built_in, Decimal::from(24)), (built_in, Decimal::ONE), ("2", Decimal::ONE)]);
    assert_eq!(world.charges[2].cost, Decimal::ONE);
}

#[test]
fn what_is_kept_for_nothing_stays_so_under_a_new_card() {
    let mut world = World::with(Card::built_in().storage_rates().of(true));
    world.sleep(GB);
    world.now_ms += 90_000_000;
    world.tell(&meter()).unwrap();
    world.now_ms += 3_600_000;
    world.tell(&Command::Terminate).unwrap();
    assert_eq!(world.charges.iter().map(|charge| charge.cost).sum::<Decimal>(), Decimal::ZERO);
}

/// A day is over, and the card is still the same.
fn meter() -> Command {
    Command::MeterStorage(Card::built_in().storage_rates())
}

/// Compute costs nothing here.
fn rates() -> ComputeRates {
    let own = Card::built_in().compute_rates().own;
    ComputeRates { managed: own.clone(), own }
}

fn command() -> impl Strategy<Value = Command> {
    let bytes = || prop_oneof![Just(0_u64), 1..5_000_u64, 0..2_000 * GB];
    prop_oneof![
        2 => Just(Command::Pause),
        2 => Just(Command::Resume(rates())),
        3 => bytes().prop_map(|bytes| Command::Suspended { sandbox: "asleep".into(), stored_bytes: bytes }),
        3 => Just(Command::Woken { sandbox: "here".into() }),
        3 => bytes().prop_map(|bytes| Command::Stored { bytes }),
        3 => Just(meter()),
        1 => Just(Command::Fail { code: "c".into(), message: "m".into() }),
    ]
}

proptest! {
    #[test]
    fn the_gigabyte_hours_charged_are_the_bytes_kept_over_time(
        steps in prop::collection::vec((command(), prop_oneof![0..10_000_i64, 0..300_000_000_i64]), 0..60),
    ) {
        let mut world = World::new();
        // What is kept, told from the commands that were taken; in bytes times milliseconds.
        let (mut bytes, mut integral) = (0_u64, Decimal::ZERO);
        for (command, wait_ms) in steps {
            world.now_ms += wait_ms;
            integral += Decimal::from(bytes) * Decimal::from(wait_ms);
            let ready = world.agent.life().is_some_and(|life| matches!(life.sandbox, crate::agent::Sandbox::Ready(_)));
            let taken = world.tell(&command).is_ok();
            let ended = world.agent.life().is_some_and(|life| life.ending.is_some());
            match command {
                _ if ended => bytes = 0,
                Command::Suspended { stored_bytes, .. } if taken => bytes = stored_bytes,
                Command::Stored { bytes: measured } if ready => bytes = measured,
                Command::Woken { .. } if taken => bytes = 0,
                _ => {}
            }
        }
        let _ = world.tell(&Command::Terminate);
        let charged: Decimal = world.charges.iter().map(|charge| charge.quantity).sum();
        let exact = integral / Decimal::from(GB_HOUR);
        let rounding = Decimal::from(world.charges.len() + 1) * Decimal::new(1, 12);
        prop_assert!((charged - exact).abs() <= rounding, "{} charged, {} used", charged, exact);
        // Each charge is of one day, and no day has more than its hours.
        let day = |charge: &Charge| charge.at.day().start().millis();
        prop_assert!(world.charges.windows(2).all(|pair| day(&pair[0]) <= day(&pair[1])));
        prop_assert!(world.charges.iter().all(|charge| charge.quantity <= Decimal::from(24 * 2_000)));
        prop_assert_eq!(world.due, None);
    }
}
