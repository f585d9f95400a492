//! A sandbox on its way: made, suspended or woken, with what waits for that.

use super::*;

fn suspended() -> Command {
    Command::Suspended { sandbox: "asleep".into(), stored_bytes: 1 }
}

fn woken() -> Command {
    Command::Woken { sandbox: "awake".into() }
}

fn exec(number: u64) -> Command {
    Command::StartExec { exec_id: ExecId::from_ulid(ulid(number)), language: "bash".into(), code: content() }
}

/// What a worker or a caller could begin.
fn beginnings(epoch: u64) -> [Command; 4] {
    [Command::Claim { task_id: task_id(1) }, open(epoch, 1), start_tool(epoch, 1), exec(1)]
}

fn nothing_begins(world: &mut World, epoch: u64) {
    for command in beginnings(epoch) {
        let refused = world.tell(&command);
        assert!(
            matches!(refused, Err(Refusal::Conflict(_) | Refusal::Unready(_))),
            "{command:?}: {refused:?}"
        );
    }
}

fn has(events: &[Event], kind: &str) -> bool {
    kinds(events).iter().any(|has| has == kind)
}

fn resumed(events: &[Event]) -> &Resumed {
    let found = events.iter().find_map(|event| match event {
        Event::AgentResumed(resumed) => Some(resumed),
        _ => None,
    });
    found.expect("it was resumed")
}

#[test]
fn an_agent_that_is_resumed_while_its_sandbox_is_being_suspended_waits_until_it_was_woken() {
    let mut world = World::ready(Limits::default());
    let stale = world.running(1);
    world.tell(&Command::Pause).unwrap();
    let events = world.tell(&Command::Resume(compute_rates())).unwrap();
    assert_eq!(kinds(&events), ["agent.resumed"]);
    assert!(resumed(&events).waits && !resumed(&events).asleep);
    assert_eq!(world.status(), Status::Running);
    nothing_begins(&mut world, stale);
    let events = world.tell(&suspended()).unwrap();
    assert!(matches!(&events[0], Event::AgentSuspended(suspended) if suspended.late), "{events:?}");
    nothing_begins(&mut world, stale);
    let events = world.tell(&woken()).unwrap();
    assert!(has(&events, "compute.started"), "{events:?}");
    // The worker of before the pause does not know where the sandbox is now.
    assert!(world.tell(&start_tool(stale, 1)).is_err());
    assert_eq!(world.claim(1), Some(stale + 1));
    world.tell(&exec(2)).unwrap();
}

#[test]
fn a_task_that_is_given_while_the_sandbox_is_being_suspended_waits_too() {
    let mut world = World::ready(Limits::default());
    for command in [Command::Pause, Command::Resume(compute_rates()), run(1)] {
        world.tell(&command).unwrap();
    }
    let Some(Event::TaskCreated(created)) = world.log.last() else { panic!("{:?}", world.log) };
    assert!(created.waits);
    nothing_begins(&mut world, 1);
    world.tell(&suspended()).unwrap();
    let events = world.tell(&woken()).unwrap();
    let Event::AgentWoken(readied) = &events[0] else { panic!("{events:?}") };
    assert_eq!(readied.task_id, Some(task_id(1)));
    assert_eq!(world.claim(1), Some(1));
}

#[test]
fn an_agent_that_pauses_again_while_its_sandbox_is_being_suspended_stays_suspended() {
    let mut world = World::ready(Limits::default());
    for command in [Command::Pause, Command::Resume(compute_rates())] {
        world.tell(&command).unwrap();
    }
    assert_eq!(world.account().reserved(), Decimal::from(6));
    assert_eq!(kinds(&world.tell(&Command::Pause).unwrap()), ["agent.paused", "compute.stopped"]);
    assert_eq!(world.account().reserved(), Decimal::ZERO);
    let events = world.tell(&suspended()).unwrap();
    assert!(matches!(&events[0], Event::AgentSuspended(suspended) if !suspended.late), "{events:?}");
    assert!(resumed(&world.tell(&Command::Resume(compute_rates())).unwrap()).asleep);
}

#[test]
fn a_pause_waits_for_a_sandbox_that_is_being_woken() {
    let mut world = World::ready(Limits::default());
    for command in [run(1), Command::Pause, suspended(), Command::Resume(compute_rates())] {
        world.tell(&command).unwrap();
    }
    assert_eq!(kinds(&world.tell(&Command::Pause).unwrap()), ["agent.pause_requested"]);
    assert_eq!(world.status(), Status::Pausing);
    let events = world.tell(&woken()).unwrap();
    assert!(has(&events, "agent.paused") && !has(&events, "compute.started"), "{events:?}");
    assert_eq!((world.status(), world.account().reserved()), (Status::Paused, Decimal::ZERO));
    nothing_begins(&mut world, 1);
}

