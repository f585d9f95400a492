//! Compute at vendors, each against a strict server of its published API.

mod webhook;

use std::time::Duration;

use theazo::providers::client::{Client, Clients};
use theazo::providers::compute::{Language, New, Program};
use theazo::providers::guard::Guard;
use theazo_domain::id::{AgentId, SessionId};
use zeroize::Zeroizing;

/// A client that may call this machine.
pub(crate) fn client() -> Client {
    Clients::new(Guard::new(vec![])).operator
}

pub(crate) fn agent(number: u128) -> AgentId {
    AgentId::from_ulid(ulid::Ulid::from_parts(1_700_000_000_000, number))
}

pub(crate) fn wanted(number: u128) -> New {
    let session_id = SessionId::from_ulid(ulid::Ulid::from_parts(1_700_000_000_000, number));
    New { agent_id: agent(number), session_id, browser: false, lifetime: Duration::from_secs(3_600) }
}

pub(crate) fn program(language: Language, code: &str) -> Program {
    Program {
        language,
        code: code.to_owned(),
        environment: vec![("TOKEN".to_owned(), Zeroizing::new("s3cret".to_owned()))],
        timeout: Duration::from_secs(20),
        output_limit: 1024 * 1024,
    }
}
