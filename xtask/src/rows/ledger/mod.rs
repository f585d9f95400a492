//! Agents of many users work for money on two servers that are killed; what the servers then say of it is held against
//! the client's own account: what the model server answered, times the price list.

use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use futures_util::FutureExt;
use serde_json::json;
use tokio::time::{Instant, sleep};

use crate::eprint;
use crate::load::{Account as Journal, Again, Customer, Load};
use crate::place::{Place, Tenant};
use crate::prove::{Findings, Row, Run};

mod account;
mod answers;
mod books;
mod calls;
mod elders;
mod entries;
pub(crate) mod harm;
mod later;
mod lives;
pub(crate) mod money;
pub(crate) mod spans;
mod views;

use account::Account;
use answers::Vendor;
use books::Books;
use elders::Elders;
use harm::Outages;
use lives::{Lives, Session, WORKERS};
use money::Prices;

pub(crate) const ROW: Row = Row {
    name: "ledger",
    claim: "money is conserved: each use is charged once at its price, and all views and exports agree to the cent",
    floor: (5_000, 1_000_000),
    bugs: &["folded-twice", "last-minute", "uncounted-adjustment", "unbilled-compute", "unbilled-storage"],
    run: |run| prove(run).boxed(),
};

const SERVERS: usize = 2;
/// Charges upon one organization's log, which is then held against the account.
const CHARGES_A_LOG: u64 = 100_000;
/// The model that has no price until the second half.
const UNPRICED: &str = "house-model-1";
/// Of so many answers of models one breaks off.
const ANSWERS_A_BREAK: u32 = 25;
/// How long a run is waited for: far longer than it takes to take up what a server has left.
const GIVE_UP: Duration = Duration::from_secs(100);
/// How long the charges of one half may take, and the kills that are spread over them: far longer than on a slow machine. A
/// half ends when there are enough, however slowly they come; what has stopped is met by the deadline of its request or run.
const HALF: Duration = Duration::from_secs(3_600);

async fn prove(run: Run) -> anyhow::Result<Findings> {
    let mut findings = run.findings();
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
    let (evidence, journal) =
        (Evidence::new(run)?, Arc::new(Journal::new(run, &format!("ledger-{number}"))?));
    life(run, (&evidence.folder, &journal), (number, charges), findings).await?;
    journal.close(findings);
    if !findings.is_red() {
        evidence.discard();
    }
    Ok(())
}

/// The folder of a round: what both servers have in their sandboxes, so that either can let go of
/// what the other has made. It is kept where a claim did not hold, or the round did not come to its end.
struct Evidence {
    folder: PathBuf,
    is_kept: bool,
}

impl Evidence {
    /// A new one. With a bug planted it is of no use to anybody afterwards.
    fn new(run: &Run) -> anyhow::Result<Self> {
        let folder = std::env::temp_dir().join(format!("theazo-proof-ledger-{:x}", fastrand::u64(..)));
        std::fs::create_dir_all(&folder)?;
        Ok(Self { folder, is_kept: run.planted.is_none() })
    }

    /// Everything was as it says, so nobody needs it any more.
    fn discard(mut self) {
        self.is_kept = false;
    }
}

impl Drop for Evidence {
    fn drop(&mut self) {
        if self.is_kept {
            let folder = self.folder.display();
            eprint(&format!("the agents' files are kept in {folder}"));
        } else {
            let _ = std::fs::remove_dir_all(&self.folder);
        }
    }
}

