//! Every write is sent twice at the same moment, again later, with another body and over a connection that is cut.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, bail};
use futures_util::FutureExt;
use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::client::{Answer, Ask, Caller};
use crate::place::{Place, Tenant};
use crate::prove::{Findings, Row, Run};

pub(crate) const ROW: Row = Row {
    name: "retry",
    claim: "any request may be sent again: each write has one effect and one answer, however often it is sent",
    floor: (2_000, 100_000),
    bugs: &["forgotten-key", "any-body"],
    run: |run| prove(run).boxed(),
};

const CALLERS: usize = 16;
/// Each write is sent this often with its own body.
const SENT: u64 = 4;
const WAIT: Duration = Duration::from_secs(60);

/// A write: how it stands in the API document, and how to ask for it anew.
struct Write {
    operation: &'static str,
    ask: Ask,
}

async fn prove(run: Run) -> anyhow::Result<Findings> {
    let place = Place::new(&run, 2, &[]).await?;
    // One for each caller, since the providers of a tenant are there once.
    let mut tenants = vec![];
    for _ in 0..CALLERS {
        tenants.push(place.organization("test").await?);
    }
    let mut findings = Findings::default();
    let done = AtomicU64::new(0);
    let scene = |tenant| Scene { place: &place, tenant, aim: run.amount(3_000, 100_000), done: &done };
    let scenes: Vec<_> = tenants.iter().map(scene).collect();
    let callers = scenes.iter().enumerate();
    let callers = callers.map(|(number, scene)| scene.caller(number, run.random(number as u64)));
    let mut covered = BTreeSet::new();
    for outcome in join_all(callers).await {
        match outcome {
            Ok((operations, violations)) => {
                covered.extend(operations);
                violations.into_iter().for_each(|violation| findings.violation(violation));
            }
            Err(error) => findings.violation(format!("a write that must succeed did not: {error:#}")),
        }
    }
    findings.done = done.load(Ordering::Relaxed);
    findings.did("duplicates", findings.done);
    findings.did("operations", covered.len() as u64);
    for operation in writes_of(&place, &tenants[0]).await? {
        findings.claim(covered.contains(&operation), || {
            format!("{operation} is a write that was never sent twice")
        });
    }
    // All that happened under one key happened in one request.
    let sql = "select metadata->>'idempotencyKey', count(distinct metadata->>'requestId') from events
               where metadata->>'idempotencyKey' is not null group by 1 having count(distinct metadata->>'requestId') > 1";
    for row in place.superuser().await?.query(sql, &[]).await? {
        let (key, times): (String, i64) = (row.get(0), row.get(1));
        findings.violation(format!("{key} was carried out {times} times"));
    }
    place.stop().await?;
    Ok(findings)
}

/// The writes of the API document, as `METHOD path`.
async fn writes_of(place: &Place, tenant: &Tenant) -> anyhow::Result<Vec<String>> {
    let address = place.address(0).context("a server runs")?;
    let document = Caller::new(&tenant.key).ask(&address, &Ask::get("/v1/openapi.json")).await?.json();
    let mut writes = vec![];
    for (path, item) in document["paths"].as_object().context("it has paths")? {
        for method in ["post", "put", "patch", "delete"] {
            if item.get(method).is_some() {
                writes.push(format!("{} {path}", method.to_uppercase()));
            }
        }
    }
    Ok(writes)
}

struct Scene<'a> {
    place: &'a Place,
    tenant: &'a Tenant,
    aim: u64,
    done: &'a AtomicU64,
}

type Told = (BTreeSet<String>, Vec<String>);

