//! One PostgreSQL for the whole test run, and a database of its own for each test.

use std::io::PipeWriter;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use theazo::postgres::{Cluster, Endpoint, Options};
use tokio_postgres::{Client, Config, NoTls};

/// A database that no other test uses.
#[derive(Debug)]
pub(crate) struct TestDatabase {
    pub(crate) name: String,
    pub(crate) endpoint: Endpoint,
}

impl TestDatabase {
    /// How to connect as the superuser.
    pub(crate) fn config(&self) -> Config {
        self.endpoint.config(&self.name, &self.endpoint.user)
    }

    /// A connection as the superuser.
    pub(crate) async fn connect(&self) -> Client {
        connect(&self.config()).await
    }
}

/// A fresh, empty database.
pub(crate) async fn database() -> TestDatabase {
    database_from(None).await
}

/// A fresh copy of `template`, to which nobody may be connected meanwhile.
pub(crate) async fn database_from(template: Option<&str>) -> TestDatabase {
    static NUMBER: AtomicU32 = AtomicU32::new(1);
    let endpoint = endpoint().clone();
    let name = format!("test_{}", NUMBER.fetch_add(1, Ordering::Relaxed));
    let admin = connect(&endpoint.config("postgres", &endpoint.user)).await;
    let template = template.unwrap_or("template0");
    admin
        .batch_execute(&format!("create database {name} template {template}"))
        .await
        .expect("a database is made");
    TestDatabase { name, endpoint }
}

/// The URL of a database, as the superuser.
pub(crate) fn url_of(endpoint: &Endpoint, name: &str) -> String {
    format!(
        "postgresql://{}:{}@/{name}?host={}&port={}",
        endpoint.user,
        endpoint.password(&endpoint.user),
        endpoint.socket_dir.display(),
        endpoint.port
    )
}

/// Connects, and leaves the connection to the test's runtime.
pub(crate) async fn connect(config: &Config) -> Client {
    let (client, connection) = config.connect(NoTls).await.expect("the test's PostgreSQL takes connections");
    tokio::spawn(connection);
    client
}

/// A directory that is removed when the test process has ended, however it ends.
pub(crate) struct Scratch {
    pub(crate) path: PathBuf,
    _held_until_the_end: PipeWriter,
}

impl Scratch {
    /// A new directory in `parent`, with a janitor that waits for this value's end.
    #[expect(
        clippy::zombie_processes,
        reason = "the janitor outlives the test process: nobody is left to wait for it"
    )]
    pub(crate) fn new_in(parent: &Path) -> Scratch {
        static NUMBER: AtomicU32 = AtomicU32::new(1);
        let name = format!("theazo-test-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let path = parent.join(name);
        std::fs::create_dir_all(&path).expect("a scratch directory is made");
        let (end, held) = std::io::pipe().expect("a pipe is made");
        let mut janitor = Command::new("/bin/sh");
        janitor.args(["-c", include_str!("janitor.sh"), "theazo-janitor"]).arg(&path).current_dir("/");
        janitor.stdin(end).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
        janitor.spawn().expect("the janitor runs");
        Scratch { path, _held_until_the_end: held }
    }

    /// A new directory in the system's place for such.
    pub(crate) fn new() -> Scratch {
        Scratch::new_in(&std::env::temp_dir())
    }
}

/// The options of a cluster that is thrown away.
pub(crate) fn throw_away(data_dir: impl Into<PathBuf>) -> Options {
    Options { durable: false, may_fetch: false, ..Options::new(data_dir) }
}

/// The run's PostgreSQL, started by the first test that asks. It lives on a thread with a runtime of its own, since each
/// test's runtime ends with the test.
fn endpoint() -> &'static Endpoint {
    static ENDPOINT: OnceLock<Endpoint> = OnceLock::new();
    ENDPOINT.get_or_init(|| {
        let (sender, receiver) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let scratch = Scratch::new();
            let runtime = tokio::runtime::Runtime::new().expect("a runtime starts");
            runtime.block_on(async {
                let options = Options { max_connections: 300, ..throw_away(scratch.path.join("data")) };
                let cluster = Cluster::start(options).await.expect("the tests' PostgreSQL starts");
                sender.send(cluster.endpoint().clone()).expect("a test waits for it");
                panic!("the tests' PostgreSQL ended: {:?}", cluster.wait().await);
            });
        });
        receiver.recv().expect("the tests' PostgreSQL started")
    })
}
