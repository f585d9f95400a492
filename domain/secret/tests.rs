use proptest::prelude::*;
use ulid::Ulid;

use super::*;
use crate::Refusal;

fn holder() -> Holder {
    Holder::Session {
        session_id: SessionId::from_ulid(Ulid::from_parts(1, 1)),
        user_id: UserId::from_ulid(Ulid::from_parts(1, 2)),
    }
}

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn version(number: u128) -> ValueId {
    ValueId::from_ulid(Ulid::from_parts(2, number))
}

fn set(text: &str, number: u128) -> Command {
    let master_key_id = "mk_1".to_owned();
    Command::Set { name: name(text), version: version(number), master_key_id, together: 100 }
}

/// Carries commands out one after the other.
fn after(commands: &[Command]) -> Shelf {
    let mut shelf = Shelf::default();
    for command in commands {
        for event in shelf.decide(command, holder()).unwrap() {
            shelf.evolve(&event);
        }
    }
    shelf
}

#[test]
fn a_name_has_1_to_128_letters_digits_underscores_and_hyphens() {
    for good in ["a", "A-b_9", &"x".repeat(128)] {
        assert_eq!(good.parse::<Name>().unwrap().as_str(), good);
    }
    for bad in ["", &"x".repeat(129), "a b", "a.b", "a/b", "é", "a\n", "a\0"] {
        assert!(bad.parse::<Name>().is_err(), "{bad:?}");
    }
}

#[test]
fn a_scope_is_written_as_org_or_as_the_session() {
    let session = holder().scope();
    assert_eq!(session.to_string().parse(), Ok(session));
    assert_eq!("org".parse(), Ok(Scope::Organization));
    assert!("organization".parse::<Scope>().is_err());
    assert_eq!(Scope::Organization.place(&name("A")), "secret/org/A");
}

#[test]
fn setting_a_secret_again_says_which_version_it_replaces() {
    let first = Shelf::default().decide(&set("A", 1), holder()).unwrap();
    let Event::SecretSet(first) = &first[0] else { panic!("a secret was set") };
    assert_eq!((first.version, first.replaces), (version(1), None));
    let again = after(&[set("A", 1)]).decide(&set("A", 2), holder()).unwrap();
    let Event::SecretSet(again) = &again[0] else { panic!("a secret was set") };
    assert_eq!((again.version, again.replaces), (version(2), Some(version(1))));
}

#[test]
fn a_deleted_secret_is_gone_and_can_be_set_anew() {
    let shelf = after(&[set("A", 1), Command::Delete { name: name("A") }]);
    assert!(shelf.is_empty());
    let gone = shelf.decide(&Command::Delete { name: name("A") }, holder());
    assert_eq!(gone, Err(Refusal::Absent("the secret A does not exist".to_owned())));
    let anew = shelf.decide(&set("A", 2), holder()).unwrap();
    let Event::SecretSet(anew) = &anew[0] else { panic!("a secret was set") };
    assert_eq!(anew.replaces, None);
}

#[test]
fn a_scope_that_is_full_takes_no_new_name_but_new_values() {
    let commands: Vec<Command> =
        (0..MOST_IN_SCOPE).map(|number| set(&format!("N{number}"), number as u128)).collect();
    let shelf = after(&commands);
    assert!(matches!(shelf.decide(&set("ONE_MORE", 1), holder()), Err(Refusal::Conflict(_))));
    assert!(shelf.decide(&set("N7", 1), holder()).is_ok());
}

#[test]
fn the_secrets_of_a_scope_have_a_size_together() {
    let sized = |together| Command::Set {
        name: name("A"),
        version: version(1),
        master_key_id: "mk_1".to_owned(),
        together,
    };
    let shelf = after(&[set("A", 2)]);
    assert!(shelf.decide(&sized(MOST_BYTES_IN_SCOPE), holder()).is_ok());
    let refused = shelf.decide(&sized(MOST_BYTES_IN_SCOPE + 1), holder());
    assert!(matches!(refused, Err(Refusal::TooMuch(_))), "{refused:?}");
}

#[test]
fn the_events_are_written_as_they_will_always_be_read() {
    let command = set("DB_PASSWORD", 1);
    let session = Shelf::default().decide(&command, holder()).unwrap().remove(0);
    let organization_id = OrganizationId::from_ulid(Ulid::from_parts(1, 3));
    let shelf = after(&[set("DB_PASSWORD", 2)]);
    let replaced = shelf.decide(&command, Holder::Organization { organization_id }).unwrap().remove(0);
    let deleted = Command::Delete { name: name("DB_PASSWORD") };
    let deleted = shelf.decide(&deleted, Holder::Organization { organization_id }).unwrap().remove(0);
    for event in [&session, &replaced, &deleted] {
        let written = event.write();
        assert_eq!(Event::read(&written.kind, &written.data).unwrap(), *event);
    }
    assert_eq!(
        session.write().data,
        "{\"sessionId\":\"ses_00000000010000000000000001\",\"userId\":\"usr_00000000010000000000000002\",\
         \"name\":\"DB_PASSWORD\",\"version\":\"val_00000000020000000000000001\",\"masterKeyId\":\"mk_1\"}"
    );
    assert_eq!(
        replaced.write().data,
        "{\"organizationId\":\"org_00000000010000000000000003\",\"name\":\"DB_PASSWORD\",\
         \"version\":\"val_00000000020000000000000001\",\"replaces\":\"val_00000000020000000000000002\",\
         \"masterKeyId\":\"mk_1\"}"
    );
    assert_eq!(
        deleted.write().data,
        "{\"organizationId\":\"org_00000000010000000000000003\",\"name\":\"DB_PASSWORD\",\
         \"version\":\"val_00000000020000000000000002\"}"
    );
}

proptest! {
    #[test]
    fn the_shelf_is_what_was_set_last_and_not_deleted(steps in proptest::collection::vec((0..5_usize, any::<bool>()), 0..40)) {
        let (mut shelf, mut expected) = (Shelf::default(), BTreeMap::new());
        for (number, (which, sets)) in steps.into_iter().enumerate() {
            let text = ["A", "B", "C", "a", "b"][which];
            let command = if sets { set(text, number as u128) } else { Command::Delete { name: name(text) } };
            let decided = shelf.decide(&command, holder());
            let held = if sets {
                expected.insert(name(text), version(number as u128))
            } else {
                expected.remove(&name(text))
            };
            prop_assert_eq!(decided.is_ok(), sets || held.is_some());
            for event in decided.unwrap_or_default() {
                shelf.evolve(&event);
            }
            prop_assert_eq!(&shelf.0, &expected);
        }
    }
}
