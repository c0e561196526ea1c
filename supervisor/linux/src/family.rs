//! A listener's connections in another family: accept(2), IPV6_ADDRFORM of ipv6(7).

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType};

use super::socket::{self, errno_of, set_int};

/// Turns an AF_INET6 connection over IPv4 into AF_INET, with its queue (net/ipv6/ipv6_sockglue.c).
///
/// # Errors
/// ENOTCONN unless it is established; EADDRNOTAVAIL if its peer has an IPv6 address.
pub fn become_v4(connection: BorrowedFd<'_>) -> Result<(), Errno> {
    set_int(connection, libc::IPPROTO_IPV6, libc::IPV6_ADDRFORM, libc::AF_INET)
}

/// Accepts a waiting connection of a listener, and returns its peer, without blocking, whatever the
/// listener's flags; the flags are unchanged afterwards.
///
/// # Errors
/// EAGAIN if no connection waits, and the other errors of accept(2).
pub fn accept(listener: BorrowedFd<'_>) -> Result<(OwnedFd, SocketAddr), Errno> {
    if !socket::is_readable(listener) {
        return Err(Errno::EAGAIN);
    }
    let flags = socket::status_flags(listener)?;
    let accept = || rustix::net::acceptfrom_with(listener, SocketFlags::CLOEXEC);
    let (connection, peer) = socket::without_blocking(listener, flags, accept)?.map_err(errno_of)?;
    let peer = peer.and_then(|peer| SocketAddr::try_from(peer).ok());
    Ok((connection, peer.ok_or(Errno::ECONNABORTED)?))
}

/// An address of the machine's that is in none of the planes.
const ASIDE: Ipv4Addr = Ipv4Addr::new(127, 80, 0, 1);

/// Makes the kernel forget that a TCP port may be shared. The kernel's memory of a port
/// (`fastreuseport`) outlives the option of the sockets that set it, and admits others with the
/// option without a check of those sockets. A bind without the option, at any address, resets that
/// (net/ipv4/inet_connection_sock.c, inet_csk_update_fastreuse).
pub fn forget_sharing(port: u16) {
    let flags = SocketFlags::CLOEXEC;
    let aside = rustix::net::socket_with(AddressFamily::INET, SocketType::STREAM, flags, None);
    if let Ok(aside) = aside
        && let Err(errno) = rustix::net::bind(&aside, &SocketAddrV4::new(ASIDE, port))
    {
        tracing::debug!(port, %errno, "a port may still be shared");
    }
}

/// Connects to a listener, to make it readable; returns our end, and its address. A byte is sent,
/// for listeners that wait for a byte (TCP_DEFER_ACCEPT).
///
/// # Errors
/// Errors of socket(2), bind(2) and connect(2), except EINPROGRESS.
pub fn ring(listener: SocketAddrV4) -> Result<(OwnedFd, SocketAddr), Errno> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let bell = rustix::net::socket_with(AddressFamily::INET, SocketType::STREAM, flags, None).map_err(errno_of)?;
    // From the listener's own address: a search for the connecting host takes it for none.
    socket::bind(bell.as_fd(), SocketAddrV4::new(*listener.ip(), 0).into())?;
    match socket::connect(bell.as_fd(), SocketAddr::V4(listener)) {
        Ok(()) | Err(Errno::EINPROGRESS) => {}
        Err(errno) => return Err(errno),
    }
    let _ = rustix::net::send(&bell, &[0], SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
    let address = socket::local_address(bell.as_fd()).ok_or(Errno::EAFNOSUPPORT)?;
    Ok((bell, address))
}
