//! Sums of the ledger's lines by periods of UTC: what the views of usage and billing read.
//!
//! Totals are kept by category and model at every grain, since they are few. What is kept for each user is coarse;
//! what happened within a day is kept once, for agent, session and user together. A session that was created counts in
//! the totals and for its user; finer than that, the listing of sessions tells when each was.

use theazo_domain::Event;
use theazo_domain::id::UserId;
use theazo_domain::time::Timestamp;

use super::{Line, Measures, lines};
use crate::grain::Grain;
use crate::table::text;
use crate::{Changes, Column, Happened, Projection, Table, Value};

/// A row for each period, category and model. Sessions and agents that were created count in the row of neither.
pub(crate) struct Totals;
/// A row for each period and user.
pub(crate) struct ByUser;
/// A row for each period and agent, with its session and user.
pub(crate) struct ByAgent;

/// The grains of the totals.
pub const GRAINS: [Grain; 4] = [Grain::Month, Grain::Day, Grain::Hour, Grain::Minute];
/// The grains of what is told by agent: a day may have a row for each of them, so as few days as can be are read.
pub const AGENT_GRAINS: [Grain; 5] = [Grain::Month, Grain::TenDays, Grain::Day, Grain::Hour, Grain::Minute];
/// The grains of what is told by user; finer ones are summed up from the agents'.
pub const USER_GRAINS: [Grain; 3] = [Grain::Month, Grain::TenDays, Grain::Day];

static TOTALS: Table = Table {
    name: "usage_totals",
    key: &[Column::text("grain"), Column::time("start"), Column::text("category"), Column::text("model")],
    columns: &[
        Column::decimal("cost"),
        Column::decimal("unconfirmed"),
        Column::decimal("gb_hours"),
        Column::integer("entries"),
        Column::integer("calls"),
        Column::integer("input_tokens"),
        Column::integer("output_tokens"),
        Column::integer("cache_read_tokens"),
        Column::integer("cache_write_tokens"),
        Column::integer("compute_ms"),
        Column::integer("orchestration_ms"),
        Column::integer("unrated_calls"),
        Column::integer("unrated_input_tokens"),
        Column::integer("unrated_output_tokens"),
        Column::integer("sessions"),
        Column::integer("agents"),
    ],
};

static BY_USER: Table = Table {
    name: "usage_by_user",
    key: &[Column::text("grain"), Column::time("start"), Column::text("user_id")],
    columns: &[
        Column::decimal("cost"),
        Column::integer("entries"),
        Column::integer("sessions"),
        Column::integer("agents"),
    ],
};

static BY_AGENT: Table = Table {
    name: "usage_by_agent",
    key: &[
        Column::text("grain"),
        Column::time("start"),
        Column::text("user_id"),
        Column::text("session_id"),
        Column::text("agent_id"),
    ],
    columns: &[Column::decimal("cost"), Column::integer("entries"), Column::integer("agents")],
};

/// The beginning of a key: the grain, and when the period began.
fn period(grain: Grain, at: Timestamp) -> Vec<Value> {
    vec![text(grain.as_str()), Value::Time(grain.floor(at))]
}

/// What a session that was created adds to the sums.
fn a_session() -> Measures {
    Measures { sessions: 1, ..Measures::default() }
}

impl Projection for Totals {
    fn table(&self) -> &'static Table {
        &TOTALS
    }

    fn version(&self) -> i32 {
        1
    }

    fn fold(&self, happened: &Happened<'_>, changes: &mut Changes) {
        for line in lines(happened) {
            let category = line.category.map_or("", |category| category.as_str());
            add_totals(line.at, (category, line.model.unwrap_or_default()), &line.measures(), changes);
        }
        if matches!(happened.event, Event::SessionCreated(_)) {
            add_totals(happened.at, ("", ""), &a_session(), changes);
        }
    }
}

fn add_totals(at: Timestamp, (category, model): (&str, &str), sums: &Measures, changes: &mut Changes) {
    for grain in GRAINS {
        let mut key = period(grain, at);
        key.extend([text(category), text(model)]);
        // Every column each time, so that one statement adds to all rows of a batch.
        changes.add(&TOTALS, key, all(sums));
    }
}

fn all(sums: &Measures) -> [(&'static str, Value); 16] {
    [
        ("cost", Value::Decimal(sums.cost)),
        ("unconfirmed", Value::Decimal(sums.unconfirmed)),
        ("gb_hours", Value::Decimal(sums.gb_hours)),
        ("entries", Value::Integer(sums.entries)),
        ("calls", Value::Integer(sums.calls)),
        ("input_tokens", Value::Integer(sums.input_tokens)),
        ("output_tokens", Value::Integer(sums.output_tokens)),
        ("cache_read_tokens", Value::Integer(sums.cache_read_tokens)),
        ("cache_write_tokens", Value::Integer(sums.cache_write_tokens)),
        ("compute_ms", Value::Integer(sums.compute_ms)),
        ("orchestration_ms", Value::Integer(sums.orchestration_ms)),
        ("unrated_calls", Value::Integer(sums.unrated_calls)),
        ("unrated_input_tokens", Value::Integer(sums.unrated_input_tokens)),
        ("unrated_output_tokens", Value::Integer(sums.unrated_output_tokens)),
        ("sessions", Value::Integer(sums.sessions)),
        ("agents", Value::Integer(sums.agents)),
    ]
}

impl Projection for ByUser {
    fn table(&self) -> &'static Table {
        &BY_USER
    }

    fn version(&self) -> i32 {
        1
    }

    fn fold(&self, happened: &Happened<'_>, changes: &mut Changes) {
        for line in lines(happened) {
            add_to_user(line.at, line.user_id, &line.measures(), changes);
        }
        if let Event::SessionCreated(session) = happened.event {
            add_to_user(happened.at, session.user_id, &a_session(), changes);
        }
    }
}

fn add_to_user(at: Timestamp, user_id: UserId, sums: &Measures, changes: &mut Changes) {
    if sums.entries == 0 && sums.sessions == 0 && sums.agents == 0 {
        return;
    }
    for grain in USER_GRAINS {
        let mut key = period(grain, at);
        key.push(text(user_id));
        let sums = [
            ("cost", Value::Decimal(sums.cost)),
            ("entries", Value::Integer(sums.entries)),
            ("sessions", Value::Integer(sums.sessions)),
            ("agents", Value::Integer(sums.agents)),
        ];
        changes.add(&BY_USER, key, sums);
    }
}

impl Projection for ByAgent {
    fn table(&self) -> &'static Table {
        &BY_AGENT
    }

    fn version(&self) -> i32 {
        3
    }

    fn fold(&self, happened: &Happened<'_>, changes: &mut Changes) {
        for line in lines(happened) {
            let sums = line.measures();
            if sums.entries == 0 && sums.agents == 0 {
                continue;
            }
            for grain in AGENT_GRAINS {
                let sums = [
                    ("cost", Value::Decimal(sums.cost)),
                    ("entries", Value::Integer(sums.entries)),
                    ("agents", Value::Integer(sums.agents)),
                ];
                changes.add(&BY_AGENT, agent_key(grain, &line), sums);
            }
        }
    }
}

fn agent_key(grain: Grain, line: &Line<'_>) -> Vec<Value> {
    let mut key = period(grain, line.at);
    let agent_id = line.agent_id.map(|agent_id| agent_id.to_string()).unwrap_or_default();
    key.extend([text(line.user_id), text(line.session_id), Value::Text(agent_id)]);
    key
}
