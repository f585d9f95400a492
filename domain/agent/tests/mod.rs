mod later;
mod sandbox;

use proptest::prelude::*;
use rust_decimal::Decimal;
use ulid::Ulid;

use super::*;
use crate::account::LimitName;
use crate::agent_config::{AgentConfig, ProviderName};
use crate::charge::{Price, Rate};
use crate::command::Person;
use crate::content::ContentRef;
use crate::id::{AgentId, ContentId, OrganizationId, SessionId, UserId};
use crate::money::Currency;
use crate::rates::{Card, ComputeRates};
use crate::session::{self, CostLimit, CostPeriod, Limits, Opening as SessionOpening};
use crate::time::Timestamp;
use crate::{Aggregate, Event, Facts, Refusal, Subject};

/// 2025-05-01T23:59:00Z: a minute before midnight.
const START_MS: i64 = 1_746_143_940_000;

fn ulid(number: u64) -> Ulid {
    Ulid::from_parts(number, 0)
}

fn agent_id() -> AgentId {
    AgentId::from_ulid(ulid(1))
}

fn session_id() -> SessionId {
    SessionId::from_ulid(ulid(2))
}

fn task_id(number: u64) -> TaskId {
    TaskId::from_ulid(ulid(number))
}

fn call_id(number: u64) -> CallId {
    CallId::from_ulid(ulid(number))
}

fn content() -> ContentRef {
    ContentRef { content_id: ContentId::from_ulid(ulid(9)), sha256: String::new() }
}

fn price(cents: i64) -> Price {
    Price { amount: Decimal::new(cents, 2), per: 1 }
}

/// An agent that is to be made on this machine, at the prices of the card that is built in.
pub(crate) fn new_agent(agent_id: AgentId) -> NewAgent {
    let card = Card::built_in();
    NewAgent {
        agent_id,
        definition: None,
        config: AgentConfig::default(),
        provider: Some(ProviderName::Local),
        mocked: false,
        browser: false,
        timeout_s: 300,
        compute: card.compute_rates(),
        storage: card.storage_rates(),
    }
}

/// 6 dollars a minute.
fn compute_rates() -> ComputeRates {
    let price = Some(Price { amount: Decimal::from(6), per: 60_000 });
    let managed = Rate { price, rate_card: "1".into() };
    ComputeRates { managed, ..Card::built_in().compute_rates() }
}

/// A session and an agent of it, as an appender has them.
struct World {
    session: session::State,
    agent: State,
    now_ms: i64,
    log: Vec<Event>,
}

impl World {
    /// A session with an agent whose sandbox is ready.
    fn ready(limits: Limits) -> Self {
        let mut world = Self::unready(limits);
        world.tell(&Command::Provisioned { sandbox: "here".into() }).unwrap();
        world
    }

    /// A session with an agent whose sandbox is being made.
    fn unready(limits: Limits) -> Self {
        let mut world = Self {
            session: session::State::default(),
            agent: State::default(),
            now_ms: START_MS,
            log: vec![],
        };
        let person = Person { external_id: "u".into(), new_id: UserId::from_ulid(ulid(3)) };
        let opening = SessionOpening { person, limits, metadata: None };
        world.ask(&session::Command::Create(opening)).unwrap();
        let new = NewAgent { compute: compute_rates(), ..new_agent(agent_id()) };
        world.ask(&session::Command::AddAgent(Box::new(new))).unwrap();
        world
    }

    fn facts(&self, subject: Subject) -> Facts {
        let now = Timestamp::from_millis(self.now_ms);
        let organization_id = OrganizationId::from_ulid(ulid(4));
        let session = self.session.standing().cloned();
        Facts { session, ..Facts::new(now, subject, organization_id) }
    }

    fn happen(&mut self, events: Vec<Event>) -> Vec<Event> {
        for event in &events {
            self.session.evolve(event);
            self.agent.evolve(event);
        }
        self.log.extend(events.clone());
        events
    }

    fn ask(&mut self, command: &session::Command) -> Result<Vec<Event>, Refusal> {
        let facts = self.facts(Subject::Session(session_id()));
        self.session.decide(command, &facts).map(|events| self.happen(events))
    }

    fn tell(&mut self, command: &Command) -> Result<Vec<Event>, Refusal> {
        let facts = self.facts(Subject::Agent(agent_id()));
        self.agent.decide(command, &facts).map(|events| self.happen(events))
    }

