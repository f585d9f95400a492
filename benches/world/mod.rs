//! A throw-away PostgreSQL with its default durability, migrated, for the benches.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use theazo::clock::{Clock, SystemClock};
use theazo::database::{self, Database};
use theazo::log::{self, Actor, Log, Provenance, Submission, Tenant};
use theazo::postgres::{Cluster, Endpoint, Options};
use theazo::random;
use theazo::vault::{Key, Master, Masters, ServerKeys};
use theazo_domain::Command;
use theazo_domain::command::Person;
use theazo_domain::id::{OrganizationId, RequestId, SessionId, UserId};
use theazo_domain::money::Currency;
use theazo_domain::organization::{self, Mode, Plan};
use theazo_domain::session::{self, CostLimit, CostPeriod, Limits, Opening};

/// The database of a bench; it is gone when this is dropped.
pub(crate) struct World {
    pub(crate) endpoint: Endpoint,
    cluster: Option<Cluster>,
    directory: PathBuf,
}

impl World {
    pub(crate) async fn new() -> anyhow::Result<Self> {
        let directory = std::env::temp_dir().join(format!("theazo-bench-{}", std::process::id()));
        std::fs::create_dir_all(&directory)?;
        let options = Options { max_connections: 400, ..Options::new(directory.join("data")) };
        let cluster = Cluster::start(options).await?;
        let world = Self { endpoint: cluster.endpoint().clone(), cluster: Some(cluster), directory };
        world.create_database("theazo").await?;
        let owner = world.login("theazo");
        database::migrate(&owner, database::connector(&owner, None)?).await?;
        Ok(world)
    }

    pub(crate) async fn create_database(&self, name: &str) -> anyhow::Result<()> {
        self.connect("postgres").await?.batch_execute(&format!("create database {name}")).await?;
        Ok(())
    }

    pub(crate) fn login(&self, database: &str) -> tokio_postgres::Config {
        self.endpoint.config(database, &self.endpoint.user)
    }

    pub(crate) async fn connect(&self, database: &str) -> anyhow::Result<tokio_postgres::Client> {
        let (client, connection) = self.login(database).connect(tokio_postgres::NoTls).await?;
        tokio::spawn(connection);
        Ok(client)
    }

    /// A server's log.
    pub(crate) fn log(&self) -> anyhow::Result<Arc<Log>> {
        let login = self.login("theazo");
        let database = Database::new(&login, database::connector(&login, None)?)?;
        let [pepper, answers, cursors] = [1, 2, 3].map(|byte| Key::new([byte; 32]));
        let masters = Masters::of(Master::from_hex(&"01ff".repeat(16), "the bench")?);
        let keys = ServerKeys { pepper, answers, cursors, masters };
        Ok(Log::new(database, Arc::new(keys), Arc::new(SystemClock)))
    }

    /// Organizations that have begun.
    pub(crate) async fn tenants(&self, log: &Arc<Log>, number: usize) -> anyhow::Result<Vec<Tenant>> {
        let mut owner = self.connect("theazo").await?;
        let mut tenants = vec![];
        for _ in 0..number {
            let id = OrganizationId::from_ulid(random::ulid(SystemClock.now()));
            let tenant = log::create_tenant(&mut owner, id, Mode::Live).await?;
            let (name, mode, plan) = ("Bench".to_owned(), Mode::Live, Plan::Team);
            let create = organization::Command::Create { name, mode, plan, rate_limit: None };
            log.execute(tenant, submission(Command::Organization(id, create))).await??;
            tenants.push(tenant);
        }
        Ok(tenants)
    }

    pub(crate) async fn end(mut self) {
        if let Some(cluster) = self.cluster.take() {
            cluster.stop().await;
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        drop(self.cluster.take());
        let _ = remove(&self.directory);
    }
}

fn remove(directory: &Path) -> std::io::Result<()> {
    std::fs::remove_dir_all(directory)
}

pub(crate) fn submission(command: Command) -> Submission {
    let request_id = RequestId::from_ulid(random::ulid(SystemClock.now()));
    let provenance = Provenance { actor: Actor::Operator, request_id, cause: None };
    Submission { command, provenance, contents: vec![], sealed: vec![] }
}

/// The four commands of a session's life.
pub(crate) fn session_life() -> (SessionId, [session::Command; 4]) {
    let session = SessionId::from_ulid(random::ulid(SystemClock.now()));
    let new_id = UserId::from_ulid(random::ulid(SystemClock.now()));
    let max_cost = Some(CostLimit { amount: 500, currency: Currency::Usd, period: CostPeriod::Day });
    let opening = Opening {
        person: Person { external_id: format!("user_{}", new_id.ulid()), new_id },
        limits: Limits { max_cost, max_agents: Some(3), max_compute_minutes: None },
        metadata: None,
    };
    let commands = [
        session::Command::Create(opening),
        session::Command::Pause,
        session::Command::Resume,
        session::Command::Terminate,
    ];
    (session, commands)
}

/// How many events a second, and how long one took.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Figure {
    pub(crate) per_second: f64,
    pub(crate) median_ms: f64,
    pub(crate) p99_ms: f64,
}

/// Sums up the times of operations that each made so many events.
pub(crate) fn figure(mut times: Vec<Duration>, events: usize, elapsed: Duration) -> Figure {
    times.sort_unstable();
    let at =
        |share: usize| times.get(times.len() * share / 100).map_or(0.0, |time| time.as_secs_f64() * 1_000.0);
    Figure { per_second: events as f64 / elapsed.as_secs_f64(), median_ms: at(50), p99_ms: at(99) }
}

/// A number given on the command line, as in `-- --seconds 5`.
pub(crate) fn argument(name: &str, default: f64) -> f64 {
    let mut arguments = std::env::args().skip_while(|argument| argument != name);
    arguments.nth(1).and_then(|value| value.parse().ok()).unwrap_or(default)
}
