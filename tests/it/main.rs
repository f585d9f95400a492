//! The server's tests against a real PostgreSQL, in one binary so that they share one cluster.
#![expect(clippy::unwrap_used, reason = "in a test, what must be there is unwrapped")]

mod bills;
mod boot;
mod busy;
mod canary;
mod cli;
mod compute;
mod crash;
mod damaged;
mod feed;
mod handover;
mod limits;
mod log;
mod made_from;
mod manners;
mod models;
mod moments;
mod outgoing;
mod postgres;
mod rate_cards;
mod rates;
mod rebuild;
mod rotation;
mod sandbox;
mod sealed;
mod serve;
mod support;
mod surface;
mod tidy;
mod tls;
mod tools;
mod trouble;
mod v1;
mod walls;
