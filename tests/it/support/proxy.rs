//! A proxy in front of PostgreSQL. It cuts a connection at its next commit: before the commit arrives, or after it was
//! carried out and before its answer is heard. Or it is as a database that is away, or that says nothing.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio_postgres::Config;

use super::cluster::{Scratch, TestDatabase};

/// When the next connection that commits is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cut {
    /// PostgreSQL never hears of the commit.
    BeforeCommit = 1,
    /// PostgreSQL has committed; nobody hears of it.
    AfterCommit = 2,
}

/// How the database seems to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Seeming {
    /// As it is.
    There,
    /// Connections are cut, and new ones too.
    Away,
    /// Connections are taken, and nothing is answered.
    Silent,
}

pub(crate) struct Proxy {
    scratch: Scratch,
    cut: Arc<AtomicU8>,
    seeming: watch::Sender<Seeming>,
    refused: Arc<AtomicUsize>,
}

/// How `commit` is asked for in the protocol's simple query: Q, the length, the text, a zero byte.
const COMMIT: &[u8] = b"Q\0\0\0\x0bcommit\0";

impl Proxy {
    pub(crate) fn before(database: &TestDatabase) -> Self {
        let scratch = Scratch::new();
        let real = database.endpoint.socket_dir.join(format!(".s.PGSQL.{}", database.endpoint.port));
        let path = scratch.path.join(format!(".s.PGSQL.{}", database.endpoint.port));
        let listener = UnixListener::bind(path).expect("the proxy listens");
        let cut = Arc::new(AtomicU8::new(0));
        let cuts = Arc::clone(&cut);
        let refused = Arc::new(AtomicUsize::new(0));
        let refusals = Arc::clone(&refused);
        let (seeming, seen) = watch::channel(Seeming::There);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                if *seen.borrow() == Seeming::Away {
                    refusals.fetch_add(1, Ordering::SeqCst);
                }
                let (real, cuts, mut cutting, seen) =
                    (real.clone(), Arc::clone(&cuts), seen.clone(), seen.clone());
                tokio::spawn(async move {
                    tokio::select! {
                        biased;
                        _ = async { cutting.wait_for(|seeming| *seeming == Seeming::Away).await.is_ok() } => {}
                        () = pass(client, real, &cuts, seen) => {}
                    }
                });
            }
        });
        Self { scratch, cut, seeming, refused }
    }

    /// From now on the database seems to be so.
    pub(crate) fn seem(&self, seeming: Seeming) {
        self.seeming.send_replace(seeming);
    }

    /// How many connections were asked for while the database was away.
    pub(crate) fn refused(&self) -> usize {
        self.refused.load(Ordering::SeqCst)
    }

    pub(crate) fn config(&self, database: &TestDatabase) -> Config {
        let endpoint = &database.endpoint;
        let mut config = Config::new();
        config.host_path(&self.scratch.path).port(endpoint.port).dbname(&database.name).user(&endpoint.user);
        config.password(endpoint.password(&endpoint.user));
        config
    }

    /// Cuts the next connection that commits.
    pub(crate) fn cut_next(&self, cut: Cut) {
        self.cut.store(cut as u8, Ordering::SeqCst);
    }

    /// Whether the cut has been made.
    pub(crate) fn has_cut(&self) -> bool {
        self.cut.load(Ordering::SeqCst) == 0
    }
}

async fn pass(client: UnixStream, real: PathBuf, cut: &AtomicU8, seen: watch::Receiver<Seeming>) {
    let Ok(server) = UnixStream::connect(real).await else { return };
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    relay((from_client, to_client), (from_server, to_server), cut, seen).await;
}

async fn relay(
    (mut from_client, mut to_client): (OwnedReadHalf, OwnedWriteHalf),
    (mut from_server, mut to_server): (OwnedReadHalf, OwnedWriteHalf),
    cut: &AtomicU8,
    mut seen: watch::Receiver<Seeming>,
) {
    let (mut asked, mut answered) = (vec![0; 1 << 20], vec![0; 1 << 16]);
    loop {
        tokio::select! {
            read = from_client.read(&mut asked) => {
                let Ok(length @ 1..) = read else { return };
                if seen.wait_for(|seeming| *seeming != Seeming::Silent).await.is_err() {
                    return;
                }
                let bytes = &asked[..length];
                let commit = bytes.windows(COMMIT.len()).position(|window| window == COMMIT);
                if let Some(at) = commit {
                    match cut.swap(0, Ordering::SeqCst) {
                        0 => {}
                        1 => {
                            let _ = to_server.write_all(&bytes[..at]).await;
                            return;
                        }
                        _ => {
                            let _ = to_server.write_all(bytes).await;
                            // The server's side is closed only when it has ended on its own account.
                            let _ = to_server.shutdown().await;
                            while matches!(from_server.read(&mut answered).await, Ok(1..)) {}
                            return;
                        }
                    }
                }
                if to_server.write_all(bytes).await.is_err() { return }
            }
            read = from_server.read(&mut answered) => {
                let Ok(length @ 1..) = read else { return };
                if to_client.write_all(&answered[..length]).await.is_err() { return }
            }
        }
    }
}
