//! Agents: they run tasks with a model and its tools, and callers' programs, in sandboxes of this machine.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Body;
use serde_json::{Value, json};
use theazo::clock::{Clock, SystemClock};
use theazo::providers::Settings;
use theazo_domain::key::Role;
use theazo_domain::organization::Mode;
use theazo_domain::tool::Tool;

use crate::support::api::Api;
use crate::support::models::{Answer, ModelServer, Said, Turn};
use crate::support::site::Site;
use crate::support::vendors::Wire;
use crate::support::vendors::webhook::Webhook;
use crate::support::wait;

pub(super) async fn agent(api: &Api, body: &Value) -> String {
    let session = api.session("user_1").await;
    let created = api.post(&format!("/v1/sessions/{session}/agents"), body).await.expect(201);
    created["id"].as_str().unwrap().to_owned()
}

/// The agent, once it stands there.
pub(super) async fn stands(api: &Api, agent: &str, status: &str) -> Value {
    wait::until_async("the agent", async || {
        let shown = api.get(&format!("/v1/agents/{agent}")).await.expect(200);
        (shown["status"] == status).then_some(shown)
    })
    .await
}

/// The task, once it has ended.
pub(super) async fn ended(api: &Api, task: &str) -> Value {
    wait::until_async("the agent", async || {
        let shown = api.get(&format!("/v1/tasks/{task}")).await.expect(200);
        let open = ["queued", "running"].contains(&shown["status"].as_str().unwrap());
        (!open).then_some(shown)
    })
    .await
}

pub(super) async fn run(api: &Api, agent: &str, task: &str) -> String {
    let started = api.post(&format!("/v1/agents/{agent}/run"), &json!({ "task": task })).await.expect(202);
    assert_eq!(started["agentId"], agent);
    started["taskId"].as_str().unwrap().to_owned()
}

