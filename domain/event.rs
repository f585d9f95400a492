//! The closed list of what can happen, and how each event is named and written.

use serde::{Deserialize, Serialize};

use crate::account::LimitName;
use crate::charge::{Booked, Place};
use crate::id::{OrganizationId, TaskId, UserId};
use crate::{Subject, agent, billing, budget, definition, key, organization, provider, secret, session};

/// Something that has happened. The name of a variant on disk never changes; what it carries changes only with
/// a new format version and an upcaster from the old one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    /// An organization began, in one of its modes: the first event of its log.
    #[serde(rename = "organization.created")]
    OrganizationCreated(organization::Created),
    /// An API key was made.
    #[serde(rename = "key.created")]
    KeyCreated(key::Created),
    /// An API key was revoked, for good.
    #[serde(rename = "key.revoked")]
    KeyRevoked(key::Revoked),
    /// A session was created for an end user.
    #[serde(rename = "session.created")]
    SessionCreated(session::Created),
    /// A session was paused: no work starts in it.
    #[serde(rename = "session.paused")]
    SessionPaused(session::Changed),
    /// A paused session goes on.
    #[serde(rename = "session.resumed")]
    SessionResumed(session::Changed),
    /// A session ended, for good.
    #[serde(rename = "session.terminated")]
    SessionTerminated(session::Changed),
    /// The limits of a session were replaced.
    #[serde(rename = "session.limits_changed")]
    SessionLimitsChanged(session::LimitsChanged),
    /// An agent definition began, as version 1.
    #[serde(rename = "definition.created")]
    DefinitionCreated(definition::Versioned),
    /// The next version of an agent definition was made.
    #[serde(rename = "definition.updated")]
    DefinitionUpdated(definition::Versioned),
    /// An agent definition was archived: no new agents are made from it.
    #[serde(rename = "definition.archived")]
    DefinitionArchived(definition::Archived),
    /// A secret was set: never its value.
    #[serde(rename = "secret.set")]
    SecretSet(secret::Set),
    /// A secret was deleted, with its value.
    #[serde(rename = "secret.deleted")]
    SecretDeleted(secret::Deleted),
    /// An agent was created in a session.
    #[serde(rename = "agent.created")]
    AgentCreated(agent::Created),
    /// An agent's sandbox was made.
    #[serde(rename = "agent.provisioned")]
    AgentProvisioned(agent::Readied),
    /// An agent's sandbox could not be made, or is gone.
    #[serde(rename = "agent.failed")]
    AgentFailed(agent::Failed),
    /// An agent is to pause as soon as what is in flight has ended.
    #[serde(rename = "agent.pause_requested")]
    AgentPauseRequested(agent::PauseRequested),
    /// An agent is paused.
    #[serde(rename = "agent.paused")]
    AgentPaused(agent::Paused),
    /// A paused agent goes on.
    #[serde(rename = "agent.resumed")]
    AgentResumed(agent::Resumed),
    /// The sandbox of a paused agent was suspended.
    #[serde(rename = "agent.suspended")]
    AgentSuspended(agent::Suspended),
    /// A suspended sandbox is ready again.
    #[serde(rename = "agent.woken")]
    AgentWoken(agent::Readied),
    /// An agent ended, for good.
    #[serde(rename = "agent.terminated")]
    AgentTerminated(agent::Terminated),
    /// The sandbox of an agent that has ended is gone.
    #[serde(rename = "agent.released")]
    AgentReleased(agent::Released),
    /// The next piece of an agent's work does not fit a limit.
    #[serde(rename = "agent.limit_reached")]
    AgentLimitReached(agent::LimitReached),
    /// Work was refused because it does not fit a limit.
    #[serde(rename = "limit.refused")]
    LimitRefused(session::LimitRefused),
    /// A session is past its limit, because something was dearer than its worst case.
    #[serde(rename = "session.limit_overrun")]
    SessionLimitOverrun(session::LimitOverrun),
    /// A budget was set, or replaced.
    #[serde(rename = "budget.set")]
    BudgetSet(budget::Set),
    /// A budget was removed.
    #[serde(rename = "budget.removed")]
    BudgetRemoved(budget::Removed),
    /// What was spent has reached a share of a budget.
    #[serde(rename = "budget.threshold_crossed")]
    BudgetThresholdCrossed(budget::ThresholdCrossed),
    /// A budget is past, because something was dearer than its worst case or was learned later.
    #[serde(rename = "budget.overrun")]
    BudgetOverrun(budget::Overrun),
    /// A task was given to an agent.
    #[serde(rename = "task.created")]
    TaskCreated(agent::TaskCreated),
    /// A worker took a task.
    #[serde(rename = "task.claimed")]
    TaskClaimed(agent::TaskClaimed),
    /// A task is done.
    #[serde(rename = "task.completed")]
    TaskCompleted(agent::TaskEnded),
    /// A task cannot be done.
    #[serde(rename = "task.failed")]
    TaskFailed(agent::TaskEnded),
    /// A task was given up, because its agent ended.
    #[serde(rename = "task.cancelled")]
    TaskCancelled(agent::TaskEnded),
    /// A call to a model is about to be made.
    #[serde(rename = "model.call_opened")]
    CallOpened(agent::CallOpened),
    /// A call to a model was answered.
    #[serde(rename = "model.call_settled")]
    CallSettled(agent::CallSettled),
    /// A call to a model did not take place.
    #[serde(rename = "model.call_released")]
    CallReleased(agent::CallReleased),
    /// A call to a model was made, and its answer never came.
    #[serde(rename = "model.call_lost")]
    CallLost(agent::CallLost),
    /// A tool is about to be called.
    #[serde(rename = "tool.started")]
    ToolStarted(agent::ToolStarted),
    /// A call of a tool ended.
    #[serde(rename = "tool.finished")]
    ToolFinished(agent::ToolFinished),
    /// A caller's program is about to be run.
    #[serde(rename = "exec.started")]
    ExecStarted(agent::ExecStarted),
    /// The run of a caller's program ended.
    #[serde(rename = "exec.finished")]
    ExecFinished(agent::ExecFinished),
    /// A sandbox is ready, and is paid for.
    #[serde(rename = "compute.started")]
    ComputeStarted(agent::ComputeStarted),
    /// A piece of compute was used.
    #[serde(rename = "compute.ticked")]
    ComputeTicked(agent::ComputeTicked),
    /// A sandbox is no longer ready.
    #[serde(rename = "compute.stopped")]
    ComputeStopped(agent::ComputeStopped),
    /// A piece of storage was used, or its size has changed.
    #[serde(rename = "storage.metered")]
    StorageMetered(agent::StorageMetered),
    /// Credentials of a compute provider were set: never the credentials themselves.
    #[serde(rename = "provider.configured")]
    ProviderConfigured(provider::Configured),
    /// A compute provider was asked whether it takes its credentials.
    #[serde(rename = "provider.verified")]
    ProviderVerified(provider::Verified),
    /// Another compute provider is the default.
    #[serde(rename = "provider.default_changed")]
    ProviderDefaultChanged(provider::DefaultChanged),
    /// A compute provider was removed, with its credentials.
    #[serde(rename = "provider.removed")]
    ProviderRemoved(provider::Removed),
    /// It became known what a call to a model used whose usage was unconfirmed.
    #[serde(rename = "model.call_reconciled")]
    CallReconciled(agent::CallReconciled),
    /// Usage of a model that had no price was given one.
    #[serde(rename = "usage.rated")]
    UsageRated(agent::UsageRated),
    /// A rate card was imported.
    #[serde(rename = "rates.imported")]
    RatesImported(billing::RatesImported),
    /// A charge was corrected.
    #[serde(rename = "billing.adjusted")]
    BillingAdjusted(billing::Adjusted),
}

