//! What an event adds to the ledger, and what a line adds to the sums.

use rust_decimal::Decimal;
use rust_decimal::prelude::ToPrimitive;
use theazo_domain::Event;
use theazo_domain::charge::{self, Booked, Category, Charge, Unit};
use theazo_domain::id::{AgentId, SessionId, TaskId, UserId};
use theazo_domain::time::Timestamp;

use crate::Happened;

/// What a line of the ledger is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LineKind {
    /// Something that was used, settled.
    Usage,
    /// The price of something that had none when it was used.
    Rating,
    /// A credit or a correction.
    Adjustment,
    /// Something that may have been used.
    Unconfirmed,
    /// Something unconfirmed that is so no more.
    Withdrawn,
    /// A call to a model that has no charge of its own.
    Call,
    /// Usage that was unrated and is so no more, when it was used.
    Rated,
    /// An agent was created.
    Agent,
}

impl LineKind {
    /// The kinds that are charges, and stand on a bill.
    pub const ENTRIES: [Self; 3] = [Self::Usage, Self::Rating, Self::Adjustment];

    /// The kind as it is written in the table.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Usage => "usage",
            Self::Rating => "rating",
            Self::Adjustment => "adjustment",
            Self::Unconfirmed => "unconfirmed",
            Self::Withdrawn => "withdrawn",
            Self::Call => "call",
            Self::Rated => "rated",
            Self::Agent => "agent",
        }
    }
}

/// A line of the ledger.
#[derive(Debug, Clone, Copy)]
pub struct Line<'a> {
    /// When it counts.
    pub at: Timestamp,
    /// What it is about.
    pub kind: LineKind,
    /// What kind of thing was used, where something was.
    pub category: Option<Category>,
    /// Whose it is.
    pub user_id: UserId,
    /// In which session.
    pub session_id: SessionId,
    /// By which agent, where it is one's.
    pub agent_id: Option<AgentId>,
    /// For which task, where it is for one.
    pub task_id: Option<TaskId>,
    /// With which model, where it is of one.
    pub model: Option<&'a str>,
    /// The charge that it tells, where it tells one.
    pub charge: Option<&'a Charge>,
    /// How much; below nothing where it is taken off what was unrated.
    pub quantity: Decimal,
    /// In units of the currency.
    pub cost: Decimal,
    /// Calls to a model that it counts.
    pub calls: i64,
    /// Calls to a model that are unrated from it on; below nothing where they are so no more.
    pub unrated_calls: i64,
}

/// The lines that an event adds, its settled charges first and in their order, so that a line's place is that of its
/// charge.
#[must_use]
pub fn lines<'a>(happened: &Happened<'a>) -> Vec<Line<'a>> {
    let event = happened.event;
    let mut lines = event.booked().map(|booked| of_booking(&booked, happened)).unwrap_or_default();
    if let Event::AgentCreated(created) = event {
        let place = created.place;
        let whose = (place.user_id, place.session_id);
        lines.push(bare_line(LineKind::Agent, whose, Some(place.agent_id), happened));
    }
    lines
}

fn bare_line<'a>(
    kind: LineKind,
    (user_id, session_id): (UserId, SessionId),
    agent_id: Option<AgentId>,
    happened: &Happened<'_>,
) -> Line<'a> {
    Line {
        at: happened.at,
        kind,
        category: None,
        user_id,
        session_id,
        agent_id,
        task_id: None,
        model: None,
        charge: None,
        quantity: Decimal::ZERO,
        cost: Decimal::ZERO,
        calls: 0,
        unrated_calls: 0,
    }
}

fn of_booking<'a>(booked: &Booked<'a>, happened: &Happened<'_>) -> Vec<Line<'a>> {
    let booking = booked.booking;
    let line = |kind: LineKind, charge: &'a Charge| {
        let whose = (booked.place.user_id, booked.place.session_id);
        let agent_id = Some(booked.place.agent_id);
        Line {
            at: charge.at,
            category: Some(charge.category),
            task_id: booked.task_id,
            model: booked.model,
            charge: Some(charge),
            quantity: charge.quantity,
            cost: charge.cost,
            ..bare_line(kind, whose, agent_id, happened)
        }
    };
    let kind = |charge: &Charge| match charge.line {
        charge::Line::Usage => LineKind::Usage,
        charge::Line::Rating { .. } => LineKind::Rating,
        charge::Line::Adjustment { .. } => LineKind::Adjustment,
    };
    let mut lines: Vec<Line<'a>> = booking.charges.iter().map(|charge| line(kind(charge), charge)).collect();
    lines.extend(booking.unconfirmed.iter().map(|charge| line(LineKind::Unconfirmed, charge)));
    lines.extend(booking.withdrawn.iter().map(|charge| line(LineKind::Withdrawn, charge)));
    for charge in &booking.charges {
        if let charge::Line::Rating { used_at, calls } = charge.line {
            let (quantity, unrated_calls) = (-charge.quantity, -i64::from(calls));
            let cost = Decimal::ZERO;
            let rated = line(LineKind::Rated, charge);
            lines.push(Line { at: used_at, quantity, cost, unrated_calls, ..rated });
        }
    }
    // One of a call's lines counts the call. A call that was lost was made all the same.
    if matches!(happened.event, Event::CallSettled(_) | Event::CallLost(_)) {
        let used = |kind| matches!(kind, LineKind::Usage | LineKind::Unconfirmed);
        let of_model = |line: &&mut Line<'_>| used(line.kind) && line.category == Some(Category::Model);
        match lines.iter_mut().find(of_model) {
            Some(first) => first.calls = 1,
            None => {
                let whose = (booked.place.user_id, booked.place.session_id);
                let call = bare_line(LineKind::Call, whose, Some(booked.place.agent_id), happened);
                let (category, task_id, model) = (Some(Category::Model), booked.task_id, booked.model);
                lines.push(Line { category, task_id, model, calls: 1, ..call });
            }
        }
    }
    if let Some(first) = lines.iter_mut().find(|line| line.is_unrated()) {
        first.unrated_calls = 1;
    }
    lines
}

