//! What is held for an agent's compute and its calls, and what they are charged, followed to the last place.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use anyhow::Context;
use rust_decimal::Decimal;

use super::asks::Asked;
use super::log::{Booking, Entry, Whose, text};
use super::prices::Model;
use super::vendor::Choice;
use super::walk::{MINUTE_MS, Walk};

/// How long a reservation may stay open once its work is dead.
pub(super) const RELEASED_MS: i64 = 60_000;
/// The bytes by which a task or an answer with what its tool gave makes the next request longer, at most, besides the
/// task's text. Those of this proof's take some 300.
const SAID: u64 = 1_000;

/// An agent.
pub(super) struct Agent {
    pub(super) model: Model,
    pub(super) max_tokens: u64,
    /// What is held for its compute, and for how long.
    pub(super) held: Decimal,
    pub(super) held_ms: i64,
    /// Since when its compute is paid for.
    pub(super) computes_from: Option<i64>,
    pauses: bool,
    /// The text of its task, and how many turns of it were answered.
    pub(super) task: Option<(String, usize)>,
    pub(super) call: Option<Call>,
    /// The bytes of its last request, and by how much the next may be longer.
    request: Option<u64>,
    said: u64,
    /// Calls that were given up: what they may have cost, and the text of their task.
    lost: BTreeMap<String, (Decimal, String)>,
}

/// A call that is open.
pub(super) struct Call {
    pub(super) id: String,
    reserved: Decimal,
    /// The text of its task, which the agent's next may follow before the call ends.
    task: String,
    /// When its server or its agent was found to be dead, by the machine's clock.
    pub(super) died_at: Option<i64>,
}

impl Agent {
    /// How many bytes a request may have that the vendor never saw: it follows the agent's last. Of its first it is known that
    /// requests begin alike.
    pub(super) fn unsent(&self, task: &str, longest: u64) -> RangeInclusive<u64> {
        follows(self.request, self.said, task, longest)
    }
}

fn follows(request: Option<u64>, said: u64, task: &str, longest: u64) -> RangeInclusive<u64> {
    task.len() as u64..=request.unwrap_or(longest) + said
}

