//! Writes that are refused: what they were told is kept as any other answer is, and told again also when what they were
//! refused for has gone.

use std::sync::atomic::Ordering;

use anyhow::{Context, ensure};
use serde_json::json;

use super::send::{are_the_same, with_another_body};
use super::{Copies, Scene, Write};
use crate::client::{Answer, Ask};
use crate::load::Customer;

/// A write that has to be refused, and how it is seen that it stays so.
struct Refused {
    write: Write,
    /// 402, 404 or 409: only these are kept.
    status: u16,
    /// Takes away what it is refused for.
    mend: Ask,
    /// Asked at last, to see that nothing was done.
    look: Ask,
    /// Whether the answer to that shows it.
    is_untouched: fn(&Answer) -> bool,
}

impl Scene<'_> {
    /// Sends writes that are refused, and sends them again when they would not be any more.
    pub(super) async fn refusals(
        &self,
        callers: &mut Copies<'_>,
        name: &str,
        violations: &mut Vec<String>,
    ) -> anyhow::Result<()> {
        let nothing = json!({ "maxCost": { "amount": 0, "currency": "usd", "period": "session" } });
        let body = json!({ "userId": format!("refused_{name}"), "limits": nothing });
        let session = Ask::post("/v1/sessions", Some(body)).once(format!("refused-{name}-session"));
        let session = self.made(&mut callers[0], &session).await?;
        let body = json!({ "name": format!("refused_{name}") });
        let definition = Ask::post("/v1/agent-definitions", Some(body));
        let definition = definition.once(format!("refused-{name}-definition"));
        let definition = self.made(&mut callers[0], &definition).await?;
        let by_the_definition = Refused::by_the_definition(name, &session, &definition);
        // The last one leaves the session paused.
        let all = [
            Refused::by_a_limit(name, &session),
            by_the_definition,
            Refused::secret(name),
            Refused::resume(name, &session),
        ];
        for refused in &all {
            self.refused(callers, refused, violations).await?;
        }
        Ok(())
    }

    /// Makes something, and gives its id.
    async fn made(&self, caller: &mut Customer<'_>, ask: &Ask) -> anyhow::Result<String> {
        let answer = self.done(caller, ask).await?;
        let id = answer.json()["id"].as_str().map(str::to_owned);
        id.with_context(|| format!("{} {}: no id in {}", ask.method, ask.path, answer.text))
    }

    /// Asks for something that must not be refused.
    async fn done(&self, caller: &mut Customer<'_>, ask: &Ask) -> anyhow::Result<Answer> {
        let answer = self.ask(caller, 0, ask).await?;
        ensure!(answer.is_success(), "{} {}: {} {}", ask.method, ask.path, answer.status, answer.text);
        Ok(answer)
    }

    async fn refused(
        &self,
        callers: &mut Copies<'_>,
        refused: &Refused,
        violations: &mut Vec<String>,
    ) -> anyhow::Result<()> {
        let Refused { write, status, mend, look, is_untouched } = refused;
        let (operation, ask) = (write.operation, &write.ask);
        let mut answers = self.on_both(callers, ask).await?;
        answers.push(self.answered(&mut callers[0], 1, ask).await?);
        self.sent.refused.fetch_add(answers.len() as u64 - 1, Ordering::Relaxed);
        self.under_its_key(&mut callers[2], 0, (write, &with_another_body(ask)), violations).await?;
        self.done(&mut callers[2], mend).await?;
        let still = self.on_both(callers, ask).await?;
        self.sent.refused_still.fetch_add(still.len() as u64, Ordering::Relaxed);
        answers.extend(still);
        if answers.iter().any(|answer| answer.status != *status) {
            violations.push(format!("{operation}: to be refused with {status}, and told {answers:?}"));
        }
        if !are_the_same(&answers) {
            violations.push(format!("{operation}: one key, several refusals: {answers:?}"));
        }
        if answers.iter().filter(|answer| !answer.replayed).count() > 1 {
            violations.push(format!("{operation}: refused more than once: {answers:?}"));
        }
        let seen = self.ask(&mut callers[2], 1, look).await?;
        if !is_untouched(&seen) {
            violations.push(format!("{operation}: refused, and done: {} {}", seen.status, seen.text));
        }
        Ok(())
    }

    /// The answers of both servers to a request that is sent to them at the same moment.
    async fn on_both(&self, callers: &mut Copies<'_>, ask: &Ask) -> anyhow::Result<Vec<Answer>> {
        let [one, other, _] = callers;
        let (first, second) = tokio::join!(self.answered(one, 0, ask), self.answered(other, 1, ask));
        Ok(vec![first?, second?])
    }
}

impl Refused {
    /// An agent that costs something, in a session that may cost nothing: decided by an event.
    fn by_a_limit(name: &str, session: &str) -> Self {
        let path = format!("/v1/sessions/{session}/agents");
        let key = |what: &str| format!("refused-{name}-limit-{what}");
        let limits = format!("/v1/sessions/{session}/limits");
        Self {
            write: Write {
                operation: "POST /v1/sessions/{id}/agents",
                ask: Ask::post(&path, Some(json!({ "timeout": 60 }))).once(key("asked")),
            },
            status: 402,
            mend: Ask::new("PATCH", limits, Some(json!({ "maxCost": null }))).once(key("mended")),
            look: Ask::get(path),
            is_untouched: has_no_agent,
        }
    }

    /// An agent of a version that its definition does not have yet: found before anything is decided.
    fn by_the_definition(name: &str, session: &str, definition: &str) -> Self {
        let path = format!("/v1/sessions/{session}/agents");
        let key = |what: &str| format!("refused-{name}-version-{what}");
        let body = json!({ "definitionId": definition, "definitionVersion": 2 });
        let next = format!("/v1/agent-definitions/{definition}");
        Self {
            write: Write {
                operation: "POST /v1/sessions/{id}/agents",
                ask: Ask::post(&path, Some(body)).once(key("asked")),
            },
            status: 404,
            mend: Ask::new("PUT", next, Some(json!({ "instructions": name }))).once(key("mended")),
            look: Ask::get(path),
            is_untouched: has_no_agent,
        }
    }

    /// A secret to delete that nobody has set: decided.
    fn secret(name: &str) -> Self {
        let (secret, key) = (format!("R_{name}"), |what: &str| format!("refused-{name}-secret-{what}"));
        let delete = |what: &str| Ask::new("DELETE", format!("/v1/secrets/R_{name}"), None).once(key(what));
        let set = json!({ "name": secret, "value": name });
        Self {
            write: Write { operation: "DELETE /v1/secrets/{name}", ask: delete("asked") },
            status: 404,
            mend: Ask::post("/v1/secrets", Some(set)).once(key("mended")),
            // It would not be there any more.
            look: delete("looked"),
            is_untouched: Answer::is_success,
        }
    }

    /// A session to resume that is not paused: decided.
    fn resume(name: &str, session: &str) -> Self {
        let key = |what: &str| format!("refused-{name}-resume-{what}");
        let path = format!("/v1/sessions/{session}");
        Self {
            write: Write {
                operation: "POST /v1/sessions/{id}/resume",
                ask: Ask::post(format!("{path}/resume"), None).once(key("asked")),
            },
            status: 409,
            mend: Ask::post(format!("{path}/pause"), None).once(key("mended")),
            look: Ask::get(path),
            is_untouched: is_paused,
        }
    }
}

fn has_no_agent(answer: &Answer) -> bool {
    answer.json()["data"].as_array().is_some_and(Vec::is_empty)
}

fn is_paused(answer: &Answer) -> bool {
    answer.json()["status"] == "paused"
}
