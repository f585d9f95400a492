//! The built-in tools that need no sandbox, and the reading of TypeScript.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::Command;

use axum::Router;
use axum::body::Bytes;
use axum::extract::RawQuery;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Redirect};
use axum::routing::{any, get};
use serde_json::{Value, json};
use theazo::config;
use theazo::providers::client::Clients;
use theazo::providers::guard::Guard;
use theazo::providers::tools::input::HttpRequest;
use theazo::providers::tools::typescript::{Converter, Error};
use theazo::providers::tools::{Failure, http_request, web_search};
use tokio::task::JoinHandle;
use url::Url;

/// A server on this machine, for as long as it is held.
struct Server {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    async fn start(router: Router) -> Self {
        let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let task = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { address, task }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }
}

fn clients(allowed: &[&str]) -> Clients {
    Clients::new(Guard::new(allowed.iter().map(|range| range.parse().unwrap()).collect()))
}

/// Answers like SearXNG whose settings allow the JSON format: nothing but what its documentation says.
async fn engine(RawQuery(query): RawQuery) -> axum::response::Response {
    let pairs: BTreeMap<_, _> =
        url::form_urlencoded::parse(query.unwrap_or_default().as_bytes()).into_owned().collect();
    let names: Vec<_> = pairs.keys().map(String::as_str).collect();
    if names != ["format", "q"] || pairs["q"].is_empty() {
        return StatusCode::BAD_REQUEST.into_response();
    }
    if pairs["format"] != "json" {
        return StatusCode::FORBIDDEN.into_response();
    }
    let hit = |number: usize| {
        json!({
            "url": format!("https://example.com/{number}"), "title": format!("{} {number}", pairs["q"]),
            "content": "An <b>excerpt</b>.", "engine": "duckduckgo", "parsed_url": ["https", "example.com", "/"],
            "engines": ["duckduckgo"], "positions": [number], "score": 1.0, "category": "general",
        })
    };
    let mut results: Vec<_> = (1..=20).map(hit).collect();
    results[1]["content"] = Value::Null;
    if pairs["q"] == "nothing" {
        results.clear();
    }
    let body = json!({
        "query": pairs["q"], "number_of_results": 0, "results": results, "answers": [], "corrections": [],
        "infoboxes": [], "suggestions": [], "unresponsive_engines": [["google", "timeout"]],
    });
    ([(header::CONTENT_TYPE, "application/json")], body.to_string()).into_response()
}

#[tokio::test]
async fn a_search_shows_the_best_results() {
    let server = Server::start(Router::new().route("/searx/search", get(engine))).await;
    let client = clients(&[]).operator;
    for path in ["/searx", "/searx/"] {
        let url = Url::parse(&server.url(path)).unwrap();
        let text = web_search::search(&client, &url, "AI papers & more").await.unwrap();
        let expected = "1. AI papers & more 1\n   https://example.com/1\n   An <b>excerpt</b>.\n\
                        2. AI papers & more 2\n   https://example.com/2\n3. AI";
        assert!(text.starts_with(expected), "{text}");
        assert_eq!(text.matches("https://").count(), config::SEARCH_RESULTS);
        let none = web_search::search(&client, &url, "nothing").await.unwrap();
        assert_eq!(none, "Nothing was found for: nothing");
    }
}

#[tokio::test]
async fn a_search_that_fails_says_how() {
    let large = || async { "x".repeat(config::SEARCH_RESPONSE_BYTES + 1) };
    let router = Router::new()
        .route("/forbidden/search", get(|| async { StatusCode::FORBIDDEN }))
        .route("/html/search", get(|| async { "<html>" }))
        .route("/large/search", get(large));
    let server = Server::start(router).await;
    let client = clients(&[]).operator;
    for (path, expected) in [
        ("/forbidden", "the search engine answered with status 403 Forbidden."),
        ("/html", "the search engine did not answer in its JSON form."),
        ("/large", "its answer is larger than 2097152 bytes."),
    ] {
        let url = Url::parse(&server.url(path)).unwrap();
        let Failure(told) = web_search::search(&client, &url, "a").await.unwrap_err();
        assert_eq!(told, format!("The web search failed: {expected}"));
    }
    let url = Url::parse(&server.url("/")).unwrap();
    drop(server);
    // Another client, which has no connection left to the server that is gone.
    let Failure(told) = web_search::search(&clients(&[]).operator, &url, "a").await.unwrap_err();
    assert!(told.starts_with("The web search failed: it cannot be connected to"), "{told}");
}

