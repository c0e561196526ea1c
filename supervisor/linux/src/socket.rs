//! Sockets of the application, seen and acted on through a duplicate: socket(7), ip(7), ipv6(7),
//! tcp(7).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::Duration;

use imsup_wire::{Endpoint, Transport};
use nix::errno::Errno;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::OFlags;
use rustix::net::{AddressFamily, SocketFlags, SocketType};

/// IPPROTO_MPTCP: the protocol with which recent Go listens. Falls back to TCP on loopback, with
/// the addresses and options of TCP.
pub const IPPROTO_MPTCP: i32 = 262;

/// asm-generic/socket.h.
const SO_BINDTOIFINDEX: i32 = 62;
const SO_NETNS_COOKIE: i32 = 71;

/// The address family of a socket, which decides the form of the socket's addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// AF_INET.
    V4,
    /// AF_INET6; IPv4 addresses are v4-mapped.
    V6,
}

impl Family {
    /// The unspecified address of this family.
    pub fn wildcard(self) -> IpAddr {
        match self {
            Self::V4 => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            Self::V6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        }
    }

    /// `address` in the form this family uses.
    pub fn form(self, address: SocketAddrV4) -> SocketAddr {
        match self {
            Self::V4 => SocketAddr::V4(address),
            Self::V6 => SocketAddr::new(IpAddr::V6(address.ip().to_ipv6_mapped()), address.port()),
        }
    }
}

/// A TCP or UDP socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InetSocket {
    /// Its family.
    pub family: Family,
    /// Its transport.
    pub transport: Transport,
    /// The local address; if unbound, the unspecified address and port 0.
    pub local: SocketAddr,
}

impl InetSocket {
    /// The properties of `socket`; `None` unless this is a TCP or UDP socket.
    pub fn inspect(socket: BorrowedFd<'_>) -> Option<Self> {
        let local = local_address(socket)?;
        let family = match local {
            SocketAddr::V4(_) => Family::V4,
            SocketAddr::V6(_) => Family::V6,
        };
        let transport = match get_int(socket, libc::SOL_SOCKET, libc::SO_PROTOCOL).ok()? {
            libc::IPPROTO_TCP | IPPROTO_MPTCP => Transport::Tcp,
            libc::IPPROTO_UDP => Transport::Udp,
            _ => return None,
        };
        Some(Self {
            family,
            transport,
            local,
        })
    }

    /// True if the socket has no port yet.
    pub fn is_unbound(&self) -> bool {
        self.local.port() == 0
    }

    /// The local address as IPv4; `None` for an address that only IPv6 has.
    pub fn local_v4(&self) -> Option<SocketAddrV4> {
        as_v4(self.local)
    }
}

/// An address as IPv4, also if v4-mapped; the IPv6 wildcard counts as the IPv4 wildcard.
pub fn as_v4(address: SocketAddr) -> Option<SocketAddrV4> {
    match address {
        SocketAddr::V4(v4) => Some(v4),
        SocketAddr::V6(v6) if v6.ip().is_unspecified() => Some(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, v6.port())),
        SocketAddr::V6(v6) => v6.ip().to_ipv4_mapped().map(|ip| SocketAddrV4::new(ip, v6.port())),
    }
}

/// The local address of an IPv4 or IPv6 socket.
pub fn local_address(socket: BorrowedFd<'_>) -> Option<SocketAddr> {
    SocketAddr::try_from(rustix::net::getsockname(socket).ok()?).ok()
}

/// The peer of a connected socket.
///
/// # Errors
/// ENOTCONN and other errors of getpeername(2).
pub fn peer_address(socket: BorrowedFd<'_>) -> Result<Option<SocketAddr>, Errno> {
    match rustix::net::getpeername(socket) {
        Ok(Some(peer)) => Ok(SocketAddr::try_from(peer).ok()),
        Ok(None) => Ok(None),
        Err(errno) => Err(errno_of(errno)),
    }
}

/// The sender of the first datagram in a socket's queue, if there is a datagram. The datagram stays
/// in the queue.
pub fn sender(socket: BorrowedFd<'_>) -> Option<SocketAddr> {
    let flags = rustix::net::RecvFlags::PEEK | rustix::net::RecvFlags::DONTWAIT;
    let (_, _, address) = rustix::net::recvfrom(socket, &mut [0; 1][..], flags).ok()?;
    SocketAddr::try_from(address?).ok()
}

/// The same error as the type of nix.
pub fn errno_of(errno: rustix::io::Errno) -> Errno {
    Errno::from_raw(errno.raw_os_error())
}

