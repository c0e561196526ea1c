//! The kinds of signals that ask for hosts: why a host boots or wakes.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The kind of signal that asked for a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CauseKind {
    /// A connection in a retained socket's queue.
    Connection,
    /// A supervised program's connect(2) to a port without a listener.
    Connect,
    /// A datagram in a retained socket, or a datagram that a supervised program is about to send.
    Datagram,
    /// A connection to a port of the machine (compose `ports:`).
    Published,
    /// `imsup wake`, `resume`, `suspend`, `keep-awake` or `restart`, or a host that is kept awake.
    Wake,
    /// `imsup exec` or `imsup run --host`.
    Exec,
    /// A look-up of the host's name, with `prefetch: dns`.
    Lookup,
    /// Data, end of file or a reset on an established connection.
    Data,
    /// A deadline of the host's own, which led to work.
    Timer,
    /// A signal (signal(7)) from outside, or the end of a process of the host.
    Signal,
    /// Another descriptor: a pipe, a terminal, a file system watch; or memory shared with other
    /// hosts.
    Descriptor,
    /// The host was idle for `idle_after`, or asleep for `terminate_after`.
    Idle,
    /// The boot of a host that depends on this host and has `boot_dependencies`.
    Dependency,
}

impl fmt::Display for CauseKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Connection => "connection",
            Self::Connect => "connect",
            Self::Datagram => "datagram",
            Self::Published => "published",
            Self::Wake => "wake",
            Self::Exec => "exec",
            Self::Lookup => "lookup",
            Self::Data => "data",
            Self::Timer => "timer",
            Self::Signal => "signal",
            Self::Descriptor => "descriptor",
            Self::Idle => "idle",
            Self::Dependency => "dependency",
        })
    }
}
