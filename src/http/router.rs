//! The whole API on one page, and the document that describes it.

use std::sync::{Arc, LazyLock};

use axum::Router;
use axum::http::header::CONTENT_TYPE;
use axum::middleware::from_fn_with_state;
use axum::response::IntoResponse;
use serde_json::{Value, json};
use utoipa::openapi::{InfoBuilder, OpenApi, OpenApiBuilder, Paths};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::auth::Visitor;
use super::error::{Envelope, Error, Field};
use super::v1::{
    adjustments, agent_stream, agents, budgets, definitions, events, exec, limits, providers, secrets,
    sessions, tasks, unconfirmed, usage,
};
use super::{Edge, access, health};
use crate::app::App;

fn api() -> OpenApiRouter<Edge> {
    OpenApiRouter::with_openapi(about())
        .routes(routes!(sessions::create, sessions::list))
        .routes(routes!(sessions::get))
        .routes(routes!(sessions::by_user))
        .routes(routes!(sessions::pause))
        .routes(routes!(sessions::resume))
        .routes(routes!(sessions::terminate))
        .routes(routes!(limits::get, limits::change))
        .routes(routes!(limits::usage))
        .routes(routes!(agents::create, agents::of_session))
        .routes(routes!(agents::list))
        .routes(routes!(agents::get))
        .routes(routes!(agents::pause))
        .routes(routes!(agents::resume))
        .routes(routes!(agents::terminate))
        .routes(routes!(agent_stream::stream))
        .routes(routes!(exec::exec))
        .routes(routes!(tasks::run))
        .routes(routes!(tasks::list))
        .routes(routes!(tasks::get))
        .routes(routes!(definitions::create, definitions::list))
        .routes(routes!(definitions::get, definitions::update, definitions::archive))
        .routes(routes!(definitions::versions))
        .routes(routes!(secrets::set, secrets::list))
        .routes(routes!(secrets::delete))
        .routes(routes!(providers::list, providers::configure))
        .routes(routes!(providers::remove))
        .routes(routes!(providers::verify))
        .routes(routes!(adjustments::create, adjustments::list))
        .routes(routes!(usage::totals::summary))
        .routes(routes!(usage::totals::billing))
        .routes(routes!(usage::totals::daily))
        .routes(routes!(usage::totals::models))
        .routes(routes!(usage::shares::users))
        .routes(routes!(usage::shares::sessions))
        .routes(routes!(usage::shares::agents))
        .routes(routes!(usage::entries::list))
        .routes(routes!(budgets::list, budgets::set))
        .routes(routes!(unconfirmed::list))
        .routes(routes!(usage::export::export))
        .routes(routes!(events::list))
        .routes(routes!(events::stream))
        .routes(routes!(events::get))
        .routes(routes!(health::healthz))
        .routes(routes!(health::readyz))
        .routes(routes!(health::metrics))
        .routes(routes!(openapi))
}

/// The API over these parts of the server.
pub fn router(app: Arc<App>) -> Router {
    health::recorder();
    let edge = Edge::new(app);
    let (router, _) = api().split_for_parts();
    router
        .fallback(async |visitor| missed(visitor, Error::nothing_here()))
        .method_not_allowed_fallback(async |visitor| missed(visitor, Error::MethodNotAllowed))
        .layer(from_fn_with_state(edge.clone(), access::surround))
        .with_state(edge)
}

/// Answers where nothing is. A request with a key is counted there as anywhere; one without learns no more.
fn missed(visitor: Result<Visitor, Error>, missed: Error) -> Error {
    match visitor {
        Ok(_) | Err(Error::Unauthorized) => missed,
        Err(limited) => limited,
    }
}

/// This document.
#[utoipa::path(get, path = "/v1/openapi.json", tag = "server",
    responses((status = 200, content_type = "application/json", body = Object)))]
async fn openapi() -> impl IntoResponse {
    static DOCUMENT: LazyLock<String> = LazyLock::new(document);
    ([(CONTENT_TYPE, "application/json")], DOCUMENT.as_str())
}

fn about() -> OpenApi {
    let info = InfoBuilder::new()
        .title("Theazo")
        .version("1")
        .description(Some("The control plane of companies that run AI agents for their own users."));
    OpenApiBuilder::new().info(info.build()).paths(Paths::new()).build()
}

