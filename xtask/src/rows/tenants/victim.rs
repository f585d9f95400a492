//! A tenant that lives: what it has, how that looks to itself, and what of it nobody else may be told.

use std::time::Duration;

use anyhow::Context;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::client::{Answer, Ask};
use crate::load::{Customer, Effect, Load};

const DEADLINE: Duration = Duration::from_secs(60);

/// A key, of which organization in which mode.
#[derive(Debug, Clone)]
pub(super) struct Who {
    pub(super) organization: String,
    pub(super) mode: &'static str,
    pub(super) key: String,
}

/// What a tenant has.
pub(super) struct Victim {
    pub(super) who: Who,
    /// Stands in names and contents of all that it has.
    pub(super) canary: String,
    pub(super) session: String,
    pub(super) agent: String,
    pub(super) definition: String,
    pub(super) task: String,
    pub(super) secret: String,
    /// A charge of its own, by its id.
    pub(super) charge: String,
    /// What it has asked under idempotency keys, and what it was answered.
    pub(super) keyed: Vec<(Ask, Answer)>,
    pub(super) seen: Seen,
}

/// How all of it looks.
#[derive(Debug, Default, Clone, PartialEq)]
pub(super) struct Seen {
    /// What the tenant itself is shown, without what time alone changes.
    shown: Vec<(String, Value)>,
    /// Where its log ends.
    pub(super) head: i64,
}

impl Victim {
    /// Lives: two of everything, so that listings have a second page.
    pub(super) async fn live(load: &Load<'_>, who: &Who) -> anyhow::Result<Self> {
        let canary = format!("canary{:016x}", fastrand::u64(..));
        let mut life = Life { customer: load.customer(&who.key, &*canary, 0), keyed: vec![] };
        let person = json!({ "userId": canary, "metadata": { "note": canary } });
        let session = life.twice("/v1/sessions", person, "id").await?;
        let definition = json!({ "name": canary, "instructions": canary, "tools": ["web_search"] });
        let definition = life.twice("/v1/agent-definitions", definition, "id").await?;
        let secret = format!("S_{canary}");
        // Not the very word that stands elsewhere, which would be masked there.
        let value = format!("value of {canary}");
        life.write("POST", "/v1/secrets", json!({ "name": secret, "value": value }), "name").await?;
        let second = json!({ "name": format!("S_{canary}_2"), "value": value });
        life.write("POST", "/v1/secrets", second, "name").await?;
        let agents = format!("/v1/sessions/{session}/agents");
        let agent = life.twice(&agents, json!({ "definitionId": definition }), "id").await?;
        let mut task = String::new();
        for _ in 0..2 {
            let run = format!("/v1/agents/{agent}/run");
            task = life.write("POST", &run, json!({ "task": canary }), "taskId").await?;
            life.until_completed(&task).await?;
        }
        let budget = json!({ "userId": canary, "amount": 100_000, "currency": "usd", "period": "month" });
        life.write("PUT", "/v1/billing/budgets", budget, "").await?;
        let budget = json!({ "amount": 100_000, "currency": "usd", "period": "month" });
        life.write("PUT", "/v1/billing/budgets", budget, "").await?;
        let entries = life.customer.look("/v1/billing/entries?category=model").await?;
        let charge = entries["data"][0]["id"].as_str().context("an entry has an id")?.to_owned();
        for exact in ["-0.0001", "0.0001"] {
            let body = json!({ "chargeId": charge, "exact": exact, "reason": canary });
            life.write("POST", "/v1/billing/adjustments", body, "").await?;
        }
        let keyed = std::mem::take(&mut life.keyed);
        let seen = Seen::default();
        let who = who.clone();
        Ok(Self { who, canary, session, agent, definition, task, secret, charge, keyed, seen })
    }

