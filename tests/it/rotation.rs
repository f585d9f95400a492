//! Changing the master key while servers serve: killed midway and run again, with everything readable at every moment.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use theazo::boot::{self, DATABASE_NAME, Settings, Tools};
use theazo::log::{Tenant, find_tenants};
use theazo::postgres::Cluster;
use theazo::read::secret::visible;
use theazo::vault::{self, Source};
use theazo_domain::organization::Mode;
use tokio::time::timeout;
use tokio_postgres::{Client, Transaction};

use crate::support::cluster::{Scratch, connect};
use crate::support::server::{MASTER_KEY, Server, json, run, send, theazo};
use crate::support::wait::until_async;

/// More than one transaction wraps anew.
const SECRETS: usize = 80;

fn first_key(dir: &Path) -> String {
    let keys: Value = serde_json::from_slice(&std::fs::read(dir.join("first-keys.json")).unwrap()).unwrap();
    keys["live"].as_str().unwrap().to_owned()
}

async fn set(server: &Server, key: &str, name: &str, value: &str) {
    let body = json!({ "name": name, "value": value });
    let answer = server.request("POST", "/v1/secrets", key, Some(body)).await.unwrap();
    assert_eq!(answer.status, 201, "{answer:?}");
}

/// A server over a data directory that is new, with so many secrets, and its first key.
async fn with_secrets(dir: &Path, number: usize) -> (Server, String) {
    let server = Server::start(dir).await;
    let key = first_key(dir);
    for number in 0..number {
        set(&server, &key, &format!("N{number:03}"), "a secret value").await;
    }
    (server, key)
}

/// How many values a master key wraps.
async fn wrapped_by(observer: &Client, master: &str) -> usize {
    let sql = "select count(*) from sealed_values where master_key_id = $1";
    let count: i64 = observer.query_one(sql, &[&master]).await.unwrap().get(0);
    usize::try_from(count).unwrap()
}

/// A lock on one of the last of [`SECRETS`]: a change of the master key waits for it in its second transaction.
async fn hold_one_of_the_last(owner: &mut Client) -> Transaction<'_> {
    let held = owner.transaction().await.unwrap();
    held.query("select from sealed_values where place = 'secret/org/N070' for update", &[]).await.unwrap();
    held
}

/// What reaches into the log of a data directory, as a server started with these keys would.
async fn tools(dir: &Path, master: Source) -> Tools {
    let settings = Settings {
        data_dir: dir.to_owned(),
        database_url: None,
        migration_url: None,
        database_ca: None,
        master,
        outside: theazo::providers::Settings::default(),
    };
    boot::tools(&settings, &boot::Site::of_command(&settings).await.unwrap()).await.unwrap()
}

async fn live(tools: &Tools) -> Tenant {
    let tenants = find_tenants(&tools.database, None).await.unwrap();
    tenants.into_iter().find(|tenant| tenant.mode == Mode::Live).unwrap()
}

/// How many secrets of the organization open.
async fn opened(tools: &Tools) -> Result<usize, vault::Error> {
    let tenant = live(tools).await;
    let nobody = "ses_01ARZ3NDEKTSV4RRFFQ69G50AV".parse().unwrap();
    Ok(visible(tools.log.scope(tenant.id), &tools.keys.masters, nobody).await?.len())
}

