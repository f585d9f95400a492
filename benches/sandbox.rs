//! What a sandbox costs before its program begins and after it has ended: runs of programs that do nothing, each way in
//! its turn.
//!
//! `cargo bench --bench sandbox` (`-- --rounds 40`, `--quick`). The bare interpreter is the baseline; `bwrap` stands
//! beside it where it is on the path, with the same namespaces and read-only system.

#![expect(clippy::print_stdout, reason = "a bench prints its figures")]
#![expect(clippy::float_arithmetic, reason = "figures, not money")]

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use theazo::clock::{Clock, SystemClock};
use theazo::providers::compute::local::{LocalCompute, Options};
use theazo::providers::compute::{Compute, End, Handle, Language, New, Program};
use theazo::random;
use theazo_domain::id::{AgentId, SessionId};

/// The ways, in the order in which they take turns.
const WAYS: [(&str, Way); 7] = [
    ("bash, bare", Way::Bare(&["/usr/bin/bash", "-c", ":"])),
    ("bash, in bwrap", Way::Bubblewrap(&["/usr/bin/bash", "-c", ":"])),
    ("bash, in a sandbox", Way::Sandbox(Language::Bash, ":")),
    ("python, bare", Way::Bare(&["/usr/bin/python3", "-c", "pass"])),
    ("python, in bwrap", Way::Bubblewrap(&["/usr/bin/python3", "-c", "pass"])),
    ("python, in a sandbox", Way::Sandbox(Language::Python, "pass")),
    ("node, in a sandbox", Way::Sandbox(Language::TypeScript, "0")),
];
const BUBBLEWRAP: &str = "--unshare-all --die-with-parent --ro-bind /usr /usr --symlink usr/bin /bin --symlink usr/lib /lib \
     --symlink usr/lib64 /lib64 --proc /proc --dev /dev --tmpfs /tmp --cap-drop ALL";

#[derive(Clone, Copy)]
enum Way {
    Bare(&'static [&'static str]),
    Bubblewrap(&'static [&'static str]),
    Sandbox(Language, &'static str),
}

async fn once(way: Way, compute: &LocalCompute, handle: &Handle) -> anyhow::Result<Duration> {
    let started = Instant::now();
    match way {
        Way::Bare(command) => spawn(command)?,
        Way::Bubblewrap(command) => {
            let whole: Vec<&str> = std::iter::once("bwrap").chain(BUBBLEWRAP.split_whitespace()).collect();
            spawn(&[&whole, command].concat())?;
        }
        Way::Sandbox(language, code) => {
            let program = Program {
                language,
                code: code.to_owned(),
                environment: vec![],
                timeout: Duration::from_secs(10),
                output_limit: 10_000,
            };
            let finished = compute.run(handle, &program).await?;
            ensure!(finished.end == End::Code(0), "{finished:?}");
        }
    }
    Ok(started.elapsed())
}

fn spawn(command: &[&str]) -> anyhow::Result<()> {
    let (name, arguments) = command.split_first().context("a command has a name")?;
    let status = Command::new(name).args(arguments).stdin(Stdio::null()).status()?;
    ensure!(status.success(), "{command:?}: {status}");
    Ok(())
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip_while(|argument| argument != "--rounds");
    let quick = std::env::args().any(|argument| argument == "--quick");
    let rounds =
        arguments.nth(1).and_then(|rounds| rounds.parse().ok()).unwrap_or(if quick { 3 } else { 40 });
    let root = std::env::temp_dir().join(format!("theazo-bench-{}", std::process::id()));
    let mut options = Options::new(root.join("sandboxes"));
    options.init = env!("CARGO_BIN_EXE_theazo").into();
    let compute = LocalCompute::new(options)?;
    let ulid = || random::ulid(SystemClock.now());
    let (agent_id, session_id) = (AgentId::from_ulid(ulid()), SessionId::from_ulid(ulid()));
    let new = New { agent_id, session_id, browser: false, lifetime: Duration::from_secs(600) };
    let handle = compute.create(&new).await?;

    let has_bubblewrap = Command::new("bwrap").arg("--version").stdout(Stdio::null()).status().is_ok();
    let ways = WAYS.iter().filter(|(_, way)| has_bubblewrap || !matches!(way, Way::Bubblewrap(_)));
    let ways: Vec<_> = ways.collect();
    let mut times = vec![vec![]; ways.len()];
    for round in 0..=rounds {
        for ((_, way), times) in ways.iter().zip(&mut times) {
            let time = once(*way, &compute, &handle).await?;
            // The first round reads the files from disk.
            if round > 0 {
                times.push(time);
            }
        }
    }
    println!("| {rounds} rounds | median ms | p90 ms |\n|---|---|---|");
    for ((name, _), times) in ways.iter().zip(&mut times) {
        times.sort_unstable();
        let at =
            |share: usize| times[(times.len() * share / 100).min(times.len() - 1)].as_secs_f64() * 1_000.0;
        println!("| {name} | {:.1} | {:.1} |", at(50), at(90));
    }
    compute.terminate(&handle).await?;
    Ok(std::fs::remove_dir_all(root)?)
}
