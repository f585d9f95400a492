use proptest::prelude::*;
use ulid::Ulid;

use super::*;
use crate::charge::{Charge, Price, Rate, Unit};
use crate::id::{AgentId, ContentId, OrganizationId, SessionId, UserId};
use crate::money::Currency;
use crate::session::{self, CostLimit, CostPeriod, Limits};
use crate::time::Timestamp;
use crate::{Aggregate, Facts, Refusal, Subject};

const NOW_MS: i64 = 1_746_057_600_000;

fn place() -> Place {
    let ulid = |number| Ulid::from_parts(1, number);
    Place {
        agent_id: AgentId::from_ulid(ulid(1)),
        session_id: SessionId::from_ulid(ulid(2)),
        user_id: UserId::from_ulid(ulid(3)),
        organization_id: OrganizationId::from_ulid(ulid(4)),
    }
}

fn facts() -> Facts {
    Facts::new(Timestamp::from_millis(NOW_MS), Subject::Billing, place().organization_id)
}

fn reason() -> ContentRef {
    ContentRef { content_id: ContentId::from_ulid(Ulid::from_parts(1, 9)), sha256: String::new() }
}

/// So many minutes of compute at a cent each, a day ago.
fn charge(minutes: i64) -> Charge {
    let at = Timestamp::from_millis(NOW_MS - 86_400_000);
    let price = Some(Price { amount: Decimal::new(1, 2), per: 60_000 });
    let used = (Decimal::from(minutes * 60_000), Unit::Millisecond);
    Charge::new(at, Category::Compute, used, &Rate { price, rate_card: "1".into() })
}

fn adjust(position: i64, charge: Charge, amount: Decimal) -> Command {
    let charge_id = ChargeId { position, index: 0 };
    let (place, model) = (place(), None);
    let adjusting = Adjusting { charge_id, charge, place, task_id: None, model, amount, reason: reason() };
    Command::Adjust(Box::new(adjusting))
}

fn cents(cents: i64) -> Decimal {
    Decimal::new(cents, 2)
}

#[test]
fn a_correction_is_a_charge_of_its_own_at_its_own_time() {
    let events = State::default().decide(&adjust(7, charge(5), cents(-2)), &facts()).unwrap();
    let [Event::BillingAdjusted(adjusted)] = &events[..] else { panic!("{events:?}") };
    let [correction] = &adjusted.booking.charges[..] else { panic!("{adjusted:?}") };
    assert_eq!((correction.cost, correction.quantity), (cents(-2), Decimal::ZERO));
    assert_eq!((correction.at.millis(), correction.category), (NOW_MS, Category::Compute));
    let corrects = ChargeId { position: 7, index: 0 };
    assert_eq!(correction.line, Line::Adjustment { corrects });
    let subjects = events[0].subjects();
    let Place { agent_id, session_id, user_id, organization_id } = place();
    for subject in [
        Subject::Billing,
        Subject::Agent(agent_id),
        Subject::Session(session_id),
        Subject::User(user_id),
        Subject::Organization(organization_id),
    ] {
        assert_eq!(subjects.iter().filter(|about| **about == subject).count(), 1, "{subject}");
    }
}

#[test]
fn a_charge_cannot_be_corrected_to_below_zero_and_the_refusal_says_what_is_left() {
    let mut state = State::default();
    for event in state.decide(&adjust(7, charge(5), cents(-3)), &facts()).unwrap() {
        state.evolve(&event);
    }
    let refused = state.decide(&adjust(7, charge(5), Decimal::new(-200_000_000_001, 13)), &facts());
    let left = "7.0 cannot be corrected to below zero: 0.02 is left of it";
    assert_eq!(refused, Err(Refusal::Conflict(left.into())));
    assert!(
        state.decide(&adjust(8, charge(5), cents(-3)), &facts()).is_ok(),
        "another charge has its own sum"
    );
    assert!(state.decide(&adjust(7, charge(5), cents(-2)), &facts()).is_ok());
}

#[test]
fn a_correction_is_not_corrected() {
    let corrects = ChargeId { position: 7, index: 0 };
    let correction = Charge { line: Line::Adjustment { corrects }, ..charge(5) };
    let refused = State::default().decide(&adjust(9, correction, cents(1)), &facts());
    assert!(matches!(refused, Err(Refusal::Conflict(_))), "{refused:?}");
    let (used_at, calls) = (Timestamp::from_millis(NOW_MS), 1);
    let rating = Charge { line: Line::Rating { used_at, calls }, ..charge(5) };
    assert!(State::default().decide(&adjust(9, rating, cents(1)), &facts()).is_ok());
}

