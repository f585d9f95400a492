//! What budgets do, case by case.

use super::*;

#[test]
fn a_budget_is_set_once_and_removed_once() {
    let mut world = World::new();
    for of in [None, Some(0)] {
        assert_eq!(kinds(&world.budget(of, Some(budget(500, CostPeriod::Day)))), ["budget.set"]);
        assert_eq!(world.budget(of, Some(budget(500, CostPeriod::Day))), []);
        assert_eq!(kinds(&world.budget(of, None)), ["budget.removed"]);
        assert_eq!(world.budget(of, None), []);
    }
}

#[test]
fn work_of_all_sessions_of_a_user_must_fit_the_users_budget() {
    let mut world = World::new();
    // Two sessions of the user hold a minute of ten cents each; a call holds twenty.
    world.budget(Some(0), Some(budget(45, CostPeriod::Day)));
    world.run(0).unwrap();
    world.run(1).unwrap();
    assert_eq!(kinds(&world.open(0, 1).unwrap()), ["model.call_opened"]);
    let refused = world.open(1, 1).unwrap();
    assert_eq!(kinds(&refused), ["agent.limit_reached", "agent.paused", "compute.stopped"]);
    let Event::AgentLimitReached(reached) = &refused[0] else { panic!("{refused:?}") };
    assert_eq!(reached.excess.limit, LimitName::UserBudget);
    assert_eq!(reached.excess.reserved, Decimal::new(40, 2));
    assert_eq!(reached.excess.resets_at.unwrap().to_string(), "2025-06-01T00:00:00.000Z");
    // Another user's work goes on.
    world.run(2).unwrap();
    assert_eq!(kinds(&world.open(2, 1).unwrap()), ["model.call_opened"]);
    // Raising the budget lets a resume go on.
    world.budget(Some(0), Some(budget(1_000, CostPeriod::Day)));
    assert_eq!(kinds(&world.tell(1, agent::Command::Resume(rates())).unwrap())[0], "agent.resumed");
}

#[test]
fn the_organizations_budget_refuses_new_agents_runs_and_programs() {
    let mut world = World::new();
    world.budget(None, Some(budget(30, CostPeriod::Month)));
    let exec = agent::Command::StartExec {
        exec_id: crate::id::ExecId::from_ulid(ulid(1)),
        language: "bash".into(),
        code: content(),
    };
    let run = agent::Command::Run { task_id: task_id(0), task: content(), model: agent::ModelCost::Priced };
    let refusals = [world.add_agent(4), world.tell(0, run), world.tell(0, exec)].map(Result::unwrap);
    for (events, work) in refusals.iter().zip(["agent", "run", "exec"]) {
        let [event @ Event::LimitRefused(refused)] = &events[..] else { panic!("{events:?}") };
        assert_eq!((refused.work.as_str(), refused.excess.limit), (work, LimitName::OrganizationBudget));
        assert!(event.subjects().contains(&Subject::Organization(organization_id())));
    }
    // A budget that only tells refuses nothing.
    world.budget(None, Some(Budget { action: Action::Notify, ..budget(30, CostPeriod::Month) }));
    assert_eq!(kinds(&world.run(0).unwrap()), ["task.created"]);
}

#[test]
fn a_budget_tells_the_thresholds_that_it_has_reached_as_it_begins() {
    let mut world = World::new();
    world.run(0).unwrap();
    world.open(0, 1).unwrap();
    world.settle(0, world.calls, 60).unwrap();
    let mut set = |number: Option<u64>, cents| {
        let notify = Budget { action: Action::Notify, ..budget(cents, CostPeriod::Day) };
        crossed(&world.budget(number, Some(notify)))
    };
    assert_eq!(set(Some(0), 100), [(Scope::User, 50)]);
    assert_eq!(set(Some(0), 100), []);
    // What the one before has told is not told again, unless it was not reached in between.
    assert_eq!(set(Some(0), 70), [(Scope::User, 80)]);
    assert_eq!(set(Some(0), 1_000), []);
    assert_eq!(set(Some(0), 60), [50, 80, 100].map(|threshold| (Scope::User, threshold)));
    assert_eq!(set(Some(1), 60), []);
    assert_eq!(set(None, 75), [50, 80].map(|threshold| (Scope::Organization, threshold)));
    // A day and a month can begin at the same moment; each has its own thresholds.
    let of_month = Budget { action: Action::Notify, ..budget(100, CostPeriod::Month) };
    assert_eq!(crossed(&world.budget(Some(0), Some(of_month))), [(Scope::User, 50)]);
}

