//! Bringing a server up, and everything that may end it in between.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use nix::sys::signal::Signal;
use serde_json::Value;
use theazo::boot::{self, Settings, Site};
use theazo::log::{Actor, Tenant, create_tenant, find_tenants};
use theazo::operator::{self, NewOrganization};
use theazo::random;
use theazo::vault::Source;
use theazo_domain::id::OrganizationId;
use theazo_domain::key::Role;
use theazo_domain::organization::{Mode, Plan};
use theazo_domain::time::Timestamp;

use crate::support::cluster::{Scratch, TestDatabase, connect, database, url_of};
use crate::support::server::{self, MASTER_KEY, Server, send, theazo};
use crate::support::wait::{until, until_async};

/// What `first-keys.json` says.
fn first_key(data_dir: &Path, mode: &str) -> String {
    let text = std::fs::read(data_dir.join("first-keys.json")).expect("the first keys are there");
    let keys: Value = serde_json::from_slice(&text).expect("they are JSON");
    keys[mode].as_str().expect("there is one for each mode").to_owned()
}

fn postmaster(data_dir: &Path) -> Option<u32> {
    let text = std::fs::read(data_dir.join("postgres.json")).ok()?;
    let said: Value = serde_json::from_slice(&text).ok()?;
    u32::try_from(said["pid"].as_u64()?).ok()
}

/// The URL of a test's database, as its superuser.
fn url(database: &TestDatabase) -> String {
    url_of(&database.endpoint, &database.name)
}

fn settings(database: &TestDatabase, data_dir: &Path) -> Settings {
    Settings {
        data_dir: data_dir.to_owned(),
        database_url: Some(url(database)),
        migration_url: None,
        database_ca: None,
        master: Source { hex: Some(MASTER_KEY.to_owned().into()), ..Source::default() },
        outside: theazo::providers::Settings::default(),
    }
}

#[tokio::test]
async fn a_first_start_shows_its_keys_once_and_they_open_the_api() {
    let scratch = Scratch::new();
    let dir = scratch.path.join("data");
    let server = Server::start(&dir).await;
    let (live, test) = (first_key(&dir, "live"), first_key(&dir, "test"));
    assert!(server.said.contains(&live) && server.said.contains(&test), "{}", server.said);
    assert!(server.said.contains("curl "), "{}", server.said);
    for secret in ["first-keys.json", "master.key"] {
        let mode = dir.join(secret).metadata().expect("it is there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{secret}");
    }
    let (in_live, in_test) =
        (server.create_session(&live, "u").await, server.create_session(&test, "u").await);
    assert!(server.stop().await.success());

    let again = Server::start(&dir).await;
    assert_eq!(again.said, "", "the keys are shown once");
    assert_eq!(again.status(&format!("/v1/sessions/{in_live}"), &live).await, Some(200));
    assert_eq!(again.status(&format!("/v1/sessions/{in_test}"), &test).await, Some(200));
    assert_eq!(again.status(&format!("/v1/sessions/{in_test}"), &live).await, Some(404));
}

#[tokio::test]
async fn a_session_survives_the_server_being_killed() {
    let scratch = Scratch::new();
    let dir = scratch.path.join("data");
    let server = Server::start(&dir).await;
    let key = first_key(&dir, "test");
    let session = server.create_session(&key, "user_1").await;
    server.signal(Signal::SIGKILL);
    server.ended().await;

    let again = Server::start(&dir).await;
    assert_eq!(again.status(&format!("/v1/sessions/{session}"), &key).await, Some(200));
}

#[tokio::test]
async fn a_server_outlives_its_database_and_loses_nothing_that_it_acknowledged() {
    let scratch = Scratch::new();
    let dir = scratch.path.join("data");
    let server = Server::start(&dir).await;
    let key = first_key(&dir, "test");
    let mut acknowledged = vec![server.create_session(&key, "user_0").await];
    let killed = postmaster(&dir).expect("it is announced");
    send(killed, Signal::SIGKILL);
    // Sessions are asked for all the while: each is refused with 503, or acknowledged and kept.
    let mut number = 0;
    until_async("the server to answer again", async || {
        number += 1;
        let body = serde_json::json!({ "userId": format!("user_{number}") });
        let response = server.request("POST", "/v1/sessions", &key, Some(body)).await.expect("it answers");
        if response.status == 503 {
            assert_eq!(response.body["error"]["code"], "unavailable");
            return None;
        }
        assert_eq!(response.status, 201, "{response:?}");
        acknowledged.push(response.body["id"].as_str().expect("an id").to_owned());
        postmaster(&dir).filter(|pid| *pid != killed)
    })
    .await;
    for session in acknowledged {
        assert_eq!(server.status(&format!("/v1/sessions/{session}"), &key).await, Some(200));
    }
    assert!(server.stop().await.success());
}

