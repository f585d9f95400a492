//! The closed list of commands, which aggregate decides each, and the states they decide on.

use serde::{Deserialize, Serialize};

use crate::agent::Life;
use crate::id::{AgentId, DefinitionId, KeyId, OrganizationId, SessionId, UserId};
use crate::{
    Aggregate, Event, Facts, Refusal, Subject, agent, billing, budget, definition, key, organization,
    provider, session, user,
};

/// Something that a caller asks to happen.
#[derive(Debug, Clone)]
pub enum Command {
    /// To an organization.
    Organization(OrganizationId, organization::Command),
    /// To an API key.
    Key(KeyId, key::Command),
    /// To an end user, who is looked up by the caller's own id and may be new.
    User(user::Command),
    /// To a session.
    Session(SessionId, session::Command),
    /// To an agent definition.
    Definition(DefinitionId, definition::Command),
    /// To an agent.
    Agent(AgentId, agent::Command),
    /// To the compute providers.
    Providers(provider::Command),
    /// To the money of the organization.
    Billing(billing::Command),
}

/// An end user as the caller knows them, and the id they get if they are new.
#[derive(Debug, Clone)]
pub struct Person {
    /// The caller's own `userId`, opaque and compared byte for byte.
    pub external_id: String,
    /// The id for them if this tenant has not seen them before.
    pub new_id: UserId,
}

impl Command {
    /// Who decides this command; `None` when it is the end user that [`Self::person`] names.
    #[must_use]
    pub fn target(&self) -> Option<Subject> {
        match self {
            Self::Organization(id, _) => Some(Subject::Organization(*id)),
            Self::Key(id, _) => Some(Subject::Key(*id)),
            Self::User(_) => None,
            Self::Session(id, _) => Some(Subject::Session(*id)),
            Self::Definition(id, _) => Some(Subject::Definition(*id)),
            Self::Agent(id, _) => Some(Subject::Agent(*id)),
            Self::Providers(_) => Some(Subject::Providers),
            Self::Billing(_) => Some(Subject::Billing),
        }
    }

    /// Whose states the decision stands on besides the target's, which is this one: for what an agent does its
    /// session, for what moves money the end user and the organization, and for a new agent what it is made from.
    #[must_use]
    pub fn witnesses(&self, target: &AggregateState, organization_id: OrganizationId) -> Vec<Subject> {
        let payers = |user_id| [Subject::User(user_id), Subject::Organization(organization_id)];
        match (self, target) {
            (Self::Agent(..), AggregateState::Agent(agent)) => match agent.life() {
                Some(life) => {
                    let session = Subject::Session(life.place.session_id);
                    [session].into_iter().chain(payers(life.place.user_id)).collect()
                }
                None => vec![],
            },
            (Self::Session(_, command), AggregateState::Session(session)) => {
                let payers = session.payer(command).map(payers);
                payers.into_iter().flatten().chain(made_from(command)).collect()
            }
            (Self::Billing(billing::Command::Adjust(adjusting)), _) => {
                let session = Subject::Session(adjusting.place.session_id);
                [session].into_iter().chain(payers(adjusting.place.user_id)).collect()
            }
            _ => vec![],
        }
    }

    /// The end user that has to be looked up for the decision.
    #[must_use]
    pub fn person(&self) -> Option<&Person> {
        match self {
            Self::User(user::Command::OpenSession { opening, .. })
            | Self::Session(_, session::Command::Create(opening)) => Some(&opening.person),
            Self::User(user::Command::SetBudget { person, .. }) => Some(person),
            _ => None,
        }
    }

    /// Whether the target is new, so that nothing can have happened to it: its id was made for this command.
    #[must_use]
    pub fn begins(&self) -> bool {
        matches!(
            self,
            Self::Key(_, key::Command::Create { .. })
                | Self::Session(_, session::Command::Create(_))
                | Self::Definition(_, definition::Command::Create(_))
        )
    }
}

/// What a new agent is made from.
fn made_from(command: &session::Command) -> Vec<Subject> {
    let session::Command::AddAgent(agent) = command else { return vec![] };
    let definition = agent.definition.map(|made_from| Subject::Definition(made_from.definition_id));
    definition.into_iter().chain([Subject::Providers]).collect()
}

