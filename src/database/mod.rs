//! The way to PostgreSQL: pools of connections, and transactions that are walled to one tenant.

mod migrate;
mod pipeline;
mod scope;
mod tls;

use std::str::FromStr;
use std::sync::Arc;

use deadpool_postgres::{Manager, ManagerConfig, Pool, RecyclingMethod, Runtime, Timeouts};
use tokio_postgres::Config;
use tokio_postgres::error::SqlState;

pub use deadpool_postgres::Client;
pub use migrate::{DEFINER_FUNCTIONS, Schema, migrate, schema};
pub(crate) use pipeline::Pipeline;
pub(crate) use scope::name_tenant;
pub use scope::{Scope, millis, system_time};
pub use tls::{Tls, connector};

use crate::config;

/// The role that serves, whichever login connects: it owns nothing and sees one tenant at a time.
pub const SERVING_ROLE: &str = "theazo_serve";

/// Connections to one database, as the serving role. A clone is another handle to the same ones: every stream has one,
/// so it is as small as can be.
#[derive(Clone)]
pub struct Database(Arc<Ways>);

struct Ways {
    append: Pool,
    read: Pool,
    config: Config,
    tls: Tls,
}

/// A statement or a connection failed. Never shown to callers of the API.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No connection could be had.
    #[error("no connection to the database: {0}")]
    Pool(#[from] deadpool_postgres::PoolError),
    /// PostgreSQL refused, or the connection broke.
    #[error("database: {}", describe(.0))]
    Postgres(#[from] tokio_postgres::Error),
    /// The database did not answer in time.
    #[error("the database did not answer within {0:?}")]
    Timeout(std::time::Duration),
    /// A row holds what the program cannot read.
    #[error("unreadable row: {0}")]
    Row(String),
    /// The connection's settings are not usable.
    #[error("{0}")]
    Settings(String),
    /// A migration failed.
    #[error("migration: {0}")]
    Migration(#[from] refinery::Error),
}

fn describe(error: &tokio_postgres::Error) -> String {
    match error.as_db_error() {
        Some(refused) => format!("{} ({})", refused.message(), refused.code().code()),
        None => std::error::Error::source(error)
            .map_or_else(|| error.to_string(), |cause| format!("{error}: {cause}")),
    }
}

impl Error {
    /// Whether trying later may work: the database is away, busy or shutting down, not wrong.
    #[must_use]
    pub fn is_unavailable(&self) -> bool {
        match self {
            Self::Pool(_) | Self::Timeout(_) => true,
            Self::Postgres(error) => match error.code() {
                None => error.is_closed() || error.to_string().contains("communicating"),
                Some(code) => unavailable(code),
            },
            Self::Row(_) | Self::Settings(_) | Self::Migration(_) => false,
        }
    }

    /// Whether the database would refuse the same again: it is what was to be written that is wrong.
    #[must_use]
    pub fn is_lasting(&self) -> bool {
        // Data that no column takes, constraints, and limits of the program.
        let lasting = |code: &SqlState| ["22", "23", "54"].iter().any(|class| code.code().starts_with(class));
        matches!(self, Self::Postgres(error) if error.code().is_some_and(lasting))
    }

    /// Whether it is the connection that failed, so that what was sent last may or may not have been done.
    #[must_use]
    pub fn is_connection(&self) -> bool {
        match self {
            Self::Timeout(_) => true,
            Self::Postgres(error) => error
                .code()
                .is_none_or(|code| code.code().starts_with("08") || code.code().starts_with("57P")),
            _ => false,
        }
    }
}

fn unavailable(code: &SqlState) -> bool {
    // Connection exceptions, resources, operator intervention; and waits that were too long.
    ["08", "53", "57"].iter().any(|class| code.code().starts_with(class))
        || matches!(*code, SqlState::LOCK_NOT_AVAILABLE | SqlState::T_R_DEADLOCK_DETECTED)
}

/// What appending connections tell the planner. Each of their statements finds its rows by an index, one for each
/// value of an array whose length the planner cannot know; guessing from statistics that are older than the rows, it
/// would sometimes read a whole table instead. One plan is made for each statement and kept.
const BY_INDEX: &str = "-c plan_cache_mode=force_generic_plan -c enable_seqscan=off -c enable_hashjoin=off \
                        -c enable_mergejoin=off -c enable_bitmapscan=off -c enable_material=off";

/// Set at the start of a connection, so that no statement can run outside of the walls or without an end.
fn serving_options() -> String {
    let millis = |duration: std::time::Duration| duration.as_millis();
    format!(
        "-c role={SERVING_ROLE} -c statement_timeout={} -c lock_timeout={} \
         -c idle_in_transaction_session_timeout={} -c timezone=UTC -c jit=off",
        millis(config::STATEMENT_TIMEOUT),
        millis(config::LOCK_TIMEOUT),
        millis(config::IDLE_IN_TRANSACTION_TIMEOUT),
    )
}

impl Database {
    /// Pools for this database; no connection is made yet.
    ///
    /// # Errors
    /// [`Error::Settings`] when the pools cannot be built.
    pub fn new(login: &Config, tls: Tls) -> Result<Self, Error> {
        let mut config = login.clone();
        config.options(serving_options());
        config.application_name("theazo").connect_timeout(config::CONNECTION_DEADLINE);
        config.keepalives_idle(std::time::Duration::from_secs(10));
        let pool = |size, config: Config| {
            let manager = ManagerConfig { recycling_method: RecyclingMethod::Fast };
            let deadline = Some(config::CONNECTION_DEADLINE);
            Pool::builder(Manager::from_config(config, tls.clone(), manager))
                .max_size(size)
                .runtime(Runtime::Tokio1)
                .timeouts(Timeouts { wait: deadline, create: deadline, recycle: deadline })
                .build()
                .map_err(|error| Error::Settings(error.to_string()))
        };
        let mut appending = config.clone();
        appending.options(format!("{} {BY_INDEX}", serving_options()));
        let append = pool(config::APPEND_CONNECTIONS, appending)?;
        let read = pool(config::READ_CONNECTIONS, config.clone())?;
        Ok(Self(Arc::new(Ways { append, read, config, tls })))
    }

    /// Reads a `postgres://` URL.
    ///
    /// # Errors
    /// [`Error::Settings`] with the reason, without the password.
    pub fn parse_url(url: &str) -> Result<Config, Error> {
        Config::from_str(url).map_err(|error| {
            let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
            Error::Settings(format!("the database URL is not usable: {error} {cause}"))
        })
    }

    /// A connection for appending.
    pub(crate) async fn appending(&self) -> Result<Client, Error> {
        Ok(self.0.append.get().await?)
    }

    /// A connection for everything else.
    pub(crate) async fn reading(&self) -> Result<Client, Error> {
        Ok(self.0.read.get().await?)
    }

    /// A connection outside of the pools, for listening: the client, and the connection that must be driven.
    pub(crate) async fn dedicated(
        &self,
    ) -> Result<(tokio_postgres::Client, tls::Connection), tokio_postgres::Error> {
        self.0.config.connect(self.0.tls.clone()).await
    }

    /// Does something on a connection of the pool, for as long as an answer is waited for.
    ///
    /// # Errors
    /// As `work`; [`Error::Timeout`] when the database says nothing.
    pub(crate) async fn read<T>(
        &self,
        work: impl AsyncFnOnce(&Client) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let client = self.reading().await?;
        match tokio::time::timeout(config::ANSWER_DEADLINE, work(&client)).await {
            Ok(outcome) => outcome,
            Err(_) => {
                // Whatever it answers later is an answer to nobody, so the connection is of no further use.
                drop(deadpool_postgres::Object::take(client));
                Err(Error::Timeout(config::ANSWER_DEADLINE))
            }
        }
    }

    /// Whether the database answers.
    ///
    /// # Errors
    /// When it does not.
    pub async fn ping(&self) -> Result<(), Error> {
        self.read(async |client| Ok(client.batch_execute("").await?)).await
    }

    /// Lets go of the connections, so that the database need not cut them when it stops.
    pub fn close(&self) {
        self.0.append.close();
        self.0.read.close();
    }
}

impl std::fmt::Debug for Database {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Without the settings, which hold a password.
        formatter.debug_struct("Database").finish_non_exhaustive()
    }
}