    /// A task that a worker has taken.
    fn running(&mut self, number: u64) -> u64 {
        self.tell(&run(number)).unwrap();
        self.claim(number).unwrap()
    }

    /// The epoch of a claim, if one was made.
    fn claim(&mut self, number: u64) -> Option<u64> {
        let events = self.tell(&Command::Claim { task_id: task_id(number) }).ok()?;
        events.iter().find_map(|event| match event {
            Event::TaskClaimed(claimed) => Some(claimed.epoch),
            _ => None,
        })
    }

    fn status(&self) -> Status {
        self.agent.life().unwrap().status()
    }

    fn account(&self) -> &crate::account::Account {
        &self.session.standing().unwrap().account
    }
}

fn run(number: u64) -> Command {
    Command::Run { task_id: task_id(number), task: content(), model: ModelCost::Priced }
}

/// A call that holds 10 input and 10 output tokens at a cent each: 20 cents.
fn open(epoch: u64, number: u64) -> Command {
    let prices = ModelPrices {
        input: price(1),
        output: price(1),
        cache_read: price(1),
        cache_write: price(1),
        long: None,
    };
    Command::OpenCall(Opening {
        epoch,
        call_id: call_id(number),
        model: "m".into(),
        own_key: false,
        worst_case: Tokens { input: 10, output: 10, ..Tokens::default() },
        rates: ModelRates { rate_card: "1".into(), prices: Some(prices) },
    })
}

fn settle(number: u64, output: u64, completes: bool) -> Command {
    Command::SettleCall(Answer {
        call_id: call_id(number),
        tokens: Some(Tokens { input: 1, output, ..Tokens::default() }),
        stop: Stop::Complete,
        reply: content(),
        tool_calls: 0,
        vendor_id: None,
        completes,
    })
}

fn start_tool(epoch: u64, number: u64) -> Command {
    Command::StartTool {
        epoch,
        call_id: call_id(1),
        index: 0,
        tool_call_id: ToolCallId::from_ulid(ulid(number)),
        tool: "run_code".into(),
        input: content(),
    }
}

fn finish_tool(epoch: u64, number: u64) -> Command {
    let tool_call_id = ToolCallId::from_ulid(ulid(number));
    Command::FinishTool { epoch, tool_call_id, result: content(), is_error: false, duration_ms: 1 }
}

fn kinds(events: &[Event]) -> Vec<String> {
    events.iter().map(|event| event.write().kind).collect()
}

fn max_cost(cents: i64) -> Limits {
    let max_cost = CostLimit { amount: cents, currency: Currency::Usd, period: CostPeriod::Session };
    Limits { max_cost: Some(max_cost), ..Limits::default() }
}

#[test]
fn an_answer_without_tools_completes_the_task_and_releases_what_was_held() {
    let mut world = World::ready(Limits::default());
    let epoch = world.running(1);
    world.tell(&open(epoch, 1)).unwrap();
    // A minute of compute and the call.
    assert_eq!(world.account().reserved(), Decimal::new(620, 2));
    let events = world.tell(&settle(1, 4, true)).unwrap();
    assert_eq!(kinds(&events), ["model.call_settled", "task.completed"]);
    assert_eq!(world.account().reserved(), Decimal::new(600, 2));
    let Event::TaskCompleted(ended) = &events[1] else { panic!("{events:?}") };
    assert_eq!(ended.cost, Decimal::new(5, 2));
    assert_eq!(world.status(), Status::Idle);
}

#[test]
fn a_worker_whose_task_was_taken_by_another_can_commit_nothing_but_what_its_call_used() {
    let mut world = World::ready(Limits::default());
    let stale = world.running(1);
    world.tell(&open(stale, 1)).unwrap();
    let events = world.tell(&Command::Claim { task_id: task_id(1) }).unwrap();
    assert_eq!(kinds(&events), ["model.call_lost", "task.claimed"]);
    let epoch = stale + 1;
    for command in [
        open(stale, 2),
        start_tool(stale, 1),
        Command::CompleteTask { epoch: stale, output: content() },
        Command::FailTask { epoch: stale, code: "x".into(), message: "x".into() },
    ] {
        assert!(matches!(world.tell(&command), Err(Refusal::Conflict(_))), "{command:?}");
    }
    // The lost call stays counted as unconfirmed, and is no longer held.
    let now = Timestamp::from_millis(world.now_ms);
    assert_eq!(world.account().spent(CostPeriod::Session, now), Decimal::new(20, 2));
    assert_eq!(world.account().reserved(), Decimal::new(600, 2));
    assert_eq!(kinds(&world.tell(&settle(1, 1, true)).unwrap()), ["model.call_reconciled"]);
    world.tell(&open(epoch, 2)).unwrap();
}

