//! Sleep: what decides about it, what is said of it, and what it saves.

use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::cause::CauseKind;

/// What decides when a host sleeps.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SleepPolicy {
    /// How long it is idle before it is suspended; `None` for never (`idle_after: never`, `keep_awake`).
    pub idle_after: Option<Duration>,
    /// How long it is suspended before it is terminated; `None` for never.
    pub terminate_after: Option<Duration>,
    /// Whether it is terminated although timers of its own are pending, and together with hosts that it is connected with.
    pub disposable: bool,
    /// Deadlines of a sleeper are coalesced to at most one tick in this time.
    pub timer_slack: Duration,
    /// Whether its memory is paged out while it sleeps.
    pub reclaim: bool,
    /// The signal that asks its program to end (compose `stop_signal`).
    pub stop_signal: i32,
    /// How long the program may then take (compose `stop_grace_period`).
    pub stop_grace: Duration,
}

/// What keeps a host awake, besides its own work.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Awake {
    /// What is left of a `keep-awake` lease.
    pub lease: Option<Duration>,
    /// Commands that run beside the program (`imsup exec`).
    pub commands: u32,
    /// Who waits for a port that the program has not opened yet.
    pub awaited: Awaited,
}

/// Who waits for a port of a host that its program has not opened yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Awaited {
    /// Nobody.
    #[default]
    Nobody,
    /// Somebody, and nothing else speaks for that port: the host sleeps where nothing of its own will make it run, and then opens no more ports.
    Asked,
    /// Somebody, and the port is declared, or the program may still be about to open ports: the host stays awake.
    Expected,
}

/// What a host has used since its program was started. All of it only grows, except `resident_bytes`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// CPU time of all its processes, those that have ended included.
    pub cpu: Duration,
    /// Resident memory times time, in byte-milliseconds: pages that several processes share count for each.
    pub memory_byte_ms: u128,
    /// Resident memory now, in bytes.
    pub resident_bytes: u64,
}

/// Why a sleeper was woken, as its supervisor saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WakeCause {
    /// The kind of signal.
    pub kind: CauseKind,
    /// Who sent it, where that is known at once. The broker gives the address a name.
    pub by: Option<SocketAddr>,
    /// The host's own port that it came to.
    pub port: Option<u16>,
}

/// What the broker asks of a supervisor on somebody's behalf.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Order {
    /// Suspend the host as soon as all its threads are blocked, without waiting for `idle_after`.
    Suspend,
    /// Wake the host; answered at once where it is awake.
    Resume,
    /// Say what keeps it awake, or what it waits for.
    Why,
    /// Say what it has used.
    Usage,
    /// Promise to be terminated together with others: a sleeper that can be neither wakes nor ticks until [`Order::Fulfil`] or
    /// [`Order::Release`]. What comes meanwhile waits. Only after [`crate::ToBroker::Disposable`].
    Pledge,
    /// Terminate it, as it has promised.
    Fulfil,
    /// It need not: it sleeps on.
    Release,
}

/// A supervisor's answer to an [`Order`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Report {
    /// It was done.
    Done,
    /// To [`Order::Why`].
    Why(Why),
    /// To [`Order::Usage`].
    Usage(Usage),
    /// It was not done: what failed, why, and what to do.
    Failed(String),
}

/// Why a host is awake, or what it waits for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Why {
    /// No process of it runs.
    Absent {
        /// Why, in plain words.
        detail: String,
    },
    /// It runs.
    Awake {
        /// What keeps it awake, the strongest first; empty where it only has not been idle for long enough.
        reasons: Vec<Reason>,
        /// How long it has been idle.
        idle: Duration,
        /// How long until it sleeps if nothing happens; `None` where it will not.
        sleeps_in: Option<Duration>,
    },
    /// It sleeps.
    Asleep {
        /// What would wake it.
        waits: Vec<WaitsFor>,
        /// Its next deadline: microseconds since the Unix epoch.
        deadline_us: Option<u64>,
        /// Whose deadline that is, in plain words ("redis-server 4711, epoll_wait").
        deadline_of: Option<String>,
        /// How long until it is terminated; `None` where it is not to be.
        terminates_in: Option<Duration>,
        /// What keeps it from being terminated when its time comes, in plain words.
        not_terminated: Option<String>,
        /// How it is held: "cgroup freezer", "stopped threads".
        method: String,
    },
}

/// What keeps a host awake.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reason {
    /// Its kind.
    pub kind: ReasonKind,
    /// Plain words ("redis-server 4711 used 12.5 % of a processor in the last 1.2 s").
    pub detail: String,
    /// The process, where it is one: shown to people only.
    pub pid: Option<u32>,
}

/// The kinds of what keeps a host awake.
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
    /// A command of `imsup exec` runs beside it.
    Command,
    /// Its start is not over.
    Starting,
    /// It waits for another host to boot.
    Reaching,
    /// A process is stopped or traced, so what would make it run cannot be seen.
    Stopped,
    /// It is being ended.
    Stopping,
    /// It could not be suspended, and will be tried again.
    Unsuspendable,
    /// No host can be suspended here: the kernel, or the container, refuses what that needs.
    Incapable,
    /// Somebody waits, or has waited, for a port at which it does not listen, though it listens elsewhere.
    Unmet,
}

/// Something that would wake a sleeper.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WaitsFor {
    /// Its kind.
    pub kind: WaitKind,
    /// Plain words ("nginx 4711 waits in epoll_wait for descriptor 8, which watches 12 descriptors").
    pub detail: String,
    /// The process: shown to people only.
    pub pid: Option<u32>,
}

/// The kinds of what wakes a sleeper.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WaitKind {
    /// A connection to a listener.
    Listener,
    /// Data, end of file or reset on a connection.
    Connection,
    /// A datagram.
    Datagram,
    /// Anything that an epoll instance of the program's watches.
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
