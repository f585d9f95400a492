//! Budgets of end users and of the organization, and limits that count by the day or month.

use rust_decimal::Decimal;
use serde_json::{Value, json};
use theazo::clock::Clock;
use theazo::random;
use theazo::runtime::Runtime;
use theazo_domain::agent::{self, NewAgent};
use theazo_domain::charge::{Price, Rate};
use theazo_domain::id::AgentId;
use theazo_domain::key::Role;
use theazo_domain::organization::Mode;
use theazo_domain::rates::ComputeRates;
use theazo_domain::{Command, session};

use crate::support::api::Api;
use crate::support::logs::new_agent;
use crate::support::site::Site;
use crate::support::wait;

const PATH: &str = "/v1/billing/budgets";

async fn set(api: &Api, body: &Value) -> Value {
    api.call("PUT", PATH, body).await.expect(200)
}

async fn listed(api: &Api) -> Vec<Value> {
    api.get(PATH).await.expect(200)["data"].as_array().unwrap().clone()
}

/// Ten cents a minute.
fn rates() -> ComputeRates {
    let price = Price { amount: Decimal::new(10, 2), per: 60_000 };
    let managed = Rate { price: Some(price), rate_card: "1".into() };
    ComputeRates { own: managed.clone(), managed }
}

/// An agent that is ready, whose minute costs ten cents; decided without a worker.
async fn ready(api: &Api, session: &str) -> AgentId {
    let agent_id = AgentId::from_ulid(random::ulid(api.site.clock.now()));
    let new = NewAgent { compute: rates(), ..new_agent(agent_id) };
    let add = session::Command::AddAgent(Box::new(new));
    api.site.execute(api.tenant, Command::Session(session.parse().unwrap(), add)).await;
    let provisioned = agent::Command::Provisioned { sandbox: "here".into() };
    api.site.execute(api.tenant, Command::Agent(agent_id, provisioned)).await;
    agent_id
}

/// Moves the clock to a moment.
fn stand_at(api: &Api, millis: i64) {
    api.site.clock.advance(millis - api.site.clock.now().millis());
}

async fn tick(api: &Api, session: &str, agent_id: AgentId) {
    let tick = session::Command::TickCompute(agent_id, rates());
    api.site.execute(api.tenant, Command::Session(session.parse().unwrap(), tick)).await;
}

