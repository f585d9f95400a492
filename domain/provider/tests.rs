use cqrs_es::test::TestFramework;
use proptest::prelude::*;
use ulid::Ulid;

use super::*;
use crate::agent_config::AgentConfig;
use crate::bridge::Bridged;
use crate::charge::{Booking, Place, Rate};
use crate::id::{OrganizationId, SessionId, UserId};
use crate::time::Timestamp;
use crate::{Aggregate, Facts, Refusal, Subject};

use ProviderName::{E2b, Fly, Local};

fn facts() -> Facts {
    let organization_id = OrganizationId::from_ulid(Ulid::from_parts(5, 1));
    Facts::new(Timestamp::from_millis(0), Subject::Providers, organization_id)
}

fn version(number: u128) -> ValueId {
    ValueId::from_ulid(Ulid::from_parts(1, number))
}

fn agent(number: u128) -> AgentId {
    AgentId::from_ulid(Ulid::from_parts(2, number))
}

fn configure(provider: ProviderName, number: u128, is_default: Option<bool>) -> Command {
    let (credentials, finding) = (version(number), Finding::active());
    Command::Configure(Configuration { provider, credentials, is_default, finding })
}

fn configured(provider: ProviderName, number: u128, replaces: Option<u128>) -> Event {
    let (credentials, replaces) = (version(number), replaces.map(version));
    Event::ProviderConfigured(Configured { provider, credentials, replaces })
}

fn verified(provider: ProviderName, number: u128) -> Event {
    let (credentials, finding) = (version(number), Finding::active());
    Event::ProviderVerified(Verified { provider, credentials, finding })
}

fn changed(from: ProviderName, to: ProviderName) -> Event {
    Event::ProviderDefaultChanged(DefaultChanged { from, to })
}

fn removed(provider: ProviderName, number: u128) -> Event {
    Event::ProviderRemoved(Removed { provider, credentials: version(number) })
}

fn place(number: u128) -> Place {
    Place {
        agent_id: agent(number),
        session_id: SessionId::from_ulid(Ulid::from_parts(3, 1)),
        user_id: UserId::from_ulid(Ulid::from_parts(4, 1)),
        organization_id: OrganizationId::from_ulid(Ulid::from_parts(5, 1)),
    }
}

fn began(number: u128, provider: ProviderName) -> Event {
    Event::AgentCreated(agent::Created {
        place: place(number),
        definition: None,
        config: AgentConfig::default(),
        provider,
        browser: false,
        timeout_s: 300,
        compute: Rate { price: None, rate_card: "1".to_owned() },
        storage: None,
        slice_ms: 60_000,
        booking: Booking::default(),
    })
}

fn failed(number: u128) -> Event {
    let (code, message) = ("provider_error".to_owned(), "no".to_owned());
    let (place, booking) = (place(number), Booking::default());
    Event::AgentFailed(agent::Failed { place, code, message, open_call: false, booking })
}

fn terminated(number: u128) -> Event {
    let (place, cause, booking) = (place(number), agent::Cause::Caller, Booking::default());
    Event::AgentTerminated(agent::Terminated { place, cause, open_call: false, booking })
}

fn given(events: &[Event]) -> cqrs_es::test::AggregateTestExecutor<Bridged<State>> {
    TestFramework::with(()).given(events.to_vec())
}

#[test]
fn a_provider_is_configured_and_becomes_the_default_where_that_is_asked() {
    given(&[])
        .when((configure(E2b, 1, None), facts()))
        .then_expect_events(vec![configured(E2b, 1, None), verified(E2b, 1)]);
    given(&[configured(E2b, 1, None)])
        .when((configure(E2b, 2, Some(true)), facts()))
        .then_expect_events(vec![configured(E2b, 2, Some(1)), verified(E2b, 2), changed(Local, E2b)]);
    given(&[configured(E2b, 1, None), changed(Local, E2b)])
        .when((configure(Fly, 2, Some(true)), facts()))
        .then_expect_events(vec![configured(Fly, 2, None), verified(Fly, 2), changed(E2b, Fly)]);
}

#[test]
fn new_credentials_leave_the_default_alone_unless_they_say_otherwise() {
    let before = [configured(E2b, 1, None), changed(Local, E2b)];
    given(&before)
        .when((configure(E2b, 2, None), facts()))
        .then_expect_events(vec![configured(E2b, 2, Some(1)), verified(E2b, 2)]);
    given(&before).when((configure(E2b, 2, Some(false)), facts())).then_expect_events(vec![
        configured(E2b, 2, Some(1)),
        verified(E2b, 2),
        changed(E2b, Local),
    ]);
}

