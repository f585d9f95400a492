//! Calls to the outside: where they may not go, how long they may take, how much they may bring.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Redirect};
use axum::routing::{any, get};
use futures_util::stream;
use reqwest::header::HeaderValue;
use theazo::providers::client::{Call, Client, Clients, Error, Limits};
use theazo::providers::guard::{Guard, Refused};
use tokio::task::JoinHandle;
use url::Url;

use crate::support::observer::{ELSEWHERE, Observer, THIS_MACHINE};

/// Short, but far longer than a call within this machine takes.
const LIMITS: Limits = Limits {
    header: Duration::from_secs(10),
    between: Duration::from_secs(10),
    total: Duration::from_secs(20),
    response_bytes: 64 * 1024,
    redirects: 3,
};

fn guarded(allowed: &[&str]) -> Client {
    Clients::new(Guard::new(allowed.iter().map(|range| range.parse().unwrap()).collect())).guarded
}

fn url(text: &str) -> Url {
    Url::parse(text).unwrap()
}

async fn fetch(client: &Client, address: &str) -> Result<Vec<u8>, Error> {
    client.send(Call::get(url(address)), &LIMITS).await?.whole().await
}

#[tokio::test]
async fn no_packet_reaches_an_address_that_a_customer_may_not_name() {
    let observer = Observer::new();
    let client = guarded(&[]);
    let hidden =
        ["http://user:secret@127.0.0.1:PORT/", "http://8.8.8.8@127.0.0.1:PORT/", "http://a@localhost:PORT/"];
    for template in THIS_MACHINE.iter().chain(&ELSEWHERE).chain(&hidden) {
        for template in [(*template).to_owned(), template.replacen("http:", "https:", 1)] {
            let address = url(&template.replace("PORT", &observer.port.to_string()));
            let told = fetch(&client, address.as_str()).await;
            assert!(matches!(told, Err(Error::Refused(_))), "{template}: {told:?}");
            assert!(told.unwrap_err().never_sent());
            assert!(client.check(&address).await.is_err(), "{template}");
        }
    }
    assert!(!observer.saw(), "a packet came");
}

#[tokio::test]
async fn the_observer_sees_them_all_where_the_operator_allows_it() {
    let observer = Observer::new();
    let client = guarded(&["127.0.0.0/8", "::1/128", "::ffff:0:0/96", "0.0.0.0/32"]);
    let short = Limits { header: Duration::from_millis(100), ..LIMITS };
    for template in THIS_MACHINE {
        let address = url(&template.replace("PORT", &observer.port.to_string()));
        let call = client.send(Call::get(address.clone()), &short).await;
        // The observer accepts and says nothing.
        assert_eq!(call.unwrap_err(), Error::Silent, "{template}");
        assert!(observer.saw(), "{template}");
        assert_eq!(client.check(&address).await, Ok(()), "{template}");
    }
}

#[tokio::test]
async fn what_the_system_resolves_a_name_to_is_filtered() {
    let observer = Observer::new();
    // `localhost` passes by its name, since one of its addresses is allowed; 127.0.0.1 is not that one.
    let client = guarded(&["::1/128"]);
    let address = format!("http://localhost:{}/", observer.port);
    let short = Limits { header: Duration::from_millis(100), ..LIMITS };
    let _ = client.send(Call::get(url(&address)), &short).await;
    assert_eq!(observer.sockets[0].accept().unwrap_err().kind(), ErrorKind::WouldBlock);
}

