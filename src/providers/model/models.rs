//! Which vendor a model is of, and how it is reached.

use std::borrow::Cow;

use sha2::{Digest, Sha256};
use url::Url;
use zeroize::Zeroizing;

use super::exchange::Wire;
use super::{Anthropic, Mock, Model, OpenAi};
use crate::config;
use crate::providers::guard::check_form;

/// Whose protocol a model is asked by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Vendor {
    /// Anthropic's Messages API.
    Anthropic,
    /// OpenAI's Chat Completions, at OpenAI or at any server that speaks it.
    OpenAi,
}

impl Vendor {
    /// The vendor of a model: `claude-…` is Anthropic's, and any other id is asked by OpenAI's protocol at its
    /// configured base URL.
    #[must_use]
    pub fn of(model: &str) -> Self {
        if model.starts_with("claude-") { Self::Anthropic } else { Self::OpenAi }
    }

    /// The environment variable of the server's own key; a customer's secret of this name is that customer's own.
    #[must_use]
    pub const fn key_name(self) -> &'static str {
        match self {
            Self::Anthropic => "ANTHROPIC_API_KEY",
            Self::OpenAi => "OPENAI_API_KEY",
        }
    }

    /// The environment variable of the base URL, as the vendor's own clients have it.
    #[must_use]
    pub const fn base_url_name(self) -> &'static str {
        match self {
            Self::Anthropic => "ANTHROPIC_BASE_URL",
            Self::OpenAi => "OPENAI_BASE_URL",
        }
    }

    const fn default_base_url(self) -> &'static str {
        match self {
            Self::Anthropic => "https://api.anthropic.com",
            Self::OpenAi => "https://api.openai.com/v1",
        }
    }
}

/// What is configured of models.
#[derive(Debug, Default)]
pub struct Settings {
    /// Anthropic's base URL, without the `/v1`.
    pub anthropic_base_url: Option<String>,
    /// The server's own key there.
    pub anthropic_api_key: Option<Zeroizing<String>>,
    /// The base URL of OpenAI or of a server that speaks its protocol, with the `/v1`.
    pub openai_base_url: Option<String>,
    /// The server's own key there.
    pub openai_api_key: Option<Zeroizing<String>>,
    /// The model of agents that name none.
    pub default_model: Option<String>,
}

impl Settings {
    /// What the environment says; an empty variable is as good as none.
    #[must_use]
    pub fn from_env() -> Self {
        let variable = |name| std::env::var(name).ok().filter(|value| !value.trim().is_empty());
        let key =
            |vendor: Vendor| variable(vendor.key_name()).map(|key| Zeroizing::new(key.trim().to_owned()));
        Self {
            anthropic_base_url: variable(Vendor::Anthropic.base_url_name()),
            anthropic_api_key: key(Vendor::Anthropic),
            openai_base_url: variable(Vendor::OpenAi.base_url_name()),
            openai_api_key: key(Vendor::OpenAi),
            default_model: variable("THEAZO_DEFAULT_MODEL"),
        }
    }
}

/// Settings that cannot work.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{name} is no address of an HTTP server: {reason}")]
pub struct SettingsError {
    name: &'static str,
    reason: String,
}

/// The models that this server can ask.
#[derive(Debug)]
pub struct Models {
    anthropic: Anthropic,
    openai: OpenAi,
    mock: Mock,
    anthropic_api_key: Option<Zeroizing<String>>,
    openai_api_key: Option<Zeroizing<String>>,
    /// OpenAI's protocol is spoken with a server that the operator has named.
    own_openai: bool,
    default_model: String,
}

impl Models {
    /// With the way out that calls take.
    ///
    /// # Errors
    /// [`SettingsError`] when a base URL is none.
    pub fn new(settings: Settings, wire: &Wire) -> Result<Self, SettingsError> {
        let anthropic = base_url(Vendor::Anthropic, settings.anthropic_base_url.as_deref())?;
        let openai = base_url(Vendor::OpenAi, settings.openai_base_url.as_deref())?;
        Ok(Self {
            anthropic: Anthropic::new(wire.clone(), &anthropic),
            openai: OpenAi::new(wire.clone(), &openai),
            mock: Mock,
            anthropic_api_key: settings.anthropic_api_key,
            own_openai: settings.openai_base_url.is_some(),
            openai_api_key: settings.openai_api_key,
            default_model: settings.default_model.unwrap_or_else(|| config::DEFAULT_MODEL.to_owned()),
        })
    }

