//! `cargo xtask prove`: runs rows, gives one JSON line each, and holds each against its floor and its planted bugs.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use clap::ValueEnum;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use serde::Serialize;
use serde_json::{Value, json};

use crate::programs::Programs;
use crate::{eprint, rows, signs};

/// Violations that a line tells; more are only counted.
const TOLD: usize = 10;
/// Characters of each that are told.
const TOLD_CHARACTERS: usize = 400;
/// Violations that are remembered, for the one that a planted bug has to cause.
const REMEMBERED: usize = 10_000;
/// How long one run of a row may take at most, beyond which it is stuck: on a machine with nothing else to do a quick one
/// takes an eighth of that.
const QUICK_DEADLINE: Duration = Duration::from_secs(600);
const FULL_DEADLINE: Duration = Duration::from_secs(4 * 3_600);
/// What a quick run is to take at most, without its planted bugs. One that takes longer is told, and holds nevertheless:
/// the machine may have had other things to do.
const QUICK: Duration = Duration::from_secs(180);

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The rows to run [default: all]
    names: Vec<String>,
    /// Repeats an earlier run [default: a new one]
    #[arg(long)]
    seed: Option<u64>,
    /// How much: some minutes, or until the row's figure is reached
    #[arg(long, default_value = "quick")]
    budget: Budget,
    /// Only run with this bug planted, which has to be found
    #[arg(long, value_name = "BUG")]
    planted: Option<String>,
    /// Do not run with bugs planted
    #[arg(long, conflicts_with = "planted")]
    without_planted: bool,
    /// Show the rows and their planted bugs
    #[arg(long)]
    list: bool,
}

/// How much a run does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Budget {
    /// Minutes.
    Quick,
    /// The row's figure.
    Full,
}

/// A row: a claim, and the run that would show it to be wrong.
pub(crate) struct Row {
    pub(crate) name: &'static str,
    /// What is claimed.
    pub(crate) claim: &'static str,
    /// Work below which a run has shown nothing: quick and full.
    pub(crate) floor: (u64, u64),
    /// Bugs that turn it red. Of what each must violate, [`signs`](crate::signs) says more.
    pub(crate) bugs: &'static [&'static str],
    pub(crate) run: fn(Run) -> BoxFuture<'static, anyhow::Result<Findings>>,
}

/// One run of a row.
#[derive(Debug, Clone)]
pub(crate) struct Run {
    pub(crate) seed: u64,
    pub(crate) budget: Budget,
    pub(crate) programs: Programs,
    /// The bug that the servers have, in a run that has to find it.
    pub(crate) planted: Option<&'static str>,
    /// What it does now: told where it does not end.
    pub(crate) doing: Doing,
}

/// What a run does now, and what it has found so far: known also of one that does not come to its end.
#[derive(Debug, Clone, Default)]
pub(crate) struct Doing(Arc<Mutex<Known>>);

#[derive(Debug, Default)]
struct Known {
    now: String,
    violations: Vec<String>,
}

impl Doing {
    /// Notes it.
    pub(crate) fn now(&self, what: impl Into<String>) {
        self.known().now = what.into();
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Run {
    /// How much of something to do. With a bug planted it is what the quick budget says.
    pub(crate) fn amount(&self, quick: u64, full: u64) -> u64 {
        match (self.planted, self.budget) {
            (None, Budget::Full) => full,
            _ => quick,
        }
    }

    /// One with this bug planted, of no program.
    #[cfg(test)]
    pub(crate) fn planted(bug: &'static str) -> Self {
        let programs = Programs { server: "theazo".into(), planted: None, tools: "tools".into() };
        Self { seed: 7, budget: Budget::Quick, programs, planted: Some(bug), doing: Doing::default() }
    }

    /// Nothing was found yet. What will be is known even where the run breaks off.
    pub(crate) fn findings(&self) -> Findings {
        Findings { doing: self.doing.clone(), ..Findings::default() }
    }

    /// Random choices, the same for the same seed and purpose.
    pub(crate) fn random(&self, purpose: u64) -> fastrand::Rng {
        fastrand::Rng::with_seed(self.seed.wrapping_add(purpose.wrapping_mul(0x9E37_79B9_7F4A_7C15)))
    }
}

/// What a run came to.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    /// Held against the floor.
    pub(crate) done: u64,
    /// What was done, by name.
    pub(crate) work: BTreeMap<&'static str, u64>,
    violations: Vec<String>,
    violated: u64,
    /// Why it was not run to its end: that is red too, but shows no bug.
    broken: Option<String>,
    doing: Doing,
}

impl Findings {
    /// Notes that the claim does not hold.
    pub(crate) fn violation(&mut self, what: impl Into<String>) {
        self.violated += 1;
        if self.violations.len() < REMEMBERED {
            let what = what.into();
            self.doing.known().violations.push(what.clone());
            self.violations.push(what);
        }
    }

