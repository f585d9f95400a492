//! What a model gives to a tool, held against the tool's schema.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use jsonschema::Validator;
use jsonschema::error::{ValidationError, ValidationErrorKind};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use theazo_domain::tool::Tool;

use super::{Failure, cut};
use crate::config;
use crate::providers::compute::Language;
use crate::providers::model::ToolDescription;

/// A valid input of a tool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// Of `web_search`.
    WebSearch {
        /// What to look for.
        query: String,
    },
    /// Of `http_request`.
    HttpRequest(HttpRequest),
    /// Of `write_file`.
    WriteFile {
        /// In the workspace.
        path: String,
        /// All of the new content.
        content: String,
    },
    /// Of `read_file`.
    ReadFile {
        /// In the workspace.
        path: String,
    },
    /// Of `list_files`.
    ListFiles {
        /// In the workspace; the workspace itself where none is given.
        path: Option<String>,
    },
    /// Of `run_code`.
    RunCode {
        /// What the code is written in.
        language: Language,
        /// The program.
        code: String,
    },
}

/// A request that a model wants to be made.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct HttpRequest {
    /// In upper case.
    pub method: String,
    /// Where to.
    pub url: String,
    /// The headers.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    /// The body, as text.
    pub body: Option<String>,
}

/// What the schemas demand, one struct for all: each tool has some of the members.
#[derive(Deserialize)]
struct Members {
    #[serde(default)]
    query: String,
    path: Option<String>,
    #[serde(default)]
    content: String,
    #[serde(default)]
    lang: String,
    #[serde(default)]
    code: String,
}

/// What a model is told of a tool.
#[must_use]
pub fn description(tool: Tool) -> ToolDescription {
    ToolDescription {
        name: tool.as_str().to_owned(),
        description: purpose(tool).to_owned(),
        input_schema: schema(tool),
    }
}

/// Reads what a model gives to a tool.
///
/// # Errors
/// [`Failure`] with all that is wrong with it.
pub fn read(tool: Tool, input: &str) -> Result<Input, Failure> {
    let name = tool.as_str();
    if input.len() > config::TOOL_INPUT_BYTES {
        let most = config::TOOL_INPUT_BYTES;
        return Err(Failure(format!("The input of {name} is larger than {most} bytes.")));
    }
    let value = value(input).map_err(|error| {
        let (line, column) = (error.line(), error.column());
        Failure(format!("The input of {name} is not valid JSON at line {line}, column {column}."))
    })?;
    let value = forgiven(tool, value);
    let mut mistakes: Vec<_> =
        validator(tool).iter_errors(&value).map(|error| mistake(&error)).take(MISTAKES).collect();
    if !mistakes.is_empty() {
        mistakes.sort();
        let list = mistakes.join("; ");
        return Err(Failure(format!("The input of {name} does not fit its schema: {list}.")));
    }
    typed(tool, value).map_err(|error| Failure(format!("The input of {name} cannot be read: {error}.")))
}

/// Mistakes that are told at once, at most.
const MISTAKES: usize = 8;
/// The longest that is said of one: it may repeat names that the model has made up.
const MISTAKE_CHARACTERS: usize = 200;

/// Some models send nothing at all where nothing is required.
fn value(input: &str) -> Result<Value, serde_json::Error> {
    if input.trim().is_empty() { Ok(json!({})) } else { serde_json::from_str(input) }
}

/// What models often write otherwise than the schema says, and can only be meant in one way.
fn forgiven(tool: Tool, mut value: Value) -> Value {
    if let Value::Object(members) = &mut value {
        members.retain(|_, member| !member.is_null());
        if tool == Tool::HttpRequest
            && let Some(Value::String(method)) = members.get_mut("method")
        {
            method.make_ascii_uppercase();
        }
    }
    value
}

fn typed(tool: Tool, value: Value) -> Result<Input, serde_json::Error> {
    let members = serde_json::from_value::<Members>;
    Ok(match tool {
        Tool::WebSearch => Input::WebSearch { query: members(value)?.query },
        Tool::HttpRequest => Input::HttpRequest(serde_json::from_value(value)?),
        Tool::WriteFile => {
            let Members { path, content, .. } = members(value)?;
            Input::WriteFile { path: path.unwrap_or_default(), content }
        }
        Tool::ReadFile => Input::ReadFile { path: members(value)?.path.unwrap_or_default() },
        Tool::ListFiles => Input::ListFiles { path: members(value)?.path },
        Tool::RunCode => {
            let Members { lang, code, .. } = members(value)?;
            // The schema lets no other pass.
            Input::RunCode { language: Language::named(&lang).unwrap_or(Language::Bash), code }
        }
    })
}

