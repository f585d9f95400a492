//! How an agent is set up, on the wire: the fields that definitions and agents share.

use std::borrow::Cow;

use rust_decimal::Decimal;
use serde::de::Error as _;
use serde::ser::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;
use serde_json::value::RawValue;
use theazo_domain::agent_config::{ComputeConfig, ModelConfig, ProviderName};
use theazo_domain::tool::Tool;
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{ArrayBuilder, Object, ObjectBuilder, Schema, Type};
use utoipa::{PartialSchema, ToSchema};

use crate::config;
use crate::http::body::{TOO_MANY_DIGITS, optional_whole};
use crate::http::error::Field;

/// Names of built-in tools, each once.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Tools(pub(crate) Vec<Tool>);

/// Which model an agent thinks with, and how it is asked.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = ModelConfig)]
pub(crate) struct Model {
    /// The vendor's own id of the model.
    #[schema(min_length = 1, max_length = 256, examples("claude-sonnet-4-20250514"))]
    id: String,
    /// The most tokens that one answer may have.
    #[serde(default, deserialize_with = "optional_whole", skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 1_000_000)]
    max_tokens: Option<i64>,
    /// How freely it answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    temperature: Option<Temperature>,
}

/// Where an agent's sandbox runs, and for how long a run may take.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = ComputeConfig)]
pub(crate) struct Compute {
    /// Who runs the sandbox; the organization's default where none is named.
    #[serde(skip_serializing_if = "Option::is_none")]
    provider: Option<Provider>,
    /// The most seconds that a run may take.
    #[serde(default, deserialize_with = "optional_whole", skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 86_400)]
    timeout: Option<i64>,
}

/// Who can run a sandbox.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Provider(ProviderName);

/// A number from 0 to 2, exactly as it was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Temperature(Decimal);

/// A rule that schemas cannot say: how large the instructions may be, in UTF-8.
pub(crate) fn check_instructions(value: &Value, fields: &mut Vec<Field>) {
    let size = value.get("instructions").and_then(Value::as_str).map_or(0, str::len);
    if size > config::INSTRUCTIONS_BYTES {
        let message = format!("must not be larger than {} bytes", config::INSTRUCTIONS_BYTES);
        fields.push(Field::new("instructions", "maxBytes", message));
    }
}

impl From<Model> for ModelConfig {
    fn from(model: Model) -> Self {
        let temperature = model.temperature.map(|Temperature(exact)| exact);
        Self { id: model.id, max_tokens: model.max_tokens, temperature }
    }
}

impl From<ModelConfig> for Model {
    fn from(model: ModelConfig) -> Self {
        let temperature = model.temperature.map(Temperature);
        Self { id: model.id, max_tokens: model.max_tokens, temperature }
    }
}

impl From<Compute> for ComputeConfig {
    fn from(compute: Compute) -> Self {
        Self { provider: compute.provider.map(|Provider(name)| name), timeout: compute.timeout }
    }
}

impl From<ComputeConfig> for Compute {
    fn from(compute: ComputeConfig) -> Self {
        Self { provider: compute.provider.map(Provider), timeout: compute.timeout }
    }
}

impl<'de> Deserialize<'de> for Temperature {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let written = Box::<RawValue>::deserialize(deserializer)?;
        let exact = Decimal::from_str_exact(written.get());
        let exact = exact.or_else(|_| Decimal::from_scientific(written.get()));
        exact.map(|exact| Self(exact.abs())).map_err(|_| D::Error::custom(TOO_MANY_DIGITS))
    }
}

impl Serialize for Temperature {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self(exact) = self;
        RawValue::from_string(exact.to_string()).map_err(S::Error::custom)?.serialize(serializer)
    }
}

impl PartialSchema for Temperature {
    fn schema() -> RefOr<Schema> {
        let number = ObjectBuilder::new().schema_type(Type::Number).minimum(Some(0)).maximum(Some(2));
        number.description(Some("Kept exactly as it was written, with at most 28 digits.")).into()
    }
}

impl ToSchema for Temperature {
    fn name() -> Cow<'static, str> {
        "Temperature".into()
    }
}

impl PartialSchema for Tools {
    fn schema() -> RefOr<Schema> {
        let tools = ArrayBuilder::new().items(words(Tool::ALL.map(Tool::as_str))).unique_items(true);
        tools.description(Some("Names of built-in tools, each once.")).into()
    }
}

impl ToSchema for Tools {
    fn name() -> Cow<'static, str> {
        "Tools".into()
    }
}

impl PartialSchema for Provider {
    fn schema() -> RefOr<Schema> {
        Schema::Object(words(ProviderName::ALL.map(ProviderName::as_str))).into()
    }
}

impl ToSchema for Provider {
    fn name() -> Cow<'static, str> {
        "ProviderName".into()
    }
}

/// The schema of one of these words.
fn words<const N: usize>(words: [&'static str; N]) -> Object {
    ObjectBuilder::new().schema_type(Type::String).enum_values(Some(words)).build()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_temperature_is_shown_as_it_was_written() {
        let shown = |text: &str| {
            let read: Temperature = serde_json::from_str(text).ok()?;
            Some(serde_json::to_string(&read).unwrap())
        };
        for text in ["0", "0.7", "0.70", "1.0", "2", "0.1234567890123456789012345678"] {
            assert_eq!(shown(text).as_deref(), Some(text));
        }
        assert_eq!(shown("7e-1").as_deref(), Some("0.7"));
        assert_eq!(shown("-0.0").as_deref(), Some("0.0"));
        assert_eq!(shown("0.12345678901234567890123456789"), None);
        assert_eq!(shown("\"1\""), None);
    }

    #[test]
    fn the_bounds_in_the_schemas_are_the_named_limits() {
        let maximum = |schema: RefOr<Schema>, field: &str| {
            serde_json::to_value(schema).unwrap()["properties"][field]["maximum"].as_i64()
        };
        assert_eq!(maximum(Model::schema(), "maxTokens"), Some(config::MODEL_TOKENS));
        assert_eq!(maximum(Compute::schema(), "timeout"), Some(config::RUN_SECONDS));
    }
}