impl Line<'_> {
    /// Whether it is usage of a model that had no price.
    fn is_unrated(&self) -> bool {
        let unpriced = self.charge.is_some_and(|charge| charge.price.is_none());
        self.kind == LineKind::Usage && self.category == Some(Category::Model) && unpriced
    }

    /// What it adds to the sums.
    #[must_use]
    pub fn measures(&self) -> Measures {
        let mut sums = Measures {
            calls: self.calls,
            unrated_calls: self.unrated_calls,
            agents: (self.kind == LineKind::Agent).into(),
            ..Measures::default()
        };
        match self.kind {
            LineKind::Usage => self.used(&mut sums),
            LineKind::Rating | LineKind::Adjustment => {}
            LineKind::Unconfirmed => sums.unconfirmed = self.cost,
            LineKind::Withdrawn => sums.unconfirmed = -self.cost,
            LineKind::Rated => self.unrated(&mut sums),
            LineKind::Call | LineKind::Agent => {}
        }
        if LineKind::ENTRIES.contains(&self.kind) {
            sums.entries = 1;
            sums.cost = self.cost;
        }
        sums
    }

    fn used(&self, sums: &mut Measures) {
        let whole = self.quantity.to_i64().unwrap_or_default();
        match (self.charge.map(|charge| charge.unit), self.category) {
            (Some(Unit::InputToken), _) => sums.input_tokens = whole,
            (Some(Unit::OutputToken), _) => sums.output_tokens = whole,
            (Some(Unit::CacheReadToken), _) => sums.cache_read_tokens = whole,
            (Some(Unit::CacheWriteToken), _) => sums.cache_write_tokens = whole,
            (Some(Unit::Millisecond), Some(Category::Compute)) => sums.compute_ms = whole,
            (Some(Unit::Millisecond), _) => sums.orchestration_ms = whole,
            (Some(Unit::GbHour), _) => sums.gb_hours = self.quantity,
            (None, _) => {}
        }
        if self.is_unrated() {
            self.unrated(sums);
        }
    }

    fn unrated(&self, sums: &mut Measures) {
        let whole = self.quantity.to_i64().unwrap_or_default();
        match self.charge.map(|charge| charge.unit) {
            Some(Unit::OutputToken) => sums.unrated_output_tokens = whole,
            Some(Unit::InputToken | Unit::CacheReadToken | Unit::CacheWriteToken) => {
                sums.unrated_input_tokens = whole;
            }
            _ => {}
        }
    }
}

/// What lines add up to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Measures {
    /// Settled charges, in units of the currency.
    pub cost: Decimal,
    /// Charges that are unconfirmed.
    pub unconfirmed: Decimal,
    /// 10^9 bytes kept for an hour.
    pub gb_hours: Decimal,
    /// How many charges were settled.
    pub entries: i64,
    /// Calls to models, lost ones too.
    pub calls: i64,
    /// Tokens of input that no cache had to do with.
    pub input_tokens: i64,
    /// Tokens of output.
    pub output_tokens: i64,
    /// Tokens of input that came from a cache.
    pub cache_read_tokens: i64,
    /// Tokens of input that went to a cache.
    pub cache_write_tokens: i64,
    /// Milliseconds of sandboxes.
    pub compute_ms: i64,
    /// Milliseconds of the control plane's own work.
    pub orchestration_ms: i64,
    /// Calls to models that have no price yet.
    pub unrated_calls: i64,
    /// Their tokens of input, those of caches too.
    pub unrated_input_tokens: i64,
    /// Their tokens of output.
    pub unrated_output_tokens: i64,
    /// Sessions that were created.
    pub sessions: i64,
    /// Agents that were created.
    pub agents: i64,
}

impl Measures {
    /// The sums of both.
    #[must_use]
    pub fn plus(&self, other: &Self) -> Self {
        Self {
            cost: self.cost + other.cost,
            unconfirmed: self.unconfirmed + other.unconfirmed,
            gb_hours: self.gb_hours + other.gb_hours,
            entries: self.entries + other.entries,
            calls: self.calls + other.calls,
            input_tokens: self.input_tokens + other.input_tokens,
            output_tokens: self.output_tokens + other.output_tokens,
            cache_read_tokens: self.cache_read_tokens + other.cache_read_tokens,
            cache_write_tokens: self.cache_write_tokens + other.cache_write_tokens,
            compute_ms: self.compute_ms + other.compute_ms,
            orchestration_ms: self.orchestration_ms + other.orchestration_ms,
            unrated_calls: self.unrated_calls + other.unrated_calls,
            unrated_input_tokens: self.unrated_input_tokens + other.unrated_input_tokens,
            unrated_output_tokens: self.unrated_output_tokens + other.unrated_output_tokens,
            sessions: self.sessions + other.sessions,
            agents: self.agents + other.agents,
        }
    }
}