/// A mistake in words for a model, without the value, which it has just written itself.
fn mistake(error: &ValidationError<'_>) -> String {
    let place = error.instance_path().as_str().trim_start_matches('/').replace('/', ".");
    if let ValidationErrorKind::Required { property } = error.kind() {
        return format!("`{}` is required", property.as_str().unwrap_or_default());
    }
    let place = if place.is_empty() { "it".to_owned() } else { format!("`{place}`") };
    cut(&format!("{place}: {}", error.masked_with("the value")), MISTAKE_CHARACTERS)
}

fn validator(tool: Tool) -> &'static Validator {
    static COMPILED: LazyLock<Vec<(Tool, Validator)>> = LazyLock::new(|| {
        let compile = |tool| jsonschema::draft202012::new(&schema(tool)).expect("the schemas are valid");
        Tool::ALL.into_iter().map(|tool| (tool, compile(tool))).collect()
    });
    &COMPILED.iter().find(|(of, _)| *of == tool).expect("every tool has one").1
}

const fn purpose(tool: Tool) -> &'static str {
    match tool {
        Tool::WebSearch => {
            "Search the web. Gives the titles, addresses and short excerpts of the best results."
        }
        Tool::HttpRequest => {
            "Make an HTTP request to a public address. Gives the status, the headers and the body as text. Long bodies \
             are cut."
        }
        Tool::WriteFile => {
            "Write a text file of the workspace, and the folders above it. A file that exists is replaced."
        }
        Tool::ReadFile => "Read a text file of the workspace. Long files are cut.",
        Tool::ListFiles => "List a folder of the workspace.",
        Tool::RunCode => {
            "Run a program in the workspace. Gives what it writes and its exit code. Files that it writes stay; nothing \
             else does from one run to the next."
        }
    }
}

/// The JSON Schema of a tool's input.
#[must_use]
pub fn schema(tool: Tool) -> Value {
    let path = json!({
        "type": "string", "minLength": 1, "maxLength": 4096, "description": "Relative to the workspace.",
    });
    match tool {
        Tool::WebSearch => {
            let query = json!({ "type": "string", "minLength": 1, "maxLength": 1024, "description": "What to look for." });
            object(json!({ "query": query }), &["query"])
        }
        Tool::HttpRequest => object(http_request(), &["method", "url"]),
        Tool::WriteFile => {
            let content = json!({ "type": "string", "description": "The whole new content." });
            object(json!({ "path": path, "content": content }), &["path", "content"])
        }
        Tool::ReadFile => object(json!({ "path": path }), &["path"]),
        Tool::ListFiles => {
            let mut path = path;
            path["description"] = "Relative to the workspace. Default: the workspace itself.".into();
            object(json!({ "path": path }), &[])
        }
        Tool::RunCode => {
            let lang = json!({ "type": "string", "enum": Language::ALL.map(Language::as_str) });
            let code = json!({ "type": "string", "description": "The whole program." });
            object(json!({ "lang": lang, "code": code }), &["lang", "code"])
        }
    }
}

