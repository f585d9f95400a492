//! Every operation of the API document, again and again, with what is the victim's in its path, its filters and its body.

use std::collections::BTreeSet;

use anyhow::Context;
use serde_json::{Value, json};

use super::rows;
use super::victim::{Victim, Who};
use crate::client::{Answer, Ask};
use crate::load::{Anything, Customer};

/// An operation of the document.
pub(super) struct Operation {
    method: &'static str,
    template: String,
    /// The names of what its query may say.
    pub(super) parameters: Vec<String>,
}

impl Operation {
    /// Its path with what is the victim's, and this position of a log.
    pub(super) fn path(&self, victim: &Victim, position: i64) -> String {
        let ids = [("/sessions/", &victim.session), ("/agents/", &victim.agent), ("/tasks/", &victim.task)];
        let id = ids.into_iter().find(|(part, _)| self.template.contains(part));
        let id = id.map_or(&victim.definition, |(_, id)| id);
        self.template
            .replace("{id}", id)
            .replace("{name}", &victim.secret)
            .replace("{provider}", "e2b")
            .replace("{userId}", "outsider")
            .replace("{position}", &position.to_string())
    }

    /// Whether its path says which of a tenant's things it is about.
    fn names(&self) -> bool {
        ["{id}", "{name}"].iter().any(|part| self.template.contains(part))
    }
}

/// All operations but the stream of the whole log, which does not end and is read by itself.
pub(super) fn operations(document: &Value) -> anyhow::Result<Vec<Operation>> {
    let mut operations = vec![];
    for (path, item) in document["paths"].as_object().context("it has paths")? {
        if !path.starts_with("/v1") || path == "/v1/events/stream" {
            continue;
        }
        for method in ["GET", "POST", "PUT", "PATCH", "DELETE"] {
            let Some(described) = item.get(method.to_lowercase()) else { continue };
            let parameters = described["parameters"].as_array().into_iter().flatten();
            let parameters = parameters.filter(|parameter| parameter["in"] == "query");
            let parameters = parameters.filter_map(|parameter| parameter["name"].as_str());
            let parameters = parameters.map(str::to_owned).collect();
            operations.push(Operation { method, template: path.clone(), parameters });
        }
    }
    Ok(operations)
}

pub(super) struct Storm<'a> {
    pub(super) outsider: &'a Who,
    pub(super) victim: &'a Victim,
    pub(super) operations: &'a [Operation],
    pub(super) requests: u64,
}

/// A request, and what must come of it.
struct Sent<'a> {
    operation: &'a Operation,
    ask: Ask,
    /// Whether a filter names what is the victim's alone.
    filtered: bool,
}

impl Storm<'_> {
    /// Asks so often. How many requests were valid, and what is wrong with what was answered.
    pub(super) async fn ask_all(&self, mut caller: Customer<'_>) -> anyhow::Result<(u64, Vec<String>)> {
        let (mut valid, mut told) = (0, vec![]);
        for number in 0..self.requests {
            let operation = &self.operations[usize::try_from(number)? % self.operations.len()];
            // In live mode somebody outside would be asked whether the key of a provider is right.
            let outside = operation.method == "POST" && operation.template.starts_with("/v1/providers");
            if self.outsider.mode == "live" && outside {
                continue;
            }
            let mut sent = self.request(operation, &mut caller.random);
            if sent.operation.method != "GET" && caller.random.bool() {
                sent.ask = sent.ask.once(format!("{}.{number}", caller.name));
            }
            let answer = caller.send(&sent.ask, Anything::default()).await?;
            valid += u64::from(answer.status != 422);
            told.extend(self.wrong(&sent, &answer));
            if told.len() > 20 {
                break;
            }
        }
        Ok((valid, told))
    }

    fn wrong(&self, sent: &Sent<'_>, answer: &Answer) -> Option<String> {
        let Sent { operation, ask, filtered } = sent;
        let said = format!("{}{}", ask.path, ask.body.as_ref().map(Value::to_string).unwrap_or_default());
        let ids = self.victim.ids().into_iter();
        let leaks: BTreeSet<&str> =
            ids.filter(|secret| answer.text.contains(secret) && !said.contains(secret)).collect();
        let body = answer.json();
        let right = match answer.status {
            500.. => false,
            404 => true,
            // Also 422: what is not valid would not have been looked for.
            _ if operation.names() => false,
            422 => operation.method != "GET",
            _ if *filtered => rows(&body).is_some_and(Vec::is_empty),
            _ => true,
        };
        (!right || !leaks.is_empty()).then(|| {
            let Ask { method, path, body, .. } = ask;
            format!("told {leaks:?}: {method} {path} {body:?}: {} {}", answer.status, answer.text)
        })
    }

    /// The operation with all that can name what is the victim's.
    fn request<'a>(&self, operation: &'a Operation, random: &mut fastrand::Rng) -> Sent<'a> {
        let victim = self.victim;
        let mut path = operation.path(victim, random.i64(1..=victim.seen.head));
        let mut filtered = false;
        let mut query = vec![];
        for name in &operation.parameters {
            let ids = [&victim.session, &victim.agent, &victim.task, &victim.definition];
            let (value, is_foreign) = match name.as_str() {
                "sessionId" => (victim.session.clone(), true),
                "agentId" => (victim.agent.clone(), true),
                "taskId" => (victim.task.clone(), true),
                "subject" => (ids[random.usize(..ids.len())].clone(), true),
                "userId" => (victim.canary.clone(), true),
                "includeArchived" => ("true".to_owned(), false),
                "limit" => (random.u8(1..=100).to_string(), false),
                _ => continue,
            };
            if random.bool() {
                query.push(format!("{name}={value}"));
                filtered |= is_foreign;
            }
        }
        if !query.is_empty() {
            path = format!("{path}?{}", query.join("&"));
        }
        let body = (operation.method != "GET" && operation.method != "DELETE").then(|| {
            json!({
                "userId": format!("outsider_{}", random.u32(..100)), "name": "outsider", "value": "outsider",
                "sessionId": victim.session, "definitionId": victim.definition, "agentId": victim.agent,
                "task": "x", "lang": "python", "code": "1", "maxAgents": 1, "provider": "e2b",
                "credentials": { "apiKey": format!("e2b_{}", "1".repeat(40)) }, "chargeId": "1000000.0",
                "amount": 1, "reason": "x", "currency": "usd", "period": "month",
            })
        });
        // A secret of a session is one of what is named.
        filtered |= operation.method == "POST" && operation.template == "/v1/secrets";
        Sent { operation, ask: Ask::new(operation.method, path, body), filtered }
    }
}
