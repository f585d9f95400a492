//! What is done to the servers: they are killed, and led over the edges of days and months.

use std::time::Duration;

use nix::sys::signal::Signal;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep};

use super::clock::{Edge, machine_ms};
use super::spenders::Scene;

/// How long before an edge the clock is led to, so that the edge itself comes as it always does.
pub(super) const BEFORE_AN_EDGE: Duration = Duration::from_secs(15);
/// How long after an edge nothing is moved.
const AFTER_AN_EDGE: Duration = Duration::from_secs(10);
/// How long besides after each third: where the clock is moved, leases run out, and it would not be seen how long they last.
const UNMOVED: Duration = Duration::from_secs(80);

/// The death of a server.
#[derive(Debug)]
pub(super) struct Kill {
    /// By the machine's clock.
    pub(super) at: i64,
    /// The end of the log then.
    pub(super) head: i64,
    /// The agents whose runs it had.
    pub(super) agents: Vec<String>,
}

/// Kills servers at random moments until the scene is over. Nobody moves the clock while it is found out whom a kill met.
pub(super) async fn kill(
    scene: &Scene<'_>,
    calm: &Mutex<()>,
    (mut random, kills): (fastrand::Rng, bool),
) -> anyhow::Result<Vec<Kill>> {
    let database = scene.load.place.superuser().await?;
    let head = "select h.position from heads h join tenants t using (tenant_id)
                where t.organization_id = $1 and t.mode = 'live'";
    let runs = "select l.subject from leases l where l.kind = 'run' and l.worker = $1";
    let mut killed = vec![];
    while kills && !scene.load.is_over() {
        sleep(Duration::from_millis(random.u64(1_000..5_000))).await;
        let server = random.usize(..2);
        let held = calm.lock().await;
        let worker = worker(scene, server)?;
        scene.load.place.end_server(server, Signal::SIGKILL).await?;
        let at = machine_ms();
        let head = database.query_one(head, &[&scene.tenant.organization]).await?.get(0);
        let rows = database.query(runs, &[&worker]).await?;
        drop(held);
        killed.push(Kill { at, head, agents: rows.iter().map(|row| row.get(0)).collect() });
        scene.load.place.start(server).await?;
    }
    Ok(killed)
}

/// The name under which a server holds work: it stands in its log.
fn worker(scene: &Scene<'_>, server: usize) -> anyhow::Result<String> {
    let log = std::fs::read_to_string(scene.load.place.folder(server).with_extension("log"))?;
    let named = log.rsplit_once(r#""worker":""#).and_then(|(_, rest)| rest.split_once('"'));
    Ok(named.map(|(worker, _)| worker.to_owned()).unwrap_or_default())
}

/// Leads the clock to one edge after the other. The first is one of a month, and was led up to already.
pub(super) async fn cross(scene: &Scene<'_>, calm: &Mutex<()>) -> anyhow::Result<()> {
    for turn in 1_u64.. {
        let unmoved = if turn.is_multiple_of(3) { UNMOVED } else { Duration::ZERO };
        let next = Instant::now() + BEFORE_AN_EDGE + AFTER_AN_EDGE + unmoved;
        tokio::time::sleep_until(next.min(scene.until)).await;
        if Instant::now() + BEFORE_AN_EDGE + AFTER_AN_EDGE / 2 > scene.until {
            break;
        }
        let edge = if turn.is_multiple_of(2) { Edge::Month } else { Edge::Day };
        let _held = calm.lock().await;
        scene.clock.lead_up_to(scene.load.place, edge, BEFORE_AN_EDGE).await?;
    }
    Ok(())
}
