//! `theazo billing`

use super::output::Output;
use super::{Error, Outcome, export, reconcile};
use crate::boot::Tools;

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Write the charges of a period to standard output
    Export(export::Arguments),
    /// Settle calls to models whose usage is unconfirmed by what their vendor says of them
    Reconcile(reconcile::Arguments),
}

pub(super) async fn run(tools: &Tools, command: &Command, output: Output) -> Result<Outcome, Error> {
    match command {
        Command::Export(arguments) => export::run(tools, arguments).await,
        Command::Reconcile(arguments) => reconcile::run(tools, arguments, output).await,
    }
}
