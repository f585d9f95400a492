//! What a crash has left behind: sandboxes that run or lie somewhere, paid for, and that no agent has.
//!
//! Each provider is asked now and then what it holds for us. A sandbox goes when the log knows the agent that it was made
//! for and knows it to have ended; one whose agent lives is never touched. One that no log of this deployment knows is somebody
//! else's, and is left alone: an agent is in the log before its sandbox is made. A sandbox has to be found so by two looks
//! in a row, with the whole interval between them, so that what is being made, woken or removed at the moment is left to
//! whoever does it.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use theazo_domain::agent_config::ProviderName;
use theazo_domain::id::AgentId;
use theazo_domain::organization::Mode;
use tokio::sync::Mutex;

use super::vendors;
use crate::app::App;
use crate::config;
use crate::log::{Tenant, TenantId, find_tenants};
use crate::providers::compute::{Compute, Error, Handle};
use crate::{database, read};

/// A sandbox that no agent has.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Leftover {
    /// By whose credentials it is reached; of nobody's on this machine.
    tenant: Option<TenantId>,
    provider: ProviderName,
    agent_id: AgentId,
    handle: String,
}

/// Finds and releases what crashes have left behind.
pub struct Sweep {
    app: Arc<App>,
    /// What the last look has found.
    found: Mutex<HashSet<Leftover>>,
}

/// A provider that may hold something, and the way to it.
struct Place {
    tenant: Option<TenantId>,
    provider: ProviderName,
    compute: Arc<dyn Compute>,
}

impl Sweep {
    /// A sweep that has found nothing yet.
    #[must_use]
    pub fn new(app: Arc<App>) -> Self {
        Self { app, found: Mutex::default() }
    }

    /// Looks everywhere once, and releases what the last look has found as well. Gives how many sandboxes that were. A
    /// provider that does not answer is looked at again the next time.
    ///
    /// # Errors
    /// [`database::Error`] when the database is away.
    pub async fn look(&self) -> Result<usize, database::Error> {
        let tenants = find_tenants(&self.app.database, None).await?;
        let mut before = self.found.lock().await;
        let (mut found, mut released) = (HashSet::new(), 0);
        for place in self.places(&tenants).await? {
            // The list first: whatever is in it was made for an agent that is in the log by now.
            let held = match place.compute.list().await {
                Ok(held) => held,
                Err(error) => {
                    let error = place.without_words(error);
                    tracing::warn!(%error, provider = place.provider.as_str(), "sandboxes could not be listed");
                    continue;
                }
            };
            let ended = self.ended(&tenants, &held).await?;
            for (agent_id, Handle(handle)) in held {
                if !ended.get(&agent_id).copied().unwrap_or(false) {
                    continue;
                }
                let (tenant, provider) = (place.tenant, place.provider);
                let leftover = Leftover { tenant, provider, agent_id, handle };
                if before.contains(&leftover) && release(&place, &leftover).await {
                    released += 1;
                } else {
                    found.insert(leftover);
                }
            }
        }
        *before = found;
        Ok(released)
    }

    /// This machine, and every provider that an organization has configured.
    async fn places(&self, tenants: &[Tenant]) -> Result<Vec<Place>, database::Error> {
        let local = Arc::clone(&self.app.local);
        let mut places = vec![Place { tenant: None, provider: ProviderName::Local, compute: local }];
        for tenant in tenants.iter().filter(|tenant| tenant.mode == Mode::Live) {
            let scope = self.app.log.scope(tenant.id);
            for configured in read::provider::list(scope, None, config::LARGEST_PAGE).await? {
                if configured.provider == ProviderName::Local {
                    continue;
                }
                match vendors::compute(&self.app, *tenant, configured.provider).await {
                    Ok(compute) => {
                        places.push(Place {
                            tenant: Some(tenant.id),
                            provider: configured.provider,
                            compute,
                        });
                    }
                    Err(error) => {
                        tracing::warn!(%error, provider = configured.provider.as_str(), "a provider is not looked at");
                    }
                }
            }
        }
        Ok(places)
    }

    /// Whether the agents have ended that sandboxes were made for, whichever tenant has them.
    async fn ended(
        &self,
        tenants: &[Tenant],
        held: &[(AgentId, Handle)],
    ) -> Result<HashMap<AgentId, bool>, database::Error> {
        let mut unknown: HashSet<AgentId> = held.iter().map(|(agent_id, _)| *agent_id).collect();
        let mut ended = HashMap::new();
        for tenant in tenants {
            if unknown.is_empty() {
                break;
            }
            let ids: Vec<String> = unknown.iter().map(AgentId::to_string).collect();
            for (agent_id, has_ended) in read::agent::ended(self.app.log.scope(tenant.id), &ids).await? {
                unknown.remove(&agent_id);
                ended.insert(agent_id, has_ended);
            }
        }
        Ok(ended)
    }
}

impl Place {
    /// What went wrong. The words of a customer's provider may repeat secrets of agents, which nobody knows here.
    fn without_words(&self, error: Error) -> Error {
        if self.tenant.is_some() {
            error.reworded(|_| "in words that are not shown".to_owned())
        } else {
            error
        }
    }
}

async fn release(place: &Place, leftover: &Leftover) -> bool {
    let (agent_id, provider) = (leftover.agent_id, leftover.provider.as_str());
    match place.compute.terminate(&Handle(leftover.handle.clone())).await {
        Ok(()) => {
            tracing::info!(%agent_id, provider, "a sandbox that was left behind is released");
            true
        }
        Err(error) => {
            let error = place.without_words(error);
            tracing::warn!(%error, %agent_id, provider, "a sandbox that was left behind cannot be released");
            false
        }
    }
}
