//! Queries to be answered by other servers.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use mio::net::UdpSocket;
use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use rustix::process::{Resource, getrlimit};

use super::answer;
use super::anywhere::Asked;

/// Maximum number of forwarded queries, and of the queries' sockets. A resolver in node or Go asks
/// a thousand names at a time, and natively the server takes them all.
const MAX_PENDING: usize = 4096;
/// The part of the broker's descriptors that these may have: hosts need the others.
const SHARE: u64 = 4;
/// The time for a server's answer before the next server is asked as well.
const SERVER_TIMEOUT: Duration = Duration::from_secs(2);
/// The time for the answers of all servers.
const TIMEOUT: Duration = Duration::from_secs(10);
/// How long a server may take over TCP.
const TCP_TIMEOUT: Duration = Duration::from_secs(5);

/// One query without an answer yet.
#[derive(Debug)]
struct Pending {
    asker: Asker,
    query: Vec<u8>,
    /// Servers still to be asked.
    servers: Vec<SocketAddr>,
    /// Connected to the asked servers, so that only answers of these servers are received.
    sockets: Vec<UdpSocket>,
    /// The time to ask the next server, or to give up.
    deadline: Instant,
    /// The latter.
    last: Instant,
}

impl Pending {
    /// Asks the next server that can be asked; whether any is waited for.
    fn ask_next(&mut self, registry: &Registry, token: Token) -> bool {
        let asked = next(&mut self.servers, &self.query, registry, token);
        self.sockets.extend(asked);
        let next = Instant::now() + SERVER_TIMEOUT;
        self.deadline = if self.servers.is_empty() {
            self.last
        } else {
            next.min(self.last)
        };
        !self.sockets.is_empty()
    }

    /// The answer, if any. Unreachable servers are dropped.
    fn receive(&mut self, buffer: &mut Vec<u8>, registry: &Registry) -> bool {
        let mut number = 0;
        while let Some(socket) = self.sockets.get(number) {
            match socket.recv(buffer) {
                // The identifier must be the query's; a late answer to another query is ignored.
                Ok(count) if count >= 2 && buffer[..2] == self.query[..2] => {
                    buffer.truncate(count);
                    return true;
                }
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => number += 1,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // ECONNREFUSED and similar errors: there is no server.
                Err(_) => {
                    let _ = registry.deregister(&mut SourceFd(&socket.as_raw_fd()));
                    self.sockets.remove(number);
                }
            }
        }
        false
    }
}

/// A finished query.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Finished {
    pub(super) asker: Asker,
    pub(super) answer: Vec<u8>,
}

/// The client to be answered, and the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Asker {
    pub(super) client: SocketAddr,
    /// The socket that the query came by.
    pub(super) via: Via,
}

impl Asker {
    /// The server that the client asked, if known.
    pub(super) fn asked(&self) -> Option<IpAddr> {
        match self.via {
            Via::Own(_) => None,
            Via::Anywhere { asked, .. } => asked.address(),
        }
    }
}

/// A socket of the name server's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Via {
    /// A socket at an own address.
    Own(usize),
    /// A socket in a namespace where all addresses are local; the asked address, from which the
    /// answer must come.
    Anywhere { number: usize, asked: Asked },
}

/// Queries without an answer yet over UDP. Each query has a socket of its own, and thus a port
/// chosen by the kernel.
#[derive(Debug)]
pub(super) struct Forwarder {
    pending: Vec<Option<Pending>>,
    first_token: usize,
    /// The maximum number of sockets of all queries: a query that waits for several servers has
    /// several.
    most: usize,
}

impl Forwarder {
    /// A forwarder whose sockets have tokens from `first_token` on.
    pub(super) fn new(first_token: usize) -> Self {
        Self {
            pending: Vec::new(),
            first_token,
            most: max_sockets(),
        }
    }

    /// Asks the servers in turn. If none can be asked, the failure is returned at once.
    pub(super) fn ask(
        &mut self,
        registry: &Registry,
        query: &[u8],
        asker: Asker,
        servers: &[SocketAddr],
    ) -> Option<Finished> {
        let place = self
            .pending
            .iter()
            .position(Option::is_none)
            .unwrap_or(self.pending.len());
        let now = Instant::now();
        let mut pending = Pending {
            asker,
            query: query.to_vec(),
            servers: servers.iter().rev().copied().collect(),
            sockets: Vec::new(),
            deadline: now,
            last: now + TIMEOUT,
        };
        if self.sockets() >= self.most || !pending.ask_next(registry, Token(self.first_token + place)) {
            return failed(asker, query);
        }
        if place == self.pending.len() {
            self.pending.push(Some(pending));
        } else {
            self.pending[place] = Some(pending);
        }
        None
    }

    /// A server has answered, or cannot be reached.
    pub(super) fn ready(&mut self, registry: &Registry, token: Token) -> Option<Finished> {
        let place = token.0.checked_sub(self.first_token)?;
        let pending = self.pending.get_mut(place)?.as_mut()?;
        let mut answer = vec![0; usize::from(u16::MAX)];
        let before = pending.sockets.len();
        if pending.receive(&mut answer, registry) {
            let asker = self.pending[place].take()?.asker;
            return Some(Finished { asker, answer });
        }
        if pending.sockets.len() < before && !pending.ask_next(registry, token) {
            return self.fail(place);
        }
        None
    }

