//! What the server takes of the machine's memory: idle, and for each event stream that is open and quiet.
//!
//! `cargo bench --bench memory` (`-- --streams 4000`, `--quick`). The server is a process of its own, and this
//! process is its callers. Memory is what the system counts as resident (`VmRSS` of `/proc/PID/status`); the buffers
//! of sockets in the kernel are not in it.

#![expect(clippy::print_stdout, reason = "a bench prints its figures")]
#![expect(clippy::float_arithmetic, clippy::cast_precision_loss, reason = "figures, not money")]

#[path = "world/resident.rs"]
mod resident;
#[expect(dead_code, reason = "not every bench uses all of it")]
#[path = "world/served.rs"]
mod served;
mod world;

use resident::resident;
use served::{Connection, Served};
use world::{World, argument, quick};

/// Streams that are opened first, so that what is made once is not counted as theirs.
const FIRST_STREAMS: usize = 50;
/// Streams that are being opened at the same time.
const AT_ONCE: usize = 50;

/// Opens streams of events and waits until each has begun.
async fn open(served: &Served, number: usize, streams: &mut Vec<Connection>) -> anyhow::Result<()> {
    for first in (0..number).step_by(AT_ONCE) {
        let opening = (first..number.min(first + AT_ONCE)).map(async |_| {
            let mut connection = served.connect().await?;
            connection.send(&served.request("GET", "/v1/events/stream", "")).await?;
            connection.head("200").await?;
            anyhow::Ok(connection)
        });
        streams.extend(futures_util::future::try_join_all(opening).await?);
    }
    Ok(())
}

async fn bench() -> anyhow::Result<()> {
    theazo::serve::raise_open_files();
    let number = argument("--streams", if quick() { 1_000.0 } else { 4_000.0 }) as usize;
    let world = World::new().await?;
    let served = Served::start(&world).await?;
    let process_id = served.process_id()?;
    let idle = resident(process_id)?;
    let mut streams = vec![];
    open(&served, FIRST_STREAMS, &mut streams).await?;
    let before = resident(process_id)?;
    open(&served, number, &mut streams).await?;
    let after = resident(process_id)?;
    println!("| | memory |");
    println!("|---|---|");
    println!("| the server, idle | {:.1} MB |", idle as f64 / 1e6);
    let each = after.saturating_sub(before) as f64 / number as f64;
    println!("| each of {number} quiet event streams | {:.1} kB |", each / 1e3);
    drop(streams);
    drop(served);
    world.end().await;
    Ok(())
}

fn main() -> anyhow::Result<()> {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?.block_on(bench())
}