#[test]
fn a_tool_that_a_crash_left_open_is_closed_and_nobody_knows_what_came_of_it() {
    let mut world = World::ready(Limits::default());
    let epoch = world.running(1);
    world.tell(&start_tool(epoch, 1)).unwrap();
    let events = world.tell(&Command::Claim { task_id: task_id(1) }).unwrap();
    assert_eq!(kinds(&events), ["tool.finished", "task.claimed"]);
    let Event::ToolFinished(finished) = &events[0] else { panic!("{events:?}") };
    assert!(finished.result.is_none() && finished.is_error);
}

#[test]
fn a_pause_waits_for_what_is_in_flight_and_the_task_stays_open() {
    let mut world = World::ready(Limits::default());
    let epoch = world.running(1);
    world.tell(&start_tool(epoch, 1)).unwrap();
    assert_eq!(kinds(&world.tell(&Command::Pause).unwrap()), ["agent.pause_requested"]);
    assert_eq!(world.status(), Status::Pausing);
    assert_eq!(world.tell(&Command::Pause), Ok(vec![]));
    assert!(world.tell(&Command::Resume(compute_rates())).is_err());
    world.now_ms += 30_000;
    let events = world.tell(&finish_tool(epoch, 1)).unwrap();
    assert_eq!(kinds(&events), ["tool.finished", "agent.paused", "compute.stopped"]);
    assert_eq!(world.account().reserved(), Decimal::ZERO);
    assert!(world.tell(&open(epoch, 1)).is_err() && world.claim(1).is_none());
    world.tell(&Command::Suspended { sandbox: "asleep".into(), stored_bytes: 0 }).unwrap();
    assert_eq!(kinds(&world.tell(&Command::Resume(compute_rates())).unwrap()), ["agent.resumed"]);
    let events = world.tell(&Command::Woken { sandbox: "awake".into() }).unwrap();
    assert_eq!(kinds(&events), ["agent.woken", "compute.started"]);
    assert_eq!(world.claim(1), Some(epoch + 1));
}

#[test]
fn work_that_does_not_fit_pauses_the_agent_and_new_work_is_refused() {
    // A minute of compute is 6 dollars; a call holds 20 cents.
    let mut world = World::ready(max_cost(610));
    let epoch = world.running(1);
    let events = world.tell(&open(epoch, 1)).unwrap();
    assert_eq!(kinds(&events), ["agent.limit_reached", "agent.paused", "compute.stopped"]);
    assert_eq!(world.status(), Status::Paused);
    assert!(world.agent.life().unwrap().task.is_some(), "the task waits for the limit to be raised");
}

#[test]
fn what_costs_nothing_fits_a_limit_that_is_used_up_also_where_its_model_has_no_price() {
    // The limit is used up by the minute of compute that is held.
    let mut world = World::ready(max_cost(600));
    let run = |model| Command::Run { task_id: task_id(1), task: content(), model };
    for model in [ModelCost::Priced, ModelCost::Unpriced] {
        let refused = world.tell(&run(model));
        assert!(refused.is_err() || kinds(&refused.unwrap()) == ["limit.refused"], "{model:?}");
    }
    assert_eq!(kinds(&world.tell(&run(ModelCost::Free)).unwrap()), ["task.created"]);
    let epoch = world.claim(1).unwrap();
    let Command::OpenCall(opening) = open(epoch, 1) else { panic!("a call is opened") };
    let own_key = super::Opening { own_key: true, rates: Card::built_in().free(), ..opening };
    assert_eq!(kinds(&world.tell(&Command::OpenCall(own_key)).unwrap()), ["model.call_opened"]);
}

#[test]
fn a_rate_is_free_only_if_every_price_is_nothing() {
    let card = Card::built_in();
    assert_eq!(card.free().cost(), ModelCost::Free);
    assert_eq!(card.model("claude-sonnet-4-5").cost(), ModelCost::Priced);
    assert_eq!(card.model("nobody-knows-it").cost(), ModelCost::Unpriced);
    let least = Price { amount: Decimal::new(1, 9), per: 1_000_000 };
    let prices = ModelPrices { cache_write: least, ..card.free().prices.unwrap() };
    assert_eq!(ModelRates { prices: Some(prices), ..card.free() }.cost(), ModelCost::Priced);
}