async fn life(
    run: &Run,
    (folder, journal): (&Path, &Arc<Journal>),
    (number, charges): (u64, u64),
    findings: &mut Findings,
) -> anyhow::Result<()> {
    // With a bug planted, nothing but that may be to blame.
    let breaks = run.planted.is_none().then_some(ANSWERS_A_BREAK);
    let vendor = Vendor::new(run.random(1_000 + number), Arc::clone(journal), breaks).await;
    let sandboxes = folder.join("sandboxes");
    let environment = [
        ("ANTHROPIC_BASE_URL", &*vendor.server.anthropic_url()),
        ("ANTHROPIC_API_KEY", "sk-ant-proof-0000"),
        ("OPENAI_BASE_URL", &*vendor.server.openai_url()),
        ("OPENAI_API_KEY", "sk-proof-0000"),
        ("THEAZO_SANDBOX_DIR", &*sandboxes.display().to_string()),
    ];
    let place = Place::new(run, SERVERS, &environment).await?;
    let tenant = place.organization("live").await?;
    let load = Load::new(run, &place, journal, Again::KILLED);
    let desk = Desk { place: &place, tenant: &tenant, load: &load, sandboxes: &sandboxes };
    let round = Round { run, number, desk, vendor: &vendor, outages: Outages::default() };
    let mut account = Account::new(Arc::clone(journal));
    round.charge(charges, &mut account, findings).await?;
    for refused in vendor.server.refused() {
        findings.violation(format!("the model's vendor refused a request: {refused}"));
    }
    let (operations, wrong) = load.against_the_log(&tenant).await?;
    findings.did("operations", operations);
    wrong.into_iter().for_each(|wrong| findings.violation(wrong));
    calls::hold_against_vendor(desk, &vendor, &account, findings).await?;
    // Nothing is killed any more: what is not answered now is a failure.
    let strict = Load::new(run, &place, journal, Again::BUSY);
    let mut reader = strict.customer(&tenant.key, "views", number * 100 + 50);
    let books = Books::read(&mut reader).await?;
    books.hold_against(&account, &round.outages, findings);
    let periods = if run.planted.is_none() { run.amount(40, 60) } else { 15 };
    views::agree(&mut reader, (&books, &account), periods, findings).await?;
    if run.planted.is_none() {
        enough(number + 1, periods, findings);
    }
    findings.done += books.entries.len() as u64;
    findings.did("charges", books.entries.len() as u64);
    place.stop().await
}

/// One organization's life.
struct Round<'a> {
    run: &'a Run,
    number: u64,
    desk: Desk<'a>,
    vendor: &'a Vendor,
    outages: Outages,
}

impl<'a> Round<'a> {
    /// Somebody with this name, which nobody else has in the round.
    fn customer(&self, name: &str, purpose: u64) -> Customer<'a> {
        self.desk.load.customer(&self.desk.tenant.key, name, self.number * 100 + purpose)
    }

    /// So many charges are made in two halves, of other prices; some of them become known later, and some are corrected.
    async fn charge(
        &self,
        charges: u64,
        account: &mut Account,
        findings: &mut Findings,
    ) -> anyhow::Result<()> {
        // With a bug planted, nothing but that may be to blame.
        let is_harmed = self.run.planted.is_none();
        let elders =
            if is_harmed { Some(Elders::begin(self.customer("elders", 40), self.desk).await?) } else { None };
        let old: Vec<String> = elders.as_ref().map(Elders::ids).unwrap_or_default();
        let card = self.desk.place.command(&["rates", "show"]).await?;
        for half in 0..2 {
            let mut card = card.clone();
            if half == 1 {
                later::import(self.desk, &mut card).await?;
            }
            account.priced(Prices::of(&card)?);
            let kills = if is_harmed { self.run.amount(4, 20) } else { 0 };
            account.take(self.half(half, (charges / 2, kills), findings).await?, self.vendor);
            self.desk.is_quiet(&old).await?;
            let mut customer = self.customer(&format!("later.{half}"), 60 + half);
            calls::answered_late(self.desk, self.vendor, account, findings).await?;
            later::reconcile(self.desk, &mut customer, account, findings).await?;
            later::adjust(&mut customer, account, findings).await?;
        }
        if let Some(elders) = elders {
            account.take(vec![elders.end(run_age(self.run)).await?], self.vendor);
            self.desk.is_quiet(&[]).await?;
        }
        Ok(())
    }

    /// Sessions that live until so many charges are made, under so many kills.
    async fn half(
        &self,
        half: u64,
        (charges, kills): (u64, u64),
        findings: &mut Findings,
    ) -> anyhow::Result<Vec<Session>> {
        let (desk, vendor, from) = (self.desk, self.vendor, self.vendor.charges());
        let (enough, limit) = (from + charges, Instant::now() + HALF);
        let lives = Lives { desk, vendor, half, enough, limit };
        let load = Load::new(self.run, desk.place, desk.load.account, Again::KILLED);
        let purpose = 100_000 + self.number * 1_000 + half * 100;
        let workers = load.customers([&*desk.tenant.key; WORKERS], &format!("half-{half}"), purpose);
        let living = async {
            let lived = load.live(workers, |worker| lives.live(worker)).await;
            load.end();
            lived
        };
        let random = self.run.random(self.number * 100 + half);
        let killing = harm::kill(&load, (vendor, &self.outages), (from, enough, kills), random);
        let (lived, killed) = tokio::join!(living, killing);
        let (servers, databases) = killed?;
        findings.did("kills of servers", servers);
        findings.did("kills of the database", databases);
        findings.claim(servers + databases == kills, || {
            format!("{servers} + {databases} kills, and {kills} were to be: too little was charged in time")
        });
        Ok(lived.into_iter().collect::<anyhow::Result<Vec<_>>>()?.into_iter().flatten().collect())
    }
}