#[test]
fn local_needs_no_credentials_and_cannot_go() {
    given(&[configured(E2b, 1, None), changed(Local, E2b)])
        .when((Command::ConfigureLocal { is_default: Some(true) }, facts()))
        .then_expect_events(vec![changed(E2b, Local)]);
    for is_default in [None, Some(true), Some(false)] {
        given(&[]).when((Command::ConfigureLocal { is_default }, facts())).then_expect_events(vec![]);
    }
    for command in [configure(Local, 1, None), Command::Remove(Local)] {
        let refusal = State::default().decide(&command, &facts()).unwrap_err();
        assert!(matches!(refusal, Refusal::Conflict(_)));
    }
}

#[test]
fn removing_the_default_leaves_local() {
    given(&[configured(E2b, 1, None), changed(Local, E2b), configured(Fly, 2, None)])
        .when((Command::Remove(E2b), facts()))
        .then_expect_events(vec![changed(E2b, Local), removed(E2b, 1)]);
    given(&[configured(E2b, 1, None), changed(Local, E2b), configured(Fly, 2, None)])
        .when((Command::Remove(Fly), facts()))
        .then_expect_events(vec![removed(Fly, 2)]);
    let absent = Refusal::Absent("the provider e2b is not configured".to_owned());
    given(&[configured(E2b, 1, None), removed(E2b, 1)])
        .when((Command::Remove(E2b), facts()))
        .then_expect_error(absent);
}

#[test]
fn a_provider_that_agents_use_stays_and_its_credentials_may_be_replaced() {
    let mut state = State::default();
    state.evolve(&configured(E2b, 1, None));
    for (number, provider) in [(1, E2b), (2, E2b), (3, E2b), (4, Fly)] {
        state.evolve(&began(number, provider));
    }
    state.evolve(&failed(2));
    let refusal = state.decide(&Command::Remove(E2b), &facts()).unwrap_err();
    assert_eq!(refusal.to_string(), "the provider e2b has active agents: 2");
    let agents = vec![agent(1), agent(3)];
    assert_eq!(refusal, Refusal::InUse { what: "the provider e2b".to_owned(), agents });
    assert_eq!(state.decide(&Command::AskRemoval(E2b), &facts()), Err(refusal));
    assert!(state.decide(&configure(E2b, 2, None), &facts()).is_ok());
    for number in [1, 3, 3] {
        state.evolve(&terminated(number));
    }
    assert_eq!(state.decide(&Command::AskRemoval(E2b), &facts()), Ok(vec![]));
    assert_eq!(state.decide(&Command::Remove(E2b), &facts()), Ok(vec![removed(E2b, 1)]));
}

#[test]
fn what_moves_the_agents_of_a_provider_is_about_the_providers() {
    for event in [began(1, E2b), failed(1), terminated(1)] {
        assert!(event.subjects().contains(&Subject::Providers), "{event:?}");
    }
}

#[test]
fn what_a_provider_says_of_credentials_that_were_replaced_is_of_no_consequence() {
    let verify =
        |number| Command::Verify { provider: E2b, credentials: version(number), finding: Finding::active() };
    let before = [configured(E2b, 1, None), configured(E2b, 2, Some(1))];
    given(&before).when((verify(2), facts())).then_expect_events(vec![verified(E2b, 2)]);
    given(&before).when((verify(1), facts())).then_expect_events(vec![]);
    let absent = Refusal::Absent("the provider e2b is not configured".to_owned());
    given(&[]).when((verify(1), facts())).then_expect_error(absent);
}

#[test]
fn a_provider_is_known_by_its_name_and_no_other() {
    for provider in ProviderName::ALL {
        assert_eq!(provider.as_str().parse(), Ok(provider));
    }
    assert_eq!("E2B".parse::<ProviderName>(), Err(Unknown));
}

fn any_command() -> impl Strategy<Value = Command> {
    let provider = prop::sample::select(ProviderName::ALL.to_vec());
    prop_oneof![
        (provider.clone(), any::<u128>(), any::<Option<bool>>())
            .prop_map(|(provider, number, is_default)| configure(provider, number, is_default)),
        any::<Option<bool>>().prop_map(|is_default| Command::ConfigureLocal { is_default }),
        provider.prop_map(Command::Remove),
    ]
}

proptest! {
    #[test]
    fn the_default_is_always_one_that_is_there_and_moves_by_its_own_event(
        commands in prop::collection::vec(any_command(), 0..40),
    ) {
        let mut state = State::default();
        let mut default = Local;
        for command in commands {
            for event in state.clone().decide(&command, &facts()).unwrap_or_default() {
                if let Event::ProviderDefaultChanged(changed) = &event {
                    prop_assert_eq!(changed.from, default);
                    prop_assert_ne!(changed.from, changed.to);
                    default = changed.to;
                }
                state.evolve(&event);
            }
            prop_assert_eq!(state.default_provider(), default);
            prop_assert!(default == Local || state.configured.contains_key(&default));
        }
    }
}
