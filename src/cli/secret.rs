//! `theazo secret`

use super::output::Output;
use super::{Error, Outcome};
use crate::boot::{self, Tools};
use crate::vault;

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Wrap every key by a new master key, while servers serve; ended at any moment, it can be run again
    RotateMaster,
}

pub(super) async fn run(tools: &mut Tools, command: &Command, output: Output) -> Result<Outcome, Error> {
    let Command::RotateMaster = command;
    let rotated = vault::rotate(&mut tools.owner, &tools.database, &tools.keys.masters).await;
    let rotated = rotated.map_err(boot::Error::from)?;
    output.object(&rotated, || {
        let vault::Rotated { from, to, server_keys, values, damaged } = &rotated;
        let mut text = if from == to && *server_keys == 0 && *values == 0 {
            format!(
                "everything is wrapped by {to} already. To change it, name the new master key by THEAZO_MASTER_KEY \
                 and this one by THEAZO_MASTER_KEY_PREVIOUS (or by files)"
            )
        } else {
            format!("{server_keys} keys of the server and {values} values are wrapped by {to} now (before: {from})")
        };
        for place in damaged {
            text.push_str(&format!("\nDAMAGED: {place} does not open; set it anew or delete it, and run this again"));
        }
        text
    });
    Ok(if rotated.damaged.is_empty() { Outcome::Fine } else { Outcome::Wrong })
}
