//! The reads behind GET: a statement each, whose first argument is whose rows are read.

/// Agents and their tasks.
pub mod agent;
/// Budgets, and what is held against them.
pub mod budget;
/// Agent definitions and their versions.
pub mod definition;
/// API keys and whose they are.
pub mod key;
/// End users by the caller's own ids.
pub mod person;
/// Compute providers.
pub mod provider;
/// Rate cards, and usage without a price.
pub mod rates;
/// What is sealed, as it lies beside the log.
pub mod sealed;
/// Secrets: which there are, and what they say to what runs in a session.
pub mod secret;
/// Sessions, their limits and what they have used.
pub mod session;
/// Calls to models whose usage is unconfirmed.
pub mod unconfirmed;
/// Usage and billing.
pub mod usage;

use crate::database::Error;

/// Reads a text of a row as the type that wrote it.
fn typed<T: std::str::FromStr<Err: std::fmt::Display>>(text: &str) -> Result<T, Error> {
    text.parse().map_err(|error| Error::Row(format!("{text:?}: {error}")))
}

/// Reads a word of a row as the enum that wrote it.
fn word<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, Error> {
    serde_json::from_value(text.into()).map_err(|error| Error::Row(format!("{text:?}: {error}")))
}
