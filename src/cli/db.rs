//! `theazo db`

use serde_json::json;

use super::output::Output;
use super::{Error, Outcome};
use crate::boot::{Settings, Site};
use crate::database;

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Bring the schema up to what this program needs
    Migrate,
}

pub(super) async fn run(settings: &Settings, command: &Command, output: Output) -> Result<Outcome, Error> {
    let Command::Migrate = command;
    let site = Site::of_command(settings).await?;
    let migrated = migrate(&site, output).await;
    site.stop().await;
    migrated.map(|()| Outcome::Fine)
}

async fn migrate(site: &Site, output: Output) -> Result<(), Error> {
    let before = database::schema(&site.connect_owner().await?).await?;
    database::migrate(&site.owner, site.tls.clone()).await?;
    let after = database::schema(&site.connect_owner().await?).await?;
    output.object(&json!({ "from": before.applied, "to": after.applied }), || {
        if before == after {
            format!("the schema has version {} already", after.applied)
        } else {
            format!("the schema went from version {} to {}", before.applied, after.applied)
        }
    });
    Ok(())
}
