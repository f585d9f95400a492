//! The server's own PostgreSQL: starting, stopping, and everything that can be killed in between.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, Uid};
use theazo::postgres::{Cluster, Endpoint, Error, Options, State};

use crate::support::cluster::{Scratch, connect, database, database_from, throw_away};
use crate::support::wait::until;

/// Set for the process that [`a_server_to_be_killed`] is.
const OWNED_DIR: &str = "THEAZO_TEST_OWNED_DIR";

async fn execute(endpoint: &Endpoint, sql: &str) {
    connect(&endpoint.config("postgres", &endpoint.user))
        .await
        .batch_execute(sql)
        .await
        .expect("the statement runs");
}

async fn number(endpoint: &Endpoint, sql: &str) -> i32 {
    let client = connect(&endpoint.config("postgres", &endpoint.user)).await;
    client.query_one(sql, &[]).await.expect("the query runs").get(0)
}

fn pid_of(cluster: &Cluster) -> u32 {
    match &*cluster.state().borrow() {
        State::Running { pid } => *pid,
        other => panic!("it does not run: {other:?}"),
    }
}

fn send(pid: u32, signal: Signal) {
    kill(Pid::from_raw(i32::try_from(pid).expect("a process id is small")), signal)
        .expect("the process is there");
}

/// Whether a process runs; a zombie does not.
fn runs(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

fn parent_of(pid: u32) -> u32 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("the process is there");
    let rest = stat.rsplit_once(") ").expect("a name in brackets").1;
    rest.split(' ').nth(1).and_then(|pid| pid.parse().ok()).expect("a parent")
}

fn children_of(pid: u32) -> Vec<u32> {
    let text =
        std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).expect("the process is there");
    text.split_whitespace().map(|pid| pid.parse().expect("a process id")).collect()
}

fn cluster_dir(data_dir: &Path) -> PathBuf {
    data_dir.join("postgres/data")
}

fn log_of(data_dir: &Path) -> String {
    std::fs::read_to_string(data_dir.join("postgres.log")).expect("there is a log")
}

#[tokio::test]
async fn it_starts_answers_and_stops() {
    let scratch = Scratch::new();
    let cluster = Cluster::start(throw_away(scratch.path.join("data"))).await.unwrap();
    assert_eq!(number(cluster.endpoint(), "select 1").await, 1);
    let (pid, shell) = (pid_of(&cluster), parent_of(pid_of(&cluster)));
    let state = cluster.state();
    cluster.stop().await;
    assert_eq!(*state.borrow(), State::Stopped);
    assert!(!runs(pid) && !runs(shell));
    assert!(!scratch.path.join("data/postgres.json").exists());
}

#[tokio::test]
async fn a_restart_keeps_the_data() {
    let scratch = Scratch::new();
    let first = Cluster::start(throw_away(&scratch.path)).await.unwrap();
    execute(first.endpoint(), "create table kept as select 42 as number").await;
    first.stop().await;
    let second = Cluster::start(throw_away(&scratch.path)).await.unwrap();
    assert_eq!(number(second.endpoint(), "select number from kept").await, 42);
    second.stop().await;
}

#[tokio::test]
async fn only_the_password_of_a_role_opens_it_and_only_over_the_socket() {
    let scratch = Scratch::new();
    let cluster = Cluster::start(throw_away(&scratch.path)).await.unwrap();
    let endpoint = cluster.endpoint();
    assert_ne!(endpoint.password("one"), endpoint.password("other"));
    execute(endpoint, &format!("create role one login password '{}'", endpoint.password("one"))).await;
    connect(&endpoint.config("postgres", "one")).await;
    let mut wrong = endpoint.config("postgres", &endpoint.user);
    wrong.password(endpoint.password("one"));
    assert!(wrong.connect(tokio_postgres::NoTls).await.is_err());

    let client = connect(&endpoint.config("postgres", &endpoint.user)).await;
    let listens: String = client.query_one("show listen_addresses", &[]).await.unwrap().get(0);
    assert_eq!(listens, "");
    let socket_dir = endpoint.socket_dir.metadata().unwrap();
    assert_eq!(socket_dir.permissions().mode() & 0o777, 0o700);
    let secret = scratch.path.join("postgres.secret").metadata().unwrap();
    assert_eq!(secret.permissions().mode() & 0o777, 0o600);
    assert!(
        !format!("{endpoint:?}")
            .contains(&std::fs::read_to_string(scratch.path.join("postgres.secret")).unwrap())
    );
    cluster.stop().await;
}

