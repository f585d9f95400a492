//! What may happen: the aggregates of theazo, pure and synchronous.
//!
//! An aggregate is two functions. [`Aggregate::decide`] says what a command makes happen, or refuses it by the
//! rules; [`Aggregate::evolve`] folds what has happened into the state that the next decision stands on, and
//! cannot fail. Nothing here reads a clock, draws a random number or waits: times and new ids come in commands
//! and [`Facts`]. `ls` of this folder is the list of aggregates.

/// What has been spent and is held: what limits are kept against.
pub mod account;
/// An agent, its tasks and its compute.
pub mod agent;
/// How an agent is set up: what a definition describes once, and what each agent may set for itself.
pub mod agent_config;
/// Cents for the parts of a total, so that they add up to it.
pub mod allotment;
/// The money of an organization as a whole: rate cards, and corrections of charges.
pub mod billing;
/// The bridge that runs these aggregates under cqrs-es: for its test framework, and as the benchmark's baseline.
#[cfg(any(test, feature = "cqrs-es"))]
pub mod bridge;
/// Budgets of end users and of the organization.
pub mod budget;
/// Charges and reservations, in one form.
pub mod charge;
/// The closed list of commands, and which aggregate decides each.
pub mod command;
/// References from an event to the personal content that lies beside the log.
pub mod content;
/// Crons: when a schedule fires.
pub mod cron;
/// Agent definitions: how agents are set up, described once, in versions that never change.
pub mod definition;
/// The closed list of what can happen, and how each event is named and written.
pub mod event;
/// The typed, prefixed ids of everything that has one.
pub mod id;
/// Paths into JSON documents and conditions on them: RFC 9535.
pub mod json_path;
/// API keys: made with a role, revoked once.
pub mod key;
/// Amounts of money: exact decimals inside, integer cents on the wire.
pub mod money;
/// The organization whose log it is: its name, plan and rate limit.
pub mod organization;
/// Compute providers: which are configured, which is the default, who uses them.
pub mod provider;
/// What compute and models cost: the rate card.
pub mod rates;
/// Secrets: the names and versions of what is confided to an organization or a session.
pub mod secret;
/// One user's isolated session: its status and its limits.
pub mod session;
/// A moment in UTC, to the millisecond.
pub mod time;
/// The built-in tools that an agent can be given: a closed list.
pub mod tool;
/// An end user of the organization: which sessions are open for them.
pub mod user;

pub use command::{AggregateState, Command};
pub use event::Event;
pub use id::Subject;

use id::{AgentId, OrganizationId, UserId};
use time::Timestamp;

/// Something that decides commands on the state its own events have left.
pub trait Aggregate: Default {
    /// What it can be asked to do.
    type Command;

    /// Says what `command` makes happen now: the events, none where nothing changes, or a refusal by the rules.
    ///
    /// # Errors
    /// A [`Refusal`] when the rules say no; nothing has changed then.
    fn decide(&self, command: &Self::Command, facts: &Facts) -> Result<Vec<Event>, Refusal>;

    /// Folds an event that has happened. It is total: what has happened cannot be refused.
    fn evolve(&mut self, event: &Event);
}

/// What a decision may stand on besides the state and the command.
#[derive(Debug, Clone)]
pub struct Facts {
    /// The time of the events that will be appended, never before the time of the event ahead of them.
    pub now: Timestamp,
    /// The id of the aggregate that decides, which a new aggregate's empty state cannot tell.
    pub subject: Subject,
    /// The organization whose log it is.
    pub organization_id: OrganizationId,
    /// The end user that the command is about, where it names one by the caller's own id.
    pub user: Option<UserId>,
    /// Where the session stands that the agent who decides is of.
    pub session: Option<session::Standing>,
    /// What the end user and the organization have spent, and may.
    pub payers: budget::Payers,
    /// What a new agent can be made from.
    pub stock: Stock,
}

/// What a new agent can be made from.
#[derive(Debug, Clone, Default)]
pub struct Stock {
    /// Who can run its sandbox.
    pub providers: provider::Offer,
    /// Where the definition stands that it is to be made from.
    pub definition: Option<definition::Status>,
}

impl Facts {
    /// Facts of a decision that stands on nobody else.
    #[must_use]
    pub fn new(now: Timestamp, subject: Subject, organization_id: OrganizationId) -> Self {
        let payers = budget::Payers::default();
        let stock = Stock::default();
        Self { now, subject, organization_id, user: None, session: None, payers, stock }
    }
}

/// Why the rules say no. Not a failure: deciding worked, and the answer is no.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// What the command names does not exist (for this tenant).
    #[error("{0} does not exist")]
    NotFound(Subject),
    /// Something without an id that the command names does not exist.
    #[error("{0}")]
    Absent(String),
    /// What the command is to make needs a provider that is not configured.
    #[error("{} is not configured", .0.as_str())]
    Unconfigured(provider::ProviderName),
    /// Agents that are neither terminated nor failed use what the command would end.
    #[error("{what} has active agents: {}", agents.len())]
    InUse {
        /// What they use.
        what: String,
        /// The agents.
        agents: Vec<AgentId>,
    },
    /// The command does not fit the present state.
    #[error("{0}")]
    Conflict(String),
    /// What the command confides would take too much, with what is there.
    #[error("{0}")]
    TooMuch(String),
    /// Nothing can begin yet: the agent's sandbox is being made, suspended or woken.
    #[error("the sandbox of {0} is not ready")]
    Unready(AgentId),
    /// What the command would have made exists already, and is to be used.
    #[error("{0} exists already")]
    Existing(Subject),
}
