//! What operations must come to: most make one event happen.

use serde::{Deserialize, Serialize};

use super::account::{Operation, Outcome};
use crate::client::Answer;

/// An event that has to happen, or a refusal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Effect {
    /// The type of the event; none where the rules have to refuse it.
    pub(crate) event: Option<String>,
    /// Ids and names of what that event is about. What only the answer tells is there once there is one.
    pub(crate) about: Vec<String>,
    /// The name by which the answer has one more id of what it is about.
    #[serde(skip)]
    told: Option<&'static str>,
    /// The words in which it is refused.
    #[serde(skip)]
    refused: &'static str,
}

impl Effect {
    /// An event of this type, about this.
    pub(crate) fn of(event: &str, about: &[&str]) -> Self {
        let about = about.iter().map(|id| (*id).to_owned()).collect();
        Self { event: Some(event.to_owned()), about, told: None, refused: "" }
    }

    /// What a POST or a PUT to this path makes happen.
    pub(crate) fn of_path(path: &str) -> Self {
        let last = path.rsplit('/').next().unwrap_or_default();
        let event = match (last, path.starts_with("/v1/sessions/")) {
            ("sessions", _) => "session.created",
            ("agent-definitions", _) => "definition.created",
            ("secrets", _) => "secret.set",
            ("budgets", _) => "budget.set",
            ("agents", _) => "agent.created",
            ("run", _) => "task.created",
            ("pause", _) => "agent.paused",
            ("resume", _) => "agent.resumed",
            ("terminate", true) => "session.terminated",
            ("terminate", false) => "agent.terminated",
            _ => "billing.adjusted",
        };
        Self::of(event, &[])
    }

    /// The same, about what the answer calls so, too.
    pub(crate) fn telling(self, name: &'static str) -> Self {
        Self { told: Some(name), ..self }
    }

    /// The rules say no, in these words.
    pub(crate) const fn refused(words: &'static str) -> Self {
        Self { event: None, about: vec![], told: None, refused: words }
    }
}

impl Operation for Effect {
    fn decided(&mut self, answer: &Answer) -> Option<Outcome> {
        if self.event.is_none() {
            let is_right = answer.status == 409 && answer.text.contains(self.refused);
            return is_right.then_some(Outcome::Refused);
        }
        if let Some(name) = self.told {
            self.about.push(answer.json()[name].as_str()?.to_owned());
        }
        answer.is_success().then_some(Outcome::Ok)
    }
}

/// Whatever was answered: the row itself holds it against what it must be.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Anything {
    /// The status of the answer; 0 while nobody has said.
    status: u16,
}

impl Operation for Anything {
    fn decided(&mut self, answer: &Answer) -> Option<Outcome> {
        self.status = answer.status;
        Some(match answer.status {
            200..300 => Outcome::Ok,
            400..500 => Outcome::Refused,
            _ => Outcome::Unknown,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, text: &str) -> Answer {
        Answer { status, replayed: false, text: text.to_owned() }
    }

    #[test]
    fn what_must_happen_is_acknowledged_with_the_id_that_it_tells() {
        let effect = || Effect::of("agent.created", &["ses_1"]).telling("id");
        let mut told = effect();
        assert_eq!(told.decided(&answer(201, r#"{"id":"agt_1"}"#)), Some(Outcome::Ok));
        assert_eq!(told.about, ["ses_1", "agt_1"]);
        assert_eq!(effect().decided(&answer(201, "{}")), None);
        assert_eq!(effect().decided(&answer(409, r#"{"id":"agt_1"}"#)), None);
    }

    #[test]
    fn what_must_be_refused_is_refused_in_those_words() {
        let decided = |status, text| Effect::refused("is paused").decided(&answer(status, text));
        assert_eq!(decided(409, "the session is paused"), Some(Outcome::Refused));
        assert_eq!(decided(409, "the session is terminated"), None);
        assert_eq!(decided(201, "the session is paused"), None);
    }
}
