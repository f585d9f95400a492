use cqrs_es::test::TestFramework;
use proptest::prelude::*;
use ulid::Ulid;

use super::*;
use crate::agent::{self, NewAgent};
use crate::bridge::Bridged;
use crate::command::Person;
use crate::definition;
use crate::id::{DefinitionId, OrganizationId, UserId, ValueId};
use crate::money::Currency;
use crate::provider::ProviderName::{E2b, Local};
use crate::provider::{self, Configured, DefaultChanged, Removed};
use crate::rates::{Card, ComputeRates};
use crate::time::Timestamp;
use crate::{Aggregate, Event, Facts, Refusal, Stock, Subject};

fn session_id() -> SessionId {
    SessionId::from_ulid(Ulid::from_parts(1, 1))
}

fn user_id() -> UserId {
    UserId::from_ulid(Ulid::from_parts(1, 2))
}

fn facts() -> Facts {
    Facts {
        now: Timestamp::from_millis(1_746_057_600_000),
        subject: Subject::Session(session_id()),
        user: Some(user_id()),
        organization_id: OrganizationId::from_ulid(Ulid::from_parts(1, 7)),
        session: None,
        payers: crate::budget::Payers::default(),
        stock: crate::Stock::default(),
    }
}

fn rates() -> ComputeRates {
    Card::built_in().compute_rates()
}

fn create() -> Command {
    let new_id = UserId::from_ulid(Ulid::from_parts(9, 9));
    Command::Create(Opening {
        person: Person { external_id: "user_123".into(), new_id },
        limits: Limits { max_agents: Some(3), ..Limits::default() },
        metadata: None,
    })
}

fn created() -> Event {
    Event::SessionCreated(Created {
        session_id: session_id(),
        user_id: user_id(),
        limits: Limits { max_agents: Some(3), ..Limits::default() },
        metadata: None,
    })
}

fn changed() -> Changed {
    Changed { session_id: session_id(), user_id: user_id() }
}

fn given(events: Vec<Event>) -> cqrs_es::test::AggregateTestExecutor<Bridged<State>> {
    TestFramework::with(()).given(events)
}

fn conflict(message: &str) -> Refusal {
    Refusal::Conflict(format!("{} {message}", session_id()))
}

#[test]
fn a_new_session_belongs_to_the_user_that_was_looked_up() {
    given(vec![]).when((create(), facts())).then_expect_events(vec![created()]);
}

#[test]
fn a_session_is_created_once() {
    given(vec![created()])
        .when((create(), facts()))
        .then_expect_error(Refusal::Existing(Subject::Session(session_id())));
}

#[test]
fn nothing_can_be_asked_of_a_session_that_does_not_exist() {
    let commands = [
        Command::Pause,
        Command::Resume(rates()),
        Command::Terminate,
        Command::ChangeLimits(LimitsPatch::default()),
    ];
    for command in commands {
        given(vec![])
            .when((command, facts()))
            .then_expect_error(Refusal::NotFound(Subject::Session(session_id())));
    }
}

#[test]
fn pausing_pauses_once() {
    let paused = Event::SessionPaused(changed());
    given(vec![created()]).when((Command::Pause, facts())).then_expect_events(vec![paused.clone()]);
    given(vec![created(), paused]).when((Command::Pause, facts())).then_expect_events(vec![]);
}

#[test]
fn only_a_paused_session_resumes() {
    let paused = Event::SessionPaused(changed());
    let resumed = Event::SessionResumed(changed());
    given(vec![created(), paused.clone()])
        .when((Command::Resume(rates()), facts()))
        .then_expect_events(vec![resumed.clone()]);
    let refusal = conflict("is active; only a paused session can be resumed");
    given(vec![created()]).when((Command::Resume(rates()), facts())).then_expect_error(refusal.clone());
    given(vec![created(), paused, resumed])
        .when((Command::Resume(rates()), facts()))
        .then_expect_error(refusal);
}

#[test]
fn terminating_ends_it_for_good_and_twice_is_fine() {
    let ended = Event::SessionTerminated(changed());
    given(vec![created()]).when((Command::Terminate, facts())).then_expect_events(vec![ended.clone()]);
    given(vec![created(), ended.clone()]).when((Command::Terminate, facts())).then_expect_events(vec![]);
    let patch = LimitsPatch { max_agents: Some(Some(9)), ..LimitsPatch::default() };
    for command in [Command::Pause, Command::Resume(rates()), Command::ChangeLimits(patch)] {
        given(vec![created(), ended.clone()])
            .when((command, facts()))
            .then_expect_error(conflict("is terminated"));
    }
}

#[test]
fn a_change_of_limits_sets_lifts_and_leaves() {
    let cost = CostLimit { amount: 500, currency: Currency::Usd, period: CostPeriod::Day };
    let patch = LimitsPatch { max_cost: Some(Some(cost)), max_agents: Some(None), max_compute_minutes: None };
    let limits = Limits { max_cost: Some(cost), ..Limits::default() };
    let event =
        Event::SessionLimitsChanged(LimitsChanged { session_id: session_id(), user_id: user_id(), limits });
    given(vec![created()])
        .when((Command::ChangeLimits(patch.clone()), facts()))
        .then_expect_events(vec![event.clone()]);
    given(vec![created(), event]).when((Command::ChangeLimits(patch), facts())).then_expect_events(vec![]);
}

