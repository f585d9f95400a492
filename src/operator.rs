//! What is done for the operator of the server rather than for a caller of its API: organizations and their keys.
//!
//! It goes through the log like everything else; the registry of tenants alone is written by its owner.

use std::sync::Arc;

use rust_decimal::Decimal;
use theazo_domain::agent::{ModelRates, Tokens};
use theazo_domain::id::{AgentId, CallId, KeyId, OrganizationId, RequestId};
use theazo_domain::key::Role;
use theazo_domain::organization::{Mode, Plan};
use theazo_domain::rates::Card;
use theazo_domain::{Command, Refusal, agent, billing, key, organization};

use crate::boot::{Error, Tools};
use crate::log::{Accepted, Actor, Provenance, Submission, Tenant, create_tenant};
use crate::{cards, keys, random, read};

/// An organization that is to begin.
#[derive(Debug, Clone)]
pub struct NewOrganization {
    /// Its id in both modes.
    pub organization_id: OrganizationId,
    /// Its name.
    pub name: String,
    /// Its plan.
    pub plan: Plan,
    /// Requests a minute for each key, where it differs from the plan's.
    pub rate_limit: Option<u32>,
}

/// Begins an organization in both modes, with the rate card that the program comes with in its logs: another program, which
/// may come with another, changes no price. Begun in part, it is finished; begun already, nothing changes.
///
/// # Errors
/// [`Error`] when the database is away or the owner's login may not do it.
pub async fn create_organization(
    tools: &mut Tools,
    actor: Actor,
    new: &NewOrganization,
) -> Result<[Tenant; 2], Error> {
    let live = create_in(tools, actor, new, Mode::Live).await?;
    let test = create_in(tools, actor, new, Mode::Test).await?;
    for tenant in [live, test] {
        let in_force = read::rates::in_force(tools.log.scope(tenant.id), tools.clock.now()).await?;
        if in_force.is_none() {
            import_rates(tools, actor, tenant, Card::clone(Card::built_in())).await?;
        }
    }
    Ok([live, test])
}

/// Begins an organization in one mode, as [`create_organization`] does in both.
///
/// # Errors
/// As there.
pub async fn create_in(
    tools: &mut Tools,
    actor: Actor,
    new: &NewOrganization,
    mode: Mode,
) -> Result<Tenant, Error> {
    let tenant = create_tenant(&mut tools.owner, new.organization_id, mode).await?;
    let create = organization::Command::Create {
        name: new.name.clone(),
        mode,
        plan: new.plan,
        rate_limit: new.rate_limit,
    };
    match execute(tools, actor, tenant, Command::Organization(new.organization_id, create)).await {
        Ok(_) | Err(Error::Refused(Refusal::Existing(_))) => Ok(tenant),
        Err(error) => Err(error),
    }
}

/// Makes an API key of this secret; the secret itself is stored nowhere.
///
/// # Errors
/// [`Error`] when the database is away.
pub async fn create_key(
    tools: &Tools,
    actor: Actor,
    tenant: Tenant,
    role: Role,
    secret: &str,
) -> Result<KeyId, Error> {
    let key_id = KeyId::from_ulid(random::ulid(tools.clock.now()));
    let create = key::Command::Create {
        role,
        digest: keys::digest(&tools.keys.pepper, secret),
        last_four: keys::last_four(secret).to_owned(),
    };
    execute(tools, actor, tenant, Command::Key(key_id, create)).await?;
    Ok(key_id)
}

/// Revokes an API key, for good. Says whether it was active.
///
/// # Errors
/// [`Error::Refused`] when this tenant has no such key; [`Error`] when the database is away.
pub async fn revoke_key(tools: &Tools, actor: Actor, tenant: Tenant, key_id: KeyId) -> Result<bool, Error> {
    let accepted = execute(tools, actor, tenant, Command::Key(key_id, key::Command::Revoke)).await?;
    Ok(!accepted.events.is_empty())
}

/// Imports a rate card.
///
/// # Errors
/// [`Error::Refused`] when the rules say no; [`Error`] when the database is away.
pub async fn import_rates(
    tools: &Tools,
    actor: Actor,
    tenant: Tenant,
    card: Card,
) -> Result<Accepted, Error> {
    let sha256 = cards::digest(&card);
    let command = billing::Command::ImportRates { card: Box::new(card), sha256 };
    execute(tools, actor, tenant, Command::Billing(command)).await
}

/// Charges what an agent has used of a model that had no price: the sum of it.
///
/// # Errors
/// As [`import_rates`].
pub async fn rate_usage(
    tools: &Tools,
    tenant: Tenant,
    agent_id: AgentId,
    (model, rates): (&str, &ModelRates),
) -> Result<Decimal, Error> {
    let mut sum = Decimal::ZERO;
    loop {
        let command = agent::Command::RateUsage { model: model.to_owned(), rates: rates.clone() };
        let accepted = execute(tools, Actor::Operator, tenant, Command::Agent(agent_id, command)).await?;
        if accepted.events.is_empty() {
            return Ok(sum);
        }
        sum += booked(&accepted);
    }
}

/// Settles a call whose usage was unconfirmed by what its vendor says: what is charged for it.
///
/// # Errors
/// As [`import_rates`].
pub async fn reconcile_call(
    tools: &Tools,
    tenant: Tenant,
    (agent_id, call_id): (AgentId, CallId),
    tokens: Option<Tokens>,
) -> Result<Decimal, Error> {
    let command = agent::Command::ReconcileCall { call_id, tokens };
    Ok(booked(&execute(tools, Actor::Operator, tenant, Command::Agent(agent_id, command)).await?))
}

fn booked(accepted: &Accepted) -> Decimal {
    accepted
        .events
        .iter()
        .filter_map(|recorded| recorded.event.booked())
        .map(|made| made.booking.cost())
        .sum()
}

async fn execute(tools: &Tools, actor: Actor, tenant: Tenant, command: Command) -> Result<Accepted, Error> {
    let request_id = RequestId::from_ulid(random::ulid(tools.clock.now()));
    let provenance = Provenance { actor, request_id, cause: None };
    let submission = Submission { command, provenance, contents: vec![], sealed: vec![] };
    Ok(Arc::clone(&tools.log).execute(tenant, submission).await??)
}
