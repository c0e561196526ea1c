//! What a host does next: a pure state machine, one per host.
//!
//! [`Life::step`] takes what happened and the time, and returns what is to be done. Nothing here touches the kernel; the
//! broker's loop (`imsup-broker`) carries the actions out.
#![forbid(unsafe_code)]

mod life;
#[cfg(test)]
mod port_properties;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod restart_properties;

use std::time::{Duration, Instant};

use imsup_wire::{Cause, Endpoint, EventKind, ExitStatus};

use imsup_wire::Restart;

pub use life::{Life, attempt_of, is_restart, is_stop, kept_awake};

/// Names one caller that waits for a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WaiterId(pub u64);

/// What a caller waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// That the host listens at this endpoint.
    Port(Endpoint),
    /// That the host is ready.
    Ready,
    /// That the host's program has ended.
    Ended,
}

/// A port of a host at which something waits in a retained socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Port {
    /// Where.
    pub endpoint: Endpoint,
    /// Whether the compose file, or an earlier boot, says that the program listens there.
    pub declared: bool,
    /// How many connections wait there by now, where that is known.
    pub length: Option<usize>,
}

/// What speaks for a port at which somebody waits and nothing listens yet, the weakest reason first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hope {
    /// Nothing: the host was ready already. Refused when the program has been quiet for a while.
    Stray,
    /// The host was booted for it. Refused when the program sleeps and nothing of its own will wake it.
    Asked,
    /// It is declared.
    Declared,
}

/// How a wait ends. Every waiter is answered exactly once, unless it is cancelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The host listens there.
    Connect,
    /// It does not, and will not.
    Refused,
    /// It took longer than `hold_timeout`.
    TimedOut,
    /// The host is ready, or has done its work and ended well.
    Ready,
    /// The host could not be started; [`Life::detail`] says why.
    Failed,
    /// The host's program has ended.
    Ended,
}

/// What happened to a host.
#[derive(Clone, Debug)]
pub enum Input {
    /// Somebody needs the host, and nobody waits for an answer.
    Signal {
        /// Why.
        cause: Cause,
        /// The port, where the signal is a connection or datagram in a retained socket: it stays there until it is taken.
        queued: Option<Port>,
    },
    /// Somebody waits.
    Wait {
        /// Who.
        waiter: WaiterId,
        /// For what.
        want: Want,
        /// Why; the signal that it is.
        cause: Cause,
    },
    /// The waiter is gone.
    Cancel(WaiterId),
    /// The program was executed.
    Executed,
    /// The program listens.
    Listening {
        /// Where.
        endpoint: Endpoint,
        /// Whether that makes a host ready whose start nobody's port has begun: the port is declared, or none is.
        counts: bool,
    },
    /// The program has opened no more ports for a while.
    Settled,
    /// The program, and all that belonged to it, is gone.
    Ended {
        /// How it ended.
        status: ExitStatus,
        /// A better sentence than the status alone gives.
        detail: Option<String>,
    },
    /// A supervisor that the broker did not start runs the host.
    Taken {
        /// The signal this counts as; `None` for a host that an earlier broker started.
        cause: Option<Cause>,
        /// Whether its start is over.
        ready: bool,
    },
    /// Its processes are held: it sleeps.
    Suspended,
    /// It runs again, or never slept.
    Woke,
    /// It could not be woken, and why.
    NotWoken(String),
    /// Its supervisor ends its program (`terminate_after`).
    Terminating,
    /// The user wants its program ended.
    Stop,
    /// The user wants its program ended and booted again: whoever waits for it waits for the next boot.
    Restart,
    /// The project goes down: end the program, boot never again.
    Retire,
    /// Its program has ended while no broker ran, or an earlier broker was about to boot it again.
    EndedUnseen,
    /// A deadline has come ([`Life::deadline`]).
    Tick,
}

/// What is to be done for a host, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Leave its sockets to the program to come, and start it.
    Boot,
    /// End its program: signal, grace, SIGKILL.
    Stop,
    /// Wake it; the signal that asks for that.
    Resume(Cause),
    /// The program is gone: take its sockets back, and watch them.
    Reclaim(After),
    /// Reset what waits in its retained sockets.
    ResetQueued,
    /// Reset what waits at this endpoint: so many, the oldest first, or all.
    ResetAt(Endpoint, Option<usize>),
    /// Close the sockets that it does not listen on, but for those that [`Life::is_awaited`] names.
    CloseUnused {
        /// Leave those that are declared, too: its start is not so long ago that nobody need expect them.
        spare_declared: bool,
    },
    /// It listens, but not here, where somebody waits or has waited: say so.
    Unmet(Vec<Endpoint>),
    /// Answer a waiter.
    Answer(WaiterId, Answer),
    /// Say that this happened. The cause is [`Life::cause`]; of an end, [`Life::end_cause`].
    Emit {
        /// What.
        kind: EventKind,
        /// How long it took.
        duration: Option<Duration>,
        /// A sentence for people.
        detail: Option<String>,
    },
}

/// What becomes of the sockets of a host whose program is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum After {
    /// It ended: what waits in retained sockets boots it again; tentative listeners are closed.
    Ended,
    /// It failed and will be tried again: everything stays.
    Retry,
    /// It failed too often: what waits is reset, tentative listeners are closed.
    GaveUp,
}

/// What a host's settings decide about its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// The bound of every wait.
    pub hold_timeout: Duration,
    /// What a host does by itself when it has ended.
    pub revive: Revive,
    /// What the compose file says of that, where it says anything.
    pub restart: Option<Restart>,
}

/// What a host does by itself when it has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Revive {
    /// It waits for its next signal.
    OnSignal,
    /// It boots again when it failed (`restart: on-failure`).
    AfterFailure,
    /// It boots again (`keep_awake`, `restart: always`).
    Always,
}

/// How long after a program's first listen those who wait for another port of it are told that it does not listen there.
pub const UNMET_AFTER: Duration = Duration::from_secs(5);

/// The first delay after a failed start.
pub const FIRST_DELAY: Duration = Duration::from_millis(100);
/// The longest delay after a failed start.
pub const LONGEST_DELAY: Duration = Duration::from_secs(30);
/// Failures in a row after which nobody is left waiting.
pub const FAILURES_UNTIL_REFUSED: u32 = 3;
/// The same if what was in the way may well pass by itself: some 3 s.
pub const PASSING_FAILURES_UNTIL_REFUSED: u32 = 6;
/// A kept-awake host that ran this long is booted again without a growing delay.
pub const LONG_RUN: Duration = Duration::from_secs(10);

/// The delay after this many failures in a row.
pub fn delay_after(failures: u32) -> Duration {
    let doublings = failures.saturating_sub(1).min(16);
    (FIRST_DELAY * (1 << doublings)).min(LONGEST_DELAY)
}

/// A caller that waits.
#[derive(Clone, Debug)]
pub struct Waiter {
    /// Its number.
    pub id: WaiterId,
    /// What it waits for.
    pub want: Want,
    /// What it may still hope for.
    pub hope: Hope,
    /// When it is told that it waited in vain; never if `None`.
    pub deadline: Option<Instant>,
    /// Why it waits.
    pub cause: Cause,
}
