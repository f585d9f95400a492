//! `theazo billing export`

use std::pin::pin;
use std::sync::Arc;

use futures_util::TryStreamExt;
use theazo_domain::id::OrganizationId;
use theazo_domain::time::Timestamp;

use super::tenants::tenant;
use super::{Error, ModeArgument, Outcome, output};
use crate::boot::Tools;
use crate::http::export::{Export, Format, written};
use crate::http::period::{self, Asked, Default, End};
use crate::read::usage;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The organization
    #[arg(long, value_name = "ID")]
    org: OrganizationId,
    /// Which of its two logs
    #[arg(long, default_value = "live")]
    mode: ModeArgument,
    /// How it is written
    #[arg(long, default_value = "csv")]
    format: Format,
    /// The first day, or the time from which on [default: the start of the calendar month]
    #[arg(long, value_name = "TIME", value_parser = from)]
    from: Option<Timestamp>,
    /// The last day, or the time before which it ends [default: now]
    #[arg(long, value_name = "TIME", value_parser = until)]
    until: Option<End>,
}

fn from(text: &str) -> Result<Timestamp, String> {
    period::beginning(text).ok_or_else(|| format!("expected {}", period::EXPECTED))
}

fn until(text: &str) -> Result<End, String> {
    period::end(text).ok_or_else(|| format!("expected {}", period::EXPECTED))
}

/// Writes the charges piece by piece, for as long as somebody reads.
pub(super) async fn run(tools: &Tools, arguments: &Arguments) -> Result<Outcome, Error> {
    let tenant = tenant(tools, arguments.org, arguments.mode).await?;
    tools.log.open(tenant).await?;
    let pin = usage::pin(tools.log.scope(tenant.id), None).await?;
    let asked = Asked { from: arguments.from, until: arguments.until, default: Default::Month };
    let period = asked.from(tools.clock.now(), pin.at);
    if asked.is_reversed(period) {
        return Err(Error::Usage("--until must not be before --from".to_owned()));
    }
    let export = Export { tenant, format: arguments.format, period, pin };
    let mut pieces = pin!(written(Arc::clone(&tools.log), export));
    while let Some(piece) = pieces.try_next().await? {
        if !output::text(&piece) {
            break;
        }
    }
    Ok(Outcome::Fine)
}
