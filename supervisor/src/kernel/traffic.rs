//! TCP connections of a host, and what moved on them: tcp(7), sock_diag(7).

use std::collections::HashSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::AsFd;
use std::time::Duration;

use super::means::Means;
use super::sock_diag::{self, Found, Local};
use super::tcp_info::{TcpInfo, state};
use super::{descriptors, socket, task};

/// Descriptors of a host beyond which the machine's table of sockets is read instead of each descriptor. Measured: 40 us and
/// 6.5 us for each socket, against 400-500 us for the table, and 900 us while the machine has 4000 other sockets.
const MANY_DESCRIPTORS: u64 = 100;

/// A TCP socket that is connected, or being connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connection {
    /// Its own address.
    pub local: SocketAddr,
    /// Its peer's.
    pub peer: SocketAddr,
    /// Whether bytes or an end of file may still come or be sent: not where both ends have closed it.
    pub established: bool,
    /// Bytes received, and bytes sent that were acknowledged. Only grows.
    pub bytes: u64,
    /// How long ago the last data came; since it was made, where none did.
    pub last_received: Duration,
    /// How long ago something came last: data, an acknowledgement or an end of file.
    pub last_heard: Duration,
}

/// States in which a socket has a peer.
const CONNECTED: u32 = 1 << state::ESTABLISHED
    | 1 << state::SYN_SENT
    | 1 << state::SYN_RECV
    | 1 << state::FIN_WAIT1
    | 1 << state::FIN_WAIT2
    | 1 << state::CLOSE_WAIT
    | 1 << state::LAST_ACK
    | 1 << state::CLOSING;

/// States in which both ends have closed it.
const CLOSED_BY_BOTH: u32 = 1 << state::LAST_ACK | 1 << state::CLOSING;

/// States of a connection that waits in an accept queue (it has no inode).
const QUEUED: u32 = 1 << state::ESTABLISHED | 1 << state::SYN_RECV | 1 << state::CLOSE_WAIT;

fn is_in(states: u32, state: u8) -> bool {
    state < 32 && states & 1 << state != 0
}

/// The TCP connections of the host with these processes and addresses.
///
/// Where the processes have few descriptors each is looked at, which shows connections to any address. Where they have
/// many the kernel's table is searched for sockets whose local address is one of `planes`, which also shows connections in accept
/// queues, and not those from other addresses of this machine.
///
/// # Errors
/// Where sock_diag(7) cannot be used.
pub fn connections(pids: &[i32], planes: [Ipv4Addr; 3]) -> io::Result<Vec<Connection>> {
    let descriptors: u64 = pids.iter().map(|pid| descriptors::count(*pid)).sum();
    if descriptors <= MANY_DESCRIPTORS
        && Means::present().pidfd_getfd
        && let Some(found) = by_descriptors(pids)
    {
        return Ok(found);
    }
    by_addresses(planes)
}

/// Looks at each socket that the processes have open; `None` where they are more than [`MANY_DESCRIPTORS`].
pub fn by_descriptors(pids: &[i32]) -> Option<Vec<Connection>> {
    let mut found = Vec::new();
    // Forked workers share their sockets.
    let mut seen = HashSet::new();
    let mut left = MANY_DESCRIPTORS;
    for &pid in pids {
        let Ok(pidfd) = task::open_process(pid) else { continue };
        descriptors::visit(pid, |number, link| {
            let Some(next) = left.checked_sub(1) else {
                left = u64::MAX;
                return false;
            };
            left = next;
            if let Some(inode) = descriptors::socket_inode(link)
                && seen.insert(inode)
                && let Ok(socket) = task::duplicate_from(&pidfd, number)
            {
                found.extend(inspect(socket.as_fd()));
            }
            true
        });
        if left == u64::MAX {
            return None;
        }
    }
    Some(found)
}

fn inspect(socket: std::os::fd::BorrowedFd<'_>) -> Option<Connection> {
    let info = TcpInfo::of(socket).ok()?;
    is_in(CONNECTED, info.state).then_some(())?;
    connection(
        socket::local_address(socket)?,
        socket::peer_address(socket).ok()??,
        &info,
    )
}

fn connection(local: SocketAddr, peer: SocketAddr, info: &TcpInfo) -> Option<Connection> {
    // Those of an AF_INET6 listener are v4-mapped, which nobody wants to read.
    let canonical = |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
    Some(Connection {
        local: canonical(local),
        peer: canonical(peer),
        established: !is_in(CLOSED_BY_BOTH, info.state),
        bytes: info.bytes,
        last_received: info.last_received,
        last_heard: info.last_heard,
    })
}

/// Searches the kernel's table of sockets, whatever their number.
///
/// # Errors
/// Where sock_diag(7) cannot be used.
pub fn by_addresses(planes: [Ipv4Addr; 3]) -> io::Result<Vec<Connection>> {
    let locals = planes.map(|ip| Local {
        ip: IpAddr::V4(ip),
        port: None,
    });
    let found = sock_diag::find(&locals, CONNECTED)?;
    // One without an inode in another state was closed, and nobody of the host's has to do with it any more.
    let live = found
        .into_iter()
        .filter(|socket| socket.inode != 0 || is_in(QUEUED, socket.state));
    Ok(live.filter_map(|socket| of_found(&socket)).collect())
}

/// The addresses of the TCP connection with this inode number, where its own address is one of `locals`; the peer's once it is established.
pub fn addresses_of(inode: u64, locals: &[Ipv4Addr]) -> Option<(SocketAddr, Option<SocketAddr>)> {
    let locals: Vec<Local> = locals
        .iter()
        .map(|ip| Local {
            ip: IpAddr::V4(*ip),
            port: None,
        })
        .collect();
    let found = sock_diag::find(&locals, CONNECTED).ok()?;
    let socket = found.into_iter().find(|socket| u64::from(socket.inode) == inode)?;
    let established = socket.state != state::SYN_SENT;
    Some((socket.local, established.then_some(socket.peer)))
}

/// Whether the TCP socket with these addresses and this cookie is connected, as getpeername(2) understands it.
pub fn is_connected(local: SocketAddr, peer: SocketAddr, cookie: u64) -> bool {
    let (Some(local), Some(peer)) = (socket::as_v4(local), socket::as_v4(peer)) else {
        return false;
    };
    let state = sock_diag::state_of(local, peer, cookie).ok().flatten();
    state.is_some_and(|state| is_in(CONNECTED & !(1 << state::SYN_SENT), state))
}

fn of_found(found: &Found) -> Option<Connection> {
    connection(found.local, found.peer, found.info.as_ref()?)
}
