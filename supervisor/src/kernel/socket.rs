//! Sockets of the application, seen and acted on through a duplicate: socket(7), ip(7), ipv6(7), tcp(7).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::Duration;

pub use super::succession::{Successor, accept_queue, give_back, succeed};
use imsup_wire::{Endpoint, Transport};
use nix::errno::Errno;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::OFlags;
use rustix::net::{AddressFamily, SocketFlags, SocketType};

/// IPPROTO_MPTCP: what recent Go listens with. Falls back to TCP on loopback and has its addresses and options.
pub const IPPROTO_MPTCP: i32 = 262;

/// The address family of a socket, which decides the form of its addresses.
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
    /// Where it is bound; the unspecified address and port 0 where it is not.
    pub local: SocketAddr,
}

impl InetSocket {
    /// What `socket` is; `None` where it is neither TCP nor UDP, or no socket.
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

    /// Whether it has no port yet.
    pub fn is_unbound(&self) -> bool {
        self.local.port() == 0
    }

    /// Its local address as IPv4; `None` for one that is IPv6 proper.
    pub fn local_v4(&self) -> Option<SocketAddrV4> {
        as_v4(self.local)
    }
}

/// An address as IPv4, also where it is v4-mapped; the IPv6 wildcard counts as the IPv4 one.
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
/// ENOTCONN and what else getpeername(2) says.
pub fn peer_address(socket: BorrowedFd<'_>) -> Result<Option<SocketAddr>, Errno> {
    match rustix::net::getpeername(socket) {
        Ok(Some(peer)) => Ok(SocketAddr::try_from(peer).ok()),
        Ok(None) => Ok(None),
        Err(errno) => Err(errno_of(errno)),
    }
}

/// Who sent the datagram that is first in a socket's queue, where one is. It stays there.
pub fn sender(socket: BorrowedFd<'_>) -> Option<SocketAddr> {
    let flags = rustix::net::RecvFlags::PEEK | rustix::net::RecvFlags::DONTWAIT;
    let (_, _, address) = rustix::net::recvfrom(socket, &mut [0; 1][..], flags).ok()?;
    SocketAddr::try_from(address?).ok()
}

/// The same error as nix has it.
pub fn errno_of(errno: rustix::io::Errno) -> Errno {
    Errno::from_raw(errno.raw_os_error())
}

