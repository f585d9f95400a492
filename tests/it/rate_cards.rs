//! Rate cards: which is in force, what it prices, and what becomes of usage that it does not.

use rust_decimal::Decimal;
use serde_json::{Value, json};
use theazo::read;
use theazo_domain::agent::{self, Tokens};
use theazo_domain::key::Role;
use theazo_domain::organization::Mode;
use theazo_domain::rates::{Card, Listed};
use theazo_domain::time::Timestamp;
use theazo_domain::{Command, billing};

use crate::support::api::Api;
use crate::support::cluster::Scratch;
use crate::support::logs::submission;
use crate::support::models::{Answer, Delivery, End, ModelServer, Turn};
use crate::support::server::{Server, json as answer, run as program};
use crate::support::site::Site;
use crate::support::wait;

/// A card with one model, at 1 dollar a million tokens of any kind and with no markup.
fn card(version: &str, model: &str) -> Card {
    let built_in = Card::built_in();
    let one = Decimal::ONE;
    let (id, vendor, long_context) = (model.to_owned(), "example".to_owned(), None);
    let source = "https://example.com/prices".to_owned();
    let date = built_in.models[0].date;
    let (input, output, cache_read, cache_write) = (one, one, one, one);
    let listed =
        Listed { id, vendor, input, output, cache_read, cache_write, long_context, source, date, note: None };
    let (version, markup_percent, models) = (version.to_owned(), Decimal::ZERO, vec![listed]);
    Card { version, markup_percent, models, ..(**built_in).clone() }
}

async fn import(api: &Api, card: Card) {
    let sha256 = card.version.clone();
    let command = Command::Billing(billing::Command::ImportRates { card: Box::new(card), sha256 });
    api.site.execute(api.tenant, command).await;
}

async fn tell(api: &Api, agent: &str, command: agent::Command) {
    api.site.execute(api.tenant, Command::Agent(agent.parse().unwrap(), command)).await;
}

/// A new agent that uses this model, in a session of these limits: both ids.
async fn agent_of(api: &Api, model: &str, limits: &Value) -> (String, String) {
    let body = json!({ "userId": "u", "limits": limits });
    let session = api.post("/v1/sessions", &body).await.expect(201)["id"].as_str().unwrap().to_owned();
    let body = json!({ "model": { "id": model } });
    let made = api.post(&format!("/v1/sessions/{session}/agents"), &body).await.expect(201);
    (session, made["id"].as_str().unwrap().to_owned())
}

/// The task, once it has ended.
async fn ran(api: &Api, agent: &str) -> Value {
    let body = json!({ "task": "x" });
    let started = api.post(&format!("/v1/agents/{agent}/run"), &body).await.expect(202);
    let path = format!("/v1/tasks/{}", started["taskId"].as_str().unwrap());
    wait::until_async("the task", async || {
        let shown = api.get(&path).await.expect(200);
        shown.get("completedAt").is_some().then_some(shown)
    })
    .await
}

/// Bytes of an answer before its vendor has told anything of its usage.
const BEFORE_USAGE: usize = 200;
/// The same, when it has told what the prompt has used, and not yet what the output has.
const BEHIND_PROMPT: usize = 700;

/// A model's server whose first answer breaks off after so many bytes, and whose second does not.
async fn breaks_off_once(bytes: usize) -> ModelServer {
    let broken = Delivery { end: End::BreakAt(bytes), ..Delivery::default() };
    ModelServer::scripted([
        Answer::from(Turn::says("Half of an answer").delivered(broken)),
        Answer::from(Turn::says("A whole one.")),
    ])
    .await
}

