//! The machine's interpreters, as a sandbox sees them.

use std::path::{Path, PathBuf};

use super::Options;
use super::root::PROGRAM_DIR;
use crate::providers::compute::{Error, Language};

/// Lets programs that are modules `require` as well, which most snippets do.
const NODE_PREAMBLE: &str =
    "data:text/javascript,import{createRequire as r}from'node:module';globalThis.require=r('/workspace/');";

/// How a program is started.
pub(super) struct Start {
    pub(super) arguments: Vec<String>,
    /// The name of the program's file.
    pub(super) file: String,
    /// Whether the interpreter reads the program from the standard input.
    pub(super) from_input: bool,
}

/// How a program of a language is started.
///
/// # Errors
/// [`Error::Unsupported`] where the machine has no interpreter that a sandbox can see.
pub(super) fn start(options: &Options, language: Language) -> Result<Start, Error> {
    let (names, ending): (&[&str], _) = match language {
        Language::Python => (&["python3"], ".py"),
        Language::TypeScript => (&["node", "nodejs"], ""),
        Language::Bash => (&["bash"], ".sh"),
    };
    let Some(path) = names.iter().find_map(|name| find(options, name)) else {
        let looked: Vec<_> = options.search.iter().map(|folder| folder.display().to_string()).collect();
        return Err(Error::Unsupported(format!(
            "this machine has no {} for sandboxes: it was looked for in {}",
            names[0],
            looked.join(", ")
        )));
    };
    let path = path.display().to_string();
    let file = format!("main{ending}");
    let program = format!("{PROGRAM_DIR}/{file}");
    let (arguments, from_input) = match language {
        // Read from the input, where relative imports are those of the working directory.
        Language::TypeScript => (
            vec![path, "--import".into(), NODE_PREAMBLE.into(), "--input-type=module".into(), "-".into()],
            true,
        ),
        Language::Python | Language::Bash => (vec![path, program], false),
    };
    Ok(Start { arguments, file, from_input })
}

/// Where an interpreter is that a sandbox can see: in a folder of the search path, the file itself below what is shown.
pub(super) fn find(options: &Options, name: &str) -> Option<PathBuf> {
    let shown = |path: &Path| {
        let system = ["/usr", "/bin", "/sbin"].into_iter().any(|folder| path.starts_with(folder));
        system || options.read_only.iter().any(|folder| path.starts_with(folder))
    };
    let here = |folder: &PathBuf| {
        let path = folder.join(name);
        let file = path.canonicalize().ok()?;
        (file.is_file() && shown(&path) && shown(&file)).then_some(path)
    };
    options.search.iter().find_map(here)
}
