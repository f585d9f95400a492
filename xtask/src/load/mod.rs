//! The load: callers that live sessions, agents, definitions and secrets through, know what each request must come to, and
//! write down what it did.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, bail};
use serde_json::Value;
use tokio::sync::{RwLock, RwLockWriteGuard};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::again::BUSY;
use crate::client::{self, Answer, Ask, Caller};
use crate::ledger::{Entry, Ledger, Outcome};
use crate::place::{Place, Tenant};

mod life;

use life::Life;

/// How long a request is repeated before the run gives up: servers and database come back sooner.
const GIVE_UP: Duration = Duration::from_secs(90);
/// Sent again at once, a request meets what the first one has left half done; sent later, what came of it.
const ASKED_AGAIN_MS: u64 = 40;

/// The types of all events that the load makes happen.
pub(crate) const EVENTS: [&str; 17] = [
    "session.created",
    "session.paused",
    "session.resumed",
    "session.terminated",
    "session.limits_changed",
    "definition.created",
    "definition.updated",
    "definition.archived",
    "secret.set",
    "secret.deleted",
    "agent.created",
    "agent.paused",
    "agent.resumed",
    "agent.terminated",
    "task.created",
    "billing.adjusted",
    "budget.set",
];

/// What the callers share.
pub(crate) struct Load<'a> {
    place: &'a Place,
    /// Where they write down what they ask; nowhere where nobody looks.
    ledger: Option<&'a Ledger>,
    tenant: &'a Tenant,
    /// Distinguishes the keys of this load from others'.
    name: String,
    /// Done as asked.
    pub(crate) acknowledged: AtomicU64,
    /// Refused by the rules, as they must.
    pub(crate) refused: AtomicU64,
    /// Looked at how things stand.
    pub(crate) looks: AtomicU64,
    /// Left open by the first request, and settled by another.
    pub(crate) unknown: AtomicU64,
    /// Requests that met no kill, whose caller waited, and that were not decided all the same. Where there are none, each
    /// unknown outcome was settled by the first retry that could be answered.
    pub(crate) undecided: AtomicU64,
    /// Events that were made happen.
    happened: Mutex<BTreeSet<&'static str>>,
    pub(crate) over: AtomicBool,
    /// Whether a request came to what it must not.
    pub(crate) failed: AtomicBool,
    /// Requests are let through it.
    gate: RwLock<()>,
    /// How often what answers was harmed or has come back: odd while it is away.
    harms: AtomicU64,
    pace: Option<Pace>,
}

/// When requests are made that are not made as fast as they are answered.
struct Pace {
    began: Instant,
    every: Duration,
    turns: AtomicU64,
}

/// A request, and what it must come to.
struct Operation {
    ask: Ask,
    expected: Expected,
}

/// What a request must come to.
enum Expected {
    /// An event of this type, about this; the answer has one more id of what it is about, by this name.
    Event { kind: &'static str, about: Vec<String>, told: Option<&'static str> },
    /// The rules say no, in these words.
    Refused(&'static str),
}

impl Expected {
    /// Whether an answer is that; an error where it decided otherwise. 503 decides nothing.
    fn is_met(&self, ask: &Ask, answer: &Answer) -> anyhow::Result<bool> {
        match self {
            Self::Event { .. } if (200..300).contains(&answer.status) => Ok(true),
            Self::Refused(words) if answer.status == 409 && answer.text.contains(words) => Ok(true),
            _ if answer.status == BUSY => Ok(false),
            _ => bail!("{} {}: {} {}", ask.method, ask.path, answer.status, answer.text),
        }
    }
}

impl<'a> Load<'a> {
    pub(crate) fn new(place: &'a Place, ledger: Option<&'a Ledger>, tenant: &'a Tenant, name: &str) -> Self {
        Self {
            place,
            ledger,
            tenant,
            name: name.to_owned(),
            acknowledged: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            looks: AtomicU64::new(0),
            unknown: AtomicU64::new(0),
            undecided: AtomicU64::new(0),
            happened: Mutex::default(),
            over: AtomicBool::new(false),
            failed: AtomicBool::new(false),
            gate: RwLock::new(()),
            harms: AtomicU64::new(0),
            pace: None,
        }
    }

    /// The same with a request of all callers together each so often, as long as they are answered that fast; later
    /// ones catch up with what was missed.
    pub(crate) fn paced(self, every: Duration) -> Self {
        Self { pace: Some(Pace { began: Instant::now(), every, turns: AtomicU64::new(0) }), ..self }
    }

    /// Lives sessions through until the load is over. All that it does follows from the random choices, but for when
    /// servers answer.
    pub(crate) async fn caller(&self, number: u64, random: fastrand::Rng) -> anyhow::Result<()> {
        let mut life = Life::new(self, number, random);
        let mut outcome = Ok(());
        while outcome.is_ok() && !self.over.load(Ordering::Relaxed) {
            outcome = life.turn().await;
        }
        self.failed.fetch_or(outcome.is_err(), Ordering::Relaxed);
        outcome
    }

    /// The types of the events that were made happen so far.
    pub(crate) fn happened(&self) -> BTreeSet<&'static str> {
        self.happened.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// From now on, until [`Self::is_back`], whoever does not answer may be away.
    pub(crate) fn is_harmed(&self) {
        self.harms.fetch_add(1, Ordering::Relaxed);
    }

