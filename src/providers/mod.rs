//! What lies outside: where agents' code runs, and the models that they ask.

/// Compute: sandboxes, here and at vendors.
pub mod compute;
/// Language models.
pub mod model;
