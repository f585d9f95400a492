//! From nothing to a server that can answer: the database, its roles, the keys, the first organization.
//!
//! Every step may be the last one before a crash, so every step looks at what is there and does what is missing.

mod first;
mod site;

use std::cmp::Ordering;
use std::path::PathBuf;
use std::sync::Arc;

use deadpool_postgres::PoolError;
use theazo_domain::Refusal;
use tokio::sync::watch;
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

pub use first::{FILE_NAME as FIRST_KEYS_FILE, FirstKeys};
pub use site::{DATABASE_NAME, Site};

use crate::app::App;
use crate::cards::Cards;
use crate::clock::{Clock, SystemClock};
use crate::database::{self, Database};
use crate::log::{Failure, Log};
use crate::providers::client::Clients;
use crate::providers::compute::Compute;
use crate::providers::compute::local::{self, LocalCompute};
use crate::providers::guard::Guard;
use crate::providers::model::{self, Models, Wire};
use crate::providers::tools::typescript::Converter;
use crate::read::usage::KeptSums;
use crate::runtime::Conversations;
use crate::vault::{self, Masters, ServerKeys, Source};
use crate::{config, postgres, private_file, providers};

/// Where the data is, and who may open it.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The data directory: the server's own PostgreSQL, its master key and the first API keys.
    pub data_dir: PathBuf,
    /// The database, by its URL; without one the server runs its own.
    pub database_url: Option<String>,
    /// The login that owns the schema, where it is another.
    pub migration_url: Option<String>,
    /// Certificate authorities of the database, in PEM form.
    pub database_ca: Option<PathBuf>,
    /// Where the master key is.
    pub master: Source,
    /// What lies outside.
    pub outside: providers::Settings,
}

