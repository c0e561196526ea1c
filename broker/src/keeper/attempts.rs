//! Limits restarts of a process that dies again and again. Pure.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Maximum number of starts within [`PERIOD`], including the first start after an end.
pub(super) const MOST: usize = 5;

/// The time within which starts are counted.
pub(super) const PERIOD: Duration = Duration::from_secs(60);

/// The pause before a start that follows failed starts; multiplied by the number of failures in a
/// row.
const PAUSE: Duration = Duration::from_millis(100);

/// The starts of the last minute.
#[derive(Debug, Default)]
pub(super) struct Attempts {
    times: VecDeque<Instant>,
    failed: u32,
}

impl Attempts {
    /// Counts another start. Returns the pause before the start, or `None` after too many starts.
    pub(super) fn next(&mut self, now: Instant) -> Option<Duration> {
        while self
            .times
            .front()
            .is_some_and(|time| now.duration_since(*time) >= PERIOD)
        {
            self.times.pop_front();
        }
        if self.times.len() >= MOST {
            return None;
        }
        self.times.push_back(now);
        let pause = PAUSE * self.failed;
        self.failed += 1;
        Some(pause)
    }

    /// The started process serves.
    pub(super) fn succeeded(&mut self) {
        self.failed = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn five_starts_a_minute_and_no_more() {
        let mut attempts = Attempts::default();
        let start = Instant::now();
        for number in 0..5 {
            assert!(attempts.next(start + Duration::from_secs(number)).is_some(), "{number}");
        }
        assert_eq!(attempts.next(start + Duration::from_secs(59)), None);
        assert!(attempts.next(start + Duration::from_secs(60)).is_some());
        assert_eq!(
            attempts.next(start + Duration::from_secs(60)),
            None,
            "the second is 59 s old"
        );
        assert!(attempts.next(start + Duration::from_secs(61)).is_some());
    }

    #[test]
    fn one_that_served_is_followed_at_once_and_one_that_failed_ever_later() {
        let mut attempts = Attempts::default();
        let now = Instant::now();
        assert_eq!(attempts.next(now), Some(Duration::ZERO));
        assert_eq!(attempts.next(now), Some(PAUSE));
        assert_eq!(attempts.next(now), Some(2 * PAUSE));
        attempts.succeeded();
        assert_eq!(attempts.next(now), Some(Duration::ZERO));
    }
}
