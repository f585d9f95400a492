//! What each session has used: the sums that its limits are held against.

use theazo_domain::Event;
use theazo_domain::charge::{Booking, Charge, Line};

use crate::ledger::{Measures, lines};
use crate::table::text;
use crate::{Changes, Column, Happened, Projection, Table, Value};

/// A row a session, from the first agent on: one without a row has used nothing.
pub(crate) struct SessionUsage;

static TABLE: Table = Table {
    name: "session_usage",
    key: &[Column::text("session_id")],
    columns: &[
        // In units of the currency (US dollars), exact.
        Column::decimal("cost"),
        Column::decimal("reserved"),
        Column::decimal("unconfirmed"),
        Column::integer("compute_ms"),
        Column::integer("active_agents"),
        Column::integer("agents_created"),
        Column::integer("model_calls"),
        // Of these, what has no price yet.
        Column::integer("unrated_calls"),
        Column::integer("unrated_input_tokens"),
        Column::integer("unrated_output_tokens"),
    ],
};

impl Projection for SessionUsage {
    fn table(&self) -> &'static Table {
        &TABLE
    }

    fn version(&self) -> i32 {
        3
    }

    fn fold(&self, happened: &Happened<'_>, changes: &mut Changes) {
        let Some(place) = happened.event.place() else { return };
        let mut sums: Vec<(&'static str, Value)> = vec![];
        match happened.event {
            Event::AgentCreated(_) => {
                sums.extend([("active_agents", Value::Integer(1)), ("agents_created", Value::Integer(1))]);
            }
            Event::AgentTerminated(_) | Event::AgentFailed(_) => {
                sums.push(("active_agents", Value::Integer(-1)))
            }
            // A call that was lost was made all the same.
            Event::CallSettled(_) | Event::CallLost(_) => sums.push(("model_calls", Value::Integer(1))),
            _ => {}
        }
        if let Some(booked) = happened.event.booked() {
            sums.extend(money(booked.booking));
            sums.extend(unrated(booked.booking, happened));
        }
        if !sums.is_empty() {
            changes.add(&TABLE, vec![text(place.session_id)], sums);
        }
    }
}

/// What a booking adds to the sums, without those that it leaves alone.
fn money(booking: &Booking) -> Vec<(&'static str, Value)> {
    let reserved = booking.reserved - booking.released;
    let amounts =
        [("cost", booking.cost()), ("reserved", reserved), ("unconfirmed", booking.unconfirmed_cost())];
    let compute_ms = booking.compute_ms();
    let moved = amounts.into_iter().filter(|(_, amount)| !amount.is_zero());
    let mut sums: Vec<_> = moved.map(|(column, amount)| (column, Value::Decimal(amount))).collect();
    if compute_ms != 0 {
        sums.push(("compute_ms", Value::Integer(compute_ms)));
    }
    sums
}

/// What a booking adds to usage that has no price, or takes away from it.
fn unrated(booking: &Booking, happened: &Happened<'_>) -> Vec<(&'static str, Value)> {
    let concerns = |charge: &Charge| charge.is_unrated() || matches!(charge.line, Line::Rating { .. });
    if !booking.charges.iter().any(concerns) {
        return vec![];
    }
    let measures = lines(happened).iter().fold(Measures::default(), |sums, line| sums.plus(&line.measures()));
    vec![
        ("unrated_calls", Value::Integer(measures.unrated_calls)),
        ("unrated_input_tokens", Value::Integer(measures.unrated_input_tokens)),
        ("unrated_output_tokens", Value::Integer(measures.unrated_output_tokens)),
    ]
}
