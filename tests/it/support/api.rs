//! The API as a caller sees it. Requests go to the two servers of a site by turns.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Request, StatusCode};
use http_body_util::BodyExt;
use serde_json::Value;
use theazo::log::Tenant;
use tower::ServiceExt;

use super::site::Site;

/// A caller with an API key.
#[derive(Clone)]
pub(crate) struct Api {
    pub(crate) site: Arc<Site>,
    pub(crate) tenant: Tenant,
    authorization: String,
}

/// An answer.
#[derive(Debug, Clone)]
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
}

impl Api {
    pub(crate) fn new(site: &Arc<Site>, tenant: Tenant, secret: &str) -> Self {
        Self { site: Arc::clone(site), tenant, authorization: format!("Bearer {secret}") }
    }

    /// A request of this caller without a body.
    pub(crate) fn request(&self, method: &str, path: &str) -> axum::http::request::Builder {
        Request::builder().method(method).uri(path).header("authorization", &self.authorization)
    }

    pub(crate) async fn send(&self, request: Request<Body>) -> Reply {
        send(&self.site.next().router, request).await
    }

    pub(crate) async fn get(&self, path: &str) -> Reply {
        self.send(self.request("GET", path).body(Body::empty()).unwrap()).await
    }

    /// A request with a JSON body.
    pub(crate) async fn call(&self, method: &str, path: &str, body: &Value) -> Reply {
        let request = self.request(method, path).header("content-type", "application/json");
        self.send(request.body(Body::from(body.to_string())).unwrap()).await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Reply {
        self.call("POST", path, body).await
    }

    /// A request without a body that changes something.
    pub(crate) async fn act(&self, path: &str) -> Reply {
        self.send(self.request("POST", path).body(Body::empty()).unwrap()).await
    }

    /// A request with a JSON body that is to be carried out once.
    pub(crate) async fn post_once(&self, path: &str, key: &str, body: &Value) -> Reply {
        self.send(self.once("POST", path, key, body)).await
    }

    /// The request itself.
    pub(crate) fn once(&self, method: &str, path: &str, key: &str, body: &Value) -> Request<Body> {
        let request = self.request(method, path).header("idempotency-key", key);
        request.header("content-type", "application/json").body(Body::from(body.to_string())).unwrap()
    }

    /// A new session of this user; its id.
    pub(crate) async fn session(&self, user_id: &str) -> String {
        let reply = self.post("/v1/sessions", &serde_json::json!({ "userId": user_id })).await;
        reply.expect(201)["id"].as_str().unwrap().to_owned()
    }

    /// The position of the last event of the caller's log.
    pub(crate) async fn head(&self) -> i64 {
        self.site.head(self.tenant).await
    }
}

/// Sends a request to one server.
pub(crate) async fn send(router: &Router, request: Request<Body>) -> Reply {
    let response = router.clone().oneshot(request).await.unwrap();
    let (parts, body) = response.into_parts();
    let body = body.collect().await.unwrap().to_bytes().to_vec();
    Reply { status: parts.status, headers: parts.headers, body }
}

impl Reply {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&self.body)))
    }

    /// The body, if the status is this one.
    #[track_caller]
    pub(crate) fn expect(&self, status: u16) -> Value {
        assert_eq!(self.status.as_u16(), status, "{}", String::from_utf8_lossy(&self.body));
        self.json()
    }

    /// The error, if it is of this status and code and in the envelope.
    #[track_caller]
    pub(crate) fn error(&self, status: u16, code: &str) -> Value {
        let body = self.expect(status);
        assert_eq!(body["error"]["code"], code);
        assert!(!body["error"]["message"].as_str().unwrap().is_empty());
        let request_id = body["error"]["requestId"].as_str().unwrap();
        assert!(request_id.parse::<theazo_domain::id::RequestId>().is_ok(), "{request_id}");
        assert!(self.header("x-request-id").unwrap().starts_with("req_"));
        body["error"].clone()
    }

    /// The path and rule of each field that was wrong.
    #[track_caller]
    pub(crate) fn fields(&self) -> Vec<(String, String)> {
        let error = self.error(422, "unprocessable_entity");
        let text = |field: &Value, name: &str| field[name].as_str().unwrap().to_owned();
        let fields = error["details"]["fields"].as_array().unwrap();
        fields.iter().map(|field| (text(field, "path"), text(field, "rule"))).collect()
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }
}
