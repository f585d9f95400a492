use theazo_domain::agent::Resumed;
use theazo_domain::agent_config::AgentConfig;
use theazo_domain::charge::{Booking, Place};
use theazo_domain::content::ContentRef;
use theazo_domain::definition::{Archived, Versioned};
use theazo_domain::event::Event;
use theazo_domain::id::{DefinitionId, SessionId, UserId, ValueId};
use theazo_domain::session::{Changed, Created, Limits, LimitsChanged};

use super::*;

fn session(number: u64) -> SessionId {
    format!("ses_01ARZ3NDEKTSV4RRFFQ69G5F{number:02}").parse().unwrap()
}

fn user() -> UserId {
    "usr_01ARZ3NDEKTSV4RRFFQ69G5FAV".parse().unwrap()
}

fn created(number: u64) -> Event {
    let (session_id, user_id) = (session(number), user());
    Event::SessionCreated(Created { session_id, user_id, limits: Limits::default(), metadata: None })
}

fn changed(number: u64) -> Changed {
    Changed { session_id: session(number), user_id: user() }
}

/// Folds these events, at positions from 1 and a second apart, through one projection.
fn fold(name: &str, events: &[Event]) -> Vec<Vec<change::Row>> {
    let mut changes = Changes::default();
    for (position, event) in (1..).zip(events) {
        let at = Timestamp::from_millis(position * 1_000);
        named(name).unwrap().fold(&Happened { position, at, event }, &mut changes);
    }
    changes.into_stages()
}

#[test]
fn a_session_that_was_paused_in_the_same_batch_is_one_row() {
    let stages = fold("sessions", &[created(1), Event::SessionPaused(changed(1))]);
    let [stage] = &stages[..] else { panic!("one stage") };
    let [row] = &stage[..] else { panic!("one row") };
    let change::Change::Put(values) = &row.change else { panic!("a put") };
    assert_eq!(values[1], Value::Text("paused".into()));
    assert_eq!(values[4], Value::Integer(1));
    assert_eq!(values[5], Value::Time(Timestamp::from_millis(1_000)));
    assert_eq!(values[6], Value::Time(Timestamp::from_millis(2_000)));
}

#[test]
fn a_change_of_limits_and_one_of_status_are_one_update() {
    let limits = Limits { max_agents: Some(2), ..Limits::default() };
    let limits_changed = LimitsChanged { session_id: session(1), user_id: user(), limits };
    let events = [Event::SessionPaused(changed(1)), Event::SessionLimitsChanged(limits_changed)];
    let stages = fold("sessions", &events);
    let change::Change::Update(values) = &stages[0][0].change else { panic!("an update") };
    let indexes: Vec<usize> = values.iter().map(|(index, _)| *index).collect();
    assert_eq!((stages.len(), stages[0].len(), indexes), (1, 1, vec![1, 2, 6, 7]));
    assert_eq!(values[1].1, change::Step::Set(Value::Json("{\"maxAgents\":2}".into())));
}

#[test]
fn a_new_session_counts_in_the_totals_and_for_its_user_and_writes_no_sums_of_its_own() {
    let events = [created(1), created(2), Event::SessionTerminated(changed(1))];
    for name in ["session_usage", "ledger", "usage_by_agent"] {
        assert!(fold(name, &events).is_empty(), "{name}");
    }
    let sessions = |name: &str, column: usize| -> Vec<Value> {
        let rows = fold(name, &events).into_iter().flatten();
        rows.map(|row| match row.change {
            change::Change::Update(steps) => steps[column].1.clone().into_value(),
            other => panic!("{other:?}"),
        })
        .collect()
    };
    assert_eq!(sessions("usage_totals", 14), vec![Value::Integer(2); 4]);
    assert_eq!(sessions("usage_by_user", 2), vec![Value::Integer(2); 3]);
}

fn definition() -> DefinitionId {
    "adef_01ARZ3NDEKTSV4RRFFQ69G5FAV".parse().unwrap()
}

fn version(version: i64) -> Versioned {
    let content_id = format!("cnt_01ARZ3NDEKTSV4RRFFQ69G5F{version:02}").parse().unwrap();
    let instructions = Some(ContentRef { content_id, sha256: "ab".repeat(32) });
    let config = AgentConfig { instructions, ..AgentConfig::default() };
    Versioned { definition_id: definition(), version, name: format!("v{version}"), config, metadata: None }
}

