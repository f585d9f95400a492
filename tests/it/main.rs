//! The server's tests against a real PostgreSQL, in one binary so that they share one cluster.

mod feed;
mod log;
mod postgres;
mod rebuild;
mod support;
mod walls;
