//! Where a socket's connections and datagrams come from: giving it a source address, and taking it back.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4};
use std::os::fd::BorrowedFd;

use imsup_wire::Transport;
use nix::errno::Errno;

use super::socket::{Family, InetSocket, bind, clear_v6only, connect, errno_of, get, get_int, listen, set, set_int};

/// The ports that the kernel chooses from for this socket (Linux 6.3, ip(7)): the highest in the upper half of an `u32`, the lowest in the lower.
const IP_LOCAL_PORT_RANGE: i32 = 51;

/// Gives an unbound socket a source address and leaves the choice of its port to connect(2)
/// (IP_BIND_ADDRESS_NO_PORT, ip(7)), so that the ephemeral ports of all hosts are not used up by one destination.
///
/// # Errors
/// What bind(2) says.
pub fn bind_source(socket: BorrowedFd<'_>, family: Family, source: Ipv4Addr) -> Result<(), Errno> {
    set_int(socket, libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT, 1)?;
    bind(socket, family.form(SocketAddrV4::new(source, 0)))
}

/// Moves a socket of this kind, whose port the kernel chose, to another address, and keeps its port: a disconnect takes the port from a socket whose
/// program did not choose it, and the socket can be bound anew (net/ipv4/udp.c, __udp_disconnect, whose queue stays; net/ipv4/tcp.c, tcp_set_state, for which
/// the socket must have listened for a moment). If another socket was quicker to take the port, the kernel chooses once more.
///
/// # Errors
/// What bind(2) says: EINVAL if the program chose the port.
pub fn move_to(socket: BorrowedFd<'_>, kind: &InetSocket, ip: IpAddr) -> Result<(), Errno> {
    let address = |port| match ip {
        IpAddr::V4(v4) => kind.family.form(SocketAddrV4::new(v4, port)),
        IpAddr::V6(_) => SocketAddr::new(ip, port),
    };
    if kind.transport == Transport::Tcp {
        listen(socket, 0)?;
    }
    disconnect(socket)?;
    // A bind to an IPv6 address has set it (net/ipv6/af_inet6.c, __inet6_bind).
    if kind.family == Family::V6 {
        let _ = clear_v6only(socket);
    }
    match bind_chosen(socket, address, kind.local.port()) {
        Err(Errno::EADDRINUSE) => bind(socket, address(0)),
        result => result,
    }
}

/// Binds a socket to this port as if the kernel had chosen the port, so that the socket can be moved again. Ports outside of the kernel's own range, and
/// older kernels, do not allow that: there the socket stays.
fn bind_chosen(socket: BorrowedFd<'_>, address: impl Fn(u16) -> SocketAddr, port: u16) -> Result<(), Errno> {
    let range = |value: [u8; 4]| set(socket, libc::IPPROTO_IP, IP_LOCAL_PORT_RANGE, &value);
    let mut own = [0; 4];
    let only = u32::from(port) << 16 | u32::from(port);
    let narrowed =
        get(socket, libc::IPPROTO_IP, IP_LOCAL_PORT_RANGE, &mut own).is_ok() && range(only.to_ne_bytes()).is_ok();
    let chosen = if narrowed {
        bind(socket, address(0))
    } else {
        Err(Errno::EOPNOTSUPP)
    };
    if narrowed {
        let _ = range(own);
    }
    match chosen {
        Ok(()) => Ok(()),
        Err(_) => bind(socket, address(port)),
    }
}

/// Makes a datagram socket of AF_INET6 that is bound to a v4-mapped address one of AF_INET; what waits in it stays (IPV6_ADDRFORM, ipv6(7)). It must be connected for
/// that, so for some microseconds it takes nothing from anybody else: as good a time to be lost as any for a datagram.
///
/// # Errors
/// What setsockopt(2) says.
pub fn become_v4(socket: BorrowedFd<'_>) -> Result<(), Errno> {
    const ANYBODY: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 9);
    connect(socket, Family::V6.form(ANYBODY))?;
    let result = set_int(socket, libc::IPPROTO_IPV6, libc::IPV6_ADDRFORM, libc::AF_INET);
    disconnect(socket)?;
    result
}

/// connect(2) to AF_UNSPEC: the socket has no peer any more.
///
/// # Errors
/// What connect(2) says.
pub fn disconnect(socket: BorrowedFd<'_>) -> Result<(), Errno> {
    rustix::net::connect_unspec(socket).map_err(errno_of)
}

/// Whether the source of this socket was bound by [`bind_source`] (or by a program in that way).
pub fn is_source_bound(socket: BorrowedFd<'_>) -> bool {
    get_int(socket, libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT).is_ok_and(|value| value != 0)
}

/// Takes back what [`bind_source`] did to a socket that has no port and no peer: it is as it was made.
///
/// # Errors
/// What bind(2) says: EINVAL where it has a port.
pub fn unbind_source(socket: BorrowedFd<'_>, family: Family) -> Result<(), Errno> {
    let unspecified = match family {
        Family::V4 => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
        Family::V6 => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
    };
    bind(socket, unspecified)?;
    set_int(socket, libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT, 0)
}
