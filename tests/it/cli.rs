//! The command line, as an operator uses it.

use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;
use theazo::boot::DATABASE_NAME;
use theazo::postgres::Cluster;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::time::timeout;

use crate::support::cluster::{Scratch, connect};
use crate::support::server::{Server, json, run, theazo};
use crate::support::wait::until_async;

/// Far longer than anything here takes.
const DEADLINE: Duration = Duration::from_secs(60);

#[tokio::test]
async fn an_operator_makes_an_organization_and_keys_that_work_at_once_and_stop_when_revoked() {
    let scratch = Scratch::new();
    let dir = scratch.path.join("data");
    let server = Server::start(&dir).await;
    let organization = json(&dir, &["org", "create", "Acme", "--plan", "free", "--rate-limit", "500"]).await;
    let org = organization["id"].as_str().expect("an id");
    assert!(org.starts_with("org_"));
    let made = json(&dir, &["key", "create", "--org", org, "--mode", "live", "--role", "developer"]).await;
    let (id, key) = (made["id"].as_str().expect("an id"), made["key"].as_str().expect("a secret"));
    assert!(id.starts_with("key_") && key.starts_with("th_live_"));
    server.create_session(key, "user_1").await;

    let listed = json(&dir, &["key", "list", "--org", org]).await;
    assert_eq!(listed["data"].as_array().map(Vec::len), Some(1));
    assert_eq!(listed["data"][0]["id"], id);
    assert_eq!(listed["data"][0]["role"], "developer");
    assert!(listed["data"][0].get("revokedAt").is_none());
    let names: Vec<_> = json(&dir, &["org", "list"]).await["data"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|row| row["name"].as_str().expect("a name").to_owned())
        .collect();
    assert_eq!(names, ["default", "Acme"]);

    json(&dir, &["key", "revoke", id, "--org", org]).await;
    until_async("the revoked key to open nothing", async || {
        server.status("/v1/sessions", key).await.filter(|status| *status == 401)
    })
    .await;
    json(&dir, &["key", "revoke", id, "--org", org]).await;
    let events = json(&dir, &["event", "list", "--org", org, "--mode", "live"]).await;
    let kinds: Vec<_> =
        events["data"].as_array().expect("a list").iter().map(|event| &event["type"]).collect();
    let happened =
        ["key.revoked", "session.created", "key.created", "rates.imported", "organization.created"];
    assert_eq!(kinds, happened);
    let filtered =
        json(&dir, &["event", "list", "--org", org, "--type", "key.created", "--subject", id]).await;
    assert_eq!(filtered["data"].as_array().map(Vec::len), Some(1));
}

#[tokio::test]
async fn the_charges_of_a_period_are_exported_in_every_format() {
    let scratch = Scratch::new();
    let dir = scratch.path.join("data");
    let _server = Server::start(&dir).await;
    let organization = json(&dir, &["org", "list"]).await;
    let org = organization["data"][0]["id"].as_str().expect("an id").to_owned();
    let export = async |arguments: &[&str]| {
        let all = [&["billing", "export", "--org", &org, "--from", "2025-05-01"], arguments].concat();
        let done = timeout(DEADLINE, theazo(&dir, &all).output()).await.expect("it ends").expect("it runs");
        (done.status.success(), String::from_utf8(done.stdout).expect("UTF-8"))
    };
    let (done, csv) = export(&[]).await;
    assert!(
        done && csv.starts_with("id,position,at,line,category,userId,") && csv.ends_with("\r\n"),
        "{csv}"
    );
    let (done, focus) = export(&["--format", "focus", "--mode", "test"]).await;
    assert!(done && focus.starts_with("BilledCost,BillingAccountId,"), "{focus}");
    let (done, written) = export(&["--format", "json", "--until", "2025-06-30"]).await;
    let written: Value = serde_json::from_str(&written).expect("JSON");
    assert!(done && written["data"] == serde_json::json!([]));
    for wrong in [["--until", "2025-04-01"], ["--format", "xlsx"]] {
        assert!(!export(&wrong).await.0);
    }
}

