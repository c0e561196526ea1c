//! Events: one stream that `imsup events`, the log and the accounts all read.

use std::fmt;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use crate::cause::CauseKind;
use crate::host::HostName;
use crate::sleep::Usage;

/// An event in a host's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EventKind {
    /// A signal asked for the host, which did not run.
    Allocate,
    /// The program was started; the duration is from the signal to `execve`.
    Boot,
    /// The program listens on the port that the host was booted for, or settled without; the
    /// duration is from the signal.
    Ready,
    /// The program ended; the duration is that of its run.
    Exit,
    /// The program could not be started, or failed before it listened; the duration is that of the
    /// attempt.
    Fail,
    /// The host was idle and sleeps now; the duration is that of the suspend.
    Suspend,
    /// A signal woke the host; the duration is that of the wake. The detail has the time asleep and
    /// the number of ticks.
    Wake,
    /// A sleeper's deadline passed with housekeeping only; the duration is that of the run.
    Tick,
    /// A sleeper's memory was paged out; the duration is that of the paging.
    Reclaim,
    /// A sleeper is being ended (`terminate_after`); the duration is the time asleep.
    Terminate,
    /// A caller waits for a port of the host, which listens elsewhere; the detail says where.
    Unmet,
    /// The kernel killed a process of the host, which had used up its memory (`mem_limit`); the
    /// detail has the limit.
    Oom,
    /// The program ended without an order, and the host will boot again (`restart`); the duration
    /// is the delay.
    Restart,
    /// A check of the host's health has succeeded for the first time since its boot; the duration
    /// is from the boot.
    Healthy,
    /// Checks of the host's health have failed too long; the detail has the last failure.
    Unhealthy,
}

impl fmt::Display for EventKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Allocate => "allocate",
            Self::Boot => "boot",
            Self::Ready => "ready",
            Self::Exit => "exit",
            Self::Fail => "fail",
            Self::Suspend => "suspend",
            Self::Wake => "wake",
            Self::Tick => "tick",
            Self::Reclaim => "reclaim",
            Self::Terminate => "terminate",
            Self::Unmet => "unmet",
            Self::Oom => "oom",
            Self::Restart => "restart",
            Self::Healthy => "healthy",
            Self::Unhealthy => "unhealthy",
        })
    }
}

/// The signal behind an event, with its sender.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cause {
    /// The kind of signal.
    pub kind: CauseKind,
    /// The sender: a host of the project by name, else a peer's address, else a user of the command
    /// line.
    pub by: Option<String>,
    /// The port the signal was for.
    pub port: Option<u16>,
}

/// One event of one host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// When: microseconds since the Unix epoch.
    pub time_us: u64,
    /// To whom.
    pub host: HostName,
    /// What.
    pub kind: EventKind,
    /// The signal behind the event. A boot, and the readiness it leads to, carry the cause of their
    /// allocation.
    pub cause: Option<Cause>,
    /// The duration; [`EventKind`] says of what.
    pub duration: Option<Duration>,
    /// A sentence for people: the exit status, why a start failed.
    pub detail: Option<String>,
    /// The program's use of resources so far, if the event ends a stretch of the run: `suspend`,
    /// `wake`, `terminate`, `exit`, `fail`.
    pub usage: Option<Usage>,
}

impl Event {
    /// The time as RFC 3339, UTC, with microseconds.
    pub fn time_rfc3339(&self) -> String {
        let time = SystemTime::UNIX_EPOCH + Duration::from_micros(self.time_us);
        humantime::format_rfc3339_micros(time).to_string()
    }
}
