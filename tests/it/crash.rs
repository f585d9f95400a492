//! Two servers over one database under load, while each of the three is killed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use futures_util::future::join_all;
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use theazo::postgres::{Cluster, State};
use tokio_postgres::Client;

use crate::support::cluster::{Scratch, connect, throw_away, url_of};
use crate::support::server::{self, Ask, MASTER_KEY, Server, send, theazo};
use crate::support::wait::{until, until_async};

const WRITERS: usize = 8;
/// End users whose session all writers ask for.
const USERS: usize = 5;
/// Acknowledgements between two kills.
const BETWEEN: usize = 100;

const COMMIT_FIRST: &str = "alter database crashing set synchronous_commit = on";

/// What the writers share.
struct Load {
    key: String,
    /// Where each of the two servers listens now.
    addresses: Mutex<[String; 2]>,
    /// Under each idempotency key, the session that was acknowledged.
    created: Mutex<BTreeMap<String, String>>,
    /// Of each end user, the sessions that were given.
    opened: Mutex<BTreeMap<usize, BTreeSet<String>>>,
    acknowledged: AtomicUsize,
    over: AtomicBool,
}

impl Load {
    fn address(&self, server: usize) -> String {
        self.addresses.lock().unwrap()[server].clone()
    }

    /// Repeats a request, on the servers by turns, until one of them acknowledges it.
    async fn acknowledgement(&self, first: usize, path: &str, idempotency_key: Option<&str>) -> String {
        let mut turn = first;
        let what = format!("{path} to be acknowledged");
        until_async(&what, async || {
            turn += 1;
            let body = idempotency_key.map(|key| json!({ "userId": key }));
            let ask = Ask { method: "POST", path, key: &self.key, idempotency_key, body };
            let response = server::ask(&self.address(turn % 2), ask).await.ok()?;
            if response.status == 503 {
                return None;
            }
            assert!(matches!(response.status, 200 | 201), "{response:?}");
            Some(response.body["id"].as_str().unwrap().to_owned())
        })
        .await
    }

    /// Creates sessions of its own and opens those that all share, until the load is over.
    async fn write(&self, writer: usize) {
        for number in 0.. {
            if self.over.load(Ordering::Relaxed) {
                return;
            }
            let name = format!("writer_{writer}_{number}");
            let created = self.acknowledgement(writer + number, "/v1/sessions", Some(&name)).await;
            self.created.lock().unwrap().insert(name, created);
            let user = number % USERS;
            let path = format!("/v1/sessions/by-user/shared_{user}");
            let opened = self.acknowledgement(writer + number, &path, None).await;
            self.opened.lock().unwrap().entry(user).or_default().insert(opened);
            self.acknowledged.fetch_add(2, Ordering::Relaxed);
        }
    }

    /// A server was started again.
    fn moved(&self, number: usize, server: &Server) {
        self.addresses.lock().unwrap()[number].clone_from(&server.address);
    }

    /// Waits until it has gone on for a while, however the servers are.
    async fn goes_on(&self) {
        let aim = self.acknowledged.load(Ordering::Relaxed) + BETWEEN;
        until("the load to go on", || (self.acknowledged.load(Ordering::Relaxed) >= aim).then_some(())).await;
    }
}

/// A database, and where the two servers over it keep what they have.
pub(crate) struct Place {
    pub(crate) scratch: Scratch,
    cluster: Cluster,
}

impl Place {
    pub(crate) async fn new() -> Self {
        let scratch = Scratch::new();
        let cluster = Cluster::start(throw_away(scratch.path.join("database"))).await.unwrap();
        let endpoint = cluster.endpoint();
        let admin = connect(&endpoint.config("postgres", &endpoint.user)).await;
        // What is written survives the death of every process without being flushed to the disk; but it has to be
        // written when a commit is acknowledged, which a cluster that is thrown away leaves for later.
        for sql in ["create database crashing template template0", COMMIT_FIRST] {
            admin.batch_execute(sql).await.unwrap();
        }
        Self { scratch, cluster }
    }

    fn url(&self) -> String {
        url_of(self.cluster.endpoint(), "crashing")
    }

    async fn start(&self, server: usize) -> Server {
        self.start_with(server, &[]).await
    }

    /// Starts a server with more in its environment.
    pub(crate) async fn start_with(&self, server: usize, environment: &[(&str, String)]) -> Server {
        let dir = self.scratch.path.join(server.to_string());
        let arguments = ["serve", "--listen", "127.0.0.1:0", "--database-url", &self.url()];
        let mut command = theazo(&dir, &arguments);
        command.env("THEAZO_MASTER_KEY", MASTER_KEY);
        command.envs(environment.iter().map(|(name, value)| (name, value)));
        Server::start_with(command).await
    }

