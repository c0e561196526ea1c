//! The source of a socket's connections and datagrams: setting and clearing a source address.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4};
use std::os::fd::BorrowedFd;

use imsup_wire::Transport;
use nix::errno::Errno;

use super::socket::{Family, InetSocket, bind, clear_v6only, connect, errno_of, get, get_int, listen, set, set_int};

/// The ports that the kernel chooses from for this socket (Linux 6.3, ip(7)): the highest in the
/// upper half of an `u32`, the lowest in the lower.
const IP_LOCAL_PORT_RANGE: i32 = 51;

/// Gives an unbound socket a source address and leaves the choice of the port to connect(2)
/// (IP_BIND_ADDRESS_NO_PORT, ip(7)). The ephemeral ports of all hosts are therefore not used up by
/// one destination.
///
/// # Errors
/// Errors of bind(2).
pub fn bind_source(socket: BorrowedFd<'_>, family: Family, source: Ipv4Addr) -> Result<(), Errno> {
    set_int(socket, libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT, 1)?;
    bind(socket, family.form(SocketAddrV4::new(source, 0)))
}

/// Moves a socket of this kind to another address, and keeps the port, which the kernel must have
/// chosen. A disconnect takes the port from a socket whose program did not choose the port, and the
/// socket can be bound anew. For UDP see net/ipv4/udp.c, __udp_disconnect; the queue stays. For TCP
/// see net/ipv4/tcp.c, tcp_set_state; the socket must have listened for a moment. If another socket
/// was quicker to take the port, the kernel chooses once more.
///
/// # Errors
/// Errors of bind(2): EINVAL if the program chose the port.
pub fn move_to(socket: BorrowedFd<'_>, kind: &InetSocket, ip: IpAddr) -> Result<(), Errno> {
    let address = |port| match ip {
        IpAddr::V4(v4) => kind.family.form(SocketAddrV4::new(v4, port)),
        IpAddr::V6(_) => SocketAddr::new(ip, port),
    };
    if kind.transport == Transport::Tcp {
        listen(socket, 0)?;
    }
    disconnect(socket)?;
    // A bind to an IPv6 address has set IPV6_V6ONLY (net/ipv6/af_inet6.c, __inet6_bind).
    if kind.family == Family::V6 {
        let _ = clear_v6only(socket);
    }
    match bind_chosen(socket, address, kind.local.port()) {
        Err(Errno::EADDRINUSE) => bind(socket, address(0)),
        result => result,
    }
}

/// Binds a socket to this port as if the kernel had chosen the port, so that the socket can be
/// moved again. Ports outside of the kernel's own range, and older kernels, do not allow that:
/// there the socket stays.
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

/// Makes an AF_INET6 datagram socket that is bound to a v4-mapped address an AF_INET socket; queued
/// datagrams stay (IPV6_ADDRFORM, ipv6(7)). The change requires a connected socket, so for some
/// microseconds the socket accepts no datagram from other peers. Datagrams may always be lost.
///
/// # Errors
/// Errors of setsockopt(2).
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
/// Errors of connect(2).
pub fn disconnect(socket: BorrowedFd<'_>) -> Result<(), Errno> {
    rustix::net::connect_unspec(socket).map_err(errno_of)
}

/// Whether the source of this socket was bound by [`bind_source`] (or by a program in that way).
pub fn is_source_bound(socket: BorrowedFd<'_>) -> bool {
    get_int(socket, libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT).is_ok_and(|value| value != 0)
}

/// Undoes [`bind_source`] on a socket that has no port and no peer: the socket is as new.
///
/// # Errors
/// Errors of bind(2): EINVAL if the socket has a port.
pub fn unbind_source(socket: BorrowedFd<'_>, family: Family) -> Result<(), Errno> {
    let unspecified = match family {
        Family::V4 => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
        Family::V6 => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
    };
    bind(socket, unspecified)?;
    set_int(socket, libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT, 0)
}
