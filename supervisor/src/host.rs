//! The state that a supervisor keeps of its host.

pub mod bound;
pub mod closed_listeners;

use std::collections::HashMap;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use imsup_protocol::ToBroker;
use imsup_protocol::message::Role;
use imsup_wire::{Endpoint, Transport};
use nix::errno::Errno;

use self::bound::BoundSockets;
use self::closed_listeners::ClosedListeners;
use crate::handover::Handovers;
use crate::identity::{Destination, Identity};
use crate::incoming::Incoming;
use crate::link::Link;
use crate::mirror::SocketMirror;
use crate::resolvers::Resolvers;
use crate::sockets::{NativePorts, OwnConnections, Retained, SocketTable};
use crate::strangers::Strangers;
use crate::trace::Trace;
use crate::unhonoured::Warned;
use imsup_linux::notify::{Listener, NotificationId};
use imsup_linux::support::Support;
use imsup_linux::task::Tasks;
use imsup_linux::{process, socket};

/// The state that the handlers of trapped calls work on.
#[derive(Debug)]
pub struct Host {
    /// The source of notifications.
    pub listener: Listener,
    /// The way to the program's sockets.
    pub descriptors: Descriptors,
    /// The host's addresses.
    pub identity: Identity,
    /// The node name that `uname` reports.
    pub hostname: String,
    /// The supervisor's role in the host.
    pub role: Role,
    /// The program's requests for its sockets.
    pub sockets: SocketTable,
    /// The sockets retained for the host.
    pub retained: Retained,
    /// Connections that are handed to the program in its own address family.
    pub handovers: Handovers,
    /// The record of the listeners that the program still has.
    pub closed_listeners: ClosedListeners,
    /// Arrivals in the host's sockets.
    pub incoming: Incoming,
    /// The call that is begun anew, and the beginning of its wait for the holder of an address or
    /// for a resolver's socket.
    pub begun_anew: Option<(NotificationId, Instant)>,
    /// Ports that the kernel chose on the machine's own addresses.
    pub native_ports: NativePorts,
    /// The sockets that the program bound.
    pub bound: BoundSockets,
    /// Connections of the host to its own localhost that were redirected to its VIP.
    pub own_connections: OwnConnections,
    /// True if a UDP socket was bound to one of the host's addresses.
    pub has_bound_datagrams: bool,
    /// Endpoints that lately answered connects or took datagrams.
    pub answered: Answered,
    /// Listeners at hosts' addresses that do not belong to the project.
    pub strangers: Strangers,
    /// The broker.
    pub link: Link,
    /// Sockets for the program's resolver.
    pub resolvers: Resolvers,
    /// Lines for /etc/hosts.
    pub hosts_file: PathBuf,
    /// How long others wait for the host.
    pub hold_timeout: Duration,
    /// The bound of every wait for another.
    pub reach_timeout: Duration,
    /// How far the program's start has come.
    pub start: Start,
    /// The program's requests that imsup cannot honour, warned once each.
    pub warned: Warned,
    /// The trace of the program's calls, for people.
    pub trace: Trace,
}

/// How the program's sockets are reached.
#[derive(Debug)]
pub enum Descriptors {
    /// By pidfd_getfd(2), from the threads that make calls.
    Duplicated(Tasks),
    /// By a mirror, if pidfd_getfd(2) is refused.
    Mirrored(SocketMirror),
}

impl Descriptors {
    /// The way there is.
    pub fn new(support: Support) -> Self {
        if support.pidfd_getfd {
            Self::Duplicated(Tasks::new(support))
        } else {
            Self::Mirrored(SocketMirror::default())
        }
    }
}

