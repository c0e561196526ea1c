//! When to say that a file cannot be written: once, and not with each event while a disk hovers at
//! full.

use std::time::{Duration, Instant};

/// How long writing must have gone well before that is said.
const WELL: Duration = Duration::from_secs(10);

/// Writes that failed.
#[derive(Debug, Default)]
pub(super) struct Trouble {
    /// The number of failures since the warning.
    failed: u64,
    last: Option<Instant>,
}

/// The message to log.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Word {
    /// Writing fails.
    Fails,
    /// Writing works again, after this number of failures.
    GoesWell(u64),
}

impl Trouble {
    /// A write failed at this time.
    pub(super) fn fails(&mut self, now: Instant) -> Option<Word> {
        self.failed = self.failed.saturating_add(1);
        self.last = Some(now);
        (self.failed == 1).then_some(Word::Fails)
    }

    /// A write did not fail at this time.
    pub(super) fn goes_well(&mut self, now: Instant) -> Option<Word> {
        let last = self.last?;
        if now.saturating_duration_since(last) < WELL {
            return None;
        }
        self.last = None;
        Some(Word::GoesWell(std::mem::take(&mut self.failed)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_that_hovers_at_full_is_said_once() {
        let start = Instant::now();
        let mut trouble = Trouble::default();
        assert_eq!(trouble.goes_well(start), None);
        assert_eq!(trouble.fails(start), Some(Word::Fails));
        for second in 1..100 {
            let now = start + Duration::from_secs(second);
            assert_eq!(trouble.goes_well(now), None);
            assert_eq!(trouble.fails(now), None);
        }
        let later = start + Duration::from_secs(99) + WELL;
        assert_eq!(trouble.goes_well(later), Some(Word::GoesWell(100)));
        assert_eq!(trouble.goes_well(later), None);
        assert_eq!(trouble.fails(later), Some(Word::Fails));
    }
}
