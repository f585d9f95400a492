//! The `theazo` program.

use std::alloc::System;
use std::process::ExitCode;

use theazo::cli::{self, Cli, Outcome};
use theazo::providers::compute::local;
use zeroizing_alloc::ZeroAlloc;

/// Wipes whatever is freed. What is confided also passes through buffers of libraries (HTTP, TLS, the parser of JSON),
/// which do not do that themselves.
#[global_allocator]
static ALLOCATOR: ZeroAlloc<System> = ZeroAlloc(System);

fn main() -> ExitCode {
    // A process of a sandbox, of which this program is the init.
    if let Some(code) = local::enter() {
        return code;
    }
    let cli = Cli::from_environment();
    if let Some(code) = cli.run_alone() {
        return code;
    }
    match run(&cli) {
        Ok(Outcome::Fine) => ExitCode::SUCCESS,
        Ok(Outcome::Wrong) => ExitCode::FAILURE,
        Err(error) => {
            // Every error of the program says its cause itself.
            cli::complain(&error.to_string());
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> anyhow::Result<Outcome> {
    cli.start_logging().map_err(anyhow::Error::msg)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let outcome = runtime.block_on(cli.run());
    // What still runs was given its time, and has been answered or will be found open by the next start.
    runtime.shutdown_background();
    Ok(outcome?)
}
