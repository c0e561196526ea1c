//! Whether a host boots again by itself after an end.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// `restart`. In a cluster of imaginary machines every host comes back on its next signal; the
/// policy says whether a host also comes back by itself, after an end that no user asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restart {
    /// After which ends.
    pub condition: RestartCondition,
    /// The most attempts in a row since a boot for another reason; unbounded if `None`.
    pub max_attempts: Option<u32>,
    /// At least how long after the end.
    pub delay: Duration,
    /// A run of this length ends the row; no run does if `None`.
    pub window: Option<Duration>,
}

/// After which ends a host is booted again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RestartCondition {
    /// Never: the host stays imaginary until its next signal.
    No,
    /// After every end that no user asked for.
    Always,
    /// The same (docker tells the two apart when its daemon starts).
    UnlessStopped,
    /// Failures.
    OnFailure,
}

impl Restart {
    /// The policy with a condition alone.
    pub fn new(condition: RestartCondition) -> Self {
        Self {
            condition,
            max_attempts: None,
            delay: Duration::ZERO,
            window: None,
        }
    }
}
