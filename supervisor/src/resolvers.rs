//! Sockets for the program's resolver: UDP sockets of a network namespace in which the project's
//! name server has every address, so that answers come from the address that was asked. The broker
//! gives them in batches.

use std::collections::{BTreeSet, VecDeque};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use imsup_linux::socket::{self, Family};

/// The broker is asked for more sockets if fewer are left. A resolver takes a socket for each
/// query, and need not wait for the next socket.
const FEW: usize = 3;

/// Sockets of a family kept at most.
const MOST: usize = 16;

/// The time in which the broker is not asked again after it had no sockets.
const RETRY: Duration = Duration::from_secs(10);

/// The age up to which a bound socket may still be a socket for a query. Resolvers that choose
/// their ports themselves (Ruby's, dnsmasq, dnsjava) send the query at once.
const LATELY: Duration = Duration::from_secs(5);

/// Binds remembered for that time.
const BINDS: usize = 64;

/// Namespaces remembered: each broker has a namespace, and a second namespace if the process that
/// made the first was killed.
const NAMESPACES: usize = 4;

/// The supply for the program's next query.
#[derive(Debug)]
pub enum Supply {
    /// A socket.
    Socket(OwnedFd),
    /// None yet; the broker was asked for some, or is to be.
    Awaited,
    /// None can be had.
    None,
}

/// The remaining sockets, and the known namespaces of such sockets.
#[derive(Debug, Default)]
pub struct Resolvers {
    v4: Vec<OwnedFd>,
    v6: Vec<OwnedFd>,
    /// Whether the last batch had none of AF_INET6.
    without_v6: bool,
    /// Whether the broker was asked and has not answered.
    asked: bool,
    /// When the broker last had none.
    none_at: Option<Instant>,
    /// SO_NETNS_COOKIE of the sockets' namespaces, the latest last.
    namespaces: Vec<u64>,
    /// SO_NETNS_COOKIE of our own.
    own: Option<u64>,
    /// Datagram sockets that were bound a moment ago to a port chosen by the program, by cookie;
    /// the latest last.
    bound: VecDeque<(u64, Instant)>,
    /// Descriptors whose socket was replaced by a socket of the namespace. These descriptors may be
    /// other files by now.
    replaced: BTreeSet<RawFd>,
}

/// Which network namespace a socket is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Namespace {
    /// Ours.
    Own,
    /// The namespace of the broker's sockets.
    Resolvers,
    /// A namespace that the name server has left: the broker that made the namespace is gone.
    Left,
    /// A namespace made by the program, or an unknown namespace.
    Other,
}

impl Resolvers {
    /// A socket of this family.
    pub fn take(&mut self, family: Family) -> Supply {
        let sockets = match family {
            Family::V4 => &mut self.v4,
            Family::V6 => &mut self.v6,
        };
        match sockets.pop() {
            Some(socket) => Supply::Socket(socket),
            None if self.has_none() || (family == Family::V6 && self.without_v6) => Supply::None,
            None => Supply::Awaited,
        }
    }

    fn has_none(&self) -> bool {
        self.none_at.is_some_and(|at| at.elapsed() < RETRY)
    }

    /// True if the broker is to be asked now. The broker counts as asked from then on.
    pub fn wants_more(&mut self) -> bool {
        let few = self.v4.len() < FEW || (self.v6.len() < FEW && !self.without_v6);
        few && !self.has_none() && !std::mem::replace(&mut self.asked, true)
    }

    /// The broker's answer.
    pub fn receive(&mut self, v4: Vec<OwnedFd>, v6: Vec<OwnedFd>) {
        self.asked = false;
        self.none_at = v4.is_empty().then(Instant::now);
        self.without_v6 = v6.is_empty();
        if let Some(namespace) = v4.first().and_then(|socket| socket::namespace(socket.as_fd()).ok())
            && self.namespaces.last() != Some(&namespace)
        {
            // Queries from sockets of the former namespace get no answer.
            self.v4.clear();
            self.v6.clear();
            self.namespaces.retain(|known| *known != namespace);
            self.namespaces.push(namespace);
            if self.namespaces.len() > NAMESPACES {
                self.namespaces.remove(0);
            }
        }
        for (kept, more) in [(&mut self.v4, v4), (&mut self.v6, v6)] {
            kept.extend(more);
            kept.truncate(MOST);
        }
    }

    /// The broker is gone, and so is its name server.
    pub fn lose_broker(&mut self) {
        self.asked = false;
        self.none_at = Some(Instant::now());
        self.v4.clear();
        self.v6.clear();
        // The next namespace will be different.
        self.namespaces.push(0);
    }

    /// There is another broker.
    pub fn regain_broker(&mut self) {
        self.none_at = None;
    }

    /// A datagram socket was bound to a port chosen by the program and not known before.
    pub fn note_bind(&mut self, cookie: u64) {
        if self.bound.len() == BINDS {
            self.bound.pop_front();
        }
        self.bound.push_back((cookie, Instant::now()));
    }

    /// Whether that was a moment ago.
    pub fn is_bound_lately(&self, cookie: u64) -> bool {
        let mut bound = self.bound.iter();
        bound.any(|(known, at)| *known == cookie && at.elapsed() < LATELY)
    }

    /// These descriptors of the program are now of the namespace.
    pub fn note_replaced(&mut self, numbers: &[RawFd]) {
        self.replaced.extend(numbers);
    }

    /// This descriptor no longer is.
    pub fn note_back(&mut self, number: RawFd) {
        self.replaced.remove(&number);
    }

    /// Whether this descriptor may be of the namespace.
    pub fn has_replaced(&self, number: RawFd) -> bool {
        self.replaced.contains(&number)
    }

    /// Which namespace a socket is of.
    pub fn namespace_of(&mut self, socket: BorrowedFd<'_>) -> Namespace {
        let Ok(cookie) = socket::namespace(socket) else {
            return Namespace::Other;
        };
        if self.namespaces.last() == Some(&cookie) {
            return Namespace::Resolvers;
        }
        if self.namespaces.contains(&cookie) {
            return Namespace::Left;
        }
        if self.own.is_none() {
            let probe = socket::make(libc::AF_INET, libc::SOCK_DGRAM, 0);
            self.own = probe.and_then(|probe| socket::namespace(probe.as_fd())).ok();
        }
        if self.own == Some(cookie) {
            Namespace::Own
        } else {
            Namespace::Other
        }
    }
}
