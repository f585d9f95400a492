//! The log is walked event by event, by sums of the proof's own; each event that starts work is held against them.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Context;
use rust_decimal::Decimal;
use serde_json::Value;

use super::agents::Agent;
use super::asks::{Asked, Asks};
use super::clock::Clock;
use super::harm::Kill;
use super::log::{Booking, Entry, Whose, text};
use super::prices::Prices;
use super::refusals::Pending;
use super::sums::{Limit, Period, Purse};
use crate::prove::Findings;

/// A piece of compute that is held and charged at a time, at most.
pub(super) const MINUTE_MS: i64 = 60_000;

/// A session.
#[derive(Default)]
pub(super) struct Session {
    pub(super) purse: Purse,
    pub(super) max_agents: Option<i64>,
    pub(super) max_minutes: Option<i64>,
    /// Those that have neither ended nor failed.
    pub(super) agents: BTreeSet<String>,
    pub(super) compute_ms: i64,
    pub(super) held_ms: i64,
}

/// What happened under an idempotency key.
#[derive(Debug)]
pub(super) struct Happened {
    pub(super) kind: String,
    /// The task, what was refused, and because of which limit, where it tells.
    pub(super) task: String,
    pub(super) work: String,
    pub(super) limit: String,
}

/// What the log is held against.
pub(super) struct Known<'a> {
    pub(super) asks: &'a Asks,
    pub(super) prices: &'a Prices,
    pub(super) lengths: &'a BTreeMap<(String, usize), BTreeSet<u64>>,
    /// The longest of all requests to models.
    pub(super) longest: u64,
    pub(super) clock: &'a Clock,
    pub(super) kills: &'a [Kill],
}

/// Where the walk stands.
pub(super) struct Walk<'a> {
    pub(super) known: Known<'a>,
    pub(super) findings: &'a mut Findings,
    pub(super) sessions: BTreeMap<String, Session>,
    pub(super) agents: BTreeMap<String, Agent>,
    pub(super) users: BTreeMap<String, Purse>,
    pub(super) organization: Purse,
    /// The server's ids of end users, by the client's.
    people: BTreeMap<String, String>,
    /// Refusals of a next minute, until the piece before it is booked.
    pub(super) pending: BTreeMap<String, Pending>,
    /// Limits and budgets that were passed, less those that were told to be.
    overruns: i64,
    /// What happened under each idempotency key.
    pub(super) happened: BTreeMap<String, Vec<Happened>>,
    killed: usize,
    last_at: Option<i64>,
}

impl<'a> Walk<'a> {
    pub(super) fn new(known: Known<'a>, findings: &'a mut Findings) -> Self {
        Self {
            known,
            findings,
            sessions: BTreeMap::new(),
            agents: BTreeMap::new(),
            users: BTreeMap::new(),
            organization: Purse::default(),
            people: BTreeMap::new(),
            pending: BTreeMap::new(),
            overruns: 0,
            happened: BTreeMap::new(),
            killed: 0,
            last_at: None,
        }
    }

    /// Takes the next event in.
    pub(super) fn step(&mut self, entry: Entry) -> anyhow::Result<()> {
        self.findings.did("events checked", 1);
        self.kills_before(entry.position);
        self.edges(entry.at);
        let whose = entry.whose()?;
        let booking = entry.booking()?;
        let asked = entry.key.as_ref().and_then(|key| Some(&self.known.asks.get(key)?.what));
        match &*entry.kind {
            "session.created" => self.session_created(&entry, asked)?,
            "session.limits_changed" => self.limits_changed(&entry, asked)?,
            "budget.set" | "budget.removed" => self.budget(&entry, asked)?,
            "limit.refused" | "agent.limit_reached" => self.refused(&entry, whose.as_ref())?,
            "session.limit_overrun" | "budget.overrun" => {
                self.overruns -= 1;
                self.findings.did("overruns", 1);
            }
            _ => {}
        }
        if let Some(whose) = &whose {
            self.of_agent(&entry, whose, &booking, asked)?;
            self.book(&entry, whose, &booking);
        }
        if let Some(key) = entry.key.clone() {
            let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let happened = Happened {
                task: word(&entry.data["taskId"]),
                work: word(&entry.data["work"]),
                limit: word(&entry.data["excess"]["limit"]),
                kind: entry.kind,
            };
            self.happened.entry(key).or_default().push(happened);
        } else {
            let is_asked = ["limit.refused", "task.created", "agent.created", "session.limits_changed"];
            self.findings.claim(!is_asked.contains(&&*entry.kind), || format!("nobody asked for {entry:?}"));
        }
        Ok(())
    }