/// A server on an address of this machine.
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
    async fn start(ip: Ipv4Addr, router: Router) -> Self {
        let listener = tokio::net::TcpListener::bind((ip, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let task = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { address, task }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }
}

fn echo_headers() -> Router {
    let handler = async |method: axum::http::Method, headers: HeaderMap, body: String| {
        let mut names: Vec<_> = headers.keys().map(|name| name.as_str().to_owned()).collect();
        names.sort();
        format!("{method} {body} {}", names.join(" "))
    };
    Router::new().route("/", any(handler))
}

#[tokio::test]
async fn every_hop_of_a_redirect_is_checked() {
    let observer = Observer::new();
    let port = observer.port;
    let targets = [
        format!("http://127.0.0.2:{port}/"),
        format!("http://[::1]:{port}/"),
        format!("http://[::ffff:127.0.0.1]:{port}/"),
        format!("http://2130706434:{port}/"),
        format!("//127.0.0.2:{port}/"),
        "http://10.0.0.1/".to_owned(),
        "file:///etc/passwd".to_owned(),
        format!("http://user@127.0.0.1:{port}/"),
    ];
    for status in [301, 302, 303, 307, 308] {
        for target in &targets {
            let to = target.clone();
            let answer = move || {
                let headers = [(header::LOCATION, to.clone())];
                let answer = (StatusCode::from_u16(status).unwrap(), headers).into_response();
                std::future::ready(answer)
            };
            let server = Server::start(Ipv4Addr::LOCALHOST, Router::new().route("/", get(answer))).await;
            let told = fetch(&guarded(&["127.0.0.1/32"]), &server.url("/")).await;
            assert!(matches!(told, Err(Error::Refused(_))), "{status} {target}: {told:?}");
        }
    }
    assert!(!observer.saw(), "a packet came");
}

#[tokio::test]
async fn redirects_are_followed_so_often_and_no_oftener() {
    let turn = || std::future::ready(Redirect::temporary("/turn"));
    let hop = |to: &'static str| get(move || std::future::ready(Redirect::temporary(to)));
    let router = Router::new()
        .route("/turn", get(turn))
        .route("/1", hop("2"))
        .route("/2", hop("/3"))
        .route("/3", hop("/end"))
        .route("/end", get(async || "here"));
    let server = Server::start(Ipv4Addr::LOCALHOST, router).await;
    let client = guarded(&["127.0.0.0/8"]);
    assert_eq!(fetch(&client, &server.url("/1")).await, Ok(b"here".to_vec()));
    assert_eq!(fetch(&client, &server.url("/turn")).await, Err(Error::Redirects(3)));
    let limits = Limits { redirects: 0, ..LIMITS };
    let reply = client.send(Call::get(url(&server.url("/1"))), &limits).await.unwrap();
    assert_eq!((reply.status().as_u16(), reply.headers()["location"].to_str().unwrap()), (307, "2"));
}

#[tokio::test]
async fn credentials_do_not_go_along_to_another_host() {
    let elsewhere = Server::start(Ipv4Addr::LOCALHOST, echo_headers()).await;
    let to = elsewhere.url("/");
    let away = move |status: u16| {
        let to = to.clone();
        any(move || std::future::ready((StatusCode::from_u16(status).unwrap(), [(header::LOCATION, to)])))
    };
    let near = any(async || Redirect::permanent("/"));
    let router = echo_headers().route("/near", near).route("/307", away(307)).route("/302", away(302));
    let server = Server::start(Ipv4Addr::LOCALHOST, router).await;
    let client = guarded(&["127.0.0.0/8"]);
    let send = async |path: &str| {
        let mut call = Call::get(url(&server.url(path)));
        call.method = axum::http::Method::POST;
        call.body = "body".into();
        for name in
            ["authorization", "cookie", "x-api-key", "content-type", "accept", "connection", "te", "host"]
        {
            call.headers.insert(name, HeaderValue::from_static("close"));
        }
        let reply = client.send(call, &LIMITS).await.unwrap();
        String::from_utf8(reply.whole().await.unwrap()).unwrap()
    };
    let all = "POST body accept authorization content-length content-type cookie host user-agent x-api-key";
    assert_eq!(send("/").await, all);
    assert_eq!(send("/near").await, all);
    assert_eq!(send("/307").await, "POST body accept content-length content-type host user-agent");
    assert_eq!(send("/302").await, "GET  accept host user-agent");
}

#[tokio::test]
async fn no_more_is_read_than_a_call_allows() {
    let endless = async || {
        let piece = || std::future::ready(Ok::<_, std::io::Error>(vec![b'a'; 10_000]));
        Body::from_stream(stream::unfold((), move |()| async move { Some((piece().await, ())) }))
    };
    let router = Router::new()
        .route("/endless", get(endless))
        .route("/fits", get(async || "a".repeat(LIMITS.response_bytes)))
        .route("/one-more", get(async || "a".repeat(LIMITS.response_bytes + 1)));
    let server = Server::start(Ipv4Addr::LOCALHOST, router).await;
    let client = guarded(&["127.0.0.0/8"]);
    assert_eq!(fetch(&client, &server.url("/fits")).await.unwrap().len(), LIMITS.response_bytes);
    for path in ["/one-more", "/endless"] {
        assert_eq!(fetch(&client, &server.url(path)).await, Err(Error::TooLarge(LIMITS.response_bytes)));
        let reply = client.send(Call::get(url(&server.url(path))), &LIMITS).await.unwrap();
        let excerpt = reply.excerpt().await.unwrap();
        assert_eq!((excerpt.bytes.len(), excerpt.truncated), (LIMITS.response_bytes, true));
    }
    let reply = client.send(Call::get(url(&server.url("/fits"))), &LIMITS).await.unwrap();
    assert!(!reply.excerpt().await.unwrap().truncated);
}

#[tokio::test]
async fn each_part_of_a_call_has_its_deadline() {
    let stalling = async || {
        let first = stream::once(std::future::ready(Ok::<_, std::io::Error>("begun".to_owned())));
        Body::from_stream(futures_util::StreamExt::chain(first, stream::pending()))
    };
    let router =
        Router::new().route("/silent", get(std::future::pending::<String>)).route("/stalling", get(stalling));
    let server = Server::start(Ipv4Addr::LOCALHOST, router).await;
    let client = guarded(&["127.0.0.0/8"]);
    let brief = Duration::from_millis(200);
    let send =
        async |path: &str, limits: Limits| client.send(Call::get(url(&server.url(path))), &limits).await;
    let silent = [Limits { header: brief, ..LIMITS }, Limits { total: brief, ..LIMITS }];
    for limits in silent {
        let error = send("/silent", limits).await.unwrap_err();
        assert_eq!(error, Error::Silent);
        assert!(!error.never_sent(), "it may well have been carried out");
    }
    let mut reply = send("/stalling", Limits { between: brief, ..LIMITS }).await.unwrap();
    assert_eq!(reply.piece().await.unwrap().unwrap(), "begun");
    assert_eq!(reply.piece().await, Err(Error::Slow));
}

#[tokio::test]
async fn what_nobody_answers_was_never_sent() {
    let client = guarded(&["127.0.0.0/8"]);
    let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
    let error = fetch(&client, &format!("http://{free}/")).await.unwrap_err();
    assert!(matches!(&error, Error::Unconnected(reason) if reason.contains("refused")), "{error:?}");
    assert!(error.never_sent());
    let unknown = fetch(&client, "http://nobody.invalid/").await.unwrap_err();
    assert!(matches!(unknown, Error::Unconnected(_)), "{unknown:?}");
    assert_eq!(client.check(&url("http://nobody.invalid/")).await, Ok(()));
}

#[tokio::test]
async fn the_operators_client_reaches_private_addresses_and_a_socket() {
    let server = Server::start(Ipv4Addr::LOCALHOST, echo_headers()).await;
    let clients = Clients::new(Guard::default());
    assert!(fetch(&clients.operator, &server.url("/")).await.is_ok());
    assert_eq!(fetch(&clients.operator, "ftp://127.0.0.1/").await, Err(Error::Refused(Refused::Scheme)));
    let folder = std::env::temp_dir().join(format!("theazo-outgoing-{}", server.address.port()));
    std::fs::create_dir(&folder).unwrap();
    let path = folder.join("socket");
    let listener = tokio::net::UnixListener::bind(&path).unwrap();
    let task = tokio::spawn(async move { axum::serve(listener, echo_headers()).await.unwrap() });
    let answer = fetch(&clients.over_socket(&path), "http://docker/").await;
    assert_eq!(answer, Ok(b"GET  accept host user-agent".to_vec()));
    task.abort();
    std::fs::remove_dir_all(&folder).unwrap();
}
