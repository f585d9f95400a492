//! What may happen to an agent definition.

use super::{Archived, Existing, State, Status, Versioned};
use crate::agent_config::{AgentConfig, ConfigPatch};
use crate::content::ContentRef;
use crate::id::DefinitionId;
use crate::{Aggregate, Event, Facts, Refusal, Subject};

/// What an agent definition can be asked to do.
#[derive(Debug, Clone)]
pub enum Command {
    /// Begin, as version 1.
    Create(Details),
    /// Make the next version, whether or not it says anything new. Not once it is archived.
    Update(DetailsPatch),
    /// Be used for new agents no more. Asking twice changes nothing.
    Archive,
}

/// What a version of a definition says.
#[derive(Debug, Clone)]
pub struct Details {
    /// What people call it.
    pub name: String,
    /// How its agents are set up.
    pub config: AgentConfig,
    /// The caller's own key-value pairs.
    pub metadata: Option<ContentRef>,
}

/// What the next version says otherwise: what is `None` stays.
#[derive(Debug, Clone, Default)]
pub struct DetailsPatch {
    /// What people call it.
    pub name: Option<String>,
    /// How its agents are set up.
    pub config: ConfigPatch,
    /// The caller's own key-value pairs; `Some(None)` clears them.
    pub metadata: Option<Option<ContentRef>>,
}

impl Aggregate for State {
    type Command = Command;

    fn decide(&self, command: &Command, facts: &Facts) -> Result<Vec<Event>, Refusal> {
        let Subject::Definition(definition_id) = facts.subject else {
            return Err(Refusal::NotFound(facts.subject));
        };
        match (&self.0, command) {
            (None, Command::Create(details)) => {
                let Details { name, config, metadata } = details.clone();
                let version = 1;
                let made = Versioned { definition_id, version, name, config, metadata };
                Ok(vec![Event::DefinitionCreated(made)])
            }
            (Some(_), Command::Create(_)) => Err(Refusal::Existing(facts.subject)),
            (None, _) => Err(Refusal::NotFound(facts.subject)),
            (Some(definition), Command::Update(patch)) => definition.update(patch, definition_id),
            (Some(definition), Command::Archive) => Ok(definition.archive(definition_id)),
        }
    }

    fn evolve(&mut self, event: &Event) {
        self.fold(event);
    }
}

impl Existing {
    fn update(&self, patch: &DetailsPatch, definition_id: DefinitionId) -> Result<Vec<Event>, Refusal> {
        if self.status == Status::Archived {
            return Err(Refusal::Conflict(format!("{definition_id} is archived")));
        }
        let latest = &self.latest;
        Ok(vec![Event::DefinitionUpdated(Versioned {
            definition_id,
            version: latest.version + 1,
            name: patch.name.clone().unwrap_or_else(|| latest.name.clone()),
            config: latest.config.patched(&patch.config),
            metadata: patch.metadata.clone().unwrap_or_else(|| latest.metadata.clone()),
        })])
    }

    fn archive(&self, definition_id: DefinitionId) -> Vec<Event> {
        match self.status {
            Status::Active => vec![Event::DefinitionArchived(Archived { definition_id })],
            Status::Archived => vec![],
        }
    }
}
