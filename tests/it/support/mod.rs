//! What the tests stand on.

pub(crate) mod api;
pub(crate) mod cluster;
pub(crate) mod logs;
pub(crate) mod models;
pub(crate) mod observer;
pub(crate) mod proxy;
pub(crate) mod server;
pub(crate) mod site;
pub(crate) mod vendors;
pub(crate) mod wait;