    /// Nothing is left when all has ended.
    pub(super) fn end(&mut self) {
        self.kills_before(i64::MAX);
        let purses = self.sessions.iter().map(|(id, session)| (id, &session.purse)).chain(&self.users);
        let held: Vec<_> = purses.filter(|(_, purse)| !purse.reserved.is_zero()).collect();
        for (id, purse) in held {
            self.findings.violation(format!("{id}: {} are held at the end", purse.reserved));
        }
        for (id, agent) in &self.agents {
            let open = agent.call.as_ref().map(|call| &call.id);
            let is_over = open.is_none() && agent.held.is_zero();
            self.findings.claim(is_over, || format!("{id} holds {} at the end, and {open:?}", agent.held));
        }
        let overruns = self.overruns;
        self.findings.claim(overruns == 0, || format!("{overruns} overruns more than were told"));
    }

    /// Marks the calls that were open on servers that were killed before this position.
    fn kills_before(&mut self, position: i64) {
        while let Some(kill) = self.known.kills.get(self.killed).filter(|kill| kill.head < position) {
            self.killed += 1;
            for id in &kill.agents {
                let call = self.agents.get_mut(id).and_then(|agent| agent.call.as_mut());
                if let Some(call) = call.filter(|call| call.died_at.is_none()) {
                    call.died_at = Some(kill.at);
                    self.findings.did("calls that a kill met", 1);
                }
            }
        }
    }

    /// Counts the edges that events lie close to on both sides.
    fn edges(&mut self, at: i64) {
        if let Some(before) = self.last_at.replace(at) {
            let near = at - before < MINUTE_MS;
            let crossed = |period: Period| u64::from(near && !period.has_both(before, at));
            self.findings.did("edges of days", crossed(Period::Day));
            self.findings.did("edges of months", crossed(Period::Month));
            self.findings.claim(before <= at, || format!("{at} comes after {before}"));
        }
    }

    fn session_created(&mut self, entry: &Entry, asked: Option<&Asked>) -> anyhow::Result<()> {
        let asked = asked.context("a session that nobody asked for")?;
        let session = text(&entry.data, "sessionId")?;
        let user = text(&entry.data, "userId")?;
        let known = self.people.entry(asked.about.clone()).or_insert_with(|| user.clone());
        let same = *known == user;
        self.findings.claim(same, || format!("{} is another user: {user}", asked.about));
        self.set_limits(session, &asked.wish["limits"], entry)
    }

    fn limits_changed(&mut self, entry: &Entry, asked: Option<&Asked>) -> anyhow::Result<()> {
        let asked = asked.context("limits that nobody asked for")?;
        let session = text(&entry.data, "sessionId")?;
        self.findings.claim(session == asked.about, || format!("limits of another session: {entry:?}"));
        self.set_limits(session, &asked.wish, entry)
    }

    /// The limits are those that the client asked for, and the log says so.
    fn set_limits(&mut self, id: String, wish: &Value, entry: &Entry) -> anyhow::Result<()> {
        let mut wished = wish.as_object().cloned().unwrap_or_default();
        wished.retain(|_, limit| !limit.is_null());
        let told = entry.data["limits"].as_object().cloned().unwrap_or_default();
        self.findings.claim(told == wished, || format!("limits of {wished:?} were set as {told:?}"));
        let session = self.sessions.entry(id).or_default();
        session.purse.limit = wished.get("maxCost").map(limit).transpose()?;
        session.max_agents = wished.get("maxAgents").and_then(Value::as_i64);
        session.max_minutes = wished.get("maxComputeMinutes").and_then(Value::as_i64);
        Ok(())
    }

