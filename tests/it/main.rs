//! The server's tests against a real PostgreSQL, in one binary so that they share one cluster.

mod boot;
mod cli;
mod feed;
mod log;
mod postgres;
mod rebuild;
mod serve;
mod support;
mod walls;