    /// Everybody answers again: what is sent from now on has to be decided by one request.
    pub(crate) fn is_back(&self) {
        self.harms.fetch_add(1, Ordering::Relaxed);
    }

    /// Lets no request begin, neither a new one nor a retry, and waits until those that are under way have come to their
    /// end; until what this gives is dropped.
    pub(crate) async fn hold(&self) -> RwLockWriteGuard<'_, ()> {
        self.gate.write().await
    }

    /// Asks until it is decided, as expected: an unknown outcome is settled with the same key.
    async fn carry_out(
        &self,
        (caller, random): (&mut Caller, &mut fastrand::Rng),
        key: String,
        Operation { ask, expected }: Operation,
    ) -> anyhow::Result<Value> {
        self.keep_pace().await?;
        let ask = ask.once(key.clone());
        let (event, about) = match &expected {
            Expected::Event { kind, about, .. } => (Some((*kind).to_owned()), about.clone()),
            Expected::Refused(_) => (None, vec![]),
        };
        let mut entry = Entry { key, event, about, outcome: Outcome::Unknown, sent: 0 };
        self.write(&entry)?;
        // Some callers do not wait for the answer, which may be on its way.
        let hurried = (random.u8(..20) == 0).then(|| Duration::from_millis(random.u64(..15)));
        let first = random.usize(..2);
        let answer =
            self.decided((caller, random), (&ask, &expected), (first, hurried), &mut entry.sent).await?;
        match &expected {
            Expected::Event { kind, told, .. } => {
                self.happened.lock().unwrap_or_else(PoisonError::into_inner).insert(kind);
                let id = told.map(|name| text(&answer.json(), name)).transpose()?;
                entry.about.extend(id);
                entry.outcome = Outcome::Ok;
                self.acknowledged.fetch_add(1, Ordering::Relaxed);
            }
            Expected::Refused(_) => {
                entry.outcome = Outcome::Refused;
                self.refused.fetch_add(1, Ordering::Relaxed);
            }
        }
        self.write(&entry)?;
        if entry.sent > 1 {
            self.unknown.fetch_add(1, Ordering::Relaxed);
        }
        Ok(answer.json())
    }

    /// The answer that decides, on one server after the other.
    async fn decided(
        &self,
        (caller, random): (&mut Caller, &mut fastrand::Rng),
        (ask, expected): (&Ask, &Expected),
        (first, mut hurried): (usize, Option<Duration>),
        sent: &mut u32,
    ) -> anyhow::Result<Answer> {
        let until = Instant::now() + GIVE_UP;
        // Whether a request was sent of which nobody knows what it did.
        let mut unknown = false;
        loop {
            let passing = self.gate.read().await;
            let harms = self.harms.load(Ordering::Relaxed);
            let hurry = hurried.take();
            let patience = hurry.unwrap_or(client::DEADLINE);
            let answer = match self.place.address(first.wrapping_add(usize::try_from(*sent)?)) {
                Some(address) => timeout(patience, caller.ask(&address, ask)).await.ok().and_then(Result::ok),
                None => None,
            };
            *sent += 1;
            let met_a_kill = harms % 2 == 1 || self.harms.load(Ordering::Relaxed) != harms;
            drop(passing);
            unknown |= answer.is_none() || met_a_kill;
            let is_busy = answer.as_ref().is_some_and(|answer| answer.status == BUSY);
            match answer {
                Some(answer) => {
                    let met = expected.is_met(ask, &answer);
                    let again = || if *sent > 1 { "a retry was decided anew" } else { "the first request" };
                    if met.with_context(again)? {
                        return Ok(answer);
                    }
                }
                None => caller.hang_up(),
            }
            // A server that has much to do may refuse what it is asked, and has then not done it.
            if !met_a_kill && hurry.is_none() && unknown && !is_busy {
                self.undecided.fetch_add(1, Ordering::Relaxed);
            }
            if Instant::now() > until {
                bail!("{} {} was not answered for {GIVE_UP:?}", ask.method, ask.path);
            }
            sleep(Duration::from_millis(random.u64(..ASKED_AGAIN_MS))).await;
        }
    }

    /// Looks at something, on one server after the other.
    async fn look(
        &self,
        (caller, random): (&mut Caller, &mut fastrand::Rng),
        path: String,
    ) -> anyhow::Result<Value> {
        self.keep_pace().await?;
        let _passing = self.gate.read().await;
        self.looks.fetch_add(1, Ordering::Relaxed);
        self.place.carry_out(caller, random.usize(..2), &Ask::get(path), GIVE_UP).await
    }

    async fn keep_pace(&self) -> anyhow::Result<()> {
        if let Some(Pace { began, every, turns }) = &self.pace {
            let turn = u32::try_from(turns.fetch_add(1, Ordering::Relaxed))?;
            sleep_until(*began + *every * turn).await;
        }
        Ok(())
    }

    fn write(&self, entry: &Entry) -> anyhow::Result<()> {
        self.ledger.map_or(Ok(()), |ledger| ledger.write(entry))
    }
}

/// The text at this name.
fn text(value: &Value, name: &str) -> anyhow::Result<String> {
    value[name].as_str().map(str::to_owned).with_context(|| format!("{name} of {value}"))
}
