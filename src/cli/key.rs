//! `theazo key`

use serde::Serialize;
use serde_json::json;
use theazo_domain::Refusal;
use theazo_domain::id::{KeyId, OrganizationId};
use theazo_domain::key::Role;
use theazo_domain::organization::Mode;
use theazo_domain::time::Timestamp;

use super::output::Output;
use super::tenants::{tenant, tenants};
use super::{Error, ModeArgument, Outcome};
use crate::boot::{self, Tools};
use crate::database::millis;
use crate::log::{Actor, Tenant};
use crate::{keys, operator};

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Make an API key; its secret is shown this once
    Create {
        /// The organization
        #[arg(long, value_name = "ID")]
        org: OrganizationId,
        /// Which of its two modes the key opens
        #[arg(long)]
        mode: ModeArgument,
        /// What the key may do
        #[arg(long)]
        role: RoleArgument,
    },
    /// List the API keys of an organization, without their secrets
    List {
        /// The organization
        #[arg(long, value_name = "ID")]
        org: OrganizationId,
    },
    /// Revoke an API key, for good
    Revoke {
        /// The key's id (not its secret)
        key_id: KeyId,
        /// The organization
        #[arg(long, value_name = "ID")]
        org: OrganizationId,
    },
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
#[value(rename_all = "snake_case")]
pub(super) enum RoleArgument {
    Admin,
    Developer,
    Finance,
    #[value(alias = "read-only")]
    ReadOnly,
}

impl From<RoleArgument> for Role {
    fn from(role: RoleArgument) -> Self {
        match role {
            RoleArgument::Admin => Self::Admin,
            RoleArgument::Developer => Self::Developer,
            RoleArgument::Finance => Self::Finance,
            RoleArgument::ReadOnly => Self::ReadOnly,
        }
    }
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    id: String,
    mode: Mode,
    role: String,
    last_four: String,
    created_at: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    revoked_at: Option<Timestamp>,
}

pub(super) async fn run(tools: &Tools, command: &Command, output: Output) -> Result<Outcome, Error> {
    match command {
        Command::Create { org, mode, role } => {
            create(tools, tenant(tools, *org, *mode).await?, *role, output).await?
        }
        Command::List { org } => list(tools, *org, output).await?,
        Command::Revoke { key_id, org } => revoke(tools, *key_id, *org, output).await?,
    }
    Ok(Outcome::Fine)
}

async fn create(tools: &Tools, tenant: Tenant, role: RoleArgument, output: Output) -> Result<(), Error> {
    let secret = keys::generate(tenant.mode);
    let key_id = operator::create_key(tools, Actor::Operator, tenant, role.into(), &secret).await?;
    let answer = json!({ "id": key_id, "key": *secret });
    output.object(&answer, || format!("{key_id}\n{}\nThe secret is shown this once.", *secret));
    Ok(())
}

async fn list(tools: &Tools, organization: OrganizationId, output: Output) -> Result<(), Error> {
    let mut rows = Vec::new();
    for tenant in tenants(tools, Some(organization), None).await? {
        tools.log.open(tenant).await?;
        let sql = "select key_id, role, last_four, created_at, revoked_at from api_keys
                   where tenant_id = $1 and build = live_build($1, 'api_keys') order by position";
        rows.extend(tools.log.scope(tenant.id).query(sql, &[]).await?.into_iter().map(|row| Row {
            id: row.get(0),
            mode: tenant.mode,
            role: row.get(1),
            last_four: row.get(2),
            created_at: millis(row.get(3)),
            revoked_at: row.get::<_, Option<_>>(4).map(millis),
        }));
    }
    output.list(&rows, ["ID", "MODE", "ROLE", "KEY", "CREATED", "REVOKED"], |row| {
        [
            row.id.clone(),
            row.mode.as_str().to_owned(),
            row.role.clone(),
            format!("th_{}_…{}", row.mode.as_str(), row.last_four),
            row.created_at.to_string(),
            row.revoked_at.map(|at| at.to_string()).unwrap_or_default(),
        ]
    });
    Ok(())
}

async fn revoke(
    tools: &Tools,
    key_id: KeyId,
    organization: OrganizationId,
    output: Output,
) -> Result<(), Error> {
    // A key's id does not tell its mode.
    for tenant in tenants(tools, Some(organization), None).await? {
        let active = match operator::revoke_key(tools, Actor::Operator, tenant, key_id).await {
            Err(boot::Error::Refused(Refusal::NotFound(_))) => continue,
            other => other?,
        };
        output.object(&json!({ "id": key_id, "revoked": true }), || {
            format!("{key_id} {}", if active { "is revoked" } else { "was revoked before" })
        });
        return Ok(());
    }
    Err(Error::Usage(format!("the organization {organization} has no key {key_id}")))
}
