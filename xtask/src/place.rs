//! A PostgreSQL that is thrown away, and servers over it that can be killed and started again.

use std::fs::Permissions;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use theazo::postgres::{Cluster, Options, State};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};

use crate::prove::Run;

/// Far longer than a start, a stop or a command takes.
const DEADLINE: Duration = Duration::from_secs(120);
const MASTER_KEY: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
/// Requests a minute that no run reaches.
const RATE_LIMIT: &str = "2000000000";
const DATABASE: &str = "proof";
/// What is written survives the death of every process without being flushed to the disk; but it has to be written
/// when a commit is acknowledged, which a cluster that is thrown away leaves for later.
const COMMIT_FIRST: &str = "alter database proof set synchronous_commit = on";

/// Where a run takes place. Dropped, everything of it is gone.
pub(crate) struct Place {
    directory: PathBuf,
    cluster: Cluster,
    program: PathBuf,
    planted: Option<&'static str>,
    /// The user that servers are, where they are not whoever runs this.
    user: Option<u32>,
    environment: Vec<(String, String)>,
    servers: Mutex<Vec<Option<Server>>>,
}

struct Server {
    child: Child,
    address: String,
}

/// An organization's key.
#[derive(Debug, Clone)]
pub(crate) struct Tenant {
    pub(crate) organization: String,
    pub(crate) key: String,
}

impl Place {
    /// A database and so many servers over it, with this besides in their environment.
    pub(crate) async fn new(run: &Run, servers: usize, environment: &[(&str, &str)]) -> anyhow::Result<Self> {
        Self::of_user(run, servers, environment, None).await
    }