/// socket(2), close-on-exec regardless of `kind`.
///
/// # Errors
/// Errors of socket(2).
pub fn make(domain: i32, kind: i32, protocol: i32) -> Result<OwnedFd, Errno> {
    // SAFETY: socket takes three integers.
    let fd = Errno::result(unsafe { libc::socket(domain, kind | libc::SOCK_CLOEXEC, protocol) })?;
    // SAFETY: the kernel has just made this descriptor for us; it has no other owner.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// bind(2).
///
/// # Errors
/// Errors of bind(2).
pub fn bind(socket: BorrowedFd<'_>, address: SocketAddr) -> Result<(), Errno> {
    rustix::net::bind(socket, &address).map_err(errno_of)
}

/// Binds a socket of our own to an endpoint, for a moment.
///
/// # Errors
/// Errors of socket(2) and bind(2); EADDRINUSE if another socket has the endpoint.
pub fn probe(endpoint: Endpoint) -> Result<(), Errno> {
    let kind = match endpoint.transport {
        Transport::Tcp => SocketType::STREAM,
        Transport::Udp => SocketType::DGRAM,
    };
    let socket = rustix::net::socket_with(AddressFamily::INET, kind, SocketFlags::CLOEXEC, None).map_err(errno_of)?;
    if endpoint.transport == Transport::Tcp {
        // Earlier connections, and connections in TIME_WAIT, do not count.
        set_int(socket.as_fd(), libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)?;
    }
    bind(socket.as_fd(), SocketAddr::V4(endpoint.address))
}

/// Whether a socket is in the way of another at an endpoint.
pub fn is_endpoint_in_use(at: Endpoint) -> bool {
    probe(at) == Err(Errno::EADDRINUSE)
}

/// An endpoint that is in use exactly if a socket at the machine's wildcard has this port: an
/// address of the machine at which no host has a socket.
pub fn at_machine_wildcard(at: Endpoint) -> Endpoint {
    const NO_HOSTS: Ipv4Addr = Ipv4Addr::new(127, 255, 255, 254);
    Endpoint {
        address: SocketAddrV4::new(NO_HOSTS, at.address.port()),
        ..at
    }
}

/// Binds a stream socket of our own, with the options of `like` by which sockets share a port, for
/// a moment.
///
/// # Errors
/// Errors of socket(2) and bind(2); EADDRINUSE if the two sockets may not share the port.
pub fn probe_like(like: BorrowedFd<'_>, address: SocketAddr) -> Result<(), Errno> {
    let family = if address.is_ipv4() {
        libc::AF_INET
    } else {
        libc::AF_INET6
    };
    let probe = make(family, libc::SOCK_STREAM, 0)?;
    for option in [Sharing::Address, Sharing::Port] {
        option.set(probe.as_fd(), option.is_set(like))?;
    }
    bind(probe.as_fd(), address)
}

/// The user who made a socket, if different from our own user.
pub fn other_owner(socket: BorrowedFd<'_>) -> Option<u32> {
    let owner = rustix::fs::fstat(socket).ok()?.st_uid;
    (owner != rustix::process::geteuid().as_raw()).then_some(owner)
}

/// listen(2).
///
/// # Errors
/// Errors of listen(2).
pub fn listen(socket: BorrowedFd<'_>, backlog: i32) -> Result<(), Errno> {
    rustix::net::listen(socket, backlog).map_err(errno_of)
}

/// Makes a listener stop listening: waiting connections are reset, new connections are refused. The
/// socket stays bound, and listen(2) opens it again (net/ipv4/af_inet.c, inet_shutdown).
///
/// # Errors
/// Errors of shutdown(2), except ENOTCONN, for a socket that does not listen.
pub fn stop_listening(listener: BorrowedFd<'_>) -> Result<(), Errno> {
    match rustix::net::shutdown(listener, rustix::net::Shutdown::Read).map_err(errno_of) {
        Err(Errno::ENOTCONN) => Ok(()),
        result => result,
    }
}

/// connect(2), which waits or not according to the file status flags.
///
/// # Errors
/// Errors of connect(2).
pub fn connect(socket: BorrowedFd<'_>, address: SocketAddr) -> Result<(), Errno> {
    rustix::net::connect(socket, &address).map_err(errno_of)
}

/// The socket's number for life (SO_COOKIE, 4.12): the same through dup, fork and SCM_RIGHTS, and
/// never used again.
///
/// # Errors
/// ENOPROTOOPT on older kernels.
pub fn cookie(socket: BorrowedFd<'_>) -> Result<u64, Errno> {
    let mut value = [0; 8];
    get(socket, libc::SOL_SOCKET, libc::SO_COOKIE, &mut value)?;
    Ok(u64::from_ne_bytes(value))
}

/// The index of the interface that the socket is bound to, or 0; readable since Linux 5.1
/// (SO_BINDTOIFINDEX).
pub fn interface(socket: BorrowedFd<'_>) -> u32 {
    const SO_BINDTOIFINDEX: i32 = 62;
    let mut value = [0; 4];
    match get(socket, libc::SOL_SOCKET, SO_BINDTOIFINDEX, &mut value) {
        Ok(_) => u32::from_ne_bytes(value),
        Err(_) => 0,
    }
}

/// The inode number, as in `socket:[N]` in /proc/PID/fd.
///
/// # Errors
/// Errors of fstat(2).
pub fn inode(socket: BorrowedFd<'_>) -> Result<u64, Errno> {
    Ok(rustix::fs::fstat(socket).map_err(errno_of)?.st_ino)
}

/// True for a stream socket.
pub fn is_stream(socket: BorrowedFd<'_>) -> bool {
    get_int(socket, libc::SOL_SOCKET, libc::SO_TYPE) == Ok(libc::SOCK_STREAM)
}

/// Whether an AF_INET6 socket is IPv6 only.
pub fn is_v6only(socket: BorrowedFd<'_>) -> bool {
    get_int(socket, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY).is_ok_and(|value| value != 0)
}

/// Makes an unbound AF_INET6 socket take v4-mapped addresses.
///
/// # Errors
/// EINVAL if the socket is bound.
pub fn clear_v6only(socket: BorrowedFd<'_>) -> Result<(), Errno> {
    set_int(socket, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, 0)
}

/// Makes an unbound AF_INET6 socket take IPv6 addresses only.
///
/// # Errors
/// EINVAL if the socket is bound.
pub fn set_v6only(socket: BorrowedFd<'_>) -> Result<(), Errno> {
    set_int(socket, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, 1)
}

/// The network namespace that the socket is of, by a number that no other has (SO_NETNS_COOKIE,
/// 5.14).
///
/// # Errors
/// ENOPROTOOPT on older kernels.
pub fn namespace(socket: BorrowedFd<'_>) -> Result<u64, Errno> {
    let mut value = [0; 8];
    get(socket, libc::SOL_SOCKET, SO_NETNS_COOKIE, &mut value)?;
    Ok(u64::from_ne_bytes(value))
}

/// True if the socket is bound to an interface (SO_BINDTODEVICE).
pub fn is_bound_to_device(socket: BorrowedFd<'_>) -> bool {
    get_int(socket, libc::SOL_SOCKET, SO_BINDTOIFINDEX).is_ok_and(|index| index != 0)
}

/// True if data, a connection, or an error waits in the socket.
pub fn is_readable(socket: BorrowedFd<'_>) -> bool {
    let mut polled = [PollFd::from_borrowed_fd(socket, PollFlags::IN)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    rustix::event::poll(&mut polled, Some(&now)).is_ok_and(|count| count > 0)
}

/// True if a bound socket lets other sockets listen, or receive datagrams, at the same address:
/// SO_REUSEPORT, and for datagram sockets also SO_REUSEADDR (socket(7)).
pub fn may_share(socket: BorrowedFd<'_>, transport: Transport) -> bool {
    let is_set = |name| get_int(socket, libc::SOL_SOCKET, name).is_ok_and(|value| value != 0);
    is_set(libc::SO_REUSEPORT) || (transport == Transport::Udp && is_set(libc::SO_REUSEADDR))
}

/// Takes the error that the next call would return (SO_ERROR), and clears the error in the socket.
///
/// # Errors
/// ENOTSOCK.
pub fn take_error(socket: BorrowedFd<'_>) -> Result<i32, Errno> {
    get_int(socket, libc::SOL_SOCKET, libc::SO_ERROR)
}

/// An option by which sockets share an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sharing {
    /// SO_REUSEADDR.
    Address,
    /// SO_REUSEPORT.
    Port,
}

impl Sharing {
    fn option(self) -> i32 {
        match self {
            Self::Address => libc::SO_REUSEADDR,
            Self::Port => libc::SO_REUSEPORT,
        }
    }

    /// Whether the socket does.
    pub fn is_set(self, socket: BorrowedFd<'_>) -> bool {
        get_int(socket, libc::SOL_SOCKET, self.option()).is_ok_and(|value| value != 0)
    }

    /// Sets or clears the option.
    ///
    /// # Errors
    /// Errors of setsockopt(2).
    pub fn set(self, socket: BorrowedFd<'_>, on: bool) -> Result<(), Errno> {
        set_int(socket, libc::SOL_SOCKET, self.option(), on.into())
    }
}

/// How long a blocking send or connect may take (SO_SNDTIMEO); `None` for ever.
///
/// # Errors
/// ENOTSOCK.
pub fn send_timeout(socket: BorrowedFd<'_>) -> Result<Option<Duration>, Errno> {
    timeout(socket, libc::SO_SNDTIMEO)
}

/// How long a blocking receive or accept may take (SO_RCVTIMEO); `None` for ever.
///
/// # Errors
/// ENOTSOCK.
pub fn receive_timeout(socket: BorrowedFd<'_>) -> Result<Option<Duration>, Errno> {
    timeout(socket, libc::SO_RCVTIMEO)
}

fn timeout(socket: BorrowedFd<'_>, name: i32) -> Result<Option<Duration>, Errno> {
    let mut timeval = [[0; 8]; 2];
    get(socket, libc::SOL_SOCKET, name, timeval.as_flattened_mut())?;
    let [seconds, micros] = timeval.map(u64::from_ne_bytes);
    let timeout = Duration::from_secs(seconds) + Duration::from_micros(micros);
    Ok((!timeout.is_zero()).then_some(timeout))
}

/// The file status flags.
///
/// # Errors
/// Errors of fcntl(2).
pub fn status_flags(socket: BorrowedFd<'_>) -> Result<OFlags, Errno> {
    rustix::fs::fcntl_getfl(socket).map_err(errno_of)
}

/// Sets the file status flags.
///
/// # Errors
/// Errors of fcntl(2).
pub fn set_status_flags(socket: BorrowedFd<'_>, flags: OFlags) -> Result<(), Errno> {
    rustix::fs::fcntl_setfl(socket, flags).map_err(errno_of)
}

/// Does something while the socket, which has these flags, does not block, and restores that at
/// once. Flags that another thread of the program sets meanwhile are kept, but for O_NONBLOCK
/// itself.
///
/// # Errors
/// Errors of fcntl(2).
pub fn without_blocking<T>(socket: BorrowedFd<'_>, flags: OFlags, act: impl FnOnce() -> T) -> Result<T, Errno> {
    if flags.contains(OFlags::NONBLOCK) {
        return Ok(act());
    }
    set_status_flags(socket, flags | OFlags::NONBLOCK)?;
    let result = act();
    set_status_flags(socket, status_flags(socket)? - OFlags::NONBLOCK)?;
    Ok(result)
}

/// True if a stream socket is connected or listens, so that a thread may wait on the socket.
pub fn is_in_use(socket: BorrowedFd<'_>) -> bool {
    rustix::net::getpeername(socket).is_ok()
        || get_int(socket, libc::SOL_SOCKET, libc::SO_ACCEPTCONN).is_ok_and(|listens| listens != 0)
}

/// Whether a socket listens.
pub fn accepts(socket: BorrowedFd<'_>) -> bool {
    get_int(socket, libc::SOL_SOCKET, libc::SO_ACCEPTCONN).is_ok_and(|listens| listens != 0)
}

/// The progress of a connection attempt, read without taking the error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// No reply so far.
    Waiting,
    /// The connection is established.
    Established,
    /// The attempt failed; the error has not been taken yet.
    Failed,
}

