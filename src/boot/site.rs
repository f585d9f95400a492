//! Where the database is, and the two logins to it: one that serves, one that owns the schema.

use tokio_postgres::{Client, Config};

use super::{Error, Settings};
use crate::database::{self, Database, SERVING_ROLE, Tls};
use crate::postgres::{Cluster, Endpoint, Options, SUPERUSER};

/// The name of the database in the server's own PostgreSQL.
pub const DATABASE_NAME: &str = "theazo";

/// A database, and how each login reaches it.
pub struct Site {
    /// How to connect for serving.
    pub serving: Config,
    /// How to connect as the owner of the schema.
    pub owner: Config,
    /// How connections are secured.
    pub tls: Tls,
    /// The server's own PostgreSQL, where there is one: which passwords its roles have.
    endpoint: Option<Endpoint>,
    /// The server's own PostgreSQL, where it was started by this process.
    cluster: Option<Cluster>,
}

impl Site {
    /// The database of a server: the one that is named, or its own, started.
    ///
    /// # Errors
    /// [`Error`] when the URL is not usable or the server's own PostgreSQL does not start.
    pub async fn of_server(settings: &Settings) -> Result<Self, Error> {
        match &settings.database_url {
            Some(url) => Self::named(settings, url),
            None => Self::started(settings).await,
        }
    }

    /// The database of a command: the one that is named; else the running server's own; else, where no server runs
    /// but one has, its PostgreSQL, started for as long as the command takes.
    ///
    /// # Errors
    /// [`Error::NoDatabase`] where no server has ever run, and as [`Self::of_server`].
    pub async fn of_command(settings: &Settings) -> Result<Self, Error> {
        if let Some(url) = &settings.database_url {
            return Self::named(settings, url);
        }
        if let Some(endpoint) = Cluster::attach(&settings.data_dir).await? {
            return Ok(Self::own(endpoint, None));
        }
        if !settings.data_dir.join("postgres.home").exists() {
            return Err(Error::NoDatabase(settings.data_dir.clone()));
        }
        Self::started(settings).await
    }

    fn named(settings: &Settings, url: &str) -> Result<Self, Error> {
        let serving = Database::parse_url(url)?;
        let owner = settings.migration_url.as_deref().map_or(Ok(serving.clone()), Database::parse_url)?;
        let tls = database::connector(&serving, settings.database_ca.as_deref())?;
        Ok(Self { serving, owner, tls, endpoint: None, cluster: None })
    }

    async fn started(settings: &Settings) -> Result<Self, Error> {
        let cluster = Cluster::start(Options::new(&settings.data_dir)).await?;
        let endpoint = cluster.endpoint().clone();
        let site = Self::own(endpoint, Some(cluster));
        match site.prepare().await {
            Ok(()) => Ok(site),
            Err(error) => {
                site.stop().await;
                Err(error)
            }
        }
    }

    fn own(endpoint: Endpoint, cluster: Option<Cluster>) -> Self {
        let (serving, owner) =
            (endpoint.config(DATABASE_NAME, SERVING_ROLE), endpoint.config(DATABASE_NAME, SUPERUSER));
        let tls = database::connector(&owner, None).expect("no authority's file is read for a socket");
        Self { serving, owner, tls, endpoint: Some(endpoint), cluster }
    }

    /// Whether the database is the server's own.
    #[must_use]
    pub const fn is_own(&self) -> bool {
        self.endpoint.is_some()
    }

    /// The server's own PostgreSQL, where it was started by this process.
    #[must_use]
    pub const fn cluster(&self) -> Option<&Cluster> {
        self.cluster.as_ref()
    }

    /// A connection as the login that owns the schema.
    ///
    /// # Errors
    /// [`Error::Database`] when it cannot be had.
    pub async fn connect_owner(&self) -> Result<Client, Error> {
        Ok(connect(&self.owner, self.tls.clone()).await?)
    }

    /// Makes the database, and the role that serves a login, in the server's own PostgreSQL.
    async fn prepare(&self) -> Result<(), Error> {
        let Some(endpoint) = &self.endpoint else { return Ok(()) };
        let client = connect(&endpoint.config("postgres", SUPERUSER), self.tls.clone()).await?;
        let exists = "select from pg_database where datname = $1";
        if client.query_opt(exists, &[&DATABASE_NAME]).await?.is_none() {
            client.batch_execute(&format!("create database {DATABASE_NAME} template template0")).await?;
        }
        // The migrations make this role too, where they find none, and then as no login.
        let exists = "select from pg_roles where rolname = $1";
        if client.query_opt(exists, &[&SERVING_ROLE]).await?.is_none() {
            client.batch_execute(&format!("create role {SERVING_ROLE}")).await?;
        }
        let password = endpoint.password(SERVING_ROLE);
        client.batch_execute(&format!("alter role {SERVING_ROLE} login password '{password}'")).await?;
        Ok(())
    }

    /// Stops the server's own PostgreSQL, where this process started it.
    pub async fn stop(self) {
        if let Some(cluster) = self.cluster {
            cluster.stop().await;
        }
    }
}

/// A connection, driven by a task of its own for as long as the client is kept.
pub(crate) async fn connect(config: &Config, tls: Tls) -> Result<Client, database::Error> {
    let (client, connection) = config.connect(tls).await?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a connection to the database ended");
        }
    });
    Ok(client)
}