#[tokio::test]
async fn a_budget_is_set_listed_replaced_and_removed() {
    let site = Site::with_manual_clock().await;
    let api = site.admin().await;
    // The clock stands at 2025-05-01T00:00:00Z.
    let body = json!({ "amount": 500, "currency": "usd", "period": "month" });
    let budget = set(&api, &body).await;
    let zero = json!({ "amount": 0, "currency": "usd", "exact": "0.00" });
    let five = json!({ "amount": 500, "currency": "usd", "exact": "5.00" });
    let expected = json!({
        "scope": "organization", "limit": five, "period": "month", "thresholds": [50, 80, 100],
        "action": "block", "used": zero, "reserved": zero, "remaining": five, "percentage": 0.0,
        "resetsAt": "2025-06-01T00:00:00.000Z", "updatedAt": "2025-05-01T00:00:00.000Z",
    });
    assert_eq!(budget, expected);
    // A user whom nobody has seen yet, and who is the same afterwards.
    let of_user = json!({ "userId": "new one", "amount": 100, "currency": "usd", "period": "day",
        "thresholds": [100.0, 7], "action": "notify" });
    let budget = set(&api, &of_user).await;
    assert_eq!(budget["userId"], "new one");
    assert_eq!((&budget["scope"], &budget["thresholds"]), (&json!("user"), &json!([7, 100])));
    let before = api.head().await;
    assert_eq!(set(&api, &of_user).await, budget);
    assert_eq!(api.head().await, before, "what is so already makes nothing happen");
    let session = api.session("new one").await;
    let agent = ready(&api, &session).await;
    stand_at(&api, 1_746_057_600_000 + 30_000);
    tick(&api, &session, agent).await;
    let budgets = listed(&api).await;
    let shown: Vec<_> = budgets.iter().map(|budget| (&budget["scope"], &budget["used"]["exact"])).collect();
    let five_cents = json!("0.05");
    assert_eq!(shown, [(&json!("organization"), &five_cents), (&json!("user"), &five_cents)]);
    assert_eq!(budgets[1]["percentage"], 5.0);
    assert_eq!(budgets[0]["remaining"]["exact"], "4.85");
    let first = api.get(&format!("{PATH}?limit=1")).await.expect(200);
    let next = first["nextCursor"].as_str().unwrap();
    let second = api.get(&format!("{PATH}?limit=1&cursor={next}")).await.expect(200);
    assert_eq!((&second["data"][0], &second["hasMore"]), (&budgets[1], &json!(false)));
    let removed = set(&api, &json!({ "userId": "new one", "amount": null })).await;
    assert_eq!(removed, json!({ "scope": "user", "userId": "new one", "limit": null }));
    let document = api.get("/v1/openapi.json").await.expect(200);
    let schema = json!({ "$ref": "#/components/schemas/BudgetNow", "components": document["components"] });
    let schema = jsonschema::validator_for(&schema).unwrap();
    assert!(schema.is_valid(&removed) && schema.is_valid(&budgets[0]), "{document}");
    assert_eq!(listed(&api).await.len(), 1);
    let crossed = api.get("/v1/events?type=budget.threshold_crossed").await.expect(200);
    assert_eq!(crossed["data"].as_array().unwrap().len(), 0, "five percent cross nothing");
    // One of which half is spent as it begins says so.
    set(&api, &json!({ "amount": 10, "currency": "usd", "period": "day", "thresholds": [50, 100] })).await;
    let crossed = api.get("/v1/events?type=budget.threshold_crossed").await.expect(200);
    let told: Vec<_> = crossed["data"].as_array().unwrap().iter().map(|event| &event["data"]).collect();
    assert_eq!(told.len(), 1, "{crossed}");
    assert_eq!((&told[0]["threshold"], &told[0]["scope"]), (&json!(50), &json!("organization")));
}

#[tokio::test]
async fn what_is_no_budget_is_told_field_by_field() {
    let site = Site::new().await;
    let api = site.admin().await;
    let fields = async |body: Value| -> Vec<String> {
        let fields = api.call("PUT", PATH, &body).await.fields();
        fields.into_iter().map(|(path, _)| path).collect()
    };
    assert_eq!(fields(json!({})).await, ["amount"]);
    assert_eq!(fields(json!({ "amount": 1 })).await, ["currency", "period"]);
    let wrong = json!({ "userId": "", "amount": -1, "currency": "eur", "period": "session", "action": "x" });
    assert_eq!(fields(wrong).await, ["action", "amount", "currency", "period", "userId"]);
    let thresholds = async |thresholds: Value| {
        fields(json!({ "amount": 1, "currency": "usd", "period": "day", "thresholds": thresholds })).await
    };
    assert_eq!(thresholds(json!([0, 50, 50, 1001])).await, ["thresholds.0", "thresholds.2", "thresholds.3"]);
    assert_eq!(thresholds(json!([1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11])).await, ["thresholds"]);
    assert_eq!(thresholds(json!(["50"])).await, ["thresholds.0"]);
    assert!(listed(&api).await.is_empty());
    // Null is as good as left out, where nothing is needed.
    let words =
        json!({ "amount": null, "currency": null, "period": null, "action": null, "thresholds": null });
    assert_eq!(set(&api, &words).await["limit"], Value::Null);
    let needed = json!({ "amount": 1, "currency": null, "period": null, "action": null });
    assert_eq!(fields(needed).await, ["currency", "period"]);
}

