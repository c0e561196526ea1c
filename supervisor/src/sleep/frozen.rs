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
    /// The times at which calls and timers of the threads are due: process, call, time.
    pub(super) dues: Vec<(i32, &'static str, Due)>,
    pub(super) slack: Duration,
    /// True if a process of the host has POSIX timers.
    pub(super) posix_timers: bool,
    /// The pending signals of each process at the start of the hold.
    pub(super) signals: HashMap<i32, u64>,
    /// How often to look for others.
    pub(super) signals_every: Duration,
    /// What is compared with what its threads wait for in memory that others share.
    pub(super) words: Vec<SharedWord>,
    /// The bytes moved on the host's connections so far, as a number to compare.
    pub(super) bytes: Option<u64>,
}

impl Frozen {
    /// The next tick: time, process and call.
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

    /// The signals that have come since the start of the hold.
    pub(super) fn new_signals(&self) -> u64 {
        let new = |(pid, before): (&i32, &u64)| signals::waiting_for(*pid, self.posix_timers) & !before;
        self.signals.iter().map(new).fold(0, |all, some| all | some)
    }

    /// True if at least one of these signals cannot come from a timer of the host.
    pub(super) fn is_from_outside(&self, signals: u64) -> bool {
        !self.posix_timers && signals & !signals::ALARM != 0
    }
}
