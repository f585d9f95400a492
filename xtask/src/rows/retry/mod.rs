//! Every write is sent twice at the same moment, again later, over a connection that is cut, and as another request under
//! the same key, at the same moment and later. Writes that are refused are sent again, too, also when what they were refused
//! for has gone.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context;
use futures_util::FutureExt;
use serde_json::Value;

use crate::client::{Ask, DEADLINE};
use crate::load::{Account, Again, Anything, Customer, Load};
use crate::place::{Place, Tenant};
use crate::prove::{Findings, Row, Run};

mod effects;
mod life;
mod refused;
mod send;

use life::{Life, STEPS};

pub(crate) const ROW: Row = Row {
    name: "retry",
    claim: "any request may be sent again: each write has one effect and one answer, however often it is sent",
    floor: (2_000, 100_000),
    bugs: &["forgotten-key", "any-body", "any-target", "lost-key"],
    run: |run| prove(run).boxed(),
};

const CALLERS: usize = 16;
/// How a request is repeated that was not decided: on two cores that have other things to do, a server may tell one to come
/// back (503) some times in a row. Sooner than `Retry-After` says, so that more are met; and by the same server, since a copy
/// is meant for one of them.
const AGAIN: Again =
    Again { each: DEADLINE, all: Duration::from_secs(60), rest_ms: 50..=50, stays: true, ..Again::KILLED };
/// Violations of one caller beyond which it goes no further.
const ENOUGH_VIOLATIONS: usize = 20;
/// How long something is waited for that ends.
const WAIT: Duration = Duration::from_secs(60);

/// A write: how it stands in the API document, and how to ask for it anew.
struct Write {
    operation: &'static str,
    ask: Ask,
}

/// What was sent, by what came of it.
#[derive(Debug, Default)]
struct Sent {
    /// Copies of a request behind the first one that were answered as it was.
    duplicates: AtomicU64,
    /// Copies that were sent whole over a connection that was cut: who knows whether they arrived.
    cut: AtomicU64,
    /// Other requests under the key of one: each has to be refused.
    changed: AtomicU64,
    /// Of those, at the same moment.
    at_once: AtomicU64,
    /// Rounds in which a copy whose connection was cut was the one that took effect: all that came behind it were given
    /// its answer.
    took_effect: AtomicU64,
    /// Programs that were never run, since their caller went away at the moment at which their start was written down.
    given_up: AtomicU64,
    /// Copies of a refused request behind the first one, which were refused as it was.
    refused: AtomicU64,
    /// The same, when what it was refused for had gone.
    refused_still: AtomicU64,
}

impl Sent {
    /// Tells what was sent, and holds it against what has to be met.
    fn told(&self, run: &Run, findings: &mut Findings) {
        let count = |count: &AtomicU64| count.load(Ordering::Relaxed);
        findings.done = count(&self.duplicates);
        findings.did("duplicates", findings.done);
        findings.did("copies whose connection was cut", count(&self.cut));
        findings.did("other requests under a key", count(&self.changed));
        findings.did("other requests at the same moment", count(&self.at_once));
        findings.did("programs given up with their caller", count(&self.given_up));
        findings.did(TOOK_EFFECT, count(&self.took_effect));
        findings.did(REFUSED, count(&self.refused));
        findings.did(REFUSED_STILL, count(&self.refused_still));
        for (what, quick, full) in MET {
            let (met, least) = (findings.work[what], run.amount(quick, full));
            // A run that has to find a bug ends when it has found enough.
            findings.claim(run.planted.is_some() || met >= least, || format!("only {met} of {least} {what}"));
        }
    }
}

const TOOK_EFFECT: &str = "rounds in which a cut copy took effect";
const REFUSED: &str = "refusals given again";
const REFUSED_STILL: &str = "refusals given again though their cause had gone";

/// What has to have been met besides, below which a run has shown nothing: quick and full. One write of four has a copy
/// that is sent whole and cut within 50 ms, and one of two of those takes effect where a commit takes some milliseconds;
/// so few are asked for since a slow machine may take longer than that for nearly all of them. How many refusals there are
/// depends on no clock: eight a round, and sixteen rounds at least.
const MET: [(&str, u64, u64); 3] =
    [(TOOK_EFFECT, 5, 200), (REFUSED, 100, 10_000), (REFUSED_STILL, 100, 10_000)];

