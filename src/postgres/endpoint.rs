//! Where the server's own PostgreSQL listens, and how to log in.

use std::fmt;
use std::path::PathBuf;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use super::Error;

/// The superuser of the server's own PostgreSQL.
pub const SUPERUSER: &str = "theazo_admin";

/// The port is only the last part of the socket's name: nothing listens on a network.
pub(super) const PORT: u16 = 5432;

/// Where the server's own PostgreSQL listens, and the secret from which every role's password follows.
#[derive(Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// The directory of the Unix socket.
    pub socket_dir: PathBuf,
    /// The port in the socket's name.
    pub port: u16,
    /// The superuser.
    pub user: String,
    pub(super) secret: String,
}

impl Endpoint {
    /// The password of `role`: HMAC-SHA-256 of its name under the cluster's secret, in hex. Whoever makes a role gives
    /// it this password, so that a leaked password opens one role and not the superuser.
    pub fn password(&self, role: &str) -> String {
        let mut mac =
            Hmac::<Sha256>::new_from_slice(self.secret.as_bytes()).expect("HMAC takes keys of any length");
        mac.update(role.as_bytes());
        mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// How to connect to `database` as `user`.
    pub fn config(&self, database: &str, user: &str) -> tokio_postgres::Config {
        let mut config = tokio_postgres::Config::new();
        config.host_path(&self.socket_dir).port(self.port).dbname(database).user(user);
        config.password(self.password(user)).application_name("theazo");
        config
    }

    /// Logs in as the superuser once.
    pub(super) async fn check(&self) -> Result<(), Error> {
        let config = self.config("postgres", &self.user);
        let refused = |error: tokio_postgres::Error| Error::Connect {
            socket_dir: self.socket_dir.clone(),
            why: error.as_db_error().map_or_else(|| error.to_string(), |said| said.message().to_owned()),
        };
        let (client, connection) = config.connect(tokio_postgres::NoTls).await.map_err(refused)?;
        let connection = tokio::spawn(connection);
        let answer = client.simple_query("select 1").await.map_err(refused);
        connection.abort();
        answer.map(|_| ())
    }
}

impl fmt::Debug for Endpoint {
    /// Without the secret: this ends up in logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint")
            .field("socket_dir", &self.socket_dir)
            .field("port", &self.port)
            .field("user", &self.user)
            .finish_non_exhaustive()
    }
}
