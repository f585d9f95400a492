//! The theazo server.

pub mod postgres;
