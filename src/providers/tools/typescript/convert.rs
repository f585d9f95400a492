//! What the child process does: reads TypeScript, writes JavaScript, within its limits.

use std::io::{Read, Write};
use std::sync::{Arc, Mutex, PoisonError};

use nix::sys::resource::{Resource, setrlimit};
use serde_json::json;
use swc_common::errors::{DiagnosticBuilder, Emitter, Handler};
use swc_common::sync::Lrc;
use swc_common::{GLOBALS, Globals, SourceMap, Span};
use swc_ts_fast_strip::{Options, operate};

use crate::config;

/// The command of the program that serves as the child.
pub const ARGUMENT: &str = "strip-types";

/// How the child ended that did not die.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// It wrote JavaScript.
    Converted,
    /// It wrote what is wrong with the TypeScript.
    Invalid,
}

impl Ended {
    /// Its exit code.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::Converted => 0,
            Self::Invalid => 3,
        }
    }

    /// What an exit code means; `None` for one that the child does not end with by itself.
    #[must_use]
    pub fn of_code(code: i32) -> Option<Self> {
        [Self::Converted, Self::Invalid].into_iter().find(|ended| i32::from(ended.code()) == code)
    }
}

/// Is the child: reads TypeScript to the end of the standard input and writes what came of it.
///
/// # Errors
/// When the streams break or there is no memory.
pub fn serve() -> std::io::Result<Ended> {
    // Where a system does not know a limit, the parent's deadline is left.
    let _ = setrlimit(Resource::RLIMIT_CORE, 0, 0);
    let cpu = config::TYPESCRIPT_DEADLINE.as_secs();
    let _ = setrlimit(Resource::RLIMIT_CPU, cpu, cpu);
    let memory = config::TYPESCRIPT_MEMORY_BYTES;
    let _ = setrlimit(Resource::RLIMIT_AS, memory, memory);

    let mut code = String::new();
    std::io::stdin().lock().take(config::TYPESCRIPT_BYTES as u64).read_to_string(&mut code)?;
    let worker = std::thread::Builder::new().stack_size(config::TYPESCRIPT_STACK_BYTES);
    let converted = worker.spawn(move || javascript(code))?.join();
    let converted = converted.map_err(|_| std::io::Error::other("the TypeScript cannot be read"))?;
    let (ended, said) = match converted {
        Ok(javascript) => (Ended::Converted, javascript),
        Err(mistakes) => (Ended::Invalid, mistakes),
    };
    let mut output = std::io::stdout().lock();
    output.write_all(said.as_bytes())?;
    output.flush()?;
    Ok(ended)
}

/// JavaScript of TypeScript, or what is wrong with it, a line each.
fn javascript(code: String) -> Result<String, String> {
    let options: Options = serde_json::from_value(json!({
        "mode": "transform",
        // What is no module stays none.
        "transform": { "noEmptyExport": true },
    }))
    .expect("the options are those of the library");
    let source = Lrc::<SourceMap>::default();
    let mistakes = Mistakes::default();
    let listener = Listener { source: Lrc::clone(&source), mistakes: Arc::clone(&mistakes) };
    let handler = Handler::with_emitter(true, false, Box::new(listener));
    let converted = GLOBALS.set(&Globals::new(), || operate(&source, &handler, code, options));
    converted.map(|output| output.code).map_err(|error| {
        let mut mistakes = mistakes.lock().unwrap_or_else(PoisonError::into_inner);
        if mistakes.is_empty() { error.message } else { std::mem::take(&mut *mistakes).join("\n") }
    })
}

/// Mistakes that are told at once, at most.
const MOST: usize = 20;

type Mistakes = Arc<Mutex<Vec<String>>>;

/// Notes where a mistake is, and what it is.
struct Listener {
    source: Lrc<SourceMap>,
    mistakes: Mistakes,
}

impl Emitter for Listener {
    fn emit(&mut self, diagnostic: &mut DiagnosticBuilder<'_>) {
        let place = diagnostic.span.primary_span().map(|span: Span| self.source.lookup_char_pos(span.lo));
        let message = diagnostic.message();
        let mistake = match place {
            // The library counts columns from 0.
            Some(place) => format!("line {}, column {}: {message}", place.line, place.col.0 + 1),
            None => message,
        };
        let mut mistakes = self.mistakes.lock().unwrap_or_else(PoisonError::into_inner);
        if mistakes.len() < MOST {
            mistakes.push(mistake);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn converted(code: &str) -> String {
        javascript(code.to_owned()).unwrap()
    }

    #[test]
    fn types_go_and_the_rest_stays() {
        let code = "const a: number = <any>1 as unknown as number;\nlet b = a! satisfies number;\n\
                    function f<T>(this: Window, a?: T, ...rest: string[]): asserts a is T {}\n\
                    interface I { a: string }\ntype U = I | null;\n";
        assert_eq!(converted(code), "const a = 1;\nlet b = a;\nfunction f(a, ...rest) {}\n");
        let javascript = "console.log(`a${1 + 2}`, /x/g, a?.b ?? 1n);\n";
        assert_eq!(converted(javascript), javascript);
        assert_eq!(converted(""), "");
    }

    #[test]
    fn what_is_imported_and_not_used_is_left_out() {
        let code = "import type { A } from 'a';\nimport fs, { type B } from 'node:fs';\nimport 'c';\n\
                    export { A };\nfs.close(1);\n";
        assert_eq!(converted(code), "import fs from 'node:fs';\nimport 'c';\nfs.close(1);\n");
        assert_eq!(converted("import type { A } from 'a';\nlet a: A;\n"), "let a;\n");
    }

    #[test]
    fn a_mistake_is_told_with_its_place() {
        let told = javascript("let a = 1;\nlet é = (1;\n".to_owned()).unwrap_err();
        assert!(told.starts_with("line 2, column 11: "), "{told}");
        let twice = javascript("let a;\nlet a;\nreturn 1; await 2;\n".to_owned()).unwrap_err();
        assert!(twice.contains("line "), "{twice}");
        let many = javascript("let a = ;\n".repeat(100)).unwrap_err();
        assert!(many.lines().count() <= MOST, "{many}");
    }
}
