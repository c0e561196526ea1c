//! Sleep and wake.

pub mod cost;
pub mod crowd;
mod fixture;
pub mod many;
pub mod server;
pub mod wake;
pub mod wakes;

use std::time::Duration;

use crate::rounds::Series;

/// Awake.
const AWAKE: &str = "awake";
/// Suspended.
const ASLEEP: &str = "asleep";

/// A host that is suspended by command alone.
pub const BY_COMMAND: &str = "idle_after: 1h";

pub fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

fn one(name: impl Into<String>, sample: u64) -> Series {
    (name.into(), vec![sample])
}
