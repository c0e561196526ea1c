//! TCP connections of a host, and the traffic on these connections: tcp(7), sock_diag(7).

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::BorrowedFd;
use std::time::Duration;

use nix::errno::Errno;

use super::sock_diag::{self, Condition, Entry, Found, Local};
use super::tcp_info::{TcpInfo, state};
use super::{descriptors, inspect, socket};

/// A TCP socket that is connected, or being connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connection {
    /// The local address.
    pub local: SocketAddr,
    /// Its peer's.
    pub peer: SocketAddr,
    /// True if bytes or an end of file may still be received or sent; false once both ends have
    /// closed the connection.
    pub established: bool,
    /// Bytes received, and bytes sent that were acknowledged. Only grows.
    pub bytes: u64,
    /// The time since the last data, or since the connection was made, if there was no data.
    pub last_received: Duration,
    /// The time since the last segment: data, an acknowledgement or an end of file.
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

/// States in which both ends have closed the connection.
const CLOSED_BY_BOTH: u32 = 1 << state::LAST_ACK | 1 << state::CLOSING;

fn is_in(states: u32, state: u8) -> bool {
    state < 32 && states & 1 << state != 0
}

/// A connection that is looked up repeatedly by its addresses, without holding a descriptor. A
/// duplicate of the program's descriptor would have two effects. A program's close(2) would not be
/// the last, and epoll would report events for a descriptor that the program has closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    /// The inode number of the connection's socket.
    pub inode: u64,
    entry: Entry,
}

impl Known {
    /// The local address and the peer's address.
    pub fn ends(&self) -> (SocketAddr, SocketAddr) {
        (self.entry.local, self.entry.peer)
    }

    /// The connection behind a duplicate of a descriptor of a process, which must be held; `None`
    /// for what is no TCP connection.
    ///
    /// # Errors
    /// ENOTCONN for a connection that is being made: its peer is not known yet.
    pub fn of_held(socket: BorrowedFd<'_>) -> Result<Option<Self>, Errno> {
        if !TcpInfo::of(socket).is_ok_and(|info| is_in(CONNECTED, info.state)) {
            return Ok(None);
        }
        Ok(Some(Self {
            inode: socket::inode(socket)?,
            entry: Entry {
                local: socket::local_address(socket).ok_or(Errno::ENOTCONN)?,
                peer: socket::peer_address(socket)?.ok_or(Errno::ENOTCONN)?,
                interface: socket::interface(socket),
                cookie: socket::cookie(socket)?,
            },
        }))
    }
}

/// A socket of a process, by inode number, with a descriptor that refers to the socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenSocket {
    /// The process.
    pub pid: i32,
    /// The descriptor.
    pub number: i32,
}

/// All sockets that processes have open, by inode number: a link is read for each descriptor, which
/// takes about 1 us.
pub fn sockets(pids: &[i32]) -> HashMap<u64, OpenSocket> {
    let mut found = HashMap::new();
    for &pid in pids {
        inspect::as_owner(pid, || {
            descriptors::visit(pid, |number, link| {
                if let Some(inode) = descriptors::socket_inode(link) {
                    found.entry(inode).or_insert(OpenSocket { pid, number });
                }
                true
            })
        });
    }
    found
}

/// True if a connection to one of these addresses has begun and waits for room in an accept queue.
/// The other end may already consider itself connected (listen(2), net/ipv4/tcp_minisocks.c: the
/// handshake is retried after meeting a full queue). No listener shows such a connection.
///
/// # Errors
/// If sock_diag(7) cannot be used.
pub fn is_connecting(planes: [Ipv4Addr; 3]) -> io::Result<bool> {
    let locals = planes.map(|ip| {
        Condition::Local(Local {
            ip: IpAddr::V4(ip),
            port: None,
        })
    });
    Ok(!sock_diag::find_any(&locals, 1 << state::SYN_RECV)?.is_empty())
}

/// The connections among these sockets (inode numbers), found in the kernel's table of TCP sockets
/// by the host's addresses and cgroups. A walk over the table takes 0.4 ms on a small machine, and
/// 2 to 3 ms on a machine of 24 GiB whose table has 20,000 other sockets.
///
/// # Errors
/// If sock_diag(7) cannot be used.
pub fn search(inodes: &HashSet<u64>, planes: [Ipv4Addr; 3], cgroups: &[u64]) -> io::Result<Vec<Known>> {
    let locals = planes.map(|ip| {
        Condition::Local(Local {
            ip: IpAddr::V4(ip),
            port: None,
        })
    });
    let cgroups = cgroups.iter().map(|id| Condition::Cgroup(*id));
    let conditions: Vec<Condition> = locals.into_iter().chain(cgroups).collect();
    let found = match sock_diag::find_any(&conditions, CONNECTED) {
        // A kernel that does not know cgroups.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => sock_diag::find_any(&conditions[..3], CONNECTED)?,
        found => found?,
    };
    let mut known = among(inodes, &found);
    if known.len() < inodes.len() {
        // A connection to an address outside, if there is no cgroup or the socket was made in
        // another cgroup.
        known = among(inodes, &sock_diag::find_any(&[], CONNECTED)?);
    }
    Ok(known)
}

fn among(inodes: &HashSet<u64>, found: &[Found]) -> Vec<Known> {
    let ours = found.iter().filter(|socket| inodes.contains(&socket.inode.into()));
    ours.map(|socket| Known {
        inode: socket.inode.into(),
        entry: Entry {
            local: socket.local,
            peer: socket.peer,
            interface: socket.interface,
            cookie: socket.cookie,
        },
    })
    .collect()
}

/// The present state of connections. Each is found by its addresses, which takes 2 us (measured).
/// `None` for a socket that is no longer a connection.
///
/// # Errors
/// If sock_diag(7) cannot be used.
pub fn read(known: &[Known]) -> io::Result<Vec<Option<Connection>>> {
    let entries: Vec<Entry> = known.iter().map(|known| known.entry).collect();
    let found = sock_diag::look_up(&entries)?;
    let connected = |socket: Found| is_in(CONNECTED, socket.state).then(|| of_found(&socket)).flatten();
    Ok(found.into_iter().map(|socket| socket.and_then(connected)).collect())
}

fn connection(local: SocketAddr, peer: SocketAddr, info: &TcpInfo) -> Option<Connection> {
    // Addresses of an AF_INET6 listener's connections are v4-mapped, a form that is hard to read.
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

/// The addresses of the TCP connection with this inode number, if its local address is in `locals`;
/// the peer's address only once established.
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

/// True if the TCP socket with these addresses and this cookie is connected, as understood by
/// getpeername(2). A socket that is bound to an interface is not found.
pub fn is_connected(local: SocketAddr, peer: SocketAddr, cookie: u64) -> bool {
    let entry = Entry {
        local,
        peer,
        interface: 0,
        cookie,
    };
    let found = sock_diag::look_up(&[entry]).ok().and_then(|mut found| found.pop()?);
    found.is_some_and(|socket| is_in(CONNECTED & !(1 << state::SYN_SENT), socket.state))
}

fn of_found(found: &Found) -> Option<Connection> {
    connection(found.local, found.peer, found.info.as_ref()?)
}
