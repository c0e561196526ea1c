//! Queries that are somebody else's to answer.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use mio::net::UdpSocket;
use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};

use super::answer;
use super::anywhere::Asked;

/// Queries forwarded at once.
const MAX_PENDING: usize = 256;
/// How long one server may take before the next is asked.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long a server may take over TCP.
const TCP_PATIENCE: Duration = Duration::from_secs(5);

/// One query that is out.
#[derive(Debug)]
struct Pending {
    asker: Asker,
    query: Vec<u8>,
    /// Servers still to be asked.
    servers: Vec<SocketAddr>,
    /// Connected to the one that is asked now, so that only its answer is taken.
    socket: UdpSocket,
    deadline: Instant,
}

/// A finished query.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Finished {
    pub(super) asker: Asker,
    pub(super) answer: Vec<u8>,
}

/// Who is to be answered, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Asker {
    pub(super) client: SocketAddr,
    /// The socket that the query came by.
    pub(super) via: Via,
}

/// A socket of the name server's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Via {
    /// One at an own address.
    Own(usize),
    /// One in a namespace where all addresses are its own; the one that was asked, from which the answer must come.
    Anywhere { number: usize, asked: Asked },
}

/// Queries that are out over UDP. Each has a socket, so a port chosen by the kernel, of its own.
#[derive(Debug)]
pub(super) struct Forwarder {
    pending: Vec<Option<Pending>>,
    first_token: usize,
}

impl Forwarder {
    /// A forwarder whose sockets have tokens from `first_token` on.
    pub(super) fn new(first_token: usize) -> Self {
        Self {
            pending: Vec::new(),
            first_token,
        }
    }

    /// Asks the servers, one after the other. The answer comes at once where none can be asked.
    pub(super) fn ask(
        &mut self,
        registry: &Registry,
        query: &[u8],
        asker: Asker,
        servers: &[SocketAddr],
    ) -> Option<Finished> {
        let mut servers: Vec<SocketAddr> = servers.iter().rev().copied().collect();
        let place = self
            .pending
            .iter()
            .position(Option::is_none)
            .unwrap_or(self.pending.len());
        let socket = match place {
            MAX_PENDING.. => None,
            _ => next(&mut servers, query, registry, Token(self.first_token + place)),
        };
        let Some(socket) = socket else {
            return failed(asker, query);
        };
        let pending = Pending {
            asker,
            query: query.to_vec(),
            servers,
            socket,
            deadline: Instant::now() + PATIENCE,
        };
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
        let mut buffer = vec![0; usize::from(u16::MAX)];
        loop {
            match pending.socket.recv(&mut buffer) {
                // The identifier must be the query's; a late answer to something else is no answer.
                Ok(count) if count >= 2 && buffer[..2] == pending.query[..2] => {
                    buffer.truncate(count);
                    let pending = self.pending[place].take()?;
                    return Some(Finished {
                        asker: pending.asker,
                        answer: buffer,
                    });
                }
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return None,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // ECONNREFUSED and its like: nobody is there.
                Err(_) => return self.try_next(registry, place),
            }
        }
    }

    /// When the next server is to be asked.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.pending.iter().flatten().map(|pending| pending.deadline).min()
    }

    /// Goes on to the next server where one has taken too long.
    pub(super) fn expire(&mut self, registry: &Registry) -> Vec<Finished> {
        let now = Instant::now();
        let late = |pending: &Option<Pending>| pending.as_ref().is_some_and(|pending| pending.deadline <= now);
        let late: Vec<usize> = (0..self.pending.len())
            .filter(|place| late(&self.pending[*place]))
            .collect();
        late.into_iter()
            .filter_map(|place| self.try_next(registry, place))
            .collect()
    }

    fn try_next(&mut self, registry: &Registry, place: usize) -> Option<Finished> {
        let mut pending = self.pending[place].take()?;
        let _ = registry.deregister(&mut SourceFd(&pending.socket.as_raw_fd()));
        let token = Token(self.first_token + place);
        match next(&mut pending.servers, &pending.query, registry, token) {
            Some(socket) => {
                pending.socket = socket;
                pending.deadline = Instant::now() + PATIENCE;
                self.pending[place] = Some(pending);
                None
            }
            None => failed(pending.asker, &pending.query),
        }
    }
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
        let mut stream = TcpStream::connect_timeout(server, PATIENCE).ok()?;
        stream.set_read_timeout(Some(TCP_PATIENCE)).ok()?;
        stream.set_write_timeout(Some(TCP_PATIENCE)).ok()?;
        write_framed(&mut stream, query).ok()?;
        read_framed(&mut stream).ok()
    });
    asked.or_else(|| answer::failure(query))
}

/// Reads a message with its length before it (RFC 1035, section 4.2.2).
pub(super) fn read_framed(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut message = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut message)?;
    Ok(message)
}

/// Writes a message with its length before it.
pub(super) fn write_framed(stream: &mut TcpStream, message: &[u8]) -> io::Result<()> {
    let length = u16::try_from(message.len()).map_err(|_| io::ErrorKind::InvalidData)?;
    let mut frame = length.to_be_bytes().to_vec();
    frame.extend_from_slice(message);
    stream.write_all(&frame)
}
