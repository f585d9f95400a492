//! All charges as the server tells them, held against the client's own account, one by one.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Context;
use rust_decimal::Decimal;
use theazo_domain::time::Timestamp;

use super::account::{Account, Line};
use super::harm::Outages;
use super::money::UNITS;
use super::spans::Piece;
use crate::client::Ask;
use crate::load::{Anything, Customer};
use crate::prove::Findings;

/// A charge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) id: String,
    pub(super) at: Timestamp,
    pub(super) line: String,
    pub(super) category: String,
    pub(super) user: String,
    pub(super) session: String,
    pub(super) agent: String,
    pub(super) task: String,
    pub(super) model: String,
    pub(super) quantity: Decimal,
    pub(super) unit: String,
    pub(super) card: String,
    pub(super) cost: Decimal,
    pub(super) corrects: String,
}

/// All of an organization's.
pub(super) struct Books {
    pub(super) entries: Vec<Entry>,
}

/// Rows of an export as CSV, by the names of their columns. Nothing of these organizations has to be quoted.
pub(super) fn rows(csv: &str) -> anyhow::Result<Vec<BTreeMap<&str, &str>>> {
    anyhow::ensure!(!csv.contains('"'), "a row of an export is quoted");
    let mut lines = csv.split_terminator("\r\n");
    let head: Vec<&str> = lines.next().context("a head")?.split(',').collect();
    let row = |line: &'_ str| -> usize { line.split(',').count() };
    let named = lines.map(|line| {
        anyhow::ensure!(row(line) == head.len(), "a row has other columns: {line}");
        Ok(head.iter().copied().zip(line.split(',')).collect())
    });
    named.collect()
}

/// What was charged of one agent's sandbox.
#[derive(Debug, Clone, Default)]
struct Metered {
    ms: Decimal,
    /// The same, piece by piece.
    pieces: Vec<Piece>,
    gb_hours: Decimal,
}

impl Metered {
    fn take(&mut self, entry: &Entry) {
        if entry.category == "storage" {
            self.gb_hours += entry.quantity;
            return;
        }
        self.ms += entry.quantity;
        let ms = i64::try_from(entry.quantity).unwrap_or_default();
        self.pieces.push(Piece { until: entry.at.millis(), ms });
    }
}

/// An export of a period.
pub(super) async fn export(customer: &mut Customer<'_>, query: &str) -> anyhow::Result<String> {
    let ask = Ask::get(format!("/v1/billing/export?{query}"));
    let answer = customer.send(&ask, Anything::default()).await?;
    anyhow::ensure!(answer.status == 200, "an export: {} {}", answer.status, answer.text);
    Ok(answer.text)
}

impl Books {
    pub(super) async fn read(customer: &mut Customer<'_>) -> anyhow::Result<Self> {
        let csv = export(customer, "format=csv&from=2020-01-01").await?;
        let entries = rows(&csv)?.into_iter().map(|row| {
            let cell = |name: &str| row.get(name).map(|cell| (*cell).to_owned()).unwrap_or_default();
            Ok(Entry {
                id: cell("id"),
                at: Timestamp::parse(&cell("at"))?,
                line: cell("line"),
                category: cell("category"),
                user: cell("userId"),
                session: cell("sessionId"),
                agent: cell("agentId"),
                task: cell("taskId"),
                model: cell("model"),
                quantity: cell("quantity").parse()?,
                unit: cell("unit"),
                card: cell("rateCardVersion"),
                cost: cell("cost").parse()?,
                corrects: cell("corrects"),
            })
        });
        Ok(Self { entries: entries.collect::<anyhow::Result<_>>()? })
    }

