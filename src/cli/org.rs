//! `theazo org`

use serde::Serialize;
use serde_json::json;
use theazo_domain::id::OrganizationId;
use theazo_domain::organization::Plan;
use theazo_domain::time::Timestamp;

use super::output::Output;
use super::tenants::tenants;
use super::{Error, ModeArgument, Outcome};
use crate::boot::Tools;
use crate::database::millis;
use crate::log::Actor;
use crate::operator::{self, NewOrganization};
use crate::random;

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Make an organization, with a live and a test mode
    Create {
        /// What it is called
        #[arg(value_parser = name)]
        name: String,
        /// Its plan
        #[arg(long)]
        plan: PlanArgument,
        /// Requests a minute for each key [default: the plan's]
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
        rate_limit: Option<u32>,
    },
    /// List the organizations
    List,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub(super) enum PlanArgument {
    Free,
    Cloud,
    Team,
    Enterprise,
}

impl From<PlanArgument> for Plan {
    fn from(plan: PlanArgument) -> Self {
        match plan {
            PlanArgument::Free => Self::Free,
            PlanArgument::Cloud => Self::Cloud,
            PlanArgument::Team => Self::Team,
            PlanArgument::Enterprise => Self::Enterprise,
        }
    }
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    id: String,
    name: String,
    plan: String,
    rate_limit: i64,
    created_at: Timestamp,
}

pub(super) async fn run(tools: &mut Tools, command: &Command, output: Output) -> Result<Outcome, Error> {
    match command {
        Command::Create { name, plan, rate_limit } => {
            let new = NewOrganization {
                organization_id: OrganizationId::from_ulid(random::ulid(tools.clock.now())),
                name: name.clone(),
                plan: (*plan).into(),
                rate_limit: *rate_limit,
            };
            operator::create_organization(tools, Actor::Operator, &new).await?;
            output.object(&json!({ "id": new.organization_id }), || new.organization_id.to_string());
        }
        Command::List => list(tools, output).await?,
    }
    Ok(Outcome::Fine)
}

async fn list(tools: &Tools, output: Output) -> Result<(), Error> {
    let mut rows = Vec::new();
    // Both modes say the same.
    for tenant in tenants(tools, None, Some(ModeArgument::Live)).await? {
        tools.log.open(tenant).await?;
        let sql = "select organization_id, name, plan, rate_limit, created_at from organization
                   where tenant_id = $1 and build = live_build($1, 'organization')";
        let found = tools.log.scope(tenant.id).query_optional(sql, &[]).await?;
        rows.extend(found.map(|row| Row {
            id: row.get(0),
            name: row.get(1),
            plan: row.get(2),
            rate_limit: row.get(3),
            created_at: millis(row.get(4)),
        }));
    }
    output.list(&rows, ["ID", "NAME", "PLAN", "RATE LIMIT", "CREATED"], |row| {
        [
            row.id.clone(),
            row.name.clone(),
            row.plan.clone(),
            row.rate_limit.to_string(),
            row.created_at.to_string(),
        ]
    });
    Ok(())
}

/// A name that every table and page can show.
fn name(text: &str) -> Result<String, String> {
    let text = text.trim();
    let fits = (1..=256).contains(&text.chars().count()) && !text.chars().any(char::is_control);
    if fits { Ok(text.to_owned()) } else { Err("a name has 1 to 256 characters, none of control".to_owned()) }
}
