//! The rows: what is claimed, and the runs that would show it to be wrong.

use crate::prove::Row;

mod api;
mod kills;
mod ledger;
mod limits;
mod order;
mod retry;
mod runs;
mod sandbox;
mod soak;
mod sse;
mod tenants;

#[expect(dead_code, unused_imports, reason = "the tests use all of it")]
#[path = "../../../tests/it/support/models/mod.rs"]
mod models;

/// The row that needs the program with bugs in any case.
pub(crate) const TENANTS: &str = tenants::ROW.name;

/// Every row.
pub(crate) const ALL: &[&Row] = &[
    &kills::ROW,
    &order::ROW,
    &limits::ROW,
    &ledger::ROW,
    &retry::ROW,
    &sse::ROW,
    &tenants::ROW,
    &runs::ROW,
    &sandbox::ROW,
    &sandbox::ORDINARY,
    &api::ROW,
    &soak::ROW,
];