#[tokio::test]
async fn a_cluster_is_durable_unless_it_is_to_be_thrown_away() {
    let scratch = Scratch::new();
    let options = Options { durable: true, ..throw_away(&scratch.path) };
    let cluster = Cluster::start(options).await.unwrap();
    let client = connect(&cluster.endpoint().config("postgres", "theazo_admin")).await;
    for setting in ["fsync", "synchronous_commit", "full_page_writes", "data_checksums"] {
        let value: String = client.query_one(&format!("show {setting}"), &[]).await.unwrap().get(0);
        assert_eq!(value, "on", "{setting}");
    }
    cluster.stop().await;
}

#[tokio::test]
async fn a_killed_postmaster_is_started_again_and_has_lost_nothing() {
    let scratch = Scratch::new();
    let options = Options { durable: true, ..throw_away(&scratch.path) };
    let cluster = Cluster::start(options).await.unwrap();
    execute(cluster.endpoint(), "create table kept as select 7 as number").await;
    let killed = pid_of(&cluster);
    // A connection, so that a backend is left behind for a moment.
    let _left_open = connect(&cluster.endpoint().config("postgres", "theazo_admin")).await;
    let mut state = cluster.state();
    send(killed, Signal::SIGKILL);
    let again = |state: &State| matches!(state, State::Running { pid } if *pid != killed);
    state.wait_for(again).await.unwrap();
    assert_eq!(number(cluster.endpoint(), "select number from kept").await, 7);
    cluster.stop().await;
}

#[tokio::test]
async fn a_killed_shell_does_not_leave_two_postmasters() {
    let scratch = Scratch::new();
    let cluster = Cluster::start(throw_away(&scratch.path)).await.unwrap();
    let first = pid_of(&cluster);
    let mut state = cluster.state();
    send(parent_of(first), Signal::SIGKILL);
    state.wait_for(|state| matches!(state, State::Running { pid } if *pid != first)).await.unwrap();
    assert!(!runs(first));
    assert_eq!(number(cluster.endpoint(), "select 1").await, 1);
    cluster.stop().await;
}

#[tokio::test]
async fn what_cannot_be_kept_running_fails_for_good() {
    let scratch = Scratch::new();
    let cluster = Cluster::start(throw_away(&scratch.path)).await.unwrap();
    std::fs::remove_file(cluster_dir(&scratch.path).join("global/pg_control")).unwrap();
    send(pid_of(&cluster), Signal::SIGKILL);
    let State::Failed(why) = cluster.wait().await else { panic!("it failed") };
    assert!(why.contains("postgres.log") && why.contains("pg_control"), "{why}");
    // Nothing runs there any more; the janitor need not wait.
    std::fs::remove_file(cluster_dir(&scratch.path).join("postmaster.pid")).unwrap();
}