/// socket(2), close-on-exec whatever `kind` says.
///
/// # Errors
/// What socket(2) says.
pub fn make(domain: i32, kind: i32, protocol: i32) -> Result<OwnedFd, Errno> {
    // SAFETY: socket takes three integers.
    let fd = Errno::result(unsafe { libc::socket(domain, kind | libc::SOCK_CLOEXEC, protocol) })?;
    // SAFETY: the kernel has just made this descriptor for us; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// bind(2).
///
/// # Errors
/// What bind(2) says.
pub fn bind(socket: BorrowedFd<'_>, address: SocketAddr) -> Result<(), Errno> {
    rustix::net::bind(socket, &address).map_err(errno_of)
}

/// Binds a socket of our own to an endpoint, for a moment.
///
/// # Errors
/// What socket(2) and bind(2) say; EADDRINUSE where another socket has it.
pub fn probe(endpoint: Endpoint) -> Result<(), Errno> {
    let kind = match endpoint.transport {
        Transport::Tcp => SocketType::STREAM,
        Transport::Udp => SocketType::DGRAM,
    };
    let socket = rustix::net::socket_with(AddressFamily::INET, kind, SocketFlags::CLOEXEC, None).map_err(errno_of)?;
    bind(socket.as_fd(), SocketAddr::V4(endpoint.address))
}

/// listen(2).
///
/// # Errors
/// What listen(2) says.
pub fn listen(socket: BorrowedFd<'_>, backlog: i32) -> Result<(), Errno> {
    rustix::net::listen(socket, backlog).map_err(errno_of)
}

/// Makes a listener listen no more: what waits in it is reset, what comes is refused. It stays bound, and listen(2) opens it again
/// (net/ipv4/af_inet.c, inet_shutdown).
///
/// # Errors
/// What shutdown(2) says, but that it does not listen.
pub fn stop_listening(listener: BorrowedFd<'_>) -> Result<(), Errno> {
    match rustix::net::shutdown(listener, rustix::net::Shutdown::Read).map_err(errno_of) {
        Err(Errno::ENOTCONN) => Ok(()),
        result => result,
    }
}

/// connect(2). Whether it waits is up to the file status flags.
///
/// # Errors
/// What connect(2) says.
pub fn connect(socket: BorrowedFd<'_>, address: SocketAddr) -> Result<(), Errno> {
    rustix::net::connect(socket, &address).map_err(errno_of)
}

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

/// The socket's number for life (SO_COOKIE, 4.12): the same through dup, fork and SCM_RIGHTS, and never used again.
///
/// # Errors
/// ENOPROTOOPT on older kernels.
pub fn cookie(socket: BorrowedFd<'_>) -> Result<u64, Errno> {
    let mut value = [0; 8];
    get(socket, libc::SOL_SOCKET, libc::SO_COOKIE, &mut value)?;
    Ok(u64::from_ne_bytes(value))
}

/// The inode number, as `socket:[N]` in /proc/PID/fd shows it.
///
/// # Errors
/// What fstat(2) says.
pub fn inode(socket: BorrowedFd<'_>) -> Result<u64, Errno> {
    Ok(rustix::fs::fstat(socket).map_err(errno_of)?.st_ino)
}

/// Whether it is a stream socket.
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
/// EINVAL where it is bound.
pub fn clear_v6only(socket: BorrowedFd<'_>) -> Result<(), Errno> {
    set_int(socket, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, 0)
}

/// Sets SO_REUSEPORT.
///
/// # Errors
/// What setsockopt(2) says.
pub fn set_reuseport(socket: BorrowedFd<'_>) -> Result<(), Errno> {
    set_int(socket, libc::SOL_SOCKET, libc::SO_REUSEPORT, 1)
}

/// Whether SO_REUSEPORT is set.
pub fn is_reuseport(socket: BorrowedFd<'_>) -> bool {
    get_int(socket, libc::SOL_SOCKET, libc::SO_REUSEPORT).is_ok_and(|value| value != 0)
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
/// What fcntl(2) says.
pub fn status_flags(socket: BorrowedFd<'_>) -> Result<OFlags, Errno> {
    rustix::fs::fcntl_getfl(socket).map_err(errno_of)
}

/// Sets the file status flags.
///
/// # Errors
/// What fcntl(2) says.
pub fn set_status_flags(socket: BorrowedFd<'_>, flags: OFlags) -> Result<(), Errno> {
    rustix::fs::fcntl_setfl(socket, flags).map_err(errno_of)
}

/// Does something while the socket does not block, and restores that at once. Flags that another thread of the program sets
/// meanwhile are kept, but for O_NONBLOCK itself.
///
/// # Errors
/// What fcntl(2) says.
pub fn without_blocking<T>(socket: BorrowedFd<'_>, act: impl FnOnce() -> T) -> Result<T, Errno> {
    let flags = status_flags(socket)?;
    if flags.contains(OFlags::NONBLOCK) {
        return Ok(act());
    }
    set_status_flags(socket, flags | OFlags::NONBLOCK)?;
    let result = act();
    set_status_flags(socket, status_flags(socket)? - OFlags::NONBLOCK)?;
    Ok(result)
}

/// Whether a stream socket is connected or listens, so that somebody may wait on it.
pub fn is_in_use(socket: BorrowedFd<'_>) -> bool {
    rustix::net::getpeername(socket).is_ok()
        || get_int(socket, libc::SOL_SOCKET, libc::SO_ACCEPTCONN).is_ok_and(|listens| listens != 0)
}

/// Where a connection attempt stands, seen without taking its error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Nothing came back yet.
    Waiting,
    /// It is established.
    Established,
    /// It failed; the error waits to be taken.
    Failed,
}

/// Where the connection attempt on `socket` stands.
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

/// An option that a program may set before bind and that its retained socket must then have.
struct Copied {
    level: i32,
    name: i32,
    bytes: usize,
    /// The kernel returns twice what was set (SO_RCVBUF, SO_SNDBUF; socket(7)).
    doubled: bool,
}

const fn int(level: i32, name: i32) -> Copied {
    Copied {
        level,
        name,
        bytes: 4,
        doubled: false,
    }
}

const fn sized(level: i32, name: i32, bytes: usize, doubled: bool) -> Copied {
    Copied {
        level,
        name,
        bytes,
        doubled,
    }
}

/// Which of the buffers have a size that was set (Linux 5.14; asm-generic/socket.h).
const SO_BUF_LOCK: i32 = 72;

/// What TCP_MAXSEG says where nobody set it, before a connection (TCP_MSS_DEFAULT, include/net/tcp.h).
const DEFAULT_SEGMENT_BYTES: i32 = 536;

const COPIED: &[Copied] = &[
    int(libc::SOL_SOCKET, libc::SO_REUSEADDR),
    int(libc::SOL_SOCKET, libc::SO_REUSEPORT),
    int(libc::SOL_SOCKET, libc::SO_KEEPALIVE),
    int(libc::SOL_SOCKET, libc::SO_OOBINLINE),
    int(libc::SOL_SOCKET, libc::SO_DONTROUTE),
    int(libc::SOL_SOCKET, libc::SO_BROADCAST),
    int(libc::SOL_SOCKET, libc::SO_PRIORITY),
    int(libc::SOL_SOCKET, libc::SO_RCVLOWAT),
    int(libc::SOL_SOCKET, libc::SO_TIMESTAMP),
    sized(libc::SOL_SOCKET, libc::SO_RCVBUF, 4, true),
    sized(libc::SOL_SOCKET, libc::SO_SNDBUF, 4, true),
    // After the sizes, which lock them: those that nobody set are the kernel's to change.
    int(libc::SOL_SOCKET, SO_BUF_LOCK),
    sized(libc::SOL_SOCKET, libc::SO_RCVTIMEO, 16, false),
    sized(libc::SOL_SOCKET, libc::SO_SNDTIMEO, 16, false),
    int(libc::IPPROTO_TCP, libc::TCP_NODELAY),
    int(libc::IPPROTO_TCP, libc::TCP_KEEPIDLE),
    int(libc::IPPROTO_TCP, libc::TCP_KEEPINTVL),
    int(libc::IPPROTO_TCP, libc::TCP_KEEPCNT),
    int(libc::IPPROTO_TCP, libc::TCP_DEFER_ACCEPT),
    int(libc::IPPROTO_TCP, libc::TCP_SYNCNT),
    int(libc::IPPROTO_TCP, libc::TCP_LINGER2),
    int(libc::IPPROTO_TCP, libc::TCP_WINDOW_CLAMP),
    int(libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT),
    int(libc::IPPROTO_TCP, libc::TCP_FASTOPEN),
    int(libc::IPPROTO_TCP, libc::TCP_NOTSENT_LOWAT),
    sized(libc::IPPROTO_TCP, libc::TCP_CONGESTION, 16, false),
    int(libc::IPPROTO_IP, libc::IP_TOS),
    int(libc::IPPROTO_IP, libc::IP_TTL),
    int(libc::IPPROTO_IP, libc::IP_PKTINFO),
    int(libc::IPPROTO_IP, libc::IP_RECVTOS),
    int(libc::IPPROTO_IP, libc::IP_RECVTTL),
    int(libc::IPPROTO_IP, libc::IP_RECVERR),
    int(libc::IPPROTO_IP, libc::IP_MTU_DISCOVER),
    int(libc::IPPROTO_IP, libc::IP_FREEBIND),
    int(libc::IPPROTO_IPV6, libc::IPV6_TCLASS),
    int(libc::IPPROTO_IPV6, libc::IPV6_UNICAST_HOPS),
    int(libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO),
    int(libc::IPPROTO_IPV6, libc::IPV6_RECVTCLASS),
    int(libc::IPPROTO_IPV6, libc::IPV6_RECVERR),
];

/// Gives `to` the options and file status flags that `from` has. Options that one of them does not know (a UDP socket's
/// TCP options, an AF_INET socket's IPv6 options) are passed over, as are those that need a privilege imsup lacks.
///
/// # Errors
/// What fcntl(2) says of the flags.
pub fn copy_settings(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<(), Errno> {
    for option in COPIED {
        let (mut wanted, mut present) = ([0; 16], [0; 16]);
        let (wanted, present) = (&mut wanted[..option.bytes], &mut present[..option.bytes]);
        let known =
            get(from, option.level, option.name, wanted).is_ok() && get(to, option.level, option.name, present).is_ok();
        if !known || wanted == present {
            continue;
        }
        if option.doubled
            && let Ok(bytes) = <[u8; 4]>::try_from(&wanted[..])
        {
            wanted.copy_from_slice(&(i32::from_ne_bytes(bytes) / 2).to_ne_bytes());
        }
        let _ = set(to, option.level, option.name, wanted);
    }
    copy_linger(from, to);
    copy_segment_size(from, to);
    set_status_flags(to, status_flags(from)?)
}

/// SO_LINGER: the time is taken only where it is on, so it is switched on for the moment (net/core/sock.c, sk_setsockopt).
fn copy_linger(from: BorrowedFd<'_>, to: BorrowedFd<'_>) {
    let (mut wanted, mut present) = ([0; 8], [0; 8]);
    let known = [(from, &mut wanted), (to, &mut present)]
        .into_iter()
        .all(|(socket, value)| get(socket, libc::SOL_SOCKET, libc::SO_LINGER, value).is_ok());
    if known && wanted != present {
        let mut on = wanted;
        on[..4].copy_from_slice(&1_i32.to_ne_bytes());
        let _ = set(to, libc::SOL_SOCKET, libc::SO_LINGER, &on);
        let _ = set(to, libc::SOL_SOCKET, libc::SO_LINGER, &wanted);
    }
}

/// TCP_MAXSEG: what was not set reads as the default, and is taken back by 0 (net/ipv4/tcp.c, tcp_sock_set_maxseg).
fn copy_segment_size(from: BorrowedFd<'_>, to: BorrowedFd<'_>) {
    let bytes = |socket| get_int(socket, libc::IPPROTO_TCP, libc::TCP_MAXSEG);
    if let (Ok(wanted), Ok(present)) = (bytes(from), bytes(to))
        && wanted != present
    {
        let value = if wanted == DEFAULT_SEGMENT_BYTES { 0 } else { wanted };
        let _ = set_int(to, libc::IPPROTO_TCP, libc::TCP_MAXSEG, value);
    }
}

/// The owned duplicate of a descriptor of our own, close-on-exec.
///
/// # Errors
/// EMFILE.
pub fn duplicate(socket: &OwnedFd) -> Result<OwnedFd, Errno> {
    rustix::io::fcntl_dupfd_cloexec(socket.as_fd(), 0).map_err(errno_of)
}

/// An address as the kernel lays it out: `struct sockaddr_in` or `struct sockaddr_in6`.
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

/// An IPv4 or IPv6 address from the kernel's layout; `None` for any other family, or where bytes are missing.
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

/// SO_ATTACH_REUSEPORT_CBPF: the filter's result is the number of the socket of the group that takes a connection.
pub(super) fn attach_reuseport_filter(socket: BorrowedFd<'_>, filter: &[libc::sock_filter]) -> Result<(), Errno> {
    let program = libc::sock_fprog {
        len: u16::try_from(filter.len()).map_err(|_| Errno::EINVAL)?,
        filter: filter.as_ptr().cast_mut(),
    };
    let length = size_of::<libc::sock_fprog>() as libc::socklen_t;
    // SAFETY: `program` and the filter it points to outlive the call; the kernel copies both and writes neither.
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