    fn budget(&mut self, entry: &Entry, asked: Option<&Asked>) -> anyhow::Result<()> {
        let Asked { about, wish, .. } = asked.context("a budget that nobody asked for")?;
        let told = &entry.data["budget"];
        let right = if wish["amount"].is_null() {
            entry.is("budget.removed")
        } else {
            let named = ["amount", "currency", "period"].iter().all(|name| told["limit"][name] == wish[name]);
            named && told["action"] == wish["action"]
        };
        self.findings.claim(right, || format!("a budget of {wish} was set as {told}"));
        let blocks = !wish["amount"].is_null() && wish["action"] == "block";
        let limit = if blocks { Some(limit(wish)?) } else { None };
        if about.is_empty() {
            self.organization.limit = limit;
        } else {
            let user = text(&entry.data, "userId")?;
            let known = self.people.entry(about.clone()).or_insert_with(|| user.clone());
            let same = *known == user;
            self.findings.claim(same, || format!("the budget of {about} is another user's: {user}"));
            self.users.entry(user).or_default().limit = limit;
        }
        Ok(())
    }

    /// Takes in what an event books, and holds it against all limits where it starts work.
    fn book(&mut self, entry: &Entry, whose: &Whose, booking: &Booking) {
        let session = self.sessions.entry(whose.session.clone()).or_default();
        let past_minutes = |session: &Session| {
            session.max_minutes.is_some_and(|minutes| session.compute_ms > minutes * MINUTE_MS)
        };
        let was_past = past_minutes(session);
        session.compute_ms += booking.compute_ms;
        if !was_past && past_minutes(session) {
            self.overruns += 1;
            self.findings.did("sessions that used more compute than was held", 1);
        }
        let user = self.users.entry(whose.user.clone()).or_default();
        let holds = !booking.reserved.is_zero();
        let begins = entry.is("task.created");
        let mut limited = false;
        for (name, purse) in
            [("session", &mut session.purse), ("user", user), ("organization", &mut self.organization)]
        {
            let was_past = purse.is_past(entry.at);
            purse.reserved += booking.reserved - booking.released;
            booking.charges.iter().for_each(|charge| purse.charge(charge));
            booking.withdrawn.iter().for_each(|charge| purse.withdraw(charge));
            self.overruns += i64::from(!was_past && purse.is_past(entry.at));
            let Some(limit) = purse.limit.filter(|_| holds || begins) else { continue };
            limited = true;
            let taken = purse.taken(limit, entry.at);
            // Of a run it is not known yet how much it will need: something.
            let fits = if begins { taken < limit.allowed } else { taken <= limit.allowed };
            if fits && limit.period != Period::Session && purse.taken_ever() > limit.allowed {
                self.findings.did("starts that fit only since a period began", 1);
            }
            self.findings.claim(fits, || {
                let (position, kind, allowed) = (entry.position, &entry.kind, limit.allowed);
                format!("position {position}, {kind}: {taken} of {allowed} are taken in the {name}'s limit")
            });
        }
        let slice_ms = entry.data["sliceMs"].as_i64().unwrap_or_default();
        if let Some(minutes) = session.max_minutes.filter(|_| holds && slice_ms > 0) {
            limited = true;
            let (taken, allowed) = (session.compute_ms + session.held_ms, minutes * MINUTE_MS);
            self.findings.claim(taken <= allowed, || {
                format!("position {}, {}: {taken} ms of {allowed} are taken", entry.position, entry.kind)
            });
        }
        if let Some(most) = session.max_agents.filter(|_| entry.is("agent.created")) {
            let live = session.agents.len() as i64;
            self.findings
                .claim(live <= most, || format!("position {}: {live} agents of {most}", entry.position));
        }
        if limited && holds {
            self.findings.done += 1;
            let name = match &*entry.kind {
                "compute.ticked" => "next minutes of compute started",
                "model.call_opened" => "calls started",
                "agent.created" => "agents started",
                _ => "agents resumed",
            };
            self.findings.did(name, 1);
        }
    }
}

fn limit(told: &Value) -> anyhow::Result<Limit> {
    let allowed = Decimal::new(told["amount"].as_i64().context("cents")?, 2);
    let period = told["period"].as_str().and_then(Period::of).context("a period")?;
    Ok(Limit { allowed, period })
}
