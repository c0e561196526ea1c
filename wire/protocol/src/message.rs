//! The messages between a supervisor and its broker.
//!
//! A supervisor connects and sends [`ToBroker::Hello`]; the broker answers
//! [`ToSupervisor::Welcome`] or [`ToSupervisor::Rejected`]. After that either side sends what it
//! has to say at any time. Questions carry an `id` chosen by the asker; the answer repeats it.

use std::net::{SocketAddr, SocketAddrV4};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use imsup_wire::address::{Endpoint, Index, Planes};
use imsup_wire::failure::Failure;
use imsup_wire::host::{ExitStatus, HostName};
use imsup_wire::limits::Confinement;
use imsup_wire::sleep::{Awake, Order, Report, SleepPolicy, Usage, WakeCause};

/// The role of a supervisor for a host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Role {
    /// The supervisor of the host's program, started by the broker's launcher for this boot.
    Launched {
        /// The boot's token, made by the broker and passed to the launcher.
        boot: u64,
    },
    /// The supervisor of the host's program, started by a user: `imsup run --host`.
    Started,
    /// A host that exists only as long as the program: `imsup run` without `--host`.
    Transient,
    /// An additional command with the identity of a host: `imsup exec`.
    Exec,
}

/// The report of a supervisor that outlived a broker to the next broker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Adoption {
    /// The index the earlier broker gave to the host.
    pub index: Index,
    /// The program's first process, shown to people only.
    pub pid: u32,
    /// When the program was started: microseconds since the Unix epoch.
    pub started_us: u64,
    /// Whether the host listens, or settled without.
    pub ready: bool,
    /// The beginning of the sleep, if the host sleeps: microseconds since the Unix epoch.
    pub suspended_us: Option<u64>,
    /// The usage so far.
    pub usage: Usage,
}

/// From a supervisor to the broker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToBroker {
    /// The first message. Sockets that the program already listens on follow as
    /// [`ToBroker::Listening`].
    Hello {
        /// The host; for a transient host the wanted name, or `None` for a name of the broker's.
        host: Option<HostName>,
        /// The supervisor's role.
        role: Role,
        /// Names under which the program is known to people (its argv).
        command: Vec<String>,
        /// Set by a supervisor that was welcomed by an earlier broker.
        adoption: Option<Adoption>,
    },
    /// The program was executed.
    Started {
        /// The program's first process, shown to people only.
        pid: u32,
    },
    /// The program listens here. Carries one descriptor: a duplicate of the listening (or bound
    /// datagram) socket, which the broker retains.
    Listening {
        /// Where, in one of the planes.
        endpoint: Endpoint,
    },
    /// The program has opened no more ports for a while: the program listens and has been quiet
    /// since, or settled without listening.
    Settled,
    /// Somebody is to be reached at this endpoint, where nothing listened when it was tried.
    /// Answered by [`ToSupervisor::Reached`].
    Reach {
        /// The question's number.
        id: u64,
        /// Where.
        endpoint: Endpoint,
        /// Whether the caller can wait for the host's own socket. If not (a non-blocking socket),
        /// the broker makes a tentative listener and answers at once.
        can_wait: bool,
    },
    /// The caller of this [`ToBroker::Reach`] is gone or was interrupted.
    CancelReach {
        /// The question's number.
        id: u64,
    },
    /// A bind found the address in use: does the broker retain a socket for it? Answered by
    /// [`ToSupervisor::Claimed`].
    Claim {
        /// The question's number.
        id: u64,
        /// The address bound.
        endpoint: Endpoint,
    },
    /// The host sleeps.
    Suspended {
        /// Since when: microseconds since the Unix epoch.
        time_us: u64,
        /// The host's next deadline: microseconds since the Unix epoch.
        deadline_us: Option<u64>,
        /// The duration of the suspending, from the decision on.
        took: Duration,
        /// The usage so far.
        usage: Usage,
    },
    /// The host was woken.
    Woke {
        /// When: microseconds since the Unix epoch.
        time_us: u64,
        /// Why.
        cause: WakeCause,
        /// Whether [`ToBroker::WokenBy`] follows, within a moment, and the event can wait for it.
        named_later: bool,
        /// The duration of the sleep.
        slept: Duration,
        /// How often a deadline was let pass meanwhile.
        ticks: u64,
        /// The duration of the waking.
        took: Duration,
        /// The usage so far.
        usage: Usage,
    },
    /// The sender of the signal in the last [`ToBroker::Woke`], as far as the sender is known.
    WokenBy {
        /// The peer.
        by: Option<SocketAddr>,
        /// The host's own port.
        port: Option<u16>,
    },
    /// A sleeper's deadline was let pass, and the host sleeps again.
    Ticked {
        /// The next deadline: microseconds since the Unix epoch.
        deadline_us: Option<u64>,
        /// The duration of the run.
        took: Duration,
    },
    /// A sleeper's memory was paged out.
    Reclaimed {
        /// The amount that came back.
        bytes: u64,
        /// The duration of the paging out.
        took: Duration,
        /// The reason why no more came back ("anonymous memory needs swap, and there is none").
        detail: Option<String>,
    },
    /// A sleeper is being ended, after a sleep of `terminate_after`. The next signal boots the host
    /// again. The sockets on which the host listened follow as [`ToBroker::Listening`] if other
    /// sockets took their place.
    Terminating {
        /// The duration of the sleep.
        slept: Duration,
        /// The usage so far.
        usage: Usage,
    },
    /// The answer to a [`ToSupervisor::Ask`].
    Answer {
        /// The question's number.
        id: u64,
        /// The answer.
        report: Report,
    },
    /// The program ended. The last message.
    Exited {
        /// How.
        status: ExitStatus,
        /// The usage so far.
        usage: Usage,
    },
    /// The host has slept for `terminate_after`, and only connections with other hosts of the
    /// project prevent the termination. The host can be terminated at the same time as the other
    /// hosts ([`Order::Prepare`]). Taken back by the next [`ToBroker::Woke`].
    Disposable {
        /// The other hosts.
        peers: Vec<Index>,
    },
    /// The program has closed this socket, as far as can be seen, and the supervisor a duplicate:
    /// the broker closes the broker's duplicate, maybe the last. Answered by
    /// [`ToSupervisor::Claimed`] (nothing found) after the close.
    Closed {
        /// The question's number.
        id: u64,
        /// The socket's endpoint.
        endpoint: Endpoint,
        /// The socket's inode number (fstat(2)).
        inode: u64,
    },
    /// The program has bound this port with a socket of another address family than the retained
    /// socket's: the family is not known any more.
    OtherFamily {
        /// Where, in one of the planes.
        endpoint: Endpoint,
    },
    /// The program asks a name server, and sockets are wanted on which answers come from the
    /// address that was asked. Answered by [`ToSupervisor::ResolverSockets`].
    ResolverSockets,
    /// The program binds addresses of the host as this user, who is not the supervisor's: listeners
    /// of this user are the project's.
    Binds {
        /// The user.
        uid: u32,
    },
    /// A socket of this user answers at an endpoint: does the user belong to the project? Answered
    /// by [`ToSupervisor::Trusted`].
    Trusts {
        /// The user.
        uid: u32,
        /// Where.
        endpoint: Endpoint,
    },
    /// The kernel has killed processes of the host, which had used up the memory limit.
    OutOfMemory {
        /// How many.
        killed: u64,
        /// The limit, in bytes.
        limit_bytes: u64,
    },
    /// Asks for [`ToSupervisor::Acknowledged`], once all that was said before has been taken.
    Acknowledge,
    /// The program is about to be executed, or there is another broker. Carries one descriptor: a
    /// duplicate of the listener of the program's trapped calls (seccomp_unotify(2)). The broker
    /// only keeps the duplicate. So the calls of a program wait, and do not fail with ENOSYS, from
    /// the end of a killed supervisor to the end of the program.
    NotifyListener,
}