/// The progress of the connection attempt on `socket`.
pub fn progress(socket: BorrowedFd<'_>) -> Progress {
    let mut polled = [PollFd::from_borrowed_fd(socket, PollFlags::OUT)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    if rustix::event::poll(&mut polled, Some(&now)).is_err() {
        return Progress::Waiting;
    }
    let events = polled[0].revents();
    if events.intersects(PollFlags::ERR | PollFlags::HUP) {
        Progress::Failed
    } else if events.contains(PollFlags::OUT) {
        Progress::Established
    } else {
        Progress::Waiting
    }
}

/// The owned duplicate of a descriptor of our own, close-on-exec.
///
/// # Errors
/// EMFILE.
pub fn duplicate(socket: &OwnedFd) -> Result<OwnedFd, Errno> {
    rustix::io::fcntl_dupfd_cloexec(socket.as_fd(), 0).map_err(errno_of)
}

/// An address in the kernel's layout: `struct sockaddr_in` or `struct sockaddr_in6`.
pub fn encode_address(address: SocketAddr) -> Vec<u8> {
    let family = |family: i32| u16::try_from(family).unwrap_or(0).to_ne_bytes();
    let mut bytes = Vec::with_capacity(28);
    match address {
        SocketAddr::V4(v4) => {
            bytes.extend(family(libc::AF_INET));
            bytes.extend(v4.port().to_be_bytes());
            bytes.extend(v4.ip().octets());
            bytes.extend([0; 8]);
        }
        SocketAddr::V6(v6) => {
            bytes.extend(family(libc::AF_INET6));
            bytes.extend(v6.port().to_be_bytes());
            bytes.extend(v6.flowinfo().to_ne_bytes());
            bytes.extend(v6.ip().octets());
            bytes.extend(v6.scope_id().to_ne_bytes());
        }
    }
    bytes
}

/// An IPv4 or IPv6 address from the kernel's layout; `None` for any other family, or if bytes are
/// missing.
pub fn decode_address(bytes: &[u8]) -> Option<SocketAddr> {
    let family = i32::from(u16::from_ne_bytes(*bytes.first_chunk()?));
    let port = u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?);
    match family {
        libc::AF_INET if bytes.len() >= 16 => {
            let ip: [u8; 4] = bytes.get(4..8)?.try_into().ok()?;
            Some(SocketAddr::new(IpAddr::V4(Ipv4Addr::from(ip)), port))
        }
        // The scope id may be missing (SIN6_LEN_RFC2133, net/ipv6/af_inet6.c).
        libc::AF_INET6 if bytes.len() >= 24 => {
            let ip: [u8; 16] = bytes.get(8..24)?.try_into().ok()?;
            Some(SocketAddr::new(IpAddr::V6(Ipv6Addr::from(ip)), port))
        }
        _ => None,
    }
}