pub(super) async fn kinds(api: &Api, subject: &str) -> Vec<String> {
    let events = api.get(&format!("/v1/events?subject={subject}&limit=100")).await.expect(200);
    let kind = |event: &Value| event["type"].as_str().unwrap().to_owned();
    events["data"].as_array().unwrap().iter().rev().map(kind).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_test_mode_a_task_calls_the_first_tool_once_and_ends_with_the_mock_response() {
    let site = Site::working(None).await;
    let api = site.organization(Mode::Test, 10_000).await.api(Role::Developer).await;
    let id = agent(&api, &json!({ "tools": ["web_search", "write_file"] })).await;
    let task = run(&api, &id, "Summarize this").await;
    let done = ended(&api, &task).await;
    assert_eq!(done["status"], "completed", "{done}");
    assert_eq!(done["output"], "Mock response to: Summarize this");
    assert_eq!(done["toolCalls"], 1);
    // Two calls of 100 input and 50 output tokens at 3.30 and 16.50 dollars a million.
    assert_eq!(done["cost"]["exact"], "0.00231");
    let shown = stands(&api, &id, "idle").await;
    assert_eq!(shown["task"]["id"], task.as_str());
    let exec = api.post(&format!("/v1/agents/{id}/exec"), &json!({ "lang": "python", "code": "1" })).await;
    let mock = json!({ "stdout": "mock output\n", "stderr": "", "exitCode": 0, "durationMs": 1 });
    assert_eq!(exec.expect(200), mock);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_drives_a_model_whose_tools_run_in_a_real_sandbox() {
    let server = ModelServer::scripted([
        Answer::from(Turn::says("Let me compute.").and_calls(
            "toolu_1",
            "run_code",
            r#"{"lang":"python","code":"open('n.txt','w').write(str(6*7)); print(6*7)"}"#,
        )),
        Answer::from(Turn::says("").and_calls("toolu_2", "read_file", r#"{"path":"n.txt"}"#)),
        Answer::from(Turn::says("It is 42.")),
    ])
    .await;
    let site = Site::working(Some(&server)).await;
    let api = site.admin().await;
    let body = json!({ "tools": ["run_code", "read_file"], "instructions": "Be brief.",
        "model": { "id": "claude-sonnet-4-20250514" } });
    let id = agent(&api, &body).await;
    let task = run(&api, &id, "What is 6 times 7?").await;
    let done = ended(&api, &task).await;
    assert_eq!(done["status"], "completed", "{done}");
    assert_eq!(done["output"], "It is 42.");
    assert_eq!(done["toolCalls"], 2);
    assert!(server.refused().is_empty(), "{:?}", server.refused());
    let asked = server.asked();
    assert_eq!(asked.len(), 3);
    let results: Vec<&str> = asked[2]
        .conversation
        .iter()
        .filter_map(|said| match said {
            Said::Result { text, .. } => Some(text.as_str()),
            _ => None,
        })
        .collect();
    assert!(results[0].contains("42") && results[1].contains("42"), "{results:?}");
    // The run's cost is what its session was charged for models.
    let session = done["sessionId"].as_str().unwrap();
    let usage = api.get(&format!("/v1/sessions/{session}/usage")).await.expect(200);
    assert_eq!(usage["modelCalls"], 3);
    let kinds = kinds(&api, &task).await;
    assert_eq!(kinds.first().unwrap(), "task.created");
    assert_eq!(kinds.last().unwrap(), "task.completed");
    assert_eq!(kinds.iter().filter(|kind| *kind == "model.call_settled").count(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_conversation_goes_on_over_many_tasks_on_whichever_server_until_its_content_is_erased() {
    let server = ModelServer::new(|asked| Turn::says(format!("Did {}", asked.task().0)).into()).await;
    let site = Site::working(Some(&server)).await;
    let api = site.admin().await;
    let id = agent(&api, &json!({})).await;
    // More than are read from the log at a time.
    for number in 0..100 {
        let task = run(&api, &id, &format!("task {number}")).await;
        assert_eq!(ended(&api, &task).await["status"], "completed");
    }
    let said = |conversation: &[Said]| -> Vec<String> {
        let text = |said: &Said| match said {
            Said::User(text) | Said::Model { text, .. } => text.clone(),
            other => panic!("{other:?}"),
        };
        conversation.iter().map(text).collect()
    };
    let expected = |tasks: usize| -> Vec<String> {
        let turns = (0..tasks).flat_map(|task| [format!("task {task}"), format!("Did task {task}")]);
        turns.take(2 * tasks - 1).collect()
    };
    for (asked, tasks) in server.asked().iter().zip(1..) {
        assert_eq!(said(&asked.conversation), expected(tasks));
    }
    let superuser = site.database.connect().await;
    superuser.batch_execute("delete from content").await.unwrap();
    let task = run(&api, &id, "task 100").await;
    assert_eq!(ended(&api, &task).await["status"], "completed");
    let asked = server.asked();
    let said = said(&asked.last().unwrap().conversation);
    assert_eq!((said.len(), said.last().unwrap().as_str()), (201, "task 100"));
    assert!(said[..200].iter().all(|text| text == "[erased]"), "{said:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn programs_run_in_each_language_and_tell_how_they_ended() {
    let site = Site::working(None).await;
    let api = site.admin().await;
    api.post("/v1/secrets", &json!({ "name": "TOKEN", "value": "hunter2-hunter2" })).await.expect(201);
    let id = agent(&api, &json!({})).await;
    let exec = async |lang: &str, code: &str| {
        let body = json!({ "lang": lang, "code": code });
        api.post(&format!("/v1/agents/{id}/exec"), &body).await.expect(200)
    };
    assert_eq!(exec("python", "print(2 + 2)").await["stdout"], "4\n");
    assert_eq!(exec("bash", "echo $THEAZO_AGENT_ID; exit 3").await["exitCode"], 3);
    let typed = "enum E { A = 41 } const n: number = E.A + 1; console.log(n)";
    assert_eq!(exec("typescript", typed).await["stdout"], "42\n");
    let secret = exec("bash", "echo ${#TOKEN} $TOKEN").await;
    assert!(secret["stdout"].as_str().unwrap().starts_with("15 "), "{secret}");
    assert!(!secret["stdout"].as_str().unwrap().contains("hunter2"), "{secret}");
    assert_eq!(exec("bash", "echo kept > f").await["exitCode"], 0);
    assert_eq!(exec("python", "print(open('f').read(), end='')").await["stdout"], "kept\n");
    let wrong = api.post(&format!("/v1/agents/{id}/exec"), &json!({ "lang": "ruby" })).await.fields();
    assert_eq!(wrong.iter().map(|(path, _)| path.as_str()).collect::<Vec<_>>(), ["code", "lang"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_secret_that_is_set_while_a_program_runs_or_a_model_answers_is_masked_as_well() {
    let waits = "{\n".to_owned()
        + r#""lang":"bash","code":"echo $TOKEN; touch began; until [ -e new ]; do sleep 0.02; done; cat new"}"#;
    let server = ModelServer::scripted([
        Answer::from(Turn::says("").and_calls("toolu_1", "run_code", &waits)),
        Answer::from(Turn::says("They are hunter2-hunter2 and swordfish-swordfish.")),
    ])
    .await;
    let site = Site::working(Some(&server)).await;
    let api = site.admin().await;
    let set = async |value: &str| {
        api.post("/v1/secrets", &json!({ "name": "TOKEN", "value": value })).await.expect(201);
    };
    set("hunter2-hunter2").await;
    let id = agent(&api, &json!({ "tools": ["run_code"] })).await;
    let exec = async |code: &str| {
        let body = json!({ "lang": "bash", "code": code });
        api.post(&format!("/v1/agents/{id}/exec"), &body).await.expect(200)
    };
    let task = run(&api, &id, "Which are they?").await;
    wait::until_async("the program", async || (exec("test -e began").await["exitCode"] == 0).then_some(()))
        .await;
    set("swordfish-swordfish").await;
    // A program that begins now sees the new one.
    exec("printf %s $TOKEN > half; mv half new").await;
    assert_eq!(ended(&api, &task).await["output"], "They are *** and ***.");
    let asked = server.asked();
    assert!(asked[1].results()[0].contains("***\n***"), "{asked:?}");
    api.act(&format!("/v1/agents/{id}/terminate")).await.expect(200);
    let stream = api.get(&format!("/v1/agents/{id}/stream?after=0")).await;
    let stream = String::from_utf8(stream.body).unwrap();
    assert!(stream.contains("***") && !stream.contains("fish") && !stream.contains("hunter"), "{stream}");
    // What the model has written in two lines is one, as streams demand.
    let known = |line: &str| {
        line.is_empty() || ["id: ", "event: ", "data: "].iter().any(|start| line.starts_with(start))
    };
    assert!(stream.lines().all(known), "{stream}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_under_an_idempotency_key_is_run_once() {
    let site = Site::working(None).await;
    let api = site.admin().await;
    let id = agent(&api, &json!({})).await;
    let path = format!("/v1/agents/{id}/exec");
    let body = json!({ "lang": "bash", "code": "echo x >> log; wc -l < log" });
    let first = api.post_once(&path, "once", &body).await;
    let again = api.post_once(&path, "once", &body).await;
    assert_eq!(first.expect(200)["stdout"], "1\n");
    assert_eq!(first.body, again.body);
    assert_eq!(again.header("idempotency-replayed"), Some("true"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_pauses_resumes_with_its_files_and_ends() {
    let site = Site::working(None).await;
    let api = site.admin().await;
    let id = agent(&api, &json!({})).await;
    let path = |action: &str| format!("/v1/agents/{id}/{action}");
    api.post(&path("exec"), &json!({ "lang": "bash", "code": "echo kept > f" })).await.expect(200);
    api.act(&path("resume")).await.error(409, "conflict");
    assert_eq!(api.act(&path("pause")).await.expect(200)["status"], "paused");
    assert_eq!(api.act(&path("pause")).await.expect(200)["status"], "paused");
    api.post(&path("run"), &json!({ "task": "x" })).await.error(409, "conflict");
    api.post(&path("exec"), &json!({ "lang": "bash", "code": "1" })).await.error(409, "conflict");
    wait::until_async("the agent", async || {
        kinds(&api, &id).await.contains(&"agent.suspended".to_owned()).then_some(())
    })
    .await;
    assert_eq!(api.act(&path("resume")).await.expect(200)["status"], "idle");
    wait::until_async("the agent", async || {
        kinds(&api, &id).await.contains(&"agent.woken".to_owned()).then_some(())
    })
    .await;
    let files = api.post(&path("exec"), &json!({ "lang": "bash", "code": "cat f" })).await.expect(200);
    assert_eq!(files["stdout"], "kept\n");
    assert_eq!(api.act(&path("terminate")).await.expect(200), json!({ "ok": true }));
    assert_eq!(api.act(&path("terminate")).await.expect(200), json!({ "ok": true }));
    api.act(&path("pause")).await.error(409, "conflict");
    wait::until_async("the agent", async || {
        kinds(&api, &id).await.contains(&"agent.released".to_owned()).then_some(())
    })
    .await;
}

#[tokio::test]
async fn whoever_names_a_tool_that_there_is_not_is_told_all_that_there_are() {
    let site = Site::new().await;
    let api = site.admin().await;
    let path = format!("/v1/sessions/{}/agents", api.session("user_1").await);
    let refused = api.post(&path, &json!({ "tools": ["run_program"] })).await;
    let refused = refused.error(422, "unprocessable_entity");
    let message = refused["details"]["fields"][0]["message"].as_str().unwrap();
    assert!(Tool::ALL.iter().all(|tool| message.contains(tool.as_str())), "{message}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn exactly_as_many_agents_are_made_as_the_limit_allows() {
    let site = Site::working(None).await;
    let api = site.organization(Mode::Test, 10_000).await.api(Role::Developer).await;
    let body = json!({ "userId": "u", "limits": { "maxAgents": 3 } });
    let session = api.post("/v1/sessions", &body).await.expect(201);
    let path = Arc::new(format!("/v1/sessions/{}/agents", session["id"].as_str().unwrap()));
    let mut makers = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let (api, path) = (api.clone(), Arc::clone(&path));
        makers.spawn(async move { api.post(&path, &json!({})).await });
    }
    let replies = makers.join_all().await;
    assert_eq!(replies.iter().filter(|reply| reply.status == 201).count(), 3);
    for refused in replies.iter().filter(|reply| reply.status != 201) {
        let error = refused.error(402, "session_limit_exceeded");
        assert_eq!(error["details"]["limit"], "maxAgents");
        assert_eq!(error["details"]["allowed"], 3);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_that_does_not_fit_its_cost_limit_pauses_and_goes_on_when_that_is_raised() {
    let site = Site::working(None).await;
    let api = site.organization(Mode::Test, 10_000).await.api(Role::Developer).await;
    let limit = json!({ "amount": 1, "currency": "usd", "period": "session" });
    let body = json!({ "userId": "u", "limits": { "maxCost": limit } });
    let session = api.post("/v1/sessions", &body).await.expect(201)["id"].as_str().unwrap().to_owned();
    let created = api.post(&format!("/v1/sessions/{session}/agents"), &json!({})).await.expect(201);
    let id = created["id"].as_str().unwrap().to_owned();
    // A call holds 4,096 output tokens, which are dearer than a cent.
    let task = run(&api, &id, "x").await;
    stands(&api, &id, "paused").await;
    assert_eq!(api.get(&format!("/v1/tasks/{task}")).await.expect(200)["status"], "running");
    let raised = json!({ "maxCost": { "amount": 1000, "currency": "usd", "period": "session" } });
    api.call("PATCH", &format!("/v1/sessions/{session}/limits"), &raised).await.expect(200);
    api.act(&format!("/v1/agents/{id}/resume")).await.expect(200);
    assert_eq!(ended(&api, &task).await["status"], "completed");
}

/// A vendor that wants to be left alone for half a minute before it answers.
async fn resting() -> ModelServer {
    ModelServer::new(|asked| match asked.number {
        0 => Answer::Error { status: 429, retry_after: Some("30"), body: String::new() },
        _ => Turn::says("Rested.").into(),
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rest_that_a_vendor_asks_for_ends_with_the_time_of_the_run() {
    let server = resting().await;
    let site = Site::working(Some(&server)).await;
    let api = site.admin().await;
    let id = agent(&api, &json!({ "timeout": 2 })).await;
    let began = Instant::now();
    let task = ended(&api, &run(&api, &id, "x").await).await;
    assert_eq!((&task["status"], &task["error"]["code"]), (&json!("failed"), &json!("timeout")));
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rest_that_a_vendor_asks_for_ends_with_a_pause() {
    let server = resting().await;
    let site = Site::working(Some(&server)).await;
    let api = site.admin().await;
    let id = agent(&api, &json!({})).await;
    let began = Instant::now();
    let task = run(&api, &id, "x").await;
    wait::until_async("the vendor to refuse", async || {
        kinds(&api, &id).await.contains(&"model.call_released".to_owned()).then_some(())
    })
    .await;
    api.act(&format!("/v1/agents/{id}/pause")).await.expect(200);
    stands(&api, &id, "paused").await;
    api.act(&format!("/v1/agents/{id}/resume")).await.expect(200);
    assert_eq!(ended(&api, &task).await["output"], "Rested.");
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_a_vendors_rules_ended_is_a_failure() {
    let turn = || Turn { stop: Some("refusal"), ..Turn::says("") };
    let server = ModelServer::new(move |_| turn().into()).await;
    let site = Site::working(Some(&server)).await;
    let api = site.admin().await;
    let id = agent(&api, &json!({})).await;
    let task = ended(&api, &run(&api, &id, "x").await).await;
    assert_eq!((&task["status"], &task["error"]["code"]), (&json!("failed"), &json!("provider_error")));
    stands(&api, &id, "idle").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_replays_what_an_agent_did_and_ends_with_it() {
    let site = Site::working(None).await;
    let api = site.organization(Mode::Test, 10_000).await.api(Role::Developer).await;
    let id = agent(&api, &json!({ "tools": ["write_file"] })).await;
    let task = run(&api, &id, "Hello").await;
    ended(&api, &task).await;
    api.act(&format!("/v1/agents/{id}/terminate")).await.expect(200);
    let path = format!("/v1/agents/{id}/stream");
    let replayed = api.get(&format!("{path}?after=0")).await;
    let text = String::from_utf8(replayed.body).unwrap();
    let events: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("event: ")).collect();
    assert_eq!(events, ["tool_call", "tool_result", "output"], "{text}");
    // As the reference writes them.
    assert!(text.contains(r#"data: {"tool":"write_file","input":{"#), "{text}");
    assert!(text.contains(r#"data: {"text":"Mock response to: Hello","cost":{"amount":"#), "{text}");
    let last = text.lines().filter_map(|line| line.strip_prefix("id: ")).next_back().unwrap();
    // As a browser asks again: with the last frame that it was given.
    assert_eq!(api.get(&format!("{path}?after={last}")).await.status, 204);
    let head = api.head().await;
    assert_eq!(api.get(&format!("{path}?after={head}")).await.status, 204);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_session_pauses_its_agents_and_its_end_is_theirs() {
    let site = Site::working(None).await;
    let api = site.organization(Mode::Test, 10_000).await.api(Role::Developer).await;
    let id = agent(&api, &json!({})).await;
    let session = stands(&api, &id, "idle").await["sessionId"].as_str().unwrap().to_owned();
    api.act(&format!("/v1/sessions/{session}/pause")).await.expect(200);
    assert_eq!(api.get(&format!("/v1/agents/{id}")).await.expect(200)["status"], "paused");
    api.act(&format!("/v1/sessions/{session}/resume")).await.expect(200);
    assert_eq!(api.get(&format!("/v1/agents/{id}")).await.expect(200)["status"], "idle");
    api.act(&format!("/v1/sessions/{session}/terminate")).await.expect(200);
    assert_eq!(api.get(&format!("/v1/agents/{id}")).await.expect(200)["status"], "terminated");
    let usage = api.get(&format!("/v1/sessions/{session}/usage")).await.expect(200);
    assert_eq!(usage["activeAgents"], 0);
    assert_eq!(usage["totalAgentsCreated"], 1);
    assert_eq!(usage["reserved"]["exact"], "0.00");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_runs_where_its_organization_has_compute_of_its_own() {
    let secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    let key = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, &secret[6..]).unwrap();
    let now_s = SystemClock.now().millis() / 1_000;
    let wire = Wire::serve(Webhook { key, now_s, state: Arc::default() }).await;
    let settings = Settings { allowed_networks: vec!["127.0.0.0/8".parse().unwrap()], ..Settings::default() };
    let site = Site::working_with(None, settings).await;
    let api = site.admin().await;
    let session = api.session("user_1").await;
    let path = format!("/v1/sessions/{session}/agents");
    let body = json!({ "compute": { "provider": "webhook" } });
    let wrong = api.post(&path, &body).await.fields();
    assert_eq!(wrong, [("compute.provider".to_owned(), "configured".to_owned())]);
    let credentials = json!({ "url": format!("{}/compute", wire.url()), "secret": secret });
    let provider = json!({ "provider": "webhook", "credentials": credentials, "isDefault": true });
    api.post("/v1/providers", &provider).await.expect(201);
    // It is the default from now on.
    let created = api.post(&path, &json!({})).await.expect(201);
    assert_eq!(created["compute"]["provider"], "webhook");
    let id = created["id"].as_str().unwrap();
    let ran =
        api.post(&format!("/v1/agents/{id}/exec"), &json!({ "lang": "python", "code": "print(1)" })).await;
    let ran = ran.expect(200);
    assert!(ran["stdout"].as_str().unwrap().starts_with("python print(1)"), "{ran}");
    assert_eq!(ran["exitCode"], 3);
    let refused = api.send(api.request("DELETE", "/v1/providers/webhook").body(Body::empty()).unwrap()).await;
    assert_eq!(refused.error(409, "conflict")["details"]["agents"], json!([id]));
    api.act(&format!("/v1/agents/{id}/terminate")).await.expect(200);
    wait::until_async("the sandbox to go", async || {
        kinds(&api, id).await.contains(&"agent.released".to_owned()).then_some(())
    })
    .await;
    // Minutes on the organization's own credentials count, at price 0.
    let usage = api.get(&format!("/v1/sessions/{session}/usage")).await.expect(200);
    assert_eq!(usage["cost"]["exact"], "0.00");
}

#[tokio::test]
async fn what_is_wrong_with_a_new_agent_is_told_in_words_that_help() {
    let api = Site::new().await.admin().await;
    let path = format!("/v1/sessions/{}/agents", api.session("user_1").await);
    let told = async |body: Value| {
        let refused = api.post(&path, &body).await.error(422, "unprocessable_entity");
        let fields = refused["details"]["fields"].as_array().unwrap().clone();
        let said = |field: &Value| {
            format!("{} {}", field["path"].as_str().unwrap(), field["message"].as_str().unwrap())
        };
        fields.iter().map(said).collect::<Vec<_>>().join("; ")
    };
    assert_eq!(
        told(json!({ "compute": 5, "model": "x", "tools": "web_search", "browser": "yes", "timeout": [] }))
            .await,
        "browser must be true or false; compute must be an object; model must be an object; \
         timeout must be a whole number; tools must be an array"
    );
    assert_eq!(told(json!({ "model": { "id": 5 } })).await, "model.id must be a string");
    assert_eq!(told(json!([])).await, " must be an object");
    assert_eq!(
        told(json!({ "definitionVersion": 1 })).await,
        "definitionVersion needs definitionId, whose version it is"
    );
    let null = json!({ "definitionVersion": 1, "definitionId": null });
    assert_eq!(told(null).await, "definitionVersion needs definitionId, whose version it is");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_agent_is_told_is_found_without_reading_what_others_are() {
    let site = Site::working(None).await;
    let api = site.organization(Mode::Test, 100_000).await.api(Role::Developer).await;
    let id = agent(&api, &json!({ "instructions": "Be brief." })).await;
    let superuser = site.database.connect().await;
    // Content of others, of which the database knows: it could leave its indexes alone if it chose to.
    let others = "insert into content select tenant_id, 'cnt_' || number, 1, null, '', 'be long'
        from heads cross join generate_series(1, 1000) number; analyze";
    superuser.batch_execute(others).await.unwrap();
    let read = async || {
        let sql = "select (select seq_scan + coalesce(idx_scan, 0) from pg_stat_user_tables where relname = 'agents'),
            (select coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0) from pg_stat_user_tables where relname = 'content')";
        let row = superuser.query_one(sql, &[]).await.unwrap();
        (row.get::<_, i64>(0), row.get::<_, i64>(1))
    };
    let (agents_before, contents_before) = read().await;
    // Connections tell what they have read when they have been idle or once a second, so it is asked until they have.
    let (agents, contents) = wait::until_async("the readings to be told", async || {
        assert_eq!(api.get(&format!("/v1/agents/{id}")).await.expect(200)["instructions"], "Be brief.");
        let (agents, contents) = read().await;
        (agents >= agents_before + 20).then_some((agents - agents_before, contents - contents_before))
    })
    .await;
    assert!(contents <= 10 * agents, "{contents} rows of content were read for {agents} looks at agents");
}
