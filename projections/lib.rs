//! What the events mean: pure folds from an event to changes of read-model rows.
//!
//! A projection is its tables and a fold. It knows nothing of SQL, of checkpoints or of rebuilding: the runner of
//! the server applies the changes inside the transaction that appends the events, and folds the whole log again
//! when a read model is rebuilt.

/// Changes of rows, coalesced: what a runner writes after folding a batch of events.
pub mod change;
/// The values and tables that projections are made of.
pub mod table;

mod agents;
mod budgets;
mod definitions;
mod execs;
/// Periods of UTC, and how any period is made of them.
pub mod grain;
mod keys;
/// The lines that usage and billing are summed up from, and their sums.
pub mod ledger;
mod organization;
mod providers;
mod rate_cards;
mod secrets;
mod session_usage;
mod sessions;
mod spending;
mod tasks;
mod unsettled;
/// What has to happen next.
pub mod work;

use theazo_domain::Event;
use theazo_domain::time::Timestamp;

pub use change::Changes;
pub use table::{Column, Kind, Table, Value};

/// An event at its place in the log.
#[derive(Debug, Clone, Copy)]
pub struct Happened<'a> {
    /// Its position: dense, in the order of commits.
    pub position: i64,
    /// When it was appended.
    pub at: Timestamp,
    /// What happened.
    pub event: &'a Event,
}

/// A read model: a table, and what each event changes in it.
pub trait Projection: Sync {
    /// The table, whose name is the projection's.
    fn table(&self) -> &'static Table;

    /// To be raised with every change of the table's meaning or of the fold; [`EPOCH`] goes up with it.
    fn version(&self) -> i32;

    /// Notes what this event changes. It is total: what has happened cannot be refused.
    fn fold(&self, happened: &Happened<'_>, changes: &mut Changes);
}

/// Every projection, in the order in which they are shown.
pub const ALL: [&dyn Projection; 21] = [
    &organization::Organization,
    &keys::Keys,
    &sessions::Sessions,
    &session_usage::SessionUsage,
    &definitions::Definitions,
    &definitions::DefinitionVersions,
    &secrets::Secrets,
    &agents::Agents,
    &tasks::Tasks,
    &execs::Execs,
    &work::Work,
    &providers::Providers,
    &ledger::Ledger,
    &ledger::usage::Totals,
    &ledger::usage::ByUser,
    &ledger::usage::ByAgent,
    &budgets::Budgets,
    &spending::Spending,
    &rate_cards::RateCards,
    &unsettled::UnconfirmedCalls,
    &unsettled::UnratedUsage,
];

/// Goes up by one whenever [`ALL`] gains or loses a projection or one of them changes its version.
///
/// A server that meets a higher epoch in a log than its own would leave newer read models behind, so it appends
/// no more; one that meets a lower epoch rebuilds first.
pub const EPOCH: i32 = 12;

/// The projection of this name.
#[must_use]
pub fn named(name: &str) -> Option<&'static dyn Projection> {
    ALL.into_iter().find(|projection| projection.table().name == name)
}

#[cfg(test)]
mod tests;
