//! What one caller does: a life of sessions, with agents that run tasks, and of definitions and secrets, in which each
//! request follows from what the caller knows. In test mode models and sandboxes are in the server's own process.

use anyhow::Context;
use serde_json::{Value, json};

use crate::client::Ask;
use crate::load::{Customer, Effect};

/// The types of all events that it makes happen.
pub(super) const EVENTS: [&str; 17] = [
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
    "agent.paused",
    "agent.resumed",
    "agent.terminated",
    "task.created",
    "billing.adjusted",
    "budget.set",
];

/// A session as its caller knows it.
struct Session {
    id: String,
    is_paused: bool,
    agent: Option<Agent>,
    secret: Option<String>,
}

/// An agent of the session.
struct Agent {
    id: String,
    /// Its last task: id and prompt. It may run still.
    task: Option<(String, String)>,
    is_paused: bool,
    has_ended: bool,
    /// Whether it or its session was paused before: what a pause comes to depends on whether it has woken since.
    was_paused: bool,
    was_corrected: bool,
}

/// An agent definition.
struct Definition {
    id: String,
    is_archived: bool,
}

pub(crate) struct Life<'a> {
    customer: Customer<'a>,
    organization: &'a str,
    turn: u64,
    session: Option<Session>,
    definition: Option<Definition>,
    /// A secret of the organization.
    secret: Option<String>,
}

impl<'a> Life<'a> {
    pub(crate) const fn new(customer: Customer<'a>, organization: &'a str) -> Self {
        Self { customer, organization, turn: 0, session: None, definition: None, secret: None }
    }

    /// Lives sessions through until the load is over. All that it does follows from the random choices, but for when
    /// servers answer.
    pub(crate) async fn live(mut self) -> anyhow::Result<()> {
        while !self.customer.load.is_over() {
            self.turn().await?;
        }
        Ok(())
    }

    /// Does one thing more, or looks in vain whether it can be done.
    async fn turn(&mut self) -> anyhow::Result<()> {
        self.turn += 1;
        // What is chosen next does not depend on how often this turn has to ask.
        let following = self.customer.random.fork();
        self.act().await?;
        self.customer.random = following;
        Ok(())
    }

    async fn act(&mut self) -> anyhow::Result<()> {
        let choice = self.customer.random.u8(..100);
        let Some(mut session) = self.session.take() else {
            return self.begin().await;
        };
        // An agent that was paused alone is seldom met again otherwise: its session ends or is paused before.
        let waits = !session.is_paused
            && session.agent.as_ref().is_some_and(|agent| agent.is_paused && !agent.has_ended);
        let over = match choice {
            _ if waits && self.customer.random.bool() => self.use_agent(&mut session).await.map(|()| false),
            0..8 => self.end(&session).await.map(|()| true),
            8..34 => self.pause_or_resume(&mut session).await.map(|()| false),
            34..42 => self.limit(&session).await.map(|()| false),
            42..52 => self.confide(&mut session).await.map(|()| false),
            52..62 => self.define().await.map(|()| false),
            62..64 => self.budget().await.map(|()| false),
            _ => self.use_agent(&mut session).await.map(|()| false),
        }?;
        self.session = (!over).then_some(session);
        Ok(())
    }

