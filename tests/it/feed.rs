//! Following a log: replay, then live, without a gap or a repeat, on the server that appends and on others.

use std::sync::Arc;
use std::time::Duration;

use theazo::config;
use theazo::log::{FeedReader, Log, Stored};
use theazo_domain::session::Command;
use tokio::task::JoinSet;

use crate::support::logs::{World, ask, create, new_session_id};

/// The next events; it is a failure when none come for long.
async fn next(reader: &mut FeedReader) -> Vec<Arc<Stored>> {
    let next = tokio::time::timeout(Duration::from_secs(60), reader.next()).await;
    next.expect("an event comes").expect("the feed goes on")
}

async fn read_to(reader: &mut FeedReader, position: i64) -> Vec<Arc<Stored>> {
    let mut events = vec![];
    while reader.position() < position {
        events.extend(next(reader).await);
    }
    events
}

fn positions(events: &[Arc<Stored>]) -> Vec<i64> {
    events.iter().map(|event| event.position).collect()
}

async fn append(log: &Arc<Log>, world: &World, sessions: i64) {
    let mut commands = JoinSet::new();
    for number in 0..sessions {
        let (log, tenant) = (Arc::clone(log), world.tenant);
        commands.spawn(async move {
            log.execute(tenant, create(new_session_id(), &format!("user_{number}"))).await.unwrap().unwrap();
        });
    }
    commands.join_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_reader_on_either_server_gets_every_event_once_and_in_order() {
    let world = World::new().await;
    let (here, there) = (world.server(), world.server());
    let listening = [here.listen(), there.listen()];
    append(&here, &world, 200).await;
    let mut readers = JoinSet::new();
    for (number, after) in [0, 7, 200, 201].into_iter().enumerate() {
        for log in [&here, &there] {
            let mut reader = log.follow(world.tenant, Some(after)).await.unwrap();
            readers.spawn(async move {
                let events = read_to(&mut reader, 1_001).await;
                assert_eq!(positions(&events), (after + 1..=1_001).collect::<Vec<_>>(), "reader {number}");
            });
        }
    }
    for log in [&here, &there, &here, &there] {
        append(log, &world, 200).await;
    }
    for outcome in readers.join_all().await {
        outcome
    }
    for task in listening {
        task.abort();
    }
}

#[tokio::test]
async fn without_a_position_a_reader_begins_now() {
    let world = World::new().await;
    let log = world.server();
    append(&log, &world, 5).await;
    let mut reader = log.follow(world.tenant, None).await.unwrap();
    append(&log, &world, 1).await;
    assert_eq!(positions(&next(&mut reader).await), [7]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_reader_further_behind_than_memory_reaches_reads_the_log() {
    let world = World::new().await;
    let log = world.server();
    let mut early = log.follow(world.tenant, Some(0)).await.unwrap();
    let session = new_session_id();
    log.execute(world.tenant, create(session, "user")).await.unwrap().unwrap();
    let rounds = i64::try_from(config::FEED_EVENTS).unwrap() / 2 + 50;
    for chunk in 0..rounds / 50 {
        // Many callers, so that they share commits.
        let mut commands = JoinSet::new();
        for number in 0..100 {
            let (log, tenant) = (Arc::clone(&log), world.tenant);
            let user = format!("user_{chunk}_{number}");
            commands.spawn(async move { log.execute(tenant, create(new_session_id(), &user)).await });
        }
        commands.join_all().await;
    }
    let end = 2 + rounds / 50 * 100;
    assert_eq!(positions(&read_to(&mut early, end).await), (1..=end).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn thousands_of_quiet_readers_are_woken_without_a_query() {
    let world = World::new().await;
    let log = world.server();
    let session = new_session_id();
    log.execute(world.tenant, create(session, "user")).await.unwrap().unwrap();
    let mut readers = vec![];
    for _ in 0..2_000 {
        readers.push(log.follow(world.tenant, None).await.unwrap());
    }
    // From here on the server may not read an event, so what the readers get cannot come from a query.
    let superuser = world.superuser().await;
    superuser.batch_execute("revoke select on events from theazo_serve").await.unwrap();
    log.execute(world.tenant, ask(session, Command::Pause)).await.unwrap().unwrap();
    for reader in &mut readers {
        assert_eq!(positions(&next(reader).await), [3]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_server_whose_listening_connection_was_cut_catches_up() {
    let world = World::new().await;
    let (here, there) = (world.server(), world.server());
    let listening = there.listen();
    let mut reader = there.follow(world.tenant, None).await.unwrap();
    append(&here, &world, 1).await;
    assert_eq!(positions(&next(&mut reader).await), [2]);
    let superuser = world.superuser().await;
    let cut = "select count(pg_terminate_backend(pid)) from pg_stat_activity
               where datname = current_database() and query like '%listen theazo_log%' and pid <> pg_backend_pid()";
    let number: i64 = superuser.query_one(cut, &[]).await.unwrap().get(0);
    assert_eq!(number, 1);
    append(&here, &world, 1).await;
    assert_eq!(positions(&next(&mut reader).await), [3]);
    listening.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_notice_of_what_was_never_committed_leads_nobody_astray() {
    let world = World::new().await;
    let (here, there) = (world.server(), world.server());
    let listening = there.listen();
    let mut reader = there.follow(world.tenant, None).await.unwrap();
    append(&here, &world, 1).await;
    assert_eq!(positions(&next(&mut reader).await), [2]);
    // A server sends its notice behind its COMMIT, which may have failed.
    let superuser = world.superuser().await;
    let notice = format!("select pg_notify('theazo_log', '{}:1000000')", world.tenant.id.0);
    superuser.batch_execute(&notice).await.unwrap();
    append(&here, &world, 1).await;
    assert_eq!(positions(&next(&mut reader).await), [3]);
    append(&there, &world, 1).await;
    assert_eq!(positions(&next(&mut reader).await), [4]);
    listening.abort();
}
