//! The first organization of an empty database, so that a new server can be tried at once.
//!
//! Its keys are written to a file before they open anything, and open something only as that file says. So whenever
//! the process ends, the next start finds either no key, or a file whose keys it can finish.

use std::io::ErrorKind;
use std::path::Path;

use serde::{Deserialize, Serialize};
use theazo_domain::Event;
use theazo_domain::id::OrganizationId;
use theazo_domain::key::Role;
use theazo_domain::organization::{Created, Mode, Plan};

use super::{Error, Tools};
use crate::log::read::{self, Filter};
use crate::log::{Actor, Stored, Tenant, find_tenants};
use crate::operator::{self, NewOrganization};
use crate::{database, keys, private_file, random};

/// The name, in the data directory, of the file that holds the first keys.
pub const FILE_NAME: &str = "first-keys.json";

/// The name of the first organization.
const ORGANIZATION_NAME: &str = "default";

/// Two servers that start at once on one empty database make one organization: the key of an advisory lock.
const LOCK: i64 = 7_432_816_002;

/// An admin key for each mode of the first organization.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FirstKeys {
    /// Opens the live mode.
    pub live: keys::Secret,
    /// Opens the test mode.
    pub test: keys::Secret,
}

impl FirstKeys {
    fn generate() -> Self {
        Self { live: keys::generate(Mode::Live), test: keys::generate(Mode::Test) }
    }

    fn of(&self, mode: Mode) -> &str {
        match mode {
            Mode::Live => &self.live,
            Mode::Test => &self.test,
        }
    }

    /// The keys in the file, which are made and written where there is none.
    fn read_or_make(path: &Path) -> Result<Self, Error> {
        let file = |reason: String| Error::File { path: path.to_owned(), reason };
        match std::fs::read(path) {
            Ok(text) => {
                let found: Self = serde_json::from_slice(&text).map_err(|error| file(error.to_string()))?;
                let modes = (keys::is_well_formed(&found.live), keys::is_well_formed(&found.test));
                if modes != (Some(Mode::Live), Some(Mode::Test)) {
                    return Err(file("these are not API keys: delete the file to have new ones".to_owned()));
                }
                Ok(found)
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let made = Self::generate();
                let text = serde_json::to_vec(&made).expect("two texts are plain data");
                private_file::write(path, &text).map_err(|error| file(error.to_string()))?;
                Ok(made)
            }
            Err(error) => Err(file(error.to_string())),
        }
    }
}

/// Makes the first organization and its keys where the database holds none, or finishes what an earlier start began.
/// Gives the keys if it was this start that made them work.
pub(super) async fn ensure(tools: &mut Tools, path: &Path) -> Result<Option<FirstKeys>, Error> {
    tools.owner.execute("select pg_advisory_lock($1)", &[&LOCK]).await?;
    let outcome = ensure_alone(tools, path).await;
    // A connection that is gone has given its lock back.
    let _unlocked = tools.owner.execute("select pg_advisory_unlock($1)", &[&LOCK]).await;
    outcome
}

async fn ensure_alone(tools: &mut Tools, path: &Path) -> Result<Option<FirstKeys>, Error> {
    let Some(organization_id) = unfinished(tools).await? else { return Ok(None) };
    let first = NewOrganization {
        organization_id,
        name: ORGANIZATION_NAME.to_owned(),
        plan: Plan::Team,
        rate_limit: None,
    };
    let tenants = operator::create_organization(tools, Actor::System, &first).await?;
    let keys = FirstKeys::read_or_make(path)?;
    for tenant in tenants {
        let secret = keys.of(tenant.mode);
        if !is_known(tools, tenant, secret).await? {
            operator::create_key(tools, Actor::System, tenant, Role::Admin, secret).await?;
        }
    }
    Ok(Some(keys))
}

/// The first organization, where it is missing or not yet complete: a new id in an empty database, else the id of
/// the one organization there is, if nobody but an earlier start can have begun it.
async fn unfinished(tools: &Tools) -> Result<Option<OrganizationId>, Error> {
    let tenants = find_tenants(&tools.database, None).await?;
    let Some(first) = tenants.first() else {
        return Ok(Some(OrganizationId::from_ulid(random::ulid(tools.clock.now()))));
    };
    if tenants.iter().any(|tenant| tenant.organization_id != first.organization_id) {
        return Ok(None);
    }
    let mut complete = tenants.len() == 2;
    for tenant in &tenants {
        match newest(tools, tenant, "organization.created").await? {
            Some(event) if name(&event)? != ORGANIZATION_NAME => return Ok(None),
            Some(_) => complete &= newest(tools, tenant, "key.created").await?.is_some(),
            None => complete = false,
        }
    }
    Ok((!complete).then_some(first.organization_id))
}

/// Whether the tenant has a key of this secret, revoked or not.
async fn is_known(tools: &Tools, tenant: Tenant, secret: &str) -> Result<bool, Error> {
    let digest = keys::digest(&tools.keys.pepper, secret);
    let filter = Filter { kind: Some("key.created".to_owned()), ..Filter::default() };
    // An organization that is not complete has a key or two.
    let events = read::newest(tools.log.scope(tenant.id), &filter, None, i64::from(u8::MAX)).await?;
    Ok(events.iter().any(|event| event.data.contains(&digest)))
}

async fn newest(tools: &Tools, tenant: &Tenant, kind: &str) -> Result<Option<Stored>, Error> {
    let filter = Filter { kind: Some(kind.to_owned()), ..Filter::default() };
    Ok(read::newest(tools.log.scope(tenant.id), &filter, None, 1).await?.pop())
}

fn name(event: &Stored) -> Result<String, Error> {
    match Event::read(&event.kind, &event.data) {
        Ok(Event::OrganizationCreated(Created { name, .. })) => Ok(name),
        _ => Err(database::Error::Row(format!("the event at position {}", event.position)).into()),
    }
}
