//! The server's own PostgreSQL: a child process on a private socket, for whoever names no database.
//!
//! [`Cluster::start`] takes the data directory, chooses the user to run as and a place for the cluster, finds the
//! programs, makes the cluster if there is none, and keeps PostgreSQL running until [`Cluster::stop`]. Killed at any
//! moment, the server finds everything again at the next start. [`Cluster::attach`] is for other processes: it finds the
//! PostgreSQL of a running server.
//!
//! A service manager should signal the server only (systemd: `KillMode=mixed`): PostgreSQL takes a SIGTERM of its own as
//! a wish to accept no new connections, while the server still needs some to finish.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::{oneshot, watch};

mod account;
mod binaries;
mod data_dir;
mod endpoint;
mod error;
mod fetch;
mod home;
mod initialize;
mod log_file;
mod memory;
mod pid_file;
mod postmaster;
mod supervise;

pub use endpoint::{Endpoint, SUPERUSER};
pub use error::Error;

use account::Account;
use binaries::Binaries;
use data_dir::DataDir;
use home::Home;
use postmaster::{Plan, Postmaster};
use supervise::Supervisor;

/// The major version that is fetched when any would do.
const FETCHED_MAJOR: u32 = 17;

/// How to run the server's own PostgreSQL.
#[derive(Debug, Clone)]
pub struct Options {
    /// The server's data directory.
    pub data_dir: PathBuf,
    /// How many connections PostgreSQL accepts.
    pub max_connections: u16,
    /// Whether what is committed survives a crash. Only a cluster that is thrown away may do without.
    pub durable: bool,
    /// Whether PostgreSQL may be downloaded when the machine has none.
    pub may_fetch: bool,
    /// Where to look for `initdb` and `postgres` instead of on `PATH` and in the usual places.
    pub binary_dirs: Option<Vec<PathBuf>>,
}

impl Options {
    /// The defaults: 100 connections, durable, fetched if need be.
    pub fn new(data_dir: impl Into<PathBuf>) -> Options {
        let data_dir = data_dir.into();
        Options { data_dir, max_connections: 100, durable: true, may_fetch: true, binary_dirs: None }
    }
}

/// How the server's own PostgreSQL is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// It takes connections.
    Running {
        /// The process id of the postmaster.
        pid: u32,
    },
    /// It ended unexpectedly and is being started again.
    Restarting,
    /// It was stopped.
    Stopped,
    /// It cannot be kept running, and no further attempt is made. The text says why.
    Failed(Arc<str>),
}

/// The server's own PostgreSQL, running. Dropped, it is stopped in the background, also when the runtime is gone.
#[derive(Debug)]
pub struct Cluster {
    endpoint: Endpoint,
    state: watch::Receiver<State>,
    stop: oneshot::Sender<()>,
}

impl Cluster {
    /// Starts PostgreSQL on the data directory, making what is missing, and returns when it takes connections.
    pub async fn start(options: Options) -> Result<Cluster, Error> {
        let data_dir = DataDir::open(&options.data_dir)?;
        let remembered = home::remembered(&data_dir)?;
        let cluster = remembered.as_deref().map(home::cluster_in).filter(|cluster| cluster.exists());
        let account = Account::choose(cluster.as_deref())?;
        let home = Home::choose(remembered, &data_dir, &account).await?;
        let binaries = find_binaries(&options, &home, &account).await?;
        let endpoint = Endpoint {
            socket_dir: home.socket_dir(&account)?,
            port: endpoint::PORT,
            user: SUPERUSER.to_owned(),
            secret: data_dir.secret(cluster.as_deref())?,
        };
        initialize::ensure(&home, &account, &binaries, &endpoint, options.durable).await?;

        let plan = Plan {
            account,
            binaries,
            cluster: home.cluster(),
            endpoint: endpoint.clone(),
            log_path: data_dir.log_path(),
            max_connections: options.max_connections,
            durable: options.durable,
        };
        let postmaster = Postmaster::start(&plan).await?;
        endpoint.check().await?;
        data_dir.announce(&endpoint, postmaster.pid)?;
        tracing::info!(pid = postmaster.pid, major = plan.binaries.major, cluster = %plan.cluster.display(), "PostgreSQL runs");

        let (state_sender, state) = watch::channel(State::Running { pid: postmaster.pid });
        let (stop, stopped) = oneshot::channel();
        let supervisor = Supervisor { data_dir, _home: home, plan, state: state_sender };
        tokio::spawn(supervisor.run(postmaster, stopped));
        Ok(Cluster { endpoint, state, stop })
    }