    /// A connection as the superuser.
    pub(crate) async fn connect(&self) -> Client {
        let endpoint = self.cluster.endpoint();
        connect(&endpoint.config("crashing", &endpoint.user)).await
    }

    pub(crate) async fn new_key(&self) -> String {
        let made = ["org", "create", "Acme", "--plan", "enterprise", "--rate-limit", "1000000"];
        let organization = self.command(&made).await;
        let org = organization["id"].as_str().unwrap();
        let key = self.command(&["key", "create", "--org", org, "--mode", "live", "--role", "admin"]).await;
        key["key"].as_str().unwrap().to_owned()
    }

    /// Runs a command that must succeed.
    pub(crate) async fn command(&self, arguments: &[&str]) -> Value {
        let url = self.url();
        let arguments = [arguments, &["--database-url", &url, "--json"]].concat();
        let mut command = theazo(&self.scratch.path, &arguments);
        server::answer(command.env("THEAZO_MASTER_KEY", MASTER_KEY)).await
    }

    fn kill_database(&self) {
        let State::Running { pid } = *self.cluster.state().borrow() else { panic!("it runs") };
        send(pid, Signal::SIGKILL);
    }
}

pub(crate) async fn kill(server: Server) {
    server.signal(Signal::SIGKILL);
    server.ended().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_is_killed_under_load_nothing_that_was_acknowledged_is_lost_or_done_twice() {
    let place = Place::new().await;
    let (first, second) = (place.start(0).await, place.start(1).await);
    let load = Load {
        key: place.new_key().await,
        addresses: Mutex::new([first.address.clone(), second.address.clone()]),
        created: Mutex::default(),
        opened: Mutex::default(),
        acknowledged: AtomicUsize::new(0),
        over: AtomicBool::new(false),
    };
    let writing = join_all((0..WRITERS).map(|writer| load.write(writer)));
    let killing = async {
        let servers = kill_each(&place, &load, [first, second]).await;
        load.over.store(true, Ordering::Relaxed);
        servers
    };
    let (_, [first, second]) = tokio::join!(writing, killing);
    assert_whole(&place, &load).await;
    assert!(second.stop().await.success());
    assert!(first.stop().await.success());
}

/// Kills the database, each of the servers, and two at once; the load goes on after each.
async fn kill_each(place: &Place, load: &Load, [first, second]: [Server; 2]) -> [Server; 2] {
    load.goes_on().await;
    place.kill_database();
    load.goes_on().await;
    kill(second).await;
    load.goes_on().await;
    let second = place.start(1).await;
    load.moved(1, &second);
    load.goes_on().await;
    // The database and a server at once, and the other server when that one is back.
    place.kill_database();
    kill(first).await;
    load.goes_on().await;
    let first = place.start(0).await;
    load.moved(0, &first);
    kill(second).await;
    let second = place.start(1).await;
    load.moved(1, &second);
    load.goes_on().await;
    [first, second]
}

/// What was acknowledged is there once, and the log and its read models are sound.
async fn assert_whole(place: &Place, load: &Load) {
    let created = std::mem::take(&mut *load.created.lock().unwrap());
    let opened = std::mem::take(&mut *load.opened.lock().unwrap());
    let mut acknowledged: BTreeSet<String> = created.values().cloned().collect();
    assert_eq!(acknowledged.len(), created.len(), "each idempotency key has a session of its own");
    for (user, sessions) in opened {
        assert_eq!(sessions.len(), 1, "the user {user} has one session");
        acknowledged.extend(sessions);
    }
    let mut listed = BTreeSet::new();
    let mut path = "/v1/sessions?limit=100".to_owned();
    loop {
        let turn = listed.len() / 100;
        let ask = Ask { method: "GET", path: &path, key: &load.key, idempotency_key: None, body: None };
        let page = server::ask(&load.address(turn % 2), ask).await.unwrap().body;
        for session in page["data"].as_array().unwrap() {
            assert!(listed.insert(session["id"].as_str().unwrap().to_owned()));
        }
        let Some(cursor) = page["nextCursor"].as_str() else { break };
        path = format!("/v1/sessions?limit=100&cursor={cursor}");
    }
    assert!(listed == acknowledged, "of {} acknowledged, {} are there", acknowledged.len(), listed.len());
    // The first says that positions are dense and that every hash is right.
    for sound in [&["log", "verify"][..], &["projection", "compare"]] {
        place.command(sound).await;
    }
}
