//! What becomes known of money later: prices, what lost calls used, and corrections.

use anyhow::Context;
use rust_decimal::Decimal;
use serde_json::{Value, json};

use super::account::{Account, Adjustment, Lost};
use super::money::{self, UNITS};
use super::{Desk, UNPRICED, text};
use crate::load::Customer;
use crate::prove::Findings;

/// Charges of each half that are corrected.
const CORRECTIONS: u64 = 25;

/// Imports another card, with a price for the model that had none.
pub(super) async fn import(desk: Desk<'_>, card: &mut Value) -> anyhow::Result<()> {
    card["version"] = json!("proof");
    card["markupPercent"] = json!("25");
    card["computePerMinute"] = json!("0.0071");
    let model = json!({
        "id": UNPRICED, "vendor": "house", "input": "0.7", "output": "2.3", "cacheRead": "0.07",
        "cacheWrite": "0.9", "source": "https://example.com/prices", "date": "2026-11-24",
    });
    card["models"].as_array_mut().context("models of a card")?.push(model);
    desk.load.account.write(&json!({ "imported": card }))?;
    let path = desk.place.directory().join("card.json");
    tokio::fs::write(&path, card.to_string()).await?;
    let imported = desk.command(&["rates", "import", &path.display().to_string()]).await?;
    anyhow::ensure!(imported["inForce"] == true, "the card is not in force: {imported}");
    Ok(())
}

/// Tells the server of some of its lost calls what they used, of some that they were not billed, and of others nothing.
pub(super) async fn reconcile(
    desk: Desk<'_>,
    customer: &mut Customer<'_>,
    account: &mut Account,
    findings: &mut Findings,
) -> anyhow::Result<()> {
    let mut file = String::new();
    for call in customer.all("/v1/billing/unconfirmed", 100).await? {
        let (id, agent) = (text(&call, "callId")?, text(&call, "agentId")?);
        if account.lost.contains_key(&id) {
            continue;
        }
        findings.did("calls that were lost", 1);
        let Some(agent) = account.agents.get(&agent).cloned() else {
            findings.violation(format!("a call of nobody's agent is unconfirmed: {call}"));
            continue;
        };
        let random = &mut customer.random;
        let told = match random.u8(..3) {
            0 => None,
            1 => {
                file.push_str(&format!("{}\n", json!({ "callId": id, "notBilled": true })));
                Some(None)
            }
            _ => {
                let used = [random.u64(1..9_000), random.u64(1..900), random.u64(..3), 0];
                let line = json!({
                    "callId": id, "inputTokens": used[0], "outputTokens": used[1], "cacheReadTokens": used[2],
                });
                file.push_str(&format!("{line}\n"));
                // What its task has cost stays what its output said, so this is a charge of the agent's alone.
                account.charge(&agent, &agent.id, used);
                Some(Some(used))
            }
        };
        account.lost.insert(id, Lost { told, cost: money::amount(&call["cost"])?.0 });
    }
    if file.is_empty() {
        return Ok(());
    }
    findings.did("calls reconciled", file.lines().count() as u64);
    let path = desk.place.directory().join("reconciled.jsonl");
    desk.load.account.write(&json!({ "reconciled": file }))?;
    tokio::fs::write(&path, file).await?;
    desk.command(&["billing", "reconcile", &path.display().to_string()]).await?;
    Ok(())
}

/// Corrects some charges: gives a part or all of them back, or adds to them.
pub(super) async fn adjust(
    customer: &mut Customer<'_>,
    account: &mut Account,
    findings: &mut Findings,
) -> anyhow::Result<()> {
    let agents: Vec<String> = account.agents.keys().cloned().collect();
    for _ in 0..CORRECTIONS {
        let agent = &agents[customer.random.usize(..agents.len())];
        let entries = customer.look(format!("/v1/billing/entries?agentId={agent}&limit=100")).await?;
        let entries = entries["data"].as_array().context("entries")?;
        let usage = |entry: &&Value| {
            entry["line"] == "usage" && UNITS.contains(&entry["unit"].as_str().unwrap_or_default())
        };
        let usage: Vec<&Value> = entries.iter().filter(usage).collect();
        let random = &mut customer.random;
        let Some(entry) = usage.get(random.usize(..usage.len().max(1))) else { continue };
        let corrects = text(entry, "id")?;
        if account.adjustments.values().any(|known| known.corrects == corrects) {
            continue;
        }
        let cost = money::amount(&entry["cost"])?.0;
        let exact = match random.u8(..4) {
            0 => -cost,
            1 => Decimal::new(random.i64(1..500_000_000), 10),
            _ => money::rounded(-cost * Decimal::new(random.i64(1..1_000), 3), 12),
        };
        if exact.is_zero() {
            continue;
        }
        let body =
            json!({ "chargeId": corrects, "exact": exact.normalize().to_string(), "reason": "a proof" });
        let made = customer.post("/v1/billing/adjustments", body).await?;
        account.adjusted(text(&made, "id")?, Adjustment { corrects, agent: agent.clone(), exact })?;
        findings.did("corrections", 1);
    }
    Ok(())
}
