//! The command line: one file a group of commands.

mod billing;
mod db;
mod doctor;
mod event;
mod export;
mod key;
mod log;
mod org;
mod output;
mod outside;
mod projection;
mod rates;
mod reconcile;
mod sandbox;
mod secret;
mod serve;
mod strip_types;
mod tenants;
mod vendors;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use theazo_domain::organization::Mode;
use zeroize::Zeroizing;

pub use output::complain;

use crate::boot::{self, Settings, Site};
use crate::{logging, providers, vault};
use output::Output;

/// How a command ended that was carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// All is well.
    Fine,
    /// What was looked at is not as it should be; the command has said how.
    Wrong,
}

/// Why a command was not carried out: one line for the operator.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The database, the keys, the log.
    #[error(transparent)]
    Boot(#[from] boot::Error),
    /// Something on the command line names nothing, or cannot be used.
    #[error("{0}")]
    Usage(String),
}

impl From<crate::database::Error> for Error {
    fn from(error: crate::database::Error) -> Self {
        Self::Boot(error.into())
    }
}

impl From<crate::log::Failure> for Error {
    fn from(failure: crate::log::Failure) -> Self {
        Self::Boot(failure.into())
    }
}

impl From<tokio_postgres::Error> for Error {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Boot(error.into())
    }
}

/// An open, self-hosted, event-sourced server for the Theazo REST API. Without a command it serves.
#[derive(Debug, Parser)]
#[command(name = "theazo", version)]
pub struct Cli {
    #[command(flatten)]
    place: Place,
    #[command(subcommand)]
    command: Option<Command>,
}

/// Where the data is.
#[derive(Debug, Args)]
struct Place {
    /// The data directory: the server's own PostgreSQL, its master key, the first API keys
    #[arg(long, global = true, value_name = "DIR", env = "THEAZO_DATA_DIR", default_value = "./.theazo")]
    data_dir: PathBuf,
    /// The database to use instead of the server's own PostgreSQL
    #[arg(long, global = true, value_name = "URL", env = "THEAZO_DATABASE_URL", hide_env_values = true)]
    database_url: Option<String>,
    /// The login that owns the schema, for migrations and new organizations [default: the database URL]
    #[arg(long, global = true, value_name = "URL", env = "THEAZO_MIGRATION_URL", hide_env_values = true)]
    migration_url: Option<String>,
    /// Certificate authorities of the database beside the machine's, a PEM file
    #[arg(long, global = true, value_name = "FILE", env = "THEAZO_DATABASE_CA")]
    database_ca: Option<PathBuf>,
    /// The file that holds the master key, 32 bytes in hex (or the key itself in THEAZO_MASTER_KEY)
    #[arg(long, global = true, value_name = "FILE", env = "THEAZO_MASTER_KEY_FILE")]
    master_key_file: Option<PathBuf>,
    /// The file of another master key that may still wrap something (or that key in THEAZO_MASTER_KEY_PREVIOUS)
    #[arg(long, global = true, value_name = "FILE", env = "THEAZO_MASTER_KEY_PREVIOUS_FILE")]
    master_key_previous_file: Option<PathBuf>,
    /// How the log on standard error is written [default: text on a terminal, else json]
    #[arg(long, global = true, value_name = "FORMAT", env = "THEAZO_LOG_FORMAT")]
    log_format: Option<logging::Format>,
    /// Answer in JSON
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve the API
    Serve(Box<serve::Arguments>),
    /// The schema of the database
    #[command(subcommand)]
    Db(db::Command),
    /// Organizations
    #[command(subcommand)]
    Org(org::Command),
    /// API keys
    #[command(subcommand)]
    Key(key::Command),
    /// What has happened
    #[command(subcommand)]
    Event(event::Command),
    /// The read models
    #[command(subcommand)]
    Projection(projection::Command),
    /// What usage costs
    #[command(subcommand)]
    Billing(billing::Command),
    /// The logs as wholes
    #[command(subcommand)]
    Log(log::Command),
    /// Rate cards
    #[command(subcommand)]
    Rates(rates::Command),
    /// What is sealed
    #[command(subcommand)]
    Secret(secret::Command),
    /// Look whether everything is as it should be
    Doctor(doctor::Arguments),
    /// Make JavaScript of TypeScript, as a child process of the server
    #[command(hide = true)]
    StripTypes,
}

