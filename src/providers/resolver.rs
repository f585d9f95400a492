//! From a name to the addresses that may be called.

use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use tokio::sync::Semaphore;

use super::guard::{Guard, Refused};
use crate::config;

/// Why a name leads nowhere.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unresolved {
    /// It has addresses, and none of them may be called.
    #[error("the URL {0}")]
    Refused(Refused),
    /// It has none.
    #[error("its name does not resolve: {0}")]
    Unknown(String),
}

/// Asks the system for the addresses of names, and gives only those that may be called.
#[derive(Debug, Clone)]
pub(super) struct Resolver {
    guard: Option<Guard>,
    /// The system's resolver holds a thread for as long as it likes: so many at most.
    threads: Arc<Semaphore>,
}

impl Resolver {
    pub(super) fn new(guard: Option<Guard>) -> Self {
        Self { guard, threads: Arc::new(Semaphore::new(config::OUTGOING_LOOKUPS)) }
    }

    /// The addresses of a name that may be called, with the port 0; at least one.
    pub(super) async fn addresses(self, name: String) -> Result<Vec<SocketAddr>, Unresolved> {
        let unknown = |reason: &dyn std::fmt::Display| Unresolved::Unknown(reason.to_string());
        let permit = self.threads.acquire_owned().await.map_err(|error| unknown(&error))?;
        let looking = tokio::task::spawn_blocking(move || {
            let found = (name.as_str(), 0).to_socket_addrs();
            // Given back by the thread, also where nobody waits for it any more.
            drop(permit);
            found.map(Iterator::collect::<Vec<_>>)
        });
        let found = looking.await.map_err(|error| unknown(&error))?.map_err(|error| unknown(&error))?;
        if found.is_empty() {
            return Err(Unresolved::Unknown("it has no address".to_owned()));
        }
        let Some(guard) = self.guard else { return Ok(found) };
        let permitted: Vec<_> = found.into_iter().filter(|address| guard.permits(address.ip())).collect();
        if permitted.is_empty() { Err(Unresolved::Refused(Refused::Special)) } else { Ok(permitted) }
    }
}

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let looking = self.clone().addresses(name.as_str().to_owned());
        Box::pin(async move {
            let addresses = looking.await?;
            Ok(Box::new(addresses.into_iter()) as Addrs)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn look(guard: &str, name: &str) -> Result<Vec<String>, Unresolved> {
        let allowed = guard.split_whitespace().map(|range| range.parse().unwrap()).collect();
        let found = Resolver::new(Some(Guard::new(allowed))).addresses(name.to_owned()).await?;
        Ok(found.into_iter().map(|address| address.ip().to_string()).collect())
    }

    #[tokio::test]
    async fn only_addresses_that_may_be_called_come_out_whatever_the_system_says() {
        let refused = Err(Unresolved::Refused(Refused::Special));
        // The system's resolver reads these as it has since 4.2BSD, which no rule about names would foresee.
        for name in
            ["localhost", "127.1", "0x7f.1", "2130706433", "0177.0.0.1", "10.1", "::1", "::ffff:127.0.0.1"]
        {
            assert_eq!(look("", name).await, refused, "{name}");
        }
        assert_eq!(look("127.0.0.0/8", "0x7f.2").await, Ok(vec!["127.0.0.2".to_owned()]));
        assert_eq!(look("10.0.0.0/8", "0x7f.2").await, refused);
        assert_eq!(look("", "8.8.8.8").await, Ok(vec!["8.8.8.8".to_owned()]));
    }
}
