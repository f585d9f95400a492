//! The theazo server.
