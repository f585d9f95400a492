//! `theazo strip-types`: the server's own child process that makes JavaScript of TypeScript. For nobody else.

use std::process::ExitCode;

use crate::providers::tools::typescript;

/// Reads TypeScript from the standard input, and writes JavaScript or what is wrong with it.
pub(super) fn run() -> ExitCode {
    match typescript::serve() {
        Ok(ended) => ExitCode::from(ended.code()),
        Err(_) => ExitCode::FAILURE,
    }
}