/// An event as it is written: its type, and its data as the JSON text that is hashed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// The event's type, such as `session.created`.
    pub kind: String,
    /// One line of JSON.
    pub data: String,
}

impl Event {
    /// The format version that this program writes for every type that has not been given a newer one.
    pub const FIRST_VERSION: i16 = 1;

    /// The type names of every event, in the order of the list.
    pub const KINDS: [&'static str; 55] = [
        "organization.created",
        "key.created",
        "key.revoked",
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
        "agent.provisioned",
        "agent.failed",
        "agent.pause_requested",
        "agent.paused",
        "agent.resumed",
        "agent.suspended",
        "agent.woken",
        "agent.terminated",
        "agent.released",
        "agent.limit_reached",
        "limit.refused",
        "session.limit_overrun",
        "budget.set",
        "budget.removed",
        "budget.threshold_crossed",
        "budget.overrun",
        "task.created",
        "task.claimed",
        "task.completed",
        "task.failed",
        "task.cancelled",
        "model.call_opened",
        "model.call_settled",
        "model.call_released",
        "model.call_lost",
        "tool.started",
        "tool.finished",
        "exec.started",
        "exec.finished",
        "compute.started",
        "compute.ticked",
        "compute.stopped",
        "storage.metered",
        "provider.configured",
        "provider.verified",
        "provider.default_changed",
        "provider.removed",
        "model.call_reconciled",
        "usage.rated",
        "rates.imported",
        "billing.adjusted",
    ];