    /// Asks for what makes an event of this type happen, about this and about what the answer names so.
    async fn ask(
        &mut self,
        ask: Ask,
        (kind, about, told): (&str, &[&str], Option<&'static str>),
    ) -> anyhow::Result<Value> {
        let effect = Effect::of(kind, about);
        let effect = if let Some(name) = told { effect.telling(name) } else { effect };
        Ok(self.customer.write(ask, effect).await?.json())
    }

    /// Asks for what the rules refuse, in these words.
    async fn ask_in_vain(&mut self, ask: Ask, words: &'static str) -> anyhow::Result<()> {
        self.customer.write(ask, Effect::refused(words)).await.map(drop)
    }

    async fn begin(&mut self) -> anyhow::Result<()> {
        let user = format!("user_{}", self.customer.random.u32(..1_000));
        let ask =
            Ask::post("/v1/sessions", Some(json!({ "userId": user, "metadata": { "turn": self.turn } })));
        let id = text(&self.ask(ask, ("session.created", &[], Some("id"))).await?, "id")?;
        self.session = Some(Session { id, is_paused: false, agent: None, secret: None });
        Ok(())
    }

    async fn end(&mut self, session: &Session) -> anyhow::Result<()> {
        let ask = Ask::post(format!("/v1/sessions/{}/terminate", session.id), None);
        self.ask(ask, ("session.terminated", &[&session.id], None)).await.map(drop)
    }

    async fn pause_or_resume(&mut self, session: &mut Session) -> anyhow::Result<()> {
        let ask = |step: &str| Ask::post(format!("/v1/sessions/{}/{step}", session.id), None);
        if !session.is_paused && self.customer.random.u8(..6) == 0 {
            return self.ask_in_vain(ask("resume"), "only a paused session can be resumed").await;
        }
        let (step, kind) =
            if session.is_paused { ("resume", "session.resumed") } else { ("pause", "session.paused") };
        self.ask(ask(step), (kind, &[&session.id], None)).await?;
        session.is_paused = !session.is_paused;
        if let Some(agent) = &mut session.agent {
            agent.was_paused = true;
        }
        Ok(())
    }

    /// Another limit than before: the same would change nothing.
    async fn limit(&mut self, session: &Session) -> anyhow::Result<()> {
        let body = json!({ "maxAgents": self.turn + 10 });
        let ask = Ask::new("PATCH", format!("/v1/sessions/{}/limits", session.id), Some(body));
        self.ask(ask, ("session.limits_changed", &[&session.id], None)).await.map(drop)
    }

    /// Sets or deletes a secret, of the session or of the organization, whose names are this caller's.
    async fn confide(&mut self, session: &mut Session) -> anyhow::Result<()> {
        let is_sessions = self.customer.random.bool();
        let (holder, known) = if is_sessions {
            (session.id.clone(), session.secret.take())
        } else {
            (self.organization.to_owned(), self.secret.take())
        };
        let name = match known {
            Some(name) if self.customer.random.bool() => {
                let of = if is_sessions { format!("?sessionId={holder}") } else { String::new() };
                let ask = Ask::new("DELETE", format!("/v1/secrets/{name}{of}"), None);
                self.ask(ask, ("secret.deleted", &[&holder, &name], None)).await?;
                return Ok(());
            }
            Some(name) => name,
            None => format!("S_{}", self.customer.number),
        };
        let mut body = json!({ "name": name, "value": format!("a value of turn {}", self.turn) });
        if is_sessions {
            body["sessionId"] = json!(holder);
        }
        let ask = Ask::post("/v1/secrets", Some(body));
        self.ask(ask, ("secret.set", &[&holder, &name], None)).await?;
        *(if is_sessions { &mut session.secret } else { &mut self.secret }) = Some(name);
        Ok(())
    }

    async fn define(&mut self) -> anyhow::Result<()> {
        let choice = self.customer.random.u8(..4);
        let Some(definition) = self.definition.as_ref().filter(|known| !known.is_archived || choice == 0)
        else {
            let body = json!({ "name": format!("of {}", self.customer.number), "tools": ["web_search"] });
            let ask = Ask::post("/v1/agent-definitions", Some(body));
            let id = text(&self.ask(ask, ("definition.created", &[], Some("id"))).await?, "id")?;
            self.definition = Some(Definition { id, is_archived: false });
            return Ok(());
        };
        let (id, is_archived) = (definition.id.clone(), definition.is_archived);
        let path = format!("/v1/agent-definitions/{id}");
        let update =
            Ask::new("PUT", &path, Some(json!({ "instructions": format!("of turn {}", self.turn) })));
        match (is_archived, choice) {
            (true, _) => return self.ask_in_vain(update, "is archived").await,
            (false, 0) => {
                self.ask(Ask::new("DELETE", &path, None), ("definition.archived", &[&id], None)).await?;
                self.definition = Some(Definition { id, is_archived: true });
            }
            (false, _) => {
                self.ask(update, ("definition.updated", &[&id], None)).await?;
            }
        }
        Ok(())
    }

    /// Another budget of the organization, which refuses nothing and is far from used up.
    async fn budget(&mut self) -> anyhow::Result<()> {
        let amount = 1_000_000_000 + self.customer.random.u64(..1_000_000_000_000);
        let body = json!({
            "amount": amount, "currency": "usd", "period": "month", "thresholds": [], "action": "notify",
        });
        let ask = Ask::new("PUT", "/v1/billing/budgets", Some(body));
        self.ask(ask, ("budget.set", &[self.organization], None)).await.map(drop)
    }

    async fn use_agent(&mut self, session: &mut Session) -> anyhow::Result<()> {
        let Some(agent) = session.agent.take_if(|agent| !agent.has_ended || self.customer.random.bool())
        else {
            session.agent = self.new_agent(session).await?;
            return Ok(());
        };
        session.agent = Some(self.go_on_with(session, agent).await?);
        Ok(())
    }

    async fn new_agent(&mut self, session: &Session) -> anyhow::Result<Option<Agent>> {
        let mut body = json!({ "tools": ["web_search"] });
        if let Some(definition) = self.definition.as_ref().filter(|definition| !definition.is_archived) {
            body = json!({ "definitionId": definition.id });
        }
        let ask = Ask::post(format!("/v1/sessions/{}/agents", session.id), Some(body));
        if session.is_paused {
            self.ask_in_vain(ask, "is paused").await?;
            return Ok(None);
        }
        let id = text(&self.ask(ask, ("agent.created", &[&session.id], Some("id"))).await?, "id")?;
        let agent = Agent {
            id,
            task: None,
            is_paused: false,
            has_ended: false,
            was_paused: false,
            was_corrected: false,
        };
        Ok(Some(agent))
    }

    /// What can be done with an agent, whatever its session's pauses have done to it.
    async fn go_on_with(&mut self, session: &Session, mut agent: Agent) -> anyhow::Result<Agent> {
        let ask = |step: &str, body| Ask::post(format!("/v1/agents/{}/{step}", agent.id), body);
        let prompt = format!("task {}-{}", self.customer.number, self.turn);
        let run = ask("run", Some(json!({ "task": prompt })));
        if agent.has_ended {
            self.ask_in_vain(run, "is terminated").await?;
            return Ok(agent);
        }
        if self.customer.random.u8(..8) == 0 {
            self.ask(ask("terminate", None), ("agent.terminated", &[&agent.id], None)).await?;
            agent.has_ended = true;
            return Ok(agent);
        }
        if session.is_paused {
            self.limit(session).await?;
            return Ok(agent);
        }
        if agent.is_paused {
            self.ask(ask("resume", None), ("agent.resumed", &[&agent.id], None)).await?;
            agent.is_paused = false;
            return Ok(agent);
        }
        if !self.is_free(&agent).await? {
            return Ok(agent);
        }
        if agent.task.is_some() && !agent.was_corrected && self.customer.random.u8(..3) == 0 {
            self.correct(&agent).await?;
            agent.was_corrected = true;
        } else if agent.task.is_some() && !agent.was_paused && self.customer.random.bool() {
            self.ask(ask("pause", None), ("agent.paused", &[&agent.id], None)).await?;
            (agent.is_paused, agent.was_paused) = (true, true);
        } else {
            let ran = self.ask(run, ("task.created", &[&agent.id], Some("taskId"))).await?;
            agent.task = Some((text(&ran, "taskId")?, prompt));
        }
        Ok(agent)
    }

    /// Whether an agent has done what it was asked to, as it must.
    async fn is_free(&mut self, agent: &Agent) -> anyhow::Result<bool> {
        let Some((id, prompt)) = &agent.task else { return Ok(true) };
        let task = self.customer.look(format!("/v1/tasks/{id}")).await?;
        if matches!(task["status"].as_str(), Some("queued" | "running")) {
            return Ok(false);
        }
        let output = format!("Mock response to: {prompt}");
        anyhow::ensure!(
            task["status"] == "completed" && task["output"] == output,
            "a task has come to {task}"
        );
        Ok(true)
    }

    /// Corrects a charge of the agent's.
    async fn correct(&mut self, agent: &Agent) -> anyhow::Result<()> {
        let path = format!("/v1/events?subject={}&type=model.call_settled&limit=1", agent.id);
        let events = self.customer.look(path).await?;
        let position = &events["data"][0]["position"];
        let body =
            json!({ "chargeId": format!("{position}.0"), "exact": "0.000001", "reason": "what it lacked" });
        let ask = Ask::post("/v1/billing/adjustments", Some(body));
        self.ask(ask, ("billing.adjusted", &[&agent.id], None)).await.map(drop)
    }
}

/// The text at this name.
fn text(value: &Value, name: &str) -> anyhow::Result<String> {
    value[name].as_str().map(str::to_owned).with_context(|| format!("{name} of {value}"))
}
