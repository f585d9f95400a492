//! Agents at vendors, from the API through the workers to the vendor and back.

use std::sync::{Arc, Mutex};
use std::time::Instant;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use theazo::clock::{Clock, SystemClock};
use theazo::config;
use theazo::providers::compute::New;
use theazo::providers::{Settings, Vendors};
use theazo::random;
use theazo::runtime::{Sweep, compute_of};
use theazo_domain::Command;
use theazo_domain::id::AgentId;
use theazo_domain::provider::{self, ProviderName};

use super::wanted;
use crate::support::api::Api;
use crate::support::models::{Answer, ModelServer, Turn};
use crate::support::site::Site;
use crate::support::vendors::docker::Docker;
use crate::support::vendors::e2b::E2b;
use crate::support::vendors::fly::Fly;
use crate::support::vendors::webhook::{Receiver, Webhook};
use crate::support::vendors::{Fault, Wire};
use crate::support::wait::{until, until_async};

/// A vendor, and what it says where it refuses.
pub(super) struct Place {
    pub(super) wire: Wire,
    name: &'static str,
    credentials: Value,
    vendors: Vendors,
    /// A part of the path by which a sandbox is made, the answer, and its reason.
    refusal: (&'static str, &'static str, &'static str),
    /// How many sandboxes the vendor has.
    held: Box<dyn Fn() -> usize>,
    /// Where the vendor keeps what it runs, for as long as it is there.
    _server: Box<dyn std::any::Any>,
}

pub(super) async fn docker() -> Place {
    let server = Docker::default();
    let wire = Wire::serve(server.clone()).await;
    let vendors = Vendors { docker: wire.url().parse().unwrap(), ..Vendors::default() };
    let host = Arc::clone(&server.host);
    Place {
        wire,
        name: "docker",
        credentials: json!({}),
        vendors,
        refusal: ("/containers/create", r#"{"message":"No such image: agents"}"#, "No such image: agents"),
        held: Box::new(move || host.lock().unwrap().containers.len()),
        _server: Box::new(server),
    }
}

async fn e2b() -> Place {
    let server = E2b::new();
    let wire = Wire::serve(server.clone()).await;
    let url: url::Url = wire.url().parse().unwrap();
    let mut vendors = Vendors { e2b: url.clone(), ..Vendors::default() };
    vendors.e2b_sandboxes.sandbox_url = Some(url);
    vendors.e2b_sandboxes.workspace = server.scratch.path.join("workspace").display().to_string();
    let sandboxes = Arc::clone(&server.sandboxes);
    Place {
        wire,
        name: "e2b",
        credentials: json!({ "apiKey": "e2b_key" }),
        vendors,
        refusal: ("POST /sandboxes", r#"{"code":403,"message":"too many sandboxes"}"#, "too many sandboxes"),
        held: Box::new(move || sandboxes.lock().unwrap().len()),
        _server: Box::new(server),
    }
}

async fn fly() -> Place {
    let server = Fly::new();
    let wire = Wire::serve(server.clone()).await;
    let mut vendors = Vendors { fly: wire.url().parse().unwrap(), ..Vendors::default() };
    vendors.fly_sandboxes.workspace = server.scratch.path.join("workspace").display().to_string();
    let machines = Arc::clone(&server.machines);
    Place {
        wire,
        name: "fly",
        credentials: json!({ "apiToken": "fly-token", "appName": "agents" }),
        vendors,
        refusal: ("POST /v1/apps/agents/machines", r#"{"error":"no capacity in fra"}"#, "no capacity in fra"),
        held: Box::new(move || machines.lock().unwrap().len()),
        _server: Box::new(server),
    }
}

async fn webhook() -> Place {
    let secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    let key = STANDARD.decode(&secret[6..]).unwrap();
    let state = Arc::<Mutex<Receiver>>::default();
    let now_s = SystemClock.now().millis() / 1_000;
    let wire = Wire::serve(Webhook { key, now_s, state: Arc::clone(&state) }).await;
    let credentials = json!({ "url": format!("{}/compute", wire.url()), "secret": secret });
    Place {
        wire,
        name: "webhook",
        credentials,
        vendors: Vendors::default(),
        refusal: ("POST", r#"{"error":{"code":"refused","message":"no more"}}"#, "no more"),
        held: Box::new(move || state.lock().unwrap().sandboxes.len()),
        _server: Box::new(()),
    }
}

/// A model that writes a file by a program, reads it with a tool, and says what was in it.
async fn model() -> ModelServer {
    let code = r#"{"lang":"python","code":"import os; open('n.txt', 'w').write(str(6 * 7)); print(os.environ['THEAZO_AGENT_ID'])"}"#;
    ModelServer::scripted([
        Answer::from(Turn::says("").and_calls("toolu_1", "run_code", code)),
        Answer::from(Turn::says("").and_calls("toolu_2", "read_file", r#"{"path":"n.txt"}"#)),
        Answer::from(Turn::says("It is 42.")),
    ])
    .await
}

/// An agent that was created, once it stands so.
pub(super) async fn stands(api: &Api, agent: &str, status: &str) -> Value {
    until_async("the agent to stand so", async || {
        let shown = api.get(&format!("/v1/agents/{agent}")).await.expect(200);
        (shown["status"] == status).then_some(shown)
    })
    .await
}

/// The path by which agents of a new session are created.
pub(super) async fn agents_of_a_session(api: &Api) -> String {
    format!("/v1/sessions/{}/agents", api.session("user_1").await)
}

/// An agent that was created by this path, once it is idle.
pub(super) async fn idle(api: &Api, path: &str) -> String {
    let created = api.post(path, &json!({})).await.expect(201);
    let id = created["id"].as_str().unwrap();
    stands(api, id, "idle").await;
    id.to_owned()
}

/// Servers whose admin has this provider as the default.
pub(super) async fn site(place: &Place, models: Option<&ModelServer>) -> (Arc<Site>, Api) {
    let allowed_networks = vec!["127.0.0.0/8".parse().unwrap()];
    let settings = Settings { vendors: place.vendors.clone(), allowed_networks, ..Settings::default() };
    let site = Site::working_with(models, settings).await;
    let api = site.admin().await;
    let provider = json!({ "provider": place.name, "credentials": place.credentials, "isDefault": true });
    let configured = api.post("/v1/providers", &provider).await.expect(201);
    assert_eq!(configured["status"], "active", "{configured}");
    (site, api)
}

async fn lives(place: Place) {
    let models = model().await;
    let (site, api) = site(&place, Some(&models)).await;
    let session = api.session("user_1").await;
    let path = format!("/v1/sessions/{session}/agents");
    let created = api.post(&path, &json!({ "tools": ["run_code", "read_file"] })).await.expect(201);
    assert_eq!(created["compute"]["provider"], place.name);
    let id = created["id"].as_str().unwrap();
    let exec = async |code: &str| {
        let body = json!({ "lang": "bash", "code": code });
        api.post(&format!("/v1/agents/{id}/exec"), &body).await
    };
    let ran = exec("echo $THEAZO_AGENT_ID $THEAZO_SESSION_ID; exit 3").await.expect(200);
    assert_eq!((&ran["stdout"], &ran["exitCode"]), (&json!(format!("{id} {session}\n")), &json!(3)), "{ran}");
    let typed = json!({ "lang": "typescript", "code": "const n: number = 41; console.log(n + 1)" });
    assert_eq!(api.post(&format!("/v1/agents/{id}/exec"), &typed).await.expect(200)["stdout"], "42\n");

    let run = api.post(&format!("/v1/agents/{id}/run"), &json!({ "task": "6 times 7?" })).await.expect(202);
    let task = run["taskId"].as_str().unwrap();
    stands(&api, id, "idle").await;
    let done = api.get(&format!("/v1/tasks/{task}")).await.expect(200);
    assert_eq!((&done["status"], &done["output"]), (&json!("completed"), &json!("It is 42.")), "{done}");
    let asked = models.asked();
    assert!(asked[1].results()[0].contains(id) && asked[2].results()[1].contains("42"), "{asked:?}");

    api.act(&format!("/v1/agents/{id}/pause")).await.expect(200);
    exec("true").await.error(409, "conflict");
    api.act(&format!("/v1/agents/{id}/resume")).await.expect(200);
    assert_eq!(exec("cat n.txt").await.expect(200)["stdout"], "42");
    api.act(&format!("/v1/agents/{id}/terminate")).await.expect(200);
    let gone = async || ((place.held)() == 0).then_some(());
    until_async("the sandbox to go", gone).await;
    // With nobody else there, whose requests could meet what is meant for another.
    refusals(&api, &place, &path).await;
    until_async("the other sandbox to go", gone).await;
    left_behind(&site, &api, &place, (&path, id)).await;
    place.wire.satisfied();
}

/// Its server took up the work from what it had read before, and another has done it since.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sandbox_that_is_in_use_is_not_made_anew_by_a_server_that_comes_late() {
    let place = docker().await;
    let (site, api) = site(&place, None).await;
    let id = idle(&api, &agents_of_a_session(&api).await).await;
    place.wire.seen();
    let superuser = site.database.connect().await;
    let again = "insert into work (tenant_id, build, kind, subject, agent_id, session_id, due_at)
                 select tenant_id, live_build(tenant_id, 'work'), 'provision', agent_id, agent_id, session_id,
                     now() from agents where agent_id = $1";
    superuser.execute(again, &[&id]).await.unwrap();
    let taken = async || {
        let sql = "select count(*) from leases where kind = 'provision' and subject = $1";
        superuser.query_one(sql, &[&id]).await.unwrap().get::<_, i64>(0) > 0
    };
    until_async("a server to take it", async || taken().await.then_some(())).await;
    superuser.execute("delete from work where kind = 'provision'", &[]).await.unwrap();
    until_async("the end of it", async || (!taken().await).then_some(())).await;
    let seen = place.wire.seen();
    assert!(!seen.iter().any(|line| line.contains("/containers/create")), "{seen:?}");
}

/// What the vendor refuses is told in its words: a sandbox that it does not make, and a program that it does not run.
async fn refusals(api: &Api, place: &Place, path: &str) {
    let (at, body, reason) = place.refusal;
    place.wire.fault(at, Fault::Status(403, vec![], body.to_owned()));
    let created = api.post(path, &json!({})).await.expect(201);
    let failed = stands(api, created["id"].as_str().unwrap(), "failed").await;
    assert_eq!(failed["error"]["code"], "provider_error", "{failed}");
    assert!(failed["error"]["message"].as_str().unwrap().contains(reason), "{failed}");
    let id = idle(api, path).await;
    let at = match place.name {
        "e2b" => "/process.Process/Start".to_owned(),
        "docker" => format!("/containers/theazo-{id}/exec"),
        _ => "/exec".to_owned(),
    };
    place.wire.fault(&at, Fault::Status(400, vec![], body.to_owned()));
    let exec = json!({ "lang": "bash", "code": "true" });
    let refused = api.post(&format!("/v1/agents/{id}/exec"), &exec).await.error(502, "provider_error");
    assert!(refused["message"].as_str().unwrap().contains(reason), "{refused}");
    api.act(&format!("/v1/agents/{id}/terminate")).await.expect(200);
}

/// A sandbox that a crash left to an agent that has ended is released after two looks; those of agents that live, and of
/// agents that nobody here knows, are not.
async fn left_behind(site: &Arc<Site>, api: &Api, place: &Place, (path, ended): (&str, &str)) {
    let living = idle(api, path).await;
    let app = &site.servers[0].app;
    let compute = compute_of(app, api.tenant, place.name.parse().unwrap()).await.unwrap();
    let ended: AgentId = ended.parse().unwrap();
    compute.create(&New { agent_id: ended, ..wanted(1) }).await.unwrap();
    compute
        .create(&New { agent_id: AgentId::from_ulid(random::ulid(SystemClock.now())), ..wanted(1) })
        .await
        .unwrap();
    assert_eq!((place.held)(), 3);
    let sweep = Sweep::new(Arc::clone(app));
    assert_eq!(sweep.look().await.unwrap(), 0);
    assert_eq!(sweep.look().await.unwrap(), 1);
    assert_eq!(sweep.look().await.unwrap(), 0);
    let found = compute.list().await.unwrap();
    assert!(found.len() == 2 && found.iter().all(|(agent, _)| *agent != ended), "{found:?}");
    stands(api, &living, "idle").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_lives_and_works_at_a_docker_host() {
    lives(docker().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_lives_and_works_at_e2b() {
    lives(e2b().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_lives_and_works_at_fly() {
    lives(fly().await).await;
}

/// Where programs are not really run: only what becomes of the sandboxes is seen.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_crash_left_behind_a_webhook_is_found_and_what_is_used_is_not_touched() {
    let place = webhook().await;
    let (site, api) = site(&place, None).await;
    let path = agents_of_a_session(&api).await;
    let id = idle(&api, &path).await;
    assert_eq!((place.held)(), 1);
    api.act(&format!("/v1/agents/{id}/terminate")).await.expect(200);
    until_async("the sandbox to go", async || ((place.held)() == 0).then_some(())).await;
    left_behind(&site, &api, &place, (&path, &id)).await;
    place.wire.satisfied();
}

/// A vendor does not remove the sandbox of an agent that has ended when it is first asked; it is asked again while the
/// same servers run. Credentials that are deleted could remove nothing any more: those that a sandbox still needs stay
/// until it is gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sandbox_that_is_not_removed_at_first_goes_later_also_where_its_provider_is_deleted() {
    tokio::join!(is_removed_later(false), is_removed_later(true));
}

async fn is_removed_later(deletes_provider: bool) {
    let place = e2b().await;
    let site = Site::working_with(None, Settings { vendors: place.vendors, ..Settings::default() }).await;
    let api = site.admin().await;
    let provider = json!({ "provider": "e2b", "credentials": place.credentials, "isDefault": true });
    api.post("/v1/providers", &provider).await.expect(201);
    let path = agents_of_a_session(&api).await;
    let id = idle(&api, &path).await;
    refuses(&place.wire);
    api.act(&format!("/v1/agents/{id}/terminate")).await.expect(200);
    assert_eq!((place.held)(), 1);
    if deletes_provider {
        let delete = api.request("DELETE", "/v1/providers/e2b").body(axum::body::Body::empty()).unwrap();
        assert_eq!(api.send(delete).await.expect(200), json!({ "ok": true }));
    }
    until_async("the sandbox to go", async || ((place.held)() == 0).then_some(())).await;
    place.wire.satisfied();
}

/// The vendor does not remove a sandbox when it is asked next.
fn refuses(wire: &Wire) {
    wire.fault("DELETE", Fault::Status(403, vec![], r#"{"code":403,"message":"not now"}"#.into()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_provider_stays_while_its_vendor_does_not_let_go_of_sandboxes() {
    let place = e2b().await;
    let (_, api) = site(&place, None).await;
    let path = agents_of_a_session(&api).await;
    let mut agents = [idle(&api, &path).await, idle(&api, &path).await];
    let delete = async |key: &str| {
        let delete = api.request("DELETE", "/v1/providers/e2b").header("idempotency-key", key);
        api.send(delete.body(axum::body::Body::empty()).unwrap()).await
    };
    // For longer than anybody waits.
    (0..20).for_each(|_| refuses(&place.wire));
    api.act(&format!("/v1/agents/{}/terminate", agents[0])).await.expect(200);
    let began = Instant::now();
    let told = delete("active").await.error(409, "conflict");
    assert_eq!(told["message"], "the provider e2b has active agents: 1.");
    assert_eq!(told["details"], json!({ "agents": [agents[1]] }));
    assert!(began.elapsed() < config::RELEASE_DEADLINE, "nothing can come of waiting");

    api.act(&format!("/v1/agents/{}/terminate", agents[1])).await.expect(200);
    let twins = tokio::join!(delete("waits"), delete("waits"));
    let (first, twin) = if twins.0.header("retry-after").is_none() { twins } else { (twins.1, twins.0) };
    twin.error(409, "conflict");
    assert!(twin.header("retry-after").is_some() && first.header("retry-after").is_none());
    let told = first.error(409, "conflict");
    assert_eq!(told["message"], "The sandboxes of agents of the provider e2b were not released yet: 2.");
    agents.sort();
    assert_eq!(told["details"], json!({ "agents": agents }));
    assert_eq!(delete("waits").await.body, first.body);
    assert_eq!((place.held)(), 2);

    place.wire.relent();
    until_async("the sandboxes to go", async || ((place.held)() == 0).then_some(())).await;
    delete("goes").await.expect(200);
    place.wire.satisfied();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sandbox_is_no_business_of_a_provider_that_was_configured_after_its_own_was_removed() {
    let place = e2b().await;
    let (site, api) = site(&place, None).await;
    let id = idle(&api, &agents_of_a_session(&api).await).await;
    refuses(&place.wire);
    api.act(&format!("/v1/agents/{id}/terminate")).await.expect(200);
    let is_asked = || place.wire.seen().iter().any(|line| line.starts_with("DELETE")).then_some(());
    until("the vendor to be asked", is_asked).await;
    // As the rules alone would have it, without waiting.
    let remove = provider::Command::Remove(ProviderName::E2b);
    site.execute(api.tenant, Command::Providers(remove)).await;
    let provider = json!({ "provider": place.name, "credentials": place.credentials });
    api.post("/v1/providers", &provider).await.expect(201);
    until_async("the sandbox to be given up", async || {
        let events = api.get("/v1/events?type=agent.released").await.expect(200);
        (events["data"].as_array().unwrap().len() == 1).then_some(())
    })
    .await;
    assert_eq!((is_asked(), (place.held)()), (None, 1));
    place.wire.satisfied();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_crash_left_on_this_machine_is_found_and_what_is_used_is_not_touched() {
    let site = Site::working(None).await;
    let api = site.admin().await;
    let path = agents_of_a_session(&api).await;
    let mut ids = vec![];
    for _ in 0..2 {
        ids.push(idle(&api, &path).await);
    }
    let local = &site.servers[0].app.local;
    api.act(&format!("/v1/agents/{}/terminate", ids[0])).await.expect(200);
    until_async("the sandbox to go", async || (local.list().await.unwrap().len() == 1).then_some(())).await;
    local.create(&New { agent_id: ids[0].parse().unwrap(), ..wanted(1) }).await.unwrap();
    local.create(&wanted(7)).await.unwrap();
    // Each server finds it twice for itself.
    let sweeps = site.servers.each_ref().map(|server| Sweep::new(Arc::clone(&server.app)));
    assert_eq!((sweeps[0].look().await.unwrap(), sweeps[1].look().await.unwrap()), (0, 0));
    assert_eq!(local.list().await.unwrap().len(), 3);
    assert_eq!(sweeps[0].look().await.unwrap(), 1);
    let kept: Vec<AgentId> = local.list().await.unwrap().into_iter().map(|(agent_id, _)| agent_id).collect();
    assert!(kept.len() == 2 && kept.contains(&ids[1].parse().unwrap()) && kept.contains(&wanted(7).agent_id));
    let exec = json!({ "lang": "bash", "code": "echo here" });
    assert_eq!(api.post(&format!("/v1/agents/{}/exec", ids[1]), &exec).await.expect(200)["stdout"], "here\n");
}
