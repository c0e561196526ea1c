//! Calls that wait for something: they are kept here, and the receive loop goes on.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use imsup_wire::Endpoint;
use nix::errno::Errno;

use imsup_linux::notify::{Answer, Notification, NotificationId};
use imsup_linux::socket::Family;

/// Calls held at most; a program that makes more concurrent ones gets EAGAIN.
pub const MAX_HELD: usize = 4096;

/// How long an accept(2) is held whose listener has no timeout (SO_RCVTIMEO): longer than any handover, since none waits without a listener that has somebody.
pub const LONGEST_ACCEPT: Duration = Duration::from_secs(3600);

/// How often held calls are looked at for signals, timeouts and callers that were killed. The kernel tells a listener of
/// none of these: with WAIT_KILLABLE_RECV a pending signal neither wakes the caller nor us.
pub const TICK: Duration = Duration::from_millis(10);

/// How long until held calls are looked at again: a look reads a file of /proc for each, so that many are looked at less often.
pub fn tick(held: usize) -> Duration {
    const CALLS_PER_TICK: u32 = 64;
    TICK * (1 + u32::try_from(held).unwrap_or(u32::MAX) / CALLS_PER_TICK)
}

/// A connect that waits.
#[derive(Debug)]
pub struct HeldConnect {
    /// The call.
    pub call: Notification,
    /// A duplicate of the program's socket.
    pub socket: OwnedFd,
    /// The address in the socket's form.
    pub address: SocketAddr,
    /// What the broker is asked for; `None` where it is not asked.
    pub endpoint: Option<Endpoint>,
    /// How long the socket lets a connect take (SO_SNDTIMEO). The kernel counts it from the call that begins the connect, which was
    /// ours, and then says EALREADY instead of EINPROGRESS: so it is counted here.
    pub own_timeout: Option<Duration>,
    /// Whether the socket blocked when it was called for.
    pub blocking: bool,
    /// Whether the kernel has the attempt in hand and its outcome is awaited; otherwise the broker's word is.
    pub in_kernel: bool,
    /// How often it was tried.
    pub attempts: u8,
}

/// A bind that waits to know who has its address.
#[derive(Debug)]
pub struct HeldBind {
    /// A duplicate of the program's socket.
    pub socket: OwnedFd,
    /// The number it has in the program.
    pub number: i32,
    /// Where the bind landed.
    pub endpoint: Endpoint,
    /// The family of the program's socket.
    pub family: Family,
    /// What the program asked for.
    pub asked: SocketAddr,
    /// The port or state that the caller waits for.
    pub stage: BindStage,
}

/// What a bind waits for, in the order in which it comes to that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BindStage {
    /// The search with this number, for a socket at its address that is not where the program had it.
    Search(u64),
    /// The broker is closing its duplicate of a socket at its address that the program has closed.
    Closing,
    /// The search with this number: the address is in use although imsup has nothing open there.
    LastSearch(u64),
    /// The broker is to say whether it retains a socket.
    Claim,
}

/// What a held call is.
#[derive(Debug)]
pub enum Waiting {
    /// connect(2) of a TCP socket.
    Connect(HeldConnect),
    /// connect(2) of a UDP socket: carried out by the kernel once the broker retains the endpoint.
    Datagram {
        /// Where it leads.
        endpoint: Endpoint,
        /// The call.
        call: Notification,
    },
    /// Datagrams, which are sent once the broker retains the endpoint of the first.
    Send {
        /// Where the first goes.
        endpoint: Endpoint,
        /// The call.
        call: Notification,
    },
    /// bind(2).
    Bind(HeldBind),
    /// accept(2) of a blocking listener, until who waits in a retained one has been handed over.
    Accept {
        /// The call.
        call: Notification,
        /// The inode of its listener.
        listener: u64,
    },
    /// A call that is begun anew once its wait is over.
    Anew {
        /// The call.
        call: Notification,
        /// When its wait is over.
        until: Until,
    },
}

/// When a call is begun anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// Once it is known who has a socket of this host.
    Vetted {
        /// Where the call leads.
        endpoint: Endpoint,
        /// The search that must be over.
        search: u64,
    },
    /// Once the broker has given sockets for resolvers: the call is a question to a name server, or connects its socket.
    ResolverSockets,
    /// Once the broker has said whether a user is of the project.
    Trusted {
        /// The user.
        uid: u32,
        /// Where a socket of his answers.
        endpoint: Endpoint,
    },
}

/// A held call.
#[derive(Debug)]
pub struct Held {
    /// The caller.
    pub tid: i32,
    /// Since when it waits.
    pub since: Instant,
    /// When it fails with ETIMEDOUT (or as its socket's own timeout says), or is begun anew if it waits for a resolver's socket.
    pub deadline: Instant,
    /// What it gets then, as an errno.
    pub timeout_errno: i32,
    /// The name of the cluster.
    pub waiting: Waiting,
}

impl Held {
    /// Whether a signal ends the wait: bind(2) never fails with EINTR.
    pub fn is_interruptible(&self) -> bool {
        !matches!(self.waiting, Waiting::Bind(_))
    }

    /// The inode of its listener, if it is an accept(2).
    pub fn accepts_from(&self) -> Option<u64> {
        match &self.waiting {
            Waiting::Accept { listener, .. } => Some(*listener),
            _ => None,
        }
    }

    /// What it gets when a signal ends the wait. A connect or accept with a timeout is not restarted (signal(7)).
    pub fn interruption(&self) -> Answer {
        match &self.waiting {
            Waiting::Connect(connect) if connect.own_timeout.is_some() => Answer::errno(Errno::EINTR),
            Waiting::Accept { .. } if self.deadline < self.since + LONGEST_ACCEPT => Answer::errno(Errno::EINTR),
            _ => Answer::Interrupted,
        }
    }
}

/// The held calls.
pub type HeldCalls = BTreeMap<NotificationId, Held>;
