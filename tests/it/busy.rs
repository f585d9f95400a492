//! Servers that have much to do at the same time, and those whose database goes away while they do it.

use std::sync::{Arc, OnceLock};

use axum::http::StatusCode;
use serde_json::json;
use theazo::clock::{Clock, SystemClock};
use theazo::log::read::{self, Filter};
use theazo::random;
use theazo::runtime::Runtime;
use theazo_domain::agent;
use theazo_domain::id::AgentId;
use theazo_domain::key::Role;
use theazo_domain::organization::Mode;
use theazo_domain::rates::Card;
use theazo_domain::session::Command;

use crate::support::logs::{World, ask, create, new_agent, new_session_id, now, submission};
use crate::support::models::{ModelServer, Turn};
use crate::support::proxy::{Proxy, Seeming};
use crate::support::site::Site;
use crate::support::wait;

/// A session ends while the batch before it is written, which ends its agent; whatever else is asked of the agent in that
/// batch is decided on this, although the server has to read the agent from a log that does not have it yet.
#[tokio::test]
async fn what_is_read_for_a_batch_is_as_the_batch_has_left_it() {
    let world = World::new().await;
    let tenant = world.tenant;
    let [session, another] = [new_session_id(), new_session_id()];
    let agent_id = AgentId::from_ulid(random::ulid(SystemClock.now()));
    let of_agent = |command| submission(theazo_domain::Command::Agent(agent_id, command));
    let before = [
        create(session, "user"),
        create(another, "user"),
        ask(session, Command::AddAgent(Box::new(new_agent(agent_id)))),
        of_agent(agent::Command::Provisioned { sandbox: "here".into() }),
    ];
    let first = world.server();
    for submission in before {
        first.execute(tenant, submission).await.unwrap().unwrap();
    }
    // A server that has both sessions in memory, and not the agent.
    let log = world.server();
    for session in [session, another] {
        for command in [Command::Pause, Command::Resume(Card::built_in().compute_rates())] {
            log.execute(tenant, ask(session, command)).await.unwrap().unwrap();
        }
    }
    let superuser = world.superuser().await;
    let waiting = async || {
        let sql =
            "select 1 from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()";
        superuser.query_opt(sql, &[]).await.unwrap()
    };
    let mut holder = world.superuser().await;
    let lock = holder.transaction().await.unwrap();
    lock.execute("select 1 from heads for update", &[]).await.unwrap();
    let begin = |submission| {
        let log = Arc::clone(&log);
        tokio::spawn(async move { log.execute(tenant, submission).await })
    };
    let under_way = begin(ask(another, Command::Pause));
    wait::until_async("the batch to wait for the lock", waiting).await;
    let next = [
        ask(session, Command::Terminate),
        of_agent(agent::Command::Terminate),
        ask(another, Command::Terminate),
    ]
    .map(begin);
    // They are taken in this order, before anything else is heard of.
    tokio::task::yield_now().await;
    lock.commit().await.unwrap();
    for asked in std::iter::once(under_way).chain(next) {
        asked.await.unwrap().unwrap().unwrap();
    }
    let all = Filter::default();
    let events = read::oldest(log.scope(tenant.id), &all, 1_000).await.unwrap();
    let kinds: Vec<&str> = events.iter().map(|event| event.kind.as_str()).collect();
    assert_eq!(kinds.iter().filter(|kind| **kind == "agent.terminated").count(), 1, "{kinds:?}");
    let sql = "select count(distinct xmin::text) from events where type = 'session.terminated'";
    let batches: i64 = superuser.query_one(sql, &[]).await.unwrap().get(0);
    assert_eq!(batches, 1, "what stands between the two was decided in their batch");
}

/// The next batch goes out before the callers of the one that was committed are answered. They do not wait for it.
#[tokio::test]
async fn whoever_is_committed_is_answered_however_long_the_next_batch_takes() {
    let world = World::new().await;
    let (tenant, log) = (world.tenant, world.server());
    let [session, another] = [new_session_id(), new_session_id()];
    for submission in [create(session, "user"), create(another, "user")] {
        log.execute(tenant, submission).await.unwrap().unwrap();
    }
    let superuser = world.superuser().await;
    let waits_for = async |table: &str| {
        let sql = "select 1 from pg_locks l join pg_database d on d.oid = l.database
                   where d.datname = current_database() and not l.granted and l.relation = $1::text::regclass";
        superuser.query_opt(sql, &[&table]).await.unwrap()
    };
    let mut holders = [world.superuser().await, world.superuser().await];
    let [sessions, agents] = holders.each_mut();
    let (sessions, agents) = (sessions.transaction().await.unwrap(), agents.transaction().await.unwrap());
    sessions.batch_execute("lock table sessions in access exclusive mode").await.unwrap();
    agents.batch_execute("lock table agents in access exclusive mode").await.unwrap();
    let begin = |submission| {
        let log = Arc::clone(&log);
        tokio::spawn(async move { log.execute(tenant, submission).await })
    };
    let first = begin(ask(session, Command::Pause));
    wait::until_async("the first batch to wait", async || waits_for("sessions").await).await;
    let agent_id = AgentId::from_ulid(random::ulid(SystemClock.now()));
    let second = begin(ask(another, Command::AddAgent(Box::new(new_agent(agent_id)))));
    tokio::task::yield_now().await;
    sessions.commit().await.unwrap();
    first.await.unwrap().unwrap().unwrap();
    wait::until_async("the second batch to wait", async || waits_for("agents").await).await;
    assert!(!second.is_finished());
    agents.commit().await.unwrap();
    second.await.unwrap().unwrap().unwrap();
}