impl Scene<'_> {
    async fn caller(&self, number: usize, mut random: fastrand::Rng) -> anyhow::Result<Told> {
        let (mut covered, mut violations) = (BTreeSet::new(), vec![]);
        let key = &self.tenant.key;
        let mut callers = [Caller::new(key), Caller::new(key)];
        for round in 0_u64.. {
            let lived = format!("{number}_{round}");
            let mut life =
                Life { scene: self, name: lived, caller: Caller::new(key), known: BTreeMap::new() };
            for step in 0..STEPS {
                if self.done.load(Ordering::Relaxed) >= self.aim && round > 0 {
                    return Ok((covered, violations));
                }
                let Some(write) = life.step(step).await? else { continue };
                let key = format!("retry-{number}-{round}-{step}");
                let first = self.send_again(&mut callers, &write, &key, &mut random, &mut violations).await?;
                covered.insert(write.operation.to_owned());
                life.learn(step, &first);
                self.done.fetch_add(SENT - 1, Ordering::Relaxed);
            }
        }
        Ok((covered, violations))
    }

    /// Sends one write in all ways. What the answers have in common is what was decided.
    async fn send_again(
        &self,
        callers: &mut [Caller; 2],
        write: &Write,
        key: &str,
        random: &mut fastrand::Rng,
        violations: &mut Vec<String>,
    ) -> anyhow::Result<Value> {
        let ask = write.ask.clone().once(key);
        if random.bool() {
            self.cut(&ask, random).await?;
        }
        let [one, other] = callers;
        let addresses = [self.address(0)?, self.address(1)?];
        let twins = tokio::join!(answered(one, &addresses[0], &ask), answered(other, &addresses[1], &ask));
        let again = answered(one, &addresses[random.usize(..2)], &ask).await?;
        let mut decided: Vec<Answer> = vec![];
        for answer in [twins.0?, twins.1?, again] {
            match answer.status {
                200..300 | 402 | 404 | 409 => decided.push(answer),
                status => bail!("{}: {status} {}", write.operation, answer.text),
            }
        }
        let Some(first) = decided.first().cloned() else { bail!("{}: nothing was decided", write.operation) };
        if decided.iter().any(|answer| (answer.status, &answer.text) != (first.status, &first.text)) {
            violations.push(format!("{}: one key, several answers: {decided:?}", write.operation));
        }
        if decided.iter().filter(|answer| !answer.replayed).count() > 1 {
            violations.push(format!("{}: carried out more than once: {decided:?}", write.operation));
        }
        if first.status >= 300 {
            bail!("{}: {} {}", write.operation, first.status, first.text);
        }
        let mut body = ask.body.clone().unwrap_or_else(|| json!({}));
        body["other"] = json!(true);
        let changed = other.ask(&addresses[0], &Ask { body: Some(body), ..ask }).await?;
        if changed.status != 409 {
            violations.push(format!(
                "{}: another body under its key: {} {}",
                write.operation, changed.status, changed.text
            ));
        }
        Ok(first.json())
    }

    fn address(&self, server: usize) -> anyhow::Result<String> {
        self.place.address(server).context("a server runs")
    }

    /// Sends a request and cuts the connection: at once, or in the middle of it.
    async fn cut(&self, ask: &Ask, random: &mut fastrand::Rng) -> anyhow::Result<()> {
        let address = self.address(random.usize(..2))?;
        let body = ask.body.as_ref().map(Value::to_string).unwrap_or_default();
        let kind = if ask.body.is_some() { "content-type: application/json\r\n" } else { "" };
        let key = ask.idempotency_key.as_deref().unwrap_or_default();
        let whole = format!(
            "{} {} HTTP/1.1\r\nhost: {address}\r\nauthorization: Bearer {}\r\nidempotency-key: {key}\r\n{kind}\
             content-length: {}\r\n\r\n{body}",
            ask.method,
            ask.path,
            self.tenant.key,
            body.len()
        );
        let sent = if random.bool() { whole.len() } else { random.usize(1..whole.len()) };
        let mut stream = TcpStream::connect(&address).await?;
        stream.write_all(&whole.as_bytes()[..sent]).await?;
        Ok(())
    }
}

/// The answer to a request; while the first with its key is under way, which may ask somebody outside, one is told to wait.
async fn answered(caller: &mut Caller, address: &str, ask: &Ask) -> anyhow::Result<Answer> {
    let until = tokio::time::Instant::now() + WAIT;
    loop {
        let answer = caller.ask(address, ask).await?;
        let waits = answer.status == 409 && answer.text.contains("still running");
        if !waits || tokio::time::Instant::now() > until {
            return Ok(answer);
        }
        // Nobody tells when a key is free, but asking again: sooner than `Retry-After` says, so that it is met held, too.
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn post(operation: &'static str, path: impl Into<String>, body: Option<Value>) -> Write {
    Write { operation, ask: Ask::post(path, body) }
}

fn delete(operation: &'static str, path: impl Into<String>) -> Write {
    Write { operation, ask: Ask::new("DELETE", path, None) }
}

/// One life of everything that can be written, step by step.
struct Life<'a> {
    scene: &'a Scene<'a>,
    name: String,
    caller: Caller,
    known: BTreeMap<&'static str, String>,
}

/// The steps of a life.
const STEPS: usize = 22;

impl Life<'_> {
    fn id(&self, kind: &str) -> String {
        self.known.get(kind).cloned().unwrap_or_default()
    }

    /// The next write, once what it needs is there; none where there is no such step.
    async fn step(&mut self, step: usize) -> anyhow::Result<Option<Write>> {
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
        let events = self.caller.ask(&self.scene.address(0)?, &Ask::get(path)).await?.json();
        let position = events["data"][0]["position"].as_i64().context("a call was charged")?;
        Ok(format!("{position}.0"))
    }

    /// Keeps what later steps need of an answer.
    fn learn(&mut self, step: usize, answer: &Value) {
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
            let shown = self.caller.ask(&self.scene.address(0)?, &Ask::get(path)).await?;
            if shown.json()["status"] == status {
                return Ok(());
            }
            if tokio::time::Instant::now() > until {
                bail!("{path} is not {status}: {}", shown.text);
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}
