//! Where a socket's connections and datagrams come from: giving it a source address, and taking it back.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4};
use std::os::fd::BorrowedFd;

use nix::errno::Errno;

use super::socket::{Family, bind, connect, errno_of, get_int, set_int};

/// Gives an unbound socket a source address and leaves the choice of its port to connect(2)
/// (IP_BIND_ADDRESS_NO_PORT, ip(7)), so that the ephemeral ports of all hosts are not used up by one destination.
///
/// # Errors
/// What bind(2) says.
pub fn bind_source(socket: BorrowedFd<'_>, family: Family, source: Ipv4Addr) -> Result<(), Errno> {
    set_int(socket, libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT, 1)?;
    bind(socket, family.form(SocketAddrV4::new(source, 0)))
}

/// Gives a datagram socket that the kernel bound to the wildcard a source address, and keeps its port: a disconnect takes both from a socket whose
/// program chose neither (net/ipv4/udp.c, __udp_disconnect; its queue stays), and it can be bound anew. Where somebody was quicker to
/// take the port, it gets another.
///
/// # Errors
/// What bind(2) says: EINVAL where the program did choose.
pub fn move_source(socket: BorrowedFd<'_>, family: Family, source: Ipv4Addr, port: u16) -> Result<(), Errno> {
    disconnect(socket)?;
    match bind(socket, family.form(SocketAddrV4::new(source, port))) {
        Err(Errno::EADDRINUSE) => bind(socket, family.form(SocketAddrV4::new(source, 0))),
        result => result,
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
