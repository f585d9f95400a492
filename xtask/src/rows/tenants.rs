//! Every operation is asked with another tenant's ids, with both walls up and with each of them taken away.

use std::collections::BTreeSet;

use anyhow::Context;
use futures_util::FutureExt;
use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::client::{Ask, Caller};
use crate::place::{Place, Tenant};
use crate::prove::{Budget, Findings, Row, Run};

pub(crate) const ROW: Row = Row {
    name: "tenants",
    claim: "nobody sees or changes what is another tenant's, and each of the two walls holds alone",
    floor: (3_000, 100_000),
    bugs: &[NO_PREDICATE],
    run: |run| prove(run).boxed(),
};

/// The program's wall taken away: what its statements say of the tenant is always true.
const NO_PREDICATE: &str = "no-predicate";
/// The database's wall taken away, on every table that has one.
const NO_ROW_SECURITY: &str = "do $$ declare name text; begin
    for name in select relname from pg_class where relrowsecurity loop
      execute format('alter table %I disable row level security', name);
      execute format('alter table %I no force row level security', name);
    end loop; end $$";
const CALLERS: usize = 8;

async fn prove(run: Run) -> anyhow::Result<Findings> {
    let mut findings = Findings::default();
    if run.planted.is_some() {
        // Both walls away: this has to be seen, or the run would see nothing anywhere.
        wall(&run, true, run.amount(600, 600), &mut findings).await?;
        return Ok(findings);
    }
    let each = run.amount(1_600, 34_000);
    wall(&run, false, each, &mut findings).await?;
    wall(&run, true, each, &mut findings).await?;
    if run.programs.planted.is_some() {
        let without = Run { planted: Some(NO_PREDICATE), budget: Budget::Full, ..run.clone() };
        wall(&without, false, each, &mut findings).await?;
        findings.did("walls taken away alone", 2);
    }
    Ok(findings)
}

/// One round of requests, over a database whose wall stands or not.
async fn wall(run: &Run, open: bool, requests: u64, findings: &mut Findings) -> anyhow::Result<()> {
    let place = Place::new(run, 2, &[]).await?;
    let (mine, others) = (place.organization("test").await?, place.organization("test").await?);
    let victim = Victim::live(&place, &others).await?;
    let outsider = Victim::live(&place, &mine).await?;
    let superuser = place.superuser().await?;
    if open {
        superuser.batch_execute(NO_ROW_SECURITY).await?;
    }
    let operations = operations(&place, &mine, &victim).await?;
    let scene = Scene {
        place: &place,
        key: &mine.key,
        victim: &victim,
        operations: &operations,
        requests: requests / CALLERS as u64,
    };
    let told =
        join_all((0..CALLERS).map(|caller| scene.ask_all(caller, run.random(caller as u64 + 50)))).await;
    for outcome in told {
        for violation in outcome? {
            findings.violation(violation);
        }
    }
    findings.done += requests / CALLERS as u64 * CALLERS as u64;
    findings.did("requests", requests / CALLERS as u64 * CALLERS as u64);
    findings.did("operations", operations.len() as u64);
    // Nothing of the outsider's key stands in the victim's log, and what the victim has is as it was.
    let sql = "select count(*) from events e join tenants t using (tenant_id)
               where t.organization_id = $1 and e.metadata->>'actor' = (
                 select k.key_id from api_keys k join tenants o using (tenant_id) where o.organization_id = $2 limit 1)";
    let foreign: i64 = superuser.query_one(sql, &[&others.organization, &mine.organization]).await?.get(0);
    findings.claim(foreign == 0, || format!("{foreign} events of another tenant's key"));
    let after = victim.look(&place, &others).await?;
    findings.claim(after == victim.seen, || {
        format!("what another tenant has changed: {} to {after}", victim.seen)
    });
    drop(outsider);
    place.stop().await
}

/// What another tenant has.
struct Victim {
    /// Stands in names and contents of all that it has.
    canary: String,
    session: String,
    agent: String,
    definition: String,
    task: String,
    secret: String,
    position: String,
    seen: Value,
}

