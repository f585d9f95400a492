//! Agents of many users work for money on two servers that are killed; what the servers then say of it is held against
//! the client's own account: what the model server answered, times the price list.

use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use futures_util::FutureExt;
use nix::sys::signal::Signal;
use serde_json::json;
use tokio::time::{Instant, sleep};

use crate::client::{Ask, Caller};
use crate::place::{Place, Tenant};
use crate::prove::{Findings, Row, Run};

mod account;
mod answers;
mod books;
mod later;
mod lives;
mod money;
mod views;

use account::Account;
use answers::Vendor;
use books::Books;
use lives::Lives;
use money::Prices;

pub(crate) const ROW: Row = Row {
    name: "ledger",
    claim: "money is conserved: each use is charged once at its price, and all views and exports agree to the cent",
    floor: (5_000, 1_000_000),
    bugs: &["folded-twice", "last-minute", "uncounted-adjustment"],
    run: |run| prove(run).boxed(),
};

const SERVERS: usize = 2;
/// Charges upon one organization's log, which is then held against the account.
const CHARGES_A_LOG: u64 = 100_000;
/// The model that has no price until the second half.
const UNPRICED: &str = "house-model-1";
/// How long a request is repeated, and a run waited for: far longer than it takes to take up what a server has left.
const GIVE_UP: Duration = Duration::from_secs(100);

async fn prove(run: Run) -> anyhow::Result<Findings> {
    let mut findings = Findings::default();
    let charges = run.amount(6_000, 1_000_000);
    let mut number = 0;
    while findings.done < charges && !findings.is_red() {
        let left = (charges - findings.done).min(CHARGES_A_LOG);
        // With a bug planted, nothing else may be to blame, and it has to be found soon.
        let left = if run.planted.is_some() { left / 3 } else { left };
        round(&run, (number, left), &mut findings).await?;
        number += 1;
        if run.planted.is_some() {
            break;
        }
    }
    Ok(findings)
}

/// One organization's life, from its first charge to its books.
async fn round(run: &Run, (number, charges): (u64, u64), findings: &mut Findings) -> anyhow::Result<()> {
    let vendor = Vendor::new(run.random(1_000 + number)).await;
    // One folder for both servers, so that either can let go of what the other has made.
    let sandboxes = std::env::temp_dir().join(format!("theazo-proof-ledger-{:x}", fastrand::u64(..)));
    let outcome = life(run, &vendor, &sandboxes, (number, charges), findings).await;
    let _ = std::fs::remove_dir_all(&sandboxes);
    outcome
}

async fn life(
    run: &Run,
    vendor: &Vendor,
    sandboxes: &Path,
    (number, charges): (u64, u64),
    findings: &mut Findings,
) -> anyhow::Result<()> {
    let environment = [
        ("ANTHROPIC_BASE_URL", &*vendor.server.anthropic_url()),
        ("ANTHROPIC_API_KEY", "sk-ant-proof-0000"),
        ("OPENAI_BASE_URL", &*vendor.server.openai_url()),
        ("OPENAI_API_KEY", "sk-proof-0000"),
        ("THEAZO_SANDBOX_DIR", &*sandboxes.display().to_string()),
    ];
    let place = Place::new(run, SERVERS, &environment).await?;
    let desk = Desk { place: &place, tenant: &place.organization("live").await? };
    let card = place.command(&["rates", "show"]).await?;
    let mut account = Account::new(&place.directory().join("account.jsonl"))?;
    for half in 0..2 {
        let mut card = card.clone();
        if half == 1 {
            later::import(desk, &mut card).await?;
        }
        account.priced(Prices::of(&card)?);
        let random = run.random(number * 100 + half);
        let kills = if run.planted.is_none() { run.amount(2, 6) } else { 0 };
        let enough = vendor.charges() + charges / 2;
        let lives = Lives { desk, vendor, half, enough, limit: Instant::now() + run_limit(run) };
        let (lived, killed) = tokio::join!(lives.all(&random), kill(&place, random.clone(), kills));
        findings.did("kills", killed?);
        account.take(lived?, vendor)?;
        desk.is_quiet().await?;
        later::reconcile(desk, &mut account, random.clone(), findings).await?;
        later::adjust(desk, &mut account, random, findings).await?;
    }
    for refused in vendor.server.refused() {
        findings.violation(format!("the model's vendor refused a request: {refused}"));
    }
    let books = Books::read(desk).await?;
    books.hold_against(&account, findings);
    let periods = if run.planted.is_some() { 15 } else { run.amount(40, 60) };
    views::agree(desk, &books, &account, (periods, run.random(number * 100 + 50)), findings).await?;
    findings.done += books.entries.len() as u64;
    findings.did("charges", books.entries.len() as u64);
    place.stop().await
}

