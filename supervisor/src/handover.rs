//! Connections that wait in a retained listener of another address family than the program's own.
//!
//! A listener that the broker made before any program bound its port is AF_INET6, and takes IPv4 as well: to a program of AF_INET6 it is given as it
//! is. A program of AF_INET keeps its own listener, and binds and listens beside the retained one. The kernel prefers an AF_INET listener for IPv4
//! (net/ipv4/inet_hashtables.c, compute_score), so all that comes from then on is natively the program's. What waits in the retained one is handed
//! over by accept(2), which is trapped in such a boot, each connection made AF_INET first (IPV6_ADDRFORM, ipv6(7)).
//!
//! Who waited in a listener that was given to the program as it is was accepted by the kernel before the program set the listener's options: these
//! are handed over too, with the options.
//!
//! That the program's listener is readable meanwhile is the doing of a *doorbell*: a connection from here, which waits in its queue, and which
//! the program never sees.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use imsup_wire::Endpoint;
use nix::errno::Errno;

use imsup_linux::socket::{self, Progress, Sharing};
use imsup_linux::{family, succession};

/// How long after the program's listen(2) the retained listener may still get a connection: one whose handshake was under way.
const HANDSHAKE: Duration = Duration::from_millis(20);

/// How long after a listener was let go it is looked whether the doorbell in its queue was reset.
const DOORBELL: Duration = Duration::from_millis(2);

/// How often it is looked whether the program has closed its listener, with those that wait.
const PAUSE: Duration = Duration::from_secs(1);

/// A connection for the program's accept(2).
#[derive(Debug)]
pub struct Accepted {
    /// It.
    pub socket: OwnedFd,
    /// Its other end.
    pub peer: SocketAddr,
    /// Whether it waited in a retained listener: it has options of that, and perhaps its family.
    pub waited: bool,
}

/// Those that wait for a program of AF_INET at one endpoint.
#[derive(Debug)]
pub struct Handover {
    endpoint: Endpoint,
    /// The retained listeners; empty ones are no more.
    retained: Vec<OwnedFd>,
    /// What was put back, or stood before the doorbell in the program's queue.
    first: VecDeque<Accepted>,
    doorbell: Option<Doorbell>,
    /// Since when the program listens.
    since: Option<Instant>,
    next_look: Instant,
}

/// Our end of a connection in the program's queue.
#[derive(Debug)]
struct Doorbell {
    socket: OwnedFd,
    address: SocketAddr,
}

impl Handover {
    fn new(endpoint: Endpoint) -> Self {
        Self {
            endpoint,
            retained: Vec::new(),
            first: VecDeque::new(),
            doorbell: None,
            since: None,
            next_look: Instant::now() + PAUSE,
        }
    }

    /// The program listens: what comes from now on is in its own queue.
    fn begin(&mut self) {
        let now = Instant::now();
        if self.since.is_none() {
            self.since = Some(now);
            self.next_look = now + HANDSHAKE;
        }
        self.ring();
    }

    /// Whether accept(2) is answered by this.
    pub fn is_begun(&self) -> bool {
        self.since.is_some()
    }

    /// The next connection for a program that accepts from `listener`, its own.
    pub fn next(&mut self, listener: BorrowedFd<'_>) -> Option<Accepted> {
        let next = self.first.pop_front().or_else(|| self.take_waiting());
        let Some(next) = next else {
            return self.accept_own(listener);
        };
        if !self.has_waiting()
            && self.doorbell.is_some()
            && let Some(own) = self.accept_until_doorbell(listener)
        {
            // Somebody was quicker than the doorbell, which goes on ringing for that.
            self.first.push_back(own);
        }
        Some(next)
    }

    fn take_waiting(&self) -> Option<Accepted> {
        self.retained.iter().find_map(|old| accept(old.as_fd(), true))
    }

    fn has_waiting(&self) -> bool {
        !self.first.is_empty() || self.retained.iter().any(|old| socket::is_readable(old.as_fd()))
    }

    fn accept_own(&mut self, listener: BorrowedFd<'_>) -> Option<Accepted> {
        loop {
            let connection = accept(listener, false)?;
            if !self.is_doorbell(&connection) {
                return Some(connection);
            }
            self.doorbell = None;
        }
    }

    /// Takes what is first in the program's queue, unless that is the doorbell, which is taken away.
    fn accept_until_doorbell(&mut self, listener: BorrowedFd<'_>) -> Option<Accepted> {
        let connection = accept(listener, false)?;
        if self.is_doorbell(&connection) {
            self.doorbell = None;
            return None;
        }
        Some(connection)
    }

    fn is_doorbell(&self, connection: &Accepted) -> bool {
        let doorbell = self.doorbell.as_ref();
        let (ip, port) = (connection.peer.ip().to_canonical(), connection.peer.port());
        doorbell.is_some_and(|doorbell| doorbell.address == SocketAddr::new(ip, port))
    }