#[tokio::test]
async fn a_pid_file_whose_number_another_process_has_is_no_hindrance() {
    let scratch = Scratch::new();
    Cluster::start(throw_away(&scratch.path)).await.unwrap().stop().await;
    // A process of the same user as PostgreSQL, which PostgreSQL itself would take for the postmaster.
    let cluster = cluster_dir(&scratch.path);
    let owner = cluster.metadata().unwrap().uid();
    let mut stranger = Command::new("sleep");
    stranger.arg("600");
    if Uid::effective().is_root() {
        std::os::unix::process::CommandExt::uid(&mut stranger, owner);
    }
    let mut stranger = stranger.spawn().unwrap();
    let stale =
        format!("{}\n{}\n1700000000\n5432\n/nowhere\n\n  1 1\nready   \n", stranger.id(), cluster.display());
    std::fs::write(cluster.join("postmaster.pid"), stale).unwrap();
    std::os::unix::fs::chown(cluster.join("postmaster.pid"), Some(owner), None).unwrap();

    let again = Cluster::start(throw_away(&scratch.path)).await.unwrap();
    assert_eq!(number(again.endpoint(), "select 1").await, 1);
    again.stop().await;
    assert!(runs(stranger.id()), "the other process was left alone");
    stranger.kill().unwrap();
    stranger.wait().unwrap();
}

#[tokio::test]
async fn a_torn_pid_file_and_a_stale_socket_lock_are_no_hindrance() {
    let scratch = Scratch::new();
    Cluster::start(throw_away(&scratch.path)).await.unwrap().stop().await;
    std::fs::write(cluster_dir(&scratch.path).join("postmaster.pid"), "").unwrap();
    std::fs::write(scratch.path.join("postgres/run/.s.PGSQL.5432.lock"), "999999\n/nowhere\n").unwrap();
    let again = Cluster::start(throw_away(&scratch.path)).await.unwrap();
    assert_eq!(number(again.endpoint(), "select 1").await, 1);
    again.stop().await;
}

#[tokio::test]
async fn a_half_made_cluster_is_thrown_away() {
    let scratch = Scratch::new();
    let half_made = scratch.path.join("postgres/data.new-0badcafe");
    std::fs::create_dir_all(half_made.join("base")).unwrap();
    std::fs::write(half_made.join("PG_VERSION"), "15\n").unwrap();
    let cluster = Cluster::start(throw_away(&scratch.path)).await.unwrap();
    assert_eq!(number(cluster.endpoint(), "select 1").await, 1);
    let left: Vec<_> =
        scratch.path.join("postgres").read_dir().unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(!left.iter().any(|path| path.display().to_string().contains("data.new")), "{left:?}");
    cluster.stop().await;
}

#[tokio::test]
async fn a_second_server_on_the_same_directory_is_refused() {
    let scratch = Scratch::new();
    let first = Cluster::start(throw_away(&scratch.path)).await.unwrap();
    let second = Cluster::start(throw_away(&scratch.path)).await.unwrap_err();
    assert!(matches!(second, Error::AlreadyRunning { .. }), "{second}");
    assert!(second.to_string().contains(&std::process::id().to_string()), "{second}");
    assert_eq!(number(first.endpoint(), "select 1").await, 1);
    first.stop().await;
}

#[tokio::test]
async fn another_process_finds_a_running_server_and_none_else() {
    let scratch = Scratch::new();
    assert_eq!(Cluster::attach(&scratch.path).await.unwrap(), None);
    let cluster = Cluster::start(throw_away(&scratch.path)).await.unwrap();
    let found = Cluster::attach(&scratch.path).await.unwrap().unwrap();
    assert_eq!(number(&found, "select 3").await, 3);
    let announcement = std::fs::read(scratch.path.join("postgres.json")).unwrap();
    cluster.stop().await;
    assert_eq!(Cluster::attach(&scratch.path).await.unwrap(), None);
    // As a killed server leaves it.
    std::fs::write(scratch.path.join("postgres.json"), announcement).unwrap();
    assert_eq!(Cluster::attach(&scratch.path).await.unwrap(), None);
}

#[tokio::test]
async fn a_path_too_long_for_a_socket_gets_a_short_one_beside() {
    let scratch = Scratch::new();
    let data_dir = scratch.path.join("x".repeat(120)).join("with a space, and a comma");
    let cluster = Cluster::start(throw_away(&data_dir)).await.unwrap();
    let socket_dir = cluster.endpoint().socket_dir.clone();
    assert!(socket_dir.as_os_str().len() < 60, "{}", socket_dir.display());
    assert_eq!(number(cluster.endpoint(), "select 1").await, 1);
    cluster.stop().await;
    std::fs::set_permissions(&socket_dir, std::fs::Permissions::from_mode(0o777)).unwrap();
    let refused = Cluster::start(throw_away(&data_dir)).await.unwrap_err();
    assert!(matches!(refused, Error::SocketDir { .. }), "{refused}");
    std::fs::remove_dir_all(&socket_dir).unwrap();
}

