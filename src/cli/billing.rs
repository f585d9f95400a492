//! `theazo billing`

use super::output::Output;
use super::{Error, Outcome, reconcile};
use crate::boot::Tools;

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Settle calls to models whose usage is unconfirmed by what their vendor says of them
    Reconcile(reconcile::Arguments),
}

pub(super) async fn run(tools: &Tools, command: &Command, output: Output) -> Result<Outcome, Error> {
    match command {
        Command::Reconcile(arguments) => reconcile::run(tools, arguments, output).await,
    }
}