async fn prove(run: Run) -> anyhow::Result<Findings> {
    let sandboxes = std::env::temp_dir().join(format!("theazo-proof-retry-{:x}", fastrand::u64(..)));
    let outcome = sent_again(&run, &sandboxes).await;
    let _ = std::fs::remove_dir_all(&sandboxes);
    outcome
}

async fn sent_again(run: &Run, sandboxes: &std::path::Path) -> anyhow::Result<Findings> {
    let place = Place::new(run, 2, &[("THEAZO_SANDBOX_DIR", &sandboxes.display().to_string())]).await?;
    // One for each caller, since the providers of a tenant are there once.
    let mut tenants = vec![];
    for _ in 0..CALLERS {
        tenants.push(place.organization("test").await?);
    }
    let mut findings = run.findings();
    let account = Account::new(run, "retry")?;
    let load = Load::new(run, &place, &account, AGAIN);
    let sent = Sent::default();
    let aim = run.amount(2_500, 100_000);
    let scenes: Vec<_> =
        tenants.iter().map(|tenant| Scene { load: &load, tenant, aim, sent: &sent }).collect();
    run.doing.now("each write is made once");
    let keys = || tenants.iter().map(|tenant| &*tenant.key);
    let scene = |caller: &Customer<'_>| &scenes[caller.number];
    let controls = load.live(load.customers(keys(), "once", 100), |caller| scene(&caller).once(caller));
    for outcome in controls.await {
        outcome.context("a write that must succeed did not")?;
    }
    run.doing.now("writes are sent again");
    let callers = load.live(load.customers(keys(), "retry", 0), |caller| scene(&caller).caller(caller));
    let mut covered = BTreeSet::new();
    for told in callers.await {
        let (operations, violations) = told?;
        covered.extend(operations);
        violations.into_iter().for_each(|violation| findings.violation(violation));
    }
    if !findings.is_red() {
        run.doing.now("programs are sent again");
        effects::prove(&load, run, (sandboxes, &sent), &mut findings).await?;
    }
    sent.told(run, &mut findings);
    findings.did("asked again", load.asked_again.load(Ordering::Relaxed));
    findings.did("operations", covered.len() as u64);
    for operation in scenes[0].writes().await? {
        findings.claim(covered.contains(&operation), || {
            format!("{operation} is a write that was never sent twice")
        });
    }
    count_by_key(&load, &mut findings).await?;
    account.close(&findings);
    place.stop().await?;
    Ok(findings)
}

/// All that happened under one key happened in one request, and is what happened where the same write was made once. And
/// nothing happened that nobody asked for, or without a key.
async fn count_by_key(load: &Load<'_>, findings: &mut Findings) -> anyhow::Result<()> {
    let client = load.place.superuser().await?;
    let asked = load.account.operations::<Anything>()?;
    let sql = "select metadata->>'idempotencyKey', count(distinct metadata->>'requestId'),
                 string_agg(type, ' ' order by tenant_id, position)
               from events where metadata->>'idempotencyKey' is not null group by 1";
    let mut happened: BTreeMap<String, String> = BTreeMap::new();
    for row in client.query(sql, &[]).await? {
        let (key, requests): (String, i64) = (row.get(0), row.get(1));
        findings.claim(requests == 1, || format!("{key} was carried out {requests} times"));
        findings.claim(asked.contains_key(&key), || format!("nobody asked for what happened under {key}"));
        happened.insert(key, row.get(2));
    }
    let mut compared = 0;
    for key in asked.keys() {
        let Some(("retry", [_, _, step])) = parts(key) else { continue };
        let events = happened.get(key).map(String::as_str).unwrap_or_default();
        let once = happened.get(&format!("once-0-0-{step}")).map(String::as_str).unwrap_or_default();
        findings.claim(told(once) == told(events) && metered(events) <= 1, || {
            format!("{key}: {events}; and made once: {once}")
        });
        compared += 1;
    }
    findings.did("keys whose events were counted", compared);
    let sql = "select count(*), min(type) from events e join tenants t using (tenant_id)
               where metadata->>'actor' like 'key\\_%' and metadata->>'idempotencyKey' is null";
    let row = client.query_one(sql, &[]).await?;
    let (without, kind): (i64, Option<String>) = (row.get(0), row.get(1));
    findings.claim(without == 0, || format!("{without} events have lost their key, such as {kind:?}"));
    Ok(())
}

