//! What each session has used: the sums that its limits are held against.

use theazo_domain::Event;
use theazo_domain::charge::Booking;

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
    ],
};

impl Projection for SessionUsage {
    fn table(&self) -> &'static Table {
        &TABLE
    }

    fn version(&self) -> i32 {
        2
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
