//! The stream of a process at envd: envelopes of the Connect protocol
//! (<https://connectrpc.com/docs/protocol/#streaming-rpcs>) with `process.StartResponse` as JSON in them.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use super::Error;
use super::inside::Output;

/// An envelope: a byte of flags, four of length, and so many of message.
const HEAD: usize = 5;
/// The flag of the last envelope.
const END_OF_STREAM: u8 = 2;
/// The flag of a compressed message, which was not asked for.
const COMPRESSED: u8 = 1;
/// Messages are pieces of outputs; envd sends at most some 32 KiB in one.
const MESSAGE_BYTES: usize = 16 * 1024 * 1024;

#[derive(Deserialize)]
struct Message {
    event: Option<Event>,
}

/// What is not set here is a kind of event that does not matter: a start, a sign of life.
#[derive(Deserialize)]
struct Event {
    data: Option<Data>,
    end: Option<End>,
}

#[derive(Deserialize)]
struct Data {
    stdout: Option<String>,
    stderr: Option<String>,
}

/// Zeros and empty texts are left out by the sender.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[derive(Default)]
struct End {
    exit_code: i64,
    exited: bool,
    status: String,
    error: Option<String>,
}

#[derive(Deserialize)]
struct Last {
    error: Option<Failure>,
}

#[derive(Deserialize)]
struct Failure {
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: String,
}

/// Puts envelopes together from pieces of whatever size, and what the process wrote from envelopes.
#[derive(Default)]
pub(super) struct Envelopes {
    buffer: Vec<u8>,
    output: Output,
    ended: bool,
}

impl Envelopes {
    /// A message in its envelope.
    pub(super) fn wrapped(message: &[u8]) -> Vec<u8> {
        let length = u32::try_from(message.len()).expect("a message is smaller than 4 GiB").to_be_bytes();
        [&[0], length.as_slice(), message].concat()
    }

    /// Takes a piece of the stream; what the process wrote, once the stream says that it has ended.
    pub(super) fn take(&mut self, piece: &[u8]) -> Result<Option<Output>, Error> {
        self.buffer.extend_from_slice(piece);
        let mut at = 0;
        while let Some(head) = self.buffer.get(at..at + HEAD) {
            let (flags, length) = (head[0], [head[1], head[2], head[3], head[4]]);
            let length = u32::from_be_bytes(length) as usize;
            if length > MESSAGE_BYTES || flags & COMPRESSED != 0 {
                return Err(unreadable("an envelope that was not asked for"));
            }
            let Some(message) = self.buffer.get(at + HEAD..at + HEAD + length) else { break };
            at += HEAD + length;
            if flags & END_OF_STREAM != 0 {
                return last(message, self.ended).map(|()| Some(std::mem::take(&mut self.output)));
            }
            let message: Message = serde_json::from_slice(message).map_err(|error| unreadable(&error))?;
            let Some(event) = message.event else { continue };
            event_of(event, &mut self.output, &mut self.ended)?;
        }
        self.buffer.drain(..at);
        Ok(None)
    }
}

fn unreadable(what: &(impl std::fmt::Display + ?Sized)) -> Error {
    Error::Unavailable(format!("the program's stream is not what its API says: {what}"))
}

fn event_of(event: Event, output: &mut Output, ended: &mut bool) -> Result<(), Error> {
    if let Some(data) = event.data {
        for (encoded, target) in [(data.stdout, &mut output.stdout), (data.stderr, &mut output.stderr)] {
            let bytes = STANDARD.decode(encoded.unwrap_or_default());
            target.extend_from_slice(&bytes.map_err(|error| unreadable(&error))?);
        }
    }
    if let Some(end) = event.end {
        *ended = true;
        if let Some(error) = end.error.filter(|error| !end.exited && !error.starts_with("signal")) {
            output.stderr.extend_from_slice(error.as_bytes());
        }
        let killed = !end.exited && end.status.contains("killed");
        output.code = Some(if killed { 137 } else { end.exit_code });
    }
    Ok(())
}

fn last(message: &[u8], ended: bool) -> Result<(), Error> {
    let last: Last = serde_json::from_slice(message).map_err(|error| unreadable(&error))?;
    match last.error {
        None if ended => Ok(()),
        None => Err(unreadable("it ends before the program")),
        Some(error) => Err(match error.code.as_str() {
            "canceled" | "deadline_exceeded" | "unavailable" | "aborted" | "internal" | "unknown" => {
                Error::Unavailable(format!("{}: {}", error.code, error.message))
            }
            _ => Error::Refused(format!("{}: {}", error.code, error.message)),
        }),
    }
}