    /// How a vendor is asked.
    #[must_use]
    pub fn at(&self, vendor: Vendor) -> &dyn Model {
        match vendor {
            Vendor::Anthropic => &self.anthropic,
            Vendor::OpenAi => &self.openai,
        }
    }

    /// What stands in for every model in test mode.
    #[must_use]
    pub fn mock(&self) -> &dyn Model {
        &self.mock
    }

    /// The model of agents that name none.
    #[must_use]
    pub fn default_model(&self) -> &str {
        &self.default_model
    }

    /// Whether a vendor may be asked without a key: a server of the operator's own that speaks OpenAI's protocol.
    #[must_use]
    pub fn needs_no_key(&self, vendor: Vendor) -> bool {
        vendor == Vendor::OpenAi && self.own_openai
    }

    /// The server's own key at a vendor's. A server that speaks OpenAI's protocol may need none.
    #[must_use]
    pub fn key(&self, vendor: Vendor) -> Option<&Zeroizing<String>> {
        match vendor {
            Vendor::Anthropic => self.anthropic_api_key.as_ref(),
            Vendor::OpenAi => self.openai_api_key.as_ref(),
        }
    }
}

fn base_url(vendor: Vendor, configured: Option<&str>) -> Result<Url, SettingsError> {
    let invalid = |reason: &str| SettingsError { name: vendor.base_url_name(), reason: reason.to_owned() };
    let text = configured.unwrap_or(vendor.default_base_url());
    let url = Url::parse(text).map_err(|error| invalid(&error.to_string()))?;
    check_form(&url).map_err(|refused| invalid(&refused.to_string()))?;
    if url.query().is_some() || url.fragment().is_some() {
        return Err(invalid("it may have no query and no fragment"));
    }
    Ok(url)
}

/// The URL of what is below a base URL, with or without a slash at its end.
pub(super) fn below(base: &Url, path: &[&str]) -> Url {
    let mut url = base.clone();
    if let Ok(mut segments) = url.path_segments_mut() {
        segments.pop_if_empty().extend(path);
    }
    url
}

/// The id of a call of a tool, as any vendor takes it: some servers make ids that others refuse, and a conversation
/// may go on with another model. The same id always becomes the same.
pub(super) fn tool_id(id: &str, longest: usize) -> Cow<'_, str> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    if !id.is_empty() && id.len() <= longest && id.bytes().all(is_plain) {
        return Cow::Borrowed(id);
    }
    let digest = hex::encode(&Sha256::digest(id)[..12]);
    Cow::Owned(format!("call_{digest}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_is_asked_at_its_vendors() {
        assert_eq!(Vendor::of("claude-sonnet-4-20250514"), Vendor::Anthropic);
        for model in ["gpt-4o", "o3-mini", "llama3.3:70b", "deepseek-chat", "my-claude-model"] {
            assert_eq!(Vendor::of(model), Vendor::OpenAi, "{model}");
        }
    }

    #[test]
    fn a_base_url_keeps_its_path() {
        for (base, expected) in [
            ("https://api.openai.com/v1", "https://api.openai.com/v1/chat/completions"),
            ("http://127.0.0.1:11434/v1/", "http://127.0.0.1:11434/v1/chat/completions"),
            ("https://gateway.example/a/b", "https://gateway.example/a/b/chat/completions"),
        ] {
            let base = base_url(Vendor::OpenAi, Some(base)).unwrap();
            assert_eq!(below(&base, &["chat", "completions"]).as_str(), expected);
        }
    }

    #[test]
    fn a_base_url_that_is_none_is_named() {
        for url in [
            "api.openai.com/v1",
            "ftp://example.com",
            "https://example.com/?a=b",
            "https://user:word@example.com",
            "",
        ] {
            let error = base_url(Vendor::OpenAi, Some(url)).unwrap_err();
            assert!(error.to_string().starts_with("OPENAI_BASE_URL"), "{error}");
        }
    }

    #[test]
    fn foreign_ids_of_calls_become_plain_ones_that_stay_apart() {
        assert_eq!(tool_id("toolu_01A-b", 40), "toolu_01A-b");
        let (first, second) = (tool_id("functions.Bash:0", 40), tool_id("functions.Bash:1", 40));
        assert_ne!(first, second);
        assert_eq!(first, tool_id("functions.Bash:0", 40));
        assert_eq!(first.len(), 29);
        assert!(tool_id("", 40).starts_with("call_"));
        assert_eq!(tool_id(&"a".repeat(41), 40).len(), 29);
    }
}
