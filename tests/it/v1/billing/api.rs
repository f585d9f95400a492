//! The views as callers meet them.

use rust_decimal::Decimal;
use serde_json::{Value, json};
use theazo_domain::key::Role;
use theazo_domain::organization::Mode;

use super::{cents, exact};
use crate::support::api::Api;
use crate::support::site::Site;
use crate::support::wait;

const VIEWS: [&str; 8] = [
    "/v1/usage/summary",
    "/v1/billing/usage",
    "/v1/billing/usage/daily",
    "/v1/billing/usage/users",
    "/v1/billing/usage/models",
    "/v1/billing/usage/sessions",
    "/v1/billing/usage/agents",
    "/v1/billing/entries",
];

/// A task that a new agent of this user has done: the task, and its session.
async fn done(api: &Api, user: &str) -> (Value, String) {
    let session = api.session(user).await;
    let created =
        api.post(&format!("/v1/sessions/{session}/agents"), &json!({ "tools": ["web_search"] })).await;
    let agent = created.expect(201)["id"].as_str().unwrap().to_owned();
    let started = api.post(&format!("/v1/agents/{agent}/run"), &json!({ "task": "Think" })).await.expect(202);
    let path = format!("/v1/tasks/{}", started["taskId"].as_str().unwrap());
    let task = wait::until_async("the task", async || {
        let task = api.get(&path).await.expect(200);
        (task["status"] == "completed").then_some(task)
    })
    .await;
    (task, session)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_task_costs_is_what_every_view_shows() {
    let site = Site::working(None).await;
    let organization = site.organization(Mode::Test, 100_000).await;
    let api = organization.api(Role::Developer).await;
    let mut cost = Decimal::ZERO;
    for user in ["a", "b", "b"] {
        let (task, session) = done(&api, user).await;
        let path = format!("/v1/billing/entries?taskId={}", task["id"].as_str().unwrap());
        let entries = api.get(&path).await.expect(200);
        let sum = |entries: &Value| -> Decimal {
            entries["data"].as_array().unwrap().iter().map(|entry| exact(&entry["cost"])).sum()
        };
        assert_eq!(sum(&entries), exact(&task["cost"]));
        // Two calls, of input and output each.
        assert_eq!(entries["data"].as_array().unwrap().len(), 4);
        let newest = &entries["data"][0];
        let price = &newest["unitPrice"];
        let expected = exact(price) * Decimal::from(newest["quantity"].as_i64().unwrap())
            / Decimal::from(price["per"].as_i64().unwrap());
        assert_eq!(exact(&newest["cost"]), expected);
        assert_eq!((&newest["userId"], &newest["line"]), (&json!(user), &json!("usage")));
        // The agent goes on to cost compute, so its session is ended before the sums are compared.
        api.act(&format!("/v1/sessions/{session}/terminate")).await.expect(200);
        let usage = api.get(&format!("/v1/sessions/{session}/usage")).await.expect(200);
        let all = api.get(&format!("/v1/billing/entries?sessionId={session}&limit=100")).await.expect(200);
        assert_eq!(sum(&all), exact(&usage["cost"]));
        cost += exact(&usage["cost"]);
    }
    let summary = api.get("/v1/usage/summary").await.expect(200);
    assert_eq!(exact(&summary["total"]), cost);
    assert_eq!(
        (&summary["models"]["inputTokens"], &summary["models"]["outputTokens"]),
        (&600.into(), &300.into())
    );
    let usage = api.get("/v1/billing/usage").await.expect(200);
    let counts = ["modelCalls", "sessions", "agents"].map(|name| usage[name].as_i64().unwrap());
    assert_eq!((exact(&usage["totalCost"]), counts), (cost, [6, 3, 3]));
    let users = api.get("/v1/billing/usage/users").await.expect(200);
    let users = users["data"].as_array().unwrap();
    assert_eq!((users[0]["userId"].as_str(), users[0]["sessions"].as_i64()), (Some("b"), Some(2)));
    assert_eq!(users.iter().map(|user| cents(&user["cost"])).sum::<i64>(), cents(&summary["total"]));
    // Nothing of it is in the other mode, nor another organization's.
    let live = site.admin().await;
    assert_eq!(exact(&live.get("/v1/usage/summary").await.expect(200)["total"]), Decimal::ZERO);
}

#[tokio::test]
async fn every_role_reads_usage_and_billing() {
    let organization = Site::new().await.organization(Mode::Live, 10_000).await;
    for role in [Role::Admin, Role::Developer, Role::Finance, Role::ReadOnly] {
        let api = organization.api(role).await;
        for view in VIEWS {
            api.get(view).await.expect(200);
        }
    }
}

#[tokio::test]
async fn a_period_is_what_was_asked_for_to_whole_seconds() {
    let site = Site::with_manual_clock().await;
    let api = site.admin().await;
    // 2025-05-06T14:00:00.250Z
    site.clock.advance(482_400_250);
    let period = async |query: &str| {
        let summary = api.get(&format!("/v1/usage/summary{query}")).await.expect(200);
        let text = |name: &str| summary["period"][name].as_str().unwrap().to_owned();
        (text("from"), text("until"))
    };
    let is = |from: &str, until: &str| (from.to_owned(), until.to_owned());
    // What happens in this second counts too.
    assert_eq!(period("").await, is("2025-05-01T00:00:00Z", "2025-05-06T14:00:01Z"));
    assert_eq!(
        period("?from=2025-05-02&until=2025-05-03").await,
        is("2025-05-02T00:00:00Z", "2025-05-04T00:00:00Z")
    );
    assert_eq!(
        period("?from=2025-05-02T10:00:00.999Z&until=2025-05-02T12:00:00.001%2B01:00").await,
        is("2025-05-02T10:00:00Z", "2025-05-02T11:00:00Z")
    );
    assert_eq!(
        period("?from=1969-12-31T23:59:59.500Z&until=9999-12-31").await,
        is("1970-01-01T00:00:00Z", "9999-12-31T23:59:59Z")
    );
    assert_eq!(
        period("?from=0001-01-01&until=9999-12-31T23:59:59.999Z").await,
        is("1970-01-01T00:00:00Z", "9999-12-31T23:59:59Z")
    );
    let last = api.get("/v1/billing/usage/daily?from=9999-12-30&until=9999-12-31").await.expect(200);
    assert_eq!(last["data"].as_array().unwrap().len(), 2);
    let noon = "2025-05-02T12:00:00Z";
    let none = api.get(&format!("/v1/billing/usage/daily?from={noon}&until={noon}")).await.expect(200);
    assert_eq!(none["data"], json!([]));
    let daily = api.get("/v1/billing/usage/daily").await.expect(200);
    let dates: Vec<_> = daily["data"].as_array().unwrap().iter().map(|day| day["date"].clone()).collect();
    assert_eq!((dates.len(), &dates[0], &dates[30]), (31, &json!("2025-04-06"), &json!("2025-05-06")));
}

#[tokio::test]
async fn a_period_that_cannot_be_is_refused_in_every_view() {
    let site = Site::with_manual_clock().await;
    let api = site.admin().await;
    for view in VIEWS {
        for (query, path, rule) in [
            ("from=2025-05-02&until=2025-05-01T23:59:59Z", "until", "order"),
            ("from=2999-01-01", "from", "order"),
            ("from=2025-05-02&until=2025-05-01", "until", "order"),
            ("until=2000-12-31", "until", "order"),
            ("from=yesterday", "from", "format"),
            ("from=yesterday&until=2000-12-31", "from", "format"),
            ("from=-0001-01-01", "from", "format"),
            ("until=2025-13-01", "until", "format"),
        ] {
            let fields = api.get(&format!("{view}?{query}")).await.fields();
            assert_eq!(fields, [(path.to_owned(), rule.to_owned())], "{view}?{query}");
        }
        // A period of no length is one.
        api.get(&format!("{view}?from=2025-05-01T00:00:00Z&until=2025-05-01T00:00:00Z")).await.expect(200);
    }
    let all = api.get("/v1/billing/usage/daily?from=1970-01-01").await.expect(200);
    assert!(all["data"].as_array().unwrap().len() > 20_000, "every day is there");
    let fields = api.get("/v1/billing/usage/daily?from=1970-01-01&until=2099-12-31").await.fields();
    assert_eq!(fields, [("from".to_owned(), "range".to_owned())]);
    // Lists have 100 rows a page at most, and that of users 1,000.
    for (view, limit) in [("users", 1_000), ("sessions", 100), ("agents", 100)] {
        api.get(&format!("/v1/billing/usage/{view}?limit={limit}")).await.expect(200);
        let fields = api.get(&format!("/v1/billing/usage/{view}?limit={}", limit + 1)).await.fields();
        assert_eq!(fields, [("limit".to_owned(), "range".to_owned())], "{view}");
    }
}

#[tokio::test]
async fn a_list_stays_as_it_was_while_more_is_added() {
    let site = Site::with_manual_clock().await;
    let api = site.admin().await;
    for user in ["a", "b", "c"] {
        api.session(user).await;
    }
    let first = api.get("/v1/billing/usage/users?limit=2").await.expect(200);
    assert_eq!((&first["hasMore"], first["data"].as_array().unwrap().len()), (&json!(true), 2));
    let cursor = first["nextCursor"].as_str().unwrap();
    // Another month begins, and others come.
    site.clock.advance(40 * 86_400_000);
    for user in ["0", "c"] {
        api.session(user).await;
    }
    let second = api.get(&format!("/v1/billing/usage/users?limit=2&cursor={cursor}")).await.expect(200);
    let zero = json!({ "amount": 0, "currency": "usd", "exact": "0.00" });
    assert_eq!(second["data"], json!([{ "userId": "c", "cost": zero, "sessions": 1, "agents": 0 }]));
    let fields = api.get(&format!("/v1/billing/usage/users?from=2025-01-01&cursor={cursor}")).await.fields();
    assert_eq!(fields, [("cursor".to_owned(), "cursor".to_owned())]);
    let fields = api.get(&format!("/v1/billing/usage/agents?cursor={cursor}")).await.fields();
    assert_eq!(fields, [("cursor".to_owned(), "cursor".to_owned())]);
}