#[test]
fn compute_is_charged_to_the_millisecond_and_split_at_midnight() {
    let mut world = World::ready(Limits::default());
    world.now_ms += 45_000;
    world.ask(&session::Command::TickCompute(agent_id(), compute_rates())).unwrap();
    world.now_ms += 30_000;
    let events = world.ask(&session::Command::TickCompute(agent_id(), compute_rates())).unwrap();
    let Event::ComputeTicked(ticked) = &events[0] else { panic!("{events:?}") };
    let parts: Vec<_> =
        ticked.booking.charges.iter().map(|charge| (charge.at.to_string(), charge.quantity)).collect();
    assert_eq!(
        parts,
        [
            ("2025-05-01T23:59:59.999Z".to_owned(), Decimal::from(15_000)),
            ("2025-05-02T00:00:15.000Z".to_owned(), Decimal::from(15_000)),
        ]
    );
}

#[test]
fn a_server_that_was_gone_for_hours_bills_no_more_than_a_minute_of_them() {
    let mut world = World::ready(Limits::default());
    world.now_ms += 7_200_000;
    let events = world.tell(&Command::Terminate).unwrap();
    assert_eq!(kinds(&events), ["compute.stopped", "agent.terminated"]);
    let Event::ComputeStopped(stopped) = &events[0] else { panic!("{events:?}") };
    assert_eq!(stopped.booking.cost(), Decimal::from(6));
    assert_eq!(stopped.unwatched_ms, 7_140_000);
}

#[test]
fn minutes_of_compute_pause_the_session_at_their_limit() {
    let limits = Limits { max_compute_minutes: Some(1), ..Limits::default() };
    let mut world = World::ready(limits);
    world.now_ms += 45_000;
    world.ask(&session::Command::TickCompute(agent_id(), compute_rates())).unwrap();
    world.now_ms += 15_000;
    let events = world.ask(&session::Command::TickCompute(agent_id(), compute_rates())).unwrap();
    let expected = ["agent.limit_reached", "session.paused", "agent.paused", "compute.stopped"];
    assert_eq!(kinds(&events), expected);
    assert_eq!(world.session.standing().unwrap().compute_ms, 60_000);
    // As long as the limit is used up it stays paused; then everything that was paused with it goes on.
    let resume = session::Command::Resume(compute_rates());
    let refused = world.ask(&resume).unwrap();
    assert_eq!(kinds(&refused), ["limit.refused"]);
    let Event::LimitRefused(refused) = &refused[0] else { panic!("{refused:?}") };
    assert_eq!((refused.work.as_str(), refused.excess.limit), ("resume", LimitName::MaxComputeMinutes));
    let more = session::LimitsPatch { max_compute_minutes: Some(Some(2)), ..session::LimitsPatch::default() };
    world.ask(&session::Command::ChangeLimits(more)).unwrap();
    let resumed = world.ask(&resume).unwrap();
    assert_eq!(kinds(&resumed), ["session.resumed", "agent.resumed"]);
}

#[test]
fn a_pause_of_a_session_is_taken_back_while_the_last_minute_of_compute_is_held() {
    let limits = Limits { max_compute_minutes: Some(1), ..Limits::default() };
    let mut world = World::ready(limits);
    let epoch = world.running(1);
    world.tell(&open(epoch, 1)).unwrap();
    assert_eq!(kinds(&world.ask(&session::Command::Pause).unwrap())[0], "session.paused");
    let resumed = world.ask(&session::Command::Resume(compute_rates())).unwrap();
    assert_eq!(kinds(&resumed)[0], "session.resumed");
}

#[test]
fn a_call_that_outlives_its_agent_is_settled_late_or_closed() {
    for command in [settle(1, 1, true), Command::CloseCall] {
        let mut world = World::ready(Limits::default());
        let epoch = world.running(1);
        world.tell(&open(epoch, 1)).unwrap();
        let ended = world.tell(&Command::Terminate).unwrap();
        assert_eq!(kinds(&ended), ["task.cancelled", "compute.stopped", "agent.terminated"]);
        assert_eq!(world.account().reserved(), Decimal::new(20, 2));
        assert_eq!(world.tell(&command).unwrap().len(), 1);
        assert_eq!(world.account().reserved(), Decimal::ZERO);
    }
}

