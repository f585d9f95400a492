//! The theazo server: an open, self-hosted control plane for companies that run AI agents for their own users.

/// Everything a request needs, assembled once.
pub mod app;
/// From nothing to a server that can answer.
pub mod boot;
/// The rate card in force.
pub mod cards;
/// The command line.
pub mod cli;
/// The clock, as a parameter.
pub mod clock;
/// Every limit of the server, by name.
pub mod config;
/// The way to PostgreSQL.
pub mod database;
/// What reads bytes that anyone may have written, as functions that must not fail.
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzz;
/// The API over HTTP.
pub mod http;
/// The secrets of API keys.
pub mod keys;
/// The log: the only way to change anything.
pub mod log;
/// What the server says about itself, on standard error.
pub mod logging;
/// What is done for the operator: organizations and their keys.
pub mod operator;
/// Bugs that the proofs have to find.
pub mod planted;
/// The server's own PostgreSQL, for whoever names no database.
pub mod postgres;
/// Files that only the server's user may read.
pub mod private_file;
/// What lies outside: where agents' code runs, and the models that they ask.
pub mod providers;
/// Randomness and new ids.
pub mod random;
/// The queries behind the API: what is read for an answer, one file a resource.
pub mod read;
/// The workers: what has to happen next.
pub mod runtime;
/// The serving loop, from the first connection to the last.
pub mod serve;
/// The vault: the master key, and what is wrapped by it.
pub mod vault;
