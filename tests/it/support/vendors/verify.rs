//! A strict server that stands in for the vendors of compute, as far as they are asked whether they take credentials.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::{Path, RawQuery, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Value, json};
use sha2::Sha256;
use theazo::providers::{Settings, Vendors};
use tokio::task::JoinHandle;

/// The API key that E2B takes, and the token that Fly takes for the app `sandboxes`.
pub(crate) const E2B_KEY: &str = "e2b_0123456789";
pub(crate) const FLY_TOKEN: &str = "FlyV1 fm2_abc,fm2_def";
/// The secret of the webhook at `/hook`, and its key.
pub(crate) const WEBHOOK_SECRET: &str = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3";
const WEBHOOK_KEY: &[u8] = b"0123456789abcdef01234567";

/// All of them, on one address of this machine.
pub(crate) struct Vendor {
    pub(crate) address: SocketAddr,
    /// How often each path was asked for.
    asked: Asked,
    task: JoinHandle<()>,
}

type Asked = Arc<Mutex<BTreeMap<String, usize>>>;

impl Drop for Vendor {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Vendor {
    pub(crate) async fn start() -> Self {
        let asked = Asked::default();
        let count = axum::middleware::from_fn_with_state(
            Arc::clone(&asked),
            async |State(asked): State<Asked>,
                   request: axum::extract::Request,
                   next: axum::middleware::Next| {
                *asked.lock().unwrap().entry(request.uri().path().to_owned()).or_default() += 1;
                next.run(request).await
            },
        );
        let away = async || (StatusCode::TEMPORARY_REDIRECT, [(header::LOCATION, "http://10.0.0.1/")]);
        let router = Router::new()
            .route("/v2/sandboxes", get(e2b))
            .route("/v1/apps/{app}", get(fly))
            .route("/_ping", get(async || "OK"))
            .route("/hook", post(webhook))
            .route("/away", post(away))
            .route("/silent", post(std::future::pending::<String>))
            .fallback(async || StatusCode::IM_A_TEAPOT)
            .layer(count);
        let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let task = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { address, asked, task }
    }

    /// Settings of an operator whose vendors are here, and who lets customers name 127.0.0.1 and no more.
    pub(crate) fn settings(&self) -> Settings {
        let url: url::Url = self.url("/").parse().unwrap();
        let docker = self.url("/").parse().unwrap();
        let vendors = Vendors { e2b: url.clone(), fly: url, docker, ..Vendors::default() };
        Settings { allowed_networks: vec!["127.0.0.1/32".parse().unwrap()], vendors, ..Settings::default() }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// How often a path was asked for.
    pub(crate) fn asked(&self, path: &str) -> usize {
        self.asked.lock().unwrap().get(path).copied().unwrap_or(0)
    }

    /// Credentials of a provider that its vendor takes.
    pub(crate) fn credentials(&self, provider: &str) -> Value {
        match provider {
            "e2b" => json!({ "apiKey": E2B_KEY }),
            "fly" => json!({ "apiToken": FLY_TOKEN, "appName": "sandboxes" }),
            "webhook" => json!({ "url": self.url("/hook"), "secret": WEBHOOK_SECRET }),
            _ => json!({}),
        }
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    headers.get(name).map(|value| value.to_str().unwrap()).unwrap_or_default()
}

/// E2B's `GET /v2/sandboxes`, whose errors are `{code, message}`.
async fn e2b(headers: HeaderMap, RawQuery(query): RawQuery) -> Response {
    let refuse = |status: u16, message: &str| {
        let body = axum::Json(json!({ "code": status, "message": message }));
        (StatusCode::from_u16(status).unwrap(), body).into_response()
    };
    if query.as_deref() != Some("limit=1") || headers.contains_key("authorization") {
        return refuse(400, "not a request of this API");
    }
    match text(&headers, "x-api-key") {
        E2B_KEY => axum::Json(json!([])).into_response(),
        "e2b_broken" => refuse(500, "e2b_broken"),
        // Vendors do repeat what they were asked with.
        key => refuse(401, &format!("invalid API key {key}")),
    }
}

/// Fly's `GET /v1/apps/{app_name}`, whose errors are `{error}`.
async fn fly(headers: HeaderMap, Path(app): Path<String>) -> Response {
    if text(&headers, "authorization") != format!("Bearer {FLY_TOKEN}") {
        return (StatusCode::UNAUTHORIZED, axum::Json(json!({ "error": "unauthorized" }))).into_response();
    }
    if app != "sandboxes" {
        return (StatusCode::NOT_FOUND, axum::Json(json!({ "error": "not found" }))).into_response();
    }
    axum::Json(json!({ "id": "z4k69dxd8r31p5mx", "name": app, "status": "deployed" })).into_response()
}

/// A receiver of `docs/webhook-compute.md`, as far as `ping` goes.
async fn webhook(headers: HeaderMap, body: String) -> StatusCode {
    let (id, timestamp) = (text(&headers, "webhook-id"), text(&headers, "webhook-timestamp"));
    let mut mac = Hmac::<Sha256>::new_from_slice(WEBHOOK_KEY).unwrap();
    mac.update(format!("{id}.{timestamp}.{body}").as_bytes());
    let expected = format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()));
    let message: Value = serde_json::from_str(&body).unwrap();
    let signed = text(&headers, "webhook-signature") == expected && timestamp.parse::<u64>().is_ok();
    let understood = message["type"] == "ping" && message["data"] == json!({});
    let typed = text(&headers, "content-type") == "application/json" && id.starts_with("msg_");
    match (signed, understood && typed) {
        (true, true) => StatusCode::NO_CONTENT,
        (true, false) => StatusCode::BAD_REQUEST,
        _ => StatusCode::UNAUTHORIZED,
    }
}
