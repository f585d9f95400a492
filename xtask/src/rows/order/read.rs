//! The readers.

use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::Value;
use tokio::time::{Instant, sleep, timeout};

use super::{CREATED, READERS, Read, Scene, write_of};
use crate::client::{Ask, Caller};
use crate::load::BUSY;
use crate::rows::sse::frames::{Asked, Piece, Stream};

/// How long a reader may take to read what was appended before the writers ended.
const CATCH_UP: Duration = Duration::from_secs(60);
/// How long a stream is read that gives nothing.
const QUIET: Duration = Duration::from_secs(1);

/// How a reader follows the log.
#[derive(Debug, Clone, Copy)]
pub(super) enum Way {
    /// `GET /v1/events/stream`, from the start.
    Stream,
    /// `GET /v1/events?after=…`, again and again.
    Pages,
}

/// What an event that a reader was given is of.
fn given(event: &Value) -> anyhow::Result<(i64, u64)> {
    let position = event["position"].as_i64().context("an event has a position")?;
    let mut subjects = event["subjects"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let session = subjects.find(|subject| subject.starts_with("ses_"));
    let write = match (event["type"].as_str(), event["metadata"]["idempotencyKey"].as_str(), session) {
        (Some(CREATED), Some(key), Some(session)) => write_of(key, session),
        _ => 0,
    };
    Ok((position, write))
}

/// The position of the last event that a reader was given; 0 before the first.
fn last(read: &Read) -> i64 {
    read.last().map_or(0, |(last, _)| *last)
}

impl Scene<'_> {
    /// What a reader is given, until it has all that was appended.
    pub(super) async fn read(&self, reader: usize) -> anyhow::Result<Read> {
        let (server, way) = READERS[reader];
        let mut read: Read = vec![];
        let mut until = None;
        loop {
            let end = if self.load.is_over() { Some(self.head().await?) } else { None };
            if let Some(end) = end {
                let until = *until.get_or_insert_with(|| Instant::now() + CATCH_UP);
                if read.last().is_some_and(|(last, _)| *last >= end) || Instant::now() > until {
                    return Ok(read);
                }
            }
            match way {
                Way::Stream => self.stream(server, reader, &mut read).await?,
                Way::Pages => self.page(server, reader, &mut read).await?,
            }
        }
    }

    /// Notes that a reader was given so many events more.
    fn was_given(&self, reader: usize, events: usize) {
        self.given[reader].fetch_add(events as u64, Ordering::Relaxed);
    }

    async fn head(&self) -> anyhow::Result<i64> {
        let sql = "select h.position from heads h join tenants t using (tenant_id)
                   where t.organization_id = $1 and t.mode = 'live'";
        let client = self.place.superuser().await?;
        Ok(client.query_one(sql, &[&self.tenant.organization]).await?.get(0))
    }

    /// Reads a stream until it is quiet or cut.
    async fn stream(&self, server: usize, reader: usize, read: &mut Read) -> anyhow::Result<()> {
        let address = self.place.address(server).context("a server runs")?;
        let path = format!("/v1/events/stream?after={}", last(read));
        let asked = Asked { key: &self.tenant.key, path: &path, last_event_id: None, small_buffer: false };
        let Ok(mut stream) = Stream::open(&address, &asked).await else { return Ok(()) };
        if stream.status != 200 {
            // The connection of the database was cut.
            ensure!(stream.status == BUSY, "a stream was answered with {}", stream.status);
            sleep(Duration::from_millis(20)).await;
            return Ok(());
        }
        while let Ok(Some(piece)) = timeout(QUIET, stream.next()).await {
            let frame = match piece {
                Piece::Frame(frame) => frame,
                Piece::Comment => continue,
                Piece::Wrong(wrong) => anyhow::bail!("{wrong}"),
            };
            let event = given(&serde_json::from_str(&frame.data)?)?;
            ensure!(i64::try_from(frame.id)? == event.0, "the frame {} has the event {}", frame.id, event.0);
            read.push(event);
            self.was_given(reader, 1);
        }
        Ok(())
    }

    /// Reads all that is after a position and there now: pages are given newest first.
    async fn page(&self, server: usize, reader: usize, read: &mut Read) -> anyhow::Result<()> {
        let mut caller = Caller::new(&self.tenant.key);
        let address = self.place.address(server).context("a server runs")?;
        let after = last(read);
        let mut found = vec![];
        let mut cursor = String::new();
        loop {
            let path = format!("/v1/events?limit=100&after={after}{cursor}");
            let answer = caller.ask(&address, &Ask::get(path)).await?;
            if answer.status != 200 {
                // The connection of the database was cut; nothing is known of the rest, so all of it is asked again.
                ensure!(answer.status == BUSY, "a page was answered with {} {}", answer.status, answer.text);
                return Ok(());
            }
            let (page, before) = (answer.json(), found.len());
            for event in page["data"].as_array().into_iter().flatten() {
                found.push(given(event)?);
            }
            self.was_given(reader, found.len() - before);
            match &page["nextCursor"] {
                Value::String(next) => cursor = format!("&cursor={next}"),
                _ => break,
            }
        }
        let is_quiet = found.is_empty();
        read.extend(found.into_iter().rev());
        if is_quiet {
            sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }
}