#[tokio::test]
async fn a_rotation_that_is_killed_midway_is_run_again_while_servers_read_and_write() {
    let scratch = Scratch::new();
    let dir = scratch.path.join("data");
    let (server, key) = with_secrets(&dir, SECRETS).await;
    let old_key = std::fs::read(dir.join("master.key")).unwrap();
    let reader = tools(&dir, Source::default()).await;
    let old = reader.keys.masters.active().id().to_owned();
    let endpoint = Cluster::attach(&dir).await.unwrap().unwrap();
    let mut owner = connect(&endpoint.config(DATABASE_NAME, &endpoint.user)).await;
    let observer = connect(&endpoint.config(DATABASE_NAME, &endpoint.user)).await;
    let wrapped_by_old = async || wrapped_by(&observer, &old).await;

    // A lock on one of the last rows holds the command in its second transaction, where it is killed.
    let held = hold_one_of_the_last(&mut owner).await;
    let mut command = theazo(&dir, &["secret", "rotate-master"]);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    until_async("some values to be wrapped anew", async || (wrapped_by_old().await < SECRETS).then_some(()))
        .await;
    assert!(wrapped_by_old().await > 0);
    send(child.id().unwrap(), Signal::SIGKILL);
    child.wait().await.unwrap();
    held.rollback().await.unwrap();
    assert_eq!(
        std::fs::read(dir.join("master.key")).unwrap(),
        old_key,
        "the old key is kept while it is needed"
    );

    // A server from before opens both kinds, and what is written is wrapped by the new key.
    assert_eq!(opened(&reader).await.unwrap(), SECRETS);
    let before = wrapped_by_old().await;
    set(&server, &key, "WRITTEN_MEANWHILE", "a secret value").await;
    assert_eq!(wrapped_by_old().await, before);
    let doctor = run(&dir, &["doctor"]).await;
    assert!(String::from_utf8_lossy(&doctor.stdout).contains("rotate-master"), "{doctor:?}");

    let rotated = json(&dir, &["secret", "rotate-master"]).await;
    assert_eq!(rotated["values"], before, "{rotated}");
    assert_eq!(rotated["damaged"], json!([]));
    assert_eq!(wrapped_by_old().await, 0);
    assert!(!dir.join("master.key.next").exists());
    assert_ne!(std::fs::read(dir.join("master.key")).unwrap(), old_key);
    json(&dir, &["doctor"]).await;
    set(&server, &key, "WRITTEN_AFTER", "a secret value").await;
    assert_eq!(opened(&reader).await.unwrap(), SECRETS + 2);

    assert!(server.stop().await.success());
    let again = Server::start(&dir).await;
    assert_eq!(again.status("/v1/secrets", &key).await, Some(200), "the key of before opens the new start");
    assert_eq!(opened(&tools(&dir, Source::default()).await).await.unwrap(), SECRETS + 2);
}

