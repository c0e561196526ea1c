//! What happened: one stream that `imsup events`, the log and the accounts all read.

use std::fmt;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use crate::cause::CauseKind;
use crate::host::HostName;
use crate::sleep::Usage;

/// What happened to a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EventKind {
    /// A signal asked for the host, and it did not run.
    Allocate,
    /// Its program was started; the duration is from the signal to its `execve`.
    Boot,
    /// Its program listens on the port that it was booted for, or settled without; the duration is from the signal.
    Ready,
    /// Its program ended; the duration is how long it ran.
    Exit,
    /// It could not be started, or ended before it listened with a failure; the duration is how long it tried.
    Fail,
    /// It was idle and sleeps now; the duration is what the suspending took.
    Suspend,
    /// A signal woke it; the duration is what the waking took. The detail says how long it slept and how often it ticked.
    Wake,
    /// A deadline of a sleeper was let pass, which did only housekeeping; the duration is how long it ran.
    Tick,
    /// A sleeper's memory was paged out; the duration is what that took.
    Reclaim,
    /// A sleeper is being ended (`terminate_after`); the duration is how long it slept.
    Terminate,
    /// Somebody waits for a port of it, and it listens, but not there; the detail says where instead.
    Unmet,
    /// The kernel killed a process of it, since the host had used up its memory (`mem_limit`); the detail says how much that is.
    Oom,
    /// It ended, nobody had asked for that, and it will be booted again (`restart`); the duration is how long that waits.
    Restart,
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
        })
    }
}

/// The signal that led to an event, and who sent it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cause {
    /// The kind of signal.
    pub kind: CauseKind,
    /// Who sent it: a host of the project by name, else a peer's address, else a user of the command line.
    pub by: Option<String>,
    /// The port the signal was for.
    pub port: Option<u16>,
}

/// One thing that happened to one host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// When: microseconds since the Unix epoch.
    pub time_us: u64,
    /// To whom.
    pub host: HostName,
    /// What.
    pub kind: EventKind,
    /// The signal behind it. A boot, and the readiness it leads to, carry the cause of their allocation.
    pub cause: Option<Cause>,
    /// How long it took; see [`EventKind`] for what is measured.
    pub duration: Option<Duration>,
    /// A sentence for people: the exit status, why a start failed.
    pub detail: Option<String>,
    /// What its program had used by then, where the event ends a stretch of it: `suspend`, `wake`, `terminate`, `exit`, `fail`.
    pub usage: Option<Usage>,
}

impl Event {
    /// The time as RFC 3339, UTC, with microseconds.
    pub fn time_rfc3339(&self) -> String {
        let time = SystemTime::UNIX_EPOCH + Duration::from_micros(self.time_us);
        humantime::format_rfc3339_micros(time).to_string()
    }
}