/// While its key is being held, before the work under it has begun.
#[tokio::test]
async fn a_caller_who_goes_away_early_leaves_no_key_behind() {
    let site = Site::with_manual_clock().await;
    let api = site.admin().await;
    let ask = || api.once("DELETE", "/v1/providers/e2b", "key", &json!({}));
    let (superuser, mut holder) = (site.database.connect().await, site.database.connect().await);
    let lock = holder.transaction().await.unwrap();
    lock.batch_execute("lock table idempotency in access exclusive mode").await.unwrap();
    {
        let asking = api.send(ask());
        let waiting = wait::until_async("the request to wait for the lock", async || {
            let sql = "select 1 from pg_stat_activity
                       where wait_event_type = 'Lock' and datname = current_database()";
            superuser.query_opt(sql, &[]).await.unwrap()
        });
        tokio::select! {
            _ = asking => panic!("nothing can be looked up under a key"),
            _ = waiting => {}
        }
    }
    lock.commit().await.unwrap();
    let answer = wait::until_async("the work to be done", async || {
        let answer = api.send(ask()).await;
        (answer.status != StatusCode::CONFLICT).then_some(answer)
    });
    answer.await.error(404, "not_found");
}

/// The database goes away in a call to a model. What the call used is known, and settles it once the database is back: it is
/// neither lost nor made again.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_answer_that_cannot_be_told_at_once_is_told_later() {
    let proxy: Arc<OnceLock<Proxy>> = Arc::default();
    let models = {
        let proxy = Arc::clone(&proxy);
        ModelServer::new(move |_| {
            proxy.get().expect("the database is there first").seem(Seeming::Away);
            Turn::says("42").into()
        })
        .await
    };
    let site = Site::with_models(&models).await;
    let proxy = proxy.get_or_init(|| Proxy::before(&site.database));
    let server = site.another_by(&proxy.config(&site.database));
    let working = Runtime::new(Arc::clone(&server.app)).start();
    let api = site.organization(Mode::Live, 1_000_000).await.api(Role::Admin).await;
    let session = api.session("user").await;
    let made = api.post(&format!("/v1/sessions/{session}/agents"), &json!({})).await.expect(201);
    let agent = made["id"].as_str().unwrap();
    let run = json!({ "task": "what is six times seven?" });
    let run = api.post(&format!("/v1/agents/{agent}/run"), &run).await.expect(202);
    // Whatever the server tries meanwhile, the answer among it.
    wait::until("the server to ask for its database in vain", || (proxy.refused() >= 12).then_some(())).await;
    proxy.seem(Seeming::There);
    let task = format!("/v1/tasks/{}", run["taskId"].as_str().unwrap());
    wait::until_async("the task to end", async || {
        api.get(&task).await.expect(200).get("completedAt").is_some().then_some(())
    })
    .await;
    let events = api.get(&format!("/v1/events?agentId={agent}&limit=100")).await.expect(200);
    let kinds: Vec<_> = events["data"].as_array().unwrap().iter().map(|event| &event["type"]).collect();
    let times = |kind: &str| kinds.iter().filter(|known| **known == kind).count();
    let calls = ["model.call_opened", "model.call_settled", "model.call_lost"].map(times);
    assert_eq!((calls, models.asked().len()), ([1, 1, 0], 1), "{kinds:?}");
    working.abort();
}

#[tokio::test]
async fn what_keeps_count_of_money_does_not_wait_behind_what_takes_long() {
    let world = World::new().await;
    let (log, tenant, session) = (world.server(), world.tenant, new_session_id());
    let agent_id = AgentId::from_ulid(random::ulid(now()));
    let of_agent = |command| submission(theazo_domain::Command::Agent(agent_id, command));
    let (task, reference) = theazo::log::Content::new(now(), "a task".into());
    let run = agent::Command::Run {
        task_id: theazo_domain::id::TaskId::from_ulid(random::ulid(now())),
        task: reference,
        model: agent::ModelCost::Priced,
    };
    let steps = [
        create(session, "user"),
        ask(session, Command::AddAgent(Box::new(new_agent(agent_id)))),
        of_agent(agent::Command::Provisioned { sandbox: "here".into() }),
        theazo::log::Submission { contents: vec![task], ..of_agent(run) },
    ];
    for step in steps {
        log.execute(tenant, step).await.unwrap().unwrap();
    }
    let superuser = world.superuser().await;
    let taken = async |most: i32, most_counting: i32| -> Vec<String> {
        let sql = "select kind from claim_due_work('a server', $1, array['meter', 'store'], $2, 10000,
                     now() + interval '1 hour')";
        let rows = superuser.query(sql, &[&most, &most_counting]).await.unwrap();
        rows.iter().map(|row| row.get(0)).collect()
    };
    // There is no place for a run, which is due first.
    assert_eq!(taken(0, 8).await, ["meter"]);
    assert_eq!(taken(0, 8).await, [""; 0], "it is taken");
    assert_eq!(taken(8, 0).await, ["run"]);
}
