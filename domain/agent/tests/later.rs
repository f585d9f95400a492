//! What becomes known later: of lost calls, and of usage that had no price.

use super::*;
use crate::charge::{Charge, Line};
use crate::rates::{Card, ComputeRates};

/// The world begins on the first of May: after 31 days the month is another.
const MONTH_MS: i64 = 31 * 86_400_000;

fn unpriced() -> ModelRates {
    ModelRates { rate_card: "1".into(), prices: None }
}

fn priced(cents: i64) -> ModelRates {
    let price = price(cents);
    let prices =
        ModelPrices { input: price, output: price, cache_read: price, cache_write: price, long: None };
    ModelRates { rate_card: "2".into(), prices: Some(prices) }
}

fn open_unpriced(epoch: u64, number: u64) -> Command {
    let Command::OpenCall(opening) = open(epoch, number) else { panic!("a call") };
    Command::OpenCall(Opening { rates: unpriced(), ..opening })
}

fn rate(cents: i64) -> Command {
    Command::RateUsage { model: "m".into(), rates: priced(cents) }
}

fn lose(number: u64) -> Command {
    Command::LoseCall { call_id: call_id(number), reason: "r".into(), vendor_id: None, told: None }
}

fn reconcile(number: u64, output: Option<u64>) -> Command {
    let tokens = output.map(|output| Tokens { input: 1, output, ..Tokens::default() });
    Command::ReconcileCall { call_id: call_id(number), tokens }
}

fn charges(events: &[Event]) -> &[Charge] {
    &events[0].booked().unwrap().booking.charges
}

fn spent(world: &World) -> Decimal {
    world.account().spent(CostPeriod::Session, Timestamp::from_millis(world.now_ms))
}

#[test]
fn a_lost_call_is_settled_once_by_what_its_vendor_says() {
    let mut world = World::ready(Limits::default());
    let epoch = world.running(1);
    world.tell(&open(epoch, 1)).unwrap();
    assert!(world.tell(&reconcile(1, Some(4))).is_err(), "it is under way");
    world.tell(&lose(1)).unwrap();
    assert_eq!(spent(&world), Decimal::new(20, 2));
    world.now_ms += 1_000;
    let events = world.tell(&reconcile(1, Some(4))).unwrap();
    assert_eq!(kinds(&events), ["model.call_reconciled"]);
    assert_eq!(spent(&world), Decimal::new(5, 2));
    assert_eq!(charges(&events)[0].at.millis(), world.now_ms);
    assert_eq!(events[0].task_id(), None, "what the task has cost stays what its output says");
    for again in [reconcile(1, Some(4)), reconcile(1, None), reconcile(2, None)] {
        assert!(matches!(world.tell(&again), Err(Refusal::Conflict(_))), "{again:?}");
    }
}

#[test]
fn of_a_call_that_broke_off_the_prompt_is_what_its_vendor_told_and_the_output_the_most() {
    // In cents, which is what a token costs; at worst there are 10 of input and 10 of output.
    for (input, output, cache_read, cost) in [(4, 2, 0, 14), (1, 0, 3, 14), (0, 7, 0, 20), (30, 12, 0, 42)] {
        let mut world = World::ready(Limits::default());
        let epoch = world.running(1);
        world.tell(&open(epoch, 1)).unwrap();
        let Command::LoseCall { call_id, reason, vendor_id, .. } = lose(1) else { panic!("a lost call") };
        let told = Some(Tokens { input, output, cache_read, ..Tokens::default() });
        world.tell(&Command::LoseCall { call_id, reason, vendor_id, told }).unwrap();
        assert_eq!(spent(&world), Decimal::new(cost, 2), "{told:?}");
        world.tell(&reconcile(1, Some(4))).unwrap();
        assert_eq!(spent(&world), Decimal::new(5, 2));
    }
}

