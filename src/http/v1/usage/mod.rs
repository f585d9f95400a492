//! `/v1/usage` and `/v1/billing`: what was used, and what it costs.
//!
//! All views take a period and a position of the log, and show sums of the same lines. Amounts are rounded to cents
//! once, for the total; the lists that break it down are allotted its cents, so that they add up to it.

pub(crate) mod entries;
pub(crate) mod export;
mod focus;
pub(crate) mod period;
pub(crate) mod shares;
pub(crate) mod totals;
