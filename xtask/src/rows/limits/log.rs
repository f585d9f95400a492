//! The log as it is read: event by event, with what each books, and nothing of the server's own code.

use anyhow::Context;
use rust_decimal::Decimal;
use serde_json::Value;
use theazo_domain::time::Timestamp;
use tokio_postgres::Client;

use super::prices::decimal;
use super::sums::{Charge, Period};
use crate::place::Tenant;

/// Events that are read at a time.
const PAGE: i64 = 20_000;

/// An event.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) position: i64,
    pub(super) at: i64,
    pub(super) kind: String,
    /// The idempotency key of the request that it comes from.
    pub(super) key: Option<String>,
    pub(super) data: Value,
}

/// Whose work an event is of.
#[derive(Debug, Clone)]
pub(super) struct Whose {
    pub(super) agent: String,
    pub(super) session: String,
    pub(super) user: String,
}

/// What an event books.
#[derive(Debug, Default)]
pub(super) struct Booking {
    pub(super) reserved: Decimal,
    pub(super) released: Decimal,
    /// Settled and unconfirmed.
    pub(super) charges: Vec<Charge>,
    /// Unconfirmed before, and not any more.
    pub(super) withdrawn: Vec<Charge>,
    /// The sum of the settled ones for tokens, and of the unconfirmed ones.
    pub(super) of_model: Decimal,
    pub(super) unconfirmed: Decimal,
    /// Milliseconds of compute, and what they cost.
    pub(super) compute_ms: i64,
    pub(super) of_compute: Vec<(i64, Decimal)>,
}

/// Why something did not fit, in the server's words.
#[derive(Debug, Clone)]
pub(super) struct Excess {
    pub(super) limit: String,
    pub(super) period: Option<Period>,
    pub(super) allowed: Decimal,
    pub(super) spent: Decimal,
    pub(super) reserved: Decimal,
    pub(super) requested: Decimal,
    pub(super) resets_at: Option<i64>,
}

pub(super) fn text(value: &Value, name: &str) -> anyhow::Result<String> {
    value[name].as_str().map(str::to_owned).with_context(|| format!("{name} of {value}"))
}

fn moment(value: &Value) -> anyhow::Result<i64> {
    Ok(Timestamp::parse(value.as_str().context("a time")?)?.millis())
}

/// The next events behind a position.
pub(super) async fn page(database: &Client, tenant: &Tenant, after: i64) -> anyhow::Result<Vec<Entry>> {
    let sql = "select e.position, e.type, e.metadata::text, e.data::text, e.at
               from events e join tenants t using (tenant_id)
               where t.organization_id = $1 and t.mode = 'live' and e.position > $2
               order by e.position limit $3";
    let rows = database.query(sql, &[&tenant.organization, &after, &PAGE]).await?;
    let entry = |row: &tokio_postgres::Row| {
        let metadata: Value = serde_json::from_str(row.get(2))?;
        Ok(Entry {
            position: row.get(0),
            kind: row.get(1),
            key: metadata["idempotencyKey"].as_str().map(str::to_owned),
            data: serde_json::from_str(row.get(3))?,
            at: theazo::database::millis(row.get(4)).millis(),
        })
    };
    rows.iter().map(entry).collect()
}

impl Entry {
    pub(super) fn is(&self, kind: &str) -> bool {
        self.kind == kind
    }

    /// Whose work it is of, where it is of an agent's.
    pub(super) fn whose(&self) -> anyhow::Result<Option<Whose>> {
        let place = &self.data["place"];
        if place.is_null() {
            return Ok(None);
        }
        let [agent, session, user] = ["agentId", "sessionId", "userId"].map(|name| text(place, name));
        Ok(Some(Whose { agent: agent?, session: session?, user: user? }))
    }

    pub(super) fn booking(&self) -> anyhow::Result<Booking> {
        let told = &self.data["booking"];
        let amount = |name: &str| if told[name].is_null() { Ok(Decimal::ZERO) } else { decimal(&told[name]) };
        let mut booking =
            Booking { reserved: amount("reserved")?, released: amount("released")?, ..Booking::default() };
        for told in told["withdrawn"].as_array().into_iter().flatten() {
            booking.withdrawn.push(Charge { at: moment(&told["at"])?, cost: decimal(&told["cost"])? });
        }
        for (name, settled) in [("charges", true), ("unconfirmed", false)] {
            for told in told[name].as_array().into_iter().flatten() {
                let charge = Charge { at: moment(&told["at"])?, cost: decimal(&told["cost"])? };
                match (&told["category"], settled) {
                    (_, false) => booking.unconfirmed += charge.cost,
                    (category, _) if category == "model" => booking.of_model += charge.cost,
                    (category, _) if category == "compute" => {
                        let ms = decimal(&told["quantity"])?.try_into()?;
                        booking.compute_ms += ms;
                        booking.of_compute.push((ms, charge.cost));
                    }
                    _ => {}
                }
                booking.charges.push(charge);
            }
        }
        Ok(booking)
    }

    pub(super) fn excess(&self) -> anyhow::Result<Excess> {
        let told = &self.data["excess"];
        Ok(Excess {
            limit: text(told, "limit")?,
            period: told["period"].as_str().and_then(Period::of),
            allowed: decimal(&told["allowed"])?,
            spent: decimal(&told["spent"])?,
            reserved: decimal(&told["reserved"])?,
            requested: decimal(&told["requested"])?,
            resets_at: if told["resetsAt"].is_null() { None } else { Some(moment(&told["resetsAt"])?) },
        })
    }
}