#[test]
fn a_correction_that_takes_a_session_past_its_limit_says_so() {
    let max_cost = CostLimit { amount: 10, currency: Currency::Usd, period: CostPeriod::Session };
    let limits = Limits { max_cost: Some(max_cost), ..Limits::default() };
    let account = crate::account::Account::default();
    let status = session::Status::Terminated;
    let standing = session::Standing { status, limits, account, compute_ms: 0, compute_held_ms: 0 };
    let facts = Facts { session: Some(standing), ..facts() };
    let kinds = |amount| {
        let command = crate::Command::Billing(adjust(7, charge(5), amount));
        let events = crate::AggregateState::empty(Subject::Billing).decide(&command, &facts).unwrap();
        events.iter().map(|event| event.write().kind).collect::<Vec<_>>()
    };
    assert_eq!(kinds(cents(11)), ["billing.adjusted", "session.limit_overrun"]);
    assert_eq!(kinds(cents(9)), ["billing.adjusted"]);
    assert_eq!(kinds(cents(-5)), ["billing.adjusted"]);
}

proptest! {
    #[test]
    fn a_charge_and_its_corrections_are_never_below_zero(
        steps in prop::collection::vec((0..4_i64, -700..700_i64), 0..60),
    ) {
        let (mut state, mut sums) = (State::default(), [cents(0), cents(1), cents(2), cents(3)]);
        for (which, amount) in steps {
            let index = usize::try_from(which).unwrap();
            let amount = Decimal::new(amount, 4);
            let decided = state.decide(&adjust(which + 1, charge(which), amount), &facts());
            prop_assert_eq!(decided.is_ok(), sums[index] + amount >= Decimal::ZERO);
            for event in decided.unwrap_or_default() {
                state.evolve(&event);
                sums[index] += amount;
            }
            let id = ChargeId { position: which + 1, index: 0 };
            prop_assert_eq!(charge(which).cost + state.corrected(id), sums[index]);
        }
        let written = serde_json::to_string(&state).unwrap();
        prop_assert_eq!(serde_json::from_str::<State>(&written).unwrap(), state);
    }
}

fn import(card: Card) -> Command {
    let sha256 = serde_json::to_string(&card).unwrap();
    Command::ImportRates { card: Box::new(card), sha256 }
}

fn card(version: &str) -> Card {
    Card { version: version.into(), ..(**Card::built_in()).clone() }
}

#[test]
fn a_card_is_imported_once_and_applies_from_no_time_that_has_passed() {
    let at = |millis| Some(Timestamp::from_millis(millis));
    let mut state = State::default();
    let events = state.decide(&import(card("mine")), &facts()).unwrap();
    let [Event::RatesImported(imported)] = &events[..] else { panic!("{events:?}") };
    assert_eq!((imported.effective_from.millis(), &imported.card), (NOW_MS, &card("mine")));
    assert_eq!(events[0].subjects(), [Subject::Billing]);
    assert!(events[0].booked().is_none());
    state.evolve(&events[0]);
    assert_eq!(state.decide(&import(card("mine")), &facts()), Ok(vec![]));
    let other = Card { compute_per_minute: Decimal::ONE, ..card("mine") };
    let late = Card { effective_from: at(NOW_MS - 1), ..card("late") };
    let own = Card { markup_percent: Decimal::ZERO, ..card(&Card::built_in().version) };
    let unusable = Card { markup_percent: Decimal::NEGATIVE_ONE, ..card("bad") };
    for wrong in [other, late, own, unusable] {
        let refused = state.decide(&import(wrong), &facts());
        assert!(matches!(refused, Err(Refusal::Conflict(_))), "{refused:?}");
    }
    let own = card(&Card::built_in().version);
    assert_eq!(state.decide(&import(own), &facts()).unwrap().len(), 1, "as it is, it can be");
    let next = Card { effective_from: at(NOW_MS + 1), ..card("next") };
    assert_eq!(state.decide(&import(next), &facts()).unwrap().len(), 1);
}