#[test]
fn an_answer_that_comes_after_its_call_was_given_up_settles_what_it_used() {
    for given_up in
        [vec![Command::Terminate, Command::CloseCall], vec![Command::Claim { task_id: task_id(1) }]]
    {
        let mut world = World::ready(Limits::default());
        let epoch = world.running(1);
        world.tell(&open(epoch, 1)).unwrap();
        for command in &given_up {
            world.tell(command).unwrap();
        }
        assert_eq!(spent(&world), Decimal::new(20, 2), "its worst case");
        let Command::SettleCall(answer) = settle(1, 4, true) else { panic!("an answer") };
        let silent = Command::SettleCall(Answer { tokens: None, ..answer });
        assert!(matches!(world.tell(&silent), Err(Refusal::Conflict(_))));
        let events = world.tell(&settle(1, 4, true)).unwrap();
        assert_eq!(kinds(&events), ["model.call_reconciled"]);
        assert_eq!(spent(&world), Decimal::new(5, 2));
        assert!(matches!(world.tell(&settle(1, 4, true)), Err(Refusal::Conflict(_))), "once");
    }
}

#[test]
fn a_lost_call_that_was_not_billed_is_no_longer_counted() {
    let mut world = World::ready(Limits::default());
    let epoch = world.running(1);
    world.tell(&open(epoch, 1)).unwrap();
    world.tell(&lose(1)).unwrap();
    world.tell(&Command::Terminate).unwrap();
    let events = world.tell(&reconcile(1, None)).unwrap();
    assert_eq!((charges(&events).len(), spent(&world)), (0, Decimal::ZERO));
}

#[test]
fn an_answer_that_does_not_say_what_it_used_is_reconciled_too() {
    let mut world = World::ready(Limits::default());
    let epoch = world.running(1);
    world.tell(&open(epoch, 1)).unwrap();
    let Command::SettleCall(answer) = settle(1, 0, true) else { panic!("an answer") };
    world.tell(&Command::SettleCall(Answer { tokens: None, ..answer })).unwrap();
    assert_eq!(spent(&world), Decimal::new(20, 2));
    world.tell(&reconcile(1, Some(1))).unwrap();
    assert_eq!(spent(&world), Decimal::new(2, 2));
}

#[test]
fn a_lost_call_that_was_dearer_than_its_worst_case_takes_the_session_past_its_limit() {
    let mut world = World::ready(max_cost(640));
    let epoch = world.running(1);
    world.tell(&open(epoch, 1)).unwrap();
    world.tell(&lose(1)).unwrap();
    world.tell(&Command::Pause).unwrap();
    let events = world.tell(&reconcile(1, Some(700))).unwrap();
    assert_eq!(kinds(&events), ["model.call_reconciled"]);
    assert_eq!(spent(&world), Decimal::new(701, 2));
    let resumed = world.tell(&Command::Resume(compute_rates())).unwrap();
    assert_eq!(kinds(&resumed), ["limit.refused"]);
}

#[test]
fn usage_without_a_price_is_charged_once_when_there_is_one() {
    let mut world = World::ready(Limits::default());
    let epoch = world.running(1);
    for number in [1, 2] {
        world.tell(&open_unpriced(epoch, number)).unwrap();
        world.tell(&settle(number, 4, false)).unwrap();
        world.now_ms += 1_000;
    }
    assert_eq!(spent(&world), Decimal::ZERO);
    let second_ms = world.now_ms - 1_000;
    world.now_ms += 7_200_000;
    let events = world.tell(&rate(1)).unwrap();
    assert_eq!(kinds(&events), ["usage.rated"]);
    // Two calls of 1 + 4 tokens at a cent each, in their own time.
    let told: Vec<_> =
        charges(&events).iter().map(|charge| (charge.at.millis(), charge.quantity, charge.line)).collect();
    let of_call = |used_ms: i64| {
        let used_at = Timestamp::from_millis(used_ms);
        let (input, output) = (Line::Rating { used_at, calls: 1 }, Line::Rating { used_at, calls: 0 });
        [(used_ms, Decimal::ONE, input), (used_ms, Decimal::from(4), output)]
    };
    assert_eq!(told, [of_call(second_ms - 1_000), of_call(second_ms)].concat());
    assert_eq!(spent(&world), Decimal::new(10, 2));
    assert_eq!(events[0].task_id(), None);
    assert_eq!(world.tell(&rate(1)), Ok(vec![]));
    let other = Command::RateUsage { model: "m".into(), rates: unpriced() };
    assert!(matches!(world.tell(&other), Err(Refusal::Conflict(_))));
}

