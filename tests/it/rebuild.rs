//! Read models are folds of the log: rebuilt they are identical, and what differs is found.

use std::sync::Arc;

use rust_decimal::Decimal;
use theazo::log::rebuild::{self, Report};
use theazo::log::{Failure, Log, Tenant};
use theazo::random;
use theazo_domain::agent::{self, ModelRates, Tokens};
use theazo_domain::billing;
use theazo_domain::charge::{Price, Rate};
use theazo_domain::content::ContentRef;
use theazo_domain::id::{AgentId, CallId, ContentId, ExecId, SessionId, TaskId};
use theazo_domain::rates::{Card, ComputeRates};
use theazo_domain::session::Command;
use theazo_projections::ALL;
use tokio::task::JoinSet;

use crate::support::logs::{
    World, ask, create, create_with, definition_of_two_versions, new_agent, new_session_id, now, submission,
};
use crate::support::wait;

async fn live_through(log: &Arc<Log>, tenant: Tenant, sessions: usize) {
    let mut commands = JoinSet::new();
    for number in 0..sessions {
        let log = Arc::clone(log);
        commands.spawn(async move {
            let session = new_session_id();
            let user = format!("user_{}", number % 7);
            log.execute(tenant, create_with(session, &user, "{\"a\":1}")).await.unwrap().unwrap();
            if number % 4 < 3 && number % 5 == 0 {
                live_as_an_agent(&log, tenant, session, number).await;
            }
            for command in
                [Command::Pause, Command::Resume(Card::built_in().compute_rates()), Command::Terminate]
                    .into_iter()
                    .take(number % 4)
            {
                log.execute(tenant, ask(session, command)).await.unwrap().unwrap();
            }
            if number % 100 == 0 {
                log.execute(tenant, submission(import(number))).await.unwrap().unwrap();
            }
            if number % 8 == 0 {
                for submission in definition_of_two_versions() {
                    log.execute(tenant, submission).await.unwrap().unwrap();
                }
            }
        });
    }
    commands.join_all().await;
}

/// A rate card of its own version.
fn import(number: usize) -> theazo_domain::Command {
    let (version, built_in) = (format!("card-{number}"), Card::built_in());
    let card =
        Card { version: version.clone(), models: built_in.models[..2].to_vec(), ..(**built_in).clone() };
    let command = billing::Command::ImportRates { card: Box::new(card), sha256: version };
    theazo_domain::Command::Billing(command)
}

/// A call that is answered and has no price, and one that is lost, which becomes known of some.
fn calls(number: usize, reply: ContentRef) -> Vec<agent::Command> {
    let [answered, lost] = [(); 2].map(|()| CallId::from_ulid(random::ulid(now())));
    let tokens = Tokens { input: 10, output: 10, ..Tokens::default() };
    let open = |call_id| {
        agent::Command::OpenCall(agent::Opening {
            epoch: 1,
            call_id,
            model: format!("model-{}", number % 3),
            own_key: false,
            worst_case: tokens,
            rates: ModelRates { rate_card: "1".into(), prices: None },
        })
    };
    let answer = agent::Answer {
        call_id: answered,
        tokens: Some(tokens),
        stop: agent::Stop::Complete,
        reply,
        tool_calls: 0,
        vendor_id: None,
        completes: false,
    };
    let reason = "it broke off".to_owned();
    let mut commands = vec![
        open(answered),
        agent::Command::SettleCall(answer),
        open(lost),
        agent::Command::LoseCall { call_id: lost, reason, vendor_id: Some("v".to_owned()), told: None },
    ];
    if number.is_multiple_of(2) {
        commands.push(agent::Command::ReconcileCall { call_id: lost, tokens: Some(tokens) });
    }
    commands
}

