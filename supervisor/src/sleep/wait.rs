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
    /// So long after it was interrupted: select(2) and ppoll(2) write back what is left.
    Left(Duration),
    /// At this time of a clock.
    At(Clock, Duration),
    /// Nobody knows.
    Unknown,
}

/// A descriptor and what is awaited of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watch {
    /// Its number in the process.
    pub number: i32,
    /// What is awaited.
    pub events: PollFlags,
}

/// A time limit that is not in the call but in its descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LimitOf {
    /// SO_RCVTIMEO, or VTIME of a terminal.
    Receive,
    /// SO_SNDTIMEO.
    Send,
}

/// A futex that other processes may wake: whoever waits for it goes on when it changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Futex {
    /// Its address.
    pub address: u64,
    /// Its value; `None` for a lock (FUTEX_LOCK_PI), which is waited for whatever its value is, as long as somebody has it.
    pub value: Option<u32>,
}

/// A `timespec` (unit 1 ns) or `timeval` (unit 1 µs) in a thread's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeftAt {
    /// Its address.
    pub address: u64,
    /// Its unit, in nanoseconds.
    pub unit: u64,
}

impl LeftAt {
    /// Writes a time there.
    ///
    /// # Errors
    /// EFAULT where that memory is read-only or gone.
    pub fn write(&self, time: Duration, memory: &impl TargetMemory) -> Result<(), Errno> {
        let fraction = u64::from(time.subsec_nanos()) / self.unit;
        memory.write(
            self.address,
            &[time.as_secs().to_ne_bytes(), fraction.to_ne_bytes()].concat(),
        )
    }
}

/// What one thread waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wait {
    /// The call's name, for people.
    pub call: &'static str,
    /// Descriptors, any of which ends the wait.
    pub watches: Vec<Watch>,
    /// When it gives up.
    pub deadline: Deadline,
    /// The descriptor that has the limit, where that is not in the call.
    pub limited_by: Option<(i32, LimitOf)>,
    /// What it returns when its time is over, where the kernel counts anew after each interruption.
    pub timed_out: Option<i64>,
    /// Whether what ends it cannot be waited for, and may come from outside (a lock, a message queue): the host is let run once per slack.
    pub unseen: bool,
    /// Futexes that are not private, any of which ends the wait when it changes.
    pub futexes: Vec<Futex>,
    /// Where the call writes back how much of its time is left, and reads it when it goes on.
    pub left_at: Option<LeftAt>,
    /// Where the call says how much of its time is left, only when it is interrupted; it goes on without that.
    pub overwrites: Option<u64>,
    /// Whether the call is in the table: what else could end it is then inside the host (a futex, a child) or a signal.
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

    /// A call that ends by what cannot be waited for.
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
