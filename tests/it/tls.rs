//! TLS to a database: a PostgreSQL with a certificate, reached over a network's socket.

use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rcgen::{CertifiedKey, generate_simple_self_signed};
use theazo::postgres::{Cluster, Options};
use tokio_postgres::Client;

use crate::support::cluster::{Scratch, connect, database, throw_away};
use crate::support::server::{MASTER_KEY, Server, theazo};
use crate::support::wait::until_async;

/// An address that no other test run listens on: of the machine itself are all of 127.0.0.0/8.
fn address() -> Ipv4Addr {
    let [_, _, high, low] = std::process::id().to_be_bytes();
    Ipv4Addr::new(127, 71, high, low)
}

/// A PostgreSQL that listens on this address too, which the server's own never does.
async fn cluster(scratch: &Scratch) -> Cluster {
    let other = database().await.connect().await;
    let sql = "select setting from pg_config where name = 'BINDIR'";
    let programs: String = other.query_one(sql, &[]).await.unwrap().get(0);
    let wrapped = scratch.path.join("programs");
    std::fs::create_dir(&wrapped).unwrap();
    let listening = format!("-c listen_addresses={}", address());
    for (name, arguments) in [("initdb", ""), ("postgres", &listening)] {
        let script = format!("#!/bin/sh\nexec '{programs}/{name}' \"$@\" {arguments}\n");
        let path = wrapped.join(name);
        std::fs::write(&path, script).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    let options = throw_away(scratch.path.join("data"));
    Cluster::start(Options { binary_dirs: Some(vec![wrapped]), ..options }).await.unwrap()
}

/// Gives the database a new certificate for this name, and lets callers in over TLS only; the certificate in `authority`.
async fn certify(admin: &Client, name: &str, authority: &Path) {
    let CertifiedKey { cert, signing_key } = generate_simple_self_signed([name.to_owned()]).unwrap();
    std::fs::write(authority, cert.pem()).unwrap();
    let files = [
        ("server.crt", cert.pem()),
        ("server.key", signing_key.serialize_pem()),
        (
            "pg_hba.conf",
            "local all all scram-sha-256\nhostssl all all 127.0.0.0/8 scram-sha-256\n".to_owned(),
        ),
    ];
    for (file, text) in files {
        // A line is a row, since newlines within one would be escaped.
        let sql = format!(
            "copy (select regexp_split_to_table('{text}', '\\n')) to program 'umask 077; cat > {file}'"
        );
        admin.batch_execute(&sql).await.unwrap();
    }
    admin.batch_execute("alter system set ssl = on").await.unwrap();
    admin.batch_execute("select pg_reload_conf()").await.unwrap();
}

#[tokio::test]
async fn a_database_is_reached_over_tls_by_who_can_verify_it_and_by_nobody_else() {
    let scratch = Scratch::new();
    let cluster = cluster(&scratch).await;
    let endpoint = cluster.endpoint();
    let admin = connect(&endpoint.config("postgres", &endpoint.user)).await;
    admin.batch_execute("create database far template template0").await.unwrap();
    let (user, password, port) = (&endpoint.user, endpoint.password(&endpoint.user), endpoint.port);
    let url = format!("postgresql://{user}:{password}@{}:{port}/far?sslmode=require", address());
    let authority = scratch.path.join("authority.pem");
    let serve = |authority: Option<&Path>| {
        let mut command = theazo(
            &scratch.path.join("server"),
            &["serve", "--listen", "127.0.0.1:0", "--database-url", &url],
        );
        command.env("THEAZO_MASTER_KEY", MASTER_KEY);
        if let Some(authority) = authority {
            command.env("THEAZO_DATABASE_CA", authority);
        }
        command
    };
    certify(&admin, &address().to_string(), &authority).await;
    until_async("the certificate to be taken", async || {
        let shown: String = admin.query_one("show ssl", &[]).await.unwrap().get(0);
        (shown == "on").then_some(())
    })
    .await;
    let server = Server::start_with(serve(Some(&authority))).await;
    assert_eq!(server.status("/readyz", "").await, Some(200));
    let sql =
        "select count(*) filter (where ssl), count(*) from pg_stat_ssl join pg_stat_activity using (pid)
               where datname = 'far'";
    let row = admin.query_one(sql, &[]).await.unwrap();
    let (encrypted, all): (i64, i64) = (row.get(0), row.get(1));
    assert!(encrypted > 0 && encrypted == all, "{encrypted} of {all}");
    assert!(server.stop().await.success());

    assert_refused(serve(None)).await;
    // Its certificate is known, and is not for this name.
    certify(&admin, "elsewhere.example", &authority).await;
    assert_refused(serve(Some(&authority))).await;
    cluster.stop().await;
}

async fn assert_refused(mut command: tokio::process::Command) {
    let ended = command.output().await.unwrap();
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert_eq!(ended.status.code(), Some(1), "{said}");
    assert!(said.contains("certificate"), "{said}");
}
