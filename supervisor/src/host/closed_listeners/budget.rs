//! The share of a processor for looks at the program's sockets.

use std::time::{Duration, Instant};

/// A thousandth of a processor.
const SHARE: u32 = 1000;

/// The highest cost of one wake of the supervisor, including the look (measured: 90 us in a virtual
/// machine).
pub(super) const WAKE: Duration = Duration::from_micros(100);

/// The time that may be used at once, after a time without use.
const BURST: Duration = Duration::from_millis(2);

/// Time of a processor that is earned at a constant rate.
#[derive(Debug)]
pub(super) struct Budget {
    /// The time at which the used time is earned back.
    owed_until: Instant,
}

impl Budget {
    pub(super) fn new(now: Instant) -> Self {
        Self { owed_until: now }
    }

    /// Charges an action of this duration.
    pub(super) fn spend(&mut self, now: Instant, cost: Duration) {
        self.owed_until = self.owed_until.max(now) + cost * SHARE;
    }

    /// When the next may be done.
    pub(super) fn allowed_at(&self) -> Instant {
        self.at_debt(BURST)
    }

    /// The time of the next action that leaves half of the burst for more urgent actions.
    pub(super) fn spared_at(&self) -> Instant {
        self.at_debt(BURST / 2)
    }

    fn at_debt(&self, most: Duration) -> Instant {
        self.owed_until.checked_sub(most * SHARE).unwrap_or(self.owed_until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thousandth_of_the_time_is_used_after_a_burst() {
        let began = Instant::now();
        let (mut now, mut budget, mut used) = (began, Budget::new(began), Duration::ZERO);
        while now < began + Duration::from_secs(100) {
            now = now.max(budget.allowed_at());
            budget.spend(now, WAKE);
            used += WAKE;
        }
        let most = Duration::from_millis(100) + BURST + WAKE;
        assert!((Duration::from_millis(99)..=most).contains(&used), "{used:?}");
    }

    #[test]
    fn what_was_not_used_is_not_saved_up_for_ever() {
        let began = Instant::now();
        let mut budget = Budget::new(began);
        let late = began + Duration::from_secs(3600);
        let mut count = 0;
        while budget.allowed_at() <= late {
            budget.spend(late, WAKE);
            count += 1;
        }
        assert!(WAKE * count <= BURST + WAKE, "{count}");
    }
}
