//! The theazo server: an open, self-hosted control plane for companies that run AI agents for their own users.

/// Everything a request needs, assembled once.
pub mod app;
/// The clock, as a parameter.
pub mod clock;
/// Every limit of the server, by name.
pub mod config;
/// The way to PostgreSQL.
pub mod database;
/// The API over HTTP.
pub mod http;
/// The secrets of API keys.
pub mod keys;
/// The log: the only way to change anything.
pub mod log;
/// The server's own PostgreSQL.
pub mod postgres;
/// Randomness and new ids.
pub mod random;
/// The reads behind GET.
pub mod read;
/// The server's own keys.
pub mod vault;
