use cqrs_es::test::TestFramework;
use ulid::Ulid;

use super::*;
use crate::bridge::Bridged;
use crate::id::OrganizationId;
use crate::time::Timestamp;
use crate::{Facts, Refusal, Subject};

fn key_id() -> KeyId {
    KeyId::from_ulid(Ulid::from_parts(1, 1))
}

fn facts() -> Facts {
    Facts {
        now: Timestamp::from_millis(0),
        subject: Subject::Key(key_id()),
        organization_id: OrganizationId::from_ulid(Ulid::from_parts(1, 7)),
        user: None,
        session: None,
        payers: crate::budget::Payers::default(),
        stock: crate::Stock::default(),
    }
}

fn create() -> Command {
    Command::Create { role: Role::Developer, digest: "ab".repeat(32), last_four: "wxyz".into() }
}

fn created() -> Event {
    Event::KeyCreated(Created {
        key_id: key_id(),
        role: Role::Developer,
        digest: "ab".repeat(32),
        last_four: "wxyz".into(),
    })
}

fn revoked() -> Event {
    Event::KeyRevoked(Revoked { key_id: key_id() })
}

fn given(events: Vec<Event>) -> cqrs_es::test::AggregateTestExecutor<Bridged<State>> {
    TestFramework::with(()).given(events)
}

#[test]
fn a_key_is_made_once() {
    let existing = Refusal::Existing(Subject::Key(key_id()));
    given(vec![]).when((create(), facts())).then_expect_events(vec![created()]);
    given(vec![created()]).when((create(), facts())).then_expect_error(existing.clone());
    given(vec![created(), revoked()]).when((create(), facts())).then_expect_error(existing);
}

#[test]
fn a_key_is_revoked_for_good() {
    given(vec![created()]).when((Command::Revoke, facts())).then_expect_events(vec![revoked()]);
    given(vec![created(), revoked()]).when((Command::Revoke, facts())).then_expect_events(vec![]);
}

#[test]
fn a_key_that_does_not_exist_cannot_be_revoked() {
    given(vec![])
        .when((Command::Revoke, facts()))
        .then_expect_error(Refusal::NotFound(Subject::Key(key_id())));
}
