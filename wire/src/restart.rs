//! Whether a host boots again by itself after an end.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// `restart`: in a cluster of imaginary machines every host comes back on its next signal; the policy says whether it comes back by itself
/// before that, after an end that nobody asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restart {
    /// After which ends.
    pub condition: RestartCondition,
    /// How often in a row, since it was booted for another reason; without bound where `None`.
    pub max_attempts: Option<u32>,
    /// At least how long after the end.
    pub delay: Duration,
    /// A run that lasted this long ends the row; none does where `None`.
    pub window: Option<Duration>,
}

/// After which ends a host is booted again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RestartCondition {
    /// None: it stays imaginary until its next signal.
    No,
    /// All that nobody asked for.
    Always,
    /// The same (docker tells them apart when its daemon starts).
    UnlessStopped,
    /// Failures.
    OnFailure,
}

impl Restart {
    /// The policy with nothing but a condition.
    pub fn new(condition: RestartCondition) -> Self {
        Self {
            condition,
            max_attempts: None,
            delay: Duration::ZERO,
            window: None,
        }
    }
}
