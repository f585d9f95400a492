//! The programs that are run: the server as it is, and the server with the bugs that can be planted in it.

use std::path::PathBuf;
use std::process::Stdio;

use anyhow::{Context, bail};
use serde_json::Value;
use tokio::process::Command;

/// Where the programs are.
#[derive(Debug, Clone)]
pub(crate) struct Programs {
    /// The server as it is.
    pub(crate) server: PathBuf,
    /// The server with the bugs that can be planted, where such are to be.
    pub(crate) planted: Option<PathBuf>,
    /// Where what is needed besides is installed, for this run and those to come.
    pub(crate) tools: PathBuf,
}

impl Programs {
    /// Builds them, optimized as the benches are.
    pub(crate) async fn build(with_planted: bool) -> anyhow::Result<Self> {
        let built = build(&[]).await?;
        let tools = built.parent().context("it is in a folder")?.join("prove");
        // One that runs beside this has its own.
        let folder = tools.join(std::process::id().to_string());
        std::fs::create_dir_all(&folder)?;
        let server = folder.join("theazo");
        std::fs::copy(&built, &server)?;
        let mut programs = Self { server, planted: None, tools };
        if with_planted {
            let built = build(&["--features", "theazo/planted-bugs"]).await?;
            let planted = folder.join("theazo-planted");
            std::fs::copy(&built, &planted)?;
            // Nobody is to take it for the program itself.
            std::fs::remove_file(&built)?;
            programs.planted = Some(planted);
        }
        Ok(programs)
    }

    /// Nobody runs them any more.
    pub(crate) fn discard(self) {
        if let Some(folder) = self.server.parent() {
            let _ = std::fs::remove_dir_all(folder);
        }
    }
}

/// Builds the program: where it is until it is built again.
async fn build(features: &[&str]) -> anyhow::Result<PathBuf> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let mut command = Command::new(cargo);
    // With this package beside it, whose dependencies ask for features of their own: what was built for it is used.
    command.args(["build", "--profile", "bench", "--package", "theazo", "--package", "xtask"]);
    command.args(["--bin", "theazo"]);
    command.args(["--message-format", "json-render-diagnostics"]).args(features);
    // What cargo tells the program that it runs. Build scripts of dependencies look at some of it, and all that stands on
    // them would be built again, each time that it changes between there and not there.
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy();
        if name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_") {
            command.env_remove(&*name);
        }
    }
    let output = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output().await?;
    if !output.status.success() {
        bail!("the server does not build");
    }
    let built = String::from_utf8(output.stdout)?;
    built
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter_map(|message| message["executable"].as_str().map(PathBuf::from))
        .next_back()
        .context("cargo says where the server is")
}
