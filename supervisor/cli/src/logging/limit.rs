//! A bound on log lines from the same place of the code: others can trigger the lines (a peer that
//! sends nonsense, a program that dies at once), and a log is on a disk.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use imsup_supervisor::said;
use tracing::callsite::Identifier;
use tracing::{Event, Level, Metadata};
use tracing_subscriber::layer::{Context, Filter};

/// Maximum number of lines from the same place in a [`WINDOW`].
const MOST: u64 = 20;
/// How long a place that has said that much is silent.
const WINDOW: Duration = Duration::from_secs(10);

/// Passes at most [`MOST`] lines of warnings, errors and information from the same place of the
/// code in a [`WINDOW`], and reports the number of omitted lines. More detailed levels
/// (`IMSUP_LOG=debug`) pass completely.
#[derive(Debug, Default)]
pub struct Limit(Mutex<HashMap<Identifier, Count>>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Count {
    since: Instant,
    lines: u64,
}

/// The treatment of a line.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// The line is logged; this number of lines before was not.
    Say(u64),
    /// The line is omitted.
    LeaveOut,
}

impl Count {
    fn none(now: Instant) -> Self {
        Self { since: now, lines: 0 }
    }

    /// Counts another line, at this time.
    fn count(&mut self, now: Instant) -> Verdict {
        let mut left_out = 0;
        if now.saturating_duration_since(self.since) >= WINDOW {
            left_out = self.lines.saturating_sub(MOST);
            *self = Self::none(now);
        }
        self.lines += 1;
        match self.lines <= MOST {
            true => Verdict::Say(left_out),
            false => Verdict::LeaveOut,
        }
    }
}

impl<S> Filter<S> for Limit {
    fn enabled(&self, _metadata: &Metadata<'_>, _context: &Context<'_, S>) -> bool {
        true
    }

    fn event_enabled(&self, event: &Event<'_>, _context: &Context<'_, S>) -> bool {
        let metadata = event.metadata();
        if *metadata.level() > Level::INFO {
            return true;
        }
        let now = Instant::now();
        let verdict = {
            let mut places = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let place = places.entry(metadata.callsite());
            place.or_insert_with(|| Count::none(now)).count(now)
        };
        if let Verdict::Say(left_out @ 1..) = verdict {
            said::say(format!("imsup: {left_out} lines like the next one were left out\n").as_bytes());
        }
        matches!(verdict, Verdict::Say(_))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_that_says_much_is_silent_for_a_while_and_then_says_how_much_is_missing() {
        let start = Instant::now();
        let mut count = Count::none(start);
        for _ in 0..MOST {
            assert_eq!(count.count(start), Verdict::Say(0));
        }
        for _ in 0..1000 {
            assert_eq!(count.count(start + WINDOW / 2), Verdict::LeaveOut);
        }
        assert_eq!(count.count(start + WINDOW), Verdict::Say(1000));
        assert_eq!(count.count(start + WINDOW), Verdict::Say(0));
        assert_eq!(count.count(start + 3 * WINDOW), Verdict::Say(0), "nothing was left out");
    }
}
