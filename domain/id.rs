//! The typed, prefixed ids of everything that has one: prefix, `_`, ULID in upper case.
//!
//! The random part comes in from outside (the system's generator); nothing here makes randomness.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use ulid::Ulid;

/// Defines a typed id with its prefix.
macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Ulid);

        impl $name {
            /// What every id of this kind begins with, before the underscore.
            pub const PREFIX: &'static str = $prefix;

            /// The id with this ULID, whose random part the caller drew from the system's generator.
            #[must_use]
            pub const fn from_ulid(ulid: Ulid) -> Self {
                Self(ulid)
            }

            /// The ULID without its prefix.
            #[must_use]
            pub const fn ulid(self) -> Ulid {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(formatter, concat!($prefix, "_{}"), self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, formatter)
            }
        }

        impl FromStr for $name {
            type Err = Malformed;

            fn from_str(text: &str) -> Result<Self, Malformed> {
                parse(text, $prefix).map(Self)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

id!(
    /// An organization: the customer whose log it is, in both of its modes.
    OrganizationId, "org"
);
id!(
    /// An API key (its public name, not the secret).
    KeyId, "key"
);
id!(
    /// An end user of an organization; the caller's own `userId` stands in one table beside the log.
    UserId, "usr"
);
id!(
    /// A session of one end user.
    SessionId, "ses"
);
id!(
    /// An agent of a session.
    AgentId, "agt"
);
id!(
    /// A task that an agent runs.
    TaskId, "task"
);
id!(
    /// An agent definition, in all its versions.
    DefinitionId, "adef"
);
id!(
    /// One call to a model.
    CallId, "call"
);
id!(
    /// One call of a tool, by us; the model has an id of its own for it.
    ToolCallId, "tool"
);
id!(
    /// A program that a caller had run in an agent's sandbox.
    ExecId, "exec"
);
id!(
    /// One request to the API, as it is named in answers, logs and event metadata.
    RequestId, "req"
);
id!(
    /// One event of a log.
    EventId, "evt"
);
id!(
    /// A row of personal content beside the log.
    ContentId, "cnt"
);

id!(
    /// One version of a value that lies sealed beside the log.
    ValueId, "val"
);

/// A text that is not an id of the kind that was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected {0}_ and a ULID in upper case")]
pub struct Malformed(&'static str);

/// Reads `prefix_ULID`, accepting only the one spelling that writing gives.
fn parse(text: &str, prefix: &'static str) -> Result<Ulid, Malformed> {
    let malformed = Malformed(prefix);
    let rest = text.strip_prefix(prefix).and_then(|rest| rest.strip_prefix('_')).ok_or(malformed)?;
    let ulid = Ulid::from_string(rest).map_err(|_| malformed)?;
    // A ULID decoder is lenient (lower case, I for 1); an id has one spelling, or two ids would name one thing.
    let mut canonical = [0; ulid::ULID_LEN];
    if ulid.array_to_str(&mut canonical) == rest { Ok(ulid) } else { Err(malformed) }
}

/// The id of something that an event is about. An event belongs to every subject that it names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Subject {
    /// An organization.
    Organization(OrganizationId),
    /// An API key.
    Key(KeyId),
    /// An end user.
    User(UserId),
    /// A session.
    Session(SessionId),
    /// An agent definition.
    Definition(DefinitionId),
    /// An agent.
    Agent(AgentId),
    /// A task of an agent.
    Task(TaskId),
    /// The compute providers of the organization, all of them: they are decided on together.
    Providers,
    /// The money of the organization as a whole.
    Billing,
}

/// What the compute providers are called among subjects: there is one such subject in a log.
const PROVIDERS: &str = "providers";
/// What the money of the organization is called among subjects: there is one such subject in a log.
const BILLING: &str = "billing";

impl fmt::Display for Subject {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Organization(id) => id.fmt(formatter),
            Self::Key(id) => id.fmt(formatter),
            Self::User(id) => id.fmt(formatter),
            Self::Session(id) => id.fmt(formatter),
            Self::Definition(id) => id.fmt(formatter),
            Self::Agent(id) => id.fmt(formatter),
            Self::Task(id) => id.fmt(formatter),
            Self::Providers => formatter.write_str(PROVIDERS),
            Self::Billing => formatter.write_str(BILLING),
        }
    }
}

impl FromStr for Subject {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        match text.split('_').next() {
            Some(OrganizationId::PREFIX) => text.parse().map(Self::Organization),
            Some(KeyId::PREFIX) => text.parse().map(Self::Key),
            Some(UserId::PREFIX) => text.parse().map(Self::User),
            Some(SessionId::PREFIX) => text.parse().map(Self::Session),
            Some(DefinitionId::PREFIX) => text.parse().map(Self::Definition),
            Some(AgentId::PREFIX) => text.parse().map(Self::Agent),
            Some(TaskId::PREFIX) => text.parse().map(Self::Task),
            Some(PROVIDERS) if text == PROVIDERS => Ok(Self::Providers),
            Some(BILLING) if text == BILLING => Ok(Self::Billing),
            _ => Err(Malformed("a known prefix")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_has_one_spelling() {
        let text = "ses_01ARZ3NDEKTSV4RRFFQ69G50AV";
        let id: SessionId = text.parse().unwrap();
        assert_eq!(id.to_string(), text);
        assert!("ses_01arz3ndektsv4rrffq69g50av".parse::<SessionId>().is_err());
        assert!(text.replace("ses_", "usr_").parse::<SessionId>().is_err());
        assert!(text.replace('0', "O").parse::<SessionId>().is_err());
        assert!("ses_".parse::<SessionId>().is_err());
        assert!("".parse::<SessionId>().is_err());
    }

    #[test]
    fn a_subject_is_known_by_its_prefix() {
        let id = UserId::from_ulid(Ulid::from_parts(3, 4));
        assert_eq!(id.to_string().parse(), Ok(Subject::User(id)));
        assert!("evt_01ARZ3NDEKTSV4RRFFQ69G5FAV".parse::<Subject>().is_err());
        assert_eq!(Subject::Providers.to_string().parse(), Ok(Subject::Providers));
        assert!("providers_01ARZ3NDEKTSV4RRFFQ69G5FAV".parse::<Subject>().is_err());
    }
}