    /// The newest format version of a type, which is what this program writes; `None` for a type it does not know.
    #[must_use]
    pub fn newest_version(kind: &str) -> Option<i16> {
        Self::KINDS.contains(&kind).then_some(Self::FIRST_VERSION)
    }

    /// Everything that this event is about, each once.
    #[must_use]
    pub fn subjects(&self) -> Vec<Subject> {
        match self {
            Self::OrganizationCreated(event) => vec![Subject::Organization(event.organization_id)],
            Self::KeyCreated(event) => vec![Subject::Key(event.key_id)],
            Self::KeyRevoked(event) => vec![Subject::Key(event.key_id)],
            Self::SessionCreated(event) => {
                vec![Subject::Session(event.session_id), Subject::User(event.user_id)]
            }
            Self::SessionPaused(event) | Self::SessionResumed(event) | Self::SessionTerminated(event) => {
                vec![Subject::Session(event.session_id), Subject::User(event.user_id)]
            }
            Self::SessionLimitsChanged(event) => {
                vec![Subject::Session(event.session_id), Subject::User(event.user_id)]
            }
            Self::DefinitionCreated(event) | Self::DefinitionUpdated(event) => {
                vec![Subject::Definition(event.definition_id)]
            }
            Self::DefinitionArchived(event) => vec![Subject::Definition(event.definition_id)],
            Self::SecretSet(event) => event.holder.subjects(),
            Self::SecretDeleted(event) => event.holder.subjects(),
            Self::LimitRefused(event) => {
                let agent = event.agent_id.map(Subject::Agent);
                let session = [Subject::Session(event.session_id), Subject::User(event.user_id)];
                let organization = (event.excess.limit == LimitName::OrganizationBudget)
                    .then_some(Subject::Organization(event.organization_id));
                session.into_iter().chain(agent).chain(organization).collect()
            }
            Self::BudgetSet(event) => vec![payer(event.organization_id, event.user_id)],
            Self::BudgetRemoved(event) => vec![payer(event.organization_id, event.user_id)],
            Self::BudgetThresholdCrossed(event) => vec![payer(event.organization_id, event.user_id)],
            Self::ProviderConfigured(_)
            | Self::ProviderVerified(_)
            | Self::ProviderDefaultChanged(_)
            | Self::ProviderRemoved(_) => vec![Subject::Providers],
            Self::RatesImported(_) => vec![Subject::Billing],
            event => event.subjects_of_work(),
        }
    }

    /// The subjects of what an agent does: itself, its session, and its task where it is for one. What books money is
    /// about the user and the organization too, whose accounts it moves.
    fn subjects_of_work(&self) -> Vec<Subject> {
        let Some(place) = self.place() else { return vec![] };
        let mut subjects = vec![Subject::Agent(place.agent_id), Subject::Session(place.session_id)];
        subjects.extend(self.task_id().map(Subject::Task));
        // Whether a provider has active agents is what its removal is decided on.
        if matches!(self, Self::AgentCreated(_) | Self::AgentFailed(_) | Self::AgentTerminated(_)) {
            subjects.push(Subject::Providers);
        }
        if matches!(self, Self::BillingAdjusted(_)) {
            subjects.push(Subject::Billing);
        }
        if self.booked().is_some() || matches!(self, Self::BudgetOverrun(_)) {
            subjects.extend([Subject::User(place.user_id), Subject::Organization(place.organization_id)]);
        }
        subjects
    }

