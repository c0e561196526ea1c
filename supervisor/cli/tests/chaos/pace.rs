//! How often the broker and the keeper are killed: each starts the other again five times a minute,
//! and then gives it up (`a_broker_that_dies_again_and_again_is_given_up` in keeper.rs).

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Kills of either within [`PERIOD`], and within [`FAULTS`] faults.
const MOST: usize = 4;
const PERIOD: Duration = Duration::from_secs(60);
const FAULTS: u64 = 20;

/// The latest kills: after how many faults, and when.
#[derive(Debug, Default)]
pub struct Pace(VecDeque<(u64, Instant)>);

impl Pace {
    /// True if one more process may be killed.
    pub fn allows(&self, fault: u64, now: Instant) -> bool {
        let is_recent =
            |(number, time): &&(u64, Instant)| number + FAULTS > fault || now.duration_since(*time) < PERIOD;
        self.0.iter().filter(is_recent).count() < MOST
    }

    /// Counts a killed process.
    pub fn count(&mut self, fault: u64, now: Instant) {
        self.0.push_back((fault, now));
        if self.0.len() > MOST {
            self.0.pop_front();
        }
    }
}

mod tests {
    use super::*;

    #[test]
    fn kills_are_rare_by_time_and_by_number() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut pace = Pace::default();
        for number in 0..4 {
            assert!(pace.allows(number, at(number)), "{number}");
            pace.count(number, at(number));
        }
        assert!(!pace.allows(19, at(1000)), "the first is one of 20 faults");
        assert!(!pace.allows(1000, at(59)), "the first is not a minute old");
        assert!(pace.allows(20, at(60)));
        pace.count(20, at(60));
        assert!(!pace.allows(20, at(60)));
        assert!(pace.allows(21, at(61)));
    }
}
