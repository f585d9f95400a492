//! Which logs a command is about, and whose a row of its answer is.

use serde::Serialize;
use theazo_domain::id::OrganizationId;
use theazo_domain::organization::Mode;

use super::{Error, ModeArgument};
use crate::boot::Tools;
use crate::log::{Tenant, find_tenants};

/// One organization or all, in one mode or in both.
#[derive(Debug, clap::Args)]
pub(super) struct Selection {
    /// The organization [default: all]
    #[arg(long, value_name = "ID")]
    org: Option<OrganizationId>,
    /// Which of its two modes [default: both]
    #[arg(long)]
    mode: Option<ModeArgument>,
}

impl Selection {
    /// The tenants that are meant.
    pub(super) async fn tenants(&self, tools: &Tools) -> Result<Vec<Tenant>, Error> {
        tenants(tools, self.org, self.mode).await
    }
}

/// The tenants of one organization or of all, in one mode or in both.
pub(super) async fn tenants(
    tools: &Tools,
    organization: Option<OrganizationId>,
    mode: Option<ModeArgument>,
) -> Result<Vec<Tenant>, Error> {
    let mut tenants = find_tenants(&tools.database, organization).await?;
    if let (true, Some(organization)) = (tenants.is_empty(), organization) {
        return Err(Error::Usage(format!("there is no organization {organization}")));
    }
    tenants.retain(|tenant| mode.is_none_or(|mode| tenant.mode == mode.into()));
    Ok(tenants)
}

/// The one tenant of an organization in a mode.
pub(super) async fn tenant(
    tools: &Tools,
    organization: OrganizationId,
    mode: ModeArgument,
) -> Result<Tenant, Error> {
    let found = tenants(tools, Some(organization), Some(mode)).await?;
    found
        .into_iter()
        .next()
        .ok_or_else(|| Error::Usage(format!("the organization {organization} is not complete")))
}

/// Something, and whose it is.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Of<T> {
    organization_id: OrganizationId,
    mode: Mode,
    #[serde(flatten)]
    pub(super) what: T,
}

impl<T> Of<T> {
    pub(super) fn new(tenant: Tenant, what: T) -> Self {
        Self { organization_id: tenant.organization_id, mode: tenant.mode, what }
    }

    /// The first two cells of its row.
    pub(super) fn whose(&self) -> [String; 2] {
        [self.organization_id.to_string(), self.mode.as_str().to_owned()]
    }
}
