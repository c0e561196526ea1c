//! What the command line asks of a broker, and its answers.
//!
//! A client connects to the broker's socket, sends one [`Request`] and reads [`Response`]s until
//! [`Response::Done`] or [`Response::Error`]. It shares the socket with supervisors: the first
//! frame's kind tells them apart.

use std::net::Ipv4Addr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

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
    /// What the broker is: one [`Response::Broker`].
    Broker,
    /// All hosts: a [`Response::Host`] each, in the order of their addresses.
    Hosts,
    /// All names: a [`Response::Name`] each.
    Names,
    /// The addresses of a name: a [`Response::Name`] each, an error where it is no host's.
    Resolve {
        /// The name.
        name: String,
    },
    /// Past events, oldest first, and, with `follow`, those to come until the client hangs up.
    Events {
        /// Whether to stay.
        follow: bool,
        /// Only these hosts; all where empty.
        hosts: Vec<HostName>,
    },
    /// Boot these hosts and answer when they are ready; an error where one fails.
    Wake {
        /// Which.
        hosts: Vec<HostName>,
        /// Who asks, for the event's `by`.
        by: String,
        /// True for `imsup exec`, whose events say so.
        exec: bool,
    },
    /// End the programs of these hosts and answer when they have ended. The hosts stay, imaginary.
    Stop {
        /// Which; all where empty.
        hosts: Vec<HostName>,
    },
    /// Stop, then wake those that ran.
    Restart {
        /// Which; all that run where empty.
        hosts: Vec<HostName>,
        /// Who asks, for the event's `by`.
        by: String,
    },
    /// Suspend these hosts as soon as they are quiet, and answer when they sleep; an error for one
    /// that is absent or busy.
    Suspend {
        /// Which.
        hosts: Vec<HostName>,
        /// Who asks, for the event's `by`.
        by: String,
    },
    /// Wake these hosts where they sleep, and answer when they run; an error for one that is
    /// absent.
    Resume {
        /// Which.
        hosts: Vec<HostName>,
        /// Who asks, for the event's `by`.
        by: String,
    },
    /// Boot or wake a host, and keep it from sleeping for a time. A lease replaces the one before;
    /// one of zero ends it.
    KeepAwake {
        /// Which.
        host: HostName,
        /// For how long.
        lease: Duration,
        /// Who asks, for the event's `by`.
        by: String,
    },
    /// What keeps a host awake, or what it waits for: one [`Response::Why`].
    Why {
        /// Which.
        host: HostName,
    },
    /// What hosts have used since `up`: a [`Response::Usage`] each.
    Usage {
        /// Which; all where empty.
        hosts: Vec<HostName>,
    },
    /// End all programs and the broker itself; answered when only the broker is left.
    Down,
}

/// A broker's answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Response {
    /// What the broker is.
    Broker {
        /// The project.
        project: String,
        /// The broker's process, shown to people only.
        pid: u32,
        /// Its version.
        version: String,
        /// How many hosts it has.
        hosts: u64,
        /// The name server.
        name_server: std::net::SocketAddrV4,
        /// How many sockets it may retain at most (RLIMIT_NOFILE less what it needs itself).
        socket_limit: u64,
    },
    /// A host.
    Host(HostStatus),
    /// A name and one of its addresses.
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
        /// Where it is in its life.
        state: HostState,
        /// Since when: microseconds since the Unix epoch.
        since_us: u64,
        /// Why.
        why: Why,
    },
    /// What a host has used.
    Usage(HostUsage),
    /// All was said or done.
    Done,
    /// It was not done. The last message.
    Error(Failure),
}

/// What a host has used since `up`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostUsage {
    /// The host.
    pub host: HostName,
    /// Since when it is accounted for: microseconds since the Unix epoch.
    pub since_us: u64,
    /// How long it was in each state that it was in.
    pub states: Vec<(HostState, Duration)>,
    /// CPU time.
    pub cpu: Duration,
    /// Resident memory times time, in byte-milliseconds.
    pub memory_byte_ms: u128,
    /// How many times it was booted.
    pub boots: u64,
    /// How many times a signal woke it.
    pub wakes: u64,
}