    /// The same with servers that are another user than root, who runs this.
    pub(crate) async fn of_user(
        run: &Run,
        servers: usize,
        environment: &[(&str, &str)],
        user: Option<u32>,
    ) -> anyhow::Result<Self> {
        let name = format!("theazo-proof-{}-{:x}", std::process::id(), fastrand::u32(..));
        let directory = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&directory)?;
        let options =
            Options { durable: false, max_connections: 200, ..Options::new(directory.join("database")) };
        let cluster = Cluster::start(options).await?;
        let mut program = match run.planted {
            Some(_) => run.programs.planted.clone().context("the program with bugs is built")?,
            None => run.programs.server.clone(),
        };
        if user.is_some() {
            // Where another user can reach both.
            let copy = directory.join("theazo");
            std::fs::copy(&program, &copy)?;
            program = copy;
            std::fs::set_permissions(socket(&cluster), Permissions::from_mode(0o777))?;
            std::fs::set_permissions(&cluster.endpoint().socket_dir, Permissions::from_mode(0o711))?;
        }
        let environment = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let place = Self {
            directory,
            cluster,
            program,
            planted: run.planted,
            user,
            environment: environment.collect(),
            servers: Mutex::default(),
        };
        let admin = place.connect("postgres").await?;
        admin.batch_execute(&format!("create database {DATABASE} template template0")).await?;
        admin.batch_execute(COMMIT_FIRST).await?;
        for server in 0..servers {
            place.start(server).await?;
        }
        Ok(place)
    }

    /// Where a run may put its files.
    pub(crate) fn directory(&self) -> &std::path::Path {
        &self.directory
    }

    /// Connects to a database, once PostgreSQL is up.
    async fn connect(&self, database: &str) -> anyhow::Result<tokio_postgres::Client> {
        let mut state = self.cluster.state();
        let up = state.wait_for(|state| matches!(state, State::Running { .. }));
        timeout(DEADLINE, up).await.context("PostgreSQL does not come up")??;
        let endpoint = self.cluster.endpoint();
        let config = endpoint.config(database, &endpoint.user);
        let (client, connection) = config.connect(tokio_postgres::NoTls).await?;
        tokio::spawn(connection);
        Ok(client)
    }

    /// A connection that sees over every wall.
    pub(crate) async fn superuser(&self) -> anyhow::Result<tokio_postgres::Client> {
        self.connect(DATABASE).await
    }

    /// The database's URL.
    pub(crate) fn url(&self) -> String {
        let endpoint = self.cluster.endpoint();
        format!(
            "postgresql://{}:{}@/{DATABASE}?host={}&port={}",
            endpoint.user,
            endpoint.password(&endpoint.user),
            endpoint.socket_dir.display(),
            endpoint.port
        )
    }

    fn theazo(&self, folder: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("THEAZO_") {
                command.env_remove(name);
            }
        }
        command.args(arguments).arg("--database-url").arg(self.url());
        command.arg("--data-dir").arg(self.directory.join(folder)).env("THEAZO_MASTER_KEY", MASTER_KEY);
        if let Some(bug) = self.planted {
            command.env("THEAZO_PLANTED", bug);
        }
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null()).kill_on_drop(true);
        command
    }

    /// Waits until the database takes connections: a server that finds none at its start ends with an error.
    pub(crate) async fn database_is_up(&self) -> anyhow::Result<()> {
        let until = Instant::now() + DEADLINE;
        while let Err(error) = self.superuser().await {
            if Instant::now() > until {
                return Err(error.context("the database does not come back"));
            }
            sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    /// Where a server keeps what it has.
    pub(crate) fn folder(&self, number: usize) -> PathBuf {
        self.directory.join(format!("server-{number}"))
    }

    /// The process of a server, while it runs.
    pub(crate) fn process(&self, number: usize) -> Option<u32> {
        self.servers().get(number)?.as_ref()?.child.id()
    }

    /// The database's socket.
    pub(crate) fn socket(&self) -> PathBuf {
        socket(&self.cluster)
    }

    /// Starts a server, and waits until it listens.
    pub(crate) async fn start(&self, number: usize) -> anyhow::Result<()> {
        self.database_is_up().await?;
        let folder = self.folder(number);
        let mut command = self.theazo(&format!("server-{number}"), &["serve", "--listen", "127.0.0.1:0"]);
        if let Some(user) = self.user {
            std::fs::create_dir_all(&folder)?;
            chown(&folder, Some(user), Some(user))?;
            command.uid(user).gid(user).current_dir(&folder);
        }
        let log_path = folder.with_extension("log");
        let log = std::fs::File::options().append(true).create(true).open(&log_path)?;
        let mut child = command.stdout(Stdio::piped()).stderr(log).spawn()?;
        let mut lines = BufReader::new(child.stdout.take().context("it is piped")?).lines();
        let listening = async {
            while let Some(line) = lines.next_line().await? {
                if let Some(address) = line.strip_prefix("listening on http://") {
                    return Ok(address.to_owned());
                }
            }
            let said = std::fs::read_to_string(&log_path).unwrap_or_default();
            bail!("the server ended before it listened: {}", said.lines().next_back().unwrap_or_default())
        };
        let address = timeout(DEADLINE, listening).await.context("the server did not come up")??;
        let mut servers = self.servers();
        while servers.len() <= number {
            servers.push(None);
        }
        servers[number] = Some(Server { child, address });
        Ok(())
    }

    fn servers(&self) -> std::sync::MutexGuard<'_, Vec<Option<Server>>> {
        self.servers.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Where a server listens; that of the next one where it does not run.
    pub(crate) fn address(&self, number: usize) -> Option<String> {
        let servers = self.servers();
        let many = servers.len();
        (0..many)
            .find_map(|turn| servers[(number + turn) % many].as_ref().map(|server| server.address.clone()))
    }

    /// Ends a server at once (SIGKILL) or with notice (SIGTERM), and waits for its end.
    pub(crate) async fn end_server(&self, number: usize, signal: Signal) -> anyhow::Result<()> {
        let server = self.servers().get_mut(number).and_then(Option::take);
        let Some(mut server) = server else { return Ok(()) };
        if let Some(pid) = server.child.id() {
            send(pid, signal)?;
        }
        timeout(DEADLINE, server.child.wait()).await.context("the server did not end")??;
        Ok(())
    }

    /// Kills all of PostgreSQL, every process of it at the same moment; it is started again by itself. Whether it was up:
    /// what is on its way up already cannot be killed.
    pub(crate) async fn kill_database(&self) -> anyhow::Result<bool> {
        let mut state = self.cluster.state();
        let State::Running { pid: killed } = *state.borrow_and_update() else { return Ok(false) };
        // Stopped first, so that it neither makes a process more nor notices what becomes of the others; they would
        // finish what they are at if they outlived it.
        if send(killed, Signal::SIGSTOP).is_err() {
            return Ok(false);
        }
        for process in children(killed)? {
            // One that has ended by itself just now is as dead.
            let _ = send(process, Signal::SIGKILL);
        }
        send(killed, Signal::SIGKILL)?;
        // Until that is noticed, whoever connects may meet what is dying.
        let gone = state.wait_for(|state| !matches!(state, State::Running { pid } if *pid == killed));
        timeout(DEADLINE, gone).await.context("PostgreSQL does not die")??;
        Ok(true)
    }

    /// Kills all of PostgreSQL once it is up.
    pub(crate) async fn kill_database_surely(&self) -> anyhow::Result<()> {
        self.database_is_up().await?;
        while !self.kill_database().await? {
            self.database_is_up().await?;
        }
        Ok(())
    }

    /// Runs a command that answers in JSON; an error where its status is not 0.
    pub(crate) async fn command(&self, arguments: &[&str]) -> anyhow::Result<Value> {
        let mut command = self.theazo("operator", &[arguments, &["--json"]].concat());
        let output = timeout(DEADLINE * 5, command.output()).await.context("the command did not end")??;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        if !output.status.success() {
            bail!("{arguments:?}: {}{said}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(serde_json::from_str(&said)?)
    }

    /// Runs a command that judges, and answers in JSON: whether all is well, and what it says. An error where it could not
    /// be run to its end.
    pub(crate) async fn verdict(&self, arguments: &[&str]) -> anyhow::Result<(bool, Value)> {
        let mut command = self.theazo("operator", &[arguments, &["--json"]].concat());
        let output = timeout(DEADLINE * 5, command.output()).await.context("the command did not end")??;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        match (output.status.code(), serde_json::from_str(&said)) {
            (Some(status @ (0 | 1)), Ok(said)) => Ok((status == 0, said)),
            _ => bail!("{arguments:?}: {}{said}", String::from_utf8_lossy(&output.stderr)),
        }
    }

    /// A new organization with a key of this role and mode.
    pub(crate) async fn organization(&self, mode: &str) -> anyhow::Result<Tenant> {
        let create = ["org", "create", "Proof", "--plan", "enterprise", "--rate-limit", RATE_LIMIT];
        let organization = self.command(&create).await?;
        let organization = organization["id"].as_str().context("an id")?.to_owned();
        let create = ["key", "create", "--org", &organization, "--mode", mode, "--role", "admin"];
        let key = self.command(&create).await?["key"].as_str().context("a key")?.to_owned();
        Ok(Tenant { organization, key })
    }

    /// Stops all servers with notice.
    pub(crate) async fn stop(self) -> anyhow::Result<()> {
        let many = self.servers().len();
        for number in 0..many {
            self.end_server(number, Signal::SIGTERM).await?;
        }
        Ok(())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.servers().clear();
        // PostgreSQL ends when its cluster is dropped, right after this; what it still writes goes nowhere.
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

fn socket(cluster: &Cluster) -> PathBuf {
    let endpoint = cluster.endpoint();
    endpoint.socket_dir.join(format!(".s.PGSQL.{}", endpoint.port))
}

fn send(pid: u32, signal: Signal) -> anyhow::Result<()> {
    Ok(kill(Pid::from_raw(i32::try_from(pid)?), signal)?)
}

/// The processes whose parent this is.
fn children(parent: u32) -> anyhow::Result<Vec<u32>> {
    let mut found = vec![];
    for entry in std::fs::read_dir("/proc")?.flatten() {
        let Some(process) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let stat = std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        // Behind the name, which may hold anything, come the state and the parent.
        let its = stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(1)?.parse().ok());
        if its == Some(parent) {
            found.push(process);
        }
    }
    Ok(found)
}
