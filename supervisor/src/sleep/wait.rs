//! What a thread waits for: descriptors, a time, futexes.

use std::time::Duration;

use imsup_linux::memory::TargetMemory;
use nix::errno::Errno;
use rustix::event::PollFlags;

/// The clock that a deadline is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clock {
    /// CLOCK_MONOTONIC.
    Monotonic,
    /// CLOCK_BOOTTIME, which goes on while the machine itself sleeps.
    Boottime,
    /// CLOCK_REALTIME, which may be set.
    Realtime,
}

/// When a call gives up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deadline {
    /// Never.
    Never,
    /// So long after the call began.
    After(Duration),
    /// This long after the interruption: select(2) and ppoll(2) write back the time left.
    Left(Duration),
    /// At this time of a clock.
    At(Clock, Duration),
    /// Nobody knows.
    Unknown,
}

/// A descriptor and the awaited events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watch {
    /// The descriptor's number in the process.
    pub number: i32,
    /// The awaited events.
    pub events: PollFlags,
}

/// A time limit that is set on the descriptor and not in the call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LimitOf {
    /// SO_RCVTIMEO, or VTIME of a terminal.
    Receive,
    /// SO_SNDTIMEO.
    Send,
}

/// A futex that other processes may wake. A change of the value ends the wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Futex {
    /// Its address.
    pub address: u64,
    /// The expected value. `None` for a lock (FUTEX_LOCK_PI): the thread waits while another thread
    /// has the lock, regardless of the value.
    pub value: Option<u32>,
}

/// A `timespec` (unit 1 ns) or `timeval` (unit 1 µs) in a thread's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeftAt {
    /// Its address.
    pub address: u64,
    /// The unit in nanoseconds.
    pub unit: u64,
}

impl LeftAt {
    /// Writes a time there.
    ///
    /// # Errors
    /// EFAULT if the memory is read-only or gone.
    pub fn write(&self, time: Duration, memory: &impl TargetMemory) -> Result<(), Errno> {
        let fraction = u64::from(time.subsec_nanos()) / self.unit;
        memory.write(
            self.address,
            &[time.as_secs().to_ne_bytes(), fraction.to_ne_bytes()].concat(),
        )
    }
}

/// The wait of one thread.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wait {
    /// The call's name, for people.
    pub call: &'static str,
    /// Descriptors, any of which ends the wait.
    pub watches: Vec<Watch>,
    /// The time at which the call gives up.
    pub deadline: Deadline,
    /// The descriptor with the time limit, if the limit is not in the call.
    pub limited_by: Option<(i32, LimitOf)>,
    /// The result of the call after a time-out, if the kernel restarts the time limit after each
    /// interruption.
    pub timed_out: Option<i64>,
    /// True if the event that ends the wait cannot be awaited and may come from outside (a lock, a
    /// message queue): the host runs once per slack.
    pub unseen: bool,
    /// Futexes that are not private. A change of any futex in the list ends the wait.
    pub futexes: Vec<Futex>,
    /// The memory in which the call writes back the time left. The call reads this memory when it
    /// goes on.
    pub left_at: Option<LeftAt>,
    /// The memory in which the call writes the time left, only when interrupted. The call goes on
    /// without this memory.
    pub overwrites: Option<u64>,
    /// True if the call is in the table. Any other end of the wait is then inside the host (a
    /// futex, a child) or a signal.
    pub known: bool,
}

impl Wait {
    pub(super) fn on(call: &'static str, watches: Vec<Watch>) -> Self {
        Self {
            call,
            watches,
            deadline: Deadline::Never,
            limited_by: None,
            timed_out: None,
            unseen: false,
            futexes: Vec::new(),
            left_at: None,
            overwrites: None,
            known: true,
        }
    }

    /// A call that ends by an event that cannot be awaited.
    pub(super) fn on_unseen(call: &'static str) -> Self {
        Self {
            unseen: true,
            ..Self::on(call, Vec::new())
        }
    }

    pub(super) fn with_left_at(self, address: u64, unit: u64) -> Self {
        let left_at = (self.deadline != Deadline::Never).then_some(LeftAt { address, unit });
        Self { left_at, ..self }
    }

    pub(super) fn overwriting(self, address: u64) -> Self {
        Self {
            overwrites: (address != 0).then_some(address),
            ..self
        }
    }

    pub(super) fn until(self, deadline: Deadline) -> Self {
        Self { deadline, ..self }
    }

    pub(super) fn limited(self, number: i32, kind: LimitOf) -> Self {
        Self {
            limited_by: Some((number, kind)),
            ..self
        }
    }

    pub(super) fn with_futexes(self, futexes: Vec<Futex>) -> Self {
        Self { futexes, ..self }
    }

    /// The wait of a call that is not in the table.
    pub fn unknown() -> Self {
        Self {
            deadline: Deadline::Unknown,
            known: false,
            ..Self::on("an unknown call", Vec::new())
        }
    }
}