    /// When the next server is to be asked.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.pending.iter().flatten().map(|pending| pending.deadline).min()
    }

    /// Goes on to the next server for queries whose server is too slow; gives up after the time for
    /// all servers.
    pub(super) fn expire(&mut self, registry: &Registry) -> Vec<Finished> {
        let now = Instant::now();
        let mut finished = Vec::new();
        if self.deadline().is_none_or(|deadline| deadline > now) {
            return finished;
        }
        let mut sockets = self.sockets();
        for place in 0..self.pending.len() {
            let Some(pending) = self.pending[place].as_mut().filter(|pending| pending.deadline <= now) else {
                continue;
            };
            let token = Token(self.first_token + place);
            if sockets < self.most {
                sockets += 1;
            } else if !pending.servers.is_empty() && !pending.sockets.is_empty() {
                // Drops the server that was asked first.
                pending.sockets.remove(0);
            }
            if pending.last <= now || !pending.ask_next(registry, token) {
                finished.extend(self.fail(place));
            }
        }
        finished
    }

    fn sockets(&self) -> usize {
        self.pending.iter().flatten().map(|pending| pending.sockets.len()).sum()
    }

    fn fail(&mut self, place: usize) -> Option<Finished> {
        let pending = self.pending[place].take()?;
        failed(pending.asker, &pending.query)
    }
}

fn max_sockets() -> usize {
    let descriptors = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    usize::try_from(descriptors / SHARE).map_or(MAX_PENDING, |most| most.min(MAX_PENDING))
}

/// Sends the query to the next server that can be sent to.
fn next(servers: &mut Vec<SocketAddr>, query: &[u8], registry: &Registry, token: Token) -> Option<UdpSocket> {
    while let Some(server) = servers.pop() {
        let asked = send(server, query).and_then(|mut socket| {
            registry.register(&mut socket, token, Interest::READABLE)?;
            Ok(socket)
        });
        match asked {
            Ok(socket) => return Some(socket),
            Err(error) => tracing::debug!(%server, %error, "a name server cannot be asked"),
        }
    }
    None
}

fn send(server: SocketAddr, query: &[u8]) -> io::Result<UdpSocket> {
    let any: SocketAddr = match server {
        SocketAddr::V4(_) => (std::net::Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (std::net::Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any)?;
    socket.connect(server)?;
    socket.send(query)?;
    Ok(socket)
}

fn failed(asker: Asker, query: &[u8]) -> Option<Finished> {
    answer::failure(query).map(|answer| Finished { asker, answer })
}

/// Asks the servers over TCP, waiting for the answer.
pub(super) fn ask_over_tcp(query: &[u8], servers: &[SocketAddr]) -> Option<Vec<u8>> {
    let asked = servers.iter().find_map(|server| {
        let stream = TcpStream::connect_timeout(server, SERVER_TIMEOUT).ok()?;
        stream.set_read_timeout(Some(TCP_TIMEOUT)).ok()?;
        stream.set_write_timeout(Some(TCP_TIMEOUT)).ok()?;
        write_framed(&stream, query).ok()?;
        read_framed(&stream).ok()
    });
    asked.or_else(|| answer::failure(query))
}

/// Reads a message with its length before it (RFC 1035, section 4.2.2).
pub(super) fn read_framed(mut stream: &TcpStream) -> io::Result<Vec<u8>> {
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut message = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut message)?;
    Ok(message)
}

/// Writes a message with its length before it.
pub(super) fn write_framed(mut stream: &TcpStream, message: &[u8]) -> io::Result<()> {
    let length = u16::try_from(message.len()).map_err(|_| io::ErrorKind::InvalidData)?;
    let mut frame = length.to_be_bytes().to_vec();
    frame.extend_from_slice(message);
    stream.write_all(&frame)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn queries_that_wait_for_several_servers_take_no_more_descriptors() {
        let poll = mio::Poll::new().unwrap();
        let silent = [0; 2].map(|_| std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap());
        let servers = [0, 1].map(|number: usize| silent[number].local_addr().unwrap());
        let mut forwarder = Forwarder {
            most: 2,
            ..Forwarder::new(0)
        };
        let asker = Asker {
            client: servers[0],
            via: Via::Own(0),
        };
        // A header, of which the failure is made.
        let query = [0; 12];
        for _ in 0..2 {
            assert_eq!(forwarder.ask(poll.registry(), &query, asker, &servers), None);
        }
        assert!(forwarder.ask(poll.registry(), &query, asker, &servers).is_some());
        for pending in forwarder.pending.iter_mut().flatten() {
            pending.deadline = Instant::now();
        }
        assert_eq!(forwarder.expire(poll.registry()), []);
        assert_eq!(forwarder.sockets(), 2);
        for server in &silent {
            server.set_nonblocking(true).unwrap();
            let asked = std::iter::from_fn(|| server.recv(&mut [0; 12]).ok()).count();
            assert_eq!(asked, 2, "each server by each query");
        }
    }
}
