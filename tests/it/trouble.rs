//! What callers are told when something is wrong with the server or with its database, and that it passes.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::Request;
use futures_util::StreamExt;
use serde_json::json;
use theazo::clock::{Clock, SystemClock};
use theazo_domain::time::Timestamp;
use tokio::time::timeout;
use tower::ServiceExt;

use crate::support::api::{Api, Reply, send};
use crate::support::proxy::{Proxy, Seeming};
use crate::support::site::Site;
use crate::support::wait::until_async;

/// Far longer than anything here takes.
const DEADLINE: Duration = Duration::from_secs(60);

fn create(api: &Api, user_id: &str) -> Request<Body> {
    let request = api.request("POST", "/v1/sessions").header("content-type", "application/json");
    request.body(Body::from(json!({ "userId": user_id }).to_string())).unwrap()
}

fn get(api: &Api, path: &str) -> Request<Body> {
    api.request("GET", path).body(Body::empty()).unwrap()
}

#[track_caller]
fn assert_come_back(reply: &Reply) {
    reply.error(503, "unavailable");
    assert_eq!(reply.header("retry-after"), Some("1"));
}

async fn assert_away(router: &Router, api: &Api) {
    for path in ["/v1/sessions", "/v1/events", "/v1/events/1", "/v1/events/stream", "/readyz"] {
        assert_come_back(&send(router, get(api, path)).await);
    }
    assert_come_back(&send(router, create(api, "nobody")).await);
    assert_come_back(
        &send(router, api.once("POST", "/v1/sessions", "key", &json!({ "userId": "nobody" }))).await,
    );
    assert_eq!(send(router, get(api, "/healthz")).await.status, 200);
}

#[tokio::test]
async fn while_the_database_is_away_callers_are_told_to_come_back_and_then_are_served() {
    let api = Site::new().await.admin().await;
    let proxy = Proxy::before(&api.site.database);
    let server = api.site.another_by(&proxy.config(&api.site.database));
    let router = &server.router;
    send(router, create(&api, "before")).await.expect(201);
    let following = router.clone().oneshot(get(&api, "/v1/events/stream")).await.unwrap();
    let mut following = following.into_body().into_data_stream();
    let before = api.head().await;
    proxy.seem(Seeming::Away);
    assert_away(router, &api).await;
    proxy.seem(Seeming::There);
    send(router, get(&api, "/v1/sessions")).await.expect(200);
    send(router, get(&api, "/readyz")).await.expect(200);
    assert_eq!(api.head().await, before, "what was answered with 503 was not done");
    // The stream has waited, and hears what another server appends.
    api.session("after").await;
    let frame = timeout(DEADLINE, following.next()).await.unwrap().unwrap().unwrap();
    assert!(String::from_utf8_lossy(&frame).starts_with(&format!("id: {}\n", before + 1)));
    send(router, create(&api, "after")).await.expect(201);
}

#[tokio::test]
async fn a_database_that_says_nothing_is_not_waited_for_for_ever() {
    let api = Site::new().await.admin().await;
    let proxy = Proxy::before(&api.site.database);
    let server = api.site.another_by(&proxy.config(&api.site.database));
    let router = &server.router;
    send(router, create(&api, "before")).await.expect(201);
    send(router, get(&api, "/v1/sessions")).await.expect(200);
    proxy.seem(Seeming::Silent);
    // Where everybody waits, time passes at once.
    tokio::time::pause();
    assert_away(router, &api).await;
    tokio::time::resume();
    proxy.seem(Seeming::There);
    until_async("the server to be well again", async || {
        let status = send(router, create(&api, "after")).await.status;
        (status == 201).then_some(())
    })
    .await;
    send(router, get(&api, "/v1/sessions")).await.expect(200);
}

#[tokio::test]
async fn a_server_that_meets_a_newer_one_says_that_it_is_not_ready() {
    let api = Site::new().await.admin().await;
    let server = &api.site.servers[0];
    send(&server.router, get(&api, "/readyz")).await.expect(200);
    let superuser = api.site.database.connect().await;
    superuser.batch_execute("update heads set projection_epoch = 1000").await.unwrap();
    assert_come_back(&send(&server.router, create(&api, "user")).await);
    assert_come_back(&send(&server.router, get(&api, "/readyz")).await);
    send(&server.router, get(&api, "/healthz")).await.expect(200);
}

/// A clock that fails once, so many looks from now.
struct Failing {
    looks_left: AtomicI64,
}

impl Clock for Failing {
    fn now(&self) -> Timestamp {
        assert_ne!(self.looks_left.fetch_sub(1, Ordering::SeqCst), 1, "the secret of 4711");
        SystemClock.now()
    }
}

#[tokio::test]
async fn a_panic_is_answered_without_its_words_and_the_next_request_as_ever() {
    let clock = Arc::new(Failing { looks_left: AtomicI64::new(0) });
    let api = Site::with(clock.clone()).await.admin().await;
    let mut failures = 0;
    for looks in 2..8 {
        for idempotency_key in [None, Some(looks.to_string())] {
            let request = match &idempotency_key {
                None => create(&api, "user"),
                Some(key) => api.once("POST", "/v1/sessions", key, &json!({ "userId": "user" })),
            };
            clock.looks_left.store(looks, Ordering::SeqCst);
            let reply = timeout(DEADLINE, send(&api.site.servers[0].router, request)).await.unwrap();
            clock.looks_left.store(0, Ordering::SeqCst);
            if reply.status != 201 {
                let error = reply.error(500, "internal_error");
                assert_eq!(error["message"], "An unexpected error occurred.");
                assert!(!String::from_utf8_lossy(&reply.body).contains("4711"));
                failures += 1;
            }
            send(&api.site.servers[0].router, create(&api, "next")).await.expect(201);
        }
    }
    assert!(failures >= 4, "it failed in the handler and in the appender: {failures}");
}