impl Victim {
    async fn live(place: &Place, tenant: &Tenant) -> anyhow::Result<Self> {
        let canary = format!("canary{:016x}", fastrand::u64(..));
        let mut caller = Caller::new(&tenant.key);
        let address = place.address(0).context("a server runs")?;
        let mut id = async |path: &str, body: Value, field: &str| {
            let answer = caller.ask(&address, &Ask::post(path, Some(body))).await?;
            let id = answer.json()[field].as_str().map(ToOwned::to_owned);
            id.with_context(|| format!("{path}: {} {}", answer.status, answer.text))
        };
        let session =
            id("/v1/sessions", json!({ "userId": canary, "metadata": { "note": canary } }), "id").await?;
        let definition = json!({ "name": canary, "instructions": canary, "tools": ["web_search"] });
        let definition = id("/v1/agent-definitions", definition, "id").await?;
        let secret = format!("S_{canary}");
        id("/v1/secrets", json!({ "name": secret, "value": canary }), "name").await?;
        let agents = format!("/v1/sessions/{session}/agents");
        let agent = id(&agents, json!({ "definitionId": definition }), "id").await?;
        let task = id(&format!("/v1/agents/{agent}/run"), json!({ "task": canary }), "taskId").await?;
        let mut victim = Self {
            canary,
            session,
            agent,
            definition,
            task,
            secret,
            position: "5".into(),
            seen: Value::Null,
        };
        let until = tokio::time::Instant::now() + std::time::Duration::from_secs(60);
        loop {
            let task = caller.ask(&address, &Ask::get(format!("/v1/tasks/{}", victim.task))).await?.json();
            if task["status"] == "completed" {
                break;
            }
            anyhow::ensure!(tokio::time::Instant::now() < until, "the task does not end: {task}");
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        victim.seen = victim.look(place, tenant).await?;
        Ok(victim)
    }

    /// What the tenant itself sees of what it has, without what time alone changes.
    async fn look(&self, place: &Place, tenant: &Tenant) -> anyhow::Result<Value> {
        let mut caller = Caller::new(&tenant.key);
        let address = place.address(1).context("a server runs")?;
        let mut seen = vec![];
        for path in [
            format!("/v1/sessions/{}", self.session),
            format!("/v1/agent-definitions/{}", self.definition),
            format!("/v1/agents/{}", self.agent),
            "/v1/secrets".into(),
            "/v1/providers".into(),
        ] {
            seen.push(caller.ask(&address, &Ask::get(path)).await?.json());
        }
        Ok(Value::Array(seen))
    }

    /// Every id that only its tenant may be told.
    fn ids(&self) -> [&str; 5] {
        [&self.session, &self.agent, &self.definition, &self.task, &self.secret]
    }
}

/// An operation, with another tenant's ids put into its path.
struct Operation {
    method: &'static str,
    path: String,
    names: bool,
}

async fn operations(place: &Place, tenant: &Tenant, victim: &Victim) -> anyhow::Result<Vec<Operation>> {
    let address = place.address(0).context("a server runs")?;
    let document = Caller::new(&tenant.key).ask(&address, &Ask::get("/v1/openapi.json")).await?.json();
    let mut operations = vec![];
    for (path, item) in document["paths"].as_object().context("it has paths")? {
        // Streams of the whole log do not end; the row of streams reads them.
        if !path.starts_with("/v1") || path == "/v1/events/stream" {
            continue;
        }
        let id = [("/sessions/", &victim.session), ("/agents/", &victim.agent), ("/tasks/", &victim.task)]
            .into_iter()
            .find(|(part, _)| path.contains(part))
            .map_or(&victim.definition, |(_, id)| id);
        let filled = path
            .replace("{id}", id)
            .replace("{name}", &victim.secret)
            .replace("{provider}", "e2b")
            .replace("{userId}", "outsider")
            .replace("{position}", &victim.position);
        let named = ["{id}", "{name}"].iter().any(|part| path.contains(part));
        for method in ["get", "post", "put", "patch", "delete"] {
            if item.get(method).is_some() {
                let method = ["GET", "POST", "PUT", "PATCH", "DELETE"]
                    .into_iter()
                    .find(|name| name.eq_ignore_ascii_case(method))
                    .context("a method")?;
                operations.push(Operation { method, path: filled.clone(), names: named });
            }
        }
    }
    Ok(operations)
}

struct Scene<'a> {
    place: &'a Place,
    key: &'a str,
    victim: &'a Victim,
    operations: &'a [Operation],
    requests: u64,
}

impl Scene<'_> {
    async fn ask_all(&self, caller: usize, mut random: fastrand::Rng) -> anyhow::Result<Vec<String>> {
        let mut told = vec![];
        let mut asker = Caller::new(self.key);
        for number in 0..self.requests {
            let operation = &self.operations[usize::try_from(number)? % self.operations.len()];
            let address = self.place.address(caller + usize::try_from(number)?).context("a server runs")?;
            let ask = self.ask(operation, &mut random);
            let answer = asker.ask(&address, &ask).await?;
            let sent = format!("{}{}", ask.path, ask.body.as_ref().map(Value::to_string).unwrap_or_default());
            let what = || format!("{} {}: {} {}", ask.method, ask.path, answer.status, answer.text);
            if answer.status >= 500 {
                told.push(what());
            }
            if operation.names && !matches!(answer.status, 404 | 422) {
                told.push(what());
            }
            let leaks: BTreeSet<&str> = self
                .victim
                .ids()
                .into_iter()
                .chain([self.victim.canary.as_str()])
                .filter(|secret| answer.text.contains(secret) && !sent.contains(secret))
                .collect();
            if !leaks.is_empty() {
                told.push(format!("told {leaks:?}: {}", what()));
            }
            if told.len() > 20 {
                break;
            }
        }
        Ok(told)
    }

    /// The operation with a body that names what is another's, now and then with filters that do.
    fn ask(&self, operation: &Operation, random: &mut fastrand::Rng) -> Ask {
        let victim = self.victim;
        let mut path = operation.path.clone();
        if operation.method == "GET" && random.bool() {
            let filters = [
                format!("?sessionId={}", victim.session),
                format!("?subject={}", victim.agent),
                format!("?agentId={}", victim.agent),
                format!("?userId={}", victim.canary),
                "?limit=100".to_owned(),
            ];
            path.push_str(&filters[random.usize(..filters.len())]);
        }
        let body = (operation.method != "GET" && operation.method != "DELETE").then(|| {
            json!({
                "userId": format!("outsider_{}", random.u32(..100)), "name": "outsider", "value": "outsider",
                "sessionId": victim.session, "definitionId": victim.definition, "task": "x", "lang": "python",
                "code": "1", "maxAgents": 1, "provider": "e2b", "credentials": { "apiKey": format!("e2b_{}", "1".repeat(40)) },
                "chargeId": "5.0", "amount": -1, "reason": "x", "currency": "usd", "period": "month",
            })
        });
        Ask::new(operation.method, path, body)
    }
}