#[test]
fn calls_within_a_second_are_rated_together() {
    let mut world = World::ready(Limits::default());
    world.now_ms = (world.now_ms / 1_000 + 1) * 1_000;
    let epoch = world.running(1);
    for number in [1, 2, 3] {
        world.tell(&open_unpriced(epoch, number)).unwrap();
        world.tell(&settle(number, 4, false)).unwrap();
        world.now_ms += 499;
    }
    let events = world.tell(&rate(1)).unwrap();
    let calls: Vec<_> = charges(&events).iter().map(|charge| (charge.quantity, charge.line)).collect();
    let used_at = Timestamp::from_millis(world.now_ms - 499);
    assert_eq!(
        calls,
        [3, 12].map(|tokens| (
            Decimal::from(tokens),
            Line::Rating { used_at, calls: if tokens == 3 { 3 } else { 0 } }
        ))
    );
}

/// A cent for each token of input, and two where there are more than 40,000.
fn priced_by_length() -> ModelRates {
    let ModelRates { rate_card, prices } = priced(1);
    let long = LongPrices {
        over_tokens: 40_000,
        input: price(2),
        output: price(1),
        cache_read: price(1),
        cache_write: price(1),
    };
    ModelRates { rate_card, prices: prices.map(|prices| ModelPrices { long: Some(long), ..prices }) }
}

#[test]
fn a_long_prompt_is_rated_at_its_own_prices_whatever_it_was_used_beside() {
    let mut world = World::ready(Limits::default());
    let epoch = world.running(1);
    for (number, input) in [(1, 30_000), (2, 50_000), (3, 30_000), (4, 50_001)] {
        world.tell(&open_unpriced(epoch, number)).unwrap();
        let Command::SettleCall(answer) = settle(number, 0, false) else { panic!("an answer") };
        let tokens = Some(Tokens { input, ..Tokens::default() });
        world.tell(&Command::SettleCall(Answer { tokens, ..answer })).unwrap();
    }
    let events = world.tell(&Command::RateUsage { model: "m".into(), rates: priced_by_length() }).unwrap();
    let rated: Vec<_> = charges(&events).iter().map(|charge| (charge.quantity, charge.cost)).collect();
    let expected = [(50_000, 100_000), (60_000, 60_000), (50_001, 100_002)];
    assert_eq!(rated, expected.map(|(tokens, cents)| (Decimal::from(tokens), Decimal::new(cents, 2))));
    assert_eq!(world.tell(&Command::RateUsage { model: "m".into(), rates: priced(1) }), Ok(vec![]));
}

#[test]
fn usage_of_one_moment_is_rated_by_one_event_however_much_there_is() {
    let mut world = World::ready(Limits::default());
    let epoch = world.running(1);
    let many = u64::try_from(RATED_AT_ONCE).unwrap() + 20;
    for number in 1..=many {
        world.tell(&open_unpriced(epoch, number)).unwrap();
        let Command::SettleCall(answer) = settle(number, 0, false) else { panic!("an answer") };
        let tokens = Some(Tokens { input: 50_000, ..Tokens::default() });
        world.tell(&Command::SettleCall(Answer { tokens, ..answer })).unwrap();
    }
    assert_eq!(charges(&world.tell(&rate(1)).unwrap()).len() as u64, many);
    assert_eq!(world.tell(&rate(1)), Ok(vec![]));
}

