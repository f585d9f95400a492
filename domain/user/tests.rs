use cqrs_es::test::TestFramework;
use proptest::prelude::*;
use ulid::Ulid;

use super::*;
use crate::bridge::Bridged;
use crate::command::Person;
use crate::id::{OrganizationId, UserId};
use crate::session::{Changed, Created, Limits, Opening};
use crate::time::Timestamp;
use crate::{Aggregate, Event, Facts, Refusal, Subject};

fn user_id() -> UserId {
    UserId::from_ulid(Ulid::from_parts(1, 2))
}

fn session(number: u64) -> SessionId {
    SessionId::from_ulid(Ulid::from_parts(number, 0))
}

fn facts() -> Facts {
    Facts {
        now: Timestamp::from_millis(1_746_057_600_000),
        subject: Subject::User(user_id()),
        user: Some(user_id()),
        organization_id: OrganizationId::from_ulid(Ulid::from_parts(1, 7)),
        session: None,
        payers: crate::budget::Payers::default(),
        stock: crate::Stock::default(),
    }
}

fn open(number: u64) -> Command {
    let person = Person { external_id: "user_123".into(), new_id: user_id() };
    Command::OpenSession {
        session_id: session(number),
        opening: Opening { person, limits: Limits::default(), metadata: None },
    }
}

fn created(number: u64) -> Event {
    let (session_id, user_id) = (session(number), user_id());
    Event::SessionCreated(Created { session_id, user_id, limits: Limits::default(), metadata: None })
}

fn ended(number: u64) -> Event {
    Event::SessionTerminated(Changed { session_id: session(number), user_id: user_id() })
}

fn given(events: Vec<Event>) -> cqrs_es::test::AggregateTestExecutor<Bridged<State>> {
    TestFramework::with(()).given(events)
}

#[test]
fn a_new_user_gets_a_session() {
    given(vec![]).when((open(1), facts())).then_expect_events(vec![created(1)]);
}

#[test]
fn an_open_session_is_used_again_and_the_newest_first() {
    let existing = |number| Refusal::Existing(Subject::Session(session(number)));
    given(vec![created(1)]).when((open(9), facts())).then_expect_error(existing(1));
    given(vec![created(1), created(2)]).when((open(9), facts())).then_expect_error(existing(2));
    given(vec![created(1), created(2), ended(2)]).when((open(9), facts())).then_expect_error(existing(1));
}

#[test]
fn a_paused_session_is_still_open() {
    let paused = Event::SessionPaused(Changed { session_id: session(1), user_id: user_id() });
    given(vec![created(1), paused])
        .when((open(9), facts()))
        .then_expect_error(Refusal::Existing(Subject::Session(session(1))));
}

#[test]
fn when_all_have_ended_there_is_a_new_one() {
    given(vec![created(1), ended(1)]).when((open(2), facts())).then_expect_events(vec![created(2)]);
}

proptest! {
    #[test]
    fn the_newest_open_session_is_the_last_created_of_those_not_ended(
        steps in prop::collection::vec((any::<bool>(), 0..20_u64), 0..60),
    ) {
        let mut state = State::default();
        let mut model: Vec<u64> = vec![];
        for (index, (create, pick)) in steps.into_iter().enumerate() {
            if create {
                let number = 100 + u64::try_from(index).unwrap();
                state.evolve(&created(number));
                model.push(number);
            } else if let Some(number) = model.get(usize::try_from(pick).unwrap()).copied() {
                state.evolve(&ended(number));
                model.retain(|open| *open != number);
            }
            prop_assert_eq!(state.newest_open(), model.last().map(|number| session(*number)));
        }
    }
}