/// The API document (OpenAPI 3.1), from the handlers: as it is served, and as it is committed.
///
/// # Panics
/// Never: the document is plain data.
#[must_use]
pub fn document() -> String {
    let mut document = serde_json::to_value(api().into_openapi()).expect("the document is plain data");
    let schemas = &mut document["components"]["schemas"];
    let mut parts = vec![];
    <Envelope as utoipa::ToSchema>::schemas(&mut parts);
    parts.push(("Error".to_owned(), <Envelope as utoipa::PartialSchema>::schema()));
    parts.push(("Field".to_owned(), <Field as utoipa::PartialSchema>::schema()));
    for (name, schema) in parts {
        schemas[name] = json!(schema);
    }
    document["components"]["securitySchemes"] = json!({
        "key": { "type": "http", "scheme": "bearer", "description": "An API key: `th_live_…` or `th_test_…`." }
    });
    document["components"]["responses"] = errors();
    let paths = document["paths"].as_object_mut().expect("there are paths");
    for (path, item) in paths {
        let item = item.as_object_mut().expect("a path is an object");
        for (method, operation) in item {
            describe(path, method, operation);
        }
    }
    let mut text = serde_json::to_string_pretty(&document).expect("the document is plain data");
    text.push('\n');
    text
}

/// The errors of every route, by their status and what they mean.
const ERRORS: [(&str, &str); 13] = [
    ("401", "Missing or invalid API key."),
    ("402", "A limit has no room for it: `details` says which, and by how much."),
    ("403", "The key's role does not allow it."),
    ("404", "It does not exist."),
    ("409", "It does not fit the present state, or the Idempotency-Key was used for another request."),
    ("413", "The body is larger than 1 MiB."),
    ("415", "The body is not application/json."),
    ("422", "The request is not valid: `details.fields` names every field that is wrong."),
    ("429", "Too many requests: come back after `Retry-After` seconds."),
    ("500", "An unexpected error."),
    ("502", "The provider refused or failed."),
    ("503", "It cannot be done right now: come back after `Retry-After` seconds."),
    ("504", "It took longer than it may."),
];

fn errors() -> Value {
    let response = |(status, description): (&str, &str)| {
        let schema = json!({ "schema": { "$ref": "#/components/schemas/Error" } });
        let body = json!({ "description": description, "content": { "application/json": schema } });
        (format!("Error{status}"), body)
    };
    Value::Object(ERRORS.into_iter().map(response).collect())
}

/// Adds to an operation what all of its kind have in common.
fn describe(path: &str, method: &str, operation: &mut Value) {
    let writes = method != "get";
    let done = operation["summary"].clone();
    let answers = operation["responses"].as_object_mut().expect("an operation has answers");
    for answer in answers.values_mut() {
        answer["description"] = done.clone();
    }
    let mut statuses = vec!["500", "503"];
    // Errors that an operation names itself are in the same envelope.
    statuses.extend(["402", "404", "502", "504"].into_iter().filter(|status| answers.contains_key(*status)));
    if operation["tags"] != json!(["server"]) {
        operation["security"] = json!([{ "key": [] }]);
        statuses.extend(["401", "403", "422", "429"]);
    }
    if path.contains('{') {
        statuses.push("404");
    }
    if operation.get("requestBody").is_some() {
        without_null(&mut operation["requestBody"]["content"]["application/json"]["schema"]);
    }
    if writes {
        statuses.extend(["409", "413", "415"]);
        let header = json!({
            "name": "Idempotency-Key", "in": "header", "required": false,
            "description": "The same key and request gives the first answer again, for 24 hours or longer.",
            "schema": { "type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$" },
        });
        let parameters = &mut operation["parameters"];
        match parameters.as_array_mut() {
            Some(parameters) => parameters.push(header),
            None => *parameters = json!([header]),
        }
    }
    for status in statuses {
        operation["responses"][status] = json!({ "$ref": format!("#/components/responses/Error{status}") });
    }
}

/// A body that may be left out is described as one that may be null, which none may.
fn without_null(schema: &mut Value) {
    let Some(either) = schema.get_mut("oneOf").and_then(Value::as_array_mut) else { return };
    either.retain(|one| one["type"] != "null");
    if either.len() == 1 {
        *schema = either.remove(0);
    }
}
