//! `/v1/providers`, while a provider is being asked.

use std::net::{Ipv4Addr, TcpListener};

use serde_json::json;

use crate::support::api::Api;
use crate::support::site::Site;
use crate::support::vendors::verify::{Vendor, WEBHOOK_SECRET};

async fn start() -> (Vendor, Api) {
    let vendor = Vendor::start().await;
    let api = Site::with_outside(vendor.settings()).await.admin().await;
    (vendor, api)
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