#[test]
fn a_task_waits_for_its_sandbox_also_where_a_pause_was_taken_back() {
    // While the sandbox is being made.
    let mut world = World::unready(Limits::default());
    world.tell(&run(1)).unwrap();
    world.ask(&session::Command::Pause).unwrap();
    assert_eq!(world.status(), Status::Pausing);
    let events = world.ask(&session::Command::Resume(compute_rates())).unwrap();
    assert!(resumed(&events).waits, "{events:?}");
    nothing_begins(&mut world, 1);
    let events = world.tell(&Command::Provisioned { sandbox: "here".into() }).unwrap();
    let Event::AgentProvisioned(readied) = &events[0] else { panic!("{events:?}") };
    assert_eq!(readied.task_id, Some(task_id(1)));
    assert_eq!(world.claim(1), Some(1));
    // While it is being woken.
    for command in [Command::Pause, suspended(), Command::Resume(compute_rates())] {
        world.tell(&command).unwrap();
    }
    world.ask(&session::Command::Pause).unwrap();
    let events = world.ask(&session::Command::Resume(compute_rates())).unwrap();
    assert!(resumed(&events).waits && !resumed(&events).asleep, "{events:?}");
    nothing_begins(&mut world, 1);
    let events = world.tell(&woken()).unwrap();
    assert!(has(&events, "compute.started"), "{events:?}");
    assert_eq!(world.claim(1), Some(2));
}

#[test]
fn a_log_of_the_time_before_resumed_agents_waited_says_that_its_sandbox_is_ready() {
    let mut world = World::ready(Limits::default());
    world.tell(&Command::Pause).unwrap();
    let events = world.tell(&Command::Resume(compute_rates())).unwrap();
    let before = Resumed { waits: false, ..resumed(&events).clone() };
    world.happen(vec![Event::AgentResumed(before)]);
    assert!(world.tell(&exec(1)).is_ok());
    // It was suspended all the same, as it was then.
    let events = world.tell(&suspended()).unwrap();
    assert!(matches!(&events[0], Event::AgentSuspended(suspended) if suspended.late), "{events:?}");
}

#[test]
fn what_is_suspended_after_its_agent_has_ended_is_not_woken() {
    let mut world = World::ready(Limits::default());
    for command in [Command::Pause, Command::Resume(compute_rates()), Command::Terminate] {
        world.tell(&command).unwrap();
    }
    let events = world.tell(&suspended()).unwrap();
    assert!(matches!(&events[..], [Event::AgentSuspended(suspended)] if !suspended.late), "{events:?}");
    assert_eq!(world.account().reserved(), Decimal::ZERO);
}

#[test]
fn a_pause_that_is_taken_back_after_nothing_was_held_any_more_goes_on_with_a_piece_or_not_at_all() {
    for raised in [false, true] {
        let mut world = World::ready(max_cost(700));
        let epoch = world.running(1);
        world.tell(&open(epoch, 1)).unwrap();
        world.ask(&session::Command::Pause).unwrap();
        // A minute costs six dollars: once the first is charged there is room for no other.
        world.now_ms += 60_000;
        let ticked = world.ask(&session::Command::TickCompute(agent_id(), compute_rates())).unwrap();
        let Event::ComputeTicked(piece) = &ticked[0] else { panic!("{ticked:?}") };
        assert_eq!((piece.slice_ms, piece.booking.reserved), (0, Decimal::ZERO));
        if raised {
            let max_cost = Some(max_cost(2_000).max_cost);
            let more = session::LimitsPatch { max_cost, ..session::LimitsPatch::default() };
            world.ask(&session::Command::ChangeLimits(more)).unwrap();
        }
        let resumed = world.ask(&session::Command::Resume(compute_rates())).unwrap();
        let goes_on = ["session.resumed", "agent.resumed", "compute.ticked"];
        let stays = ["session.resumed", "agent.limit_reached", "compute.ticked"];
        assert_eq!(kinds(&resumed), if raised { goes_on } else { stays });
        let Some(Event::ComputeTicked(piece)) = resumed.last() else { panic!("{resumed:?}") };
        let held = if raised { (60_000, Decimal::from(6)) } else { (0, Decimal::ZERO) };
        assert_eq!((piece.slice_ms, piece.booking.reserved), held);
    }
}
