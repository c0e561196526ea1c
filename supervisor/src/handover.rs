//! Connections that wait in a retained listener of another address family than the program's own.
//!
//! A listener that the broker made before any program bound its port is AF_INET6, and takes IPv4 as
//! well. The listener is given unchanged to a program of AF_INET6. A program of AF_INET keeps its
//! own listener, and binds and listens beside the retained listener. The kernel prefers an AF_INET
//! listener for IPv4 (net/ipv4/inet_hashtables.c, compute_score), so all later connections natively
//! arrive at the program's listener. Connections that wait in the retained listener are handed over
//! by accept(2), which is trapped in such a boot. Each connection is first converted to AF_INET
//! (IPV6_ADDRFORM, ipv6(7)).
//!
//! A retained listener may be given to the program unchanged. The kernel created the connections
//! waiting in it before the program set the listener's options. These connections are handed over
//! too, with the options.
//!
//! Meanwhile a *doorbell* keeps the program's listener readable: a connection from imsup, which
//! waits in the listener's queue, and which the program never sees.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use imsup_wire::Endpoint;
use nix::errno::Errno;

use imsup_linux::socket::{self, Progress, Sharing};
use imsup_linux::{family, takeover};

/// The time after the program's listen(2) in which the retained listener may still get a
/// connection: a handshake was under way.
const HANDSHAKE: Duration = Duration::from_millis(20);

/// The delay from the release of a listener to the check for a reset of the doorbell in its queue.
const DOORBELL: Duration = Duration::from_millis(2);

/// The period of the checks for a closed listener of the program, while clients wait.
const PAUSE: Duration = Duration::from_secs(1);

/// A connection for the program's accept(2).
#[derive(Debug)]
pub struct Accepted {
    /// It.
    pub socket: OwnedFd,
    /// The connection's peer.
    pub peer: SocketAddr,
    /// True if the connection waited in a retained listener: it has the options of that listener,
    /// and perhaps its family.
    pub waited: bool,
}

/// Connections that wait for a program of AF_INET at one endpoint.
#[derive(Debug)]
pub struct Handover {
    endpoint: Endpoint,
    /// The retained listeners.
    retained: Vec<OwnedFd>,
    /// Connections that were put back, or that stood before the doorbell in the program's queue.
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

    /// The program listens: later connections arrive in its own queue.
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
            // A client was quicker than the doorbell. The doorbell stays in the queue, for that
            // client.
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

    /// Takes the first connection from the program's queue. If that is the doorbell, the doorbell
    /// is dropped.
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

    /// True if the program has closed its listener: the doorbell, which was in its queue, was
    /// reset.
    fn is_closed(&self) -> bool {
        let doorbell = self.doorbell.as_ref();
        doorbell.is_some_and(|doorbell| socket::progress(doorbell.socket.as_fd()) == Progress::Failed)
    }

    /// True if no client waits any more, and no client can arrive.
    fn is_over(&self) -> bool {
        let late = self.since.is_some_and(|since| since.elapsed() >= HANDSHAKE);
        late && self.doorbell.is_none() && !self.has_waiting()
    }

    /// Ends the handover. Clients that still wait are reset.
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
    /// The number of connections that waited in retained listeners when given to the program, minus
    /// those accepted since. The key includes the listener's inode, since several listeners may
    /// share an endpoint.
    given: BTreeMap<(Endpoint, u64), u32>,
    /// The program's sockets, by cookie, that share their port with a retained listener until they
    /// listen. The value lists the sharing options that the program has not set.
    sharing: BTreeMap<u64, Vec<Sharing>>,
}

impl Handovers {
    /// No handovers yet. `possible` is true if accept(2) is trapped.
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

    /// The next of the connections that waited in a listener when the program was given it.
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

    /// A program of AF_INET binds the endpoint of this retained listener.
    pub fn add(&mut self, endpoint: Endpoint, retained: OwnedFd) {
        let handover = self
            .by_endpoint
            .entry(endpoint)
            .or_insert_with(|| Handover::new(endpoint));
        handover.retained.push(retained);
    }

