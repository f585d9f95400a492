//! The log: its order, its guarantees under concurrency, and what happens when connections break.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use theazo::clock::{ManualClock, SystemClock};
use theazo::config;
use theazo::log::read::{self, Filter};
use theazo::log::{Answer, Answered, Answering, Failure, Holding, Log, Once, Tenant, merkle};
use theazo_domain::rates::Card;
use theazo_domain::session::Command;
use theazo_domain::{Event, Refusal, Subject};
use tokio::task::JoinSet;

use crate::support::logs::{World, ask, create, create_with, new_session_id, open, submission};
use crate::support::proxy::{Cut, Proxy};

/// All events of a tenant, oldest first.
async fn all(log: &Log, tenant: Tenant) -> Vec<theazo::log::Stored> {
    read::oldest(log.scope(tenant.id), &Filter::default(), 100_000).await.expect("the log is read")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_servers_give_one_order_without_a_gap() {
    let world = World::new().await;
    let servers = [world.server(), world.server()];
    let mut writers = JoinSet::new();
    for writer in 0..64 {
        let (log, tenant) = (Arc::clone(&servers[writer % 2]), world.tenant);
        writers.spawn(async move {
            for number in 0..10 {
                let session = new_session_id();
                let user = format!("user_{}", number % 3);
                log.execute(tenant, create(session, &user)).await.unwrap().unwrap();
                log.execute(tenant, ask(session, Command::Pause)).await.unwrap().unwrap();
                log.execute(tenant, ask(session, Command::Terminate)).await.unwrap().unwrap();
            }
        });
    }
    while let Some(done) = writers.join_next().await {
        done.unwrap();
    }

    let events = all(&servers[0], world.tenant).await;
    assert_eq!(events.len(), 1 + 64 * 10 * 3);
    let mut frontier = merkle::Frontier::default();
    let mut last_at = theazo_domain::time::Timestamp::default();
    for (position, event) in (1..).zip(&events) {
        assert_eq!(event.position, position);
        assert!(event.at >= last_at);
        last_at = event.at;
        assert_eq!(event.leaf_hash, merkle::leaf_hash(&world.tenant, event));
        frontier.push(event.leaf_hash);
    }
    let root: Vec<u8> =
        world.superuser().await.query_one("select root from heads", &[]).await.unwrap().get(0);
    assert_eq!(root, frontier.root());
    let people: i64 =
        world.superuser().await.query_one("select count(*) from end_users", &[]).await.unwrap().get(0);
    assert_eq!(people, 3);
}

/// Folds a log through the sessions' own rules: whether each event could happen in the state that it met.
fn assert_lawful(events: &[theazo::log::Stored]) {
    let mut open: HashMap<Subject, &str> = HashMap::new();
    for stored in events {
        let kind = stored.kind.strip_prefix("session.").unwrap_or_default();
        let session = stored.subjects.iter().find_map(|subject| match subject.parse() {
            Ok(Subject::Session(session)) => Some(Subject::Session(session)),
            _ => None,
        });
        let Some(session) = session else { continue };
        let before = open.insert(session, kind);
        let lawful = match kind {
            "created" => before.is_none(),
            "paused" => matches!(before, Some("created" | "resumed")),
            "resumed" => before == Some("paused"),
            "terminated" => matches!(before, Some("created" | "paused" | "resumed")),
            _ => false,
        };
        assert!(lawful, "{kind} behind {before:?} at position {}", stored.position);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_was_decided_before_another_servers_append_was_known_is_decided_again() {
    let world = World::new().await;
    let (busy, other) = (world.server(), world.server());
    let sessions: Vec<_> = std::iter::repeat_with(new_session_id).take(40).collect();
    for session in &sessions {
        busy.execute(world.tenant, create(*session, "user")).await.unwrap().unwrap();
    }
    // On one server they are paused and resumed without a rest, so that there is always a batch under way and another
    // decided behind it. On the other they are ended now and then, which the first cannot know in time.
    let mut writers = JoinSet::new();
    for session in sessions.clone() {
        for command in [Command::Pause, Command::Resume(Card::built_in().compute_rates())] {
            let (log, tenant) = (Arc::clone(&busy), world.tenant);
            writers.spawn(async move {
                loop {
                    match log.execute(tenant, ask(session, command.clone())).await.unwrap() {
                        Err(Refusal::Conflict(reason)) if reason.contains("terminated") => return,
                        _ => {}
                    }
                }
            });
        }
    }
    for session in &sessions {
        other.execute(world.tenant, ask(*session, Command::Terminate)).await.unwrap().unwrap();
    }
    writers.join_all().await;
    let events = all(&busy, world.tenant).await;
    assert_lawful(&events);
    assert_eq!(events.iter().filter(|event| event.kind == "session.terminated").count(), 40);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn hundreds_who_open_a_session_for_one_user_get_the_same_one() {
    let world = World::new().await;
    let servers = [world.server(), world.server()];
    let mut callers = JoinSet::new();
    for caller in 0..300 {
        let (log, tenant) = (Arc::clone(&servers[caller % 2]), world.tenant);
        callers.spawn(async move { log.execute(tenant, open("user_123")).await.unwrap() });
    }
    let (mut made, mut found) = (vec![], HashSet::new());
    while let Some(verdict) = callers.join_next().await {
        match verdict.unwrap() {
            Ok(accepted) => made.push(accepted.events[0].event.clone()),
            Err(Refusal::Existing(Subject::Session(session))) => {
                found.insert(session);
            }
            Err(refusal) => panic!("{refusal}"),
        }
    }
    let [Event::SessionCreated(created)] = &made[..] else { panic!("one session, not {made:?}") };
    assert_eq!(found, HashSet::from([created.session_id]));
}

/// A server that is busy looks for new end users beside the batch that it is writing. Whoever else brings them at that
/// moment, each is one, and has one session.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn end_users_who_are_looked_for_ahead_are_one_each_whoever_brings_them() {
    let world = World::new().await;
    let other = world.server();
    for round in 0..8 {
        // A new one, which does not yet know that somebody else appends too.
        let busy = world.server();
        let name = move |number: usize| format!("user_{round}_{number}");
        let next = Arc::new(AtomicUsize::new(0));
        let mut writers = JoinSet::new();
        for _ in 0..24 {
            let (log, tenant, next) = (Arc::clone(&busy), world.tenant, Arc::clone(&next));
            writers.spawn(async move {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= 300 {
                        return;
                    }
                    match log.execute(tenant, open(&name(number))).await.unwrap() {
                        Ok(_) | Err(Refusal::Existing(_)) => {}
                        Err(refusal) => panic!("{refusal}"),
                    }
                }
            });
        }
        while next.load(Ordering::Relaxed) < 60 {
            tokio::task::yield_now().await;
        }
        for number in (60..300).step_by(3) {
            match other.execute(world.tenant, open(&name(number))).await.unwrap() {
                Ok(_) | Err(Refusal::Existing(_)) => {}
                Err(refusal) => panic!("{refusal}"),
            }
        }
        writers.join_all().await;
    }

    let events = all(&other, world.tenant).await;
    assert_lawful(&events);
    let users: HashSet<String> = (events.iter().filter(|event| event.kind == "session.created"))
        .flat_map(|event| event.subjects.iter().filter(|subject| subject.starts_with("usr_")).cloned())
        .collect();
    assert_eq!(events.len(), 1 + 8 * 300, "each has one session");
    assert_eq!(users.len(), 8 * 300, "each session is another's");
    let sql = "select count(*), count(distinct external_id) from end_users";
    let row = world.superuser().await.query_one(sql, &[]).await.unwrap();
    assert_eq!((row.get::<_, i64>(0), row.get::<_, i64>(1)), (8 * 300, 8 * 300));
}

#[tokio::test]
async fn time_does_not_run_backwards_in_a_log() {
    let world = World::new().await;
    let clock = Arc::new(ManualClock::at(4_000_000_000_000));
    let log = world.server_at(&world.database.config(), Arc::<ManualClock>::clone(&clock));
    log.execute(world.tenant, create(new_session_id(), "user")).await.unwrap().unwrap();
    clock.advance(-3_600_000);
    log.execute(world.tenant, create(new_session_id(), "user")).await.unwrap().unwrap();
    let times: Vec<i64> = all(&log, world.tenant).await.iter().map(|event| event.at.millis()).collect();
    assert_eq!(times[1..], [4_000_000_000_000, 4_000_000_000_000]);
    let scope = log.scope(world.tenant.id);
    let moment = theazo_domain::time::Timestamp::from_millis(4_000_000_000_000);
    assert_eq!(read::position_before(scope, moment).await.unwrap(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_command_that_the_database_refuses_does_not_sink_its_neighbours() {
    let world = World::new().await;
    let log = world.server();
    let mut commands = JoinSet::new();
    for number in 0..40 {
        let (log, tenant) = (Arc::clone(&log), world.tenant);
        // PostgreSQL cannot hold a NUL. The API never lets one through; here it stands for any such refusal.
        let body = if number == 20 { "a\0b" } else { "{}" };
        let user = format!("user_{number}");
        commands.spawn(async move {
            (number, log.execute(tenant, create_with(new_session_id(), &user, body)).await.is_ok())
        });
    }
    let outcomes = commands.join_all().await;
    let failed: Vec<i32> = outcomes.iter().filter(|(_, ok)| !ok).map(|(number, _)| *number).collect();
    assert_eq!(failed, [20]);
    assert_eq!(all(&log, world.tenant).await.len(), 1 + 39);
    // What was refused is as if it had never been asked.
    log.execute(world.tenant, open("user_20")).await.unwrap().unwrap();
}

fn once(key: u8, request: u8) -> Once {
    Once { key: format!("key-{key}"), key_digest: [key; 32], fingerprint: [request; 32], hold: None }
}

/// Answers with the position of the first event, so that a second execution would show.
fn answering() -> Answering {
    Box::new(|_, verdict| {
        let (status, body) = match verdict {
            Ok(accepted) => (201, accepted.events[0].stored.position.to_string()),
            Err(refusal) => (409, refusal.to_string()),
        };
        Box::pin(async move { Ok(Answer { status, body: body.into_bytes() }) })
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn twins_with_one_idempotency_key_are_carried_out_once() {
    let world = World::new().await;
    let servers = [world.server(), world.server()];
    let mut twins = JoinSet::new();
    for twin in 0..60 {
        let (log, tenant) = (Arc::clone(&servers[twin % 2]), world.tenant);
        twins.spawn(async move {
            let submission = create(new_session_id(), "user");
            log.execute_once(tenant, submission, once(1, 1), answering()).await.unwrap()
        });
    }
    let answers: Vec<Answered> = twins.join_all().await;
    assert_eq!(answers.iter().filter(|answered| !answered.replayed).count(), 1);
    assert!(answers.iter().all(|answered| answered.answer == answers[0].answer));
    assert_eq!(all(&servers[0], world.tenant).await.len(), 2);

    // Another request under the same key, in the same batch or later, is told so.
    let later =
        servers[1].execute_once(world.tenant, create(new_session_id(), "user"), once(1, 2), answering());
    assert!(matches!(later.await, Err(Failure::KeyReused)));
    assert_eq!(all(&servers[0], world.tenant).await.len(), 2);
}

#[tokio::test]
async fn a_key_is_held_on_every_server_until_its_answer_is_kept_or_it_is_let_go_of() {
    let world = World::new().await;
    let (log, other, tenant) = (world.server(), world.server(), world.tenant);
    let carry_out = async |log: &Arc<Log>, once| {
        log.execute_once(tenant, create(new_session_id(), "user"), once, answering()).await
    };
    let hold = async || match log.hold(tenant.id, &once(1, 1)).await.unwrap() {
        Holding::Held(hold) => Once { hold: Some(hold), ..once(1, 1) },
        Holding::Answered(answered) => panic!("{answered:?}"),
    };
    let holder = hold().await;
    assert!(matches!(other.hold(tenant.id, &once(1, 1)).await, Err(Failure::KeyHeld)));
    assert!(matches!(carry_out(&other, once(1, 1)).await, Err(Failure::KeyHeld)));
    assert!(matches!(carry_out(&other, once(1, 2)).await, Err(Failure::KeyReused)));
    log.let_go(tenant.id, &holder).await.unwrap();
    let holder = hold().await;
    let first = carry_out(&log, holder).await.unwrap();
    assert!(!first.replayed);
    assert!(
        matches!(other.hold(tenant.id, &once(1, 1)).await, Ok(Holding::Answered(again)) if again.replayed && again.answer == first.answer)
    );
    assert!(matches!(other.hold(tenant.id, &once(1, 2)).await, Err(Failure::KeyReused)));
    assert_eq!(all(&log, tenant).await.len(), 2);
}

#[tokio::test]
async fn a_refusal_is_kept_for_its_key_and_its_content_is_encrypted() {
    let world = World::new().await;
    let log = world.server();
    let session = new_session_id();
    let ask_for_nothing = || ask(session, Command::Pause);
    let first = log.execute_once(world.tenant, ask_for_nothing(), once(1, 1), answering()).await.unwrap();
    assert_eq!((first.answer.status, first.replayed), (409, false));
    // The session comes into being; the answer to the repeated request stays what it was.
    log.execute(world.tenant, create(session, "user")).await.unwrap().unwrap();
    let other = world.server();
    let again = other.execute_once(world.tenant, ask_for_nothing(), once(1, 1), answering()).await.unwrap();
    assert_eq!((again.answer, again.replayed), (first.answer.clone(), true));
    let kept: Vec<u8> =
        world.superuser().await.query_one("select answer from idempotency", &[]).await.unwrap().get(0);
    let clear = first.answer.body;
    assert!(!kept.windows(clear.len()).any(|window| window == clear));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_commit_whose_connection_breaks_is_found_out_before_anything_is_answered() {
    for cut in [Cut::BeforeCommit, Cut::AfterCommit] {
        let world = World::new().await;
        let proxy = Proxy::before(&world.database);
        let log = world.server_at(&proxy.config(&world.database), Arc::new(SystemClock));
        log.execute(world.tenant, create(new_session_id(), "user_0")).await.unwrap().unwrap();

        proxy.cut_next(cut);
        let accepted = log.execute(world.tenant, create(new_session_id(), "user_1")).await.unwrap().unwrap();
        assert!(proxy.has_cut());
        assert_eq!(accepted.events[0].stored.position, 3, "{cut:?}");

        proxy.cut_next(cut);
        let submission = create(new_session_id(), "user_2");
        let answered = log.execute_once(world.tenant, submission, once(1, 1), answering()).await.unwrap();
        assert!(proxy.has_cut());
        assert_eq!((answered.answer.body, answered.replayed), (b"4".to_vec(), false), "{cut:?}");

        // A batch that makes nothing happen and only keeps an answer.
        proxy.cut_next(cut);
        let nothing = ask(new_session_id(), Command::Pause);
        let answered = log.execute_once(world.tenant, nothing, once(2, 1), answering()).await.unwrap();
        assert!(proxy.has_cut());
        assert_eq!((answered.answer.status, answered.replayed), (409, false));

        let positions: Vec<i64> = all(&log, world.tenant).await.iter().map(|event| event.position).collect();
        assert_eq!(positions, [1, 2, 3, 4], "{cut:?}");
    }
}

#[tokio::test]
async fn a_server_that_meets_a_newer_format_appends_no_more() {
    let world = World::new().await;
    let log = world.server();
    let session = new_session_id();
    log.execute(world.tenant, create(session, "user")).await.unwrap().unwrap();
    let superuser = world.superuser().await;
    superuser
        .batch_execute(
            "insert into events select tenant_id, 3, event_id, type, 2, subjects, data, metadata, at, leaf_hash
               from events where position = 2;
             insert into event_subjects select tenant_id, subject, 3 from event_subjects where position = 2;
             update heads set position = 3,
               frontier = frontier || (select leaf_hash from events where position = 3)",
        )
        .await
        .unwrap();
    let outcome = log.execute(world.tenant, ask(session, Command::Pause)).await;
    assert!(matches!(outcome, Err(Failure::Newer(_))), "{outcome:?}");
    assert!(log.newer().is_some());
    let outcome = log.execute(world.tenant, open("somebody")).await;
    assert!(matches!(outcome, Err(Failure::Newer(_))));
    assert_eq!(all(&log, world.tenant).await.len(), 3);
}

#[tokio::test]
async fn a_server_whose_read_models_are_older_appends_no_more() {
    let world = World::new().await;
    let log = world.server();
    world.superuser().await.batch_execute("update heads set projection_epoch = 1000").await.unwrap();
    let outcome = log.execute(world.tenant, open("user")).await;
    assert!(matches!(outcome, Err(Failure::Newer(_))), "{outcome:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_full_queue_refuses_and_what_it_took_is_carried_out() {
    let world = World::new().await;
    let log = world.server();
    log.open(world.tenant).await.unwrap();
    // Somebody holds the lock of the head, so nothing moves.
    let mut holder = world.superuser().await;
    let lock = holder.transaction().await.unwrap();
    lock.execute("select 1 from heads for update", &[]).await.unwrap();
    let mut callers = JoinSet::new();
    for number in 0..config::APPEND_QUEUE + config::APPEND_BATCH + 100 {
        let (log, tenant) = (Arc::clone(&log), world.tenant);
        callers.spawn(async move {
            match log.execute(tenant, create(new_session_id(), &format!("user_{number}"))).await {
                Ok(verdict) => verdict.is_ok(),
                Err(Failure::QueueFull) => false,
                Err(failure) => panic!("{failure}"),
            }
        });
    }
    // The refusals come at once, while the others wait for the lock.
    let first = callers.join_next().await.unwrap().unwrap();
    assert!(!first);
    lock.commit().await.unwrap();
    let done = callers.join_all().await.into_iter().filter(|done| *done).count();
    assert!(done >= config::APPEND_QUEUE, "{done} were carried out");
    assert_eq!(all(&log, world.tenant).await.len(), 1 + done);
}

#[tokio::test]
async fn a_long_lived_aggregate_is_loaded_from_its_snapshot() {
    let world = World::new().await;
    let log = world.server();
    let session = new_session_id();
    log.execute(world.tenant, create(session, "user")).await.unwrap().unwrap();
    for _ in 0..100 {
        for command in [Command::Pause, Command::Resume(Card::built_in().compute_rates())] {
            log.execute(world.tenant, ask(session, command)).await.unwrap().unwrap();
        }
    }
    let superuser = world.superuser().await;
    let sql = "select position from snapshots where subject = $1";
    let position: i64 = superuser.query_one(sql, &[&session.to_string()]).await.unwrap().get(0);
    assert!(position > 100);
    // Another server decides on it as this one does, also when what lies before the snapshot cannot be read.
    let sql = "delete from event_subjects where subject = $1 and position <= $2";
    superuser.execute(sql, &[&session.to_string(), &position]).await.unwrap();
    let other = world.server();
    let refused = other
        .execute(world.tenant, ask(session, Command::Resume(Card::built_in().compute_rates())))
        .await
        .unwrap();
    assert!(matches!(refused, Err(Refusal::Conflict(_))), "{refused:?}");
    other.execute(world.tenant, ask(session, Command::Pause)).await.unwrap().unwrap();
    // And the first one folds what the other has appended.
    log.execute(world.tenant, ask(session, Command::Resume(Card::built_in().compute_rates())))
        .await
        .unwrap()
        .unwrap();
}

#[tokio::test]
async fn a_closed_log_answers_what_it_took_and_takes_no_more() {
    let world = World::new().await;
    let log = world.server();
    let running = {
        let (log, tenant) = (Arc::clone(&log), world.tenant);
        log.open(tenant).await.unwrap();
        tokio::spawn(async move { log.execute(tenant, open("user")).await })
    };
    tokio::task::yield_now().await;
    log.close().await;
    let taken = running.await.unwrap();
    let events = all(&world.server(), world.tenant).await.len();
    match taken {
        Ok(verdict) => assert_eq!((verdict.is_ok(), events), (true, 2)),
        Err(failure) => assert_eq!((matches!(failure, Failure::Unavailable { .. }), events), (true, 1)),
    }
    let outcome = log.execute(world.tenant, open("user")).await;
    assert!(matches!(outcome, Err(Failure::Unavailable { outcome_unknown: false })));
}

#[tokio::test]
async fn an_organization_begins_once_in_each_log() {
    let world = World::new().await;
    let create = theazo_domain::organization::Command::Create {
        name: "Other".into(),
        mode: theazo_domain::organization::Mode::Live,
        plan: theazo_domain::organization::Plan::Free,
        rate_limit: None,
    };
    let command = theazo_domain::Command::Organization(world.tenant.organization_id, create);
    let refused = world.server().execute(world.tenant, submission(command)).await.unwrap();
    assert!(matches!(refused, Err(Refusal::Existing(_))));
}

#[tokio::test]
async fn a_change_of_an_open_session_enters_no_index() {
    let world = World::new().await;
    let (log, session) = (world.server(), new_session_id());
    log.execute(world.tenant, create(session, "user")).await.unwrap().unwrap();
    let superuser = world.superuser().await;
    let change = format!(
        "begin; update sessions set status = 'paused', limits = '{{}}', updated_at = now()
         where session_id = '{session}'"
    );
    superuser.batch_execute(&change).await.unwrap();
    let sql = "select pg_stat_get_xact_tuples_hot_updated('sessions'::regclass)";
    let heap_only: i64 = superuser.query_one(sql, &[]).await.unwrap().get(0);
    assert_eq!(heap_only, 1);
}