/// How old agents are at least that live all the round: in the full budget they are measured some times in any case.
fn run_age(run: &Run) -> Duration {
    Duration::from_secs(run.amount(50, 200))
}

/// What has to have been looked at, so that the round has shown anything.
fn enough(rounds: u64, periods: u64, findings: &mut Findings) {
    let work = |what: &str| findings.work.get(what).copied().unwrap_or_default();
    let seen = [
        ("periods with some, whose entries were read", rounds * periods / 4),
        ("lists of entries that were asked for by whose they are", rounds * periods / 2),
        ("agents that must be charged for what they keep", rounds * 3),
        ("calls at what their vendor told of them", rounds * 3),
    ];
    let missing: Vec<_> = seen.into_iter().filter(|(what, least)| work(what) < *least).collect();
    findings.claim(missing.is_empty(), || format!("too little was looked at: {missing:?}"));
}

/// Where everything is asked.
#[derive(Clone, Copy)]
struct Desk<'a> {
    place: &'a Place,
    tenant: &'a Tenant,
    load: &'a Load<'a>,
    sandboxes: &'a Path,
}

impl Desk<'_> {
    /// Where a file of an agent's is.
    fn kept(self, agent: &str) -> PathBuf {
        self.sandboxes.join(agent).join("workspace/kept")
    }

    /// Whether the file of so many bytes is there that was put into an agent's workspace.
    fn has_file(self, agent: &str, size: usize) -> bool {
        std::fs::metadata(self.kept(agent)).is_ok_and(|file| file.len() == size as u64)
    }

    /// Puts a file of so many bytes into an agent's workspace, and gives what it takes on the disk.
    fn keep_file(self, agent: &str, size: usize) -> anyhow::Result<u64> {
        let mut file = std::fs::File::create(self.kept(agent))?;
        // Nothing that a disk would make smaller.
        let mut random = fastrand::Rng::with_seed(size as u64);
        let content: Vec<u8> = std::iter::repeat_with(|| random.u8(..)).take(size).collect();
        file.write_all(&content)?;
        file.sync_all()?;
        Ok(file.metadata()?.blocks() * 512)
    }

    /// Runs a command about this organization.
    async fn command(self, arguments: &[&str]) -> anyhow::Result<serde_json::Value> {
        let whose = ["--org", &self.tenant.organization, "--mode", "live"];
        self.place.command(&[arguments, &whose].concat()).await
    }

    /// Waits until nothing is left to be done for the organization but for these agents, so that nothing more is charged.
    async fn is_quiet(self, but_for: &[String]) -> anyhow::Result<()> {
        let client = self.place.superuser().await?;
        let sql = "select coalesce(json_agg(w.kind)::text, '') from work w join tenants t using (tenant_id)
                   where t.organization_id = $1 and w.build = live_build(w.tenant_id, 'work')
                     and w.agent_id <> all($2)";
        let until = Instant::now() + GIVE_UP;
        loop {
            let left: String = client.query_one(sql, &[&self.tenant.organization, &but_for]).await?.get(0);
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