/// How an attempt to reach an endpoint ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// Something listens: connect (or send) now.
    Connect,
    /// The host runs, or cannot be started, and nobody listens there: ECONNREFUSED.
    Refused,
    /// The wait took longer than `hold_timeout`: ETIMEDOUT.
    TimedOut,
    /// Too many callers wait already: EAGAIN.
    Busy,
    /// There is no such host: leave the call to the kernel.
    Unknown,
}

/// From the broker to a supervisor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToSupervisor {
    /// The answer to a [`ToBroker::Hello`].
    Welcome {
        /// The host's name.
        host: HostName,
        /// What `uname` reports.
        hostname: String,
        /// The host's machine index.
        index: Index,
        /// The planes of the host's addresses.
        planes: Planes,
        /// Where the project's name server answers, over UDP and TCP.
        name_server: SocketAddrV4,
        /// How long others wait for the host.
        hold_timeout: Duration,
        /// The policy of the host's sleep; `None` for a command of `imsup exec`, which is not
        /// suspended.
        sleep: Option<SleepPolicy>,
        /// The reasons to keep the host awake.
        awake: Awake,
        /// Sockets retained for the host. Carries as many descriptors, in this order.
        retained: Vec<Endpoint>,
        /// The bound of every wait for another host. The broker answers before, when the
        /// `hold_timeout` of that host is over.
        reach_timeout: Duration,
        /// Whether the address family that the program binds is known of all retained sockets, from
        /// an earlier boot.
        families_known: bool,
        /// The limits of the host.
        confinement: Box<Confinement>,
    },
    /// The broker does not take this supervisor. The last message.
    Rejected(Failure),
    /// The answer to a [`ToBroker::Reach`].
    Reached {
        /// The question's number.
        id: u64,
        /// The exit status.
        outcome: Outcome,
    },
    /// The answer to a [`ToBroker::Claim`]. Carries a descriptor if `found`. Also the answer to a
    /// [`ToBroker::Closed`].
    Claimed {
        /// The question's number.
        id: u64,
        /// Whether a socket was retained.
        found: bool,
    },
    /// The reasons to keep the host awake from now on, in place of the earlier reasons. The message
    /// does not wake a sleeper.
    KeepAwake(Awake),
    /// Do or say something. Answered by [`ToBroker::Answer`].
    Ask {
        /// The question's number.
        id: u64,
        /// What.
        order: Order,
    },
    /// End the program: `signal`, then SIGKILL after `grace`.
    Stop {
        /// The signal (compose `stop_signal`).
        signal: i32,
        /// The longest time for the end (compose `stop_grace_period`).
        grace: Duration,
    },
    /// The answer to a [`ToBroker::ResolverSockets`]. Carries so many descriptors: unbound UDP
    /// sockets of a network namespace in which the project's name server has every address, port
    /// 53. None if the namespace cannot be made.
    ResolverSockets {
        /// Sockets of AF_INET, which come first.
        v4: u8,
        /// Sockets of AF_INET6.
        v6: u8,
    },
    /// The answer to a [`ToBroker::Trusts`].
    Trusted {
        /// The user.
        uid: u32,
        /// Where.
        endpoint: Endpoint,
        /// True if the user is the project's own, root, a service's user, a subordinate user, or a
        /// user as whom the project's programs bind. Also true if the endpoint is not in the
        /// project.
        is_trusted: bool,
    },
    /// The file that shows others that the host runs (`running/HOST` in the runtime directory) was
    /// removed: make the file anew.
    RetakeRunning,
    /// The answer to a [`ToBroker::Acknowledge`].
    Acknowledged,
}
