//! Asking again: a server that is too busy, or has lost its database for a moment, says so with a 503, and whoever asks
//! comes back a little later. That is no failure; a 500 is. Where servers are killed, what was not answered is asked again
//! too.

use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::anyhow;
use tokio::sync::{RwLock, RwLockWriteGuard};
use tokio::time::{Instant, sleep, timeout};

use crate::client::{Answer, Ask, Caller, DEADLINE};

/// What a server says that cannot answer now.
pub(crate) const BUSY: u16 = 503;
/// How long after such an answer it is sent again: as long as the server asks for.
pub(crate) const REST: Duration = Duration::from_secs(1);
/// How long a request is repeated: far longer than a slow machine is too busy in a row.
pub(crate) const ANSWERED: Duration = Duration::from_secs(120);
/// Of so many who may be in a hurry one is, and how long it waits at most, in milliseconds.
const HURRIED_IN: u8 = 20;
const HURRIED_MS: u64 = 15;

/// How a request is repeated until it is decided: always with the same idempotency key, where it has one.
#[derive(Debug)]
pub(crate) struct Again {
    /// How long one answer is waited for.
    pub(crate) each: Duration,
    /// How long after the first time it may still be sent again.
    pub(crate) all: Duration,
    /// How long after it was not decided it is sent again, in milliseconds.
    pub(crate) rest_ms: RangeInclusive<u64>,
    /// Whether it is sent again, over a new connection, where no answer came. A write without a key never is, since it might
    /// take effect twice.
    pub(crate) unanswered: bool,
    /// Whether the same server is asked again, and not the next one.
    pub(crate) stays: bool,
    /// Whether some do not wait for the first answer, which may be on its way.
    pub(crate) hurries: bool,
}

/// What has decided a request.
pub(crate) struct Decided {
    pub(crate) answer: Answer,
    /// How often it was sent until then.
    pub(crate) sent: u32,
    /// How often it met no kill, was waited for, and was not answered all the same.
    pub(crate) undecided: u64,
}

impl Again {
    /// Where no server is ever killed: what it does not answer is a failure of its.
    pub(crate) const BUSY: Self = Self {
        each: DEADLINE,
        all: ANSWERED,
        rest_ms: 1_000..=1_000,
        unanswered: false,
        stays: true,
        hurries: false,
    };
    /// Where servers are killed: another is asked soon, where one gives no answer.
    pub(crate) const KILLED: Self = Self {
        each: Duration::from_secs(30),
        rest_ms: 50..=50,
        unanswered: true,
        stays: false,
        ..Self::BUSY
    };

    /// Asks until it is decided. The first time it is asked at the first address, the next time at the next; where there is
    /// none, nobody answers.
    ///
    /// # Errors
    /// Where nothing is decided for too long; where it is not to be repeated, and no answer came.
    pub(crate) async fn ask(
        &self,
        (caller, random): (&mut Caller, &mut fastrand::Rng),
        address: impl Fn(usize) -> Option<String>,
        ask: &Ask,
        gate: &Gate,
    ) -> anyhow::Result<Decided> {
        let until = Instant::now() + self.all;
        let is_repeatable = ask.method == "GET" || ask.idempotency_key.is_some();
        let hurries = self.hurries && random.u8(..HURRIED_IN) == 0;
        let mut hurry = hurries.then(|| Duration::from_millis(random.u64(..HURRIED_MS)));
        let (mut sent, mut undecided) = (0, 0);
        loop {
            let passing = gate.open.read().await;
            let harms = gate.harms.load(Ordering::Relaxed);
            let in_a_hurry = hurry.take();
            let turn = if self.stays { 0 } else { usize::try_from(sent)? };
            let answer = match address(turn) {
                Some(address) => timeout(in_a_hurry.unwrap_or(self.each), caller.ask(&address, ask)).await,
                None => Ok(Err(anyhow!("no server runs"))),
            };
            sent += 1;
            let met_a_kill = harms % 2 == 1 || gate.harms.load(Ordering::Relaxed) != harms;
            drop(passing);
            let why = match answer.unwrap_or_else(|_| Err(anyhow!("no answer in time"))) {
                Ok(answer) if answer.status != BUSY => return Ok(Decided { answer, sent, undecided }),
                // A server that has much to do may refuse what it is asked, and has then not done it.
                Ok(answer) => anyhow!("{} {}", answer.status, answer.text),
                Err(error) => {
                    caller.hang_up();
                    if !(self.unanswered && is_repeatable) {
                        return Err(error.context(format!("{} {}", ask.method, ask.path)));
                    }
                    undecided += u64::from(!met_a_kill && in_a_hurry.is_none());
                    error
                }
            };
            if Instant::now() > until {
                let all = self.all;
                return Err(why.context(format!("{} {}: undecided for {all:?}", ask.method, ask.path)));
            }
            // A server that is being started tells nobody but its log when it answers again.
            sleep(Duration::from_millis(random.u64(self.rest_ms.clone()))).await;
        }
    }
}

/// Lets requests through, and knows whether somebody who answers may be away.
#[derive(Default)]
pub(crate) struct Gate {
    open: RwLock<()>,
    /// How often what answers was harmed or has come back: odd while it is away.
    harms: AtomicU64,
}

impl Gate {
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
        self.open.write().await
    }
}

/// What a server answers once it does, however often it has to be asked: for what is no part of a load.
///
/// # Errors
/// Where there is no answer, or none but that it is busy for too long.
pub(crate) async fn decided(caller: &mut Caller, address: &str, ask: &Ask) -> anyhow::Result<Answer> {
    let (address, gate) = (|_: usize| Some(address.to_owned()), Gate::default());
    let decided = Again::BUSY.ask((caller, &mut fastrand::Rng::new()), address, ask, &gate).await?;
    Ok(decided.answer)
}
