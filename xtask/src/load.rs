//! The load: callers that live sessions through, know what each request must come to, and write down what it did.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::bail;
use serde_json::json;
use tokio::time::timeout;

use crate::client::{self, Answer, Ask, Caller};
use crate::ledger::{Entry, Ledger, Outcome};
use crate::place::Place;

/// How long a request is repeated before the run gives up: servers and database come back sooner.
const GIVE_UP: Duration = Duration::from_secs(90);

/// What the callers share.
pub(crate) struct Load<'a> {
    pub(crate) place: &'a Place,
    pub(crate) ledger: &'a Ledger,
    pub(crate) key: String,
    /// Distinguishes the keys of this load from others'.
    pub(crate) name: String,
    pub(crate) acknowledged: AtomicU64,
    pub(crate) unknown: AtomicU64,
    pub(crate) over: AtomicBool,
    /// How long a caller rests after each answer.
    pub(crate) rest: Duration,
}

/// What a request must come to.
#[derive(Clone, Copy)]
enum Expected {
    /// This event.
    Event(&'static str),
    /// The rules say no.
    Refused,
}

impl Expected {
    fn is(self, status: u16) -> bool {
        match self {
            Self::Event(_) => (200..300).contains(&status),
            Self::Refused => status == 409,
        }
    }
}

/// A session as its caller knows it.
struct Known {
    id: String,
    status: &'static str,
}

impl<'a> Load<'a> {
    pub(crate) fn new(place: &'a Place, ledger: &'a Ledger, key: &str, name: &str) -> Self {
        Self {
            place,
            ledger,
            key: key.to_owned(),
            name: name.to_owned(),
            acknowledged: AtomicU64::new(0),
            unknown: AtomicU64::new(0),
            over: AtomicBool::new(false),
            rest: Duration::ZERO,
        }
    }

    /// Lives sessions through until the load is over.
    pub(crate) async fn caller(&self, number: usize, mut random: fastrand::Rng) -> anyhow::Result<()> {
        let mut caller = Caller::new(&self.key);
        let mut session: Option<Known> = None;
        for turn in 0_u64.. {
            if self.over.load(Ordering::Relaxed) {
                break;
            }
            if !self.rest.is_zero() {
                tokio::time::sleep(self.rest).await;
            }
            let key = format!("{}-{number}-{turn}", self.name);
            let server = random.usize(..);
            let (ask, event, next) = match &session {
                None => {
                    let body = json!({ "userId": format!("user_{}", random.u32(..1_000)), "metadata": { "turn": turn } });
                    (Ask::post("/v1/sessions", Some(body)), "session.created", "active")
                }
                Some(known) => {
                    let step = match (known.status, random.u8(..4)) {
                        (_, 0) => ("terminate", "session.terminated", "terminated"),
                        ("active", _) => ("pause", "session.paused", "paused"),
                        _ => ("resume", "session.resumed", "active"),
                    };
                    (Ask::post(format!("/v1/sessions/{}/{}", known.id, step.0), None), step.1, step.2)
                }
            };
            // Now and then something that the rules refuse: nothing may happen then.
            if let Some(Known { id, status: "active" }) = &session
                && random.u8(..8) == 0
            {
                let ask = Ask::post(format!("/v1/sessions/{id}/resume"), None).once(format!("{key}-refused"));
                self.carried_out(&mut caller, server, &ask, Expected::Refused).await?;
            }
            let answer =
                self.carried_out(&mut caller, server, &ask.once(&key), Expected::Event(event)).await?;
            let id = match &session {
                None => answer.json()["id"].as_str().unwrap_or_default().to_owned(),
                Some(known) => known.id.clone(),
            };
            session = (next != "terminated").then_some(Known { id, status: next });
        }
        Ok(())
    }

    /// Asks until it is decided, as expected: an unknown outcome is settled with the same key.
    async fn carried_out(
        &self,
        caller: &mut Caller,
        server: usize,
        ask: &Ask,
        expected: Expected,
    ) -> anyhow::Result<Answer> {
        let key = ask.idempotency_key.clone().unwrap_or_default();
        let (event, outcome) = match expected {
            Expected::Event(event) => (event, Outcome::Ok),
            Expected::Refused => ("", Outcome::Refused),
        };
        let entry = |outcome, retried| Entry { key: key.clone(), event: event.to_owned(), outcome, retried };
        let mut retried = false;
        let until = tokio::time::Instant::now() + GIVE_UP;
        for turn in 0.. {
            // Some callers do not wait for the answer, which may be on its way.
            let patience = if turn == 0 && fastrand::u8(..20) == 0 {
                Duration::from_millis(fastrand::u64(..15))
            } else {
                client::DEADLINE
            };
            let answer = match self.place.address(server.wrapping_add(turn)) {
                Some(address) => timeout(patience, caller.ask(&address, ask)).await.ok().and_then(Result::ok),
                None => None,
            };
            if answer.is_none() {
                caller.hang_up();
            }
            match answer {
                Some(answer) if expected.is(answer.status) => {
                    self.ledger.write(entry(outcome, retried))?;
                    self.acknowledged.fetch_add(1, Ordering::Relaxed);
                    return Ok(answer);
                }
                Some(answer) if answer.status != 503 => {
                    bail!("{} {}: {} {}", ask.method, ask.path, answer.status, answer.text);
                }
                _ => {}
            }
            if !retried {
                retried = true;
                self.unknown.fetch_add(1, Ordering::Relaxed);
                self.ledger.write(entry(Outcome::Unknown, true))?;
            }
            if tokio::time::Instant::now() > until {
                bail!("{} {} was not answered for {GIVE_UP:?}", ask.method, ask.path);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        unreachable!("it ends by the clock")
    }
}