    /// Whose work it is, where it is an agent's.
    #[must_use]
    pub const fn place(&self) -> Option<Place> {
        Some(match self {
            Self::AgentCreated(event) => event.place,
            Self::AgentProvisioned(event) => event.place,
            Self::AgentFailed(event) => event.place,
            Self::AgentPauseRequested(event) => event.place,
            Self::AgentPaused(event) => event.place,
            Self::AgentResumed(event) => event.place,
            Self::AgentSuspended(event) => event.place,
            Self::AgentWoken(event) => event.place,
            Self::AgentTerminated(event) => event.place,
            Self::AgentReleased(event) => event.place,
            Self::AgentLimitReached(event) => event.place,
            Self::SessionLimitOverrun(event) => event.place,
            Self::BudgetOverrun(event) => event.place,
            Self::TaskCreated(event) => event.place,
            Self::TaskClaimed(event) => event.place,
            Self::TaskCompleted(event) => event.place,
            Self::TaskFailed(event) => event.place,
            Self::TaskCancelled(event) => event.place,
            Self::CallOpened(event) => event.place,
            Self::CallSettled(event) => event.place,
            Self::CallReleased(event) => event.place,
            Self::CallLost(event) => event.place,
            Self::ToolStarted(event) => event.place,
            Self::ToolFinished(event) => event.place,
            Self::ExecStarted(event) => event.place,
            Self::ExecFinished(event) => event.place,
            Self::ComputeStarted(event) => event.place,
            Self::ComputeTicked(event) => event.place,
            Self::ComputeStopped(event) => event.place,
            Self::StorageMetered(event) => event.place,
            Self::CallReconciled(event) => event.place,
            Self::UsageRated(event) => event.place,
            Self::BillingAdjusted(event) => event.place,
            _ => return None,
        })
    }

    /// For which task it is, where it is for one.
    #[must_use]
    pub const fn task_id(&self) -> Option<TaskId> {
        Some(match self {
            Self::TaskCreated(event) => event.task_id,
            Self::TaskClaimed(event) => event.task_id,
            Self::TaskCompleted(event) => event.task_id,
            Self::TaskFailed(event) => event.task_id,
            Self::TaskCancelled(event) => event.task_id,
            Self::CallOpened(event) => event.task_id,
            Self::CallSettled(event) => event.task_id,
            Self::CallReleased(event) => event.task_id,
            Self::CallLost(event) => event.task_id,
            Self::ToolStarted(event) => event.task_id,
            Self::ToolFinished(event) => event.task_id,
            _ => return None,
        })
    }

    /// What it books, where it moves money.
    #[must_use]
    pub fn booked(&self) -> Option<Booked<'_>> {
        let booking = match self {
            Self::AgentCreated(event) => &event.booking,
            Self::AgentFailed(event) => &event.booking,
            Self::AgentResumed(event) => &event.booking,
            Self::AgentTerminated(event) => &event.booking,
            Self::CallOpened(event) => &event.booking,
            Self::CallSettled(event) => &event.booking,
            Self::CallReleased(event) => &event.booking,
            Self::CallLost(event) => &event.booking,
            Self::ComputeTicked(event) => &event.booking,
            Self::ComputeStopped(event) => &event.booking,
            Self::StorageMetered(event) => &event.booking,
            Self::CallReconciled(event) => &event.booking,
            Self::UsageRated(event) => &event.booking,
            Self::BillingAdjusted(event) => &event.booking,
            _ => return None,
        };
        let model = match self {
            Self::CallOpened(event) => Some(event.model.as_str()),
            Self::CallSettled(event) => Some(event.model.as_str()),
            Self::CallReleased(event) => Some(event.model.as_str()),
            Self::CallLost(event) => Some(event.model.as_str()),
            Self::CallReconciled(event) => Some(event.model.as_str()),
            Self::UsageRated(event) => Some(event.model.as_str()),
            Self::BillingAdjusted(event) => event.model.as_deref(),
            _ => None,
        };
        Some(Booked { place: self.place()?, task_id: self.task_id(), model, booking })
    }

    /// Writes the event as its type and one line of JSON.
    ///
    /// # Panics
    /// Never: every event is a struct of texts, numbers and lists, which serialization cannot refuse.
    #[must_use]
    pub fn write(&self) -> Written {
        // Serde writes a newtype variant as {"name":data}; the two parts are cut out of that text.
        let tagged = serde_json::to_string(self).expect("an event is plain data");
        let (name, rest) =
            tagged[2..].split_once("\":").expect("a newtype variant is an object of one member");
        Written { kind: name.to_owned(), data: rest[..rest.len() - 1].to_owned() }
    }

    /// Reads an event of this program's own format version.
    ///
    /// # Errors
    /// When the type is unknown or the data is not of its form.
    pub fn read(kind: &str, data: &str) -> Result<Self, serde_json::Error> {
        let mut tagged = String::with_capacity(kind.len() + data.len() + 5);
        tagged.push_str("{\"");
        tagged.push_str(kind);
        tagged.push_str("\":");
        tagged.push_str(data);
        tagged.push('}');
        serde_json::from_str(&tagged)
    }
}

/// Whose budget it is: the end user's, where there is one, else the organization's.
fn payer(organization_id: OrganizationId, user_id: Option<UserId>) -> Subject {
    user_id.map_or(Subject::Organization(organization_id), Subject::User)
}
