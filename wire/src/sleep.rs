//! Sleep: its settings, its reports, and its savings.

use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::cause::CauseKind;
use crate::failure::Failure;

/// The settings that decide when a host sleeps.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SleepPolicy {
    /// The idle time before a suspend; `None` for never (`idle_after: never`, `keep_awake`).
    pub idle_after: Option<Duration>,
    /// The time asleep before termination; `None` for never.
    pub terminate_after: Option<Duration>,
    /// True if pending timers of the host's own do not prevent termination, and connected hosts are
    /// terminated together.
    pub disposable: bool,
    /// A sleeper's deadlines are coalesced to at most one tick in this time.
    pub timer_slack: Duration,
    /// True if the memory is paged out during sleep.
    pub reclaim: bool,
    /// The signal that asks the program to end (compose `stop_signal`).
    pub stop_signal: i32,
    /// How long the program may then take (compose `stop_grace_period`).
    pub stop_grace: Duration,
}

/// Reasons besides its own work that keep a host awake.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Awake {
    /// The rest of a `keep-awake` lease.
    pub lease: Option<Duration>,
    /// Commands that run beside the program (`imsup exec`).
    pub commands: u32,
    /// The callers of a port that the program has not opened yet.
    pub awaited: Awaited,
}

/// The callers of a port of a host that its program has not opened yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Awaited {
    /// Nobody.
    #[default]
    Nobody,
    /// A caller is the only evidence for that port: the host may sleep if no timer of its own will
    /// make it run, and then opens no more ports.
    Asked,
    /// Somebody, and the port is declared, or the program may still be about to open ports: the
    /// host stays awake.
    Expected,
}

/// A host's use of resources since the start of its program. All values only grow, except
/// `resident_bytes`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// CPU time of all processes, ended ones included.
    pub cpu: Duration,
    /// Resident memory times time, in byte-milliseconds: pages that several processes share count
    /// for each.
    pub memory_byte_ms: u128,
    /// Resident memory now, in bytes.
    pub resident_bytes: u64,
}

/// The cause of a wake, as the supervisor saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WakeCause {
    /// The kind of signal.
    pub kind: CauseKind,
    /// The sender, if known at once. The broker turns the address into a name.
    pub by: Option<SocketAddr>,
    /// The host's own port at which the signal arrived.
    pub port: Option<u16>,
}

/// A request of the broker to a supervisor on behalf of a user.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Order {
    /// Suspend the host as soon as all its threads are blocked, without waiting for `idle_after`.
    Suspend,
    /// Wake the host; answered at once if the host is awake.
    Resume,
    /// Tell what keeps the host awake, or what it waits for.
    Why,
    /// Tell the use of resources.
    Usage,
    /// Prepare to be terminated together with others: a sleeper that is prepared neither wakes nor
    /// ticks until [`Order::Commit`] or [`Order::Abort`]. Signals that come meanwhile wait. Only
    /// after `ToBroker::Disposable`.
    Prepare,
    /// Terminate the host, as prepared.
    Commit,
    /// Not needed: sleep on.
    Abort,
}

/// A supervisor's answer to an [`Order`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Report {
    /// Done.
    Done,
    /// To [`Order::Why`].
    Why(Why),
    /// To [`Order::Usage`].
    Usage(Usage),
    /// Not done: what failed, why, and what to do.
    Failed(Failure),
}

/// Why a host is awake, or what the host waits for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Why {
    /// No process of the host runs.
    Absent {
        /// Why, in plain words.
        detail: String,
    },
    /// It runs.
    Awake {
        /// The reasons that keep the host awake, the strongest first; empty if the host only has
        /// not been idle for long enough.
        reasons: Vec<Reason>,
        /// The time idle so far.
        idle: Duration,
        /// The time until sleep without further events; `None` if the host will not sleep.
        sleeps_in: Option<Duration>,
    },
    /// It sleeps.
    Asleep {
        /// The possible causes of a wake.
        waits: Vec<WaitsFor>,
        /// Its next deadline: microseconds since the Unix epoch.
        deadline_us: Option<u64>,
        /// The owner of that deadline, in plain words ("redis-server 4711, epoll_wait").
        deadline_of: Option<String>,
        /// The time until termination; `None` if the host will not be terminated.
        terminates_in: Option<Duration>,
        /// The obstacle to termination when its time comes, in plain words.
        not_terminated: Option<String>,
        /// The method of the hold: "cgroup freezer", "stopped threads".
        method: String,
    },
}

/// A reason that keeps a host awake.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reason {
    /// Its kind.
    pub kind: ReasonKind,
    /// Plain words ("redis-server 4711 used 12.5 % of a processor in the last 1.2 s").
    pub detail: String,
    /// The process, if the reason is a process: shown to people only.
    pub pid: Option<u32>,
}

/// The kinds of reasons that keep a host awake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReasonKind {
    /// A process uses the processor.
    Cpu,
    /// Bytes moved on a connection.
    Connection,
    /// A lease of `imsup keep-awake`.
    Lease,
    /// `keep_awake` or `idle_after: never`.
    Setting,
    /// A command of `imsup exec` runs in the host.
    Command,
    /// The start is not over.
    Starting,
    /// The host waits for another host to boot.
    Reaching,
    /// A process is stopped or traced, so the cause of its next run cannot be seen.
    Stopped,
    /// The host is being ended.
    Stopping,
    /// The suspend failed, and will be repeated.
    Unsuspendable,
    /// No host can be suspended here: the kernel, or the container, refuses what a suspend needs.
    Incapable,
    /// A caller waits, or has waited, for a port without a listener, while the program listens
    /// elsewhere.
    Unmet,
}

/// A possible cause of a sleeper's wake.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WaitsFor {
    /// Its kind.
    pub kind: WaitKind,
    /// Plain words ("nginx 4711 waits in epoll_wait for descriptor 8, which watches 12
    /// descriptors").
    pub detail: String,
    /// The process: shown to people only.
    pub pid: Option<u32>,
}

/// The kinds of causes that wake a sleeper.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WaitKind {
    /// A connection to a listener.
    Listener,
    /// Data, end of file or reset on a connection.
    Connection,
    /// A datagram.
    Datagram,
    /// Any event that an epoll instance of the program's watches.
    Epoll,
    /// Another descriptor: a pipe, a terminal, a file system watch.
    Descriptor,
    /// A deadline.
    Timer,
    /// A signal from outside the host.
    Signal,
    /// The end of a process.
    Process,
}
