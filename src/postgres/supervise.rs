//! Keeping PostgreSQL running until it is told to stop.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{oneshot, watch};
use tokio::time::Instant;

use super::data_dir::DataDir;
use super::home::Home;
use super::postmaster::{Plan, Postmaster};
use super::{Error, State};

/// Starts in a row that may fail.
const RESTART_ATTEMPTS_MAX: u32 = 5;

/// The pause before the first restart; it doubles each time.
const RESTART_PAUSE: Duration = Duration::from_millis(100);

/// The longest pause: as long as the database is away, nothing is served.
const RESTART_PAUSE_MAX: Duration = Duration::from_secs(2);

/// After this long a run counts as healthy, and the restarts before it as forgotten.
const HEALTHY_AFTER: Duration = Duration::from_secs(60);

/// The pause before a restart that comes after so many others without a healthy run between them.
fn pause(restarts: u32) -> Duration {
    RESTART_PAUSE.saturating_mul(2_u32.saturating_pow(restarts)).min(RESTART_PAUSE_MAX)
}

/// What keeps PostgreSQL running. It holds the locks: they are let go when PostgreSQL has ended.
#[derive(Debug)]
pub(super) struct Supervisor {
    pub(super) data_dir: DataDir,
    pub(super) _home: Home,
    pub(super) plan: Plan,
    pub(super) state: watch::Sender<State>,
}

impl Supervisor {
    /// Runs until `stop` is sent or its sender dropped, or until PostgreSQL cannot be kept running.
    pub(super) async fn run(self, first: Postmaster, mut stop: oneshot::Receiver<()>) {
        let mut postmaster = first;
        let mut restarts = 0;
        let last_state = loop {
            let started = Instant::now();
            tokio::select! {
                _ = &mut stop => {
                    postmaster.stop().await;
                    break State::Stopped;
                }
                status = postmaster.wait() => {
                    let status = status.map_or_else(|error| error.to_string(), |status| status.to_string());
                    tracing::error!(pid = postmaster.pid, status, "PostgreSQL ended unexpectedly");
                }
            }
            // If only its shell was killed, this lets the other half of it stop PostgreSQL.
            drop(postmaster);
            if started.elapsed() > HEALTHY_AFTER {
                restarts = 0;
            }
            self.state.send_replace(State::Restarting);
            tokio::select! {
                _ = &mut stop => break State::Stopped,
                restarted = self.restart(&mut restarts) => match restarted {
                    Ok(next) => postmaster = next,
                    Err(error) => {
                        tracing::error!(%error, "PostgreSQL cannot be kept running");
                        break State::Failed(Arc::from(error.to_string()));
                    }
                },
            }
        };
        self.data_dir.withdraw();
        // Whoever sees the last state may take the data directory: the locks go first.
        let Supervisor { data_dir, _home, state, .. } = self;
        drop((data_dir, _home));
        state.send_replace(last_state);
    }

    /// Starts PostgreSQL again, with longer and longer pauses. Only starts that fail count towards giving up: what is
    /// killed again and again is started again and again.
    async fn restart(&self, restarts: &mut u32) -> Result<Postmaster, Error> {
        let mut failures = 0;
        loop {
            tokio::time::sleep(pause(*restarts)).await;
            *restarts = restarts.saturating_add(1);
            match self.start().await {
                Ok(postmaster) => return Ok(postmaster),
                Err(error) => {
                    failures += 1;
                    if failures >= RESTART_ATTEMPTS_MAX {
                        return Err(error);
                    }
                    tracing::error!(%error, "restarting PostgreSQL failed");
                }
            }
        }
    }

    async fn start(&self) -> Result<Postmaster, Error> {
        let postmaster = Postmaster::start(&self.plan).await?;
        self.data_dir.announce(&self.plan.endpoint, postmaster.pid)?;
        tracing::info!(pid = postmaster.pid, "PostgreSQL runs again");
        self.state.send_replace(State::Running { pid: postmaster.pid });
        Ok(postmaster)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_up_to_the_longest_and_no_further() {
        let pauses: Vec<u128> = (0..6).map(|restarts| pause(restarts).as_millis()).collect();
        assert_eq!(pauses, [100, 200, 400, 800, 1_600, 2_000]);
        assert_eq!(pause(u32::MAX), RESTART_PAUSE_MAX);
    }
}