    /// Finds the PostgreSQL of the server that runs on this data directory; `None` when none does.
    pub async fn attach(data_dir: &Path) -> Result<Option<Endpoint>, Error> {
        let Some(endpoint) = data_dir::announced(data_dir)? else { return Ok(None) };
        // The announcement of a server that was killed is still there: the socket knows.
        let socket = endpoint.socket_dir.join(format!(".s.PGSQL.{}", endpoint.port));
        match tokio::net::UnixStream::connect(&socket).await {
            Ok(_) => Ok(Some(endpoint)),
            Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
                Err(Error::file("reach (run as the server's own user or as root)", &socket)(error))
            }
            Err(_) => Ok(None),
        }
    }

    /// Where it listens.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// How it is doing, to be watched.
    pub fn state(&self) -> watch::Receiver<State> {
        self.state.clone()
    }

    /// Waits until it has failed for good (or was stopped), and returns that last state.
    pub async fn wait(&self) -> State {
        last_state(self.state()).await
    }

    /// Stops it: connections are cut, open transactions rolled back, a checkpoint written. Then the data directory is
    /// free. Takes 20 s at most.
    pub async fn stop(self) {
        // An error means that the supervision has ended already.
        let _ended = self.stop.send(());
        last_state(self.state).await;
    }
}

/// Waits for a state that nothing follows.
async fn last_state(mut state: watch::Receiver<State>) -> State {
    let last = state.wait_for(|state| matches!(state, State::Stopped | State::Failed(_))).await;
    last.map_or(State::Stopped, |state| state.clone())
}

/// The machine's programs, else those fetched before, else fetched now.
async fn find_binaries(options: &Options, home: &Home, account: &Account) -> Result<Binaries, Error> {
    let wanted = home.cluster_major();
    let fetched_dir = home.path.join("binaries");
    let mut dirs = options
        .binary_dirs
        .clone()
        .unwrap_or_else(|| binaries::candidates(&std::env::var_os("PATH").unwrap_or_default()));
    dirs.extend(binaries::versions_below(&fetched_dir, "").into_iter().map(|dir| dir.join("bin")));
    let looked = match binaries::choose(&dirs, account, wanted).await {
        Ok(binaries) => return Ok(binaries),
        Err(looked) => looked,
    };
    let fetch = match fetch_binaries(options, &fetched_dir, account, wanted).await {
        Ok(binaries) => return Ok(binaries),
        Err(why) => why,
    };
    let wanted = wanted.map_or_else(
        || format!("{} or newer", binaries::MAJOR_MIN),
        |major| format!("{major} (the version that made this database)"),
    );
    Err(Error::NoBinaries { wanted, looked, fetch })
}

async fn fetch_binaries(
    options: &Options,
    parent: &Path,
    account: &Account,
    wanted: Option<u32>,
) -> Result<Binaries, String> {
    if !options.may_fetch {
        return Err("the download is not allowed".to_owned());
    }
    if !parent.exists() {
        data_dir::make_dir(parent, 0o755).map_err(|error| error.to_string())?;
    }
    let dir = fetch::into(parent, wanted.unwrap_or(FETCHED_MAJOR)).await?;
    binaries::choose(&[dir], account, wanted).await
}