#[tokio::test]
async fn a_data_directory_has_one_server_at_a_time() {
    let scratch = Scratch::new();
    let dir = scratch.path.join("data");
    let server = Server::start(&dir).await;
    let second = server::run(&dir, &["serve", "--listen", "127.0.0.1:0"]).await;
    assert_eq!(second.status.code(), Some(1));
    let complaint = String::from_utf8_lossy(&second.stderr);
    assert!(complaint.contains("another theazo server"), "{complaint}");
    assert_eq!(server.status("/readyz", "").await, Some(200), "the first is not disturbed");
}

#[tokio::test]
async fn a_server_over_a_named_database_needs_a_master_key_and_the_right_one() {
    let scratch = Scratch::new();
    let database = database().await;
    let arguments = ["serve", "--listen", "127.0.0.1:0", "--database-url", &url(&database)];
    let with_key = |key: &str| {
        let mut command = theazo(&scratch.path, &arguments);
        command.env("THEAZO_MASTER_KEY", key);
        command
    };
    let without = server::run(&scratch.path, &arguments).await;
    assert_eq!(without.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&without.stderr).contains("a master key is needed"));

    let server = Server::start_with(with_key(MASTER_KEY)).await;
    let key = first_key(&scratch.path, "live");
    server.create_session(&key, "user_1").await;
    assert!(server.stop().await.success());

    let wrong = with_key(&MASTER_KEY.replace('0', "f")).output().await.expect("the program runs");
    assert_eq!(wrong.status.code(), Some(1));
    let complaint = String::from_utf8_lossy(&wrong.stderr).into_owned();
    assert_eq!(complaint.matches("mk_").count(), 2, "both fingerprints are named: {complaint}");
}

#[tokio::test]
async fn two_servers_that_start_at_once_make_one_organization() {
    let (first, second) = (Scratch::new(), Scratch::new());
    let database = database().await;
    let (first_settings, second_settings) =
        (settings(&database, &first.path), settings(&database, &second.path));
    let (one, two) = tokio::join!(boot::server(&first_settings), boot::server(&second_settings));
    let (one, two) = (one.expect("it starts"), two.expect("it starts"));
    assert!(one.first_keys.is_some() != two.first_keys.is_some(), "one of them made the keys");
    assert_eq!(find_tenants(&one.app.database, None).await.expect("it answers").len(), 2);
    let keys = one.first_keys.or(two.first_keys).expect("one of them made them");
    assert_keys_work(&database, &keys.live, &keys.test).await;
}

/// Exactly one organization with one key in each mode, which are these.
async fn assert_keys_work(database: &TestDatabase, live: &str, test: &str) {
    let scratch = Scratch::new();
    let settings = settings(database, &scratch.path);
    let site = Site::of_command(&settings).await.expect("the database is there");
    let tools = boot::tools(&settings, &site).await.expect("the log opens");
    let tenants = find_tenants(&tools.database, None).await.expect("it answers");
    assert_eq!(tenants.len(), 2);
    assert_eq!(tenants[0].organization_id, tenants[1].organization_id);
    let owner = database.connect().await;
    for (mode, secret) in [(Mode::Live, live), (Mode::Test, test)] {
        let tenant = tenants.iter().find(|tenant| tenant.mode == mode).expect("there is one for each mode");
        let digest = theazo::keys::digest(&tools.keys.pepper, secret);
        let found = owner.query("select tenant_id from find_key($1)", &[&digest]).await.expect("it answers");
        assert_eq!(found.len(), 1, "the {mode:?} key opens something");
        assert_eq!(found[0].get::<_, i64>(0), tenant.id.0);
        let made = "select count(*) from events where tenant_id = $1 and type = $2";
        for kind in ["organization.created", "rates.imported", "key.created"] {
            let count: i64 = owner.query_one(made, &[&tenant.id.0, &kind]).await.expect("it answers").get(0);
            assert_eq!(count, 1, "{kind} in {mode:?}");
        }
    }
}

/// Where a start was killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum KilledAfter {
    Migrations,
    FirstTenant,
    FirstEvent,
    Organization,
    File,
    LiveKey,
    TestKey,
}

/// Does what a start does, up to a point.
async fn begin(settings: &Settings, killed_after: KilledAfter) {
    let site = Site::of_server(settings).await.expect("the database is there");
    theazo::database::migrate(&site.owner, site.tls.clone()).await.expect("the schema is made");
    let mut tools = boot::tools(settings, &site).await.expect("the log opens");
    let organization_id = OrganizationId::from_ulid(random::ulid(Timestamp::from_millis(1)));
    let new =
        NewOrganization { organization_id, name: "default".to_owned(), plan: Plan::Team, rate_limit: None };
    if killed_after >= KilledAfter::FirstTenant {
        create_tenant(&mut tools.owner, organization_id, Mode::Live).await.expect("a tenant is made");
    }
    if killed_after >= KilledAfter::FirstEvent {
        operator::create_in(&mut tools, Actor::System, &new, Mode::Live).await.expect("it begins");
    }
    if killed_after >= KilledAfter::Organization {
        let tenants = operator::create_organization(&mut tools, Actor::System, &new).await;
        let tenants: [Tenant; 2] = tenants.expect("it begins");
        let (live, test) = (theazo::keys::generate(Mode::Live), theazo::keys::generate(Mode::Test));
        if killed_after >= KilledAfter::File {
            let text = serde_json::json!({ "live": *live, "test": *test }).to_string();
            let path = settings.data_dir.join("first-keys.json");
            theazo::private_file::write(&path, text.as_bytes()).expect("the file is written");
        }
        let keys = [(KilledAfter::LiveKey, tenants[0], live), (KilledAfter::TestKey, tenants[1], test)];
        for (_, tenant, secret) in keys.iter().filter(|(step, ..)| killed_after >= *step) {
            operator::create_key(&tools, Actor::System, *tenant, Role::Admin, secret)
                .await
                .expect("it is made");
        }
    }
    tools.log.close().await;
}

