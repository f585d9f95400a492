//! Each operation is asked for what is there, and has to do it: an operation that has only ever said no was not asked.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::Context;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::schema;
use crate::client::{Ask, Caller};
use crate::load::decided;
use crate::place::{Place, Tenant};
use crate::prove::Findings;

const DEADLINE: Duration = Duration::from_secs(30);

/// Operations that need not succeed here, with the reason. There is none.
const EXCEPTIONS: &[(&str, &str)] = &[];

/// A tenant that does one thing after the other.
struct Valid<'a> {
    address: String,
    caller: Caller,
    document: Value,
    findings: &'a mut Findings,
    /// Requests so far: each has an idempotency key of its own, where it is a write.
    asked: u64,
    /// The operations that have succeeded.
    succeeded: BTreeSet<String>,
    /// What stands in paths and bodies, by its name there.
    known: BTreeMap<&'static str, String>,
}

/// Has every operation of the document succeed once at least, and holds its answer against the document.
pub(super) async fn prove(place: &Place, tenant: &Tenant, findings: &mut Findings) -> anyhow::Result<()> {
    let address = place.address(0).context("a server runs")?;
    let mut caller = Caller::new(&tenant.key);
    let document = decided(&mut caller, &address, &Ask::get("/v1/openapi.json")).await?.json();
    let (succeeded, known) = (BTreeSet::new(), BTreeMap::new());
    let mut valid = Valid { address, caller, document, findings, asked: 0, succeeded, known };
    valid.live().await?;
    valid.read().await?;
    valid.end().await?;
    let Valid { document, findings, succeeded, .. } = valid;
    let mut operations = 0;
    for operation in operations_of(&document)? {
        let excepted = EXCEPTIONS.iter().any(|(name, _)| *name == operation);
        findings.claim(succeeded.contains(&operation) != excepted, || {
            format!("{operation} has not succeeded once, or need not be excepted")
        });
        operations += 1;
    }
    findings.did("operations that have succeeded", succeeded.len() as u64);
    findings.claim(operations > 50, || format!("the document has {operations} operations"));
    Ok(())
}

/// The operations of a document, as `METHOD path`.
pub(super) fn operations_of(document: &Value) -> anyhow::Result<Vec<String>> {
    let mut operations = vec![];
    for (path, item) in document["paths"].as_object().context("it has paths")? {
        for method in ["get", "post", "put", "patch", "delete"] {
            if item.get(method).is_some() {
                operations.push(format!("{} {path}", method.to_uppercase()));
            }
        }
    }
    Ok(operations)
}