#[test]
fn usage_that_an_older_event_has_rated_by_the_hour_is_not_rated_again() {
    let mut world = World::ready(Limits::default());
    let epoch = world.running(1);
    world.now_ms = (world.now_ms / 3_600_000 + 1) * 3_600_000;
    let begun = world.now_ms;
    for (number, ms) in [(1, 60_000), (2, 1_800_000), (3, 3_600_000)] {
        world.now_ms = begun + ms;
        world.tell(&open_unpriced(epoch, number)).unwrap();
        world.tell(&settle(number, 4, false)).unwrap();
    }
    // All of the first hour at once, at the time of the newest.
    let mut clone = world.agent.clone();
    let Event::UsageRated(rated) =
        &clone.decide(&rate(1), &world.facts(Subject::Agent(agent_id()))).unwrap()[0]
    else {
        panic!()
    };
    let newest = Timestamp::from_millis(begun + 1_800_000);
    let mut rated = rated.clone();
    rated
        .booking
        .charges
        .retain(|charge| matches!(charge.line, Line::Rating { used_at, .. } if used_at == newest));
    clone.evolve(&Event::UsageRated(rated));
    world.agent = clone;
    let left = world.tell(&rate(1)).unwrap();
    let third = Timestamp::from_millis(begun + 3_600_000);
    assert!(
        charges(&left)
            .iter()
            .all(|charge| matches!(charge.line, Line::Rating { used_at, .. } if used_at == third))
    );
    assert_eq!(charges(&left).len(), 2);
}

#[test]
fn usage_of_a_month_that_is_closed_is_charged_in_the_open_one() {
    let mut world = World::ready(Limits::default());
    let epoch = world.running(1);
    world.tell(&open_unpriced(epoch, 1)).unwrap();
    world.tell(&settle(1, 4, true)).unwrap();
    let used_at = Timestamp::from_millis(world.now_ms);
    world.now_ms += MONTH_MS;
    let events = world.tell(&rate(1)).unwrap();
    for (charge, calls) in charges(&events).iter().zip([1, 0]) {
        assert_eq!(charge.at.millis(), world.now_ms);
        assert_eq!(charge.line, Line::Rating { used_at, calls });
    }
}

#[test]
fn much_usage_is_rated_in_parts_and_the_last_says_so() {
    let mut world = World::ready(Limits::default());
    let epoch = world.running(1);
    for number in 1..=150 {
        world.tell(&open_unpriced(epoch, number)).unwrap();
        world.tell(&settle(number, 1, false)).unwrap();
        world.now_ms += 3_600_000;
    }
    let mut parts = vec![];
    loop {
        let events = world.tell(&rate(1)).unwrap();
        let Some(Event::UsageRated(rated)) = events.first() else { break };
        parts.push((rated.booking.charges.len() / 2, rated.left));
    }
    assert_eq!(parts, [(RATED_AT_ONCE, 50), (50, 0)]);
    assert_eq!(spent(&world), Decimal::new(300, 2));
}

#[test]
fn a_new_rate_is_that_of_the_pieces_that_begin_under_it() {
    let mut world = World::ready(Limits::default());
    let managed =
        Rate { price: Some(Price { amount: Decimal::from(12), per: 60_000 }), rate_card: "2".into() };
    let rates = ComputeRates { managed: managed.clone(), ..Card::built_in().compute_rates() };
    let tick = session::Command::TickCompute(agent_id(), rates.clone());
    let cost = |events: Vec<Event>| {
        let charges = events[0].booked().unwrap().booking.charges.clone();
        charges.iter().map(|charge| (charge.cost, charge.rate_card.clone())).collect::<Vec<_>>()
    };
    world.now_ms += 30_000;
    // Held at 6 dollars a minute, so charged at that; the next piece is held at 12.
    assert_eq!(cost(world.ask(&tick).unwrap()), [(Decimal::from(3), "1".to_owned())]);
    assert_eq!(world.account().reserved(), Decimal::from(12));
    world.now_ms += 15_000;
    assert_eq!(cost(world.ask(&tick).unwrap()), [(Decimal::from(3), "2".to_owned())]);
    // A paused agent goes on at the rate that is in force then.
    world.tell(&Command::Pause).unwrap();
    let managed =
        Rate { price: Some(Price { amount: Decimal::from(18), per: 60_000 }), rate_card: "3".into() };
    let rates = ComputeRates { managed, ..rates };
    world.tell(&Command::Suspended { sandbox: "asleep".into(), stored_bytes: 0 }).unwrap();
    world.tell(&Command::Resume(rates)).unwrap();
    assert_eq!(world.account().reserved(), Decimal::from(18));
    world.tell(&Command::Woken { sandbox: "awake".into() }).unwrap();
    world.now_ms += 10_000;
    let events = world.tell(&Command::Pause).unwrap();
    assert_eq!(cost(events[1..].to_vec()), [(Decimal::from(3), "3".to_owned())]);
}