fn crossed(events: &[Event]) -> Vec<(Scope, u16)> {
    let told = |event: &Event| match event {
        Event::BudgetThresholdCrossed(crossed) => Some((crossed.scope, crossed.threshold)),
        _ => None,
    };
    events.iter().filter_map(told).collect()
}

#[test]
fn a_threshold_is_told_once_a_period_with_the_charge_that_crosses_it() {
    let mut world = World::new();
    world.budget(Some(0), Some(Budget { action: Action::Notify, ..budget(100, CostPeriod::Day) }));
    world.run(0).unwrap();
    for (cents, expected) in [(49, &[][..]), (1, &[50]), (10, &[]), (60, &[80, 100]), (90, &[])] {
        world.open(0, 1).unwrap();
        let events = world.settle(0, world.calls, cents).unwrap();
        let expected: Vec<_> = expected.iter().map(|threshold| (Scope::User, *threshold)).collect();
        assert_eq!(crossed(&events), expected, "{cents}");
    }
    // A day later they are told again.
    world.now_ms += 86_400_000;
    world.open(0, 1).unwrap();
    let events = world.settle(0, world.calls, 55).unwrap();
    assert_eq!(crossed(&events), [(Scope::User, 50)]);
    // A greater budget tells again what it has not reached yet.
    world.budget(Some(0), Some(Budget { action: Action::Notify, ..budget(200, CostPeriod::Day) }));
    world.open(0, 1).unwrap();
    let events = world.settle(0, world.calls, 50).unwrap();
    assert_eq!(crossed(&events), [(Scope::User, 50)]);
}

#[test]
fn what_is_dearer_than_its_worst_case_is_booked_in_full_told_and_blocks_new_work() {
    let mut world = World::new();
    world.budget(None, Some(budget(60, CostPeriod::Day)));
    world.run(0).unwrap();
    world.open(0, 1).unwrap();
    let events = world.settle(0, 1, 99).unwrap();
    let expected = ["model.call_settled", "budget.overrun", "budget.threshold_crossed"];
    assert_eq!(kinds(&events)[..3], expected);
    let Event::BudgetOverrun(overrun) = &events[1] else { panic!("{events:?}") };
    assert_eq!((overrun.excess.spent, overrun.excess.allowed), (Decimal::new(99, 2), Decimal::new(60, 2)));
    assert_eq!(kinds(&world.add_agent(5).unwrap()), ["limit.refused"]);
    // At midnight the day is over. What is held counts in the next one too.
    world.now_ms = START_MS + 120_000;
    assert_eq!(kinds(&world.add_agent(5).unwrap()), ["agent.created"]);
}

#[test]
fn compute_past_its_limit_is_charged_in_full_and_told_once() {
    let mut world = World::new();
    let limits = LimitsPatch { max_compute_minutes: Some(Some(1)), ..LimitsPatch::default() };
    world.session(0, session::Command::ChangeLimits(limits)).unwrap();
    world.run(0).unwrap();
    world.open(0, 1).unwrap();
    let tick = || session::Command::TickCompute(agent_id(0), rates());
    world.now_ms += 45_000;
    assert_eq!(kinds(&world.session(0, tick()).unwrap()), ["compute.ticked"]);
    // It is measured when the last piece is over, and again for as long as the call is under way.
    world.now_ms += 15_006;
    let events = world.session(0, tick()).unwrap();
    let at_the_limit = ["agent.limit_reached", "compute.ticked", "session.paused", "agent.pause_requested"];
    assert_eq!(kinds(&events)[..4], at_the_limit);
    let [Event::SessionLimitOverrun(overrun)] = &events[4..] else { panic!("{events:?}") };
    let expected = Excess {
        limit: LimitName::MaxComputeMinutes,
        period: None,
        allowed: Decimal::ONE,
        spent: Decimal::new(10_001, 4),
        reserved: Decimal::ZERO,
        requested: Decimal::ZERO,
        resets_at: None,
    };
    assert_eq!(overrun.excess, expected);
    world.now_ms += 45_000;
    assert_eq!(kinds(&world.session(0, tick()).unwrap()), ["compute.ticked"]);
    let events = world.settle(0, 1, 1).unwrap();
    assert_eq!(kinds(&events)[..2], ["model.call_settled", "agent.paused"]);
    assert!(kinds(&events).iter().all(|kind| kind != "session.limit_overrun"), "{events:?}");
}

