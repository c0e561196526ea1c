//! The broker's threads, and a process, that only read and answer messages: no helper starts
//! programs, and most of the input comes from others.

use std::fmt;

use imsup_linux::confinement::confine_helper;
use rustix::thread::CapabilitySet;

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Helper {
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

impl Helper {
    /// Takes from the calling thread, for good, all rights that this helper does not need.
    pub(crate) fn confine(self) {
        let kept = match self {
            // Many pipes of their full size (pipe(7), pipe-user-pages-soft).
            Self::Published => CapabilitySet::SYS_RESOURCE,
            Self::Names | Self::PeerLookup | Self::Resolvers => CapabilitySet::empty(),
        };
        confine_helper(&self.to_string(), kept);
    }
}
