//! Datagrams through published ports: each client has a separate socket towards the host, until the
//! client is silent for too long.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use mio::net::UdpSocket;
use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};

/// How long a client may be silent, in both directions.
const IDLE: Duration = Duration::from_secs(60);
/// The largest datagram there is.
const MAX_DATAGRAM: usize = 65_535;

#[derive(Debug)]
struct Client {
    listener: usize,
    address: SocketAddr,
    socket: UdpSocket,
    used: Instant,
}

/// All clients.
#[derive(Debug)]
pub(super) struct Clients {
    table: Vec<Option<Client>>,
    places: HashMap<(usize, SocketAddr), usize>,
    first_token: usize,
    most: usize,
}

impl Clients {
    /// At most `most` clients at once, over all ports, whose sockets have tokens from `first_token`
    /// on.
    pub(super) fn new(first_token: usize, most: usize) -> Self {
        Self {
            table: Vec::new(),
            places: HashMap::new(),
            first_token,
            most,
        }
    }

    /// Passes on datagrams that have come to a published listener. `came` is called for new
    /// clients, before the first datagram reaches the host; after a failure, no datagram does.
    pub(super) fn inwards(
        &mut self,
        registry: &Registry,
        listener: usize,
        socket: &UdpSocket,
        target: SocketAddr,
        mut came: impl FnMut(SocketAddr) -> io::Result<()>,
    ) {
        let mut buffer = vec![0; MAX_DATAGRAM];
        loop {
            let (count, client) = match socket.recv_from(&mut buffer) {
                Ok(received) => received,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if is_passing(&error) => continue,
                Err(error) => {
                    tracing::warn!(%error, "what came to a published port could not be received");
                    return;
                }
            };
            let known = self.places.get(&(listener, client)).copied();
            let place = known.map_or_else(|| self.add(registry, listener, client, target, &mut came), Ok);
            match place {
                // A host with a full buffer loses the datagram, as a network would.
                Ok(place) => {
                    if let Some(Some(known)) = self.table.get_mut(place) {
                        known.used = Instant::now();
                        let _ = known.socket.send(&buffer[..count]);
                    }
                }
                Err(error) => tracing::debug!(%client, %error, "a datagram to a published port was dropped"),
            }
        }
    }

    fn add(
        &mut self,
        registry: &Registry,
        listener: usize,
        address: SocketAddr,
        target: SocketAddr,
        came: impl FnOnce(SocketAddr) -> io::Result<()>,
    ) -> io::Result<usize> {
        let place = self.table.iter().position(Option::is_none).unwrap_or(self.table.len());
        if place >= self.most {
            return Err(io::Error::other("too many clients at once"));
        }
        came(address)?;
        let mut socket = UdpSocket::bind((std::net::Ipv4Addr::LOCALHOST, 0).into())?;
        socket.connect(target)?;
        registry.register(&mut socket, Token(self.first_token + place), Interest::READABLE)?;
        let client = Client {
            listener,
            address,
            socket,
            used: Instant::now(),
        };
        self.places.insert((listener, address), place);
        if place == self.table.len() {
            self.table.push(Some(client));
        } else {
            self.table[place] = Some(client);
        }
        Ok(place)
    }

    /// Passes back the datagrams of a host; `send` gets the published listener, the client and the
    /// datagram.
    pub(super) fn outwards(&mut self, token: Token, send: impl Fn(usize, SocketAddr, &[u8])) {
        let place = token.0.wrapping_sub(self.first_token);
        let Some(Some(client)) = self.table.get_mut(place) else {
            return;
        };
        let mut buffer = vec![0; MAX_DATAGRAM];
        loop {
            match client.socket.recv(&mut buffer) {
                Ok(count) => {
                    client.used = Instant::now();
                    send(client.listener, client.address, &buffer[..count]);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if is_passing(&error) => {}
                Err(error) => {
                    tracing::warn!(%error, "a host's datagram could not be received");
                    return;
                }
            }
        }
    }

    /// When the next client has been silent for long enough.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.table.iter().flatten().map(|client| client.used + IDLE).min()
    }

    /// Forgets clients that have been silent for too long.
    pub(super) fn expire(&mut self, registry: &Registry) {
        let now = Instant::now();
        for slot in &mut self.table {
            if let Some(client) = slot.take_if(|client| client.used + IDLE <= now) {
                let _ = registry.deregister(&mut SourceFd(&client.socket.as_raw_fd()));
                self.places.remove(&(client.listener, client.address));
            }
        }
    }
}

/// ECONNREFUSED: there was no receiver for an earlier datagram. Any other error may come back at
/// once, for ever.
fn is_passing(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused | io::ErrorKind::Interrupted
    )
}