impl Walk<'_> {
    /// Follows an agent: what is held for its compute and its calls, to the last place.
    pub(super) fn of_agent(
        &mut self,
        entry: &Entry,
        whose: &Whose,
        booking: &Booking,
        asked: Option<&Asked>,
    ) -> anyhow::Result<()> {
        if entry.is("agent.created") {
            let model = &asked.context("an agent that nobody asked for")?.wish["model"];
            let agent = Agent {
                model: self.known.prices.model(&text(model, "id")?)?,
                max_tokens: model["maxTokens"].as_u64().context("tokens")?,
                held: Decimal::ZERO,
                held_ms: 0,
                computes_from: None,
                pauses: false,
                task: None,
                call: None,
                request: None,
                said: 0,
                lost: BTreeMap::new(),
            };
            self.agents.insert(whose.agent.clone(), agent);
            self.sessions.entry(whose.session.clone()).or_default().agents.insert(whose.agent.clone());
        }
        let is_piece = matches!(&*entry.kind, "compute.ticked" | "compute.stopped");
        let was_refused = is_piece && self.piece_was_booked(whose, booking);
        let agent = self.agents.get_mut(&whose.agent).context("its agent was created")?;
        let mut wrong =
            |what: String| self.findings.violation(format!("position {}: {what}", entry.position));
        match &*entry.kind {
            "task.created" => {
                let text = asked.map(|asked| text(&asked.wish, "task")).transpose()?;
                agent.said += text.as_ref().map_or(0, String::len) as u64 + SAID;
                agent.task = text.map(|text| (text, 0));
            }
            "agent.pause_requested" | "agent.paused" => agent.pauses = true,
            "agent.resumed" => agent.pauses = false,
            "compute.started" => agent.computes_from = Some(entry.at),
            _ => {}
        }
        if entry.kind.starts_with("model.call_") {
            self.call(entry, whose, booking)?;
            return Ok(());
        }
        // What is held ahead.
        let (minute, slice_ms) = (self.known.prices.compute(MINUTE_MS), entry.data["sliceMs"].as_i64());
        let before = agent.held_ms;
        match &*entry.kind {
            "agent.created" | "agent.resumed" => {
                let slice_ms = slice_ms.unwrap_or_default();
                let expected = if slice_ms > 0 { minute } else { Decimal::ZERO };
                if booking.reserved != expected {
                    wrong(format!("{} are held for {slice_ms} ms, not {expected}", booking.reserved));
                }
                agent.held += booking.reserved;
                agent.held_ms += slice_ms;
            }
            "compute.ticked" | "compute.stopped" | "agent.terminated" | "agent.failed" => {
                if booking.released != agent.held {
                    wrong(format!("{} are released of {}: {entry:?}", booking.released, agent.held));
                }
                let slice_ms = slice_ms.unwrap_or_default();
                let expected = if slice_ms > 0 { minute } else { Decimal::ZERO };
                if booking.reserved != expected {
                    wrong(format!("{} are held for {slice_ms} ms, not {expected}", booking.reserved));
                }
                (agent.held, agent.held_ms) = (booking.reserved, slice_ms);
                self.used(entry, (whose, was_refused), booking)?;
            }
            _ if !(booking.reserved.is_zero() && booking.released.is_zero()) => {
                wrong(format!("something is held or released: {entry:?}"));
            }
            _ => {}
        }
        let (agent, session) = (&self.agents[&whose.agent], self.sessions.entry(whose.session.clone()));
        session.or_default().held_ms += agent.held_ms - before;
        Ok(())
    }

    /// Compute was charged: as long as it lasted, a minute at most, at its price. An agent that has ended is none of its
    /// session's any more.
    fn used(
        &mut self,
        entry: &Entry,
        (whose, was_refused): (&Whose, bool),
        booking: &Booking,
    ) -> anyhow::Result<()> {
        let agent = self.agents.get_mut(&whose.agent).context("its agent was created")?;
        let lasted = agent.computes_from.map_or(0, |from| (entry.at - from).clamp(0, MINUTE_MS));
        let position = entry.position;
        if matches!(&*entry.kind, "compute.ticked" | "compute.stopped") {
            let charged = booking.compute_ms;
            self.findings.claim(charged == lasted, || {
                format!("position {position}: {charged} of {lasted} ms are charged")
            });
            agent.computes_from = entry.is("compute.ticked").then_some(entry.at);
        } else {
            self.sessions.entry(whose.session.clone()).or_default().agents.remove(&whose.agent);
            let died_at = self.known.clock.machine_at(entry.at);
            if let Some(call) = &mut agent.call {
                call.died_at = call.died_at.or(Some(died_at));
            }
        }
        for (ms, cost) in &booking.of_compute {
            let right = self.known.prices.compute(*ms);
            self.findings
                .claim(right == *cost, || format!("position {position}: {ms} ms cost {cost}, not {right}"));
        }
        // It is refused the next minute only with a word, or where it pauses anyhow.
        let is_refused = entry.is("compute.ticked") && booking.reserved.is_zero();
        let told = agent.pauses || was_refused;
        self.findings
            .claim(!is_refused || told, || format!("position {position}: no next minute, and no word"));
        Ok(())
    }

    /// A call to a model begins: what is held is its worst case, and its request is what the vendor was sent.
    fn call_opened(&mut self, entry: &Entry, whose: &Whose, booking: &Booking) -> anyhow::Result<()> {
        let agent = self.agents.get_mut(&whose.agent).context("its agent was created")?;
        let (id, position) = (text(&entry.data, "callId")?, entry.position);
        let findings = &mut *self.findings;
        let (task, turn) = agent.task.clone().context("a call without a task")?;
        let bytes = entry.data["worstCase"]["input"].as_u64().unwrap_or_default();
        let worst = agent.model.worst(bytes, agent.max_tokens);
        findings.claim(booking.reserved == worst, || {
            format!("position {position}: {} are held of a worst case of {worst}", booking.reserved)
        });
        match self.known.lengths.get(&(task.clone(), turn)) {
            Some(sent) => findings.claim(sent.contains(&bytes), || {
                format!("position {position}: {bytes} bytes of input, and {sent:?} were sent")
            }),
            None => {
                let may = agent.unsent(&task, self.known.longest);
                findings.claim(may.contains(&bytes), || {
                    format!("position {position}: {bytes} bytes of input, and it must be of {may:?}")
                });
            }
        }
        (agent.request, agent.said) = (Some(bytes), 0);
        findings.claim(agent.call.is_none(), || format!("position {position}: two calls at once"));
        agent.call = Some(Call { id, reserved: booking.reserved, task, died_at: None });
        Ok(())
    }

    /// A call to a model begins, ends, or is reconciled.
    fn call(&mut self, entry: &Entry, whose: &Whose, booking: &Booking) -> anyhow::Result<()> {
        let agent = self.agents.get_mut(&whose.agent).context("its agent was created")?;
        let (id, position) = (text(&entry.data, "callId")?, entry.position);
        let findings = &mut *self.findings;
        if entry.is("model.call_opened") {
            return self.call_opened(entry, whose, booking);
        }
        if entry.is("model.call_reconciled") {
            // Its answer came when it had been given up already.
            let known = agent.lost.remove(&id);
            let choice = known.as_ref().and_then(|(_, task)| Choice::of(task));
            let used = choice.map_or(Decimal::ZERO, |choice| agent.model.cost(choice.input, choice.output));
            let withdrawn: Decimal = booking.withdrawn.iter().map(|charge| charge.cost).sum();
            let shown = (withdrawn, booking.of_model, booking.unconfirmed, booking.released);
            let right = known.is_some_and(|(may, _)| shown == (may, used, Decimal::ZERO, Decimal::ZERO));
            findings.claim(right, || format!("position {position}: {id} used {used}, and not {shown:?}"));
            findings.did("lost calls whose answers came", 1);
            return Ok(());
        }
        let Some(call) = agent.call.take_if(|call| call.id == id) else {
            findings.violation(format!("position {position}: a call ends that is not open: {id}"));
            return Ok(());
        };
        findings.claim(booking.released == call.reserved, || {
            format!("position {position}: {} are released of {}", booking.released, call.reserved)
        });
        let settled = entry.is("model.call_settled");
        let choice = Choice::of(&call.task);
        let used = choice.map_or(Decimal::ZERO, |choice| agent.model.cost(choice.input, choice.output));
        let expected = match (settled, entry.is("model.call_lost")) {
            (true, _) => (used, Decimal::ZERO),
            (_, true) => (Decimal::ZERO, call.reserved),
            _ => (Decimal::ZERO, Decimal::ZERO),
        };
        let charged = (booking.of_model, booking.unconfirmed);
        findings.claim(charged == expected, || {
            format!("position {position}: {} cost {charged:?}, and must {expected:?}", entry.kind)
        });
        if let Some((_, turn)) = agent.task.as_mut().filter(|(task, _)| settled && *task == call.task) {
            *turn += 1;
        }
        agent.said += if settled { SAID } else { 0 };
        findings.did("calls", 1);
        if entry.is("model.call_lost") {
            findings.did("calls lost", 1);
            agent.lost.insert(call.id, (call.reserved, call.task));
        }
        if let Some(died_at) = call.died_at {
            let after = self.known.clock.machine_at(entry.at) - died_at;
            let longest = findings.work.entry("ms until the slowest dead call was closed").or_default();
            *longest = (*longest).max(u64::try_from(after).unwrap_or_default());
            findings.claim(after <= RELEASED_MS, || {
                format!("position {position}: {id} was held for {after} ms after its work had died")
            });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Seed 10948357398709129541: two refusals of one agent, whose last request had been the longest that was ever sent.
    #[test]
    fn the_request_behind_the_longest_that_was_sent_may_be_longer() {
        let task = "Task 1-2-3-4 of 10 20 1 30";
        let said = task.len() as u64 + SAID;
        assert!(follows(Some(7_000), said, task, 7_000).contains(&7_300));
        assert!(!follows(Some(700), said, task, 7_000).contains(&7_000), "it follows its agent's own");
        assert!(follows(None, said, task, 7_000).contains(&500));
    }
}
