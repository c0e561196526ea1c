//! The phases of a host: awake, asleep, or ticking (awake for a moment). Going over to the next
//! phase consumes the last phase.

mod asleep;
mod awake;
mod takeover;
mod terminate;
mod ticking;
mod why;

use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use imsup_linux::clock::Stamp;

use self::awake::Trouble;
use self::takeover::Takeover;
use super::Sleeper;
use super::correct::Correction;
use super::deadlines::SHORTEST_SLACK;
use super::frozen::Frozen;

/// The phase of a host. The state of a sleeper cannot be touched while the host runs.
#[derive(Debug)]
pub(super) enum Phase {
    /// The host runs, and is looked at now and then.
    Awake(Awake),
    /// The host is held, and the supervisor waits in place of the host.
    Asleep(Box<Asleep>),
    /// The host sleeps, and is about to be terminated together with others: until then the host
    /// neither wakes nor ticks.
    Prepared(Box<Prepared>),
    /// The host runs for a moment, because a deadline of the host has come.
    Ticking(Box<Ticking>),
}

impl Phase {
    /// The sleeper, if the host sleeps.
    pub(super) fn asleep(&self) -> Option<&Asleep> {
        match self {
            Self::Asleep(asleep) => Some(asleep),
            Self::Prepared(prepared) => Some(&prepared.asleep),
            Self::Awake(_) | Self::Ticking(_) => None,
        }
    }
}

/// A host that runs.
#[derive(Debug)]
pub(super) struct Awake {
    next_look: Instant,
    /// The reason why the last try to suspend failed.
    trouble: Option<Trouble>,
    /// Orders to suspend that wait for an idle host: the number of the order, and the end of the
    /// wait.
    orders: Vec<(u64, Instant)>,
    /// Released calls whose time-out imsup has to report.
    corrections: Vec<Correction>,
}

/// A host that sleeps.
#[derive(Debug)]
pub(super) struct Asleep {
    slept: Slept,
    frozen: Frozen,
    /// When to look for signals.
    signals_at: Instant,
    /// When to look at memory that others share, if any thread waits for that memory.
    words_at: Option<Instant>,
}

/// The state of a sleep that is kept across ticks.
#[derive(Debug)]
pub(super) struct Slept {
    since: Instant,
    /// The same, for the broker.
    began: Stamp,
    ticks: u64,
    /// The time at which a termination is tried.
    terminate_at: Option<Instant>,
    /// The reason why the host was not terminated.
    not_terminated: Option<String>,
}

/// A sleeper that has prepared to be terminated together with others.
#[derive(Debug)]
pub(super) struct Prepared {
    asleep: Box<Asleep>,
    /// The successors of the listeners.
    takeover: Takeover,
}

/// A host that ticks: a sleep without waits.
#[derive(Debug)]
pub(super) struct Ticking {
    slept: Slept,
    /// The bytes that had moved on the host's connections before the tick.
    bytes: Option<u64>,
    next_check: Instant,
    began: Instant,
    pause: Duration,
    /// The CPU time of the processes before the tick, and at the last check.
    cpu_before: Duration,
    cpu_last: Duration,
}

impl Awake {
    /// A host that runs, to be looked at then.
    pub(super) fn new(next_look: Instant) -> Self {
        Self {
            next_look,
            trouble: None,
            orders: Vec::new(),
            corrections: Vec::new(),
        }
    }

    /// The host that was held sleeps from now on.
    fn fall_asleep(self, frozen: Frozen, terminate_at: Option<Instant>) -> Box<Asleep> {
        let slept = Slept {
            since: frozen.since,
            began: frozen.began,
            ticks: 0,
            terminate_at,
            not_terminated: None,
        };
        Box::new(Asleep::new(slept, frozen))
    }
}

impl Asleep {
    fn new(slept: Slept, frozen: Frozen) -> Self {
        let every = frozen.slack.max(SHORTEST_SLACK);
        Self {
            slept,
            signals_at: frozen.since + frozen.signals_every,
            words_at: (!frozen.words.is_empty()).then_some(frozen.since + every),
            frozen,
        }
    }

    /// Waits for nothing more. To be called before the host is let run: the duplicates would delay
    /// a FIN.
    fn stop_waiting(self) -> Slept {
        self.slept
    }

    /// The descriptor that becomes readable when the host is to be woken.
    pub(super) fn descriptor(&self) -> BorrowedFd<'_> {
        self.frozen.set.as_fd()
    }

    /// The beginning of the sleep, by the present wall clock: microseconds since the Unix epoch.
    pub(super) fn suspended_us(&self) -> u64 {
        self.slept.began.wall_us()
    }

    /// The next deadline, in microseconds since the Unix epoch.
    pub(super) fn deadline_us(&self) -> Option<u64> {
        self.frozen.deadline_us()
    }

    /// The time of the next action.
    pub(super) fn due(&self) -> Option<Instant> {
        let tick = self.frozen.tick().map(|(at, _, _)| at);
        [tick, Some(self.signals_at), self.words_at, self.slept.terminate_at]
            .into_iter()
            .flatten()
            .min()
    }
}

impl Ticking {
    /// The same sleep, held anew.
    fn sleep_on(self, frozen: Frozen, now: Instant) -> Box<Asleep> {
        let slept = Slept {
            ticks: self.slept.ticks + 1,
            // The obstacle to the termination may be gone.
            terminate_at: self
                .slept
                .terminate_at
                .or(self.slept.not_terminated.is_some().then_some(now)),
            ..self.slept
        };
        Box::new(Asleep::new(slept, frozen))
    }

    /// The beginning of the sleep, by the present wall clock: microseconds since the Unix epoch.
    pub(super) fn suspended_us(&self) -> u64 {
        self.slept.began.wall_us()
    }

    /// When to see whether the tick is over.
    pub(super) fn next_check(&self) -> Instant {
        self.next_check
    }
}

impl Sleeper {
    /// When a host that falls asleep now is to be terminated if it is unused.
    fn terminate_at(&self, now: Instant, has_successors: bool) -> Option<Instant> {
        let terminate_after = self.policy.as_ref()?.terminate_after?;
        match has_successors {
            true => Some(now),
            false => now.checked_add(terminate_after),
        }
    }
}