pub(super) fn get_int(socket: BorrowedFd<'_>, level: i32, name: i32) -> Result<i32, Errno> {
    let mut value = [0; 4];
    get(socket, level, name, &mut value)?;
    Ok(i32::from_ne_bytes(value))
}

pub(super) fn set_int(socket: BorrowedFd<'_>, level: i32, name: i32, value: i32) -> Result<(), Errno> {
    set(socket, level, name, &value.to_ne_bytes())
}

pub(super) fn get(socket: BorrowedFd<'_>, level: i32, name: i32, value: &mut [u8]) -> Result<(), Errno> {
    let mut length = libc::socklen_t::try_from(value.len()).map_err(|_| Errno::EINVAL)?;
    // SAFETY: `value` has `length` writable bytes and both outlive the call.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            level,
            name,
            value.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    Errno::result(result).map(drop)
}

pub(super) fn set(socket: BorrowedFd<'_>, level: i32, name: i32, value: &[u8]) -> Result<(), Errno> {
    let length = libc::socklen_t::try_from(value.len()).map_err(|_| Errno::EINVAL)?;
    // SAFETY: `value` has `length` readable bytes and outlives the call.
    let result = unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, value.as_ptr().cast(), length) };
    Errno::result(result).map(drop)
}

/// SO_ATTACH_REUSEPORT_CBPF: the filter's result is the number of the socket of the group that
/// takes a connection.
pub(super) fn attach_reuseport_filter(socket: BorrowedFd<'_>, filter: &[libc::sock_filter]) -> Result<(), Errno> {
    let program = libc::sock_fprog {
        len: u16::try_from(filter.len()).map_err(|_| Errno::EINVAL)?,
        filter: filter.as_ptr().cast_mut(),
    };
    let length = size_of::<libc::sock_fprog>() as libc::socklen_t;
    // SAFETY: `program` and the filter behind its pointer outlive the call; the kernel copies both
    // and writes neither.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_REUSEPORT_CBPF,
            (&raw const program).cast(),
            length,
        )
    };
    Errno::result(result).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_survive_the_kernels_layout() {
        for text in ["127.77.1.2:80", "[::1]:443", "[::ffff:127.77.1.2]:8080"] {
            let address: SocketAddr = text.parse().unwrap();
            assert_eq!(decode_address(&encode_address(address)), Some(address));
        }
        assert_eq!(
            decode_address(&[2, 0, 0, 80, 127, 0, 0]),
            None,
            "a short sockaddr is none"
        );
        assert_eq!(decode_address(&[]), None);
    }
}