/// The state of one aggregate, whichever it is.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AggregateState {
    /// Of an organization.
    Organization(organization::State),
    /// Of an API key.
    Key(key::State),
    /// Of an end user.
    User(user::State),
    /// Of a session.
    Session(session::State),
    /// Of an agent definition.
    Definition(definition::State),
    /// Of an agent.
    Agent(Box<agent::State>),
    /// Of a task: its agent's state has all that is decided on.
    Task,
    /// Of the compute providers.
    Providers(provider::State),
    /// Of the money of the organization.
    Billing(billing::State),
}

impl AggregateState {
    /// The format of the states in snapshots: a snapshot of another format is not read, but folded anew.
    /// To be raised with every change of a state's fields or of what `evolve` makes of an event.
    ///
    /// Those before 7 are not trusted: states that were read from the database while events about them waited to be
    /// written lacked these, and such a state may have been written down. Those before 8 have unrated usage by the hour.
    pub const FORMAT: i32 = 8;

    /// The state of an aggregate that nothing has happened to.
    #[must_use]
    pub fn empty(subject: Subject) -> Self {
        match subject {
            Subject::Organization(_) => Self::Organization(organization::State::default()),
            Subject::Key(_) => Self::Key(key::State::default()),
            Subject::User(_) => Self::User(user::State::default()),
            Subject::Session(_) => Self::Session(session::State::default()),
            Subject::Definition(_) => Self::Definition(definition::State::default()),
            Subject::Agent(_) => Self::Agent(Box::default()),
            Subject::Task(_) => Self::Task,
            Subject::Providers => Self::Providers(provider::State::default()),
            Subject::Billing => Self::Billing(billing::State::default()),
        }
    }

    /// Decides a command on this state.
    ///
    /// # Errors
    /// A [`Refusal`] by the rules.
    ///
    /// # Panics
    /// When the command is for another kind of aggregate: the caller loads the state that the command targets.
    pub fn decide(&self, command: &Command, facts: &Facts) -> Result<Vec<Event>, Refusal> {
        let mut events = self.decided(command, facts)?;
        let session = match self {
            Self::Session(session) => session.standing(),
            _ => facts.session.as_ref(),
        };
        let follow = budget::consequences(&events, session, |agent| self.held_ahead_ms(agent), facts);
        events.extend(follow);
        Ok(events)
    }

    /// For how many milliseconds compute is held for an agent, as far as decisions on this state can change that.
    fn held_ahead_ms(&self, agent: AgentId) -> i64 {
        let life = match self {
            Self::Session(session) => session.life(agent),
            Self::Agent(agent) => agent.life(),
            _ => None,
        };
        life.map_or(0, Life::held_ahead_ms)
    }

    fn decided(&self, command: &Command, facts: &Facts) -> Result<Vec<Event>, Refusal> {
        match (self, command) {
            (Self::Organization(state), Command::Organization(_, command)) => state.decide(command, facts),
            (Self::Key(state), Command::Key(_, command)) => state.decide(command, facts),
            (Self::User(state), Command::User(command)) => state.decide(command, facts),
            (Self::Session(state), Command::Session(_, command)) => state.decide(command, facts),
            (Self::Definition(state), Command::Definition(_, command)) => state.decide(command, facts),
            (Self::Agent(state), Command::Agent(_, command)) => state.decide(command, facts),
            (Self::Providers(state), Command::Providers(command)) => state.decide(command, facts),
            (Self::Billing(state), Command::Billing(command)) => state.decide(command, facts),
            _ => panic!("a command is decided on the state of its own target"),
        }
    }

    /// Folds an event that names this aggregate among its subjects.
    pub fn evolve(&mut self, event: &Event) {
        match self {
            Self::Organization(state) => state.evolve(event),
            Self::Key(state) => state.evolve(event),
            Self::User(state) => state.evolve(event),
            Self::Session(state) => state.evolve(event),
            Self::Definition(state) => state.evolve(event),
            Self::Agent(state) => state.evolve(event),
            Self::Task => {}
            Self::Providers(state) => state.evolve(event),
            Self::Billing(state) => state.evolve(event),
        }
    }
}