/// Endpoints that answered a connect a moment ago. The next connect is left to the kernel once its
/// source is bound. That saves an attempt here: six system calls of seventeen.
///
/// Datagrams, which are never refused, are left to the kernel after the broker's consent. The
/// consent lasts no longer than this, since the broker gives up its socket when the program settles
/// without binding the endpoint.
///
/// What answered was listened on or retained, and goes on answering; only a tentative listener, or
/// a port that the kernel chose, can be gone within [`Answered::TRUSTED`].
#[derive(Debug, Default)]
pub struct Answered {
    at: HashMap<Endpoint, Instant>,
}

impl Answered {
    /// For how long an answer is trusted.
    const TRUSTED: Duration = Duration::from_secs(1);
    /// Endpoints remembered; beyond that, all are tried anew.
    const CAPACITY: usize = 256;

    /// Whether `endpoint` answered lately.
    pub fn lately(&self, endpoint: Endpoint) -> bool {
        self.at.get(&endpoint).is_some_and(|at| at.elapsed() < Self::TRUSTED)
    }

    /// `endpoint` has answered.
    pub fn note(&mut self, endpoint: Endpoint) {
        if self.at.len() == Self::CAPACITY {
            self.at.clear();
        }
        self.at.insert(endpoint, Instant::now());
    }

    /// The broker is gone, and so are its retained sockets.
    pub fn forget(&mut self) {
        self.at.clear();
    }
}

/// How far a program's start has come.
#[derive(Clone, Copy, Debug)]
pub struct Start {
    /// The time of the program's last bind or listen, or of its execution.
    pub last_step: Instant,
    /// True if the program has listened.
    pub listening: bool,
    /// True if the broker was told of a listening endpoint.
    pub announced: bool,
    /// Whether the broker was told that the start is over.
    pub settled: bool,
}

/// The quiet time after which the start of a listening program is over. Programs that open several
/// ports, such as a JVM cluster's, do so within seconds of each other.
const QUIET: Duration = Duration::from_secs(5);

impl Start {
    /// Whether the program listens, or has settled without.
    pub fn is_over(&self) -> bool {
        self.listening || self.settled
    }

    /// The time at which the start is over unless the program binds or listens before; `None` once
    /// the broker knows. A program that does not listen has as much time as its waiting clients,
    /// and some more. The broker counts from the signal, and is to tell the clients first that the
    /// wait is over. Of a program without any port (`has_ports`), nothing is expected.
    pub fn settles_at(&self, hold_timeout: Duration, is_awaited: bool, has_ports: bool) -> Option<Instant> {
        // A program that only listens on ports chosen by the kernel has not begun with the ports
        // for which others can wait.
        let quiet = match (self.announced || (self.listening && !is_awaited), is_awaited) {
            (true, _) => QUIET,
            (false, true) => hold_timeout + QUIET,
            (false, false) if !has_ports => QUIET,
            (false, false) => hold_timeout / 2,
        };
        (!self.settled).then(|| self.last_step + quiet)
    }
}

impl Host {
    /// A duplicate of the socket behind descriptor `number` of thread `tid`.
    ///
    /// # Errors
    /// As [`Tasks::duplicate`], or [`process::socket_of`]; ENOLINK if there is no copy.
    pub fn socket(&mut self, tid: i32, number: RawFd) -> Result<OwnedFd, Errno> {
        match &mut self.descriptors {
            Descriptors::Duplicated(tasks) => tasks.duplicate(tid, number),
            Descriptors::Mirrored(mirror) => {
                let inode = process::socket_of(tid, number)?;
                let copy = mirror.get(inode).or_else(|| self.retained.by_inode(inode));
                socket::duplicate(copy.ok_or(Errno::ENOLINK)?)
            }
        }
    }

    /// A duplicate of any descriptor of a thread.
    ///
    /// # Errors
    /// As [`Tasks::duplicate`]; EPERM if duplication of descriptors is refused.
    pub fn duplicate(&mut self, tid: i32, number: RawFd) -> Result<OwnedFd, Errno> {
        match &mut self.descriptors {
            Descriptors::Duplicated(tasks) => tasks.duplicate(tid, number),
            Descriptors::Mirrored(_) => Err(Errno::EPERM),
        }
    }