#[tokio::test]
async fn a_rotation_is_refused_beside_another_and_gives_up_once_it_is_overtaken() {
    const THREE_TRANSACTIONS: usize = 130;
    let scratch = Scratch::new();
    let dir = scratch.path.join("data");
    let _serving = with_secrets(&dir, THREE_TRANSACTIONS).await;
    let reader = tools(&dir, Source::default()).await;
    let old = reader.keys.masters.active().id().to_owned();
    let endpoint = Cluster::attach(&dir).await.unwrap().unwrap();
    let config = endpoint.config(DATABASE_NAME, &endpoint.user);
    let (mut owner, mut overtaking) = (connect(&config).await, connect(&config).await);
    let observer = connect(&config).await;
    let wrapped_by_old = async || wrapped_by(&observer, &old).await;
    let held = hold_one_of_the_last(&mut owner).await;
    let mut command = theazo(&dir, &["secret", "rotate-master"]);
    let first = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    until_async("the first transaction to be over", async || {
        (wrapped_by_old().await < THREE_TRANSACTIONS).then_some(())
    })
    .await;

    let files = || ["master.key", "master.key.next"].map(|name| std::fs::read(dir.join(name)).unwrap());
    let before = files();
    let mut second = theazo(&dir, &["secret", "rotate-master"]);
    let refused = timeout(Duration::from_secs(30), second.kill_on_drop(true).output()).await;
    let refused = refused.expect("it waits for nothing").unwrap();
    assert_eq!(refused.status.code(), Some(1));
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(said.contains("another `theazo secret rotate-master`"), "{said}");
    assert_eq!(files(), before);

    // A change that got past every lock: it is the next to write to the server's keys when the second transaction ends.
    let next = observer.query_one("select master_key_id from server_keys limit 1", &[]).await.unwrap();
    let next: String = next.get(0);
    let overtaken = tokio::spawn(async move {
        let sql = "update server_keys set master_key_id = 'mk_0000000000000000'";
        let overtaken = overtaking.transaction().await.unwrap();
        overtaken.batch_execute(sql).await.unwrap();
        overtaken.commit().await.unwrap();
    });
    until_async("the other change to wait", async || {
        let sql = "select count(*) from pg_locks where relation = 'server_keys'::regclass and not granted";
        (observer.query_one(sql, &[]).await.unwrap().get::<_, i64>(0) == 1).then_some(())
    })
    .await;
    held.rollback().await.unwrap();
    let gave_up = first.wait_with_output().await.unwrap();
    overtaken.await.unwrap();
    let said = String::from_utf8_lossy(&gave_up.stderr).into_owned();
    assert!(gave_up.status.code() == Some(1) && said.contains("mk_0000000000000000"), "{said}");
    assert_eq!(wrapped_by_old().await, 2, "the third transaction wrapped nothing");
    assert_eq!(files(), before, "both keys are kept");

    observer.execute("update server_keys set master_key_id = $1", &[&next]).await.unwrap();
    let rotated = json(&dir, &["secret", "rotate-master"]).await;
    assert_eq!((&rotated["to"], &rotated["values"]), (&json!(next), &json!(2)));
    assert_eq!(std::fs::read(dir.join("master.key")).unwrap(), before[1]);
    assert_eq!(opened(&tools(&dir, Source::default()).await).await.unwrap(), THREE_TRANSACTIONS);
}

#[tokio::test]
async fn a_named_master_key_is_changed_with_the_previous_one_at_hand() {
    let scratch = Scratch::new();
    let dir = scratch.path.join("data");
    let new_key = MASTER_KEY.replace("00", "ff");
    let file = |name: &str, key: &str| -> PathBuf {
        let path = scratch.path.join(name);
        std::fs::write(&path, key).unwrap();
        path
    };
    let (old, new) = (file("old", MASTER_KEY), file("new", &new_key));
    let command = |arguments: &[&str], keys: &[(&str, &Path)]| {
        let mut command = theazo(&dir, arguments);
        keys.iter().for_each(|(name, path)| {
            command.env(name, path);
        });
        command
    };
    let serve = ["serve", "--listen", "127.0.0.1:0"];
    let before = Server::start_with(command(&serve, &[("THEAZO_MASTER_KEY_FILE", &old)])).await;
    let key = first_key(&dir);
    set(&before, &key, "A", "a secret value").await;
    assert!(before.stop().await.success());
    let both = [("THEAZO_MASTER_KEY_FILE", &*new), ("THEAZO_MASTER_KEY_PREVIOUS_FILE", &*old)];
    let server = Server::start_with(command(&serve, &both)).await;
    set(&server, &key, "B", "a secret value").await;
    let rotate = command(&["secret", "rotate-master", "--json"], &both).output().await.unwrap();
    let rotated: Value = serde_json::from_slice(&rotate.stdout).unwrap();
    assert_eq!((&rotated["serverKeys"], &rotated["values"]), (&json!(3), &json!(2)), "{rotated}");
    set(&server, &key, "C", "a secret value").await;
    let source = Source { hex: Some(new_key.into()), ..Source::default() };
    assert_eq!(
        opened(&tools(&dir, source).await).await.unwrap(),
        3,
        "the previous key is not needed any more"
    );
    let refused = command(&["doctor"], &[("THEAZO_MASTER_KEY_FILE", &old)]).output().await.unwrap();
    assert_eq!(refused.status.code(), Some(1), "the old key opens nothing");
    assert_eq!(server.status("/v1/secrets", &key).await, Some(200));
}
