//! A stream as a client reads it: frame by frame, over a connection of its own whose buffers can be small.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, bail, ensure};
use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpSocket;
use tokio::time::{Instant, sleep};

use crate::load::{ANSWERED, BUSY, REST};

/// What a small receive buffer of the system is asked to hold, in bytes.
const SMALL_BUFFER: u32 = 4_096;
/// What the client itself reads ahead at most, in bytes.
const READ_AHEAD: usize = 8_192;

/// A frame of a logged event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::rows) struct Frame {
    pub(in crate::rows) id: u64,
    pub(in crate::rows) event: String,
    pub(in crate::rows) data: String,
}

/// What a stream gives.
#[derive(Debug)]
pub(in crate::rows) enum Piece {
    Frame(Frame),
    /// A comment, which keeps the connection alive.
    Comment,
    /// What no stream may hold.
    Wrong(String),
}

/// How a stream is asked for.
pub(in crate::rows) struct Asked<'a> {
    pub(in crate::rows) key: &'a str,
    pub(in crate::rows) path: &'a str,
    pub(in crate::rows) last_event_id: Option<u64>,
    /// Whether the system is to take little of what the client does not read.
    pub(in crate::rows) small_buffer: bool,
}

/// A stream that is being read.
pub(in crate::rows) struct Stream {
    pub(in crate::rows) status: u16,
    /// The client's and the server's end of the connection.
    pub(in crate::rows) ports: (u16, u16),
    body: Incoming,
    rest: Vec<u8>,
    /// What of the rest was given already.
    given: usize,
}

impl Stream {
    /// Asks for a stream. An error means that there was no answer.
    pub(in crate::rows) async fn open(address: &str, asked: &Asked<'_>) -> anyhow::Result<Self> {
        let server: SocketAddr = address.parse()?;
        let socket = TcpSocket::new_v4()?;
        if asked.small_buffer {
            socket.set_recv_buffer_size(SMALL_BUFFER)?;
        }
        let connection = socket.connect(server).await?;
        let ports = (connection.local_addr()?.port(), server.port());
        let mut client = http1::Builder::new();
        client.max_buf_size(READ_AHEAD);
        let (mut sender, connection) = client.handshake(TokioIo::new(connection)).await?;
        tokio::spawn(connection);
        let mut request = hyper::Request::builder()
            .uri(asked.path)
            .header("host", address)
            .header("authorization", format!("Bearer {}", asked.key));
        if let Some(last) = asked.last_event_id {
            request = request.header("last-event-id", last);
        }
        let response = sender.send_request(request.body(Empty::<Bytes>::new())?).await?;
        let status = response.status().as_u16();
        Ok(Self { status, ports, body: response.into_body(), rest: vec![], given: 0 })
    }

    /// Asks for a stream again and again, while the server is too busy to give it.
    pub(in crate::rows) async fn served(address: &str, asked: &Asked<'_>) -> anyhow::Result<Self> {
        let until = Instant::now() + ANSWERED;
        loop {
            let stream = Self::open(address, asked).await?;
            if stream.status != BUSY || Instant::now() > until {
                return Ok(stream);
            }
            sleep(REST).await;
        }
    }

    /// The next of it; `None` where it ends or is cut. What was read stays where the future is dropped.
    pub(in crate::rows) async fn next(&mut self) -> Option<Piece> {
        loop {
            let new = &self.rest[self.given..];
            // It counts when all of it is there.
            if let Some(length) = new.windows(2).position(|two| two == b"\n\n") {
                let piece = piece(&String::from_utf8_lossy(&new[..length]));
                self.given += length + 2;
                return Some(piece.unwrap_or_else(|error| Piece::Wrong(format!("{error:#}"))));
            }
            self.rest.drain(..self.given);
            self.given = 0;
            let bytes = self.body.frame().await?.ok()?.into_data().ok()?;
            self.rest.extend_from_slice(&bytes);
        }
    }
}

fn piece(text: &str) -> anyhow::Result<Piece> {
    if text.starts_with(':') {
        return Ok(Piece::Comment);
    }
    let wrong = || format!("no frame: {text}");
    let mut lines = text.lines();
    let mut field = |name: &str| {
        let line = lines.next().with_context(wrong)?;
        line.strip_prefix(name).with_context(wrong).map(|value| value.trim().to_owned())
    };
    let frame = Frame { id: field("id:")?.parse()?, event: field("event:")?, data: field("data:")? };
    if let Some(more) = lines.next() {
        bail!("a frame has another line: {more}");
    }
    Ok(Piece::Frame(frame))
}

/// What the readers of one log were given at each position: the same to all.
#[derive(Default)]
pub(in crate::rows) struct Seen(Mutex<Vec<Option<Frame>>>);

impl Seen {
    /// Whether nobody was given anything.
    pub(in crate::rows) fn is_empty(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// Holds a frame against what others were given at its position.
    pub(in crate::rows) fn meets(&self, frame: Frame) -> Result<(), String> {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(index) = usize::try_from(frame.id).ok().and_then(|id| id.checked_sub(1)) else {
            return Err(format!("a frame has the id {}", frame.id));
        };
        if seen.len() <= index {
            seen.resize(index + 1, None);
        }
        match &seen[index] {
            None => seen[index] = Some(frame),
            Some(other) if *other != frame => return Err(format!("{frame:?} to one, {other:?} to another")),
            Some(_) => {}
        }
        Ok(())
    }

    /// Holds what was given against the log of an organization in this mode, event by event, and against what was
    /// acknowledged: what is wrong.
    pub(in crate::rows) async fn against_the_log(
        &self,
        client: &tokio_postgres::Client,
        (organization, mode): (&str, &str),
        mut acknowledged: BTreeSet<String>,
    ) -> anyhow::Result<Vec<String>> {
        let sql =
            "select e.position, e.event_id, e.type, e.version, to_jsonb(e.subjects)::text, e.data::text,
                     e.metadata::text, to_char(e.at at time zone 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.MS\"Z\"'),
                     encode(e.leaf_hash, 'hex')
                   from events e join tenants t using (tenant_id)
                   where t.organization_id = $1 and t.mode = $2 order by e.position";
        let rows = client.query(sql, &[&organization, &mode]).await?;
        let seen = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        ensure!(!rows.is_empty(), "there is no log to hold it against");
        let mut wrong = vec![];
        if seen.len() > rows.len() {
            wrong.push(format!("{} positions came of a log of {}", seen.len(), rows.len()));
        }
        for (index, row) in rows.iter().enumerate() {
            let json = |column: usize| serde_json::from_str::<Value>(row.get(column));
            let (position, version): (i64, i16) = (row.get(0), row.get(3));
            let text = |column: usize| row.get::<_, String>(column);
            let subjects = json(4)?;
            let expected = json!({
                "position": position, "id": text(1), "type": text(2), "version": version, "subjects": subjects,
                "data": json(5)?, "metadata": json(6)?, "at": text(7), "leafHash": text(8),
            });
            for subject in subjects.as_array().into_iter().flatten().filter_map(Value::as_str) {
                acknowledged.remove(subject);
            }
            let Some(Some(frame)) = seen.get(index) else {
                wrong.push(format!("nobody was given the event at {position}"));
                continue;
            };
            let given: Value = serde_json::from_str(&frame.data).unwrap_or_default();
            if frame.event != text(2) || given != expected {
                wrong.push(format!("at {position} came {frame:?}, the log has {expected}"));
            }
        }
        if !acknowledged.is_empty() {
            wrong.push(format!("acknowledged, and not in the log: {acknowledged:?}"));
        }
        Ok(wrong)
    }
}