#[test]
fn an_open_reservation_counts_in_every_period_that_it_touches() {
    let mut world = World::new();
    world.budget(None, Some(budget(55, CostPeriod::Day)));
    world.run(0).unwrap();
    world.open(0, 1).unwrap();
    world.run(1).unwrap();
    world.now_ms = START_MS + 121_000;
    // Thirty cents of compute and twenty of the call are held across midnight.
    let refused = world.open(1, 1).unwrap();
    let Event::AgentLimitReached(reached) = &refused[0] else { panic!("{refused:?}") };
    assert_eq!((reached.excess.spent, reached.excess.reserved), (Decimal::ZERO, Decimal::new(50, 2)));
}

#[test]
fn a_piece_of_compute_that_spans_midnight_counts_on_both_days() {
    let mut world = World::new();
    world.budget(Some(0), Some(Budget { action: Action::Notify, ..budget(10, CostPeriod::Day) }));
    world.now_ms = START_MS + 90_000;
    for number in [0, 1] {
        world.session(number, session::Command::TickCompute(agent_id(number), rates())).unwrap();
    }
    world.now_ms = START_MS + 140_000;
    // The account of the other session has moved on to the new day before.
    world.session(1, session::Command::TickCompute(agent_id(1), rates())).unwrap();
    world.session(0, session::Command::TickCompute(agent_id(0), rates())).unwrap();
    for (millis, period) in [
        (START_MS + 100_000, CostPeriod::Day),
        (START_MS + 130_000, CostPeriod::Day),
        (START_MS + 100_000, CostPeriod::Month),
        (START_MS + 130_000, CostPeriod::Month),
    ] {
        let at = Timestamp::from_millis(millis);
        let AggregateState::User(user) = world.state(Subject::User(person(0).new_id)) else { panic!() };
        let spent = user.purse().account.spent(period, at);
        let later = period_start(period, Timestamp::from_millis(START_MS + 130_000)).start();
        let (all, _) = world.told(Subject::User(person(0).new_id), CostPeriod::Session, at, world.log.len());
        let (new, _) = world.told(Subject::User(person(0).new_id), period, later, world.log.len());
        assert_eq!(spent, if at >= later { new } else { all - new }, "{period:?} {at}");
    }
}

#[test]
fn a_pause_that_is_taken_back_before_the_sandbox_is_made_loses_nothing_that_is_held() {
    let mut world = World::new();
    world.add_agent(3).unwrap();
    let held = |world: &World| {
        world.told(Subject::Session(session_id(0)), CostPeriod::Session, world.now(), world.log.len()).1
    };
    for command in [session::Command::Pause, session::Command::Resume(rates())] {
        world.session(0, command).unwrap();
    }
    assert_eq!(held(&world), Decimal::new(20, 2));
    world.tell(3, agent::Command::Provisioned { sandbox: "here".into() }).unwrap();
    world.session(0, session::Command::Terminate).unwrap();
    assert_eq!(held(&world), Decimal::ZERO);
}

#[test]
fn an_agent_that_pauses_before_it_was_woken_holds_nothing() {
    let mut world = World::new();
    world.tell(0, agent::Command::Pause).unwrap();
    world.tell(0, agent::Command::Suspended { sandbox: "asleep".into(), stored_bytes: 1 }).unwrap();
    for _ in 0..2 {
        world.tell(0, agent::Command::Resume(rates())).unwrap();
        let events = world.tell(0, agent::Command::Pause).unwrap();
        assert_eq!(kinds(&events), ["agent.pause_requested"]);
        let events = world.tell(0, agent::Command::Woken { sandbox: "awake".into() }).unwrap();
        assert_eq!(kinds(&events)[2..], ["agent.paused", "compute.stopped"]);
        world.tell(0, agent::Command::Suspended { sandbox: "asleep".into(), stored_bytes: 1 }).unwrap();
        let (_, held) =
            world.told(Subject::Session(session_id(0)), CostPeriod::Session, world.now(), world.log.len());
        assert_eq!(held, Decimal::ZERO);
    }
}
