//! How an agent is set up: what a definition describes once, and what each agent may set for itself.

use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};

use crate::content::ContentRef;
use crate::tool::Tool;

/// Which model an agent thinks with, and how it is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ModelConfig {
    /// The vendor's own id of the model.
    pub id: String,
    /// The most tokens that one answer may have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_tokens: Option<i64>,
    /// How freely it answers, from 0 to 2: exactly the number that was given.
    #[serde(default, with = "rust_decimal::serde::str_option", skip_serializing_if = "Option::is_none")]
    pub temperature: Option<Decimal>,
}

/// Who can run an agent's sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProviderName {
    /// The server's own machine.
    Local,
    /// E2B's cloud.
    E2b,
    /// Fly's machines.
    Fly,
    /// A Docker engine.
    Docker,
    /// A service of the organization's own that speaks the webhook protocol.
    Webhook,
}

impl ProviderName {
    /// Every provider there is.
    pub const ALL: [Self; 5] = [Self::Local, Self::E2b, Self::Fly, Self::Docker, Self::Webhook];

    /// The provider's name, as it is written everywhere.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::E2b => "e2b",
            Self::Fly => "fly",
            Self::Docker => "docker",
            Self::Webhook => "webhook",
        }
    }
}

/// Where an agent's sandbox runs, and for how long a run may take.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ComputeConfig {
    /// Who runs the sandbox; the organization's default where none is named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider: Option<ProviderName>,
    /// The most seconds that a run may take.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<i64>,
}

/// How an agent is set up. What is left out is for whoever is asked next: an agent's definition, then the defaults.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AgentConfig {
    /// What the agent is told before every task, beside the log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instructions: Option<ContentRef>,
    /// The built-in tools that it has, each once. An empty list is a choice too: no tools.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tools: Option<Vec<Tool>>,
    /// The model that it thinks with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<ModelConfig>,
    /// Where its sandbox runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compute: Option<ComputeConfig>,
}

/// A change of a configuration: for each part, `None` leaves it, `Some(None)` clears it, `Some(Some(_))` sets it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ConfigPatch {
    /// What the agent is told before every task.
    pub instructions: Option<Option<ContentRef>>,
    /// The built-in tools that it has.
    pub tools: Option<Option<Vec<Tool>>>,
    /// The model that it thinks with.
    pub model: Option<Option<ModelConfig>>,
    /// Where its sandbox runs.
    pub compute: Option<Option<ComputeConfig>>,
}

impl AgentConfig {
    /// This configuration with an agent's own one over it. Each of the four parts is taken whole from the one or the
    /// other: a model of the agent's own does not get the token limit that was meant for the definition's.
    #[must_use]
    pub fn overridden_by(&self, own: &Self) -> Self {
        Self {
            instructions: own.instructions.clone().or_else(|| self.instructions.clone()),
            tools: own.tools.clone().or_else(|| self.tools.clone()),
            model: own.model.clone().or_else(|| self.model.clone()),
            compute: own.compute.clone().or_else(|| self.compute.clone()),
        }
    }

    /// This configuration with a change made.
    #[must_use]
    pub fn patched(&self, patch: &ConfigPatch) -> Self {
        Self {
            instructions: patch.instructions.clone().unwrap_or_else(|| self.instructions.clone()),
            tools: patch.tools.clone().unwrap_or_else(|| self.tools.clone()),
            model: patch.model.clone().unwrap_or_else(|| self.model.clone()),
            compute: patch.compute.clone().unwrap_or_else(|| self.compute.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::ContentId;

    fn instructions(number: u128) -> Option<ContentRef> {
        let content_id = ContentId::from_ulid(ulid::Ulid(number));
        Some(ContentRef { content_id, sha256: "ab".repeat(32) })
    }

    fn model(id: &str, max_tokens: Option<i64>) -> Option<ModelConfig> {
        Some(ModelConfig { id: id.into(), max_tokens, temperature: None })
    }

    fn full() -> AgentConfig {
        let compute = ComputeConfig { provider: Some(ProviderName::E2b), timeout: Some(60) };
        AgentConfig {
            instructions: instructions(1),
            tools: Some(vec![Tool::WebSearch]),
            model: model("a", Some(10)),
            compute: Some(compute),
        }
    }

    #[test]
    fn what_an_agent_sets_for_itself_is_taken_whole_and_the_rest_from_its_definition() {
        let own = AgentConfig { tools: Some(vec![]), model: model("b", None), ..AgentConfig::default() };
        let expected = AgentConfig { tools: Some(vec![]), model: model("b", None), ..full() };
        assert_eq!(full().overridden_by(&own), expected);
        assert_eq!(full().overridden_by(&AgentConfig::default()), full());
        assert_eq!(AgentConfig::default().overridden_by(&full()), full());
    }

    #[test]
    fn a_change_sets_clears_and_leaves() {
        let patch = ConfigPatch {
            instructions: Some(None),
            tools: Some(Some(vec![Tool::RunCode])),
            ..ConfigPatch::default()
        };
        let expected = AgentConfig { instructions: None, tools: Some(vec![Tool::RunCode]), ..full() };
        assert_eq!(full().patched(&patch), expected);
        assert_eq!(full().patched(&ConfigPatch::default()), full());
    }

    #[test]
    fn a_provider_has_one_name_everywhere() {
        for provider in ProviderName::ALL {
            assert_eq!(serde_json::to_value(provider).unwrap(), provider.as_str());
        }
    }

    #[test]
    fn a_temperature_stays_the_number_that_it_was() {
        let written = r#"{"id":"m","temperature":"0.70"}"#;
        let read: ModelConfig = serde_json::from_str(written).unwrap();
        assert_eq!(read.temperature, Some(Decimal::new(70, 2)));
        assert_eq!(serde_json::to_string(&read).unwrap(), written);
    }
}
