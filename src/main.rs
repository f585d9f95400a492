//! The `theazo` program.
fn main() {}