#[test]
fn what_is_held_for_a_sandbox_that_is_not_ready_is_still_held_after_a_pause_was_taken_back() {
    let mut world = World::unready(Limits::default());
    world.ask(&session::Command::Pause).unwrap();
    world.ask(&session::Command::Resume(Card::built_in().compute_rates())).unwrap();
    assert_eq!(world.account().reserved(), Decimal::from(6));
    world.tell(&Command::Terminate).unwrap();
    assert_eq!(world.account().reserved(), Decimal::ZERO);
}

proptest! {
    #[test]
    fn usage_is_charged_exactly_once_whenever_it_becomes_known(
        steps in prop::collection::vec((0..6_u8, 0..30_u64, 0..4_000_000_i64), 1..60),
    ) {
        let mut world = World::ready(Limits::default());
        let epoch = world.running(1);
        // Unrated tokens, and calls that are unconfirmed.
        let (mut rated, mut unrated, mut unknown) = (0_u64, 0_u64, vec![]);
        for (number, (step, output, wait_ms)) in (1..).zip(steps) {
            world.now_ms += wait_ms;
            match step {
                0 | 1 => {
                    world.tell(&open_unpriced(epoch, number)).unwrap();
                    world.tell(&settle(number, output, false)).unwrap();
                    unrated += 1 + output;
                }
                2 => {
                    world.tell(&open_unpriced(epoch, number)).unwrap();
                    world.tell(&lose(number)).unwrap();
                    unknown.push(number);
                }
                3 => if let Some(known) = unknown.pop() {
                    world.tell(&reconcile(known, Some(output))).unwrap();
                    unrated += 1 + output;
                    prop_assert!(world.tell(&reconcile(known, None)).is_err());
                },
                4 => if let Some(known) = unknown.pop() {
                    world.tell(&reconcile(known, None)).unwrap();
                },
                _ => {
                    let events = world.tell(&rate(1)).unwrap();
                    prop_assert_eq!(events.is_empty(), unrated == 0);
                    rated += std::mem::take(&mut unrated);
                }
            }
            prop_assert_eq!(spent(&world), Decimal::from(rated) / Decimal::ONE_HUNDRED);
        }
        let all = |of: fn(&Charge) -> Decimal| -> Decimal {
            let booked = world.log.iter().filter_map(Event::booked);
            booked.flat_map(|booked| booked.booking.charges.iter().map(of)).sum()
        };
        prop_assert_eq!(all(|charge| charge.cost), Decimal::from(rated) / Decimal::ONE_HUNDRED);
        // What was taken off the unrated usage is what was counted as such.
        let left = all(|charge| match charge.line {
            Line::Usage if charge.is_unrated() => charge.quantity,
            Line::Rating { .. } => -charge.quantity,
            _ => Decimal::ZERO,
        });
        prop_assert_eq!(left, Decimal::from(unrated));
        let mut agent = State::default();
        for event in &world.log {
            agent.evolve(event);
        }
        prop_assert_eq!(&agent, &world.agent);
        let written = serde_json::to_string(&agent).unwrap();
        prop_assert_eq!(serde_json::from_str::<State>(&written).unwrap(), agent);
    }
}
