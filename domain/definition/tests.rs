use cqrs_es::test::TestFramework;
use proptest::prelude::*;
use serde_json::{Value, json};
use ulid::Ulid;

use super::*;
use crate::agent_config::{ComputeConfig, ConfigPatch, ModelConfig, ProviderName};
use crate::bridge::Bridged;
use crate::id::ContentId;
use crate::time::Timestamp;
use crate::tool::Tool;
use crate::{Aggregate, Event, Facts, Refusal, Subject};

fn definition_id() -> DefinitionId {
    DefinitionId::from_ulid(Ulid::from_parts(1, 1))
}

fn subject() -> Subject {
    Subject::Definition(definition_id())
}

fn facts() -> Facts {
    Facts::new(
        Timestamp::from_millis(1_746_057_600_000),
        subject(),
        crate::id::OrganizationId::from_ulid(Ulid::from_parts(1, 7)),
    )
}

fn content(number: u128) -> ContentRef {
    ContentRef { content_id: ContentId::from_ulid(Ulid(number)), sha256: "ab".repeat(32) }
}

fn config() -> AgentConfig {
    AgentConfig {
        instructions: Some(content(1)),
        tools: Some(vec![Tool::WebSearch, Tool::WriteFile]),
        model: Some(ModelConfig {
            id: "claude-sonnet-4-20250514".into(),
            max_tokens: Some(1_024),
            temperature: Some("0.7".parse().unwrap()),
        }),
        compute: Some(ComputeConfig { provider: Some(ProviderName::E2b), timeout: Some(300) }),
    }
}

fn create() -> Command {
    Command::Create(Details {
        name: "Research Assistant".into(),
        config: config(),
        metadata: Some(content(2)),
    })
}

fn made(version: i64) -> Versioned {
    Versioned {
        definition_id: definition_id(),
        version,
        name: "Research Assistant".into(),
        config: config(),
        metadata: Some(content(2)),
    }
}

fn created() -> Event {
    Event::DefinitionCreated(made(1))
}

fn archived() -> Event {
    Event::DefinitionArchived(Archived { definition_id: definition_id() })
}

fn given(events: Vec<Event>) -> cqrs_es::test::AggregateTestExecutor<Bridged<State>> {
    TestFramework::with(()).given(events)
}

#[test]
fn a_definition_begins_with_version_1_and_is_created_once() {
    given(vec![]).when((create(), facts())).then_expect_events(vec![created()]);
    given(vec![created()]).when((create(), facts())).then_expect_error(Refusal::Existing(subject()));
    given(vec![created(), archived()])
        .when((create(), facts()))
        .then_expect_error(Refusal::Existing(subject()));
}

#[test]
fn nothing_can_be_asked_of_a_definition_that_does_not_exist() {
    for command in [Command::Update(DetailsPatch::default()), Command::Archive] {
        given(vec![]).when((command, facts())).then_expect_error(Refusal::NotFound(subject()));
    }
}

#[test]
fn an_update_makes_the_next_version_and_keeps_what_it_leaves_out() {
    let patch = DetailsPatch {
        name: Some("Assistant".into()),
        config: ConfigPatch {
            instructions: Some(Some(content(3))),
            compute: Some(None),
            ..ConfigPatch::default()
        },
        metadata: Some(None),
    };
    let next = Versioned {
        name: "Assistant".into(),
        config: AgentConfig { instructions: Some(content(3)), compute: None, ..config() },
        metadata: None,
        ..made(2)
    };
    given(vec![created()])
        .when((Command::Update(patch), facts()))
        .then_expect_events(vec![Event::DefinitionUpdated(next)]);
    given(vec![created(), Event::DefinitionUpdated(made(2))])
        .when((Command::Update(DetailsPatch::default()), facts()))
        .then_expect_events(vec![Event::DefinitionUpdated(made(3))]);
}

#[test]
fn an_archived_definition_is_not_updated_and_archiving_twice_is_fine() {
    given(vec![created()]).when((Command::Archive, facts())).then_expect_events(vec![archived()]);
    given(vec![created(), archived()]).when((Command::Archive, facts())).then_expect_events(vec![]);
    given(vec![created(), archived()])
        .when((Command::Update(DetailsPatch::default()), facts()))
        .then_expect_error(Refusal::Conflict(format!("{} is archived", definition_id())));
}

#[test]
fn the_events_are_written_in_a_form_that_is_read_for_ever() {
    let reference =
        |number: u128| json!({ "contentId": content(number).content_id, "sha256": "ab".repeat(32) });
    let data = json!({
        "definitionId": definition_id(), "version": 1, "name": "Research Assistant",
        "instructions": reference(1), "tools": ["web_search", "write_file"],
        "model": { "id": "claude-sonnet-4-20250514", "maxTokens": 1024, "temperature": "0.7" },
        "compute": { "provider": "e2b", "timeout": 300 }, "metadata": reference(2),
    });
    let least = Versioned { config: AgentConfig::default(), metadata: None, ..made(2) };
    let least_data = json!({ "definitionId": definition_id(), "version": 2, "name": "Research Assistant" });
    for (event, kind, data) in [
        (created(), "definition.created", data),
        (Event::DefinitionUpdated(least), "definition.updated", least_data),
        (archived(), "definition.archived", json!({ "definitionId": definition_id() })),
    ] {
        let written = event.write();
        assert_eq!(written.kind, kind);
        assert_eq!(serde_json::from_str::<Value>(&written.data).unwrap(), data);
        assert_eq!(Event::read(kind, &data.to_string()).unwrap(), event);
        assert_eq!(event.subjects(), [subject()]);
    }
}

fn any_command() -> impl Strategy<Value = Command> {
    prop_oneof![
        3 => Just(create()),
        5 => any::<Option<String>>()
            .prop_map(|name| Command::Update(DetailsPatch { name, ..DetailsPatch::default() })),
        1 => Just(Command::Archive),
    ]
}

proptest! {
    #[test]
    fn versions_are_1_2_3_without_a_gap_until_it_is_archived(
        commands in prop::collection::vec(any_command(), 0..40),
    ) {
        let mut state = State::default();
        let mut versions = 0;
        for command in commands {
            for event in state.decide(&command, &facts()).unwrap_or_default() {
                prop_assert_ne!(state.status(), Some(Status::Archived));
                state.evolve(&event);
                if let Event::DefinitionCreated(made) | Event::DefinitionUpdated(made) = &event {
                    versions += 1;
                    prop_assert_eq!(made.version, versions);
                    prop_assert_eq!(state.latest(), Some(made));
                }
            }
        }
    }
}
