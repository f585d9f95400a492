//! The server's tests against a real PostgreSQL, in one binary so that they share one cluster.

mod manners;
mod postgres;
mod rates;
mod support;
mod surface;
mod v1;
