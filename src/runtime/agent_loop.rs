//! The agent loop: model → tool → model, until there is an answer. Each call is in the log before and after.

use std::sync::Arc;
use std::time::{Duration, Instant};

use theazo_domain::Event;
use theazo_domain::agent::Command;
use theazo_domain::agent_config::ModelConfig;
use theazo_domain::id::AgentId;
use theazo_projections::work::kind;
use tokio::time::sleep;

use super::conversation::{Bodies, Conversation, Next};
use super::program::Secrets;
use super::{Desk, Done, after_stop, history};
use crate::config;
use crate::log::{Content, Failure, Recorded};
use crate::providers::compute;
use crate::read::agent::{self, Agent};

/// What an action came to.
pub(super) enum Acted {
    /// The run goes on.
    On,
    /// It has ended, pauses, or is another server's.
    Ended,
}

/// A run of a task, under one claim.
pub(super) struct Run<'a> {
    pub(super) desk: Desk<'a>,
    pub(super) agent: Agent,
    pub(super) epoch: u64,
    pub(super) conversation: Conversation,
    pub(super) secrets: Secrets,
    pub(super) model: ModelConfig,
    /// Calls to the model that came to nothing since the last that was answered.
    pub(super) failures: u32,
}

pub(super) async fn run(desk: Desk<'_>, agent_id: AgentId) -> Result<Done, Failure> {
    let subject = agent_id.to_string();
    let work = agent::work(desk.scope(), kind::RUN, &subject).await?;
    let Some(task_id) = work.and_then(|work| work.task_id) else { return Ok(Done::LetGo) };
    let Ok(claimed) = desk.tell(agent_id, Command::Claim { task_id }, vec![]).await? else {
        return Ok(Done::LetGo);
    };
    let Some(epoch) = epoch_of(&claimed.events) else { return Ok(Done::LetGo) };
    let Some(agent) = agent::get(desk.scope(), agent_id).await? else { return Ok(Done::LetGo) };
    let conversation = history::conversation(desk, agent_id).await?;
    let secrets = match Secrets::of(desk, &agent).await {
        Ok(secrets) => secrets,
        Err(compute::Error::Database) => return Ok(Done::Later),
        Err(error) => {
            let (_, message) = error.recorded();
            let code = "internal_error".to_owned();
            let _ = desk.tell(agent_id, Command::FailTask { epoch, code, message }, vec![]).await?;
            return Ok(Done::LetGo);
        }
    };
    let model = agent.config.model.clone().unwrap_or_else(|| ModelConfig {
        id: desk.app.models.default_model().to_owned(),
        max_tokens: None,
        temperature: None,
    });
    let mut run = Run { desk, agent, epoch, conversation, secrets, model, failures: 0 };
    loop {
        match run.act().await {
            Ok(Acted::On) => {}
            Ok(Acted::Ended) => return Ok(Done::LetGo),
            // It would be refused again, and done again for nothing.
            Err(Failure::Refused(what)) => {
                tracing::error!(what, %agent_id, "a run fails, since what it came to cannot be kept");
                // Another claim closes what this one has left open.
                let claimed = desk.tell(agent_id, Command::Claim { task_id }, vec![]).await?;
                if let Some(epoch) = claimed.ok().and_then(|claimed| epoch_of(&claimed.events)) {
                    run.epoch = epoch;
                    run.fail("internal_error", "What the run came to cannot be kept.").await?;
                }
                return Ok(Done::LetGo);
            }
            Err(failure) => return Err(failure),
        }
    }
}

/// Which claim of a task these events tell of.
fn epoch_of(events: &[Arc<Recorded>]) -> Option<u64> {
    events.iter().find_map(|recorded| match &recorded.event {
        Event::TaskClaimed(claimed) => Some(claimed.epoch),
        _ => None,
    })
}

