//! What was refused because of a limit did indeed not fit it, by the proof's own sums.

use anyhow::Context;
use rust_decimal::Decimal;
use serde_json::Value;

use super::log::{Booking, Entry, Excess, Whose};
use super::sums::{Limit, Purse};
use super::walk::{MINUTE_MS, Walk};

/// An agent was refused its next minute of compute. What it was decided on is known when the piece before that is booked,
/// which is next.
pub(super) struct Pending {
    position: i64,
    at: i64,
    excess: Excess,
    /// Where the limit stood before: a limit of cost and its sums, or minutes of compute.
    stood: Stood,
}

enum Stood {
    Cost(Limit, Purse),
    Compute { minutes: i64, compute_ms: i64, held_ms: i64 },
}

/// What work asks of a limit.
#[derive(Debug)]
enum Need {
    /// Something.
    Some,
    /// A minute of compute.
    Minute,
    /// The worst case of a call.
    Call { least: Decimal, most: Decimal },
}

impl Walk<'_> {
    pub(super) fn refused(&mut self, entry: &Entry, whose: Option<&Whose>) -> anyhow::Result<()> {
        let excess = entry.excess()?;
        let data = &entry.data;
        let named = |name: &str| data[name].as_str().map(str::to_owned);
        let session = whose.map(|whose| whose.session.clone()).or_else(|| named("sessionId"));
        let user = whose.map(|whose| whose.user.clone()).or_else(|| named("userId"));
        let (session, user) = (session.context("a session")?, user.context("a user")?);
        self.findings.did("refusals", 1);
        self.findings.did(counted_as(&excess.limit), 1);
        let stands = self.sessions.get(&session).context("its session was created")?;
        if excess.limit == "maxAgents" {
            let live = stands.agents.len() as i64;
            let right = stands.max_agents.is_some_and(|most| live >= most && excess.allowed == most.into());
            let most = stands.max_agents;
            self.findings.claim(right, || {
                format!("position {}: refused with {live} agents of {most:?}: {excess:?}", entry.position)
            });
            return Ok(());
        }
        let purse = match &*excess.limit {
            "maxCost" => Some(&stands.purse),
            "userBudget" => self.users.get(&user),
            "organizationBudget" => Some(&self.organization),
            _ => None,
        };
        let stood = match (purse.and_then(|purse| Some((purse.limit?, purse))), stands.max_minutes) {
            (Some((limit, purse)), _) => Stood::Cost(limit, purse.clone()),
            (None, Some(minutes)) if excess.limit == "maxComputeMinutes" => {
                Stood::Compute { minutes, compute_ms: stands.compute_ms, held_ms: stands.held_ms }
            }
            _ => {
                let position = entry.position;
                self.findings.violation(format!("position {position}: no such limit is set: {excess:?}"));
                return Ok(());
            }
        };
        let pending = Pending { position: entry.position, at: entry.at, excess, stood };
        let minute = self.known.prices.compute(MINUTE_MS);
        let is_work = entry.is("agent.limit_reached");
        let agent =
            whose.filter(|_| is_work).and_then(|whose| Some((&whose.agent, self.agents.get(&whose.agent)?)));
        match (agent, &data["work"]) {
            (Some((id, agent)), _)
                if agent.computes_from.is_some()
                    && (matches!(pending.stood, Stood::Compute { .. })
                        || pending.excess.requested == minute) =>
            {
                self.pending.insert(id.clone(), pending);
            }
            (Some((_, agent)), _) if agent.computes_from.is_some() => {
                let task = agent.task.clone().unwrap_or_default();
                let model = agent.model;
                let worst = |bytes: u64| model.worst(bytes, agent.max_tokens);
                let sent = self.known.lengths.get(&task);
                let bytes = match sent.and_then(|sent| Some(*sent.first()?..=*sent.last()?)) {
                    Some(sent) => sent,
                    None => agent.unsent(&task.0, self.known.longest),
                };
                let (least, most) = (worst(*bytes.start()), worst(*bytes.end()));
                self.judge(&pending, &Need::Call { least, most });
            }
            (None, Value::String(work)) if work == "run" => self.judge(&pending, &Need::Some),
            // A session whose agents have used all of their minutes.
            (None, work) if work == "resume" && data["agentId"].is_null() => self.judge_session(&pending),
            _ => self.judge(&pending, &Need::Minute),
        }
        Ok(())
    }

    /// A piece of compute is booked; whether the minute behind it was refused.
    pub(super) fn piece_was_booked(&mut self, whose: &Whose, booking: &Booking) -> bool {
        let held_ms = self.agents.get(&whose.agent).map_or(0, |agent| agent.held_ms);
        let Some(mut pending) = self.pending.remove(&whose.agent) else { return false };
        match &mut pending.stood {
            Stood::Cost(_, purse) => {
                purse.reserved -= booking.released;
                booking.charges.iter().for_each(|charge| purse.charge(charge));
            }
            Stood::Compute { compute_ms, held_ms: held, .. } => {
                *compute_ms += booking.compute_ms;
                *held -= held_ms;
            }
        }
        self.judge(&pending, &Need::Minute);
        self.findings.did("next minutes of compute refused", 1);
        true
    }

    fn judge(&mut self, pending: &Pending, need: &Need) {
        let Pending { position, at, excess, stood } = pending;
        let minute = self.known.prices.compute(MINUTE_MS);
        match stood {
            Stood::Cost(limit, purse) => {
                let (spent, reserved) = (purse.spent(limit.period, *at), purse.reserved);
                let told = (excess.allowed, excess.period, excess.spent, excess.reserved, excess.resets_at);
                let is = (limit.allowed, Some(limit.period), spent, reserved, limit.period.end(*at));
                self.findings.claim(told == is, || {
                    format!("position {position}: refused on account of {told:?}, and it is {is:?}")
                });
                let requested = excess.requested;
                let (asks, fits) = match need {
                    Need::Some => (requested.is_zero(), spent + reserved < limit.allowed),
                    Need::Minute => (requested == minute, spent + reserved + minute <= limit.allowed),
                    Need::Call { least, most } => {
                        ((*least..=*most).contains(&requested), spent + reserved + *least <= limit.allowed)
                    }
                };
                self.findings
                    .claim(asks, || format!("position {position}: {need:?} does not ask for {excess:?}"));
                // Of a call that was never sent, the length is known but nearly.
                let fits = fits && spent + reserved + requested <= limit.allowed;
                self.findings
                    .claim(!fits, || format!("position {position}: refused, and it fits: {excess:?}"));
            }
            Stood::Compute { minutes, compute_ms, held_ms } => {
                let used = (*compute_ms, *held_ms);
                self.figures_of_compute(pending, *minutes, used);
                let fits = compute_ms + held_ms < minutes * MINUTE_MS;
                self.findings.claim(!fits, || {
                    format!("position {position}: refused at {used:?} ms, and it fits: {excess:?}")
                });
            }
        }
    }

    /// What a refusal by the limit of compute says of it is so: in minutes, of which each six places are told.
    fn figures_of_compute(&mut self, pending: &Pending, minutes: i64, used: (i64, i64)) {
        let Pending { position, excess, .. } = pending;
        let in_ms = |told: Decimal| (told * Decimal::from(MINUTE_MS)).round().try_into().unwrap_or(i64::MIN);
        let told = (excess.allowed, (in_ms(excess.spent), in_ms(excess.reserved)));
        let rest = (excess.requested, excess.period, excess.resets_at);
        let right = told == (minutes.into(), used) && rest == (Decimal::ONE, None, None);
        self.findings.claim(right, || {
            format!(
                "position {position}: refused on account of {excess:?}, and it is {minutes} and {used:?} ms"
            )
        });
    }

    fn judge_session(&mut self, pending: &Pending) {
        let used_up = match pending.stood {
            Stood::Compute { minutes, compute_ms, held_ms } => {
                self.figures_of_compute(pending, minutes, (compute_ms, held_ms));
                compute_ms >= minutes * MINUTE_MS
            }
            Stood::Cost(..) => false,
        };
        self.findings.claim(used_up, || {
            format!("position {}: a session is not resumed: {:?}", pending.position, pending.excess)
        });
    }
}

fn counted_as(limit: &str) -> &'static str {
    match limit {
        "maxCost" => "refusals by maxCost",
        "maxAgents" => "refusals by maxAgents",
        "maxComputeMinutes" => "refusals by maxComputeMinutes",
        "userBudget" => "refusals by userBudget",
        "organizationBudget" => "refusals by organizationBudget",
        _ => "refusals by nothing known",
    }
}
