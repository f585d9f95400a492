//! `theazo event`

use serde::Serialize;
use serde_json::value::RawValue;
use theazo_domain::id::{EventId, OrganizationId};
use theazo_domain::time::Timestamp;

use super::output::Output;
use super::tenants::tenant;
use super::{Error, ModeArgument, Outcome};
use crate::boot::Tools;
use crate::log::Stored;
use crate::log::read::{self, Filter};

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// List events, newest first
    List {
        #[command(flatten)]
        filter: Arguments,
        /// Only events after this position
        #[arg(long, value_name = "POSITION", default_value_t = 0)]
        after: i64,
        /// Only events up to this position
        #[arg(long, value_name = "POSITION", default_value_t = i64::MAX, hide_default_value = true)]
        until: i64,
        /// How many at most
        #[arg(long, value_name = "N", default_value_t = 25, value_parser = clap::value_parser!(i64).range(1..=5_000))]
        limit: i64,
    },
    /// Show events as they happen, until it is interrupted or nobody reads on
    Tail {
        #[command(flatten)]
        filter: Arguments,
        /// Begin after this position [default: from now on]
        #[arg(long, value_name = "POSITION")]
        after: Option<i64>,
    },
}

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The organization
    #[arg(long, value_name = "ID")]
    org: OrganizationId,
    /// Which of its two logs
    #[arg(long, default_value = "live")]
    mode: ModeArgument,
    /// Only events of this type, such as session.created
    #[arg(long = "type", value_name = "TYPE")]
    kind: Option<String>,
    /// Only events about this id
    #[arg(long, value_name = "ID")]
    subject: Option<String>,
}

/// An event as it is shown.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Row<'a> {
    position: i64,
    id: EventId,
    #[serde(rename = "type")]
    kind: &'a str,
    version: i16,
    subjects: &'a [String],
    data: &'a RawValue,
    metadata: &'a RawValue,
    at: Timestamp,
    leaf_hash: String,
}

pub(super) async fn run(tools: &Tools, command: &Command, output: Output) -> Result<Outcome, Error> {
    match command {
        Command::List { filter, after, until, limit } => {
            let tenant = tenant(tools, filter.org, filter.mode).await?;
            let wanted = Filter {
                after: *after,
                until: *until,
                kind: filter.kind.clone(),
                subject: filter.subject.clone(),
            };
            let events = read::newest(tools.log.scope(tenant.id), &wanted, None, *limit).await?;
            let rows = events.iter().map(row).collect::<Result<Vec<_>, _>>()?;
            output.list(&rows, ["POSITION", "TIME", "TYPE", "SUBJECTS", "DATA"], cells);
        }
        Command::Tail { filter, after } => tail(tools, filter, *after, output).await?,
    }
    Ok(Outcome::Fine)
}

async fn tail(tools: &Tools, filter: &Arguments, after: Option<i64>, output: Output) -> Result<(), Error> {
    let tenant = tenant(tools, filter.org, filter.mode).await?;
    // Without it the other servers' appends would be seen late.
    tools.log.listen();
    let mut feed = tools.log.follow(tenant, after).await?;
    loop {
        for event in feed.next().await? {
            let wanted = filter.kind.as_ref().is_none_or(|kind| *kind == event.kind)
                && filter.subject.as_ref().is_none_or(|subject| event.subjects.contains(subject));
            if wanted {
                let row = row(&event)?;
                if !output.object(&row, || cells(&row).join("  ")) {
                    return Ok(());
                }
            }
        }
    }
}

fn row(event: &Stored) -> Result<Row<'_>, Error> {
    let unreadable = |_| Error::Usage(format!("the event at position {} is not JSON", event.position));
    Ok(Row {
        position: event.position,
        id: event.event_id,
        kind: &event.kind,
        version: event.version,
        subjects: &event.subjects,
        data: serde_json::from_str(&event.data).map_err(unreadable)?,
        metadata: serde_json::from_str(&event.metadata).map_err(unreadable)?,
        at: event.at,
        leaf_hash: hex::encode(event.leaf_hash),
    })
}

fn cells(row: &Row<'_>) -> [String; 5] {
    [
        row.position.to_string(),
        row.at.to_string(),
        row.kind.to_owned(),
        row.subjects.join(" "),
        row.data.get().to_owned(),
    ]
}