#[tokio::test]
async fn budgets_are_set_by_whoever_changes_limits_and_seen_by_whoever_reads_billing() {
    let site = Site::new().await;
    let organization = site.organization(Mode::Live, 10_000).await;
    let body = json!({ "amount": 1, "currency": "usd", "period": "day" });
    for role in [Role::Finance, Role::ReadOnly] {
        let api = organization.api(role).await;
        api.call("PUT", PATH, &body).await.error(403, "forbidden");
        assert!(listed(&api).await.is_empty());
    }
    organization.api(Role::Developer).await.call("PUT", PATH, &body).await.expect(200);
    let admin = organization.api(Role::Admin).await;
    let once = async || admin.send(admin.once("PUT", PATH, "once", &body)).await;
    let (first, again) = (once().await, once().await);
    first.expect(200);
    assert_eq!(first.body, again.body);
    assert_eq!(again.header("idempotency-replayed"), Some("true"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_budget_that_is_used_up_pauses_runs_refuses_new_work_and_is_raised() {
    let site = Site::working(None).await;
    let api = site.organization(Mode::Test, 10_000).await.api(Role::Admin).await;
    for user in [Some("user_1"), None] {
        let budget = |cents: i64| {
            let mut body = json!({ "amount": cents, "currency": "usd", "period": "day" });
            if let Some(user) = user {
                body["userId"] = json!(user);
            }
            body
        };
        let limit = if user.is_some() { "userBudget" } else { "organizationBudget" };
        let session = api.session("user_1").await;
        let agents = format!("/v1/sessions/{session}/agents");
        let id = api.post(&agents, &json!({})).await.expect(201)["id"].as_str().unwrap().to_owned();
        // A minute of compute is half a cent; a call holds 4,096 output tokens, which are dearer.
        set(&api, &budget(2)).await;
        let started = api.post(&format!("/v1/agents/{id}/run"), &json!({ "task": "x" })).await.expect(202);
        let task = started["taskId"].as_str().unwrap().to_owned();
        wait::until_async("the agent to pause", async || {
            let shown = api.get(&format!("/v1/agents/{id}")).await.expect(200);
            (shown["status"] == "paused").then_some(())
        })
        .await;
        let reached = api.get(&format!("/v1/events?type=agent.limit_reached&subject={id}")).await.expect(200);
        assert_eq!(reached["data"][0]["data"]["excess"]["limit"], limit);
        set(&api, &budget(0)).await;
        let refused = api.post(&agents, &json!({})).await.error(402, "session_limit_exceeded");
        let details = &refused["details"];
        assert_eq!((&details["limit"], &details["period"]), (&json!(limit), &json!("day")));
        assert!(details["resetsAt"].as_str().unwrap().ends_with("T00:00:00.000Z"), "{details}");
        assert_eq!(details["allowed"], 0);
        // Half a cent is none, rounded half-even; exactly, it does not fit.
        assert_eq!((&details["requested"], &details["exact"]["requested"]), (&json!(0), &json!("0.005")));
        assert_eq!(details["exact"]["allowed"], "0.00");
        api.act(&format!("/v1/agents/{id}/resume")).await.error(402, "session_limit_exceeded");
        set(&api, &budget(1_000)).await;
        api.act(&format!("/v1/agents/{id}/resume")).await.expect(200);
        wait::until_async("the task to end", async || {
            let shown = api.get(&format!("/v1/tasks/{task}")).await.expect(200);
            (shown["status"] == "completed").then_some(())
        })
        .await;
        let none = json!({ "userId": user, "amount": null });
        set(&api, &if user.is_some() { none } else { json!({ "amount": null }) }).await;
    }
}

#[tokio::test]
async fn a_session_whose_compute_is_used_up_is_resumed_once_its_limit_was_raised() {
    let site = Site::with_manual_clock().await;
    let api = site.admin().await;
    let body = json!({ "userId": "u", "limits": { "maxComputeMinutes": 1 } });
    let session = api.post("/v1/sessions", &body).await.expect(201)["id"].as_str().unwrap().to_owned();
    let agent = ready(&api, &session).await;
    let path = format!("/v1/sessions/{session}");
    for (ms, used, remaining, percentage) in
        [(45_000, json!(0.75), json!(0.25), 75.0), (15_000, json!(1), json!(0), 100.0)]
    {
        site.clock.advance(ms);
        tick(&api, &session, agent).await;
        let limits = api.get(&format!("{path}/limits")).await.expect(200);
        let shown = json!({ "limit": 1, "used": used, "remaining": remaining, "percentage": percentage });
        assert_eq!(limits["maxComputeMinutes"], shown);
    }
    assert_eq!(api.get(&path).await.expect(200)["status"], "paused");
    let refused = api.act(&format!("{path}/resume")).await.error(402, "session_limit_exceeded");
    let details = json!({
        "limit": "maxComputeMinutes", "allowed": 1, "spent": 1, "reserved": 0, "requested": 1
    });
    assert_eq!(refused["details"], details);
    assert_eq!(api.get(&path).await.expect(200)["status"], "paused");
    api.call("PATCH", &format!("{path}/limits"), &json!({ "maxComputeMinutes": 2 })).await.expect(200);
    assert_eq!(api.act(&format!("{path}/resume")).await.expect(200)["status"], "active");
    assert_ne!(api.get(&format!("/v1/agents/{agent}")).await.expect(200)["status"], "paused");
}

#[tokio::test]
async fn a_sessions_limit_is_shown_by_its_period() {
    let site = Site::with_manual_clock().await;
    let api = site.admin().await;
    let session = api.session("u").await;
    let agent = ready(&api, &session).await;
    let path = format!("/v1/sessions/{session}/limits");
    let used = async |period: &str| -> String {
        let limit = json!({ "maxCost": { "amount": 100, "currency": "usd", "period": period } });
        let shown = api.call("PATCH", &path, &limit).await.expect(200);
        assert_eq!(shown, api.get(&path).await.expect(200));
        shown["maxCost"]["used"]["exact"].as_str().unwrap().to_owned()
    };
    // 2025-05-31T23:59:30Z: half a minute before a day and a month are over.
    let before = 1_748_735_970_000;
    stand_at(&api, before - 30_000);
    tick(&api, &session, agent).await;
    stand_at(&api, before);
    tick(&api, &session, agent).await;
    // A minute was charged on the first of May, half a minute on the last, and a minute is held.
    for (period, expected) in [("session", "0.25"), ("day", "0.15"), ("month", "0.25")] {
        assert_eq!(used(period).await, expected, "{period}");
    }
    stand_at(&api, before + 45_000);
    tick(&api, &session, agent).await;
    assert_eq!(used("session").await, "0.325");
    // A quarter of a minute is of the new day, and a minute is held.
    assert_eq!(used("day").await, "0.125");
    assert_eq!(used("month").await, "0.125");
    let paused = api.act(&format!("/v1/agents/{agent}/pause")).await.expect(200);
    assert_eq!(paused["status"], "paused");
    assert_eq!(used("day").await, "0.025");
    stand_at(&api, before + 2 * 86_400_000);
    assert_eq!((used("day").await.as_str(), used("month").await.as_str()), ("0.00", "0.025"));
}

#[tokio::test]
async fn what_is_given_back_on_another_day_is_a_line_of_that_day_and_makes_no_room_past_a_limit() {
    let site = Site::with_manual_clock().await;
    let api = site.admin().await;
    let session = api.session("u").await;
    let agent = ready(&api, &session).await;
    // The clock stands at 2025-05-01T00:00:00Z.
    site.clock.advance(60_000);
    tick(&api, &session, agent).await;
    api.act(&format!("/v1/agents/{agent}/pause")).await.expect(200);
    let charges = api.get("/v1/billing/entries?category=compute").await.expect(200);
    let credit =
        json!({ "chargeId": charges["data"][0]["id"], "amount": -10, "reason": "it was our mistake" });
    site.clock.advance(86_400_000);
    let made = api.post("/v1/billing/adjustments", &credit).await.expect(201);
    let exact = |amount: &Value| amount["exact"].as_str().unwrap().to_owned();
    // Finance sees the credit on the day on which it was made, as a line of its own, below nothing.
    let daily = api.get("/v1/billing/usage/daily?from=2025-05-01").await.expect(200);
    let days: Vec<String> = daily["data"].as_array().unwrap().iter().map(|day| exact(&day["cost"])).collect();
    assert_eq!(days, ["0.10", "-0.10"]);
    let entries = api.get("/v1/billing/entries?from=2025-05-02").await.expect(200);
    assert_eq!((&entries["data"][0]["id"], entries["data"].as_array().unwrap().len()), (&made["id"], 1));
    let summary = api.get("/v1/usage/summary?from=2025-05-02").await.expect(200);
    assert_eq!(
        (exact(&summary["total"]), exact(&summary["compute"]["cost"])),
        ("-0.10".into(), "-0.10".into())
    );
    // Limits count from nothing: what is left is never more than the limit.
    let limits = json!({ "maxCost": { "amount": 10, "currency": "usd", "period": "day" } });
    let path = format!("/v1/sessions/{session}/limits");
    let shown = api.call("PATCH", &path, &limits).await.expect(200)["maxCost"].clone();
    assert_eq!((exact(&shown["used"]), exact(&shown["remaining"])), ("0.00".into(), "0.10".into()));
    assert_eq!(shown["percentage"], 0.0);
    for user in [None, Some("u")] {
        let budget = json!({ "userId": user, "amount": 10, "currency": "usd", "period": "day" });
        let budget = set(&api, &budget).await;
        assert_eq!((exact(&budget["used"]), exact(&budget["remaining"])), ("0.00".into(), "0.10".into()));
    }
    // A minute, which fits, and one more, which would fit if the credit were room past the limit.
    ready(&api, &session).await;
    let second = json!({ "tools": ["web_search"] });
    let refused = api.post(&format!("/v1/sessions/{session}/agents"), &second).await;
    let refused = refused.error(402, "session_limit_exceeded");
    let cents = ["spent", "reserved", "allowed"].map(|name| refused["details"][name].as_i64());
    assert_eq!(cents, [Some(0), Some(10), Some(10)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_agent_keeps_is_charged_at_midnight_by_whichever_server_comes_first() {
    let site = Site::with_manual_clock().await;
    let api = site.admin().await;
    let session = api.session("u").await;
    let agent_id = ready(&api, &session).await;
    let asleep = agent::Command::Suspended { sandbox: "asleep".into(), stored_bytes: 73_000_000_000 };
    for command in [agent::Command::Pause, asleep] {
        site.execute(api.tenant, Command::Agent(agent_id, command)).await;
    }
    // Kept for a day and a quarter; both servers look for work at once.
    site.clock.advance(30 * 3_600_000);
    let runtimes = site.servers.each_ref().map(|server| Runtime::new(server.app.clone()));
    for runtime in runtimes.iter().chain(&runtimes) {
        runtime.step().await.unwrap();
    }
    let kept = wait::until_async("the day to be charged", async || {
        let path = format!("/v1/events?type=storage.metered&subject={agent_id}");
        let events = api.get(&path).await.expect(200)["data"].as_array().unwrap().clone();
        (events.len() == 2).then(|| events[0]["data"].clone())
    })
    .await;
    assert_eq!(kept["due"], "2025-05-03T00:00:00.000Z");
    // 73 GB at ten cents for 730 hours are a cent an hour: 24 hours of the first day, six of the second.
    let cost = |index: usize| kept["booking"]["charges"][index]["cost"].as_str().unwrap().to_owned();
    assert_eq!((cost(0), cost(1)), ("0.24".to_owned(), "0.06".to_owned()));
    let usage = api.get(&format!("/v1/sessions/{session}/usage")).await.expect(200);
    assert_eq!(usage["cost"]["exact"], "0.30");
}
