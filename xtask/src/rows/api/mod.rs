//! Every operation of the API document that a server serves succeeds once at least where it is asked for what is there.
//! Then Schemathesis asks them all, as two tenants, and holds every answer against the document.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, ensure};
use futures_util::FutureExt;
use serde_json::{Value, json};
use tokio::process::Command;
use tokio::time::timeout;

use crate::client::{Ask, Caller};
use crate::place::Place;
use crate::prove::{Findings, Row, Run};

mod schema;
mod valid;

pub(crate) const ROW: Row = Row {
    name: "api",
    claim: "the server does what its API document says, for two tenants, on every operation",
    floor: (500, 5_000),
    bugs: &["server-error", "other-type"],
    run: |run| prove(run).boxed(),
};

/// The tool, from PyPI.
const REQUIREMENT: &str = "schemathesis==4.32.5";
/// How long it takes to install it at most, and to run it beyond the time that it is given.
const INSTALL_DEADLINE: Duration = Duration::from_secs(300);
const GRACE: Duration = Duration::from_secs(60);
/// Operations that have to succeed for the tool: most of those that there are, and far fewer than it brings to that on a slow
/// machine. Which of them its random requests miss differs from run to run; that each can succeed is shown before.
const SUCCEEDED: u64 = 30;
/// What may be answered to what the document allows: that it was done; that a limit has no room for it (402); that what it
/// names is not there (404); that it does not fit the present state (409); and 422, since that it is refused, with the
/// field and the rule, is what the document says of each operation, and what a cursor has to be for instance no schema
/// says. Both tenants' keys may do everything, and as often as they like, so 401, 403 and 429 are none of it; no 5xx is.
const SETTINGS: &str = r#"
[auth.wfc]
path = "tenants.json"
peers = ["one", "other"]

[checks.positive_data_acceptance]
expected-statuses = ["2xx", "402", "404", "409", "422"]
"#;

async fn prove(run: Run) -> anyhow::Result<Findings> {
    let place = Place::new(&run, 1, &[]).await?;
    let (one, other) = (place.organization("test").await?, place.organization("test").await?);
    let mut findings = run.findings();
    if run.planted.is_none() {
        // What is planted is for the tool to find.
        run.doing.now("each operation succeeds");
        valid::prove(&place, &one, &mut findings).await?;
    }
    run.doing.now("the tool asks");
    let tool = tool(&run).await?;
    let folder = place.directory().join("schemathesis");
    std::fs::create_dir_all(&folder)?;
    std::fs::write(folder.join("schemathesis.toml"), SETTINGS)?;
    let tenant = |name: &str, key: &str| {
        let header = json!({ "name": "Authorization", "value": format!("Bearer {key}") });
        json!({ "name": name, "fixedHeaders": [header] })
    };
    let tenants = json!({ "auth": [tenant("one", &one.key), tenant("other", &other.key)] });
    std::fs::write(folder.join("tenants.json"), tenants.to_string())?;
    let address = place.address(0).context("a server runs")?;
    let seconds = if run.planted.is_some() { 45 } else { run.amount(100, 3_600) };
    let document = Caller::new(&one.key).ask(&address, &Ask::get("/v1/openapi.json")).await?.json();
    let before = answered(&address).await?;
    let said = ask(&tool, &folder, &address, &run, seconds).await?;
    let report = std::fs::read_to_string(folder.join("report.json"))
        .with_context(|| format!("schemathesis has written no report: {said}"))?;
    judge(&serde_json::from_str(&report)?, &said, &mut findings);
    let after = answered(&address).await?;
    let times = |counts: &BTreeMap<String, Answered>, operation: &str| {
        counts.get(operation).copied().unwrap_or_default()
    };
    let mut succeeded_for_it = 0;
    for operation in valid::operations_of(&document)? {
        let (before, after) = (times(&before, &operation), times(&after, &operation));
        succeeded_for_it += u64::from(after.success > before.success);
        if run.planted.is_none() {
            findings.claim(after.all > before.all, || format!("the tool has not asked {operation}"));
        }
    }
    findings.did("operations that have succeeded for the tool", succeeded_for_it);
    if run.planted.is_none() {
        findings.claim(succeeded_for_it >= SUCCEEDED, || {
            format!("{succeeded_for_it} operations have succeeded for the tool, of {SUCCEEDED} at least")
        });
    }
    place.stop().await?;
    Ok(findings)
}