/// What the session's calls to models have cost.
async fn model_cost(api: &Api, session: &str) -> Decimal {
    let events = api.get(&format!("/v1/events?subject={session}&limit=100")).await.expect(200);
    let charges = events["data"].as_array().unwrap().iter().flat_map(|event| {
        let charges = event["data"]["booking"]["charges"].as_array().cloned();
        charges.unwrap_or_default()
    });
    let of_models = charges.filter(|charge| charge["category"] == "model");
    of_models.map(|charge| charge["cost"].as_str().unwrap().parse::<Decimal>().unwrap()).sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_server_takes_the_card_in_force_from_its_import_on() {
    let site = Site::working(None).await;
    let api = site.organization(Mode::Test, 10_000).await.api(Role::Admin).await;
    let other = site.organization(Mode::Test, 10_000).await.api(Role::Admin).await;
    let model = "claude-sonnet-4-5";
    let (_, agent) = agent_of(&api, model, &json!({})).await;
    // 100 tokens of input and 50 of output.
    assert_eq!(ran(&api, &agent).await["cost"]["exact"], "0.001155");
    import(&api, card("mine", model)).await;
    for _ in 0..2 {
        assert_eq!(ran(&api, &agent).await["cost"]["exact"], "0.00015");
    }
    // One that is not in force yet changes nothing, and another organization has its own.
    let far = Timestamp::parse("2200-01-01T00:00:00Z").unwrap();
    import(&api, Card { effective_from: Some(far), ..card("next", "another-model") }).await;
    assert_eq!(ran(&api, &agent).await["cost"]["exact"], "0.00015");
    let (_, theirs) = agent_of(&other, model, &json!({})).await;
    assert_eq!(ran(&other, &theirs).await["cost"]["exact"], "0.001155");
    let scope = site.next().app.log.scope(api.tenant.id);
    let in_force = async |at| read::rates::in_force(scope, at).await.unwrap().map(|card| card.version);
    assert_eq!(in_force(far).await.as_deref(), Some("next"));
    assert_eq!(in_force(Timestamp::from_millis(0)).await, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn usage_without_a_price_is_charged_when_there_is_one() {
    let site = Site::working(None).await;
    let api = site.organization(Mode::Test, 10_000).await.api(Role::Admin).await;
    let model = "a-model-of-our-own";
    let (session, agent) = agent_of(&api, model, &json!({})).await;
    let limits = json!({ "maxCost": { "amount": 1000, "currency": "usd", "period": "month" } });
    let (_, limited) = agent_of(&api, model, &limits).await;
    for _ in 0..2 {
        assert_eq!(ran(&api, &agent).await["cost"]["exact"], "0.00");
    }
    let refused = api.post(&format!("/v1/agents/{limited}/run"), &json!({ "task": "x" })).await;
    refused.error(409, "conflict");
    let usage = async || api.get(&format!("/v1/sessions/{session}/usage")).await.expect(200);
    assert_eq!(usage().await["unrated"], json!({ "calls": 2, "inputTokens": 200, "outputTokens": 100 }));
    let scope = site.next().app.log.scope(api.tenant.id);
    assert_eq!(read::rates::unrated_models(scope).await.unwrap(), [model]);
    import(&api, card("mine", model)).await;
    assert_eq!(ran(&api, &limited).await["status"], "completed");
    let agents = read::rates::unrated_agents(scope, model, "", 10).await.unwrap();
    assert_eq!((agents.len(), agents[0].to_string()), (1, agent.clone()));
    assert_eq!(model_cost(&api, &session).await, Decimal::ZERO);
    let rates = card("mine", model).model(model);
    for _ in 0..2 {
        tell(&api, &agent, agent::Command::RateUsage { model: model.to_owned(), rates: rates.clone() }).await;
    }
    assert_eq!(model_cost(&api, &session).await, "0.0003".parse().unwrap());
    assert_eq!(usage().await.get("unrated"), None, "all of it has a price");
    assert!(read::rates::unrated_models(scope).await.unwrap().is_empty());
}

/// Where a log has no card, that of the program applies, and can be put into it: as it is, and not another in its name.
#[tokio::test]
async fn the_card_that_the_program_comes_with_can_be_imported() {
    let api = Site::new().await.admin().await;
    let import_it = async |card: Card| {
        let card = Box::new(card);
        let command = billing::Command::ImportRates { card, sha256: "00".repeat(32) };
        let submission = submission(Command::Billing(command));
        api.site.next().app.log.execute(api.tenant, submission).await.unwrap()
    };
    let built_in = Card::clone(Card::built_in());
    let other = Card { markup_percent: Decimal::ZERO, ..built_in.clone() };
    let refused = import_it(other).await.unwrap_err();
    assert!(refused.to_string().contains("that the program comes with"), "{refused}");
    assert_eq!(import_it(built_in).await.unwrap().events.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_call_without_a_price_says_what_has_none() {
    let server = breaks_off_once(BEFORE_USAGE).await;
    let api = Site::working(Some(&server)).await.admin().await;
    let (_, agent) = agent_of(&api, "claude-of-tomorrow", &json!({})).await;
    ran(&api, &agent).await;
    let listed = api.get("/v1/billing/unconfirmed").await.expect(200);
    let call = &listed["data"][0];
    assert_eq!((&call["cost"]["exact"], &call["unrated"]["calls"]), (&json!("0.00"), &json!(1)));
    let sent = server.asked()[0].body.to_string().len();
    assert_eq!(call["unrated"]["inputTokens"], sent, "as many tokens as the request had bytes, at most");
    assert!(call["unrated"]["outputTokens"].as_i64().unwrap() > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_called_with_a_key_of_ones_own_costs_nothing_and_needs_no_price_under_a_limit() {
    let server = ModelServer::scripted(["one", "two"].map(|text| Answer::from(Turn::says(text)))).await;
    let api = Site::working(Some(&server)).await.admin().await;
    let limits = json!({ "maxCost": { "amount": 500, "currency": "usd", "period": "day" } });
    for whole_organization in [false, true] {
        let (session, agent) = agent_of(&api, "claude-of-tomorrow", &limits).await;
        let run = format!("/v1/agents/{agent}/run");
        api.post(&run, &json!({ "task": "x" })).await.error(409, "conflict");
        let other = json!({ "name": "OPENAI_API_KEY", "value": "sk-ours-0000", "sessionId": session });
        api.post("/v1/secrets", &other).await.expect(201);
        api.post(&run, &json!({ "task": "x" })).await.error(409, "conflict");
        let mut own = json!({ "name": "ANTHROPIC_API_KEY", "value": "sk-ours-0000" });
        if !whole_organization {
            own["sessionId"] = json!(session);
        }
        api.post("/v1/secrets", &own).await.expect(201);
        let done = ran(&api, &agent).await;
        assert_eq!((&done["status"], &done["cost"]["exact"]), (&json!("completed"), &json!("0.00")));
        assert_eq!(model_cost(&api, &session).await, Decimal::ZERO);
    }
    let summary = api.get("/v1/usage/summary").await.expect(200);
    assert_eq!(summary["unrated"], json!({ "calls": 0, "inputTokens": 0, "outputTokens": 0 }));
    assert_eq!(summary["models"]["cost"]["amount"], 0);
    assert!(summary["models"]["inputTokens"].as_i64().unwrap() > 0, "tokens count all the same");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_whose_answer_broke_off_is_unconfirmed_until_it_is_reconciled() {
    let server = breaks_off_once(BEFORE_USAGE).await;
    let site = Site::working(Some(&server)).await;
    let api = site.admin().await;
    let (session, agent) = agent_of(&api, "claude-sonnet-4-5", &json!({})).await;
    let done = ran(&api, &agent).await;
    assert_eq!(done["output"], "A whole one.", "{done}");
    let listed = api.get("/v1/billing/unconfirmed").await.expect(200);
    let [call] = &listed["data"].as_array().unwrap()[..] else { panic!("{listed}") };
    assert_eq!((&call["agentId"], &call["sessionId"]), (&json!(agent), &json!(session)));
    assert_eq!((&call["model"], &call["userId"]), (&json!("claude-sonnet-4-5"), &json!("u")));
    let unconfirmed = async || {
        let usage = api.get(&format!("/v1/sessions/{session}/usage")).await.expect(200);
        usage["unconfirmed"]["exact"].clone()
    };
    assert_eq!(unconfirmed().await, call["cost"]["exact"]);
    assert_eq!(call.get("unrated"), None, "its model has a price");
    let before = model_cost(&api, &session).await;
    let call_id = call["callId"].as_str().unwrap().parse().unwrap();
    let tokens = Some(Tokens { input: 1_000, output: 100, ..Tokens::default() });
    tell(&api, &agent, agent::Command::ReconcileCall { call_id, tokens }).await;
    // 0.0033 + 0.00165 dollars.
    assert_eq!(model_cost(&api, &session).await - before, "0.00495".parse().unwrap());
    assert_eq!(unconfirmed().await, "0.00");
    let listed = api.get("/v1/billing/unconfirmed").await.expect(200);
    assert_eq!(listed, json!({ "data": [], "hasMore": false }));
    let finance = site.organization(Mode::Live, 100).await.api(Role::Finance).await;
    finance.get("/v1/billing/unconfirmed").await.expect(200);
}

/// The stream says at its beginning what the prompt has used.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_vendor_told_of_an_answer_that_broke_off_is_known() {
    let server = breaks_off_once(BEHIND_PROMPT).await;
    let api = Site::working(Some(&server)).await.admin().await;
    let (session, agent) = agent_of(&api, "claude-sonnet-4-5", &json!({})).await;
    ran(&api, &agent).await;
    let lost = api.get(&format!("/v1/events?subject={session}&type=model.call_lost")).await.expect(200);
    let told = &lost["data"][0]["data"]["told"];
    assert_eq!((&told["input"], lost["data"].as_array().unwrap().len()), (&json!(25), 1), "{lost}");
    let listed = api.get("/v1/billing/unconfirmed").await.expect(200);
    // 25 tokens of input at 3.30 dollars a million, and at most 4,096 of output at 16.50.
    assert_eq!(listed["data"][0]["cost"]["exact"], "0.0676665");
}

#[tokio::test]
async fn an_operator_shows_and_imports_cards() {
    let scratch = Scratch::new();
    let dir = scratch.path.join("data");
    let shown = answer(&scratch.path, &["rates", "show"]).await;
    assert_eq!(serde_json::from_value::<Card>(shown).unwrap(), **Card::built_in());
    let _server = Server::start(&dir).await;
    let organizations = answer(&dir, &["org", "list"]).await;
    let org = organizations["data"][0]["id"].as_str().unwrap().to_owned();
    let whose = ["--org", &org, "--mode", "live"];
    let write = |name: &str, card: &Card| {
        let path = scratch.path.join(name);
        std::fs::write(&path, serde_json::to_string(card).unwrap()).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let versions = async || {
        let listed = answer(&dir, &[&["rates", "list"], &whose[..]].concat()).await;
        let versions = listed["data"].as_array().unwrap().iter().map(|card| card["version"].clone());
        versions.collect::<Vec<_>>()
    };
    let built_in = &Card::built_in().version;
    assert_eq!(versions().await, [built_in.as_str()], "an organization begins with the program's card");
    let same = write("same.json", Card::built_in());
    let imported = answer(&dir, &[&["rates", "import", &same], &whose[..]].concat()).await;
    assert_eq!((&imported["imported"], &imported["inForce"]), (&json!(false), &json!(true)));
    let first = write("first.json", &card("mine", "a-model"));
    let imported = answer(&dir, &[&["rates", "import", &first], &whose[..]].concat()).await;
    assert_eq!(imported, json!({ "version": "mine", "imported": true, "inForce": true, "rated": [] }));
    let again = answer(&dir, &[&["rates", "import", &first], &whose[..]].concat()).await;
    assert_eq!(again["imported"], false);
    let shown = answer(&dir, &[&["rates", "show"], &whose[..]].concat()).await;
    assert_eq!(shown["version"], "mine");
    assert_eq!(versions().await, ["mine", built_in]);
    let before =
        answer(&dir, &[&["rates", "show", "--at", "2020-01-01T00:00:00Z"], &whose[..]].concat()).await;
    assert_eq!(before["version"], Card::built_in().version.as_str());
    let past = Timestamp::parse("2020-01-01T00:00:00Z").unwrap();
    for (wrong, said) in [
        (card("mine", "another-model"), "is that of another card"),
        (Card { effective_from: Some(past), ..card("late", "a-model") }, "is in the past"),
        (card(built_in, "a-model"), "is that of another card"),
        (Card { compute_per_minute: Decimal::NEGATIVE_ONE, ..card("bad", "a-model") }, "computePerMinute"),
    ] {
        let file = write("wrong.json", &wrong);
        let refused = program(&dir, &[&["rates", "import", &file], &whose[..]].concat()).await;
        let told = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(!refused.status.success() && told.contains(said), "{told}");
    }
    let unknown = ["billing", "reconcile", "--call", "call_01ARZ3NDEKTSV4RRFFQ69G50AV", "--not-billed"];
    let refused = program(&dir, &[&unknown, &whose[..]].concat()).await;
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stdout).contains("is not unconfirmed"));
}
