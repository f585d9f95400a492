//! Sandboxes: made, suspended, woken and removed as the log says.

use theazo_domain::agent::{Command, Status};
use theazo_domain::id::AgentId;

use super::program::Secrets;
use super::{Desk, Done};
use crate::config;
use crate::log::Failure;
use crate::providers::compute::{Error, Handle, New};
use crate::read::agent::{self, Agent};
use crate::read::provider;

fn wanted(agent: &Agent) -> New {
    New {
        agent_id: agent.id,
        session_id: agent.session_id,
        browser: agent.browser,
        lifetime: config::SANDBOX_LIFETIME,
    }
}

pub(super) async fn provision(desk: Desk<'_>, agent_id: AgentId) -> Result<Done, Failure> {
    let Some(agent) = agent::get(desk.scope(), agent_id).await? else { return Ok(Done::LetGo) };
    // A server that takes up the work as another has just done it must not make anew what is in use by now.
    if agent.sandbox.is_some() || matches!(agent.status, Status::Terminated | Status::Failed) {
        return Ok(Done::LetGo);
    }
    let made = async { desk.compute(&agent).await?.create(&wanted(&agent)).await }.await;
    let command = match made {
        Ok(Handle(sandbox)) => Command::Provisioned { sandbox },
        Err(Error::Database) => return Ok(Done::Later),
        Err(error) => failed(&without_secrets(desk, &agent, error).await),
    };
    let _ = desk.tell(agent_id, command, vec![]).await?;
    Ok(Done::LetGo)
}

/// What went wrong, without the secrets that a provider may have seen in the agent's programs and repeats.
async fn without_secrets(desk: Desk<'_>, agent: &Agent, error: Error) -> Error {
    match Secrets::of(desk, agent).await {
        Ok(secrets) => secrets.mask_error(error),
        Err(_) => error.reworded(|_| "in words that cannot be shown".to_owned()),
    }
}

fn failed(error: &Error) -> Command {
    let (code, message) = error.recorded();
    Command::Fail { code, message }
}

pub(super) async fn suspend(desk: Desk<'_>, agent_id: AgentId) -> Result<Done, Failure> {
    let Some((agent, handle)) = with_sandbox(desk, agent_id).await? else { return Ok(Done::LetGo) };
    let suspended = async { desk.compute(&agent).await?.pause(&handle).await }.await;
    let command = match suspended {
        Ok(paused) => Command::Suspended { sandbox: paused.handle.0, stored_bytes: paused.stored_bytes },
        Err(Error::Gone) => failed(&Error::Gone),
        Err(error) => {
            let error = without_secrets(desk, &agent, error).await;
            tracing::warn!(%error, %agent_id, "a sandbox could not be suspended");
            // An agent that goes on does not wait for what its provider refuses: its sandbox is woken as it is.
            let passes = error.is_ours() || matches!(error, Error::Unavailable(_));
            if passes || agent.status == Status::Paused {
                return Ok(Done::Later);
            }
            Command::Suspended { sandbox: handle.0, stored_bytes: 0 }
        }
    };
    let _ = desk.tell(agent_id, command, vec![]).await?;
    Ok(Done::LetGo)
}

pub(super) async fn wake(desk: Desk<'_>, agent_id: AgentId) -> Result<Done, Failure> {
    let Some((agent, handle)) = with_sandbox(desk, agent_id).await? else { return Ok(Done::LetGo) };
    let woken = async { desk.compute(&agent).await?.resume(&handle, &wanted(&agent)).await }.await;
    let command = match woken {
        Ok(Handle(sandbox)) => Command::Woken { sandbox },
        // It may be repeated without harm, and another server may reach it.
        Err(error @ (Error::Unavailable(_) | Error::Database | Error::Internal)) => {
            let error = without_secrets(desk, &agent, error).await;
            tracing::warn!(%error, %agent_id, "a sandbox could not be woken");
            return Ok(Done::Later);
        }
        Err(error) => failed(&without_secrets(desk, &agent, error).await),
    };
    let _ = desk.tell(agent_id, command, vec![]).await?;
    Ok(Done::LetGo)
}

pub(super) async fn release(desk: Desk<'_>, agent_id: AgentId) -> Result<Done, Failure> {
    let Some(agent) = agent::get(desk.scope(), agent_id).await? else { return Ok(Done::LetGo) };
    if is_orphaned(desk, &agent).await? {
        tracing::warn!(%agent_id, "a sandbox is left behind: the provider that it was made by was removed");
    } else if let Some(sandbox) = agent.sandbox.clone() {
        let released = async { desk.compute(&agent).await?.terminate(&Handle(sandbox)).await }.await;
        if let Err(error) = released
            && error != Error::Gone
        {
            let error = without_secrets(desk, &agent, error).await;
            tracing::warn!(%error, %agent_id, "a sandbox could not be removed");
            return Ok(Done::Later);
        }
    }
    let _ = desk.tell(agent_id, Command::Released, vec![]).await?;
    Ok(Done::LetGo)
}

/// Whether the provider that an agent's sandbox was made by was removed. What has been configured since under the same
/// name may be somebody else, who is told nothing of it.
async fn is_orphaned(desk: Desk<'_>, agent: &Agent) -> Result<bool, Failure> {
    let provider = provider::get(desk.scope(), agent.provider).await?;
    Ok(provider.is_none_or(|provider| provider.position > agent.position))
}

async fn with_sandbox(desk: Desk<'_>, agent_id: AgentId) -> Result<Option<(Agent, Handle)>, Failure> {
    let agent = agent::get(desk.scope(), agent_id).await?;
    Ok(agent.and_then(|mut agent| agent.sandbox.take().map(|sandbox| (agent, Handle(sandbox)))))
}