    /// Notes that the claim does not hold, unless this is so.
    pub(crate) fn claim(&mut self, holds: bool, otherwise: impl FnOnce() -> String) {
        if !holds {
            self.violation(otherwise());
        }
    }

    /// Counts work by its name.
    pub(crate) fn did(&mut self, what: &'static str, count: u64) {
        *self.work.entry(what).or_default() += count;
    }

    /// Whether anything was found.
    pub(crate) const fn is_red(&self) -> bool {
        self.violated > 0 || self.broken.is_some()
    }

    /// Of a run that has broken off: why, and what it had found.
    fn broken(what: String, doing: &Doing) -> Self {
        let violations = std::mem::take(&mut doing.known().violations);
        Self { violated: violations.len() as u64, violations, broken: Some(what), ..Self::default() }
    }

    /// Whether a bug was found: the claim was violated in the way that is known of it, and not in any.
    fn shows(&self, row: &str, bug: &str) -> bool {
        let signs = signs::of(row, bug);
        self.violations.iter().any(|violation| signs.iter().any(|sign| violation.contains(sign)))
    }

    /// What is told of all that was found.
    fn told(&self) -> Vec<String> {
        let all = self.broken.iter().chain(&self.violations).take(TOLD);
        all.map(|what| what.chars().take(TOLD_CHARACTERS).collect()).collect()
    }
}

/// The line of a row.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Line<'a> {
    name: &'a str,
    claim: &'a str,
    seed: u64,
    budget: &'a str,
    holds: bool,
    done: u64,
    floor: u64,
    work: BTreeMap<&'static str, u64>,
    violations: u64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    told: Vec<String>,
    /// Of each planted bug, whether it was found; null where none was planted.
    planted: Option<BTreeMap<&'static str, bool>>,
    /// Of the run without planted bugs.
    run_seconds: u64,
    seconds: u64,
}

/// Runs the rows; whether all claims hold and all planted bugs were found.
pub(crate) async fn run(arguments: &Arguments) -> anyhow::Result<bool> {
    if arguments.list {
        for row in rows::ALL {
            say(&json!({ "name": row.name, "claim": row.claim, "bugs": row.bugs }));
        }
        return Ok(true);
    }
    let chosen: Vec<&'static Row> = if arguments.names.is_empty() {
        rows::ALL.to_vec()
    } else {
        let find = |name: &String| {
            let found = rows::ALL.iter().copied().find(|row| row.name == name);
            found.with_context(|| format!("there is no row {name}; --list shows them"))
        };
        arguments.names.iter().map(find).collect::<anyhow::Result<_>>()?
    };
    if let Some(bug) = &arguments.planted {
        let known = chosen.iter().any(|row| row.bugs.contains(&bug.as_str()));
        ensure!(known, "no row has a bug {bug}; --list shows them");
    }
    let with_planted = !arguments.without_planted && chosen.iter().any(|row| !row.bugs.is_empty());
    // This one takes a wall away in any case.
    let with_planted = with_planted || chosen.iter().any(|row| row.name == rows::TENANTS);
    let programs = Programs::build(with_planted).await?;
    let began = Instant::now();
    let mut red = vec![];
    for row in &chosen {
        red.extend(prove(row, arguments, &programs).await);
    }
    programs.discard();
    if chosen.len() > 1 {
        eprint(&format!("{} rows in {} seconds, {} red", chosen.len(), began.elapsed().as_secs(), red.len()));
        // Again at the end, where it is looked for.
        red.iter().for_each(|why| eprint(why));
    }
    Ok(red.is_empty())
}

