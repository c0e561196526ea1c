//! A host that stands still: what its threads wait for, and until when.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use imsup_linux::clock::Stamp;
use imsup_linux::signals;

use super::deadlines::{Due, Now};
use super::waitset::WaitSet;
use super::words::SharedWord;

/// A host that stands still, and what it waits for.
#[derive(Debug)]
pub(super) struct Frozen {
    /// Since when.
    pub(super) since: Instant,
    /// The same, for the broker.
    pub(super) began: Stamp,
    pub(super) pids: Vec<i32>,
    pub(super) set: WaitSet,
    /// When its threads' calls and timers are due: process, call, time.
    pub(super) dues: Vec<(i32, &'static str, Due)>,
    pub(super) slack: Duration,
    /// Whether it has POSIX timers.
    pub(super) posix_timers: bool,
    /// The signals that wait for each process, as they were when it was held.
    pub(super) signals: HashMap<i32, u64>,
    /// How often to look for others.
    pub(super) signals_every: Duration,
    /// What is compared with what its threads wait for in memory that others share.
    pub(super) words: Vec<SharedWord>,
    /// The bytes that had moved on its connections.
    pub(super) bytes: Option<u64>,
}

impl Frozen {
    /// Its next tick, and for whom that is.
    pub(super) fn tick(&self) -> Option<(Instant, i32, &'static str)> {
        self.dues
            .iter()
            .filter(|(_, call, _)| *call != "timerfd")
            .filter_map(|(pid, call, due)| Some((due.tick_at(self.since, self.slack)?, *pid, *call)))
            .min()
    }

    /// The next deadline, as people count time: microseconds since the Unix epoch.
    pub(super) fn deadline_us(&self) -> Option<u64> {
        let timerfds = self.dues.iter().filter(|(_, call, _)| *call == "timerfd");
        let timerfds = timerfds.filter_map(|(_, _, due)| due.tick_at(self.since, Duration::ZERO));
        let next = timerfds.chain(self.tick().map(|(at, _, _)| at)).min()?;
        Some(Now::read().realtime_us(next))
    }

    /// The signals that have come since it was held.
    pub(super) fn new_signals(&self) -> u64 {
        let new = |(pid, before): (&i32, &u64)| signals::waiting_for(*pid, self.posix_timers) & !before;
        self.signals.iter().map(new).fold(0, |all, some| all | some)
    }

    /// Whether any of these is none that a timer of its own sends.
    pub(super) fn is_from_outside(&self, signals: u64) -> bool {
        !self.posix_timers && signals & !signals::ALARM != 0
    }
}