fn definition_events() -> [Event; 3] {
    let archived = Archived { definition_id: definition() };
    [
        Event::DefinitionCreated(version(1)),
        Event::DefinitionUpdated(version(2)),
        Event::DefinitionArchived(archived),
    ]
}

#[test]
fn a_definition_is_one_row_that_names_its_latest_version() {
    let stages = fold("definitions", &definition_events());
    assert_eq!((stages.len(), stages[0].len()), (1, 1));
    let change::Change::Put(values) = &stages[0][0].change else { panic!("a put") };
    let moment = |seconds: i64| Value::Time(Timestamp::from_millis(seconds * 1_000));
    let expected =
        [Value::Integer(2), Value::Text("archived".into()), Value::Integer(1), moment(1), moment(3)];
    assert_eq!(values, &expected);
    let stages = fold("definitions", &definition_events()[1..]);
    let change::Change::Update(values) = &stages[0][0].change else { panic!("an update") };
    assert_eq!(values.len(), 3);
}

#[test]
fn each_version_of_a_definition_is_a_row_of_its_own() {
    let stages = fold("definition_versions", &definition_events());
    let rows = &stages[0];
    assert_eq!((stages.len(), rows.len()), (1, 2));
    for (number, row) in (1..).zip(rows) {
        assert_eq!(row.key, [Value::Text(definition().to_string()), Value::Integer(number)]);
        let change::Change::Put(values) = &row.change else { panic!("a put") };
        let content = format!("cnt_01ARZ3NDEKTSV4RRFFQ69G5F{number:02}");
        let sha256 = "ab".repeat(32);
        let config = format!(r#"{{"instructions":{{"contentId":"{content}","sha256":"{sha256}"}}}}"#);
        let expected = [
            Value::Text(format!("v{number}")),
            Value::Json(config),
            Value::Text(content),
            Value::Null,
            Value::Time(Timestamp::from_millis(number * 1_000)),
        ];
        assert_eq!(values, &expected);
    }
}

#[test]
fn changes_that_cannot_be_merged_stay_in_their_order() {
    static TABLE: Table = Table {
        name: "counts",
        key: &[Column::text("name")],
        columns: &[Column::integer("count"), Column::text("note")],
    };
    let key = || vec![Value::Text("a".into())];
    let mut changes = Changes::default();
    changes.add(&TABLE, key(), [("count", Value::Integer(1))]);
    changes.delete(&TABLE, key());
    changes.add(&TABLE, key(), [("count", Value::Integer(5))]);
    let stages: Vec<Vec<change::Change>> = changes
        .into_stages()
        .into_iter()
        .map(|rows| rows.into_iter().map(|row| row.change).collect())
        .collect();
    let add = |count| change::Change::Update(vec![(0, change::Step::Add(Value::Integer(count)))]);
    assert_eq!(stages, [vec![change::Change::Delete], vec![add(5)]]);
}

#[test]
fn what_is_added_and_what_is_set_in_one_batch_are_one_update_of_the_row() {
    static TABLE: Table = Table {
        name: "counts",
        key: &[Column::text("name")],
        columns: &[Column::integer("count"), Column::integer("level"), Column::text("note")],
    };
    let key = || vec![Value::Text("a".into())];
    let mut changes = Changes::default();
    changes.add(&TABLE, key(), [("count", Value::Integer(1))]);
    changes.set(&TABLE, key(), [("note", Value::Text("x".into())), ("level", Value::Integer(7))]);
    changes.add(&TABLE, key(), [("count", Value::Integer(2)), ("level", Value::Integer(1))]);
    let stages = changes.into_stages();
    let [stage] = &stages[..] else { panic!("one stage") };
    let [row] = &stage[..] else { panic!("one row") };
    let steps = vec![
        (0, change::Step::Add(Value::Integer(3))),
        (1, change::Step::Set(Value::Integer(8))),
        (2, change::Step::Set(Value::Text("x".into()))),
    ];
    assert_eq!(row.change, change::Change::Update(steps));
}

#[test]
fn what_is_set_after_it_was_added_to_has_the_value_that_was_set() {
    static TABLE: Table =
        Table { name: "counts", key: &[Column::text("name")], columns: &[Column::integer("count")] };
    let key = || vec![Value::Text("a".into())];
    let mut changes = Changes::default();
    changes.add(&TABLE, key(), [("count", Value::Integer(1))]);
    changes.set(&TABLE, key(), [("count", Value::Integer(9))]);
    let stages = changes.into_stages();
    assert_eq!(stages[0][0].change, change::Change::Update(vec![(0, change::Step::Set(Value::Integer(9)))]));
}

#[test]
#[should_panic(expected = "sessions.status cannot hold Integer(1)")]
fn a_value_of_another_kind_is_a_mistake_of_the_fold() {
    let table = named("sessions").unwrap().table();
    Changes::default().set(table, vec![Value::Text("ses".into())], [("status", Value::Integer(1))]);
}

#[test]
fn a_default_that_is_removed_leaves_one_row_that_is_the_default() {
    use theazo_domain::provider::{Configured, DefaultChanged, Finding, ProviderName, Removed, Verified};
    let (provider, credentials) =
        (ProviderName::E2b, "val_01ARZ3NDEKTSV4RRFFQ69G5FAV".parse::<ValueId>().unwrap());
    let (from, to) = (ProviderName::Local, provider);
    let happened = [
        Event::ProviderConfigured(Configured { provider, credentials, replaces: None }),
        Event::ProviderVerified(Verified { provider, credentials, finding: Finding::active() }),
        Event::ProviderDefaultChanged(DefaultChanged { from, to }),
    ];
    let stages = fold("providers", &happened);
    let change::Change::Put(values) = &stages[0][0].change else { panic!("a put") };
    let shown =
        [(0, credentials.to_string()), (2, "active".to_owned())].map(|(at, text)| (at, Value::Text(text)));
    assert!(shown.into_iter().all(|(at, value)| values[at] == value) && values[1] == Value::Integer(1));
    let gone = [
        Event::ProviderDefaultChanged(DefaultChanged { from: to, to: from }),
        Event::ProviderRemoved(Removed { provider, credentials }),
    ];
    let stages = fold("providers", &gone);
    assert_eq!(stages[0][0].change, change::Change::Delete);
    let set = change::Change::Update(vec![(1, change::Step::Set(Value::Integer(1)))]);
    assert_eq!(stages[0][1].change, set);
}

#[test]
fn an_agent_that_waits_for_its_sandbox_changes_nothing_of_what_is_to_be_done() {
    let place = Place {
        agent_id: "agt_01ARZ3NDEKTSV4RRFFQ69G5FAV".parse().unwrap(),
        session_id: session(1),
        user_id: user(),
        organization_id: "org_01ARZ3NDEKTSV4RRFFQ69G5FAV".parse().unwrap(),
    };
    let task_id = Some("task_01ARZ3NDEKTSV4RRFFQ69G5FAV".parse().unwrap());
    let at = Timestamp::from_millis(1);
    let resumed = |waits| {
        let (asleep, slice_ms, rate, booking) = (false, 0, None, Booking::default());
        Event::AgentResumed(Resumed { place, at, task_id, asleep, waits, slice_ms, rate, booking })
    };
    // The sandbox is still to be suspended, made or woken; the task is run once it is ready.
    assert!(fold("work", &[resumed(true)]).iter().flatten().next().is_none());
    let stages = fold("work", &[resumed(false)]);
    assert_eq!(stages.iter().flatten().count(), 2);
}

#[test]
fn the_epoch_goes_up_with_every_change_of_the_set() {
    let set: Vec<String> = ALL
        .iter()
        .map(|projection| format!("{}@{}", projection.table().name, projection.version()))
        .collect();
    // When this list changes, raise EPOCH and write the new pair here.
    let expected = [
        "organization@1",
        "api_keys@1",
        "sessions@1",
        "session_usage@3",
        "definitions@1",
        "definition_versions@1",
        "secrets@1",
        "agents@1",
        "tasks@1",
        "execs@1",
        "work@4",
        "providers@1",
        "ledger@2",
        "usage_totals@1",
        "usage_by_user@1",
        "usage_by_agent@3",
        "budgets@1",
        "spending@1",
        "rate_cards@1",
        "unconfirmed_calls@2",
        "unrated_usage@1",
    ];
    assert_eq!((EPOCH, set), (12, expected.map(str::to_owned).to_vec()));
}
