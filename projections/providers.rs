//! The listing of compute providers.

use theazo_domain::Event;
use theazo_domain::provider::{ProviderName, Status};

use crate::table::{optional, text};
use crate::{Changes, Column, Happened, Projection, Table, Value};

/// A row a provider that is configured, and one for `local`, which is there from the first event on.
pub(crate) struct Providers;

static TABLE: Table = Table {
    name: "providers",
    key: &[Column::text("provider")],
    columns: &[
        Column::text("credentials"),
        Column::integer("is_default"),
        Column::text("status"),
        Column::text("status_reason"),
        Column::time("verified_at"),
        Column::integer("position"),
        Column::time("created_at"),
    ],
};

impl Projection for Providers {
    fn table(&self) -> &'static Table {
        &TABLE
    }

    fn version(&self) -> i32 {
        1
    }

    fn fold(&self, happened: &Happened<'_>, changes: &mut Changes) {
        match happened.event {
            Event::OrganizationCreated(_) => {
                let values = row(happened, Value::Null, true, Status::Active);
                changes.put(&TABLE, key(ProviderName::Local), values);
            }
            Event::ProviderConfigured(configured) if configured.replaces.is_none() => {
                let values = row(happened, text(configured.credentials), false, Status::Unverified);
                changes.put(&TABLE, key(configured.provider), values);
            }
            Event::ProviderConfigured(configured) => {
                let values = [
                    ("credentials", text(configured.credentials)),
                    ("status", text(Status::Unverified.as_str())),
                    ("status_reason", Value::Null),
                    ("verified_at", Value::Null),
                ];
                changes.set(&TABLE, key(configured.provider), values);
            }
            Event::ProviderVerified(verified) => {
                let reason = verified.finding.reason.as_ref();
                let values = [
                    ("status", text(verified.finding.status.as_str())),
                    ("status_reason", optional(reason.map(text))),
                    ("verified_at", Value::Time(happened.at)),
                ];
                changes.set(&TABLE, key(verified.provider), values);
            }
            Event::ProviderDefaultChanged(changed) => {
                for (provider, is_default) in [(changed.from, 0), (changed.to, 1)] {
                    changes.set(&TABLE, key(provider), [("is_default", Value::Integer(is_default))]);
                }
            }
            Event::ProviderRemoved(removed) => changes.delete(&TABLE, key(removed.provider)),
            _ => {}
        }
    }
}

fn key(provider: ProviderName) -> Vec<Value> {
    vec![text(provider.as_str())]
}

fn row(happened: &Happened<'_>, credentials: Value, is_default: bool, status: Status) -> Vec<Value> {
    vec![
        credentials,
        Value::Integer(is_default.into()),
        text(status.as_str()),
        Value::Null,
        Value::Null,
        Value::Integer(happened.position),
        Value::Time(happened.at),
    ]
}
