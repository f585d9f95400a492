//! The rate limit: an exact sliding window for each key, whichever server is asked.

use axum::body::Body;
use axum::http::Request;
use futures_util::future::join_all;
use serde_json::json;
use theazo_domain::key::Role;
use theazo_domain::organization::Mode;

use crate::support::api::{Reply, send};
use crate::support::site::Site;

fn numbers(reply: &Reply) -> [i64; 3] {
    ["limit", "remaining", "reset"]
        .map(|name| reply.header(&format!("x-ratelimit-{name}")).expect("it is said").parse().unwrap())
}

#[tokio::test]
async fn a_key_gets_as_many_requests_a_minute_as_its_organization_has() {
    let site = Site::with_manual_clock().await;
    let api = site.organization(Mode::Live, 5).await.api(Role::Admin).await;
    for request in 0..5 {
        let reply = api.get("/v1/sessions").await;
        reply.expect(200);
        assert_eq!(numbers(&reply), [5, 4 - request, 60 - request * 10]);
        site.clock.advance(10_000);
    }
    for _ in 0..3 {
        let reply = api.get("/v1/sessions").await;
        let error = reply.error(429, "rate_limited");
        assert_eq!(error["details"]["retryAfter"], 10);
        assert_eq!(error["message"], "Too many requests. Retry after 10 seconds.");
        assert_eq!(reply.header("retry-after"), Some("10"));
        assert_eq!(numbers(&reply), [5, 0, 10]);
    }
    site.clock.advance(9_999);
    let reply = api.get("/v1/sessions").await;
    assert_eq!(reply.header("retry-after"), Some("1"));
    reply.error(429, "rate_limited");
    site.clock.advance(1);
    assert_eq!(numbers(&api.get("/v1/sessions").await), [5, 0, 10]);
    api.get("/v1/sessions").await.error(429, "rate_limited");
    site.clock.advance(60_000);
    assert_eq!(numbers(&api.get("/v1/sessions").await), [5, 4, 60]);
}

#[tokio::test]
async fn whatever_an_authenticated_request_comes_to_it_counts_and_is_told() {
    let site = Site::with_manual_clock().await;
    let organization = site.organization(Mode::Live, 9).await;
    let (api, other) = (organization.api(Role::Finance).await, organization.api(Role::Admin).await);
    assert_eq!(numbers(&api.get("/v1/sessions").await), [9, 8, 60]);
    assert_eq!(numbers(&api.get("/v1/events?limit=0").await), [9, 7, 60]);
    assert_eq!(numbers(&api.get("/v1/events/99").await), [9, 6, 60]);
    assert_eq!(numbers(&api.act("/v1/sessions").await), [9, 5, 60]);
    assert_eq!(numbers(&other.get("/v1/events").await), [9, 8, 60], "each key has its own window");
    let nothing = api.get("/v1/nothing").await;
    nothing.error(404, "not_found");
    assert_eq!(numbers(&nothing), [9, 4, 60]);
    let no_method = api.call("DELETE", "/v1/sessions", &json!({})).await;
    no_method.error(405, "method_not_allowed");
    assert_eq!(numbers(&no_method), [9, 3, 60]);
    for _ in 0..3 {
        api.get("/v1/events").await;
    }
    let over = api.get("/v1/nothing").await;
    over.error(429, "rate_limited");
    assert_eq!(numbers(&over), [9, 0, 60]);
    let stranger = Request::get("/v1/nothing").body(Body::empty()).unwrap();
    let stranger = send(&site.next().router, stranger).await;
    stranger.error(404, "not_found");
    assert_eq!(stranger.header("x-ratelimit-limit"), None, "there is no key to count for");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_at_once_exactly_as_many_as_there_is_room_for_are_admitted() {
    let site = Site::with_manual_clock().await;
    let api = site.organization(Mode::Live, 100).await.api(Role::Admin).await;
    let replies = join_all((0..250).map(|_| api.get("/v1/sessions"))).await;
    let (admitted, refused): (Vec<_>, Vec<_>) = replies.iter().partition(|reply| reply.status == 200);
    assert_eq!((admitted.len(), refused.len()), (100, 150));
    assert!(refused.iter().all(|reply| reply.status == 429));
    let mut remaining: Vec<_> = admitted.iter().map(|reply| numbers(reply)[1]).collect();
    remaining.sort_unstable();
    assert_eq!(remaining, (0..100).collect::<Vec<_>>(), "each learns its own place");
}