/// How often an operation was answered.
#[derive(Debug, Clone, Copy, Default)]
struct Answered {
    all: u64,
    /// With a 2xx.
    success: u64,
}

/// How often each operation has been answered, as the server counts.
async fn answered(address: &str) -> anyhow::Result<BTreeMap<String, Answered>> {
    let counted = Caller::new("").ask(address, &Ask::get("/metrics")).await?.text;
    let mut answered: BTreeMap<String, Answered> = BTreeMap::new();
    for line in counted.lines().filter(|line| line.starts_with("theazo_http_requests_total{")) {
        let label =
            |name: &str| line.split_once(&format!("{name}=\"")).and_then(|(_, rest)| rest.split_once('"'));
        let (Some((method, _)), Some((route, _)), Some((status, _))) =
            (label("method"), label("route"), label("status"))
        else {
            continue;
        };
        let times =
            line.rsplit_once(' ').and_then(|(_, times)| times.parse::<u64>().ok()).unwrap_or_default();
        let counts = answered.entry(format!("{method} {route}")).or_default();
        counts.all += times;
        counts.success += if status.starts_with('2') { times } else { 0 };
    }
    Ok(answered)
}

/// Lets the tool ask for so many seconds, and gives what it said.
async fn ask(tool: &Path, folder: &Path, address: &str, run: &Run, seconds: u64) -> anyhow::Result<String> {
    let mut command = Command::new(tool);
    command.args(["run", &format!("http://{address}/v1/openapi.json"), "--checks", "all", "--no-color"]);
    // One worker: up to Python 3.11, building syntax trees on two threads at once fails now and then, since they
    // share one count of depth (gh-106905), and the tool parses its own sources while it makes requests.
    command.args(["--workers", "1", "--continue-on-failure", "--no-shrink", "--request-timeout", "30"]);
    command.args(["--seed", &(run.seed % (1 << 32)).to_string(), "--max-time", &seconds.to_string()]);
    command.args(["--max-examples", &run.amount(5, 200).to_string()]);
    command.args(["--report", "json", "--report-json-path", "report.json"]);
    command.current_dir(folder).stdin(Stdio::null()).kill_on_drop(true);
    let output = timeout(Duration::from_secs(seconds) + GRACE, command.output()).await;
    let output = output.context("schemathesis does not end")??;
    let said = [output.stdout, output.stderr].concat();
    Ok(String::from_utf8_lossy(&said).into_owned())
}

fn judge(report: &Value, said: &str, findings: &mut Findings) {
    let number = |value: &Value| value.as_u64().unwrap_or_default();
    let operations = &report["operations"];
    findings.done = number(&report["test_cases"]["generated"]);
    findings.did("requests and sequences of them", findings.done);
    findings.did("operations", number(&operations["tested"]));
    findings.claim(operations["tested"] == operations["total"] && number(&operations["total"]) > 0, || {
        format!("not every operation was asked: {operations}")
    });
    for failure in report["failures"].as_array().into_iter().flatten() {
        findings.violation(failure.to_string());
    }
    for error in report["errors"].as_array().into_iter().flatten() {
        findings.violation(error.to_string());
    }
    if findings.is_red() {
        let from =
            [" FAILURES ", " ERRORS "].iter().filter_map(|head| said.find(head)).min().unwrap_or_default();
        findings.violation(said[from..].to_owned());
    }
}

/// The tool, installed beside the programs where it is not there yet.
async fn tool(run: &Run) -> anyhow::Result<PathBuf> {
    let folder = run.programs.tools.join(REQUIREMENT);
    let tool = folder.join("bin/schemathesis");
    if tool.exists() {
        return Ok(tool);
    }
    let environment = folder.display().to_string();
    let pip = folder.join("bin/pip").display().to_string();
    for command in [
        vec!["python3", "-m", "venv", &environment],
        vec![&*pip, "install", "--quiet", "--disable-pip-version-check", REQUIREMENT],
    ] {
        let mut running = Command::new(command[0]);
        running.args(&command[1..]).stdin(Stdio::null()).kill_on_drop(true);
        let output = timeout(INSTALL_DEADLINE, running.output()).await;
        let output = output.with_context(|| format!("{command:?} does not end"))??;
        ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(tool)
}
