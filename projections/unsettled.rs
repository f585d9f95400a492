//! What is still to become known of money: calls whose usage is unconfirmed, and agents with usage that has no price.

use rust_decimal::Decimal;
use rust_decimal::prelude::ToPrimitive;
use theazo_domain::Event;
use theazo_domain::agent::{CallLost, CallSettled};
use theazo_domain::charge::{Booking, Charge, Place, Unit};
use theazo_domain::id::{CallId, TaskId};

use crate::table::{optional, text};
use crate::{Changes, Column, Happened, Projection, Table, Value};

/// A row a call, until it is reconciled.
pub(crate) struct UnconfirmedCalls;

static UNCONFIRMED: Table = Table {
    name: "unconfirmed_calls",
    key: &[Column::text("call_id")],
    columns: &[
        Column::text("agent_id"),
        Column::text("session_id"),
        Column::text("user_id"),
        Column::text("task_id"),
        Column::text("model"),
        // What it may have cost at most, in units of the currency.
        Column::decimal("cost"),
        Column::text("reason"),
        Column::text("vendor_id"),
        Column::integer("position"),
        Column::time("created_at"),
        // Of that, what has no price.
        Column::integer("unrated_input_tokens"),
        Column::integer("unrated_output_tokens"),
    ],
};

/// A call whose usage is not known.
struct Unknown<'a> {
    place: Place,
    task_id: TaskId,
    call_id: CallId,
    model: &'a str,
    reason: &'a str,
    vendor_id: Option<&'a str>,
    booking: &'a Booking,
}

impl<'a> Unknown<'a> {
    fn of(event: &'a Event) -> Option<Self> {
        match event {
            Event::CallLost(CallLost {
                place, task_id, call_id, model, reason, vendor_id, booking, ..
            }) => {
                let (place, task_id, call_id) = (*place, *task_id, *call_id);
                let vendor_id = vendor_id.as_deref();
                Some(Self { place, task_id, call_id, model, reason, vendor_id, booking })
            }
            Event::CallSettled(CallSettled {
                place, task_id, call_id, model, vendor_id, booking, ..
            }) => {
                let (place, task_id, call_id) = (*place, *task_id, *call_id);
                let (reason, vendor_id) = ("the answer does not say what it used", vendor_id.as_deref());
                Some(Self { place, task_id, call_id, model, reason, vendor_id, booking })
            }
            _ => None,
        }
    }
}

impl Projection for UnconfirmedCalls {
    fn table(&self) -> &'static Table {
        &UNCONFIRMED
    }

    fn version(&self) -> i32 {
        2
    }

    fn fold(&self, happened: &Happened<'_>, changes: &mut Changes) {
        if let Event::CallReconciled(reconciled) = happened.event {
            changes.delete(&UNCONFIRMED, vec![text(reconciled.call_id)]);
        }
        let Some(call) = Unknown::of(happened.event) else { return };
        if call.booking.unconfirmed.is_empty() {
            return;
        }
        let unrated = |output: bool| {
            let charges = call.booking.unconfirmed.iter();
            let tokens =
                charges.filter(|charge| charge.is_unrated() && (charge.unit == Unit::OutputToken) == output);
            tokens.map(|charge| charge.quantity).sum::<Decimal>().to_i64().unwrap_or(i64::MAX)
        };
        let values = vec![
            text(call.place.agent_id),
            text(call.place.session_id),
            text(call.place.user_id),
            text(call.task_id),
            text(call.model),
            Value::Decimal(call.booking.unconfirmed_cost()),
            text(call.reason),
            optional(call.vendor_id.map(text)),
            Value::Integer(happened.position),
            Value::Time(happened.at),
            Value::Integer(unrated(false)),
            Value::Integer(unrated(true)),
        ];
        changes.put(&UNCONFIRMED, vec![text(call.call_id)], values);
    }
}

/// A row a model and an agent that has used it without a price, until that is rated.
pub(crate) struct UnratedUsage;

static UNRATED: Table = Table {
    name: "unrated_usage",
    key: &[Column::text("model"), Column::text("agent_id")],
    // Of the newest event with such usage.
    columns: &[Column::integer("position")],
};

impl Projection for UnratedUsage {
    fn table(&self) -> &'static Table {
        &UNRATED
    }

    fn version(&self) -> i32 {
        1
    }

    fn fold(&self, happened: &Happened<'_>, changes: &mut Changes) {
        match happened.event {
            Event::UsageRated(rated) if rated.left == 0 => {
                changes.delete(&UNRATED, vec![text(&rated.model), text(rated.place.agent_id)]);
            }
            Event::CallSettled(_) | Event::CallReconciled(_) => {
                let Some(booked) = happened.event.booked() else { return };
                if booked.booking.charges.iter().any(Charge::is_unrated) {
                    let key = vec![optional(booked.model.map(text)), text(booked.place.agent_id)];
                    changes.put(&UNRATED, key, vec![Value::Integer(happened.position)]);
                }
            }
            _ => {}
        }
    }
}
