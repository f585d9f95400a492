//! `theazo projection`

use theazo_projections::{ALL, Projection};

use super::output::Output;
use super::tenants::{Of, Selection};
use super::{Error, Outcome};
use crate::boot::Tools;
use crate::log::rebuild::{self, BuildInfo, Report};

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// List the builds of the read models
    List(Arguments),
    /// Build read models anew from the log, compare them with the live ones, and serve the new ones
    Rebuild(Arguments),
    /// Fold the log again and compare with what is served; the status is 1 when something differs
    Compare(Arguments),
}

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The read model [default: all]
    name: Option<String>,
    #[command(flatten)]
    selection: Selection,
}

pub(super) async fn run(tools: &Tools, command: &Command, output: Output) -> Result<Outcome, Error> {
    match command {
        Command::List(arguments) => list(tools, arguments, output).await,
        Command::Rebuild(arguments) => {
            let reports = each(tools, arguments, true).await?;
            show(&reports, output);
            Ok(Outcome::Fine)
        }
        Command::Compare(arguments) => {
            let reports = each(tools, arguments, false).await?;
            show(&reports, output);
            Ok(if reports.iter().all(|report| report.what.equal) { Outcome::Fine } else { Outcome::Wrong })
        }
    }
}

/// The read models that are meant.
fn wanted(arguments: &Arguments) -> Result<Vec<&'static dyn Projection>, Error> {
    let Some(name) = &arguments.name else { return Ok(ALL.to_vec()) };
    theazo_projections::named(name).map(|found| vec![found]).ok_or_else(|| {
        let names = ALL.map(|projection| projection.table().name).join(", ");
        Error::Usage(format!("there is no read model {name}; there are {names}"))
    })
}

async fn each(tools: &Tools, arguments: &Arguments, anew: bool) -> Result<Vec<Of<Report>>, Error> {
    let projections = wanted(arguments)?;
    let mut reports = Vec::new();
    for tenant in arguments.selection.tenants(tools).await? {
        for projection in &projections {
            let report = if anew {
                rebuild::rebuild(&tools.log, tenant, *projection).await?
            } else {
                rebuild::compare(&tools.log, tenant, *projection).await?
            };
            reports.push(Of::new(tenant, report));
        }
    }
    Ok(reports)
}

fn show(reports: &[Of<Report>], output: Output) {
    let head = ["ORGANIZATION", "MODE", "READ MODEL", "EVENTS", "ROWS", "SECONDS", "RESULT"];
    output.list(reports, head, |of| {
        let report = &of.what;
        let result = if report.equal {
            "equal".to_owned()
        } else {
            format!("DIFFERS: {}", report.differing.join(" "))
        };
        let [organization, mode] = of.whose();
        [
            organization,
            mode,
            report.projection.clone(),
            report.events.to_string(),
            report.rows.to_string(),
            format!("{:.3}", report.seconds),
            if report.switched { format!("{result}, the new one is served") } else { result },
        ]
    });
}

async fn list(tools: &Tools, arguments: &Arguments, output: Output) -> Result<Outcome, Error> {
    let names: Vec<&str> = wanted(arguments)?.iter().map(|projection| projection.table().name).collect();
    let mut rows: Vec<Of<BuildInfo>> = Vec::new();
    for tenant in arguments.selection.tenants(tools).await? {
        tools.log.open(tenant).await?;
        let builds = rebuild::list(tools.log.scope(tenant.id)).await?;
        let meant = builds.into_iter().filter(|build| names.contains(&build.projection.as_str()));
        rows.extend(meant.map(|build| Of::new(tenant, build)));
    }
    output.list(&rows, ["ORGANIZATION", "MODE", "READ MODEL", "BUILD", "VERSION", "STATE"], |of| {
        let [organization, mode] = of.whose();
        [
            organization,
            mode,
            of.what.projection.clone(),
            of.what.build.to_string(),
            of.what.version.to_string(),
            of.what.state.clone(),
        ]
    });
    Ok(Outcome::Fine)
}
