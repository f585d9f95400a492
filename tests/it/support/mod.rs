//! What the tests stand on.

pub(crate) mod cluster;
pub(crate) mod wait;