#[tokio::test]
async fn a_sound_database_is_found_sound_and_a_changed_one_is_not() {
    let scratch = Scratch::new();
    let dir = scratch.path.join("data");
    let server = Server::start(&dir).await;
    let keys: serde_json::Value =
        serde_json::from_slice(&std::fs::read(dir.join("first-keys.json")).expect("it is there"))
            .expect("JSON");
    server.create_session(keys["live"].as_str().expect("a key"), "user_1").await;
    for sound in [&["log", "verify"][..], &["projection", "compare"], &["doctor"], &["projection", "rebuild"]]
    {
        json(&dir, sound).await;
    }
    let builds = json(&dir, &["projection", "list", "sessions"]).await;
    assert_eq!(builds["data"].as_array().map(Vec::len), Some(2), "{builds}");

    let endpoint = Cluster::attach(&dir).await.expect("it can be reached").expect("it runs");
    let owner = connect(&endpoint.config(DATABASE_NAME, &endpoint.user)).await;
    owner.batch_execute("update sessions set status = 'paused'").await.expect("the superuser may");
    let compared = run(&dir, &["projection", "compare", "sessions"]).await;
    assert_eq!(compared.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&compared.stdout).contains("DIFFERS"));
    json(&dir, &["projection", "rebuild", "sessions"]).await;
    json(&dir, &["projection", "compare", "sessions"]).await;

    owner.batch_execute("update events set data = '{}' where position = 1").await.expect("the superuser may");
    let verified = run(&dir, &["log", "verify"]).await;
    assert_eq!(verified.status.code(), Some(1));
    let said = String::from_utf8_lossy(&verified.stdout).into_owned();
    assert!(said.contains("position 1 is not what was hashed"), "{said}");
}

#[tokio::test]
async fn a_command_starts_the_database_of_a_stopped_server_and_stops_it_again() {
    let scratch = Scratch::new();
    let dir = scratch.path.join("data");
    let server = Server::start(&dir).await;
    server.signal(Signal::SIGTERM);
    assert!(server.ended().await.success());
    let listed = json(&dir, &["org", "list"]).await;
    assert_eq!(listed["data"][0]["name"], "default");
    assert!(Cluster::attach(&dir).await.expect("the directory is readable").is_none(), "it is stopped again");
    json(&dir, &["db", "migrate"]).await;
}

#[tokio::test]
async fn an_error_is_one_line_and_its_status_tells_usage_from_failure() {
    let scratch = Scratch::new();
    let nowhere = run(&scratch.path, &["org", "list"]).await;
    assert_eq!(nowhere.status.code(), Some(1));
    let said = String::from_utf8_lossy(&nowhere.stderr).into_owned();
    assert!(said.starts_with("error: there is no database in") && said.lines().count() == 1, "{said}");
    assert_eq!(run(&scratch.path, &["org", "create"]).await.status.code(), Some(2));
    assert_eq!(run(&scratch.path, &["key", "list", "--org", "acme"]).await.status.code(), Some(2));
    let unreachable = ["org", "list", "--database-url", "postgres://user:hunter2@127.0.0.1:1/none"];
    let unreachable = run(&scratch.path, &unreachable).await;
    assert_eq!(unreachable.status.code(), Some(1));
    let said = String::from_utf8_lossy(&unreachable.stderr).into_owned();
    assert!(said.lines().count() == 1 && !said.contains("hunter2"), "{said}");
    for address in ["ftp://example.com", "example.com"] {
        let refused = run(&scratch.path, &["serve", "--search-url", address]).await;
        assert_eq!(refused.status.code(), Some(1));
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(said.starts_with("error: --search-url: ") && said.lines().count() == 1, "{said}");
    }
}

#[tokio::test]
async fn events_are_shown_as_they_happen_for_as_long_as_somebody_reads() {
    let scratch = Scratch::new();
    let dir = scratch.path.join("data");
    let server = Server::start(&dir).await;
    let listed = json(&dir, &["org", "list"]).await;
    let org = listed["data"][0]["id"].as_str().expect("an id");
    let arguments = ["event", "tail", "--org", org, "--mode", "test", "--after", "0", "--json"];
    let mut command = theazo(&dir, &arguments);
    let mut tail = command.stdout(Stdio::piped()).spawn().expect("the program runs");
    let mut lines = BufReader::new(tail.stdout.take().expect("it is piped")).lines();
    let mut next = async || -> Value {
        let line = timeout(DEADLINE, lines.next_line()).await.expect("it comes").expect("it is text");
        serde_json::from_str(&line.expect("it goes on")).expect("a line is an event")
    };
    for (position, kind) in [(1, "organization.created"), (2, "rates.imported"), (3, "key.created")] {
        let event = next().await;
        assert_eq!((event["position"].as_i64(), event["type"].as_str()), (Some(position), Some(kind)));
    }
    // From here on it waits for what happens.
    let (_, key) = server.said.split_once("  test  ").expect("it is a first start");
    let key = key.lines().next().expect("a line");
    let session = server.create_session(key, "user_1").await;
    let event = next().await;
    assert_eq!(event["type"], "session.created");
    assert_eq!(event["subjects"][0], session);
    drop(lines);
    until_async("the command to notice that nobody reads", async || {
        server.create_session(key, "user_2").await;
        tail.try_wait().expect("it can be waited for")
    })
    .await;
}
