//! `/v1/providers`, while a provider is being asked.

use std::net::{Ipv4Addr, TcpListener};

use serde_json::{Value, json};

use crate::support::api::Api;
use crate::support::site::Site;
use crate::support::vendors::verify::{Vendor, WEBHOOK_SECRET};
use crate::support::wait::{until, until_async};

/// A webhook that takes what it is sent and says nothing.
fn silent(vendor: &Vendor) -> Value {
    let credentials = json!({ "url": vendor.url("/silent"), "secret": WEBHOOK_SECRET });
    json!({ "provider": "webhook", "credentials": credentials })
}

async fn start() -> (Vendor, Api) {
    let vendor = Vendor::start().await;
    let api = Site::with_outside(vendor.settings()).await.admin().await;
    (vendor, api)
}

async fn is_being_asked(vendor: &Vendor) {
    until("the webhook to be asked", || (vendor.asked("/silent") == 1).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twins_are_told_to_wait_and_the_provider_is_asked_once() {
    let (vendor, api) = start().await;
    let body = silent(&vendor);
    let twins = async {
        is_being_asked(&vendor).await;
        for _ in 0..2 {
            let twin = api.post_once("/v1/providers", "key", &body).await;
            twin.error(409, "conflict");
            assert!(twin.header("retry-after").is_some(), "{twin:?}");
        }
        // Another request under this key is no twin: there is nothing to wait for.
        let other = api.post_once("/v1/sessions", "key", &json!({ "userId": "a" })).await;
        other.error(409, "conflict");
        assert_eq!(other.header("retry-after"), None);
    };
    let (first, ()) = tokio::join!(api.post_once("/v1/providers", "key", &body), twins);
    assert_eq!(first.expect(201)["status"], "unverified");
    let again = api.post_once("/v1/providers", "key", &body).await;
    assert_eq!((again.header("idempotency-replayed"), &again.body), (Some("true"), &first.body));
    assert_eq!(vendor.asked("/silent"), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_who_goes_away_finds_the_answer_later() {
    let (vendor, api) = start().await;
    let body = silent(&vendor);
    tokio::select! {
        reply = api.post_once("/v1/providers", "key", &body) => panic!("{reply:?}"),
        () = is_being_asked(&vendor) => {}
    }
    let answered = until_async("the answer", async || {
        let reply = api.post_once("/v1/providers", "key", &body).await;
        (reply.header("retry-after").is_none()).then_some(reply)
    });
    let answered = answered.await;
    answered.expect(201);
    assert_eq!((answered.header("idempotency-replayed"), vendor.asked("/silent")), (Some("true"), 1));
}

#[tokio::test]
async fn a_server_that_takes_the_connection_and_says_nothing_has_not_answered() {
    let (_vendor, api) = start().await;
    // The kernel takes connections, up to where TLS would begin.
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let url = format!("https://{}/", listener.local_addr().unwrap());
    let credentials = json!({ "url": url, "secret": WEBHOOK_SECRET });
    let told = api.post("/v1/providers", &json!({ "provider": "webhook", "credentials": credentials })).await;
    assert_eq!(told.expect(201)["status"], "unverified", "{told:?}");
}
