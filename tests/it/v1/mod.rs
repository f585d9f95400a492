//! The resources of the API, a file each.

mod events;
mod sessions;
