//! Folding a whole log anew, beside a bare `select` of the same rows.
//!
//! `cargo bench --bench rebuild` (`-- --events 1000000`, `--rounds 2`, `--quick` for 50,000 events). The log is made
//! through the log itself, by as many callers as one batch takes. `rows` reads every row that a fold reads in one
//! stream and looks at none of them; `compare` folds the log into a read model that it compares with the live one and
//! throws away; `rebuild` writes the new one for good and switches to it.

#![expect(clippy::print_stdout, reason = "a bench prints its figures")]
#![expect(clippy::float_arithmetic, clippy::cast_precision_loss, reason = "figures, not money")]

#[path = "world/own_log.rs"]
mod own_log;
mod world;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Instant;

use anyhow::{Context, ensure};
use futures_util::TryStreamExt;
use own_log::{session_life, submission};
use theazo::log::{Log, Tenant, rebuild};
use theazo_domain::Command;
use tokio::task::JoinSet;
use world::{World, argument, quick};

/// Callers that fill the log: what one batch takes.
const CALLERS: usize = 512;

/// Fills a log with so many events and a few more.
async fn fill(log: &Arc<Log>, tenant: Tenant, events: i64) -> anyhow::Result<()> {
    let left = Arc::new(AtomicI64::new(events));
    let mut tasks = JoinSet::new();
    for _ in 0..CALLERS {
        let (log, left) = (Arc::clone(log), Arc::clone(&left));
        tasks.spawn(async move {
            while left.load(Ordering::Relaxed) > 0 {
                let (session, commands) = session_life();
                for command in commands {
                    log.execute(tenant, submission(Command::Session(session, command))).await??;
                    left.fetch_sub(1, Ordering::Relaxed);
                }
            }
            anyhow::Ok(())
        });
    }
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    Ok(())
}

/// Reads every row in one stream; how many there were.
async fn rows(client: &tokio_postgres::Client, tenant: Tenant) -> anyhow::Result<i64> {
    let sql = "select position, event_id, type, version, subjects, data::text, metadata::text, at, leaf_hash
               from events where tenant_id = $1 order by position";
    let rows = client.query_raw(sql, [tenant.id.0]).await?;
    let count = rows.try_fold(0, async |count, _| Ok(count + 1)).await?;
    Ok(count)
}

async fn bench() -> anyhow::Result<()> {
    let events = argument("--events", if quick() { 50_000.0 } else { 1_000_000.0 }) as i64;
    let rounds = argument("--rounds", if quick() { 1.0 } else { 2.0 }) as usize;
    let world = World::new().await?;
    let log = world.log()?;
    let tenant = world.tenants(&log, 1).await?[0];
    let began = Instant::now();
    fill(&log, tenant, events).await?;
    println!("the log was filled in {:.1} s", began.elapsed().as_secs_f64());
    let client = world.connect("theazo").await?;
    client.batch_execute("vacuum analyze").await?;
    let sessions = theazo_projections::named("sessions").context("there is a projection of sessions")?;
    let mut figures = [const { vec![] }; 3];
    let mut count = 0;
    for _ in 0..rounds {
        let began = Instant::now();
        count = rows(&client, tenant).await?;
        figures[0].push(count as f64 / began.elapsed().as_secs_f64());
        let compared = rebuild::compare(&log, tenant, sessions).await?;
        figures[1].push(compared.events as f64 / compared.seconds);
        let rebuilt = rebuild::rebuild(&log, tenant, sessions).await?;
        figures[2].push(rebuilt.events as f64 / rebuilt.seconds);
        ensure!(compared.equal && rebuilt.equal && rebuilt.switched, "a fold differs from what is served");
        ensure!(compared.events == count && rebuilt.events == count, "not every event was folded");
    }
    let mean = |figures: &[f64]| figures.iter().sum::<f64>() / figures.len() as f64;
    println!("| {count} events | events a second | beside the bare select |");
    println!("|---|---|---|");
    for (name, rates) in ["bare select of the rows", "compare", "rebuild"].iter().zip(&figures) {
        println!("| {name} | {:.0} | {:.2} |", mean(rates), mean(rates) / mean(&figures[0]));
    }
    log.close().await;
    world.end().await;
    Ok(())
}

fn main() -> anyhow::Result<()> {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?.block_on(bench())
}
