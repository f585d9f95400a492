//! What is measured of operations.

use std::time::Duration;

/// How many events a second, and how long one took.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Figure {
    pub(crate) per_second: f64,
    pub(crate) median_ms: f64,
    pub(crate) p99_ms: f64,
}

/// Sums up the times of operations that each made so many events.
pub(crate) fn figure(mut times: Vec<Duration>, events: usize, elapsed: Duration) -> Figure {
    times.sort_unstable();
    let at =
        |share: usize| times.get(times.len() * share / 100).map_or(0.0, |time| time.as_secs_f64() * 1_000.0);
    Figure { per_second: events as f64 / elapsed.as_secs_f64(), median_ms: at(50), p99_ms: at(99) }
}