    /// How what the tenant has looks to itself, and the whole of its log.
    pub(super) async fn look(
        &self,
        load: &Load<'_>,
        client: &tokio_postgres::Client,
        head: Option<i64>,
    ) -> anyhow::Result<Seen> {
        let mut customer = load.customer(&self.who.key, "", 0);
        let Self { session, agent, definition, task, .. } = self;
        let mut shown = vec![];
        for path in [
            format!("/v1/sessions/{session}"),
            format!("/v1/sessions/{session}/limits"),
            format!("/v1/sessions/{session}/usage"),
            "/v1/sessions?limit=100".into(),
            format!("/v1/agent-definitions/{definition}"),
            format!("/v1/agent-definitions/{definition}/versions"),
            "/v1/agent-definitions?limit=100&includeArchived=true".into(),
            format!("/v1/agents/{agent}"),
            format!("/v1/agents/{agent}/tasks"),
            "/v1/agents?limit=100".into(),
            format!("/v1/tasks/{task}"),
            "/v1/secrets?limit=100".into(),
            "/v1/providers?limit=100".into(),
            "/v1/billing/budgets".into(),
            "/v1/billing/adjustments".into(),
            "/v1/billing/entries?limit=100&category=model".into(),
            "/v1/billing/usage".into(),
            "/v1/billing/usage/models".into(),
        ] {
            let mut value = customer.look(&*path).await?;
            without_time(&mut value);
            shown.push((path, value));
        }
        let sql = "select h.position from heads h join tenants t using (tenant_id)
                   where t.organization_id = $1 and t.mode = $2";
        let (organization, mode) = (&self.who.organization, &self.who.mode);
        let head = match head {
            Some(head) => head,
            None => client.query_one(sql, &[organization, mode]).await?.get(0),
        };
        let sql = "select md5(string_agg(row(e.*)::text, ',' order by e.position)), count(*)
                   from events e join tenants t using (tenant_id)
                   where t.organization_id = $1 and t.mode = $2 and e.position <= $3";
        let row = client.query_one(sql, &[organization, mode, &head]).await?;
        let log = json!({ "digest": row.get::<_, Option<String>>(0), "events": row.get::<_, i64>(1) });
        shown.push(("the log".into(), log));
        Ok(Seen { shown, head })
    }

    /// What has changed since it was looked at first, and what was appended that the server did not append by itself.
    pub(super) async fn changes(
        &self,
        load: &Load<'_>,
        client: &tokio_postgres::Client,
    ) -> anyhow::Result<Vec<String>> {
        let now = self.look(load, client, Some(self.seen.head)).await?;
        let both = self.seen.shown.iter().zip(&now.shown).filter(|(before, after)| before != after);
        let mut changes: Vec<String> =
            both.map(|(before, after)| format!("{}: {} to {}", before.0, before.1, after.1)).collect();
        let sql = "select e.position, e.type, e.metadata::text from events e join tenants t using (tenant_id)
                   where t.organization_id = $1 and t.mode = $2 and e.position > $3
                     and (e.metadata->>'actor' <> 'system' or e.type not like 'compute.%' and e.type not like 'agent.%')";
        for row in client.query(sql, &[&self.who.organization, &self.who.mode, &self.seen.head]).await? {
            let (position, kind, metadata): (i64, &str, &str) = (row.get(0), row.get(1), row.get(2));
            changes.push(format!("{kind} was appended at {position} by {metadata}"));
        }
        Ok(changes)
    }

    /// What only its tenant may be told.
    pub(super) fn ids(&self) -> [&str; 6] {
        [&self.session, &self.agent, &self.definition, &self.task, &self.secret, &self.canary]
    }
}

/// Takes out what changes while nobody does anything: compute is metered, and agents that rest are suspended.
fn without_time(value: &mut Value) {
    match value {
        Value::Object(members) => {
            for name in
                ["computeMinutes", "compute", "cost", "reserved", "total", "updatedAt", "period", "spent"]
            {
                members.remove(name);
            }
            for name in ["used", "remaining", "percentage", "exact", "amount"] {
                if members.get(name).is_some_and(Value::is_number) {
                    members.remove(name);
                }
            }
            members.values_mut().for_each(without_time);
        }
        Value::Array(items) => items.iter_mut().for_each(without_time),
        _ => {}
    }
}

struct Life<'a> {
    customer: Customer<'a>,
    keyed: Vec<(Ask, Answer)>,
}

impl Life<'_> {
    /// Writes under an idempotency key; a field of the answer, where one is named.
    async fn write(
        &mut self,
        method: &'static str,
        path: &str,
        body: Value,
        field: &str,
    ) -> anyhow::Result<String> {
        let key = format!("{}-{}", self.customer.name, self.keyed.len());
        let ask = Ask::new(method, path, Some(body)).once(key);
        let answer = self.customer.send(&ask, Effect::of_path(path)).await?;
        let value = answer.json()[field].as_str().unwrap_or_default().to_owned();
        self.keyed.push((ask, answer));
        Ok(value)
    }

    async fn twice(&mut self, path: &str, body: Value, field: &str) -> anyhow::Result<String> {
        self.write("POST", path, body.clone(), field).await?;
        self.write("POST", path, body, field).await
    }

    async fn until_completed(&mut self, task: &str) -> anyhow::Result<()> {
        let until = Instant::now() + DEADLINE;
        loop {
            let shown = self.customer.look(format!("/v1/tasks/{task}")).await?;
            if shown["status"] == "completed" {
                return Ok(());
            }
            anyhow::ensure!(Instant::now() < until, "the task does not end: {shown}");
            sleep(Duration::from_millis(20)).await;
        }
    }
}