    /// The retained listeners of an endpoint that the program has bound without listening: the
    /// program may bind anew, with the other family.
    pub fn take_back(&mut self, endpoint: Endpoint) -> Vec<OwnedFd> {
        if self.by_endpoint.get(&endpoint).is_none_or(Handover::is_begun) {
            return Vec::new();
        }
        let handover = self.by_endpoint.remove(&endpoint);
        handover.map(|handover| handover.retained).unwrap_or_default()
    }

    /// Lets a socket of the program be bound beside the retained listeners of an endpoint
    /// (SO_REUSEPORT), and beside their connections in TIME_WAIT (SO_REUSEADDR). A retained socket
    /// in place of the program's would not conflict with these connections either. True if there
    /// are retained listeners.
    ///
    /// # Errors
    /// EPERM if a retained listener belongs to another user, and the supervisor lacks CAP_CHOWN;
    /// errors of setsockopt(2).
    pub fn share(&mut self, endpoint: Endpoint, own: BorrowedFd<'_>) -> Result<bool, Errno> {
        let Some(handover) = self.by_endpoint.get(&endpoint) else {
            return Ok(false);
        };
        for old in &handover.retained {
            takeover::adopt_owner(own, old.as_fd())?;
            // A program that had this listener at an earlier boot may have changed the option.
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

    /// The program listens on a socket, or could not bind the socket: from now on the socket shares
    /// its port only as the program asked.
    pub fn share_no_more(&mut self, own: BorrowedFd<'_>) {
        if self.sharing.is_empty() {
            return;
        }
        let options = socket::cookie(own).ok().and_then(|cookie| self.sharing.remove(&cookie));
        let Some(options) = options else { return };
        for option in &options {
            let _ = option.set(own, false);
        }
        // The kernel remembers a port as shared until a socket that does not share is bound to the
        // port.
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

    /// The handover at an endpoint.
    pub fn get_mut(&mut self, endpoint: Endpoint) -> Option<&mut Handover> {
        self.by_endpoint.get_mut(&endpoint)
    }

    /// The program listens at this endpoint.
    pub fn listens(&mut self, endpoint: Endpoint) {
        if let Some(handover) = self.by_endpoint.get_mut(&endpoint) {
            handover.begin();
        }
    }

    /// The endpoint is bound anew: clients that waited for a closed listener are reset, as
    /// natively.
    pub fn bound_anew(&mut self, endpoint: Endpoint) {
        let handover = self.by_endpoint.get(&endpoint);
        if handover.is_some_and(|handover| handover.is_begun() && (handover.is_closed() || handover.is_over())) {
            self.end(endpoint);
        }
    }

    /// The program's listener at this endpoint is not at its known place. If the program has closed
    /// the listener, clients must no longer arrive at the retained listeners.
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

    /// An accept(2) was answered at this endpoint: perhaps with the last connection.
    pub fn accepted(&mut self, endpoint: Endpoint) {
        if self.by_endpoint.get(&endpoint).is_some_and(Handover::is_over) {
            self.end(endpoint);
        }
    }

    /// When to look.
    pub fn due(&self) -> Option<Instant> {
        self.by_endpoint.values().map(|handover| handover.next_look).min()
    }

    /// Looks, if due, for late clients and for closed listeners.
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

    /// The program has ended. Returns the retained listeners in which clients still wait, for the
    /// next boot.
    pub fn take_waiting(&mut self) -> Vec<(Endpoint, OwnedFd)> {
        let all = std::mem::take(&mut self.by_endpoint).into_iter();
        let retained = all.flat_map(|(endpoint, handover)| {
            let begun = handover.is_begun();
            let retained = handover.retained.into_iter();
            // A retained listener still belongs to the broker if the program has not listened
            // beside it.
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

/// Converts a connection of a retained listener to AF_INET.
///
/// # Errors
/// ENOTCONN if the peer has already closed the connection, or the sending side: the kernel converts
/// established connections only.
pub fn convert(connection: BorrowedFd<'_>) -> Result<(), Errno> {
    family::become_v4(connection)
}
