//! Every operation is asked with another tenant's ids, with both walls up and with each of them taken away: by another
//! organization, and by the other mode of the same.

use anyhow::Context;
use futures_util::FutureExt;
use serde_json::Value;

use crate::load::{Account, Again, Load};
use crate::place::Place;
use crate::prove::{Budget, Findings, Row, Run};

mod crossings;
mod storm;
mod victim;

use crossings::Crossing;
use storm::{Operation, Storm};
use victim::{Victim, Who};

pub(crate) const ROW: Row = Row {
    name: "tenants",
    claim: "nobody sees or changes what is another tenant's, and each of the two walls holds alone",
    floor: (3_000, 100_000),
    bugs: &[NO_PREDICATE, "shared-frames"],
    run: |run| prove(run).boxed(),
};

/// The program's wall taken away, of all that is read: what its statements say of the tenant is always true. Statements of
/// the path that appends, of keys that are held and of rebuilds say it as ever.
const NO_PREDICATE: &str = "no-predicate";
/// The database's wall taken away, on every table that has one.
const NO_ROW_SECURITY: &str = "do $$ declare name text; begin
    for name in select relname from pg_class where relrowsecurity loop
      execute format('alter table %I disable row level security', name);
      execute format('alter table %I no force row level security', name);
    end loop; end $$";
const CALLERS: usize = 8;

async fn prove(run: Run) -> anyhow::Result<Findings> {
    let mut findings = run.findings();
    if let Some(bug) = run.planted {
        // With the program's wall both are away: this has to be seen, or the run would see nothing anywhere.
        wall(&run, bug == NO_PREDICATE, 600, &mut findings).await?;
        return Ok(findings);
    }
    let each = run.amount(1_800, 36_000);
    wall(&run, false, each, &mut findings).await?;
    wall(&run, true, each, &mut findings).await?;
    let without = Run { planted: Some(NO_PREDICATE), budget: Budget::Full, ..run.clone() };
    wall(&without, false, each, &mut findings).await?;
    findings.did("walls taken away alone", 2);
    Ok(findings)
}

/// One round of requests, over a database whose wall stands or not.
async fn wall(run: &Run, open: bool, requests: u64, findings: &mut Findings) -> anyhow::Result<()> {
    let place = Place::new(run, 2, &[]).await?;
    let (mine, others) = (place.organization("test").await?, place.organization("test").await?);
    let create = ["key", "create", "--org", &others.organization, "--mode", "live", "--role", "admin"];
    let live = place.command(&create).await?["key"].as_str().context("a key")?.to_owned();
    let who = |organization: &str, mode, key: &str| Who {
        organization: organization.to_owned(),
        mode,
        key: key.to_owned(),
    };
    let outsiders = [who(&mine.organization, "test", &mine.key), who(&others.organization, "live", &live)];
    let account = Account::new(run, "tenants")?;
    let load = Load::new(run, &place, &account, Again::BUSY);
    let mut victim = Victim::live(&load, &who(&others.organization, "test", &others.key)).await?;
    // The same life, so that both logs have the same kinds of events at the same positions.
    let own = Victim::live(&load, &outsiders[0]).await?;
    let superuser = place.superuser().await?;
    victim.seen = victim.look(&load, &superuser, None).await?;
    if open {
        superuser.batch_execute(NO_ROW_SECURITY).await?;
    }
    let document = load.customer(&mine.key, "", 0).look("/v1/openapi.json").await?;
    let operations = storm::operations(&document)?;
    let listings = listings(&operations, &victim);
    for outsider in &outsiders {
        let storm = Storm {
            outsider,
            victim: &victim,
            operations: &operations,
            requests: requests / (CALLERS * outsiders.len()) as u64,
        };
        let callers = load.customers([&*outsider.key; CALLERS], "outsider", 50);
        for outcome in load.live(callers, |caller| storm.ask_all(caller)).await {
            let (decided, told) = outcome?;
            told.into_iter().for_each(|violation| findings.violation(violation));
            // What was not valid has met no wall.
            findings.done += decided;
        }
        if findings.is_red() {
            // Where the walls are down, what is asked next comes to anything.
            account.close(findings);
            return place.stop().await;
        }
        let crossing = Crossing { load: &load, client: &superuser, outsider, victim: &victim };
        if outsider.mode == own.who.mode {
            crossing.agents(&own, findings).await?;
        }
        crossing.try_all(&listings, findings).await?;
    }
    findings.did("operations", operations.len() as u64);
    findings.work.insert("requests that were valid", findings.done);
    for change in victim.changes(&load, &superuser).await? {
        findings.violation(format!("another tenant has changed {change}"));
    }
    account.close(findings);
    place.stop().await
}

/// The listings that have pages, with what is the victim's in their paths.
fn listings(operations: &[Operation], victim: &Victim) -> Vec<String> {
    let paged =
        operations.iter().filter(|operation| operation.parameters.iter().any(|name| name == "cursor"));
    paged.map(|operation| operation.path(victim, 1)).collect()
}

/// The members of a page, where an answer is one.
fn rows(answer: &Value) -> Option<&Vec<Value>> {
    answer["data"].as_array()
}