    fn ring(&mut self) {
        if self.doorbell.is_some() || !self.has_waiting() {
            return;
        }
        match family::ring(self.endpoint.address) {
            Ok((socket, address)) => self.doorbell = Some(Doorbell { socket, address }),
            Err(errno) => {
                tracing::warn!(endpoint = %self.endpoint, %errno, "a program is not told of connections that wait for it");
            }
        }
    }

    /// Whether the program has closed its listener: the doorbell, which was in its queue, was reset.
    fn is_closed(&self) -> bool {
        let doorbell = self.doorbell.as_ref();
        doorbell.is_some_and(|doorbell| socket::progress(doorbell.socket.as_fd()) == Progress::Failed)
    }

    /// Whether nobody waits any more, and nobody can come.
    fn is_over(&self) -> bool {
        let late = self.since.is_some_and(|since| since.elapsed() >= HANDSHAKE);
        late && self.doorbell.is_none() && !self.has_waiting()
    }

    /// Ends it. Who still waits is reset.
    fn end(self) {
        for old in &self.retained {
            if let Err(errno) = socket::stop_listening(old.as_fd()) {
                tracing::warn!(endpoint = %self.endpoint, %errno, "a retained listener goes on queueing");
            }
        }
    }
}

/// All of a host's.
#[derive(Debug, Default)]
pub struct Handovers {
    /// Whether the program runs under the filter that traps accept(2).
    possible: bool,
    by_endpoint: BTreeMap<Endpoint, Handover>,
    /// How many waited in retained listeners that the program was given as they are, and were not accepted yet; by the inodes of these too, since several
    /// may share an endpoint.
    given: BTreeMap<(Endpoint, u64), u32>,
    /// Sockets of the program, by cookie, that share their port with a retained one until they listen, and what they share it by that the program
    /// has not set.
    sharing: BTreeMap<u64, Vec<Sharing>>,
}

impl Handovers {
    /// None yet. `possible` where accept(2) is trapped.
    pub fn new(possible: bool) -> Self {
        Self {
            possible,
            ..Self::default()
        }
    }

    /// Whether accept(2) is trapped.
    pub fn are_possible(&self) -> bool {
        self.possible
    }

    /// Whether none is under way.
    pub fn is_empty(&self) -> bool {
        self.by_endpoint.is_empty() && self.given.is_empty()
    }

    /// The program is given a retained listener, in which so many wait.
    pub fn give(&mut self, endpoint: Endpoint, inode: u64, waiting: u32) {
        if self.possible && waiting > 0 {
            self.given.insert((endpoint, inode), waiting);
        }
    }

    /// The next of those that waited in a listener when the program was given it.
    pub fn next_given(&mut self, endpoint: Endpoint, listener: BorrowedFd<'_>) -> Option<Accepted> {
        if self.given.is_empty() {
            return None;
        }
        let key = (endpoint, socket::inode(listener).ok()?);
        let left = self.given.get_mut(&key)?;
        *left -= 1;
        let accepted = accept(listener, true);
        if *left == 0 || accepted.is_none() {
            self.given.remove(&key);
        }
        accepted
    }

    /// A program of AF_INET binds where this listener is retained.
    pub fn add(&mut self, endpoint: Endpoint, retained: OwnedFd) {
        let handover = self
            .by_endpoint
            .entry(endpoint)
            .or_insert_with(|| Handover::new(endpoint));
        handover.retained.push(retained);
    }

    /// The retained listeners of an endpoint beside which the program has bound and not listened: it may bind anew, with the other family.
    pub fn take_back(&mut self, endpoint: Endpoint) -> Vec<OwnedFd> {
        if self.by_endpoint.get(&endpoint).is_none_or(Handover::is_begun) {
            return Vec::new();
        }
        let handover = self.by_endpoint.remove(&endpoint);
        handover.map(|handover| handover.retained).unwrap_or_default()
    }

    /// Lets a socket of the program be bound beside the retained listeners of an endpoint (SO_REUSEPORT), where there are any, and beside connections of
    /// theirs in TIME_WAIT (SO_REUSEADDR), which would not be in the way of a retained one either; true where there are.
    ///
    /// # Errors
    /// EPERM where it is another user's, and we lack CAP_CHOWN; what setsockopt(2) says.
    pub fn share(&mut self, endpoint: Endpoint, own: BorrowedFd<'_>) -> Result<bool, Errno> {
        let Some(handover) = self.by_endpoint.get(&endpoint) else {
            return Ok(false);
        };
        for old in &handover.retained {
            succession::adopt_owner(own, old.as_fd())?;
            // A program that had it at an earlier boot has set what it liked.
            Sharing::Port.set(old.as_fd(), true)?;
        }
        for option in [Sharing::Port, Sharing::Address] {
            if !option.is_set(own) {
                option.set(own, true)?;
                self.sharing.entry(socket::cookie(own)?).or_default().push(option);
            }
        }
        Ok(true)
    }