impl Valid<'_> {
    /// Asks an operation, whose path may hold names of what is known, with this behind it.
    async fn ask(
        &mut self,
        method: &'static str,
        path: &str,
        query: &str,
        body: Option<Value>,
    ) -> anyhow::Result<Value> {
        let mut filled = path.to_owned();
        for (name, value) in &self.known {
            filled = filled.replace(&format!("{{{name}}}"), value);
        }
        // What the document calls an id is of the kind that the path before it says.
        let kind = ["session", "agent-definition", "agent", "task"];
        let kind = kind.into_iter().find(|kind| path.starts_with(&format!("/v1/{kind}s/")));
        let id = kind.and_then(|kind| self.known.get(kind)).cloned().unwrap_or_default();
        let mut ask = Ask::new(method, format!("{}{query}", filled.replace("{id}", &id)), body);
        self.asked += 1;
        if method != "GET" {
            ask = ask.once(format!("valid-{}", self.asked));
        }
        let answer = decided(&mut self.caller, &self.address, &ask).await?;
        let described = &self.document["paths"][path][method.to_lowercase()];
        let what = || format!("{method} {}: {} {}", ask.path, answer.status, answer.text);
        let body = answer.json();
        if (200..300).contains(&answer.status) {
            self.succeeded.insert(format!("{method} {path}"));
            let differs = schema::difference(&self.document, described, answer.status, &body);
            self.findings.claim(differs.is_none(), || format!("{}; {}", differs.unwrap_or_default(), what()));
        } else {
            self.findings.violation(what());
        }
        Ok(body)
    }

    fn know(&mut self, name: &'static str, answer: &Value, field: &str) {
        self.known.insert(name, answer[field].as_str().unwrap_or_default().to_owned());
    }

    async fn until(&mut self, path: &str, status: &str) -> anyhow::Result<()> {
        let until = Instant::now() + DEADLINE;
        loop {
            let shown = self.ask("GET", path, "", None).await?;
            if shown["status"] == status || self.findings.is_red() {
                return Ok(());
            }
            anyhow::ensure!(Instant::now() < until, "{path} is not {status}: {shown}");
            sleep(Duration::from_millis(20)).await;
        }
    }

    async fn live(&mut self) -> anyhow::Result<()> {
        self.known.insert("userId", "user_1".to_owned());
        self.known.insert("name", "SECRET".to_owned());
        self.known.insert("provider", "e2b".to_owned());
        self.known.insert("position", "1".to_owned());
        let limits =
            json!({ "maxCost": { "amount": 1_000, "currency": "usd", "period": "month" }, "maxAgents": 5 });
        let session = json!({ "userId": "user_1", "metadata": { "a": [1] }, "limits": limits });
        let session = self.ask("POST", "/v1/sessions", "", Some(session)).await?;
        self.know("session", &session, "id");
        self.ask("POST", "/v1/sessions/by-user/{userId}", "", None).await?;
        self.ask("PATCH", "/v1/sessions/{id}/limits", "", Some(json!({ "maxComputeMinutes": 600 }))).await?;
        let definition = json!({ "name": "one", "instructions": "x", "tools": ["web_search"] });
        let definition = self.ask("POST", "/v1/agent-definitions", "", Some(definition)).await?;
        self.know("agent-definition", &definition, "id");
        self.ask("PUT", "/v1/agent-definitions/{id}", "", Some(json!({ "instructions": "y" }))).await?;
        self.ask("POST", "/v1/secrets", "", Some(json!({ "name": "SECRET", "value": "value" }))).await?;
        let agent = json!({ "definitionId": self.known["agent-definition"] });
        let agent = self.ask("POST", "/v1/sessions/{id}/agents", "", Some(agent)).await?;
        self.know("agent", &agent, "id");
        self.until("/v1/agents/{id}", "idle").await?;
        let task = self.ask("POST", "/v1/agents/{id}/run", "", Some(json!({ "task": "x" }))).await?;
        self.know("task", &task, "taskId");
        self.until("/v1/tasks/{id}", "completed").await?;
        self.until("/v1/agents/{id}", "idle").await?;
        let program = json!({ "lang": "python", "code": "1" });
        self.ask("POST", "/v1/agents/{id}/exec", "", Some(program)).await?;
        self.ask("POST", "/v1/agents/{id}/pause", "", None).await?;
        self.until("/v1/agents/{id}", "paused").await?;
        self.ask("POST", "/v1/agents/{id}/resume", "", None).await?;
        let credentials = json!({ "apiKey": format!("e2b_{}", "0".repeat(40)) });
        let provider = json!({ "provider": "e2b", "credentials": credentials });
        self.ask("POST", "/v1/providers", "", Some(provider)).await?;
        self.ask("POST", "/v1/providers/{provider}/verify", "", None).await?;
        let entries = self.ask("GET", "/v1/billing/entries", "?category=model&limit=1", None).await?;
        let adjusted = json!({ "chargeId": entries["data"][0]["id"], "exact": "-0.0001", "reason": "x" });
        self.ask("POST", "/v1/billing/adjustments", "", Some(adjusted)).await?;
        let budget = json!({ "userId": "user_1", "amount": 100, "currency": "usd", "period": "month" });
        self.ask("PUT", "/v1/billing/budgets", "", Some(budget)).await?;
        Ok(())
    }

    /// All that is read, of a tenant that has something of each kind.
    async fn read(&mut self) -> anyhow::Result<()> {
        for operation in operations_of(&self.document.clone())? {
            let Some(path) = operation.strip_prefix("GET ") else { continue };
            let query = match path {
                "/v1/billing/export" => "?format=json",
                _ if path.ends_with("/stream") => "?after=0",
                _ => "",
            };
            self.ask("GET", path, query, None).await?;
        }
        Ok(())
    }

    async fn end(&mut self) -> anyhow::Result<()> {
        self.ask("POST", "/v1/agents/{id}/terminate", "", None).await?;
        for step in ["pause", "resume", "terminate"] {
            self.ask("POST", &format!("/v1/sessions/{{id}}/{step}"), "", None).await?;
        }
        for path in ["/v1/agent-definitions/{id}", "/v1/secrets/{name}", "/v1/providers/{provider}"] {
            self.ask("DELETE", path, "", None).await?;
        }
        Ok(())
    }
}
