//! The project's own tools. `cargo xtask prove` runs the proofs.

use std::process::ExitCode;

use clap::Parser;

mod client;
mod load;
mod place;
mod programs;
mod prove;
mod rows;
mod signs;

#[derive(Debug, Parser)]
#[command(name = "cargo xtask", about = "The project's own tools")]
enum Command {
    /// Prove what the server promises, against real servers and a real PostgreSQL
    Prove(prove::Arguments),
}

fn main() -> ExitCode {
    let Command::Prove(arguments) = Command::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    match runtime.map_err(anyhow::Error::from).and_then(|runtime| runtime.block_on(prove::run(&arguments))) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprint(&format!("{error:#}"));
            ExitCode::from(2)
        }
    }
}

/// What is said to whoever runs it, beside the results.
#[expect(clippy::print_stderr, reason = "a tool of the command line")]
fn eprint(line: &str) {
    eprintln!("{line}");
}
