//! The broker's threads, and a process, that only read and answer messages: no helper starts
//! programs, and most of the input comes from others.

use std::fmt;

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Helper {
    /// The thread that answers names, and the threads made by it.
    Names,
    /// The thread that relays published ports.
    Published,
    /// The thread that asks the kernel for peers.
    PeerLookup,
    /// The process that makes resolvers' sockets.
    Resolvers,
}

impl fmt::Display for Helper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Names => "the thread that answers names",
            Self::Published => "the thread that relays published ports",
            Self::PeerLookup => "the thread that asks the kernel who has come",
            Self::Resolvers => "the process that makes sockets for resolvers",
        })
    }
}

/// Takes from the calling thread, for good, all rights that this helper does not need.
pub type Confine = fn(Helper);
