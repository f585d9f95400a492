//! The resources of the API, a file each.

mod definitions;
mod events;
mod secrets;
mod sessions;
