//! The sockets at an endpoint in every state: each of them may keep another socket from the
//! endpoint (bind(2), EADDRINUSE). sock_diag(7).
//!
//! The kernel compares a new socket with every bound socket, also with sockets to which it would
//! give no packet: a socket that is bound and does not listen, a connection, a connection in
//! TIME_WAIT (net/ipv4/inet_connection_sock.c, inet_csk_bind_conflict). The options by which sockets
//! share an endpoint (SO_REUSEADDR, SO_REUSEPORT) are not told, so a socket found here is in the way
//! perhaps.

use std::io;
use std::net::{IpAddr, SocketAddr};

use imsup_wire::{Endpoint, Transport};

use super::sock_diag::{self, Found};
use super::tcp_info::state;

/// How a socket has its address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Occupation {
    /// It listens, or receives datagrams.
    Open,
    /// It is bound and does not listen. Linux tells so since 6.8.
    Bound,
    /// It is connected.
    Connected {
        /// The other end.
        peer: SocketAddr,
    },
    /// It was closed, and the kernel keeps the connection for a while.
    Closed {
        /// The other end.
        peer: SocketAddr,
        /// The name of the state: TIME_WAIT, for example.
        state: &'static str,
    },
}

/// A socket at an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Occupant {
    /// The endpoint's address, or a wildcard.
    pub local: IpAddr,
    /// How the socket has the address.
    pub occupation: Occupation,
    /// The owner's user id, as for [`super::owner::Owner`]. 0 for a socket that was closed.
    pub uid: u32,
    /// The socket's inode number; 0 if no process has a descriptor of the socket.
    pub inode: u32,
}

/// The sockets at the endpoint, and at wildcards of which the endpoint is a part: open sockets
/// first, closed sockets last.
///
/// # Errors
/// Errors of socket(2), send(2) and recv(2), and ENOENT without CONFIG_INET_TCP_DIAG or
/// CONFIG_INET_UDP_DIAG.
pub fn at(endpoint: Endpoint) -> io::Result<Vec<Occupant>> {
    let own = IpAddr::V4(*endpoint.address.ip());
    let found = sock_diag::at_port(endpoint.transport, endpoint.address.port())?;
    let occupants = found.iter().filter(|socket| !socket.v6only).map(|socket| Occupant {
        local: socket.local.ip().to_canonical(),
        occupation: occupation(endpoint.transport, socket),
        uid: socket.uid,
        inode: socket.inode,
    });
    let mut occupants: Vec<Occupant> = occupants
        .filter(|occupant| occupant.local == own || occupant.local.is_unspecified())
        .collect();
    occupants.sort_by_key(|occupant| (occupant.occupation, occupant.local != own));
    Ok(occupants)
}

fn occupation(transport: Transport, socket: &Found) -> Occupation {
    let peer = SocketAddr::new(socket.peer.ip().to_canonical(), socket.peer.port());
    let state = match socket.state {
        state::LISTEN => return Occupation::Open,
        state::CLOSE | state::BOUND_INACTIVE if transport == Transport::Udp => return Occupation::Open,
        state::CLOSE | state::BOUND_INACTIVE => return Occupation::Bound,
        _ if socket.inode != 0 => return Occupation::Connected { peer },
        state::TIME_WAIT => "TIME_WAIT",
        state::FIN_WAIT1 => "FIN_WAIT1",
        state::FIN_WAIT2 => "FIN_WAIT2",
        state::LAST_ACK => "LAST_ACK",
        state::CLOSING => "CLOSING",
        // Waits to be accepted: the listener comes first.
        _ => return Occupation::Connected { peer },
    };
    Occupation::Closed { peer, state }
}