/// Why a server does not come up, or a command of the operator does not work.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The server's own PostgreSQL.
    #[error(transparent)]
    Postgres(#[from] postgres::Error),
    /// The database, wherever it is.
    #[error(transparent)]
    Database(#[from] database::Error),
    /// The login of the database URL cannot become the serving role.
    #[error(
        "the login of the database URL cannot serve ({0}): it has to be a member of the role {role}: as the owner, \
         grant {role} to that login", role = database::SERVING_ROLE
    )]
    Role(database::Error),
    /// The master key, or what it wraps.
    #[error(transparent)]
    Vault(#[from] vault::Error),
    /// A command could not be carried out.
    #[error(transparent)]
    Failure(#[from] Failure),
    /// The rules said no.
    #[error("{0}")]
    Refused(#[from] Refusal),
    /// There is no database to speak to.
    #[error(
        "there is no database in {}: start a server there (theazo serve --data-dir {}), or name a database with \
         --database-url", .0.display(), .0.display()
    )]
    NoDatabase(PathBuf),
    /// The schema is not the one that this program is for.
    #[error(
        "the schema of the database has version {applied}, and this program is for version {known}: {advice}"
    )]
    Schema {
        /// What the database has.
        applied: i32,
        /// What this program is for.
        known: i32,
        /// What to do.
        advice: &'static str,
    },
    /// The configuration of models.
    #[error(transparent)]
    Models(#[from] model::SettingsError),
    /// A file of the data directory.
    #[error("{}: {reason}", path.display())]
    File {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

impl From<tokio_postgres::Error> for Error {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Database(error.into())
    }
}

/// What reaches into the log from this process.
pub struct Tools {
    /// A connection as the login that owns the schema: for what the serving role may not do.
    pub owner: Client,
    /// The database, as the serving role.
    pub database: Database,
    /// The log.
    pub log: Arc<Log>,
    /// The server's own keys.
    pub keys: Arc<ServerKeys>,
    /// The time.
    pub clock: Arc<dyn Clock>,
}

/// A server that is ready to answer.
pub struct Booted {
    /// What requests need.
    pub app: Arc<App>,
    /// Where the database is; it is to be stopped last.
    pub site: Site,
    /// What listens for other servers' appends, until it is aborted.
    pub listener: tokio::task::JoinHandle<()>,
    /// The keys of the first organization, where it was this start that gave it keys.
    pub first_keys: Option<FirstKeys>,
}

/// Brings a server up: its database started, migrated, with its roles, keys and a first organization.
///
/// # Errors
/// [`Error`], with what the operator can do about it.
pub async fn server(settings: &Settings) -> Result<Booted, Error> {
    let site = Site::of_server(settings).await?;
    match bring_up(settings, &site).await {
        Ok((tools, first_keys)) => {
            let listener = tools.log.listen();
            let Tools { database, log, keys, clock, .. } = tools;
            let (stopping, _) = watch::channel(false);
            let clients = Clients::new(Guard::new(settings.outside.allowed_networks.clone()));
            let search_engine = settings.outside.search_engine.clone();
            let outside = outside(settings, &clients)?;
            let Outside { models, local, typescript } = outside;
            let vendors = settings.outside.vendors.clone();
            let app = Arc::new(App {
                database,
                log,
                keys,
                clients,
                search_engine,
                vendors,
                models,
                local,
                typescript,
                cards: Cards::default(),
                conversations: Conversations::default(),
                kept_sums: KeptSums::default(),
                clock,
                stopping,
            });
            Ok(Booted { app, site, listener, first_keys })
        }
        Err(error) => {
            site.stop().await;
            Err(error)
        }
    }
}

/// What agents need of this machine and of others.
struct Outside {
    models: Models,
    local: Arc<dyn Compute>,
    typescript: Converter,
}

fn outside(settings: &Settings, clients: &Clients) -> Result<Outside, Error> {
    let wire = Wire::new(clients.operator.clone(), config::MODEL_IDLE_DEADLINE);
    let models = Models::new(model::Settings::from_env(), &wire)?;
    let given = settings.outside.sandboxes.clone();
    let options =
        given.unwrap_or_else(|| local::Options::new(settings.data_dir.join(config::SANDBOX_FOLDER)));
    let root = options.root.clone();
    let file = |error: std::io::Error| Error::File { path: root.clone(), reason: error.to_string() };
    let local = Arc::new(LocalCompute::new(options).map_err(file)?);
    let typescript = Converter::own().map_err(file)?;
    Ok(Outside { models, local, typescript })
}

async fn bring_up(settings: &Settings, site: &Site) -> Result<(Tools, Option<FirstKeys>), Error> {
    let dir = &settings.data_dir;
    private_file::make_dir(dir)
        .map_err(|error| Error::File { path: dir.clone(), reason: error.to_string() })?;
    database::migrate(&site.owner, site.tls.clone()).await?;
    let mut tools = tools(settings, site).await?;
    let first_keys = first::ensure(&mut tools, &dir.join(FIRST_KEYS_FILE)).await?;
    Ok((tools, first_keys))
}

/// Opens the log of a database whose schema is the one that this program is for.
///
/// # Errors
/// [`Error::Schema`], [`Error::Vault`] when the master key is missing or wrong, [`Error::Role`], and
/// [`Error::Database`].
pub async fn tools(settings: &Settings, site: &Site) -> Result<Tools, Error> {
    let mut owner = site.connect_owner().await?;
    check_schema(&owner).await?;
    let mut source = settings.master.clone();
    source.own_dir = site.is_own().then(|| settings.data_dir.clone());
    let wrapped_by = vault::master_key_id(&owner).await?;
    let masters = Masters::open(source, wrapped_by.as_deref())?;
    let keys = Arc::new(ServerKeys::load(&mut owner, masters).await?);
    let database = Database::new(&site.serving, site.tls.clone())?;
    database.ping().await.map_err(unservable)?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let log = Log::new(database.clone(), Arc::clone(&keys), Arc::clone(&clock));
    Ok(Tools { owner, database, log, keys, clock })
}

/// Why the serving login does not get in: the pool says only that it does not.
fn unservable(error: database::Error) -> Error {
    let database::Error::Pool(PoolError::Backend(refused)) = error else { return error.into() };
    let role = [SqlState::INSUFFICIENT_PRIVILEGE, SqlState::INVALID_PARAMETER_VALUE];
    let is_role = refused.code().is_some_and(|code| role.contains(code));
    let error = database::Error::Postgres(refused);
    if is_role { Error::Role(error) } else { error.into() }
}

async fn check_schema(owner: &Client) -> Result<(), Error> {
    let schema = database::schema(owner).await?;
    let advice = match schema.applied.cmp(&schema.known) {
        Ordering::Equal => return Ok(()),
        Ordering::Less => "start the server of this version, or run `theazo db migrate`",
        Ordering::Greater => "use the program of the newer version",
    };
    Err(Error::Schema { applied: schema.applied, known: schema.known, advice })
}
