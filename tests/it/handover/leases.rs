//! A lease under which nobody works runs out, though its server lives.

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn work_that_a_server_was_given_and_never_learned_of_is_done_soon_all_the_same() {
    let mut world = World::new(&Arc::new(AtomicBool::new(true))).await;
    for number in [0, 1] {
        let path = format!("/v1/sessions/{}/agents", world.session);
        let created = world.post(number, &path, json!({ "tools": ["run_code"] })).await;
        let agent = format!("/v1/agents/{}", created["id"].as_str().unwrap());
        let is_ready = async || (world.get(&agent).await["status"] == "idle").then_some(());
        until_async("a sandbox", is_ready).await;
        // As if the database had given the run to the server, and the connection had broken before that was told.
        let sql = "insert into leases (tenant_id, kind, subject, worker, expires_at)
                   select tenant_id, 'run', agent_id, $2, clock_timestamp() + interval '10 seconds'
                   from agents where agent_id = $1";
        let id = created["id"].as_str().unwrap();
        let given = world.client.execute(sql, &[&id, &world.worker(number).await]).await.unwrap();
        assert_eq!(given, 1);
        let ran = world.post(number, &format!("{agent}/run"), json!({ "task": "Work." })).await;
        let task = format!("/v1/tasks/{}", ran["taskId"].as_str().unwrap());
        let has_ended = async || (world.get(&task).await["status"] == "completed").then_some(());
        until_async("a run to end", has_ended).await;
    }
    for server in &mut world.servers {
        assert!(server.take().unwrap().stop().await.success());
    }
}