#[tokio::test]
async fn a_start_that_was_killed_between_any_two_steps_is_finished_by_the_next() {
    use KilledAfter::{File, FirstEvent, FirstTenant, LiveKey, Migrations, Organization, TestKey};
    for killed_after in [Migrations, FirstTenant, FirstEvent, Organization, File, LiveKey, TestKey] {
        let scratch = Scratch::new();
        let database = database().await;
        let settings = settings(&database, &scratch.path);
        begin(&settings, killed_after).await;
        let booted = boot::server(&settings).await.expect("the next start finishes");
        assert_eq!(booted.first_keys.is_some(), killed_after != TestKey, "{killed_after:?}");
        let (live, test) = (first_key(&scratch.path, "live"), first_key(&scratch.path, "test"));
        assert_keys_work(&database, &live, &test).await;
        let again = boot::server(&settings).await.expect("and the one after that changes nothing");
        assert!(again.first_keys.is_none());
        assert_keys_work(&database, &live, &test).await;
    }
}

#[tokio::test]
async fn a_database_with_an_organization_of_its_operator_gets_no_default_one() {
    let scratch = Scratch::new();
    let database = database().await;
    let settings = settings(&database, &scratch.path);
    begin(&settings, KilledAfter::Migrations).await;
    let site = Site::of_server(&settings).await.expect("the database is there");
    let mut tools = boot::tools(&settings, &site).await.expect("the log opens");
    let organization_id = OrganizationId::from_ulid(random::ulid(Timestamp::from_millis(1)));
    let new =
        NewOrganization { organization_id, name: "Acme".to_owned(), plan: Plan::Free, rate_limit: None };
    operator::create_organization(&mut tools, Actor::Operator, &new).await.expect("it begins");
    let booted = boot::server(&settings).await.expect("it starts");
    assert!(booted.first_keys.is_none());
    assert_eq!(find_tenants(&booted.app.database, None).await.expect("it answers").len(), 2);
    assert!(!scratch.path.join("first-keys.json").exists());
}

#[tokio::test]
async fn a_stopped_server_leaves_nothing_running() {
    let scratch = Scratch::new();
    let dir = scratch.path.join("data");
    let server = Server::start(&dir).await;
    let pid = postmaster(&dir).expect("it is announced");
    assert!(server.stop().await.success());
    until("the postmaster to be gone", || (!Path::new(&format!("/proc/{pid}")).exists()).then_some(())).await;
}

#[tokio::test]
async fn the_login_that_serves_need_not_own_the_schema_and_the_owner_need_not_be_a_superuser() {
    let scratch = Scratch::new();
    let database = database().await;
    let (owner, login) = (format!("{}_owner", database.name), format!("{}_login", database.name));
    let admin = database.connect().await;
    let sql = format!(
        "create role {owner} login createrole password 'owner'; create role {login} login password 'login'; \
         alter database {} owner to {owner}",
        database.name
    );
    admin.batch_execute(&sql).await.expect("the superuser may");
    let as_role = |role: &str, password: &str| {
        let admin = url(&database);
        let (_, rest) = admin.split_once('@').expect("a URL with a login");
        format!("postgresql://{role}:{password}@{rest}")
    };
    let (owner_url, login_url) = (as_role(&owner, "owner"), as_role(&login, "login"));
    let place = ["--database-url", &login_url, "--migration-url", &owner_url];
    server::json(&scratch.path, &[&["db", "migrate"][..], &place].concat()).await;

    let arguments = [&["serve", "--listen", "127.0.0.1:0"][..], &place].concat();
    let with_key = || {
        let mut command = theazo(&scratch.path, &arguments);
        command.env("THEAZO_MASTER_KEY", MASTER_KEY);
        command
    };
    let stranger = with_key().output().await.expect("the program runs");
    assert_eq!(stranger.status.code(), Some(1), "the login is no member of the serving role yet");
    let complaint = String::from_utf8_lossy(&stranger.stderr).into_owned();
    assert!(complaint.contains("a member of the role theazo_serve"), "{complaint}");

    let owner_client = connect(&owner_url.parse().expect("a URL")).await;
    owner_client.batch_execute(&format!("grant theazo_serve to {login}")).await.expect("the owner may");
    let server = Server::start_with(with_key()).await;
    let session = server.create_session(&first_key(&scratch.path, "live"), "user_1").await;
    assert!(session.starts_with("ses_"));
    assert!(server.stop().await.success());
}
