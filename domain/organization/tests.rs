use cqrs_es::test::TestFramework;
use ulid::Ulid;

use super::*;
use crate::bridge::Bridged;
use crate::time::Timestamp;
use crate::{Facts, Refusal, Subject};

fn id() -> OrganizationId {
    OrganizationId::from_ulid(Ulid::from_parts(1, 1))
}

fn facts() -> Facts {
    Facts {
        now: Timestamp::from_millis(0),
        subject: Subject::Organization(id()),
        organization_id: OrganizationId::from_ulid(Ulid::from_parts(1, 7)),
        user: None,
        session: None,
        payers: crate::budget::Payers::default(),
        stock: crate::Stock::default(),
    }
}

fn create() -> Command {
    Command::Create { name: "Acme".into(), mode: Mode::Test, plan: Plan::Team, rate_limit: None }
}

fn created() -> Event {
    Event::OrganizationCreated(Created {
        organization_id: id(),
        name: "Acme".into(),
        mode: Mode::Test,
        plan: Plan::Team,
        rate_limit: None,
    })
}

fn given(events: Vec<Event>) -> cqrs_es::test::AggregateTestExecutor<Bridged<State>> {
    TestFramework::with(()).given(events)
}

#[test]
fn an_organization_begins_once() {
    given(vec![]).when((create(), facts())).then_expect_events(vec![created()]);
    given(vec![created()])
        .when((create(), facts()))
        .then_expect_error(Refusal::Existing(Subject::Organization(id())));
}

#[test]
fn plans_allow_what_the_reference_says() {
    let limits = [Plan::Free, Plan::Cloud, Plan::Team].map(Plan::requests_per_minute);
    assert_eq!(limits, [60, 300, 1_000]);
}