fn asked(method: &str, url: String) -> HttpRequest {
    HttpRequest { method: method.into(), url, headers: BTreeMap::new(), body: None }
}

#[tokio::test]
async fn a_request_is_made_as_it_was_asked_for_and_its_answer_shown_whatever_its_status() {
    let echo = |method: axum::http::Method, headers: HeaderMap, body: Bytes| async move {
        let sent = headers.get("x-sent").map(|value| value.to_str().unwrap().to_owned());
        let text = format!("{method} {sent:?} {}", String::from_utf8_lossy(&body));
        (StatusCode::IM_A_TEAPOT, [("x-answer", "42")], text)
    };
    let server = Server::start(Router::new().route("/", any(echo))).await;
    let client = clients(&["127.0.0.0/8"]).guarded;
    let mut request = asked("POST", server.url("/"));
    request.body = Some("the body".into());
    request.headers.insert("X-Sent".into(), "here".into());
    let text = http_request::request(&client, &request).await.unwrap();
    let (head, body) = text.split_once("\n\n").unwrap();
    assert!(head.starts_with("HTTP status 418 I'm a teapot\n"), "{text}");
    assert!(head.contains("\nx-answer: 42"), "{text}");
    assert_eq!(body, "POST Some(\"here\") the body");
    let text = http_request::request(&client, &asked("HEAD", server.url("/"))).await.unwrap();
    assert!(text.ends_with("\n\n"), "{text}");
}

#[tokio::test]
async fn long_and_binary_answers_are_cut_and_described() {
    let long = || async { "é".repeat(config::HTTP_TOOL_BODY_BYTES) };
    let image = || async { ([(header::CONTENT_TYPE, "image/png")], &b"\x89PNG\r\n\x1a\n\0"[..]) };
    let large = || async { ([(header::CONTENT_TYPE, "image/png")], vec![0_u8; 1_000_000]) };
    let headers = || async {
        let mut headers = HeaderMap::new();
        for number in 0..60 {
            let name: header::HeaderName = format!("x-{number}").parse().unwrap();
            headers.insert(name, "x".repeat(200).parse().unwrap());
        }
        (headers, "end")
    };
    let router = Router::new()
        .route("/long", get(long))
        .route("/image", get(image))
        .route("/large", get(large))
        .route("/headers", get(headers));
    let server = Server::start(router).await;
    let client = clients(&["127.0.0.0/8"]).guarded;
    let told = async |path| http_request::request(&client, &asked("GET", server.url(path))).await.unwrap();
    let text = told("/long").await;
    assert!(text.ends_with("éé\n[cut: only the first 65536 bytes are shown]"));
    assert!(text.len() < config::HTTP_TOOL_BODY_BYTES + 1_000);
    assert!(told("/image").await.ends_with("\n\n[binary: image/png, 9 bytes]"));
    assert!(told("/large").await.ends_with("\n\n[binary: image/png, 1000000 bytes]"));
    let text = told("/headers").await;
    assert!(text.ends_with("\n[more headers]\n\nend"), "{text}");
    assert!(text.len() < config::HTTP_TOOL_HEADER_BYTES + 100);
}