/// Runs a row and tells what it came to, whatever that is: others are run after it. Of one that does not hold: why.
async fn prove(row: &'static Row, arguments: &Arguments, programs: &Programs) -> Option<String> {
    let seed = arguments.seed.unwrap_or_else(|| fastrand::u64(..));
    let began = Instant::now();
    let run = Run {
        seed,
        budget: arguments.budget,
        programs: programs.clone(),
        planted: None,
        doing: Doing::default(),
    };
    let (budget, floor) = match arguments.budget {
        Budget::Quick => ("quick", row.floor.0),
        Budget::Full => ("full", row.floor.1),
    };
    let mut findings = Findings::default();
    if arguments.planted.is_none() {
        eprint(&format!("{}: {} (seed {seed})", row.name, row.claim));
        findings = attempt(row, run.clone()).await;
    }
    let took = began.elapsed();
    if arguments.budget == Budget::Quick && took > QUICK {
        eprint(&format!("{}: a quick run is to take {QUICK:?} at most, and took {took:.0?}", row.name));
    }
    let mut planted = BTreeMap::new();
    for bug in row.bugs.iter().copied() {
        if arguments.without_planted || arguments.planted.as_ref().is_some_and(|named| named != bug) {
            continue;
        }
        eprint(&format!("{}: with {bug} planted", row.name));
        let found = attempt(row, Run { planted: Some(bug), ..run.clone() }).await;
        let shown = found.shows(row.name, bug);
        for told in found.told().iter().take(2) {
            eprint(&format!("  {}: {told}", if shown { "found" } else { "not that" }));
        }
        planted.insert(bug, shown);
    }
    let enough = arguments.planted.is_some() || findings.done >= floor;
    let missed: Vec<_> = planted.iter().filter(|(_, found)| !**found).map(|(bug, _)| *bug).collect();
    let holds = !findings.is_red() && enough && missed.is_empty();
    let why = format!(
        "{} is red: {} of at least {floor} done; planted and not found: {missed:?}; seed {seed}; {}",
        row.name,
        findings.done,
        findings.told().join("; "),
    );
    say(&Line {
        name: row.name,
        claim: row.claim,
        seed,
        budget,
        holds,
        done: findings.done,
        floor,
        violations: findings.violated + u64::from(findings.broken.is_some()),
        told: findings.told(),
        work: findings.work,
        planted: (!arguments.without_planted).then_some(planted),
        run_seconds: took.as_secs(),
        seconds: began.elapsed().as_secs(),
    });
    (!holds).then_some(why)
}

/// One run. What keeps it from being run to its end is found too.
async fn attempt(row: &'static Row, run: Run) -> Findings {
    let deadline = match run.budget {
        Budget::Quick => QUICK_DEADLINE,
        Budget::Full => FULL_DEADLINE,
    };
    let (seed, doing) = (run.seed, Doing::default());
    let run = Run { doing: doing.clone(), ..run };
    let running = AssertUnwindSafe((row.run)(run)).catch_unwind();
    let why = match tokio::time::timeout(deadline, running).await {
        Ok(Ok(Ok(findings))) => return findings,
        Ok(Ok(Err(error))) => format!("could not be run to its end: {error:#}"),
        Ok(Err(_)) => "could not be run to its end: the proof itself has panicked".to_owned(),
        Err(_) => format!("did not end within {deadline:?}"),
    };
    let now = doing.known().now.clone();
    let why = format!("the row {} {why} (seed {seed}; its last step: {now})", row.name);
    Findings::broken(why, &doing)
}

/// The result: one line of JSON on standard output.
#[expect(clippy::print_stdout, reason = "a tool of the command line")]
fn say(line: &impl Serialize) {
    println!("{}", serde_json::to_string(line).unwrap_or_else(|_| Value::Null.to_string()));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run() -> Run {
        Run { planted: None, ..Run::planted("") }
    }

    fn row(run: fn(Run) -> BoxFuture<'static, anyhow::Result<Findings>>) -> &'static Row {
        Box::leak(Box::new(Row { name: "kills", claim: "", floor: (0, 0), bugs: &["lost-batch"], run }))
    }

    #[tokio::test]
    async fn what_keeps_a_row_from_its_end_is_a_violation_with_its_seed_and_shows_no_bug() {
        let failing = row(|_| async { Err(anyhow::anyhow!("500 internal_error")) }.boxed());
        let panicking = row(|_| async { std::panic::panic_any("a proof is wrong") }.boxed());
        for row in [failing, panicking] {
            let findings = attempt(row, run()).await;
            assert!(findings.is_red());
            assert!(findings.told()[0].contains("seed 7"));
            assert!(!findings.shows("kills", "lost-batch"));
        }
    }

    #[tokio::test]
    async fn what_a_row_has_found_is_told_though_it_breaks_off() {
        let row = row(|run| {
            async move {
                run.findings().violation("an entry was acknowledged and never happened");
                Err(anyhow::anyhow!("nobody answers"))
            }
            .boxed()
        });
        let findings = attempt(row, run()).await;
        assert!(findings.told()[0].contains("nobody answers"));
        assert!(findings.shows("kills", "lost-batch"));
        assert_eq!(findings.violated, 1);
    }

    #[test]
    fn a_bug_is_found_by_what_it_violates() {
        let mut findings = Findings::default();
        findings.violation("the callers do not end");
        assert!(!findings.shows("kills", "lost-batch"));
        findings.violation("an entry was acknowledged and never happened");
        assert!(findings.shows("kills", "lost-batch"));
    }

    #[test]
    fn of_each_planted_bug_it_is_known_what_it_must_violate() {
        for row in rows::ALL {
            for bug in row.bugs {
                assert!(!signs::of(row.name, bug).is_empty(), "{}: {bug}", row.name);
            }
        }
    }
}
