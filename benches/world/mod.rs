//! A throw-away PostgreSQL with its default durability, migrated, for the benches.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use theazo::database;
use theazo::postgres::{Cluster, Endpoint, Options};

/// The database of a bench; it is gone when this is dropped.
pub(crate) struct World {
    pub(crate) endpoint: Endpoint,
    cluster: Option<Cluster>,
    pub(crate) directory: PathBuf,
}

impl World {
    pub(crate) async fn new() -> anyhow::Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let (process, number) = (std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let directory = std::env::temp_dir().join(format!("theazo-bench-{process}-{number}"));
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

/// A number given on the command line, as in `-- --seconds 5`.
pub(crate) fn argument(name: &str, default: f64) -> f64 {
    let mut arguments = std::env::args().skip_while(|argument| argument != name);
    arguments.nth(1).and_then(|value| value.parse().ok()).unwrap_or(default)
}

/// Whether a short run is asked for, which shows that the bench works and little more: `-- --quick`.
pub(crate) fn quick() -> bool {
    std::env::args().any(|argument| argument == "--quick")
}
