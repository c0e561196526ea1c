//! The requests of the command line to a broker, and the broker's responses.
//!
//! A client connects to the broker's socket, sends one [`Request`] and reads [`Response`]s until
//! [`Response::Done`] or [`Response::Error`]. Supervisors use the same socket: the kind of the
//! first frame tells clients from supervisors.

use std::net::Ipv4Addr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use imsup_wire::ProgramSpec;
use imsup_wire::event::Event;
use imsup_wire::failure::Failure;
use imsup_wire::host::{HostName, HostState, HostStatus};
use imsup_wire::sleep::Why;

/// The first frame on a new connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Opening {
    /// From a supervisor.
    Supervisor(crate::message::ToBroker),
    /// From the command line.
    Control(Request),
}

/// A question or an order of the command line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// The broker's properties: one [`Response::Broker`].
    Broker,
    /// All hosts: a [`Response::Host`] each, in the order of their addresses.
    Hosts,
    /// All names: a [`Response::Name`] each.
    Names,
    /// The addresses of a name: a [`Response::Name`] each; an error if no host has the name.
    Resolve {
        /// The name.
        name: String,
    },
    /// Past events, oldest first, and, with `follow`, later events until the client hangs up.
    Events {
        /// Whether to stay.
        follow: bool,
        /// Only these hosts; all where empty.
        hosts: Vec<HostName>,
    },
    /// Boot these hosts and answer when all are ready; an error if a boot fails.
    Wake {
        /// Which.
        hosts: Vec<HostName>,
        /// Who asks, for the event's `by`.
        by: String,
        /// True for `imsup exec`, whose events say so.
        exec: bool,
    },
    /// End the programs of these hosts and answer when all have ended. The hosts stay, imaginary.
    Stop {
        /// Which; all where empty.
        hosts: Vec<HostName>,
    },
    /// Stop hosts, then wake the hosts that ran.
    Restart {
        /// Which; all that run where empty.
        hosts: Vec<HostName>,
        /// Who asks, for the event's `by`.
        by: String,
    },
    /// Suspend these hosts as soon as all are quiet, and answer when all sleep; an error for a host
    /// that is absent or busy.
    Suspend {
        /// Which.
        hosts: Vec<HostName>,
        /// Who asks, for the event's `by`.
        by: String,
    },
    /// Wake those of these hosts that sleep, and answer when all run; an error for an absent host.
    Resume {
        /// Which.
        hosts: Vec<HostName>,
        /// Who asks, for the event's `by`.
        by: String,
    },
    /// Boot or wake a host, and keep the host awake for a time. A lease replaces the lease before;
    /// a lease of zero ends the lease.
    KeepAwake {
        /// Which.
        host: HostName,
        /// For how long.
        lease: Duration,
        /// Who asks, for the event's `by`.
        by: String,
    },
    /// The reasons why a host is awake, or the waits of a sleeper: one [`Response::Why`].
    Why {
        /// Which.
        host: HostName,
    },
    /// The usage of hosts since `up`: a [`Response::Usage`] each.
    Usage {
        /// Which; all where empty.
        hosts: Vec<HostName>,
    },
    /// End all programs and the broker itself; answered when only the broker is left.
    Down,
    /// The program that a host runs: one [`Response::Program`]; an error for a host without one.
    Program {
        /// Which.
        host: HostName,
    },
    /// Make the hosts those of the cluster that the client has left in the runtime directory: a
    /// [`Response::Change`] for each that is not what it was. Then another broker takes the place of
    /// this one.
    Apply {
        /// Which hosts begin anew.
        recreate: Recreate,
        /// Whether hosts that the cluster does not have any more are removed.
        remove_orphans: bool,
    },
}

/// Which hosts of a project that is up begin anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Recreate {
    /// Those of which the file says something else than before.
    Changed,
    /// All.
    All,
    /// None.
    Never,
}

/// What became of a host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Change {
    /// The file has it for the first time.
    New,
    /// It has ended, and begins anew.
    Changed {
        /// The keys of the file that differ.
        keys: Vec<String>,
    },
    /// The file does not have it any more, and it has ended.
    Removed,
    /// The file does not have it any more, and it stays as it was.
    Orphan,
}

/// A broker's answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Response {
    /// The broker's properties.
    Broker {
        /// The project.
        project: String,
        /// The broker's process, shown to people only.
        pid: u32,
        /// The broker's version.
        version: String,
        /// The number of hosts.
        hosts: u64,
        /// The name server.
        name_server: std::net::SocketAddrV4,
        /// The most sockets that the broker may retain (RLIMIT_NOFILE less the broker's own needs).
        socket_limit: u64,
    },
    /// A host.
    Host(HostStatus),
    /// A name, with an address of the name.
    Name {
        /// The name.
        name: String,
        /// The address.
        address: Ipv4Addr,
    },
    /// An event.
    Event(Event),
    /// The answer to [`Request::Why`].
    Why {
        /// The host.
        host: HostName,
        /// The host's state.
        state: HostState,
        /// Since when: microseconds since the Unix epoch.
        since_us: u64,
        /// Why.
        why: Why,
    },
    /// The usage of a host.
    Usage(HostUsage),
    /// The request was answered completely, or carried out.
    Done,
    /// The request was not carried out. The last message.
    Error(Failure),
    /// The answer to [`Request::Program`].
    Program {
        /// The process.
        pid: u32,
        /// What it was started with; `None` for a host that `imsup run` made.
        spec: Option<Box<ProgramSpec>>,
    },
    /// What [`Request::Apply`] has done to a host.
    Change {
        /// Which.
        host: HostName,
        /// What.
        change: Change,
    },
}

/// The usage of a host since `up`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostUsage {
    /// The host.
    pub host: HostName,
    /// The beginning of the account: microseconds since the Unix epoch.
    pub since_us: u64,
    /// The time in each state that the host was in.
    pub states: Vec<(HostState, Duration)>,
    /// CPU time.
    pub cpu: Duration,
    /// Resident memory times time, in byte-milliseconds.
    pub memory_byte_ms: u128,
    /// The number of boots.
    pub boots: u64,
    /// The number of wakes by a signal.
    pub wakes: u64,
}