/// Any command, of any claim and call.
fn command() -> impl Strategy<Value = Command> {
    let number = 1..4_u64;
    prop_oneof![
        number.clone().prop_map(run),
        Just(Command::Pause),
        Just(Command::Resume(compute_rates())),
        number.clone().prop_map(|task| Command::Claim { task_id: task_id(task) }),
        (0..4_u64, number.clone()).prop_map(|(epoch, call)| open(epoch, call)),
        (number.clone(), 0..40_u64, any::<bool>())
            .prop_map(|(call, output, completes)| settle(call, output, completes)),
        number.clone().prop_map(|call| Command::ReleaseCall { call_id: call_id(call), reason: "r".into() }),
        (number.clone(), prop::option::of((0..4_u64, 0..40_u64))).prop_map(|(call, told)| {
            let told = told.map(|(input, output)| Tokens { input, output, ..Tokens::default() });
            Command::LoseCall { call_id: call_id(call), reason: "r".into(), vendor_id: None, told }
        }),
        (0..4_u64, number.clone()).prop_map(|(epoch, tool)| start_tool(epoch, tool)),
        (0..4_u64, number.clone()).prop_map(|(epoch, tool)| finish_tool(epoch, tool)),
        (0..4_u64).prop_map(|epoch| Command::CompleteTask { epoch, output: content() }),
        number.clone().prop_map(|exec| Command::StartExec {
            exec_id: ExecId::from_ulid(ulid(exec)),
            language: "bash".into(),
            code: content(),
        }),
        number.clone().prop_map(|exec| Command::FinishExec {
            exec_id: ExecId::from_ulid(ulid(exec)),
            outcome: ExecOutcome::Finished,
            result: None,
            duration_ms: 1,
        }),
        Just(Command::Suspended { sandbox: "asleep".into(), stored_bytes: 1 }),
        Just(Command::Woken { sandbox: "awake".into() }),
        Just(Command::Terminate),
        Just(Command::Fail { code: "c".into(), message: "m".into() }),
        Just(Command::Released),
        Just(Command::CloseCall),
    ]
}

proptest! {
    #[test]
    fn nothing_is_held_without_work_and_no_work_begins_that_does_not_fit(
        steps in prop::collection::vec((command(), 0..50_000_i64, any::<bool>()), 0..80),
        cents in 600..2_000_i64,
    ) {
        let mut world = World::ready(max_cost(cents));
        for (command, wait_ms, tick) in steps {
            world.now_ms += wait_ms;
            if tick {
                let _ = world.ask(&session::Command::TickCompute(agent_id(), compute_rates()));
            }
            let is_ready = world.agent.life().unwrap().is_ready();
            let begun = world.tell(&command).unwrap_or_default();
            let begins = |event: &Event| {
                let kind = event.write().kind;
                ["task.claimed", "model.call_opened", "tool.started", "exec.started"].contains(&kind.as_str())
            };
            prop_assert!(is_ready || !begun.iter().any(begins), "{:?}", begun);
            let now = Timestamp::from_millis(world.now_ms);
            let (spent, reserved) = (world.account().spent(CostPeriod::Session, now), world.account().reserved());
            prop_assert!(reserved >= Decimal::ZERO);
            let opens = |event: &Event| matches!(event, Event::CallOpened(_) | Event::AgentResumed(_));
            if begun.iter().any(opens) {
                prop_assert!(spent + reserved <= Decimal::new(cents, 2), "{} + {}", spent, reserved);
            }
        }
        let _ = world.tell(&Command::Terminate);
        let _ = world.tell(&Command::CloseCall);
        prop_assert_eq!(world.account().reserved(), Decimal::ZERO);
        prop_assert_eq!(world.session.standing().unwrap().compute_held_ms, 0);
        // What has ended takes no work.
        prop_assert!(world.tell(&run(7)).is_err() && world.tell(&Command::Resume(compute_rates())).is_err());
        prop_assert_eq!(world.tell(&Command::Terminate), Ok(vec![]));
        // Folding the log anew gives the same states.
        let (mut session, mut agent) = (session::State::default(), State::default());
        for event in &world.log {
            session.evolve(event);
            agent.evolve(event);
        }
        prop_assert_eq!(session, world.session);
        prop_assert_eq!(agent, world.agent);
    }
}