/// An agent of the session, with a task and a caller's program under way.
async fn live_as_an_agent(log: &Arc<Log>, tenant: Tenant, session: SessionId, number: usize) {
    let agent_id = AgentId::from_ulid(random::ulid(now()));
    let rate = Rate { price: Some(Price { amount: Decimal::new(5, 3), per: 60_000 }), rate_card: "1".into() };
    let compute = ComputeRates { own: rate.clone(), managed: rate };
    let new = agent::NewAgent { browser: number.is_multiple_of(2), compute, ..new_agent(agent_id) };
    let task_id = TaskId::from_ulid(random::ulid(now()));
    let exec_id = ExecId::from_ulid(random::ulid(now()));
    let reference = || {
        let content_id = ContentId::from_ulid(random::ulid(now()));
        ContentRef { content_id, sha256: "00".repeat(32) }
    };
    log.execute(tenant, ask(session, Command::AddAgent(Box::new(new)))).await.unwrap().unwrap();
    let begin = [
        agent::Command::Provisioned { sandbox: "here".into() },
        agent::Command::Run { task_id, task: reference(), model: agent::ModelCost::Priced },
        agent::Command::Claim { task_id },
        agent::Command::StartExec { exec_id, language: "bash".into(), code: reference() },
    ];
    for command in begin.into_iter().chain(calls(number, reference())) {
        log.execute(tenant, submission(theazo_domain::Command::Agent(agent_id, command)))
            .await
            .unwrap()
            .unwrap();
    }
}