/// How long agents may live in one half: they end earlier, once there are enough charges.
fn run_limit(run: &Run) -> Duration {
    Duration::from_secs(run.amount(20, 1_200))
}

/// Kills a server and starts it again, so many times.
async fn kill(place: &Place, mut random: fastrand::Rng, kills: u64) -> anyhow::Result<u64> {
    for _ in 0..kills {
        // A kill comes at any moment of what the agents do, which nothing tells.
        sleep(Duration::from_millis(random.u64(500..2_500))).await;
        let server = random.usize(..SERVERS);
        place.end_server(server, Signal::SIGKILL).await?;
        place.start(server).await?;
    }
    Ok(kills)
}

/// Where everything is asked.
#[derive(Clone, Copy)]
struct Desk<'a> {
    place: &'a Place,
    tenant: &'a Tenant,
}

impl Desk<'_> {
    fn caller(self) -> Caller {
        Caller::new(&self.tenant.key)
    }

    /// Asks on one server after the other, with the same idempotency key, until it is decided.
    async fn ask(self, caller: &mut Caller, ask: &Ask) -> anyhow::Result<serde_json::Value> {
        self.place.carry_out(caller, fastrand::usize(..SERVERS), ask, GIVE_UP).await
    }

    async fn get(self, path: &str) -> anyhow::Result<serde_json::Value> {
        self.ask(&mut self.caller(), &Ask::get(path)).await
    }

    /// All rows of a list, page by page.
    async fn all(self, path: &str, limit: usize) -> anyhow::Result<Vec<serde_json::Value>> {
        let mut caller = self.caller();
        let (mut rows, mut cursor) = (vec![], String::new());
        let more = if path.contains('?') { '&' } else { '?' };
        loop {
            let page = Ask::get(format!("{path}{more}limit={limit}{cursor}"));
            let mut page = self.ask(&mut caller, &page).await?;
            rows.append(page["data"].as_array_mut().context("a list")?);
            let Some(next) = page["nextCursor"].as_str() else { return Ok(rows) };
            cursor = format!("&cursor={next}");
        }
    }

    /// Runs a command about this organization.
    async fn command(self, arguments: &[&str]) -> anyhow::Result<serde_json::Value> {
        let whose = ["--org", &self.tenant.organization, "--mode", "live"];
        self.place.command(&[arguments, &whose].concat()).await
    }

    /// Waits until nothing is left to be done for the organization, so that nothing more is charged.
    async fn is_quiet(self) -> anyhow::Result<()> {
        let client = self.place.superuser().await?;
        let sql = "select coalesce(json_agg(w.kind)::text, '') from work w join tenants t using (tenant_id)
                   where t.organization_id = $1 and w.build = live_build(w.tenant_id, 'work')";
        let until = Instant::now() + GIVE_UP;
        loop {
            let left: String = client.query_one(sql, &[&self.tenant.organization]).await?.get(0);
            if left.is_empty() {
                return Ok(());
            }
            anyhow::ensure!(Instant::now() < until, "work is left: {left}");
            // Nobody is told when work ends, so it is looked at again, until the deadline.
            sleep(Duration::from_millis(50)).await;
        }
    }
}

/// The text at this name.
fn text(value: &serde_json::Value, name: &str) -> anyhow::Result<String> {
    value[name].as_str().map(str::to_owned).with_context(|| format!("{name} of {}", json!(value)))
}
