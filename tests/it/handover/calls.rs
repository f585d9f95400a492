//! A model is answering while its server is told to stop.

use serde_json::json;

use super::{Delivery, ModelServer, Place, Signal, Turn, until};
use crate::support::models::End;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_told_to_stop_closes_its_calls_itself() {
    let place = Place::new().await;
    // It says what its prompt has used, and then nothing more.
    let silent = Delivery { end: End::SilentAt(700), ..Delivery::default() };
    let models = ModelServer::new(move |_| Turn::says("42").delivered(silent.clone()).into()).await;
    let environment = [
        ("ANTHROPIC_BASE_URL", models.anthropic_url()),
        ("ANTHROPIC_API_KEY", "sk-ant-test-0000".to_owned()),
        ("THEAZO_SANDBOX_DIR", place.scratch.path.join("sandboxes").display().to_string()),
    ];
    let server = place.start_with(0, &environment).await;
    let key = place.new_key().await;
    let session = server.create_session(&key, "user_1").await;
    let path = format!("/v1/sessions/{session}/agents");
    let created = server.request("POST", &path, &key, Some(json!({}))).await.unwrap();
    let agent = created.body["id"].as_str().unwrap().to_owned();
    let path = format!("/v1/agents/{agent}/run");
    assert_eq!(
        server.request("POST", &path, &key, Some(json!({ "task": "Add." }))).await.unwrap().status,
        202
    );
    until("the model to be asked", || (!models.asked().is_empty()).then_some(())).await;
    server.signal(Signal::SIGTERM);
    assert!(server.ended().await.success());
    let sql = "select e.data->>'reason' from event_subjects s join events e using (tenant_id, position)
               where s.subject = $1 and e.type = 'model.call_lost'";
    let lost = place.connect().await.query(sql, &[&agent]).await.unwrap();
    let reasons: Vec<&str> = lost.iter().map(|row| row.get(0)).collect();
    assert_eq!(reasons, ["the server stops"]);
}
