//! Streams of agents: each tells what its agent has done, as the log says, to all who follow it, and then ends.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

use anyhow::Context;
use futures_util::future::join_all;
use rust_decimal::Decimal;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout};

use super::frames::{Asked, Frame, Piece, Stream};
use super::way;
use crate::load::{Account, Again, BUSY, Customer, Load, REST};
use crate::place::{Place, Tenant};
use crate::prove::{Findings, Run};

const AGENTS: usize = 6;
/// Clients that follow each.
const FOLLOWERS: usize = 4;
const GIVE_UP: Duration = Duration::from_secs(90);

/// Lets agents work while clients follow them, cut their connections and come back, and holds what each was given against
/// the log.
pub(super) async fn prove(place: &Place, run: &Run, findings: &mut Findings) -> anyhow::Result<()> {
    let tenant = place.organization("test").await?;
    let account = Account::new(run, "sse-agents")?;
    let load = Load::new(run, place, &account, Again::KILLED);
    let mut customer = load.customer(&tenant.key, "agents", 0);
    let session = customer.post("/v1/sessions", json!({ "userId": "user_1" })).await?;
    let path = format!("/v1/sessions/{}/agents", session["id"].as_str().context("an id")?);
    let mut agents = vec![];
    for _ in 0..AGENTS {
        let agent = customer.post(&path, json!({ "tools": ["web_search"] })).await?;
        agents.push(agent["id"].as_str().context("an id")?.to_owned());
    }
    let tasks = run.amount(6, 60);
    let workers = load.customers([&*tenant.key; AGENTS], "work", 400_000);
    let working = load.live(workers, |worker| work(&agents[worker.number], worker, tasks));
    let comings = Mutex::new(0);
    let following = join_all((0..AGENTS * FOLLOWERS).map(|number| {
        let agent = &agents[number % AGENTS];
        let random = run.random(number as u64 + 20_000);
        follow(place, &tenant, agent, number, random, &comings)
    }));
    let (worked, followed) = tokio::join!(working, following);
    worked.into_iter().collect::<anyhow::Result<Vec<()>>>()?;
    let client = place.superuser().await?;
    let mut told = BTreeMap::new();
    for agent in &agents {
        told.insert(agent, expected(&client, agent).await?);
    }
    let mut frames = 0;
    for (number, given) in followed.into_iter().enumerate() {
        let agent = &agents[number % AGENTS];
        match given? {
            Err(wrong) => findings.violation(format!("the stream of {agent}: {wrong}")),
            Ok(given) => {
                frames += given.len() as u64;
                if let Some(wrong) = difference(&given, &told[agent]) {
                    findings.violation(format!("the stream of {agent}: {wrong}"));
                }
            }
        }
    }
    if run.planted.is_none() {
        // A call of a tool, its result and the output of each task.
        let enough = tasks * 3 * (AGENTS * FOLLOWERS) as u64;
        findings.claim(frames >= enough, || format!("agents' streams had {frames} frames of {enough}"));
    }
    account.close(findings);
    findings.did("frames of agents", frames);
    findings.did("reconnects to agents", comings.into_inner().unwrap_or_else(PoisonError::into_inner));
    Ok(())
}

/// Gives an agent task after task, and ends it.
async fn work(agent: &str, mut worker: Customer<'_>, tasks: u64) -> anyhow::Result<()> {
    for number in 0..tasks {
        let task = json!({ "task": format!("Task {number}\nof {agent}: \u{2028} ü") });
        let task = worker.post(&format!("/v1/agents/{agent}/run"), task).await?;
        let path = format!("/v1/tasks/{}", task["taskId"].as_str().context("an id")?);
        let until = Instant::now() + GIVE_UP;
        while worker.look(&*path).await?["status"] != "completed" {
            anyhow::ensure!(Instant::now() < until, "a task does not end: {path}");
            sleep(Duration::from_millis(20)).await;
        }
    }
    worker.post(&format!("/v1/agents/{agent}/terminate"), json!({})).await.map(drop)
}

