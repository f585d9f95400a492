//! Asking again: a server that is too busy, or has lost its database for a moment, says so with a 503, and whoever asks
//! comes back a little later. That is no failure; a 500 is. Where servers are killed, what was not answered is asked again
//! too.

use std::time::Duration;

use anyhow::anyhow;
use tokio::time::{Instant, sleep, timeout};

use crate::client::{Answer, Ask, Caller, DEADLINE};

/// What a server says that cannot answer now.
pub(crate) const BUSY: u16 = 503;
/// How long a request is repeated: far longer than a slow machine is too busy in a row.
pub(crate) const ANSWERED: Duration = Duration::from_secs(120);
/// How long after such an answer it is sent again: as long as the server asks for.
pub(crate) const REST: Duration = Duration::from_secs(1);

/// How a request is repeated until it is decided: always with the same idempotency key, where it has one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Again {
    /// How long one answer is waited for.
    pub(crate) each: Duration,
    /// How long after the first time it may still be sent again.
    pub(crate) all: Duration,
    /// How long after it was not decided it is sent again.
    pub(crate) rest: Duration,
    /// Whether it is sent again, over a new connection, where no answer came.
    pub(crate) unanswered: bool,
}

impl Again {
    /// Where no server is ever killed: what it does not answer is a failure of its.
    const BUSY_ONLY: Self = Self { each: DEADLINE, all: ANSWERED, rest: REST, unanswered: false };

    /// What is answered that decides, and how often it was asked in vain before. The first time it is asked at the first
    /// address, the next time at the next; where there is none, nobody answers.
    ///
    /// # Errors
    /// Where nothing is decided for too long; where it is not to be repeated, and no answer came.
    pub(crate) async fn ask(
        self,
        caller: &mut Caller,
        address: impl Fn(usize) -> Option<String>,
        ask: &Ask,
    ) -> anyhow::Result<(Answer, usize)> {
        let until = Instant::now() + self.all;
        for in_vain in 0.. {
            let answer = match address(in_vain) {
                Some(address) => timeout(self.each, caller.ask(&address, ask)).await,
                None => Ok(Err(anyhow!("no server runs"))),
            };
            let why = match answer.unwrap_or_else(|_| Err(anyhow!("no answer in time"))) {
                Ok(answer) if answer.status != BUSY => return Ok((answer, in_vain)),
                Ok(answer) => anyhow!("{} {}", answer.status, answer.text),
                Err(error) => {
                    caller.hang_up();
                    if !self.unanswered {
                        return Err(error);
                    }
                    error
                }
            };
            if Instant::now() > until {
                return Err(why.context(format!("{} {}: nobody answers", ask.method, ask.path)));
            }
            // A server that is being started tells nobody but its log when it answers again.
            sleep(self.rest).await;
        }
        unreachable!("it ends by the clock")
    }
}

/// What a server answers once it does, however often it has to be asked. An answer that is given again because of that is
/// this caller's first.
///
/// # Errors
/// Where there is no answer, or none but that it is busy for too long.
pub(crate) async fn decided(caller: &mut Caller, address: &str, ask: &Ask) -> anyhow::Result<Answer> {
    let (answer, in_vain) = Again::BUSY_ONLY.ask(caller, |_| Some(address.to_owned()), ask).await?;
    let replayed = answer.replayed && in_vain == 0;
    Ok(Answer { replayed, ..answer })
}