fn assert_clean(report: &Report) {
    assert!(report.equal, "{report:?}");
    assert!(report.differing.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn every_read_model_rebuilt_while_others_append_is_identical() {
    let world = World::new().await;
    let (log, other) = (world.server(), world.server());
    live_through(&log, world.tenant, 400).await;
    let appending = {
        let tenant = world.tenant;
        tokio::spawn(async move { live_through(&other, tenant, 400).await })
    };
    for projection in ALL {
        assert_clean(&rebuild::compare(&log, world.tenant, projection).await.unwrap());
        let report = rebuild::rebuild(&log, world.tenant, projection).await.unwrap();
        assert_clean(&report);
        assert!(report.switched);
    }
    appending.await.unwrap();
    for projection in ALL {
        let report = rebuild::compare(&log, world.tenant, projection).await.unwrap();
        assert_clean(&report);
        assert!(report.rows > 0 || ["api_keys", "secrets", "budgets"].contains(&projection.table().name));
    }
    let builds = rebuild::list(log.scope(world.tenant.id)).await.unwrap();
    assert_eq!(builds.len(), ALL.len());
    assert!(builds.iter().all(|build| build.state == "live" && build.build == 2), "{builds:?}");
    // No row of another build is left.
    for projection in ALL {
        let sql = format!("select count(*) from {} where build <> 2", projection.table().name);
        let left: i64 = world.superuser().await.query_one(&sql, &[]).await.unwrap().get(0);
        assert_eq!(left, 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_log_of_several_pages_is_folded_to_its_end() {
    let world = World::new().await;
    let log = world.server();
    for _ in 0..4 {
        live_through(&log, world.tenant, 640).await;
    }
    let sessions = theazo_projections::named("sessions").unwrap();
    let rebuilding = async {
        let compared = rebuild::compare(&log, world.tenant, sessions).await.unwrap();
        (compared, rebuild::rebuild(&log, world.tenant, sessions).await.unwrap())
    };
    let deadline = std::time::Duration::from_secs(60);
    let (compared, rebuilt) = tokio::time::timeout(deadline, rebuilding).await.expect("it comes to an end");
    assert!(compared.events > theazo::config::LOG_PAGE, "{compared:?}");
    for report in [compared, rebuilt] {
        assert_clean(&report);
        assert_eq!(report.rows, 4 * 640);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_two_servers_write_alone_under_the_lock_and_in_vain_is_a_fold_of_the_log() {
    let world = World::new().await;
    let servers = [world.server(), world.server()];
    let mut writers = JoinSet::new();
    for writer in 0..32 {
        let (log, tenant) = (Arc::clone(&servers[writer % 2]), world.tenant);
        writers.spawn(async move {
            for number in 0..10 {
                let session = new_session_id();
                let user = format!("user_{}", number % 5);
                log.execute(tenant, create(session, &user)).await.unwrap().unwrap();
                let resume = Command::Resume(Card::built_in().compute_rates());
                for command in [Command::Pause, resume, Command::Terminate] {
                    log.execute(tenant, ask(session, command)).await.unwrap().unwrap();
                }
            }
        });
    }
    writers.join_all().await;
    // One of them alone decides ahead, and writes what it decided as one statement.
    live_through(&servers[0], world.tenant, 40).await;
    for projection in ALL {
        assert_clean(&rebuild::compare(&servers[0], world.tenant, projection).await.unwrap());
    }
}

#[tokio::test]
async fn a_row_that_differs_from_the_log_is_found_and_mended() {
    let world = World::new().await;
    let log = world.server();
    let (kept, changed, lost) = (new_session_id(), new_session_id(), new_session_id());
    for session in [kept, changed, lost] {
        log.execute(world.tenant, create(session, "user")).await.unwrap().unwrap();
    }
    let superuser = world.superuser().await;
    let spoil = format!(
        "update sessions set status = 'paused' where session_id = '{changed}';
         delete from sessions where session_id = '{lost}'"
    );
    superuser.batch_execute(&spoil).await.unwrap();
    let sessions = theazo_projections::named("sessions").unwrap();
    let mut differing = vec![changed.to_string(), lost.to_string()];
    differing.sort();
    for look in [
        rebuild::compare(&log, world.tenant, sessions).await.unwrap(),
        rebuild::rebuild(&log, world.tenant, sessions).await.unwrap(),
    ] {
        assert_eq!((look.equal, &look.differing), (false, &differing));
        assert_eq!((look.events, look.rows), (4, 3));
    }
    assert_clean(&rebuild::compare(&log, world.tenant, sessions).await.unwrap());
}

#[tokio::test]
async fn what_an_interrupted_rebuild_has_left_is_cleared_by_the_next() {
    let world = World::new().await;
    let log = world.server();
    log.execute(world.tenant, create(new_session_id(), "user")).await.unwrap().unwrap();
    world
        .superuser()
        .await
        .batch_execute(
            "insert into projection_builds (tenant_id, projection, build, version, state)
               select tenant_id, 'sessions', 5, 1, 'beside' from heads;
             insert into sessions select tenant_id, 5, session_id, user_id, 'paused', limits, metadata_content_id,
               position, created_at, updated_at, terminated_at from sessions",
        )
        .await
        .unwrap();
    let sessions = theazo_projections::named("sessions").unwrap();
    assert_clean(&rebuild::rebuild(&log, world.tenant, sessions).await.unwrap());
    let builds = world.superuser().await.query("select distinct build from sessions", &[]).await.unwrap();
    let builds: Vec<i32> = builds.iter().map(|row| row.get(0)).collect();
    assert_eq!(builds, [6]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_server_with_newer_read_models_makes_them_before_it_serves() {
    let world = World::new().await;
    live_through(&world.server(), world.tenant, 40).await;
    // As a server of an earlier version leaves it: an older fold of one read model, and another not there at all.
    world
        .superuser()
        .await
        .batch_execute(
            "update projection_builds set version = 0 where projection = 'sessions';
             update sessions set status = 'as it was before';
             delete from projection_builds where projection = 'session_usage';
             delete from session_usage;
             update heads set projection_epoch = 0",
        )
        .await
        .unwrap();
    let log = world.server();
    let outcome = log.open(world.tenant).await;
    assert!(matches!(outcome, Err(Failure::Rebuilding)), "{outcome:?}");
    let runtime = tokio::runtime::Handle::current();
    wait::until("the read models to be made", || {
        let opened = tokio::task::block_in_place(|| runtime.block_on(log.open(world.tenant)));
        match opened {
            Ok(()) => Some(()),
            Err(Failure::Rebuilding) => None,
            Err(failure) => panic!("{failure}"),
        }
    })
    .await;
    for projection in ALL {
        assert_clean(&rebuild::compare(&log, world.tenant, projection).await.unwrap());
    }
    live_through(&log, world.tenant, 4).await;
}
