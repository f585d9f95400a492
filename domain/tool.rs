//! The built-in tools that an agent can be given: a closed list.

use serde::{Deserialize, Serialize};

/// A built-in tool, under the name by which callers and models know it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tool {
    /// Asks a search engine.
    WebSearch,
    /// Makes an HTTP request to a public address.
    HttpRequest,
    /// Writes a file of the agent's workspace.
    WriteFile,
    /// Reads a file of the agent's workspace.
    ReadFile,
    /// Lists a folder of the agent's workspace.
    ListFiles,
    /// Runs a program in the agent's workspace.
    RunCode,
}

impl Tool {
    /// Every tool there is.
    pub const ALL: [Self; 6] =
        [Self::WebSearch, Self::HttpRequest, Self::WriteFile, Self::ReadFile, Self::ListFiles, Self::RunCode];

    /// The tool's name, as it is written everywhere.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::WebSearch => "web_search",
            Self::HttpRequest => "http_request",
            Self::WriteFile => "write_file",
            Self::ReadFile => "read_file",
            Self::ListFiles => "list_files",
            Self::RunCode => "run_code",
        }
    }

    /// The tool of this name; `None` where there is none.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|tool| tool.as_str() == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tool_has_one_name_everywhere() {
        for tool in Tool::ALL {
            assert_eq!(serde_json::to_value(tool).unwrap(), tool.as_str());
            assert_eq!(Tool::named(tool.as_str()), Some(tool));
        }
        assert_eq!(Tool::named("Web_Search"), None);
    }
}