#[tokio::test]
async fn a_lost_secret_is_named_and_not_replaced() {
    let scratch = Scratch::new();
    Cluster::start(throw_away(&scratch.path)).await.unwrap().stop().await;
    std::fs::remove_file(scratch.path.join("postgres.secret")).unwrap();
    let error = Cluster::start(throw_away(&scratch.path)).await.unwrap_err();
    assert!(matches!(error, Error::SecretMissing { .. }), "{error}");
}

#[tokio::test]
async fn without_any_postgresql_the_error_names_three_ways_on() {
    let scratch = Scratch::new();
    let options = Options { binary_dirs: Some(Vec::new()), ..throw_away(&scratch.path) };
    let error = Cluster::start(options).await.unwrap_err().to_string();
    for way in ["apt-get install postgresql", "--database-url", "PATH"] {
        assert!(error.contains(way), "{error}");
    }
}

#[tokio::test]
async fn a_cluster_of_a_version_that_is_not_there_is_left_alone() {
    let scratch = Scratch::new();
    Cluster::start(throw_away(&scratch.path)).await.unwrap().stop().await;
    std::fs::write(cluster_dir(&scratch.path).join("PG_VERSION"), "99\n").unwrap();
    let error = Cluster::start(throw_away(&scratch.path)).await.unwrap_err();
    assert!(error.to_string().contains("PostgreSQL 99 (the version that made this database)"), "{error}");
}

/// For root only: what an ordinary user's data directory is, that user's PostgreSQL can reach.
#[tokio::test]
async fn a_data_directory_closed_to_other_users_has_its_cluster_elsewhere() {
    if !Uid::effective().is_root() {
        return;
    }
    let scratch = Scratch::new();
    let closed = scratch.path.join("closed");
    std::fs::create_dir(&closed).unwrap();
    std::fs::set_permissions(&closed, std::fs::Permissions::from_mode(0o700)).unwrap();
    let data_dir = closed.join("data");
    let cluster = Cluster::start(throw_away(&data_dir)).await.unwrap();
    execute(cluster.endpoint(), "create table kept as select 5 as number").await;
    let home = PathBuf::from(std::fs::read_to_string(data_dir.join("postgres.home")).unwrap());
    assert!(home.is_absolute() && !home.starts_with(&closed), "{}", home.display());
    assert!(Cluster::attach(&data_dir).await.unwrap().is_some());
    cluster.stop().await;

    let again = Cluster::start(throw_away(&data_dir)).await.unwrap();
    assert_eq!(number(again.endpoint(), "select number from kept").await, 5);
    again.stop().await;
    std::fs::remove_dir_all(&home).unwrap();
    let gone = Cluster::start(throw_away(&data_dir)).await.unwrap_err();
    assert!(matches!(gone, Error::HomeMissing { .. }), "{gone}");
}

/// Not a test of its own: the process that the two tests below start and kill.
#[tokio::test]
async fn a_server_to_be_killed() {
    let Some(data_dir) = std::env::var_os(OWNED_DIR) else { return };
    let cluster = Cluster::start(throw_away(data_dir)).await.unwrap();
    cluster.wait().await;
}

/// Starts a server as a process of its own and returns it with its postmaster.
async fn start_owner(data_dir: &Path) -> (std::process::Child, u32) {
    let mut owner = Command::new(std::env::current_exe().expect("the test binary has a path"));
    owner.args(["--exact", "postgres::a_server_to_be_killed"]).env(OWNED_DIR, data_dir);
    let owner = owner.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the owner starts");
    let announcement = data_dir.join("postgres.json");
    let pid = until("the owner's announcement", || {
        let said: serde_json::Value = serde_json::from_slice(&std::fs::read(&announcement).ok()?).ok()?;
        u32::try_from(said["pid"].as_u64()?).ok()
    });
    let pid = pid.await;
    (owner, pid)
}

