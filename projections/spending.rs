//! What sessions, end users and the organization have spent, by the day in UTC: what limits and budgets are shown with.

use std::collections::BTreeMap;

use rust_decimal::Decimal;
use theazo_domain::Event;
use theazo_domain::charge::{Booking, Charge};
use theazo_domain::time::Day;

use crate::table::text;
use crate::{Changes, Column, Happened, Projection, Table, Value};

/// A row for each day of an owner that something was charged on, and one for what is held.
pub(crate) struct Spending;

static TABLE: Table = Table {
    name: "spending",
    key: &[Column::text("owner"), Column::text("day")],
    columns: &[
        // In units of the currency (US dollars), exact.
        Column::decimal("spent"),
        Column::decimal("reserved"),
    ],
};

impl Projection for Spending {
    fn table(&self) -> &'static Table {
        &TABLE
    }

    fn version(&self) -> i32 {
        1
    }

    fn fold(&self, happened: &Happened<'_>, changes: &mut Changes) {
        let Some(booked) = Event::booked(happened.event) else { return };
        let (place, booking) = (booked.place, booked.booking);
        let (session, user) = (text(place.session_id), text(place.user_id));
        let organization = text(place.organization_id);
        for (day, spent) in by_day(booking) {
            for owner in [&session, &user, &organization] {
                let key = vec![owner.clone(), text(day)];
                changes.add(&TABLE, key, [("spent", Value::Decimal(spent))]);
            }
        }
        let reserved = booking.reserved - booking.released;
        if !reserved.is_zero() {
            // A session's stands with what it has used.
            for owner in [user, organization] {
                changes.add(&TABLE, vec![owner, text("")], [("reserved", Value::Decimal(reserved))]);
            }
        }
    }
}

/// What a booking adds to what counts as spent, by the day that it counts in.
fn by_day(booking: &Booking) -> BTreeMap<Day, Decimal> {
    let mut days: BTreeMap<Day, Decimal> = BTreeMap::new();
    let mut count = |charge: &Charge, cost: Decimal| *days.entry(charge.at.day()).or_default() += cost;
    booking.charges.iter().chain(&booking.unconfirmed).for_each(|charge| count(charge, charge.cost));
    booking.withdrawn.iter().for_each(|charge| count(charge, -charge.cost));
    days.retain(|_, spent| !spent.is_zero());
    days
}
