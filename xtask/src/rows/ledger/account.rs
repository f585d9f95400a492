//! The client's own account: what each use must have cost.

use std::collections::BTreeMap;
use std::sync::Arc;

use rust_decimal::Decimal;
use serde_json::json;
use theazo_domain::time::Timestamp;

use super::answers::Vendor;
use super::lives::{Agent, Session};
use super::money::{Prices, UNITS, Used};
use crate::load::Account as Journal;

/// A charge of a model that must be there: its unit, its tokens and its cost.
pub(super) type Line = (&'static str, Decimal, Decimal);

/// A correction that was acknowledged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Adjustment {
    pub(super) corrects: String,
    pub(super) agent: String,
    pub(super) exact: Decimal,
}

/// A call that the server says was lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Lost {
    /// Whether it became known what it used, and what: none where it was not billed.
    pub(super) told: Option<Option<Used>>,
    /// What it may have cost, by the server's word.
    pub(super) cost: Decimal,
}

pub(super) struct Account {
    journal: Arc<Journal>,
    /// Those of each half.
    prices: Vec<Prices>,
    pub(super) sessions: Vec<(String, Timestamp)>,
    pub(super) agents: BTreeMap<String, Agent>,
    /// What must be charged for each task, and for each agent without a task: of calls that were reconciled.
    pub(super) usage: BTreeMap<String, Vec<Line>>,
    /// What must be charged later for each agent, because it had no price: tokens by unit.
    pub(super) rated: BTreeMap<String, Used>,
    /// Calls that are unrated until then.
    pub(super) unrated_calls: u64,
    /// By the id of their own entries.
    pub(super) adjustments: BTreeMap<String, Adjustment>,
    /// Runs that cost something else than they must have, by the server's own word.
    pub(super) wrong_tasks: Vec<String>,
    /// Calls whose answers were taken.
    pub(super) calls: u64,
    /// By the ids of the calls.
    pub(super) lost: BTreeMap<String, Lost>,
}

impl Account {
    pub(super) fn new(journal: Arc<Journal>) -> Self {
        Self {
            journal,
            prices: vec![],
            sessions: vec![],
            agents: BTreeMap::new(),
            usage: BTreeMap::new(),
            rated: BTreeMap::new(),
            unrated_calls: 0,
            adjustments: BTreeMap::new(),
            wrong_tasks: vec![],
            calls: 0,
            lost: BTreeMap::new(),
        }
    }

    /// These are the prices of the half that begins.
    pub(super) fn priced(&mut self, prices: Prices) {
        self.prices.push(prices);
    }

    /// The prices in force at the end.
    pub(super) fn last_prices(&self) -> Option<&Prices> {
        self.prices.last()
    }

    pub(super) fn prices(&self, half: u64) -> Option<&Prices> {
        self.prices.get(usize::try_from(half).ok()?)
    }

    /// Takes in what has lived, at what the vendor answered.
    pub(super) fn take(&mut self, sessions: Vec<Session>, vendor: &Vendor) {
        for session in sessions {
            self.sessions.push((session.id.clone(), session.created_at));
            for agent in session.agents {
                for run in &agent.runs {
                    let answered = vendor.told(&run.task).turns;
                    if answered.len() != run.turns {
                        self.wrong_tasks.push(format!("{} had {} turns", run.task, answered.len()));
                    }
                    let mut cost = Decimal::ZERO;
                    for turn in answered {
                        cost += self.charge(&agent, &run.task_id, turn.used);
                        self.calls += 1;
                    }
                    if cost != run.cost {
                        self.wrong_tasks.push(format!("{} cost {}, and must {cost}", run.task_id, run.cost));
                    }
                }
                self.agents.insert(agent.id.clone(), agent);
            }
        }
    }

    /// A call must be charged for a task, or for its agent alone; what it costs.
    pub(super) fn charge(&mut self, agent: &Agent, whose: &str, used: Used) -> Decimal {
        let Some(prices) = agent.half.and_then(|half| self.prices(half)).cloned() else {
            return Decimal::ZERO;
        };
        let is_unrated = !agent.own_key && !prices.has(&agent.model);
        if is_unrated {
            let sums = self.rated.entry(agent.id.clone()).or_default();
            sums.iter_mut().zip(used).for_each(|(sum, tokens)| *sum += tokens);
            self.unrated_calls += 1;
        }
        let mut all = Decimal::ZERO;
        let lines = self.usage.entry(whose.to_owned()).or_default();
        for (unit, tokens) in used.into_iter().enumerate().filter(|(_, tokens)| *tokens > 0) {
            let cost = if agent.own_key { Decimal::ZERO } else { prices.tokens(&agent.model, unit, tokens) };
            lines.push((UNITS[unit], Decimal::from(tokens), cost));
            all += cost;
        }
        all
    }

    /// A correction was acknowledged.
    pub(super) fn adjusted(&mut self, id: String, adjustment: Adjustment) -> anyhow::Result<()> {
        self.journal.write(&json!({ "adjustment": id, "exact": adjustment.exact }))?;
        self.adjustments.insert(id, adjustment);
        Ok(())
    }
}