impl Run<'_> {
    /// Does what comes next.
    async fn act(&mut self) -> Result<Acted, Failure> {
        if *self.desk.app.stopping.borrow() {
            return Ok(Acted::Ended);
        }
        let left = self.time_left();
        if left.is_zero() {
            return self.fail("timeout", "The run took longer than its timeout.").await;
        }
        let app = Arc::clone(self.desk.app);
        let began = Instant::now();
        let moment = match self.conversation.next() {
            // A call to the model is broken off at the last moment, and closed with what it has told.
            Next::Ask => config::CALLS_LAST_MOMENT + config::CLOSING_MOMENT,
            _ => config::LAST_MOMENT,
        };
        let acted = tokio::select! {
            acted = self.take_turn(left) => acted,
            // Whoever goes on finds the call open, and closes it.
            () = after_stop(&app, moment) => Ok(Acted::Ended),
        };
        spent("step", began.elapsed());
        acted
    }

    async fn take_turn(&mut self, left: Duration) -> Result<Acted, Failure> {
        match self.conversation.next() {
            Next::Ask if self.conversation.turns >= config::TURNS => {
                let message =
                    format!("The run has asked its model {} times, which is the most.", config::TURNS);
                self.fail("turn_limit", &message).await
            }
            Next::Ask => self.ask(left).await,
            Next::Call(index) => self.call(index, left).await,
            Next::Refused => {
                let message = "The model's vendor did not let it answer: its rules refuse the task.";
                self.fail("provider_error", message).await
            }
            Next::Complete(output) => {
                let command = Command::CompleteTask { epoch: self.epoch, output };
                self.tell(command, vec![]).await?;
                Ok(Acted::Ended)
            }
        }
    }

    /// How much longer the run may take.
    pub(super) fn time_left(&self) -> Duration {
        let ran_ms = self.conversation.ran_ms(self.desk.app.clock.now().millis());
        let left_ms = self.agent.timeout_s.saturating_mul(1_000) - ran_ms;
        Duration::from_millis(u64::try_from(left_ms).unwrap_or_default())
    }

    /// Tells the agent something, and takes what it makes happen into the conversation. `None` where the agent refuses:
    /// this claim is not the newest any more, or the agent pauses or has ended.
    pub(super) async fn tell(
        &mut self,
        command: Command,
        contents: Vec<Content>,
    ) -> Result<Option<Vec<Arc<Recorded>>>, Failure> {
        let bodies: Bodies =
            contents.iter().map(|content| (content.content_id.to_string(), content.body.clone())).collect();
        let began = Instant::now();
        let verdict = self.desk.tell(self.agent.id, command, contents).await;
        spent("log", began.elapsed());
        match verdict? {
            Ok(accepted) => {
                for recorded in &accepted.events {
                    self.conversation.fold(recorded.stored.at, &recorded.event, &bodies);
                }
                Ok(Some(accepted.events))
            }
            Err(refusal) => {
                tracing::debug!(%refusal, agent_id = %self.agent.id, "a run ends here");
                Ok(None)
            }
        }
    }

    /// The same for what nobody could find out again: it is told again and again while the log takes nothing. Told twice
    /// it is refused, and whoever goes on finds in the log what has come of it.
    pub(super) async fn tell_surely(
        &mut self,
        command: Command,
        contents: Vec<Content>,
    ) -> Result<Option<Vec<Arc<Recorded>>>, Failure> {
        let until = Instant::now() + config::TOLD_AGAIN;
        loop {
            match self.tell(command.clone(), contents.clone()).await {
                Err(Failure::QueueFull | Failure::Unavailable { .. }) if Instant::now() < until => {
                    sleep(config::TOLD_AGAIN_REST).await;
                }
                outcome => return outcome,
            }
        }
    }

    pub(super) async fn fail(&mut self, code: &str, message: &str) -> Result<Acted, Failure> {
        let (code, message) = (code.to_owned(), self.secrets.mask_up_to(message, true));
        self.tell(Command::FailTask { epoch: self.epoch, code, message }, vec![]).await?;
        Ok(Acted::Ended)
    }
}

/// Counts the time that a run has spent: on a step as a whole, and in it on the log, the model and tools.
pub(super) fn spent(part: &'static str, time: Duration) {
    metrics::histogram!("theazo_run_seconds", "part" => part).record(time);
}

/// Whether what the log made of a command says that the run ends here: it pauses, or has failed.
pub(super) fn ends(events: &[Arc<Recorded>]) -> bool {
    events.iter().any(|recorded| {
        matches!(
            recorded.event,
            Event::AgentPaused(_)
                | Event::TaskFailed(_)
                | Event::TaskCompleted(_)
                | Event::AgentLimitReached(_)
        )
    })
}
