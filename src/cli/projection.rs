//! `theazo projection`

use serde::Serialize;
use theazo_domain::id::OrganizationId;
use theazo_domain::organization::Mode;
use theazo_projections::{ALL, Projection};

use super::output::Output;
use super::{Error, ModeArgument, Outcome, tenants};
use crate::boot::Tools;
use crate::log::Tenant;
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
    /// The organization [default: all]
    #[arg(long, value_name = "ID")]
    org: Option<OrganizationId>,
    /// Which of its two modes [default: both]
    #[arg(long)]
    mode: Option<ModeArgument>,
}

/// Something about a read model, and whose it is.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Of<T> {
    organization_id: OrganizationId,
    mode: Mode,
    #[serde(flatten)]
    what: T,
}

impl<T> Of<T> {
    fn new(tenant: Tenant, what: T) -> Self {
        Self { organization_id: tenant.organization_id, mode: tenant.mode, what }
    }
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
    for tenant in tenants(tools, arguments.org, arguments.mode).await? {
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
        [
            of.organization_id.to_string(),
            of.mode.as_str().to_owned(),
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
    for tenant in tenants(tools, arguments.org, arguments.mode).await? {
        tools.log.open(tenant).await?;
        let builds = rebuild::list(tools.log.scope(tenant.id)).await?;
        let meant = builds.into_iter().filter(|build| names.contains(&build.projection.as_str()));
        rows.extend(meant.map(|build| Of::new(tenant, build)));
    }
    output.list(&rows, ["ORGANIZATION", "MODE", "READ MODEL", "BUILD", "VERSION", "STATE"], |of| {
        [
            of.organization_id.to_string(),
            of.mode.as_str().to_owned(),
            of.what.projection.clone(),
            of.what.build.to_string(),
            of.what.version.to_string(),
            of.what.state.clone(),
        ]
    });
    Ok(Outcome::Fine)
}
