//! The rows: what is claimed, and the runs that would show it to be wrong.

use crate::prove::Row;

mod api;
mod kills;
mod limits;
mod order;
mod retry;
mod runs;
mod sandbox;
mod soak;
mod sse;
mod tenants;

/// Every row.
pub(crate) const ALL: &[&Row] = &[
    &kills::ROW,
    &order::ROW,
    &limits::ROW,
    &retry::ROW,
    &sse::ROW,
    &tenants::ROW,
    &runs::ROW,
    &sandbox::ROW,
    &sandbox::ORDINARY,
    &api::ROW,
    &soak::ROW,
];
