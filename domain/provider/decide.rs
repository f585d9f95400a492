//! What may happen to the providers of an organization.

use super::{Configured, DefaultChanged, Finding, ProviderName, Removed, State, Verified};
use crate::id::ValueId;
use crate::{Aggregate, Event, Facts, Refusal};

/// What can be asked of the providers of an organization.
#[derive(Debug, Clone)]
pub enum Command {
    /// Configure one, over what it was.
    Configure(Configuration),
    /// Say of `local`, which needs no credentials, whether it is the default.
    ConfigureLocal {
        /// As in [`Configuration::is_default`].
        is_default: Option<bool>,
    },
    /// Note what one said when it was asked with these credentials. Of no consequence once they were replaced.
    Verify {
        /// Which provider.
        provider: ProviderName,
        /// The version of the credentials that it was asked with.
        credentials: ValueId,
        /// What it came to.
        finding: Finding,
    },
    /// Say whether one could be removed; nothing happens.
    AskRemoval(ProviderName),
    /// Remove one, with its credentials. Only one that no active agent uses can be.
    Remove(ProviderName),
}

/// How a provider is to be configured.
#[derive(Debug, Clone)]
pub struct Configuration {
    /// Which provider; not `local`.
    pub provider: ProviderName,
    /// The version under which its credentials are sealed: new, drawn for this command.
    pub credentials: ValueId,
    /// Whether it is the default from now on: `local` is where the default says that it is not. Left out, the default
    /// stays what it was.
    pub is_default: Option<bool>,
    /// What it said when it was asked with these credentials.
    pub finding: Finding,
}

impl Aggregate for State {
    type Command = Command;

    fn decide(&self, command: &Command, _: &Facts) -> Result<Vec<Event>, Refusal> {
        match command {
            Command::Configure(configuration) => self.configure(configuration),
            Command::ConfigureLocal { is_default } => {
                Ok(self.change_default(ProviderName::Local, *is_default).into_iter().collect())
            }
            Command::Verify { provider, credentials, finding } => {
                if self.credentials(*provider)? != *credentials {
                    return Ok(vec![]);
                }
                let (provider, credentials, finding) = (*provider, *credentials, finding.clone());
                Ok(vec![Event::ProviderVerified(Verified { provider, credentials, finding })])
            }
            Command::AskRemoval(provider) => self.remove(*provider).map(|_| vec![]),
            Command::Remove(provider) => self.remove(*provider),
        }
    }

    fn evolve(&mut self, event: &Event) {
        self.fold(event);
    }
}

impl State {
    fn configure(&self, configuration: &Configuration) -> Result<Vec<Event>, Refusal> {
        let Configuration { provider, credentials, is_default, finding } = configuration;
        let (provider, credentials, finding) = (*provider, *credentials, finding.clone());
        if provider == ProviderName::Local {
            return Err(always_there());
        }
        let replaces = self.configured.get(&provider).copied();
        let configured = Configured { provider, credentials, replaces };
        let verified = Verified { provider, credentials, finding };
        let mut events = vec![Event::ProviderConfigured(configured), Event::ProviderVerified(verified)];
        events.extend(self.change_default(provider, *is_default));
        Ok(events)
    }

    fn remove(&self, provider: ProviderName) -> Result<Vec<Event>, Refusal> {
        let credentials = self.credentials(provider)?;
        let agents = self.agents_of(provider);
        if !agents.is_empty() {
            let what = format!("the provider {}", provider.as_str());
            return Err(Refusal::InUse { what, agents });
        }
        let falls_to_local = self.change_default(provider, Some(false));
        let removed = Event::ProviderRemoved(Removed { provider, credentials });
        Ok(falls_to_local.into_iter().chain([removed]).collect())
    }

    /// The present version of a provider's credentials.
    fn credentials(&self, provider: ProviderName) -> Result<ValueId, Refusal> {
        if provider == ProviderName::Local {
            return Err(always_there());
        }
        let absent = || Refusal::Absent(format!("the provider {} is not configured", provider.as_str()));
        self.configured.get(&provider).copied().ok_or_else(absent)
    }

    fn change_default(&self, provider: ProviderName, is_default: Option<bool>) -> Option<Event> {
        let from = self.default_provider();
        let to = match is_default {
            Some(true) => provider,
            Some(false) if provider == from => ProviderName::Local,
            _ => from,
        };
        (to != from).then_some(Event::ProviderDefaultChanged(DefaultChanged { from, to }))
    }
}

fn always_there() -> Refusal {
    Refusal::Conflict("the provider local is always there, without credentials".to_owned())
}
