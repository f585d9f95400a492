//! Two logs on the same servers, whose events have the same positions: each is told by itself.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::Context;
use tokio::time::timeout;

use super::create_session;
use super::frames::{Asked, Piece, Seen, Stream};
use crate::load::{Account, Again, Load};
use crate::place::{Place, Tenant};
use crate::prove::{Findings, Run};

/// Sessions of each of them: fewer events than a server keeps the frames of.
const SESSIONS: usize = 40;
/// How long a stream is waited for until it has come to the end of its log.
const GIVE_UP: Duration = Duration::from_secs(100);

/// Reads both of them on both servers, one right behind the other, and holds what was given against each.
pub(super) async fn prove(place: &Place, run: &Run, findings: &mut Findings) -> anyhow::Result<()> {
    let logs = [place.organization("live").await?, place.organization("live").await?];
    let account = Account::new(run, "sse-beside")?;
    let load = Load::new(run, place, &account, Again::KILLED);
    for mut writer in load.customers(logs.iter().map(|tenant| &*tenant.key), "beside", 200_000) {
        for _ in 0..SESSIONS {
            create_session(&mut writer).await?;
        }
    }
    let client = place.superuser().await?;
    let seen = [Seen::default(), Seen::default()];
    let mut wrong = vec![];
    for server in 0..2 {
        for (tenant, seen) in logs.iter().zip(&seen) {
            let end = end(&client, tenant).await?;
            let read = timeout(GIVE_UP, read(place, (server, tenant), end, seen)).await;
            wrong.extend(read.unwrap_or_else(|_| Ok(Some(format!("it does not come to {end}"))))?);
            findings.did("events read beside another log", end);
        }
    }
    for (tenant, seen) in logs.iter().zip(&seen) {
        let log = (tenant.organization.as_str(), "live");
        wrong.extend(seen.against_the_log(&client, log, BTreeSet::new()).await?);
    }
    wrong.into_iter().for_each(|wrong| findings.violation(format!("beside another log: {wrong}")));
    account.close(findings);
    Ok(())
}

/// The last position of a log.
async fn end(client: &tokio_postgres::Client, tenant: &Tenant) -> anyhow::Result<u64> {
    let sql = "select h.position from heads h join tenants t using (tenant_id)
               where t.organization_id = $1 and t.mode = 'live'";
    let end: i64 = client.query_one(sql, &[&tenant.organization]).await?.get(0);
    Ok(u64::try_from(end)?)
}

/// Reads a log from its beginning to its end; what is wrong with what comes.
async fn read(
    place: &Place,
    (server, tenant): (usize, &Tenant),
    end: u64,
    seen: &Seen,
) -> anyhow::Result<Option<String>> {
    let address = place.address(server).context("a server runs")?;
    let path = "/v1/events/stream?after=0";
    let asked = Asked { key: &tenant.key, path, last_event_id: None, small_buffer: false };
    let mut stream = Stream::served(&address, &asked).await?;
    let mut last = 0;
    while last < end {
        match stream.next().await {
            Some(Piece::Frame(frame)) if frame.id != last + 1 => {
                return Ok(Some(format!("{} behind {last}", frame.id)));
            }
            Some(Piece::Frame(frame)) => {
                last = frame.id;
                if let Err(wrong) = seen.meets(frame) {
                    return Ok(Some(wrong));
                }
            }
            Some(Piece::Comment) => {}
            Some(Piece::Wrong(wrong)) => return Ok(Some(wrong)),
            None => return Ok(Some(format!("the stream ended after {last}"))),
        }
    }
    Ok(None)
}
