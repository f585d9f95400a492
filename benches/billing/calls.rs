//! Calls to models, through the log itself: opened and settled.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rust_decimal::Decimal;
use theazo::clock::{Clock, SystemClock};
use theazo::log::{Log, Tenant};
use theazo::random;
use theazo_domain::Command;
use theazo_domain::agent::{self, Answer, ModelPrices, ModelRates, NewAgent, Opening, Stop, Tokens};
use theazo_domain::agent_config::{AgentConfig, ProviderName};
use theazo_domain::charge::{Price, Rate};
use theazo_domain::content::ContentRef;
use theazo_domain::id::{AgentId, CallId, ContentId, TaskId};
use theazo_domain::rates::ComputeRates;
use theazo_domain::session;
use tokio::task::JoinSet;

use crate::figures::{Figure, figure};
use crate::own_log::{session_life, submission};
use crate::world::World;

fn content() -> ContentRef {
    let content_id = ContentId::from_ulid(random::ulid(SystemClock.now()));
    ContentRef { content_id, sha256: "00".repeat(32) }
}

fn rates() -> ModelRates {
    let price = |cents| Price { amount: Decimal::new(cents, 2), per: 1_000_000 };
    let prices = ModelPrices {
        input: price(330),
        output: price(1_650),
        cache_read: price(33),
        cache_write: price(413),
        long: None,
    };
    ModelRates { rate_card: "bench".to_owned(), prices: Some(prices) }
}

/// Callers that each have an agent whose task goes from one call to the next: how many charges were made, two by each
/// call, and how long a command took.
pub(crate) async fn make(callers: usize, seconds: f64) -> anyhow::Result<Figure> {
    let world = World::new().await?;
    let log = world.log()?;
    let tenant = world.tenants(&log, 1).await?[0];
    let mut agents = vec![];
    for _ in 0..callers {
        agents.push(agent_with_a_task(&log, tenant).await?);
    }
    let began = Instant::now();
    let until = began + Duration::from_secs_f64(seconds);
    let mut tasks = JoinSet::new();
    for agent_id in agents {
        tasks.spawn(call(Arc::clone(&log), tenant, agent_id, until));
    }
    let mut times = vec![];
    while let Some(done) = tasks.join_next().await {
        times.extend(done??);
    }
    let charges = times.len();
    let made = figure(times, charges, began.elapsed());
    log.close().await;
    world.end().await;
    Ok(made)
}

async fn agent_with_a_task(log: &Arc<Log>, tenant: Tenant) -> anyhow::Result<AgentId> {
    let (session_id, [create, ..]) = session_life();
    let session::Command::Create(mut opening) = create else { anyhow::bail!("a session begins with that") };
    opening.limits = session::Limits::default();
    let create = session::Command::Create(opening);
    log.execute(tenant, submission(Command::Session(session_id, create))).await??;
    let agent_id = AgentId::from_ulid(random::ulid(SystemClock.now()));
    let price = Some(Price { amount: Decimal::new(5, 3), per: 60_000 });
    let managed = Rate { price, rate_card: "bench".to_owned() };
    let compute = ComputeRates { own: managed.clone(), managed };
    let new = NewAgent {
        agent_id,
        definition: None,
        config: AgentConfig::default(),
        provider: Some(ProviderName::Local),
        mocked: false,
        browser: false,
        timeout_s: 3_600,
        compute: compute.clone(),
        storage: compute,
    };
    let add = session::Command::AddAgent(Box::new(new));
    log.execute(tenant, submission(Command::Session(session_id, add))).await??;
    let task_id = TaskId::from_ulid(random::ulid(SystemClock.now()));
    for command in [
        agent::Command::Provisioned { sandbox: "bench".into() },
        agent::Command::Run { task_id, task: content(), model: agent::ModelCost::Priced },
        agent::Command::Claim { task_id },
    ] {
        log.execute(tenant, submission(Command::Agent(agent_id, command))).await??;
    }
    Ok(agent_id)
}

/// The times of the commands: one that opens a call and one that settles it, for two charges.
async fn call(
    log: Arc<Log>,
    tenant: Tenant,
    agent_id: AgentId,
    until: Instant,
) -> anyhow::Result<Vec<Duration>> {
    let mut times = vec![];
    while Instant::now() < until {
        let call_id = CallId::from_ulid(random::ulid(SystemClock.now()));
        let tokens = |input, output| Tokens { input, output, cache_read: 0, cache_write: 0 };
        let opening = Opening {
            epoch: 1,
            call_id,
            model: "model-7".to_owned(),
            own_key: false,
            worst_case: tokens(4_000, 4_096),
            rates: rates(),
        };
        let answer = Answer {
            call_id,
            tokens: Some(tokens(1_000, 300)),
            stop: Stop::Complete,
            reply: content(),
            tool_calls: 0,
            vendor_id: None,
            completes: false,
        };
        for command in [agent::Command::OpenCall(opening), agent::Command::SettleCall(answer)] {
            let began = Instant::now();
            log.execute(tenant, submission(Command::Agent(agent_id, command))).await??;
            times.push(began.elapsed());
        }
    }
    Ok(times)
}
