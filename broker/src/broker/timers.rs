//! What is due, and when.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::{Duration, Instant};

use crate::ids::{HostId, InstanceId};

/// An action due at a certain time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Timer {
    /// The host's life has a deadline.
    Tick(HostId),
    /// A check of the host's health is due, or has had its time.
    Check(HostId),
    /// The grace period of an instance's program is over.
    Kill(InstanceId),
    /// The time for a supervisor that outlived the last broker to come back is over.
    Missing(HostId),
    /// A connection that could not be accepted may be accepted now.
    Accept,
    /// The time for all ends is over.
    Farewell,
    /// The process that started a broker for itself had its time to connect.
    Lonely,
    /// A supervisor had its time to answer this request.
    Unanswered(u64),
    /// The kernel had its time to name the sender of a signal.
    Unnamed(u64),
    /// The project's files, of which some were missing, are to be looked at again.
    Files,
    /// The keeper may accept messages that had no room before, or the time for its answer is over.
    Keeper,
    /// The lock of the project record may be free.
    Remember,
    /// The launcher had its time to start a supervisor.
    Launcher,
    /// The launcher is to get ready for boots.
    Prepare,
}

/// All timers that are set, the earliest first.
#[derive(Debug, Default)]
pub(super) struct Timers {
    due: BinaryHeap<Reverse<(Instant, Timer)>>,
}

impl Timers {
    /// Sets a timer for this moment.
    pub(super) fn at(&mut self, due: Instant, timer: Timer) {
        self.due.push(Reverse((due, timer)));
    }

    /// Sets a timer.
    pub(super) fn after(&mut self, time: Duration, timer: Timer) {
        self.at(Instant::now() + time, timer);
    }

    /// True if such a timer is set.
    pub(super) fn has(&self, timer: Timer) -> bool {
        self.due.iter().any(|Reverse((_, set))| *set == timer)
    }

    /// The time until the next one; `None` if none is set.
    pub(super) fn timeout(&self) -> Option<Duration> {
        let Reverse((due, _)) = self.due.peek()?;
        // Rounded up: epoll counts in milliseconds, and a wake-up before the time means a second
        // one.
        let left = due.saturating_duration_since(Instant::now());
        Some(left + Duration::from_micros(999))
    }

    /// Takes the earliest, with the moment for which it was set, if that has come.
    pub(super) fn take_due(&mut self, now: Instant) -> Option<(Instant, Timer)> {
        let Reverse((due, timer)) = self.due.peek().copied()?;
        if due > now {
            return None;
        }
        self.due.pop();
        Some((due, timer))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timers_come_in_the_order_of_their_times_and_not_before() {
        let (mut timers, now) = (Timers::default(), Instant::now());
        let [soon, late] = [1, 2].map(|seconds| now + Duration::from_secs(seconds));
        timers.at(late, Timer::Files);
        timers.at(soon, Timer::Accept);
        assert!(timers.has(Timer::Files) && !timers.has(Timer::Keeper));
        assert_eq!(timers.take_due(now), None);
        assert_eq!(timers.take_due(late), Some((soon, Timer::Accept)));
        assert_eq!(timers.take_due(late), Some((late, Timer::Files)));
        assert_eq!((timers.take_due(late), timers.timeout()), (None, None));
    }
}