fn any_command() -> impl Strategy<Value = Command> {
    prop_oneof![
        Just(create()),
        Just(Command::Pause),
        Just(Command::Resume(rates())),
        Just(Command::Terminate),
        (0..3_i64).prop_map(|agents| {
            let agents = (agents > 0).then_some(agents);
            Command::ChangeLimits(LimitsPatch { max_agents: Some(agents), ..LimitsPatch::default() })
        }),
    ]
}

proptest! {
    #[test]
    fn a_terminated_session_changes_no_more(commands in prop::collection::vec(any_command(), 0..40)) {
        let mut state = State::default();
        for event in [created(), Event::SessionTerminated(changed())] {
            state.evolve(&event);
        }
        for command in commands {
            prop_assert!(state.decide(&command, &facts()).unwrap_or_default().is_empty());
        }
    }

    #[test]
    fn what_was_decided_can_be_folded_and_a_repeat_changes_nothing(
        commands in prop::collection::vec(any_command(), 0..40),
    ) {
        let mut state = State::default();
        for command in commands {
            let Ok(events) = state.decide(&command, &facts()) else { continue };
            for event in &events {
                state.evolve(event);
            }
            // Once it has been done, asking again makes nothing happen.
            prop_assert!(state.decide(&command, &facts()).unwrap_or_default().is_empty());
        }
    }
}

fn new_agent() -> NewAgent {
    NewAgent { provider: None, ..agent::tests::new_agent(AgentId::from_ulid(Ulid::from_parts(1, 3))) }
}

/// What comes of making this agent where this is to be had.
fn made(agent: NewAgent, stock: &Stock) -> Result<agent::Created, Refusal> {
    let mut state = State::default();
    state.evolve(&created());
    let facts = Facts { stock: stock.clone(), ..facts() };
    let events = state.decide(&Command::AddAgent(Box::new(agent)), &facts)?;
    let [Event::AgentCreated(created)] = &events[..] else { panic!("{events:?}") };
    Ok(created.clone())
}

/// What there is once these have happened to the providers.
fn offered(events: &[Event]) -> Stock {
    let mut providers = provider::State::default();
    events.iter().for_each(|event| providers.evolve(event));
    Stock { providers: providers.offer(), ..Stock::default() }
}

#[test]
fn an_agent_runs_on_a_provider_that_is_configured_when_it_is_made() {
    let credentials = ValueId::from_ulid(Ulid::from_parts(1, 4));
    let configured = Event::ProviderConfigured(Configured { provider: E2b, credentials, replaces: None });
    let is_default = Event::ProviderDefaultChanged(DefaultChanged { from: Local, to: E2b });
    let removed = Event::ProviderRemoved(Removed { provider: E2b, credentials });
    let falls_back = Event::ProviderDefaultChanged(DefaultChanged { from: E2b, to: Local });
    let before = offered(&[]);
    let there = offered(std::slice::from_ref(&configured));
    let default = offered(&[configured.clone(), is_default.clone()]);
    let gone = offered(&[configured, is_default, falls_back, removed]);
    let named = |provider| NewAgent { provider: Some(provider), ..new_agent() };
    for (stock, of_e2b, of_the_default) in [
        (&before, Err(Refusal::Unconfigured(E2b)), Local),
        (&there, Ok(E2b), Local),
        (&default, Ok(E2b), E2b),
        (&gone, Err(Refusal::Unconfigured(E2b)), Local),
    ] {
        assert_eq!(made(named(E2b), stock).map(|created| created.provider), of_e2b);
        assert_eq!(made(named(Local), stock).unwrap().provider, Local);
        assert_eq!(made(new_agent(), stock).unwrap().provider, of_the_default);
        let mock = made(NewAgent { mocked: true, ..named(E2b) }, stock).unwrap();
        assert_eq!(mock.provider, E2b, "mocks need not be configured");
    }
}

#[test]
fn an_agent_costs_nothing_on_credentials_of_the_organizations_own() {
    let credentials = ValueId::from_ulid(Ulid::from_parts(1, 4));
    let configured = Event::ProviderConfigured(Configured { provider: E2b, credentials, replaces: None });
    let is_default = Event::ProviderDefaultChanged(DefaultChanged { from: Local, to: E2b });
    let stock = offered(&[configured, is_default]);
    for (provider, mocked, own) in
        [(None, false, true), (Some(E2b), false, true), (Some(Local), false, false), (None, true, false)]
    {
        let created = made(NewAgent { provider, mocked, ..new_agent() }, &stock).unwrap();
        assert_eq!(created.compute, Card::built_in().compute_rates().of(own), "{provider:?}");
        assert_eq!(created.storage, Some(Card::built_in().storage_rates().of(own)), "{provider:?}");
    }
}

#[test]
fn no_agent_is_made_from_an_archived_definition() {
    let definition_id = DefinitionId::from_ulid(Ulid::from_parts(1, 5));
    let definition = Some(agent::DefinitionVersion { definition_id, version: 1 });
    let stands = |status| Stock { definition: Some(status), ..Stock::default() };
    let agent = NewAgent { definition, ..new_agent() };
    assert_eq!(made(agent.clone(), &stands(definition::Status::Active)).unwrap().definition, definition);
    let refusal = Refusal::Conflict(format!("{definition_id} is archived"));
    assert_eq!(made(agent, &stands(definition::Status::Archived)).unwrap_err(), refusal);
}