/// Which of an organization's two logs, on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum ModeArgument {
    Live,
    Test,
}

impl From<ModeArgument> for Mode {
    fn from(mode: ModeArgument) -> Self {
        match mode {
            ModeArgument::Live => Self::Live,
            ModeArgument::Test => Self::Test,
        }
    }
}

impl Cli {
    /// Reads the command line and the environment. A wrong command line ends the process with the status 2.
    #[must_use]
    pub fn from_environment() -> Self {
        let cli = Self::parse();
        if cli.command.is_some() {
            return cli;
        }
        // Read again, so that serving has its own settings from the environment.
        Self::parse_from(std::env::args_os().chain([OsString::from("serve")]))
    }

    /// Carries out what needs no part of a server, not even its threads; `None` for every other command.
    #[must_use]
    pub fn run_alone(&self) -> Option<ExitCode> {
        matches!(self.command, Some(Command::StripTypes)).then(strip_types::run)
    }

    /// Begins to log: a server says what it does, a command only what is wrong.
    ///
    /// # Errors
    /// When the filter in the environment is malformed.
    pub fn start_logging(&self) -> Result<(), String> {
        let serving = matches!(self.command, Some(Command::Serve(_)) | None);
        let format = if serving { self.place.log_format } else { Some(logging::Format::Text) };
        // Connections that end with the database at a stop are no news.
        let filter =
            if serving { "info,deadpool=error" } else { "warn,deadpool=error,theazo::postgres=error" };
        logging::start(format, filter)
    }

    /// Carries the command out.
    ///
    /// # Errors
    /// [`Error`], one line for the operator.
    pub async fn run(&self) -> Result<Outcome, Error> {
        let settings = self.place.settings();
        let output = Output::new(self.place.json);
        match &self.command {
            None => serve::run(&settings, &serve::Arguments::default(), output).await,
            Some(Command::Serve(arguments)) => serve::run(&settings, arguments, output).await,
            Some(Command::Db(command)) => db::run(&settings, command, output).await,
            Some(Command::Doctor(arguments)) => doctor::run(&settings, arguments, output).await,
            Some(Command::Rates(command)) if command.is_about_the_program() => {
                Ok(rates::show_built_in(output))
            }
            Some(command) => with_tools(&settings, command, output).await,
        }
    }
}

impl Place {
    fn settings(&self) -> Settings {
        // An empty variable, as compose files make them, is none.
        let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        let path = |path: &Option<PathBuf>| path.clone().filter(|path| !path.as_os_str().is_empty());
        let hex = |name| std::env::var(name).ok().filter(|text| !text.is_empty()).map(Zeroizing::new);
        Settings {
            data_dir: self.data_dir.clone(),
            database_url: given(&self.database_url),
            migration_url: given(&self.migration_url),
            database_ca: path(&self.database_ca),
            master: vault::Source {
                hex: hex("THEAZO_MASTER_KEY"),
                file: path(&self.master_key_file),
                own_dir: None,
                previous_hex: hex("THEAZO_MASTER_KEY_PREVIOUS"),
                previous_file: path(&self.master_key_previous_file),
            },
            outside: providers::Settings::default(),
        }
    }
}

/// Carries out a command that reaches into the log.
async fn with_tools(settings: &Settings, command: &Command, output: Output) -> Result<Outcome, Error> {
    let site = Site::of_command(settings).await?;
    let outcome = match boot::tools(settings, &site).await {
        Err(error) => Err(error.into()),
        Ok(mut tools) => {
            let outcome = match command {
                Command::Org(command) => org::run(&mut tools, command, output).await,
                Command::Key(command) => key::run(&tools, command, output).await,
                Command::Event(command) => event::run(&tools, command, output).await,
                Command::Projection(command) => projection::run(&tools, command, output).await,
                Command::Rates(command) => rates::run(&tools, command, output).await,
                Command::Billing(command) => billing::run(&tools, command, output).await,
                Command::Secret(command) => secret::run(&mut tools, command, output).await,
                Command::Log(command) => log::run(&tools, command, output).await,
                Command::Serve(_) | Command::Db(_) | Command::Doctor(_) | Command::StripTypes => {
                    Ok(Outcome::Fine)
                }
            };
            tools.log.close().await;
            drop(tools);
            outcome
        }
    };
    site.stop().await;
    outcome
}
