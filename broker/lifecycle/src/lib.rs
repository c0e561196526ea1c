//! The next step of a host's life: a pure state machine, one per host.
//!
//! [`Life::step`] takes an input and the time, and returns actions. Nothing here touches the
//! kernel; the broker's loop (`imsup-broker`) carries the actions out.
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

pub use life::{Life, attempt_of, is_restart, is_stop, kept_awake, started_by_up};

/// Names one caller that waits for a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WaiterId(pub u64);

/// The goal of a caller's wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// That the host listens at this endpoint.
    Port(Endpoint),
    /// That the host is ready.
    Ready,
    /// That the host's program has ended.
    Ended,
}

/// A port of a host with connections or datagrams waiting in a retained socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Port {
    /// Where.
    pub endpoint: Endpoint,
    /// Whether the compose file, or an earlier boot, says that the program listens there.
    pub declared: bool,
    /// The number of waiting connections, if known.
    pub length: Option<usize>,
}

/// The evidence for a port that has waiting callers and no listener yet, the weakest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hope {
    /// None: the host was ready already. Refused when the program has been quiet for a while.
    Stray,
    /// The host was booted for this port. Refused when the program sleeps without a timer of its
    /// own.
    Asked,
    /// The port is declared.
    Declared,
}

/// The end of a wait. Every waiter is answered exactly once, unless the wait is cancelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The host listens there.
    Connect,
    /// The host does not listen there, and will not.
    Refused,
    /// The wait exceeded `hold_timeout`.
    TimedOut,
    /// The host is ready, or has ended well after its work.
    Ready,
    /// The host could not be started; [`Life::detail`] says why.
    Failed,
    /// The host's program has ended.
    Ended,
}

/// An event in a host's life.
#[derive(Clone, Debug)]
pub enum Input {
    /// The host is needed, and no caller waits for an answer.
    Signal {
        /// Why.
        cause: Cause,
        /// The port, if the signal is a connection or datagram in a retained socket, where it stays
        /// until the program takes it.
        queued: Option<Port>,
    },
    /// Somebody waits.
    Wait {
        /// Who.
        waiter: WaiterId,
        /// For what.
        want: Want,
        /// The signal that caused the need.
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
        /// True if this listener makes a host ready whose start was for no port: the port is
        /// declared, or the host has no declared port.
        counts: bool,
    },
    /// The program has opened no more ports for a while.
    Settled,
    /// The program and all its processes are gone.
    Ended {
        /// The exit status.
        status: ExitStatus,
        /// A better sentence than the status alone gives.
        detail: Option<String>,
    },
    /// A supervisor that the broker did not start runs the host.
    Taken {
        /// The signal this counts as; `None` for a host that an earlier broker started.
        cause: Option<Cause>,
        /// True if the start is over.
        ready: bool,
    },
    /// The host's processes are held: the host sleeps.
    Suspended,
    /// The host runs again, or never slept.
    Woke,
    /// The host could not be woken, with the reason.
    NotWoken(String),
    /// The supervisor ends the program (`terminate_after`).
    Terminating,
    /// The user wants the program ended.
    Stop,
    /// The user wants the program ended and booted again: waiting callers wait for the next boot.
    Restart,
    /// The project goes down: end the program, boot never again.
    Retire,
    /// The program ended while no broker ran, or an earlier broker was about to boot the host
    /// again.
    EndedUnseen,
    /// A deadline has come ([`Life::deadline`]).
    Tick,
}

/// Actions for a host, carried out in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Leave the host's sockets to the coming program, and start the program.
    Boot,
    /// End the program: signal, grace, SIGKILL.
    Stop,
    /// Wake the host for this signal.
    Resume(Cause),
    /// The program is gone: take the sockets back, and watch them.
    Reclaim(After),
    /// Reset all connections that wait in the retained sockets.
    ResetQueued,
    /// Reset connections that wait at this endpoint: this many, the oldest first, or all.
    ResetAt(Endpoint, Option<usize>),
    /// Close the sockets without a listening program, except those named by [`Life::is_awaited`].
    CloseUnused {
        /// Leave declared ports open, too: the start is so recent that the program may still listen
        /// there.
        spare_declared: bool,
    },
    /// The program listens, but not at an endpoint with waiting callers: report that.
    Unmet(Vec<Endpoint>),
    /// Answer a waiter.
    Answer(WaiterId, Answer),
    /// Say that this happened. The cause is [`Life::cause`]; of an end, [`Life::end_cause`].
    Emit {
        /// What.
        kind: EventKind,
        /// The duration.
        duration: Option<Duration>,
        /// A sentence for people.
        detail: Option<String>,
    },
}

/// The fate of a host's sockets after the program is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum After {
    /// The program ended: waiting connections boot the host again; tentative listeners are closed.
    Ended,
    /// The start failed and will be repeated: everything stays.
    Retry,
    /// The start failed too often: waiting connections are reset, tentative listeners closed.
    GaveUp,
}

/// The settings of a host that decide about its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// The bound of every wait.
    pub hold_timeout: Duration,
    /// The reaction of a host to its own end.
    pub revive: Revive,
    /// The restart policy of the compose file, if any.
    pub restart: Option<Restart>,
}

/// The reaction of a host to its own end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Revive {
    /// Wait for the next signal.
    OnSignal,
    /// Boot again after a failure (`restart: on-failure`).
    AfterFailure,
    /// Boot again (`keep_awake`, `restart: always`).
    Always,
}

/// The time after a program's first listen at which callers of another port learn that the program
/// does not listen there.
pub const UNMET_AFTER: Duration = Duration::from_secs(5);

/// The first delay after a failed start.
pub const FIRST_DELAY: Duration = Duration::from_millis(100);
/// The longest delay after a failed start.
pub const LONGEST_DELAY: Duration = Duration::from_secs(30);
/// Consecutive failures after which all callers are turned away.
pub const FAILURES_UNTIL_REFUSED: u32 = 3;
/// The same if the obstacle may well pass by itself: some 3 s.
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
    /// The port or state that the caller waits for.
    pub want: Want,
    /// The evidence that the wait is worthwhile.
    pub hope: Hope,
    /// The time at which the wait ends in vain; never if `None`.
    pub deadline: Option<Instant>,
    /// The signal behind the wait.
    pub cause: Cause,
}