    /// Every use that the client knows of is charged once, at its price, and to whom it is of; and nothing else is.
    pub(super) fn hold_against(&self, account: &Account, outages: &Outages, findings: &mut Findings) {
        let ids: BTreeSet<&str> = self.entries.iter().map(|entry| &*entry.id).collect();
        findings.claim(ids.len() == self.entries.len(), || "an entry is exported twice".to_owned());
        for wrong in &account.wrong_tasks {
            findings.violation(wrong.clone());
        }
        let mut usage: BTreeMap<&str, Vec<Line>> = BTreeMap::new();
        let mut rated: BTreeMap<(&str, usize), (Decimal, Decimal)> = BTreeMap::new();
        let mut metered: BTreeMap<&str, Metered> = BTreeMap::new();
        for entry in &self.entries {
            let Some(agent) = account.agents.get(&entry.agent) else {
                findings.violation(format!("nobody's agent was charged: {entry:?}"));
                continue;
            };
            let whose = entry.session == agent.session && entry.user == agent.user;
            findings.claim(whose, || format!("charged to somebody else than {}: {entry:?}", agent.user));
            let unit = UNITS.iter().position(|unit| *unit == entry.unit);
            match (&*entry.line, &*entry.category, unit) {
                ("usage", "model", Some(unit)) => {
                    findings.claim(entry.model == agent.model, || format!("another model: {entry:?}"));
                    let line = (UNITS[unit], entry.quantity, entry.cost);
                    let whose = if entry.task.is_empty() { &entry.agent } else { &entry.task };
                    usage.entry(whose).or_default().push(line);
                }
                ("rating", "model", Some(unit)) => {
                    let sums = rated.entry((&entry.agent, unit)).or_default();
                    *sums = (sums.0 + entry.quantity, sums.1 + entry.cost);
                }
                ("adjustment", ..) => {
                    let known = account.adjustments.get(&entry.id);
                    let right = known.is_some_and(|known| {
                        (&known.corrects, &known.agent, known.exact)
                            == (&entry.corrects, &entry.agent, entry.cost)
                    });
                    findings.claim(right, || format!("{entry:?} was asked for as {known:?}"));
                }
                ("usage", "compute" | "storage", None) => {
                    let halves = agent.half.map_or(0..2, |half| half..half + 1);
                    let mut cards = halves.filter_map(|half| account.prices(half));
                    let card = cards.rfind(|prices| prices.version == entry.card);
                    let cost = card.map(|prices| prices.other(&entry.category, entry.quantity));
                    let near = cost.is_some_and(|cost| (cost - entry.cost).abs() <= Decimal::new(1, 12));
                    findings.claim(near, || format!("it must cost {cost:?}: {entry:?}"));
                    metered.entry(&entry.agent).or_default().take(entry);
                }
                _ => findings.violation(format!("nobody has used that: {entry:?}")),
            }
        }
        charged(usage, account, findings);
        rated_once(&rated, account, findings);
        measured(&metered, account, outages, findings);
        let of_them = self.entries.iter().filter(|entry| entry.line == "adjustment").count();
        findings.claim(of_them == account.adjustments.len(), || {
            format!("{of_them} corrections of {} are there", account.adjustments.len())
        });
    }
}

/// Each task was charged for just what the model used.
fn charged(mut usage: BTreeMap<&str, Vec<Line>>, account: &Account, findings: &mut Findings) {
    for (task, lines) in &account.usage {
        let mut expected = lines.clone();
        let mut shown = usage.remove(&**task).unwrap_or_default();
        expected.sort_unstable();
        shown.sort_unstable();
        findings.claim(shown == expected, || format!("{task} was charged {shown:?}, and used {expected:?}"));
    }
    for (task, lines) in usage {
        findings.violation(format!("{task} is no task, and was charged {lines:?}"));
    }
}

/// What had no price was given one, once.
fn rated_once(
    rated: &BTreeMap<(&str, usize), (Decimal, Decimal)>,
    account: &Account,
    findings: &mut Findings,
) {
    let Some(prices) = account.last_prices() else { return };
    for (id, used) in &account.rated {
        for (unit, tokens) in used.iter().enumerate() {
            let expected = (Decimal::from(*tokens), prices.tokens(super::UNPRICED, unit, *tokens));
            let shown = rated.get(&(&**id, unit)).copied().unwrap_or_default();
            findings.claim(shown == expected, || {
                format!("{id}: {} are rated {shown:?}, and must be {expected:?}", UNITS[unit])
            });
        }
    }
    let strange = rated.keys().find(|(id, _)| !account.rated.contains_key(*id));
    findings.claim(strange.is_none(), || format!("{strange:?} was rated, and had a price"));
}

/// Each sandbox was charged for as long as it was there, and for what it kept.
fn measured(
    metered: &BTreeMap<&str, Metered>,
    account: &Account,
    outages: &Outages,
    findings: &mut Findings,
) {
    // Each charge of storage is rounded to twelve places.
    let near = Decimal::new(1, 10);
    for (id, agent) in &account.agents {
        let Metered { ms, pieces, gb_hours } = metered.get(&**id).cloned().unwrap_or_default();
        findings.claim(!agent.spans.has_lost_file, || format!("{id} has lost its file"));
        let (least, most) = agent.spans.compute_ms(&pieces, outages);
        let right = (Decimal::from(least)..=Decimal::from(most)).contains(&ms);
        findings.claim(right, || {
            format!("{id} has lived {least} to {most} ms, and {ms} of compute were charged")
        });
        let (least, most) = agent.spans.gb_hours(&pieces, outages);
        let right = least - near <= gb_hours && gb_hours <= most + near;
        findings.claim(right, || {
            format!("{id} has kept {least} to {most} GB for hours, and {gb_hours} of storage were charged")
        });
        findings.did("agents that must be charged for what they keep", u64::from(least > near));
    }
}
