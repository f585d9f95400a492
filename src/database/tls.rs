//! TLS to a database that runs elsewhere.

use std::path::Path;

use rustls::{ClientConfig, RootCertStore};
use tokio_postgres::Socket;
use tokio_postgres::config::Host;
use tokio_postgres::tls::MakeTlsConnect;
use tokio_postgres_rustls::MakeRustlsConnect;

use super::Error;

/// How connections are secured. Over a Unix socket it is never asked.
pub type Tls = MakeRustlsConnect;

/// The half of a connection that moves the bytes.
pub(crate) type Connection = tokio_postgres::Connection<Socket, <Tls as MakeTlsConnect<Socket>>::Stream>;

/// Verifies servers by the certificate authorities that the machine trusts, and by those in a PEM file.
///
/// The machine's are read only where the database is reached over a network.
///
/// # Errors
/// [`Error::Settings`] when the file cannot be read or holds no certificate.
pub fn connector(login: &tokio_postgres::Config, authority: Option<&Path>) -> Result<Tls, Error> {
    let mut roots = RootCertStore::empty();
    if login.get_hosts().iter().any(|host| matches!(host, Host::Tcp(_))) {
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    }
    if let Some(path) = authority {
        let settings = |reason: String| Error::Settings(format!("{}: {reason}", path.display()));
        let found = rustls_native_certs::load_certs_from_paths(Some(path), None);
        if found.certs.is_empty() {
            return Err(settings("no certificate authority in PEM form".to_owned()));
        }
        roots.add_parsable_certificates(found.certs);
    }
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| Error::Settings(error.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(MakeRustlsConnect::new(config))
}