#[tokio::test]
async fn an_agent_reaches_no_private_address_also_by_a_redirect() {
    let hidden = Server::start(Router::new().route("/", get(|| async { "hidden" }))).await;
    let (port, plain) = (hidden.address.port(), hidden.url("/"));
    let elsewhere = format!("http://127.0.0.2:{port}/");
    let lead = move || async move { Redirect::temporary(&elsewhere) };
    let server =
        Server::start(Router::new().route("/", get(lead)).route("/end", get(|| async { "end" }))).await;
    let Failure(told) = http_request::request(&clients(&[]).guarded, &asked("GET", plain)).await.unwrap_err();
    assert!(told.starts_with("The request failed: the URL "), "{told}");
    let client = clients(&["127.0.0.1/32"]).guarded;
    let text = http_request::request(&client, &asked("GET", server.url("/end"))).await.unwrap();
    assert!(text.ends_with("\n\nend") && !text.contains("redirected"), "{text}");
    let refused = http_request::request(&client, &asked("GET", server.url("/"))).await;
    assert!(refused.unwrap_err().0.starts_with("The request failed: the URL "));
    for url in ["file:///etc/passwd", "http://", "no address"] {
        assert!(http_request::request(&client, &asked("GET", url.into())).await.is_err(), "{url}");
    }
}

fn converter() -> Converter {
    Converter::of(PathBuf::from(env!("CARGO_BIN_EXE_theazo")))
}

const PROGRAM: &str = r#"
import type { Nothing } from "nowhere";
enum Color { Red, Green = "g" }
const enum Bit { A = 1 << 3 }
namespace Outer { export const x: number = 1; export namespace Inner { export const y = x + 1 } }
abstract class Base<T> { declare ghost: T; abstract name(): string }
class Point extends Base<number> {
  scale = this.x * 2;
  constructor(private readonly x: number, public y?: string) { super() }
  name(): string { return `${this.x}/${this.y}/${this.scale}` }
}
function isText(value: unknown): value is string { return typeof value === "string" }
const point = new Point(3, "a")!;
console.log(JSON.stringify([Color.Red, Color[0], Color.Green, Bit.A, Outer.Inner.y, point.name(), isText(<any>1)]));
"#;

#[tokio::test]
async fn enums_namespaces_and_parameter_properties_run_in_node() {
    let javascript = converter().javascript(PROGRAM).await.unwrap();
    let ran = Command::new("node").args(["-e", &javascript]).output().expect("Node is on this machine");
    assert!(ran.status.success(), "{javascript}\n{}", String::from_utf8_lossy(&ran.stderr));
    assert_eq!(String::from_utf8_lossy(&ran.stdout), "[0,\"Red\",\"g\",8,2,\"3/a/6\",false]\n");
}

#[tokio::test]
async fn what_is_no_typescript_is_told_by_line_and_column() {
    let told = converter().javascript("const a = 1;\nconst b: = 2;\n").await.unwrap_err();
    let Error::Invalid(mistakes) = &told else { panic!("{told}") };
    assert!(mistakes.starts_with("line 2, column 10: "), "{mistakes}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn code_that_nobody_writes_by_hand_ends_the_child_and_nobody_else() {
    let converter = converter();
    let nested = |count: usize, open: &str, middle: &str, close: &str| {
        format!("{}{middle}{}", open.repeat(count), close.repeat(count))
    };
    for (what, code) in [
        ("deeper than any stack", nested(500_000, "(", "1", ")")),
        ("deep without a bracket", nested(1_000_000, "!", "1", "")),
        ("deep in types", format!("type A = {}", nested(340_000, "B<", "c", ">"))),
        ("exponential", nested(222, "a?(b):c=>", "1", "")),
        ("far larger as JavaScript", nested(30_000, "[", "", "]")),
        ("larger than is read", " ".repeat(config::TYPESCRIPT_BYTES + 1)),
    ] {
        let outcome = converter.javascript(&code).await;
        assert_eq!(outcome, Err(Error::TooComplex), "{what}");
    }
    assert_eq!(converter.javascript("let a: 1").await.unwrap(), "let a;\n");
}

#[tokio::test]
async fn without_its_program_nothing_is_converted() {
    let outcome = Converter::of(PathBuf::from("/nowhere/theazo")).javascript("1").await;
    assert!(matches!(outcome, Err(Error::Unavailable(_))), "{outcome:?}");
}