#[tokio::test]
async fn a_killed_server_leaves_no_postmaster_running() {
    let scratch = Scratch::new();
    let (mut owner, postmaster) = start_owner(&scratch.path).await;
    owner.kill().unwrap();
    owner.wait().unwrap();
    until("the postmaster's end", || (!runs(postmaster)).then_some(())).await;
    assert!(!cluster_dir(&scratch.path).join("postmaster.pid").exists(), "it was shut down in order");
    let again = Cluster::start(throw_away(&scratch.path)).await.unwrap();
    assert_eq!(number(again.endpoint(), "select 1").await, 1);
    assert!(!log_of(&scratch.path).contains("not properly shut down"));
    again.stop().await;
}

#[tokio::test]
async fn a_start_right_after_the_kill_waits_for_the_old_postmaster() {
    let scratch = Scratch::new();
    let (mut owner, postmaster) = start_owner(&scratch.path).await;
    owner.kill().unwrap();
    owner.wait().unwrap();
    let again = Cluster::start(throw_away(&scratch.path)).await.unwrap();
    assert!(!runs(postmaster));
    assert_eq!(number(again.endpoint(), "select 1").await, 1);
    again.stop().await;
}

#[tokio::test]
async fn an_orphan_whose_shell_was_killed_too_is_stopped_by_the_next_start() {
    let scratch = Scratch::new();
    let (mut owner, orphan) = start_owner(&scratch.path).await;
    let found = Cluster::attach(&scratch.path).await.unwrap().unwrap();
    execute(&found, "create table kept as select 9 as number").await;
    // The watching half of the shell goes first, so that nobody sees the owner die.
    let shell = parent_of(orphan);
    for watchman in children_of(shell).into_iter().filter(|pid| *pid != orphan) {
        send(watchman, Signal::SIGKILL);
    }
    owner.kill().unwrap();
    owner.wait().unwrap();
    send(shell, Signal::SIGKILL);
    until("the shell's end", || (!runs(shell)).then_some(())).await;
    assert!(runs(orphan));

    let again = Cluster::start(throw_away(&scratch.path)).await.unwrap();
    assert!(!runs(orphan));
    assert_eq!(number(again.endpoint(), "select number from kept").await, 9);
    again.stop().await;
}

#[test]
fn a_runtime_that_ends_takes_its_postmaster_along() {
    let scratch = Scratch::new();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let cluster = runtime.block_on(Cluster::start(throw_away(&scratch.path))).unwrap();
    let pid = pid_of(&cluster);
    runtime.shutdown_background();
    let other = tokio::runtime::Runtime::new().unwrap();
    other.block_on(until("the postmaster's end", || (!runs(pid)).then_some(())));
}

#[tokio::test]
async fn each_test_has_a_database_of_its_own() {
    let (one, other) = (database().await, database().await);
    assert_ne!(one.name, other.name);
    one.connect().await.batch_execute("create table here (number int)").await.unwrap();
    let missing = other.connect().await.batch_execute("select number from here").await;
    assert!(missing.is_err());
}

#[tokio::test]
async fn a_database_can_be_made_from_a_template() {
    let template = database().await;
    let client = template.connect().await;
    client.batch_execute("create table here as select 1 as number").await.unwrap();
    drop(client);
    let admin = connect(&template.endpoint.config("postgres", &template.endpoint.user)).await;
    let connected = "select count(*) = 0 from pg_stat_activity where datname = $1";
    while !admin.query_one(connected, &[&template.name]).await.unwrap().get::<_, bool>(0) {}
    let copy = database_from(Some(&template.name)).await;
    copy.connect().await.batch_execute("select number from here").await.unwrap();
}
