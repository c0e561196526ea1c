//! Pending calls: calls that wait are kept here, and the receive loop goes on.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use imsup_wire::Endpoint;
use nix::errno::Errno;

use imsup_linux::notify::{Answer, Notification, NotificationId};
use imsup_linux::socket::Family;

/// The most pending calls. A program with more concurrent calls gets EAGAIN.
pub const MAX_PENDING: usize = 4096;

/// The longest wait of an accept(2) if its listener has no time-out (SO_RCVTIMEO). Longer than any
/// handover: a call only waits if a client waits at a retained listener.
pub const LONGEST_ACCEPT: Duration = Duration::from_secs(3600);

/// How often pending calls are looked at for signals, timeouts and callers that were killed. The
/// kernel tells a listener of none of these: with WAIT_KILLABLE_RECV a pending signal neither wakes
/// the caller nor us.
pub const TICK: Duration = Duration::from_millis(10);

/// How long until pending calls are looked at again: a look reads a file of /proc for each, so that
/// many are looked at less often.
pub fn tick(pending: usize) -> Duration {
    const CALLS_PER_TICK: u32 = 64;
    TICK * (1 + u32::try_from(pending).unwrap_or(u32::MAX) / CALLS_PER_TICK)
}

/// A connect that waits.
#[derive(Debug)]
pub struct PendingConnect {
    /// The call.
    pub call: Notification,
    /// A duplicate of the program's socket.
    pub socket: OwnedFd,
    /// The address in the socket's form.
    pub address: SocketAddr,
    /// The endpoint that the broker is asked for; `None` if the broker is not asked.
    pub endpoint: Option<Endpoint>,
    /// The socket's own limit for a connect (SO_SNDTIMEO). The kernel counts the limit from the
    /// call that begins the connect, which was our call, and then returns EALREADY instead of
    /// EINPROGRESS. So the limit is counted here.
    pub own_timeout: Option<Duration>,
    /// True if the socket was blocking at the time of the call.
    pub blocking: bool,
    /// True if the kernel has begun the attempt and the outcome is awaited. Otherwise the broker's
    /// reply is awaited.
    pub in_kernel: bool,
    /// The number of attempts.
    pub attempts: u8,
}

/// A bind that waits until the holder of its address is known.
#[derive(Debug)]
pub struct PendingBind {
    /// A duplicate of the program's socket.
    pub socket: OwnedFd,
    /// The socket's descriptor number in the program.
    pub number: i32,
    /// The endpoint that the bind resolves to.
    pub endpoint: Endpoint,
    /// The family of the program's socket.
    pub family: Family,
    /// The address that the program asked for.
    pub asked: SocketAddr,
    /// What it waits for.
    pub stage: BindStage,
}

/// The reasons for which a bind waits, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BindStage {
    /// The search with this number, for a socket at the bind's address that is not at its known
    /// place in the program.
    Search(u64),
    /// The broker is closing its duplicate of a socket at the bind's address that the program has
    /// closed.
    Closing,
    /// The search with this number: the address is in use although imsup has no socket open there.
    LastSearch(u64),
    /// The broker is asked for a retained socket.
    Claim,
}

/// The kind of a pending call.
#[derive(Debug)]
pub enum Waiting {
    /// connect(2) of a TCP socket.
    Connect(PendingConnect),
    /// connect(2) of a UDP socket: carried out by the kernel once the broker retains the endpoint.
    Datagram {
        /// The target endpoint.
        endpoint: Endpoint,
        /// The call.
        call: Notification,
    },
    /// Datagrams, which are sent once the broker retains the endpoint of the first.
    Send {
        /// The endpoint of the first datagram.
        endpoint: Endpoint,
        /// The call.
        call: Notification,
    },
    /// bind(2).
    Bind(PendingBind),
    /// accept(2) of a blocking listener, until the connections in a retained listener have been
    /// handed over.
    Accept {
        /// The call.
        call: Notification,
        /// The inode of the listener.
        listener: u64,
    },
    /// A call that is begun anew once its wait is over.
    Anew {
        /// The call.
        call: Notification,
        /// The condition that ends the wait.
        until: Until,
    },
}

/// When a call is begun anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// Once the holder of a socket of this host is known.
    Vetted {
        /// The endpoint that the call resolves to.
        endpoint: Endpoint,
        /// The search that must be over.
        search: u64,
    },
    /// Once the broker has sent sockets for resolvers: the call sends a query to a name server, or
    /// connects the query's socket.
    ResolverSockets,
    /// Once the broker has said whether a user is of the project.
    Trusted {
        /// The user.
        uid: u32,
        /// The endpoint at which a socket of the user answers.
        endpoint: Endpoint,
    },
}

/// A pending call.
#[derive(Debug)]
pub struct PendingCall {
    /// The caller.
    pub tid: i32,
    /// The beginning of the wait.
    pub since: Instant,
    /// The time at which the call fails with ETIMEDOUT (or with the errno of the socket's own
    /// time-out). A call that waits for a resolver's socket is begun anew instead.
    pub deadline: Instant,
    /// The errno of the call at the deadline.
    pub timeout_errno: i32,
    /// What it is.
    pub waiting: Waiting,
}

impl PendingCall {
    /// Whether a signal ends the wait: bind(2) never fails with EINTR.
    pub fn is_interruptible(&self) -> bool {
        !matches!(self.waiting, Waiting::Bind(_))
    }

    /// The inode of the call's listener, if the call is an accept(2).
    pub fn accepts_from(&self) -> Option<u64> {
        match &self.waiting {
            Waiting::Accept { listener, .. } => Some(*listener),
            _ => None,
        }
    }

    /// The call's result when a signal ends the wait. A connect or accept with a time-out is not
    /// restarted (signal(7)).
    pub fn interruption(&self) -> Answer {
        match &self.waiting {
            Waiting::Connect(connect) if connect.own_timeout.is_some() => Answer::errno(Errno::EINTR),
            Waiting::Accept { .. } if self.deadline < self.since + LONGEST_ACCEPT => Answer::errno(Errno::EINTR),
            _ => Answer::Interrupted,
        }
    }
}

/// The pending calls.
pub type PendingCalls = BTreeMap<NotificationId, PendingCall>;