/// The types of events but those of compute: whether there is any to be metered depends on how fast an agent was woken.
fn told(events: &str) -> Vec<&str> {
    events.split(' ').filter(|kind| !kind.starts_with("compute.")).collect()
}

fn metered(events: &str) -> usize {
    events.split(' ').filter(|kind| kind.starts_with("compute.")).count()
}

/// What a key is called after: what it is for, and caller, round and step.
fn parts(key: &str) -> Option<(&str, [&str; 3])> {
    let (kind, rest) = key.split_once('-')?;
    let (caller, rest) = rest.split_once('-')?;
    let (round, step) = rest.split_once('-')?;
    Some((kind, [caller, round, step]))
}

struct Scene<'a> {
    load: &'a Load<'a>,
    tenant: &'a Tenant,
    aim: u64,
    sent: &'a Sent,
}

/// Three who send copies of the same.
type Copies<'a> = [Customer<'a>; 3];

/// The operations that were sent again, and what is wrong.
type Told = (BTreeSet<String>, Vec<String>);

impl<'a> Scene<'a> {
    /// Somebody who sends what has a key already.
    fn customer(&self) -> Customer<'a> {
        self.load.customer(&self.tenant.key, "", 0)
    }

    fn copies(&self) -> Copies<'a> {
        [(); 3].map(|()| self.customer())
    }

    fn life(&self, name: String) -> Life<'a> {
        Life { name, caller: self.customer(), known: BTreeMap::new() }
    }

    fn address(&self, server: usize) -> anyhow::Result<String> {
        self.load.place.address(server).context("a server runs")
    }

    /// The writes of the API document, as `METHOD path`.
    async fn writes(&self) -> anyhow::Result<Vec<String>> {
        let document = self.customer().look("/v1/openapi.json").await?;
        let mut writes = vec![];
        for (path, item) in document["paths"].as_object().context("it has paths")? {
            for method in ["post", "put", "patch", "delete"] {
                if item.get(method).is_some() {
                    writes.push(format!("{} {path}", method.to_uppercase()));
                }
            }
        }
        Ok(writes)
    }

    /// One life in which each write is made once: what the others are held against.
    async fn once(&self, mut caller: Customer<'_>) -> anyhow::Result<()> {
        let number = caller.number;
        let mut life = self.life(format!("{number}_once"));
        for step in 0..STEPS {
            let Some(write) = life.step(step).await? else { continue };
            let ask = write.ask.once(format!("once-{number}-0-{step}"));
            let answer = self.answered(&mut caller, 0, &ask).await?;
            let (status, text) = (answer.status, &answer.text);
            anyhow::ensure!(answer.is_success(), "{}: {status} {text}", write.operation);
            life.learn(step, &answer.json());
        }
        Ok(())
    }

    /// Lives in which each write is sent again, until there is enough of it. What was found stands also where one breaks
    /// off.
    async fn caller(&self, caller: Customer<'_>) -> anyhow::Result<Told> {
        let mut told = (BTreeSet::new(), vec![]);
        if let Err(error) = self.lives(caller, &mut told).await {
            told.1.push(format!("a write that must succeed did not: {error:#}"));
        }
        Ok(told)
    }

    async fn lives(
        &self,
        Customer { number, mut random, .. }: Customer<'_>,
        (covered, violations): &mut Told,
    ) -> anyhow::Result<()> {
        let mut callers = self.copies();
        for round in 0_u64.. {
            let mut life = self.life(format!("{number}_{round}"));
            for step in 0..STEPS {
                let enough = self.sent.duplicates.load(Ordering::Relaxed) >= self.aim;
                if enough && round > 0 || violations.len() > ENOUGH_VIOLATIONS {
                    return Ok(());
                }
                let Some(write) = life.step(step).await? else { continue };
                let ask = write.ask.clone().once(format!("retry-{number}-{round}-{step}"));
                let first: Value =
                    self.send_again(&mut callers, (&write, ask), &mut random, violations).await?;
                covered.insert(write.operation.to_owned());
                life.learn(step, &first);
            }
            self.refusals(&mut callers, &life.name, violations).await?;
        }
        Ok(())
    }
}