    /// The program listens on a socket, or could not bind it: it shares its port no more than the program said.
    pub fn share_no_more(&mut self, own: BorrowedFd<'_>) {
        if self.sharing.is_empty() {
            return;
        }
        let options = socket::cookie(own).ok().and_then(|cookie| self.sharing.remove(&cookie));
        let Some(options) = options else { return };
        for option in &options {
            let _ = option.set(own, false);
        }
        // The kernel remembers of the port that it is shared, until a socket is bound to it that does not share.
        if options.contains(&Sharing::Port)
            && let Some(local) = socket::local_address(own)
            && local.port() != 0
        {
            family::forget_sharing(local.port());
        }
    }

    /// Puts a connection back that the program could not be given.
    pub fn put_back(&mut self, endpoint: Endpoint, connection: Accepted) {
        let handover = self
            .by_endpoint
            .entry(endpoint)
            .or_insert_with(|| Handover::new(endpoint));
        handover.first.push_front(connection);
        handover.begin();
    }

    /// What is under way at an endpoint.
    pub fn get_mut(&mut self, endpoint: Endpoint) -> Option<&mut Handover> {
        self.by_endpoint.get_mut(&endpoint)
    }

    /// The program listens at this endpoint.
    pub fn listens(&mut self, endpoint: Endpoint) {
        if let Some(handover) = self.by_endpoint.get_mut(&endpoint) {
            handover.begin();
        }
    }

    /// The endpoint is bound anew: who waited for a listener that was closed is reset, as natively.
    pub fn bound_anew(&mut self, endpoint: Endpoint) {
        let handover = self.by_endpoint.get(&endpoint);
        if handover.is_some_and(|handover| handover.is_begun() && (handover.is_closed() || handover.is_over())) {
            self.end(endpoint);
        }
    }

    /// The program does not have its listener at this endpoint where it had it. If it has closed that, nobody may come to the retained ones any more.
    pub fn left(&mut self, endpoint: Endpoint) {
        let is_left = |handover: &Handover| {
            handover.is_begun() && (handover.is_closed() || (handover.doorbell.is_none() && !handover.has_waiting()))
        };
        if self.by_endpoint.get(&endpoint).is_some_and(is_left) {
            self.end(endpoint);
        }
        if let Some(handover) = self.by_endpoint.get_mut(&endpoint)
            && handover.is_begun()
        {
            // Whether the doorbell was reset is seen once no duplicate of the listener is left.
            handover.next_look = Instant::now() + DOORBELL;
        }
    }

    /// An accept(2) was answered at this endpoint: it may have been the last.
    pub fn accepted(&mut self, endpoint: Endpoint) {
        if self.by_endpoint.get(&endpoint).is_some_and(Handover::is_over) {
            self.end(endpoint);
        }
    }

    /// When to look.
    pub fn due(&self) -> Option<Instant> {
        self.by_endpoint.values().map(|handover| handover.next_look).min()
    }

    /// Looks, where it is time: for who came late, and for listeners that were closed.
    pub fn look(&mut self) {
        let now = Instant::now();
        let due = |(endpoint, handover): (&Endpoint, &Handover)| (handover.next_look <= now).then_some(*endpoint);
        let endpoints: Vec<Endpoint> = self.by_endpoint.iter().filter_map(due).collect();
        for endpoint in endpoints {
            let Some(handover) = self.by_endpoint.get_mut(&endpoint) else {
                continue;
            };
            handover.next_look = now + PAUSE;
            if handover.is_begun() {
                handover.ring();
            }
            if handover.is_over() || handover.is_closed() {
                self.end(endpoint);
            }
        }
    }

    /// The program has ended: the retained listeners in which somebody waits still, for its next boot.
    pub fn take_waiting(&mut self) -> Vec<(Endpoint, OwnedFd)> {
        let all = std::mem::take(&mut self.by_endpoint).into_iter();
        let retained = all.flat_map(|(endpoint, handover)| {
            let begun = handover.is_begun();
            let retained = handover.retained.into_iter();
            // What the program has not listened beside is the broker's, still.
            retained.filter_map(move |old| (begun && socket::is_readable(old.as_fd())).then_some((endpoint, old)))
        });
        retained.collect()
    }

    fn end(&mut self, endpoint: Endpoint) {
        if let Some(handover) = self.by_endpoint.remove(&endpoint) {
            handover.end();
        }
    }
}

fn accept(listener: BorrowedFd<'_>, waited: bool) -> Option<Accepted> {
    let (socket, peer) = family::accept(listener).ok()?;
    Some(Accepted { socket, peer, waited })
}

/// Makes a connection from a retained listener one of AF_INET.
///
/// # Errors
/// ENOTCONN where its peer has closed it, or its sending side, already: the kernel converts established ones only.
pub fn convert(connection: BorrowedFd<'_>) -> Result<(), Errno> {
    family::become_v4(connection)
}
