//! The theazo server: an open, self-hosted control plane for companies that run AI agents for their own users.

/// The clock, as a parameter.
pub mod clock;
/// Every limit of the server, by name.
pub mod config;
/// The server's own PostgreSQL, for whoever names no database.
pub mod postgres;
/// The way to PostgreSQL.
pub mod database;
/// The log: the only way to change anything.
pub mod log;
/// The secrets of API keys.
pub mod keys;
/// Randomness and new ids.
pub mod random;
/// Files that only the server's user may read.
pub mod private_file;
/// The vault: the master key, and what is wrapped by it.
pub mod vault;
/// Everything a request needs, assembled once.
pub mod app;
/// What is done for the operator: organizations and their keys.
pub mod operator;
/// From nothing to a server that can answer.
pub mod boot;
/// The serving loop, from the first connection to the last.
pub mod serve;
/// What the server says about itself, on standard error.
pub mod logging;
/// The command line.
pub mod cli;
