//! The server's tests against a real PostgreSQL, in one binary so that they share one cluster.

mod postgres;
mod support;
