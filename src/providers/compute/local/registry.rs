//! What runs in which sandbox of this server.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use theazo_domain::id::AgentId;
use tokio::sync::watch;
use tokio::time::sleep;

use super::message::Limits;
use super::trim::Room;
use crate::config;

/// Locks; what a panicking holder left is as good as any, since nothing is ever left half done.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The sandboxes in which something runs or that are being deleted.
#[derive(Default)]
pub(super) struct Registry {
    agents: Mutex<HashMap<AgentId, Arc<Agent>>>,
}

#[derive(Default)]
struct Agent {
    state: Mutex<State>,
    /// How many programs run.
    running: watch::Sender<usize>,
    /// Counts how often everything was ended.
    ended: watch::Sender<u64>,
}

#[derive(Default)]
struct State {
    closed: bool,
    next: u64,
    /// What all that run may take on disk, from the first of them on.
    room: Option<Room>,
    /// What each program uses: memory in bytes, and processes.
    used: HashMap<u64, (u64, u64)>,
}

/// A program that runs; dropped when everything of it has ended.
pub(super) struct Entry {
    agent: Arc<Agent>,
    number: u64,
}

impl Registry {
    fn agent(&self, agent_id: AgentId) -> Arc<Agent> {
        lock(&self.agents).entry(agent_id).or_default().clone()
    }

    /// Lets programs run.
    pub(super) fn open(&self, agent_id: AgentId) {
        lock(&self.agent(agent_id).state).closed = false;
    }

    /// Takes note of a program; none where the sandbox is being deleted.
    pub(super) fn enter(&self, agent_id: AgentId) -> Option<Entry> {
        let agent = self.agent(agent_id);
        let mut state = lock(&agent.state);
        if state.closed {
            return None;
        }
        state.next += 1;
        let number = state.next;
        agent.running.send_modify(|running| *running += 1);
        drop(state);
        Some(Entry { agent, number })
    }

    /// Ends every program of an agent, and waits until they have; `closing` keeps others from beginning.
    pub(super) async fn end(&self, agent_id: AgentId, closing: bool) {
        let agent = self.agent(agent_id);
        lock(&agent.state).closed |= closing;
        agent.ended.send_modify(|times| *times += 1);
        // The sender is ours, so this cannot fail.
        let _ = agent.running.subscribe().wait_for(|running| *running == 0).await;
    }

    /// Forgets an agent whose sandbox is gone.
    pub(super) fn forget(&self, agent_id: AgentId) {
        lock(&self.agents).remove(&agent_id);
    }
}

impl Entry {
    /// Becomes true when the program is to end: because all are, because nobody waits for it (`waiting` closes), or
    /// because another server has deleted the sandbox (there is no `marker` any more).
    pub(super) fn stop(&self, mut waiting: watch::Receiver<bool>, marker: PathBuf) -> watch::Receiver<bool> {
        let mut ended = self.agent.ended.subscribe();
        let (stop, stopped) = watch::channel(false);
        tokio::spawn(async move {
            tokio::select! {
                _ = ended.changed() => {}
                _ = waiting.changed() => {}
                () = stop.closed() => {}
                () = deleted(&marker) => {}
            }
            stop.send_replace(true);
        });
        stopped
    }

    /// What the agent's programs may take on disk: whoever begins while others run has no more than they, whatever they
    /// have written by then. `now` counts where nobody runs.
    pub(super) fn room(&self, now: Room) -> Room {
        *lock(&self.agent.state).room.get_or_insert(now)
    }

    /// Adds up what all programs of the agent use, and names the total that has been passed.
    pub(super) fn total(&self, limits: Limits) -> Box<dyn Fn(u64, u64) -> Option<String> + Send + Sync> {
        let (agent, number) = (self.agent.clone(), self.number);
        Box::new(move |memory_bytes, processes| {
            let mut state = lock(&agent.state);
            state.used.insert(number, (memory_bytes, processes));
            let sum = state.used.values().fold((0, 0), |sum, used| (sum.0 + used.0, sum.1 + used.1));
            if sum.0 > limits.memory_bytes {
                return Some(format!("{} MiB of memory", limits.memory_bytes >> 20));
            }
            (sum.1 > limits.processes).then(|| format!("{} processes", limits.processes))
        })
    }
}

async fn deleted(marker: &Path) {
    while marker.exists() {
        sleep(config::SANDBOX_DELETED_INTERVAL).await;
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let mut state = lock(&self.agent.state);
        state.used.remove(&self.number);
        self.agent.running.send_modify(|running| {
            *running -= 1;
            if *running == 0 {
                state.room = None;
            }
        });
    }
}
