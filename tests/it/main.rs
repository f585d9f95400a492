//! The server's tests against a real PostgreSQL, in one binary so that they share one cluster.

mod feed;
mod log;
mod manners;
mod postgres;
mod rates;
mod rebuild;
mod support;
mod surface;
mod v1;
mod walls;