/// What a client is given until the stream says that there is no more; or what is wrong.
async fn follow(
    place: &Place,
    tenant: &Tenant,
    agent: &str,
    number: usize,
    mut random: fastrand::Rng,
    comings: &Mutex<u64>,
) -> anyhow::Result<Result<Vec<Frame>, String>> {
    let mut given: Vec<Frame> = vec![];
    let until = Instant::now() + GIVE_UP * 4;
    while Instant::now() < until {
        let last = given.last().map_or(0, |frame| frame.id);
        let (query, last_event_id) = way(last, &mut random);
        let asked = Asked {
            key: &tenant.key,
            path: &format!("/v1/agents/{agent}/stream{query}"),
            last_event_id,
            small_buffer: number.is_multiple_of(2),
        };
        let address = place.address(random.usize(..2)).context("a server runs")?;
        let stays = Duration::from_millis(random.u64(50..1_000));
        let Ok(mut stream) = Stream::open(&address, &asked).await else { continue };
        match stream.status {
            200 => {}
            204 => return Ok(Ok(given)),
            // It is too busy, and is asked again, until the deadline.
            BUSY => {
                sleep(REST).await;
                continue;
            }
            status => return Ok(Err(format!("asked for, it was answered with {status}"))),
        }
        let cut = Instant::now() + stays;
        let mut came = false;
        while let Ok(Some(piece)) =
            timeout(cut.saturating_duration_since(Instant::now()), stream.next()).await
        {
            came = true;
            match piece {
                Piece::Comment => {}
                Piece::Wrong(wrong) => return Ok(Err(wrong)),
                Piece::Frame(frame) => {
                    if given.last().is_some_and(|last| frame.id <= last.id) {
                        return Ok(Err(format!("{frame:?} behind {:?}", given.last())));
                    }
                    given.push(frame);
                }
            }
        }
        *comings.lock().unwrap_or_else(PoisonError::into_inner) += u64::from(came);
    }
    Ok(Err(format!("it does not end; the last that came is {:?}", given.last())))
}

/// What an agent's stream tells, by the log and the content that lies beside it: position, type and data.
type Told = (u64, &'static str, Value);

async fn expected(client: &tokio_postgres::Client, agent: &str) -> anyhow::Result<Vec<Told>> {
    let sql = "select e.position, e.type, e.data::text, (
                 select c.body from content c where c.tenant_id = e.tenant_id and c.content_id = coalesce(
                   e.data->'input'->>'contentId', e.data->'result'->>'contentId', e.data->'output'->>'contentId',
                   e.data->'reply'->>'contentId'))
               from event_subjects s join events e using (tenant_id, position)
               where s.subject = $1 order by position";
    let mut told = vec![];
    for row in client.query(sql, &[&agent]).await? {
        let (position, kind): (i64, &str) = (row.get(0), row.get(1));
        let data: Value = serde_json::from_str(row.get(2))?;
        let body: Option<&str> = row.get(3);
        let content = body.and_then(|body| serde_json::from_str::<Value>(body).ok());
        let text = || content.as_ref().map(|content| content["text"].clone()).unwrap_or_default();
        let (event, shown) = match kind {
            "model.call_settled" if data["toolCalls"].as_u64() > Some(0) && text() != "" => {
                ("thinking", json!({ "text": text() }))
            }
            "tool.started" => ("tool_call", json!({ "tool": data["tool"], "input": content })),
            "tool.finished" => {
                let is_error = data["isError"].as_bool().unwrap_or_default();
                let (tool, duration) = (&data["tool"], &data["durationMs"]);
                let shown =
                    json!({ "tool": tool, "result": body, "isError": is_error, "durationMs": duration });
                ("tool_result", shown)
            }
            "task.completed" => ("output", json!({ "text": text(), "cost": data["cost"] })),
            "task.failed" | "agent.limit_reached" => anyhow::bail!("{agent} has met {kind}: {data}"),
            _ => continue,
        };
        told.push((u64::try_from(position)?, event, shown));
    }
    Ok(told)
}

/// How what a client was given differs from what the log says.
fn difference(given: &[Frame], told: &[Told]) -> Option<String> {
    for (frame, (position, event, expected)) in given.iter().zip(told) {
        let mut shown: Value = serde_json::from_str(&frame.data).unwrap_or_default();
        let mut expected = expected.clone();
        if *event == "output" {
            let amount = |value: &Value| value.as_str().and_then(|exact| exact.parse::<Decimal>().ok());
            let costs = (amount(&shown["cost"]["exact"]), amount(&expected["cost"]));
            if costs.0.is_none() || costs.0 != costs.1 {
                return Some(format!("{frame:?} costs something else than {expected}"));
            }
            shown["cost"].take();
            expected["cost"].take();
        }
        if frame.id != *position || frame.event != *event || shown != expected {
            return Some(format!("{frame:?} came where the log has {event} at {position}: {expected}"));
        }
    }
    (given.len() != told.len()).then(|| format!("{} frames came of {}", given.len(), told.len()))
}