    /// Gives up the copy of a socket that is connected, about to be connected, or listening.
    pub fn give_up_copy(&mut self, socket: BorrowedFd<'_>) {
        if let Descriptors::Mirrored(mirror) = &mut self.descriptors
            && let Ok(inode) = socket::inode(socket)
        {
            mirror.give_up(inode);
        }
    }

    /// The same for the stream socket behind a descriptor, before the kernel connects the socket
    /// elsewhere.
    pub fn give_up_copy_of(&mut self, tid: i32, number: RawFd) {
        if let Descriptors::Mirrored(mirror) = &mut self.descriptors
            && let Ok(inode) = process::socket_of(tid, number)
            && mirror.get(inode).is_some_and(|copy| socket::is_stream(copy.as_fd()))
        {
            mirror.give_up(inode);
        }
    }

    /// True if a socket has no copy because the copy was given up.
    pub fn is_remembered(&self, tid: i32, number: RawFd) -> bool {
        match &self.descriptors {
            Descriptors::Duplicated(_) => false,
            Descriptors::Mirrored(mirror) => {
                process::socket_of(tid, number).is_ok_and(|inode| mirror.remembered(inode).is_some())
            }
        }
    }

    /// To be called before `socket` is bound to `port`: gives up copies that only imsup holds and
    /// that occupy the port.
    pub fn make_way(&mut self, socket: BorrowedFd<'_>, port: u16) {
        if let Descriptors::Mirrored(mirror) = &mut self.descriptors
            && let Ok(inode) = socket::inode(socket)
        {
            mirror.make_way(inode, port);
        }
    }

    /// Notes a bind or listen.
    pub fn note_step(&mut self) {
        self.start.last_step = Instant::now();
    }

    /// Tells the broker that the program listens on `endpoint`. The broker then retains `socket`.
    pub fn announce(&mut self, endpoint: Endpoint, socket: OwnedFd) {
        self.start.listening = true;
        self.start.announced = true;
        self.note_step();
        self.link.send(&ToBroker::Listening { endpoint }, vec![socket]);
    }

    /// The meaning of an address as a destination. If the host has its own name server on its
    /// localhost, queries to that address go to the host's server.
    pub fn destination(&self, transport: Transport, address: SocketAddr) -> Destination {
        let destination = self.identity.destination(address);
        let (ip, port) = (address.ip().to_canonical(), address.port());
        let v6 = ip.is_ipv6();
        let is_localhost =
            ip.is_unspecified() || [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()].contains(&ip);
        if destination != Destination::NameServer || !is_localhost {
            return destination;
        }
        let at = |ip: Ipv4Addr| Endpoint {
            transport,
            address: SocketAddrV4::new(ip, port),
        };
        let wildcard = at(self.identity.vip());
        let private = at(if v6 {
            self.identity.v6_shadow()
        } else {
            self.identity.localhost()
        });
        let listens_at_wildcard = match v6 {
            true => self.retained.is_dual_stack(wildcard),
            false => self.retained.is_listen_target(wildcard),
        };
        let is_taken = |endpoint| !self.sees_all_listeners() && is_taken(endpoint);
        let has_own =
            listens_at_wildcard || self.retained.is_listen_target(private) || is_taken(private) || is_taken(wildcard);
        if has_own {
            Destination::Localhost { v6, port }
        } else {
            destination
        }
    }

    /// True if this supervisor sees all listeners of its host. The supervisor of an `imsup exec`
    /// command does not.
    pub fn sees_all_listeners(&self) -> bool {
        self.role != Role::Exec
    }
}

/// True if a socket has this address according to the kernel. A socket at the machine's wildcard
/// does not count.
fn is_taken(endpoint: Endpoint) -> bool {
    socket::is_endpoint_in_use(endpoint) && !socket::is_endpoint_in_use(socket::at_machine_wildcard(endpoint))
}
