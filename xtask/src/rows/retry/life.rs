//! What a tenant can write, one write after the other.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, bail};
use serde_json::{Value, json};

use super::{WAIT, Write};
use crate::client::Ask;
use crate::load::Customer;

fn post(operation: &'static str, path: impl Into<String>, body: Option<Value>) -> Write {
    Write { operation, ask: Ask::post(path, body) }
}

fn delete(operation: &'static str, path: impl Into<String>) -> Write {
    Write { operation, ask: Ask::new("DELETE", path, None) }
}

/// One life of everything that can be written, step by step.
pub(super) struct Life<'a> {
    pub(super) name: String,
    pub(super) caller: Customer<'a>,
    pub(super) known: BTreeMap<&'static str, String>,
}

/// The steps of a life.
pub(super) const STEPS: usize = 22;

impl Life<'_> {
    fn id(&self, kind: &str) -> String {
        self.known.get(kind).cloned().unwrap_or_default()
    }

    /// The next write, once what it needs is there; none where there is no such step.
    pub(super) async fn step(&mut self, step: usize) -> anyhow::Result<Option<Write>> {
        let agent = self.id("agent");
        match step {
            8 | 9 => self.until(&format!("/v1/agents/{agent}"), "idle").await?,
            11 => self.until(&format!("/v1/agents/{agent}"), "paused").await?,
            _ => {}
        }
        let write = match step {
            0..=6 => self.of_sessions_and_parts(step),
            7..=12 => self.of_an_agent(step, &agent),
            20 => {
                let charge = self.charge(&agent).await?;
                let body = json!({ "chargeId": charge, "exact": "0.01", "reason": "a proof" });
                Some(post("POST /v1/billing/adjustments", "/v1/billing/adjustments", Some(body)))
            }
            _ => self.of_ends(step),
        };
        Ok(write)
    }

    fn of_sessions_and_parts(&self, step: usize) -> Option<Write> {
        let (name, session, definition) = (&self.name, self.id("session"), self.id("definition"));
        let write = match step {
            0 => post("POST /v1/sessions", "/v1/sessions", Some(json!({ "userId": name }))),
            1 => {
                let path = format!("/v1/sessions/by-user/by_{name}");
                post("POST /v1/sessions/by-user/{userId}", path, None)
            }
            2 => {
                let path = format!("/v1/sessions/{session}/limits");
                let ask = Ask::new("PATCH", path, Some(json!({ "maxAgents": 5 })));
                Write { operation: "PATCH /v1/sessions/{id}/limits", ask }
            }
            3 => {
                let body = json!({ "name": name, "tools": ["web_search"] });
                post("POST /v1/agent-definitions", "/v1/agent-definitions", Some(body))
            }
            4 => {
                let path = format!("/v1/agent-definitions/{definition}");
                let ask = Ask::new("PUT", path, Some(json!({ "instructions": name })));
                Write { operation: "PUT /v1/agent-definitions/{id}", ask }
            }
            5 => {
                let body = json!({ "name": format!("S_{name}"), "value": name });
                post("POST /v1/secrets", "/v1/secrets", Some(body))
            }
            6 => delete("DELETE /v1/secrets/{name}", format!("/v1/secrets/S_{name}")),
            _ => return None,
        };
        Some(write)
    }

    fn of_an_agent(&self, step: usize, agent: &str) -> Option<Write> {
        let write = match step {
            7 => {
                let path = format!("/v1/sessions/{}/agents", self.id("session"));
                let body = json!({ "definitionId": self.id("definition") });
                post("POST /v1/sessions/{id}/agents", path, Some(body))
            }
            8 => {
                let body = json!({ "task": self.name });
                post("POST /v1/agents/{id}/run", format!("/v1/agents/{agent}/run"), Some(body))
            }
            9 => {
                let body = json!({ "lang": "python", "code": "1" });
                post("POST /v1/agents/{id}/exec", format!("/v1/agents/{agent}/exec"), Some(body))
            }
            10 => post("POST /v1/agents/{id}/pause", format!("/v1/agents/{agent}/pause"), None),
            11 => post("POST /v1/agents/{id}/resume", format!("/v1/agents/{agent}/resume"), None),
            12 => post("POST /v1/agents/{id}/terminate", format!("/v1/agents/{agent}/terminate"), None),
            _ => return None,
        };
        Some(write)
    }

    fn of_ends(&self, step: usize) -> Option<Write> {
        let (session, definition) = (self.id("session"), self.id("definition"));
        let write = match step {
            13 => delete("DELETE /v1/agent-definitions/{id}", format!("/v1/agent-definitions/{definition}")),
            14 => post("POST /v1/sessions/{id}/pause", format!("/v1/sessions/{session}/pause"), None),
            15 => post("POST /v1/sessions/{id}/resume", format!("/v1/sessions/{session}/resume"), None),
            16 => post("POST /v1/sessions/{id}/terminate", format!("/v1/sessions/{session}/terminate"), None),
            17 => {
                let credentials = json!({ "apiKey": format!("e2b_{}", "0".repeat(40)) });
                let body = json!({ "provider": "e2b", "credentials": credentials });
                post("POST /v1/providers", "/v1/providers", Some(body))
            }
            18 => post("POST /v1/providers/{provider}/verify", "/v1/providers/e2b/verify", None),
            19 => delete("DELETE /v1/providers/{provider}", "/v1/providers/e2b"),
            21 => {
                let body =
                    json!({ "userId": self.name, "amount": 100, "currency": "usd", "period": "month" });
                let ask = Ask::new("PUT", "/v1/billing/budgets", Some(body));
                Write { operation: "PUT /v1/billing/budgets", ask }
            }
            _ => return None,
        };
        Some(write)
    }

    /// A charge of this agent's, by its id.
    async fn charge(&mut self, agent: &str) -> anyhow::Result<String> {
        let path = format!("/v1/events?subject={agent}&type=model.call_settled&limit=1");
        let events = self.caller.look(path).await?;
        let position = events["data"][0]["position"].as_i64().context("a call was charged")?;
        Ok(format!("{position}.0"))
    }

    /// Keeps what later steps need of an answer.
    pub(super) fn learn(&mut self, step: usize, answer: &Value) {
        let kind = match step {
            0 => "session",
            3 => "definition",
            7 => "agent",
            _ => return,
        };
        self.known.insert(kind, answer["id"].as_str().unwrap_or_default().to_owned());
    }

    async fn until(&mut self, path: &str, status: &str) -> anyhow::Result<()> {
        let until = tokio::time::Instant::now() + WAIT;
        loop {
            let shown = self.caller.look(path).await?;
            if shown["status"] == status {
                return Ok(());
            }
            if tokio::time::Instant::now() > until {
                bail!("{path} is not {status}: {shown}");
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}
