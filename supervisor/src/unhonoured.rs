//! Requests of a program that imsup cannot honour: each kind is warned once, on the program's own
//! standard error.

use std::collections::BTreeSet;
use std::fmt;

use crate::pending::MAX_PENDING;

/// A request that is not, or not wholly, honoured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Unhonoured {
    /// io_uring_setup(2).
    IoUring,
    /// MSG_FASTOPEN to a host.
    FastOpen,
    /// A call on a socket of a process that may not be inspected: the process runs a setuid
    /// program, or is not dumpable.
    Uninspectable,
    /// bind(2) or connect(2) of a socket without a copy, if descriptors cannot be duplicated.
    NoCopy,
    /// A datagram out of the planes from a socket that is bound to the host's own address.
    StrandedDatagram,
    /// A call beyond the most pending calls.
    TooManyPending,
    /// bind(2) to an address of another host.
    ForeignBind,
}

impl fmt::Display for Unhonoured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::IoUring => f.write_str(
                "io_uring_setup(2) is answered with ENOSYS: a ring's connects would not be seen, and runtimes fall back to epoll",
            ),
            Self::FastOpen => f.write_str(
                "a send with MSG_FASTOPEN to a host is answered with EOPNOTSUPP, as where TCP Fast Open is switched off; programs then connect",
            ),
            Self::Uninspectable => f.write_str(
                "a process that cannot be inspected (a setuid program, or one that is not dumpable) uses sockets: its calls go to the kernel as they are, \
                 so it sees the machine's addresses and not the host's",
            ),
            Self::NoCopy => f.write_str(
                "a socket that was made elsewhere (inherited, or received from another program) is bound or connected: pidfd_getfd(2) is refused here, so \
                 the kernel does it as it was asked, and the program sees the machine's addresses and not the host's",
            ),
            Self::StrandedDatagram => f.write_str(
                "a datagram for an address outside the project was sent from a UDP socket that is bound to the host's address; the kernel answers \
                 EINVAL. A socket for the outside must be bound to port 0, or not at all",
            ),
            Self::TooManyPending => write!(
                f,
                "more than {MAX_PENDING} connects wait for hosts at the same time: the next ones are answered with EAGAIN",
            ),
            Self::ForeignBind => f.write_str(
                "bind(2) to the address of another host is answered with EADDRNOTAVAIL, as on another machine",
            ),
        }
    }
}

impl Unhonoured {
    /// The section of docs/deviations.md with the details.
    fn section(self) -> &'static str {
        match self {
            Self::IoUring => "io-uring",
            Self::FastOpen => "fast-open",
            Self::Uninspectable => "uninspectable",
            Self::NoCopy => "copies",
            Self::StrandedDatagram => "stranded",
            Self::TooManyPending => "crowd",
            Self::ForeignBind => "another-host",
        }
    }
}

/// The warnings given so far.
#[derive(Debug, Default)]
pub struct Warned(BTreeSet<Unhonoured>);

impl Warned {
    /// Warns, if not warned before. Thread `tid` made the request.
    pub fn once(&mut self, tid: i32, what: Unhonoured) {
        if self.0.insert(what) {
            let program = std::fs::read_to_string(format!("/proc/{tid}/comm")).unwrap_or_default();
            let section = what.section();
            tracing::warn!(
                "imsup: {}[{tid}]: {what}. See docs/deviations.md#{section}",
                program.trim_end()
            );
        }
    }

    /// True if the warning was given.
    pub fn has_warned(&self, what: Unhonoured) -> bool {
        self.0.contains(&what)
    }
}
