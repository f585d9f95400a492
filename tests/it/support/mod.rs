//! What the tests stand on.

pub(crate) mod cluster;
pub(crate) mod logs;
pub(crate) mod proxy;
pub(crate) mod server;
pub(crate) mod wait;
