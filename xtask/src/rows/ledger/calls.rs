//! Calls to models: what their vendor was asked, held against what the log says was asked of it.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Context;
use rust_decimal::Decimal;
use serde_json::Value;

use super::Desk;
use super::account::{Account, Lost};
use super::answers::{Answered, Vendor};
use super::lives::{Agent, MOST_OUTPUT};
use crate::prove::Findings;

/// What the log says of one turn of a task.
#[derive(Default)]
struct Turn {
    /// Calls that may have been made.
    calls: usize,
    /// Those of them that were lost, and what each may have cost.
    lost: Vec<(String, Decimal)>,
    /// Those of the lost ones of which it is known what they used.
    reconciled: Vec<String>,
    /// Whether an answer was taken.
    settled: bool,
}

/// Each request that the vendor saw is a call of the same turn in the log, and what a lost call may have cost is its worst
/// case, or what its vendor told of the prompt and the longest answer. What was taken of the answers is charged, and held
/// against what they used elsewhere.
pub(super) async fn hold_against_vendor(
    desk: Desk<'_>,
    vendor: &Vendor,
    account: &Account,
    findings: &mut Findings,
) -> anyhow::Result<()> {
    let mut log = turns(desk).await?;
    let mut lost = BTreeSet::new();
    let mut asked_about: BTreeSet<String> = vendor.tasks().into_iter().collect();
    for agent in account.agents.values() {
        for run in &agent.runs {
            asked_about.remove(&run.task);
            let turns = log.remove(&run.task_id).unwrap_or_default();
            let told = vendor.told(&run.task).turns;
            findings.claim(turns.len() == told.len(), || {
                format!(
                    "{} has {} turns in the log, and {} at its vendor",
                    run.task_id,
                    turns.len(),
                    told.len()
                )
            });
            for (number, (turn, answered)) in turns.iter().zip(&told).enumerate() {
                let whose = || format!("turn {number} of {}", run.task_id);
                let seen = answered.asked.len();
                findings.did("requests that a vendor saw", seen as u64);
                findings.claim(seen <= turn.calls, || {
                    format!("{}: {seen} requests, and {} calls in the log", whose(), turn.calls)
                });
                for (call, cost) in &turn.lost {
                    let worst = worst_cases(account, agent, answered);
                    let broken = broken_off(account, agent, answered).filter(|known| known == cost);
                    findings.did("calls at what their vendor told of them", u64::from(broken.is_some()));
                    findings.claim(broken.is_some() || worst.contains(cost), || {
                        format!("{}: {call} may have cost {cost}, and at worst {worst:?}", whose())
                    });
                    lost.insert(call.clone());
                }
            }
        }
    }
    findings.claim(log.is_empty(), || format!("calls for tasks that nobody gave: {:?}", log.keys()));
    findings.claim(asked_about.is_empty(), || format!("a vendor was asked about {asked_about:?}"));
    let shown: BTreeSet<String> = account.lost.keys().cloned().collect();
    findings.claim(shown == lost, || {
        let difference: Vec<&String> = shown.symmetric_difference(&lost).collect();
        format!("lost by the log or shown as unconfirmed, and not both: {difference:?}")
    });
    Ok(())
}

/// Takes in the calls that were given up and answered all the same, before anybody was told what they used: each is charged
/// for what its turn uses.
pub(super) async fn answered_late(
    desk: Desk<'_>,
    vendor: &Vendor,
    account: &mut Account,
    findings: &mut Findings,
) -> anyhow::Result<()> {
    let mut log = turns(desk).await?;
    let runs = account.agents.values().flat_map(|agent| agent.runs.iter().map(move |run| (agent, run)));
    let mut late = vec![];
    for (agent, run) in runs {
        let turns = log.remove(&run.task_id).unwrap_or_default();
        for (turn, answered) in turns.iter().zip(vendor.told(&run.task).turns) {
            let lost = turn.lost.iter().filter(|(call, _)| turn.reconciled.contains(call));
            for (call, cost) in lost.filter(|(call, _)| !account.lost.contains_key(call)) {
                late.push((agent.clone(), call.clone(), answered.used, *cost));
            }
        }
    }
    for (agent, call, used, cost) in late {
        findings.did("lost calls whose answers came", 1);
        account.charge(&agent, &agent.id, used);
        account.lost.insert(call, Lost { told: Some(Some(used)), cost });
    }
    Ok(())
}

/// The turns of every task, as the log has them.
async fn turns(desk: Desk<'_>) -> anyhow::Result<BTreeMap<String, Vec<Turn>>> {
    let sql = "select e.type, e.data::text from events e join tenants t using (tenant_id)
               where t.organization_id = $1 and e.type in
                   ('model.call_opened', 'model.call_settled', 'model.call_released', 'model.call_lost',
                    'model.call_reconciled')
               order by e.position";
    let mut tasks: BTreeMap<String, Vec<Turn>> = BTreeMap::new();
    for row in desk.place.superuser().await?.query(sql, &[&desk.tenant.organization]).await? {
        let (kind, data): (&str, Value) = (row.get(0), serde_json::from_str(row.get(1))?);
        let turns = tasks.entry(super::text(&data, "taskId")?).or_default();
        if kind == "model.call_opened" && turns.last().is_none_or(|turn| turn.settled) {
            turns.push(Turn::default());
        }
        if kind == "model.call_reconciled" {
            let id = super::text(&data, "callId")?;
            let turn = turns.iter_mut().find(|turn| turn.lost.iter().any(|(call, _)| *call == id));
            turn.with_context(|| format!("a call was lost before {data}"))?.reconciled.push(id);
            continue;
        }
        let turn = turns.last_mut().with_context(|| format!("a call was opened before {data}"))?;
        match kind {
            "model.call_opened" => turn.calls += 1,
            // It was never made.
            "model.call_released" => turn.calls -= 1,
            "model.call_lost" => turn.lost.push((super::text(&data, "callId")?, unconfirmed(&data)?)),
            _ => turn.settled = true,
        }
    }
    Ok(tasks)
}

/// What an event says may have been used.
fn unconfirmed(data: &Value) -> anyhow::Result<Decimal> {
    let mut sum = Decimal::ZERO;
    for charge in data["booking"]["unconfirmed"].as_array().into_iter().flatten() {
        sum += super::text(charge, "cost")?.parse::<Decimal>()?;
    }
    Ok(sum)
}

/// What a request of a turn costs at worst: each of its bytes a token at the dearest price, and the longest answer.
fn worst_cases(account: &Account, agent: &Agent, answered: &Answered) -> BTreeSet<Decimal> {
    let prices = agent.half.and_then(|half| account.prices(half)).filter(|_| !agent.own_key);
    let worst = |bytes| prices.map_or(Decimal::ZERO, |prices| prices.worst(&agent.model, bytes, MOST_OUTPUT));
    answered.asked.iter().map(|bytes| worst(*bytes)).collect()
}

/// What a request of a turn costs whose answer broke off behind what was told of the prompt: that, and the longest answer.
fn broken_off(account: &Account, agent: &Agent, answered: &Answered) -> Option<Decimal> {
    // The other protocol tells it at the end.
    let told = answered.broke_off && agent.model.starts_with("claude-") && !agent.own_key;
    let prices = agent.half.and_then(|half| account.prices(half)).filter(|_| told)?;
    let [input, _, cache_read, cache_write] = answered.used;
    let used = [input, MOST_OUTPUT, cache_read, cache_write].into_iter().enumerate();
    Some(used.map(|(unit, tokens)| prices.tokens(&agent.model, unit, tokens)).sum())
}
