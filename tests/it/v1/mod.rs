//! The resources of the API, a file each.

mod adjustments;
mod agents;
mod asking;
mod billing;
mod budgets;
mod definitions;
mod events;
mod outputs;
mod providers;
mod secrets;
mod sessions;