fn http_request() -> Value {
    json!({
        "method": { "type": "string", "enum": ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"] },
        "url": {
            "type": "string", "minLength": 1, "maxLength": 8192, "description": "An http or https address.",
        },
        "headers": {
            "type": "object", "maxProperties": 64, "additionalProperties": { "type": "string", "maxLength": 8192 },
        },
        "body": { "type": "string", "description": "The body as text; name its content-type in the headers." },
    })
}

fn object(properties: Value, required: &[&str]) -> Value {
    let mut schema = Map::new();
    schema.insert("type".to_owned(), "object".into());
    schema.insert("properties".to_owned(), properties);
    if !required.is_empty() {
        schema.insert("required".to_owned(), required.into());
    }
    schema.insert("additionalProperties".to_owned(), false.into());
    Value::Object(schema)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(tool: Tool, input: &str) -> String {
        read(tool, input).unwrap_err().0
    }

    #[test]
    fn what_fits_the_schema_is_read() {
        let text = |text: &str| text.to_owned();
        let request = HttpRequest {
            method: text("POST"),
            url: text("https://example.com"),
            headers: BTreeMap::from([(text("accept"), text("*/*"))]),
            body: Some(text("x")),
        };
        let code = |language, lang: &str| {
            (
                Tool::RunCode,
                format!(r#"{{"lang":"{lang}","code":"1"}}"#),
                Input::RunCode { language, code: text("1") },
            )
        };
        for (tool, input, expected) in [
            (
                Tool::WebSearch,
                text(r#"{"query":"AI papers 2025"}"#),
                Input::WebSearch { query: text("AI papers 2025") },
            ),
            (
                Tool::HttpRequest,
                text(
                    r#"{"method":"post","url":"https://example.com","headers":{"accept":"*/*"},"body":"x"}"#,
                ),
                Input::HttpRequest(request),
            ),
            (
                Tool::WriteFile,
                text(r#"{"path":"a/b","content":""}"#),
                Input::WriteFile { path: text("a/b"), content: text("") },
            ),
            (Tool::ReadFile, text(r#"{"path":"a"}"#), Input::ReadFile { path: text("a") }),
            (Tool::ListFiles, text(r#"{"path":"a"}"#), Input::ListFiles { path: Some(text("a")) }),
            (Tool::ListFiles, text(" "), Input::ListFiles { path: None }),
            (Tool::ListFiles, text(r#"{"path":null}"#), Input::ListFiles { path: None }),
            code(Language::Python, "python"),
            code(Language::TypeScript, "typescript"),
            code(Language::Bash, "bash"),
        ] {
            assert_eq!(read(tool, &input), Ok(expected), "{input}");
        }
    }

    #[test]
    fn a_model_is_told_all_that_is_wrong_in_words_it_can_use() {
        assert_eq!(
            told(Tool::WebSearch, "{}"),
            "The input of web_search does not fit its schema: `query` is required."
        );
        assert_eq!(
            told(Tool::WriteFile, r#"{"path":"","contents":"x"}"#),
            "The input of write_file does not fit its schema: `content` is required; `path`: the value is shorter \
             than 1 character; it: Additional properties are not allowed ('contents' was unexpected)."
        );
        assert_eq!(
            told(Tool::HttpRequest, r#"{"method":"FETCH","url":"x","headers":{"a":1}}"#),
            "The input of http_request does not fit its schema: `headers.a`: the value is not of type \"string\"; \
             `method`: the value is not one of \"GET\", \"HEAD\" or 5 other candidates."
        );
        assert_eq!(
            told(Tool::RunCode, "print(1)"),
            "The input of run_code is not valid JSON at line 1, column 1."
        );
        assert_eq!(
            told(Tool::RunCode, "[]"),
            "The input of run_code does not fit its schema: it: the value is not of type \"object\"."
        );
        assert!(told(Tool::RunCode, r#"{"lang":"cobol","code":"1"}"#).contains("`lang`"));
    }

    #[test]
    fn what_is_told_stays_short() {
        let many: Vec<_> = (0..500).map(|number| format!(r#""h{number}":1"#)).collect();
        let input = format!(r#"{{"method":"GET","url":"x","headers":{{{}}}}}"#, many.join(","));
        assert!(told(Tool::HttpRequest, &input).len() < 1_000);
        let names: Vec<_> = (0..500).map(|number| format!(r#""member{number}":1"#)).collect();
        assert!(told(Tool::ReadFile, &format!("{{{}}}", names.join(","))).len() < 1_000);
        let large = format!(r#"{{"path":"a","content":"{}"}}"#, "x".repeat(config::TOOL_INPUT_BYTES));
        assert!(told(Tool::WriteFile, &large).ends_with("bytes."));
        let deep = "[".repeat(100_000);
        assert!(told(Tool::RunCode, &deep).contains("not valid JSON"));
    }

    #[test]
    fn a_model_is_told_the_name_the_purpose_and_the_schema_of_each_tool() {
        for tool in Tool::ALL {
            let told = description(tool);
            assert_eq!(told.name, tool.as_str());
            assert!(!told.description.contains("  ") && told.description.ends_with('.'));
            assert_eq!(told.input_schema["type"], "object");
        }
    }
}
